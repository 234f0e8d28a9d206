"""report.json: its schema, its types, what JSON cannot say, and documents that are no report."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgedl.errors import OutputError, UsageError
from edgedl.report import clean, parse, write_json  # fmt: skip
from edgedl.report import document as shape

Schema = Callable[[str], dict[str, Any]]


def test_every_sample_is_valid(document: dict[str, Any], schema: Schema) -> None:
    validator = Draft202012Validator(schema("report"))
    assert [e.message for e in validator.iter_errors(clean(document))] == []


@pytest.mark.parametrize("key", ["artifacts", "model", "recipe", "comparisons"])
def test_the_schema_asks_for_what_scripts_lean_on(key: str, sample: Any, schema: Schema) -> None:
    document = sample.ordinary()
    del document[key]
    assert list(Draft202012Validator(schema("report")).iter_errors(document))


@pytest.mark.parametrize("key", ["path", "format", "scheme", "bytes", "metrics", "original_metrics", "agreement"])
def test_an_artifact_has_what_the_interface_promises(key: str, schema: Schema) -> None:
    assert key in schema("report")["$defs"]["entry"]["required"]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (shape.Document, ()), (shape.ModelInfo, ("properties", "model")), (shape.DataInfo, ("properties", "data")),
        (shape.Original, ("properties", "original")), (shape.Entry, ("$defs", "entry")),
        (shape.Latency, ("$defs", "latency")), (shape.Agreement, ("$defs", "agreement")), (shape.Layer, ("$defs", "layer")),
        (shape.FloatLayer, ("$defs", "float_layer")), (shape.ClassChange, ("$defs", "class_change")),
        (shape.Check, ("$defs", "check")), (shape.Attempt, ("$defs", "attempt")), (shape.Comparison, ("$defs", "comparison")),
        (shape.Step, ("properties", "steps", "items")), (shape.Failure, ("properties", "failures", "items")),
        (shape.Verification, ("$defs", "entry", "properties", "verification")),
    ],
)  # fmt: skip
def test_types_and_schema_say_the_same(kind: Any, place: tuple[str, ...], schema: Schema) -> None:
    found = schema("report")
    for key in place:
        found = found[key]
    hints = typing.get_type_hints(kind, include_extras=True)
    required = {k for k, v in hints.items() if kind.__total__ and typing.get_origin(v) is not NotRequired}
    assert set(found["properties"]) == set(hints)
    assert set(found["required"]) == required


def test_what_is_written_is_standard_json_and_reads_back(document: dict[str, Any], tmp_path: Path) -> None:
    write_json(document, tmp_path / "report.json")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = (tmp_path / "report.json").read_text("utf-8")
    assert json.loads(text, parse_constant=refuse) == clean(document)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_samples_take_one_line(sample: Any, tmp_path: Path) -> None:
    write_json(sample.ordinary(), tmp_path / "report.json")
    lines = (tmp_path / "report.json").read_text().splitlines()
    assert sum('"samples": [' in line for line in lines) == 4
    assert len(lines) < 700


def test_infinite_figures_are_said_in_json() -> None:
    found = clean(
        {
            "sqnr_db": math.inf,
            "metrics": {"out:psnr": math.inf, "mse": math.inf},
            "layers": [{"sqnr_db": -math.inf}, {"sqnr_db": math.nan}],
        }
    )
    assert found == {"sqnr_db": 999.0, "metrics": {"out:psnr": 999.0, "mse": None}, "layers": [{"sqnr_db": -999.0}, {"sqnr_db": None}]}  # fmt: skip


def test_a_file_name_that_is_not_unicode_survives(sample: Any, tmp_path: Path) -> None:
    document = sample.ordinary()
    document["model"]["path"] = b"m\xffdel.h5".decode("utf-8", "surrogateescape")
    write_json(document, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["model"]["path"] == document["model"]["path"]


def test_a_folder_that_is_not_there(sample: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_json(sample.ordinary(), tmp_path / "nowhere" / "report.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(JSON)
def test_any_value_is_written_as_it_is(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "any.json"
    write_json({"value": value}, path)
    assert json.loads(path.read_text("utf-8")) == clean({"value": value})


@settings(max_examples=80, deadline=None)
@given(JSON)
def test_what_is_no_report_is_named_not_a_traceback(value: Any) -> None:
    with pytest.raises(UsageError, match="not a report"):
        parse(value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("artifacts", 0, "bytes"), "big", r"artifacts\[0\]: bytes is 'big', not of type int"),
        (("artifacts", 0, "latency_us", "cpu", "p50"), None, r"p50 is 'None', not of type float"),
        (("model",), [], "model is .*not an object"),
        (("steps", 0, "reused"), 1, "reused is '1', not of type bool"),
        (("data", "validation_samples"), True, "validation_samples"),
    ],
)
def test_the_wrong_place_is_named(sample: Any, place: tuple[Any, ...], value: Any, message: str) -> None:
    document = at = sample.ordinary()
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(UsageError, match=message):
        parse(document)


def test_bench_output_is_valid(schema: Schema, sample: Any) -> None:
    import random

    validator = Draft202012Validator(schema("bench"))
    one = {"artifact": "a.tflite", "target": "cpu", "latency_us": sample.latency(random.Random(0), 10.0),
           "memory": {"peak_bytes": None}, "metrics": {"accuracy": 0.9}, "environment": {}}  # fmt: skip
    assert validator.is_valid([one])
    for key in one:
        assert not validator.is_valid([{k: v for k, v in one.items() if k != key}]), key
