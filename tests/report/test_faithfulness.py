"""The section on faithfulness: its line in the terminal, its table and drawings, its types and schema, hostile content."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable
from typing import Any, NotRequired
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator

from edgedl.report import clean, render_terminal
from edgedl.report import document as shape
from edgedl.report.faithfulness import diagram, faithfulness_line, families, section
from edgedl.report.html import render_html

Schema = Callable[[str], dict[str, Any]]


def figures(name: str = "noise", **more: Any) -> dict[str, Any]:
    """What a run of a classifier with labels says."""
    rows = [
        {"kind": name, "strength": s, "amount": 0.02 * s, "unit": "of the range", "before": 0.8 - s / 10, "after": 0.7 - s / 10,
         "agrees": 0.9, "confidence": [0.8, 0.75]}
        for s in (1, 2, 3)
    ]  # fmt: skip
    return {
        "unit": "prediction", "labelled": True, "not_measured": {}, "measure": "accuracy", "samples": 200, "clean": [0.85, 0.84],
        "corrupted": rows, "decisions": 1000, "flipped": 0.035, "lost": 0.02, "gained": 0.01, "confidence": [0.9, 0.88],
        "ece": [0.0431, 0.0577], "reliability": [[[0.5, 0.4, 20], [0.97, 0.95, 180]], [[0.5, 0.6, 30], [1.0, 0.9, 170]]],
        "per_class": [{"label": "cat", "original": 0.8, "now": 0.76, "count": 100}],
        "fgsm": {"epsilon": {"image": 0.95}, "share": 0.015, "before": 0.25, "after": 0.22, "confidence": [0.9, 0.9]}, **more,
    }  # fmt: skip


def values() -> dict[str, Any]:
    """What a run of a network that puts out values says."""
    why = "the outputs are values, not classes"
    return {
        "unit": "value", "labelled": False, "measure": "fidelity", "samples": 32, "clean": [1.0, 0.99], "corrupted": [],
        "not_measured": {"flipped": why, "calibration": why, "corrupted": "it takes integers", "fgsm": "needs the network's gradients"},
    }  # fmt: skip


@pytest.fixture
def document(sample: Any) -> dict[str, Any]:
    """The ordinary document with figures in its first artifact, none in the second."""
    found = sample.ordinary()
    found["artifacts"][0] |= {"faithfulness": figures(), "class_drop": {"label": "cat", "drop": 0.04, "count": 100}}
    found["artifacts"][1] |= {"faithfulness": None, "class_drop": None}
    return dict(found)


def test_the_line_has_every_figure(document: dict[str, Any]) -> None:
    line = faithfulness_line(document["artifacts"][0])
    assert line == (
        "3.5 % of the predictions flipped (2.0 % to wrong, 1.0 % to right); worst class cat −4.0 points (of 100); "
        "ECE 0.0431 → 0.0577; on corrupted inputs accuracy 0.600 → 0.500; under FGSM accuracy 0.250 → 0.220"
    )
    assert faithfulness_line(document["artifacts"][1]) == ""
    assert faithfulness_line({**document["artifacts"][0], "faithfulness": values(), "class_drop": None}) == ""
    kept = document["artifacts"][0] | {"class_drop": {"label": "dog", "drop": -0.1, "count": 3}}
    assert "no class lost" in faithfulness_line(kept)


def test_the_terminal_shows_it(document: dict[str, Any]) -> None:
    text = " ".join(render_terminal(document, width=100, color=False).split())
    assert "resnet8_int8.tflite: 3.5 % of the predictions flipped" in text
    assert "under FGSM accuracy 0.250 → 0.220" in text


def test_the_page_shows_it_once_for_each_that_has_it(document: dict[str, Any]) -> None:
    page = render_html(document)
    assert page.count("Faithful beyond the metric") == 1
    for text in (
        "Calibration error (ECE)",
        "0.0577",
        "noise 3 (6 % of the range)",
        "90.0 % alike",
        "image ± 0.950",
        "−4.0 points",
    ):
        assert text in page, text


def test_what_was_not_measured_is_told(document: dict[str, Any]) -> None:
    document["artifacts"][0]["faithfulness"] = values()
    page = render_html(document)
    assert "Fgsm: not measured: needs the network&#39;s gradients." in page
    assert "Calibration: not measured: the outputs are values, not classes." in page


def test_drawings_are_whole_and_drawn_to_scale() -> None:
    for svg in (*families(figures()), diagram(figures()["reliability"][0], "original")):
        ElementTree.fromstring(str(svg))
    drawn = str(diagram([[0.97, 0.5, 10]], "x"))
    bar = re.search(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" class="error"', drawn)
    frame = re.search(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" class="hover"', drawn)
    assert bar
    assert frame
    assert float(bar[4]) == pytest.approx(float(frame[4]) / 2, abs=0.01)
    assert float(bar[2]) == pytest.approx(float(frame[2]) + float(frame[4]) / 2, abs=0.01)


@pytest.mark.parametrize("value", [None, 0.0, -3.0, 1e9])
def test_extreme_measures_are_drawn(value: float | None) -> None:
    found = figures(clean=[value, value])
    for row in found["corrupted"]:
        row |= {"before": value, "after": value, "agrees": None, "confidence": None}
    for svg in families(found):
        ElementTree.fromstring(str(svg))
    assert section({"faithfulness": found})  # type: ignore[typeddict-item]


def test_hostile_names_stay_text(document: dict[str, Any], sample: Any) -> None:
    found = figures(sample.HOSTILE)
    found["per_class"][0]["label"] = found["unit"] = found["measure"] = sample.HOSTILE
    found["fgsm"]["epsilon"] = {sample.HOSTILE: 1.0}
    found["not_measured"] = {sample.HOSTILE: sample.HOSTILE}
    document["artifacts"][0] |= {
        "faithfulness": found,
        "class_drop": {"label": sample.HOSTILE, "drop": 0.1, "count": 1},
    }
    page = render_html(document)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    text = render_terminal(document, width=80, color=False)
    assert not any(c in text for c in "\x1b\x00\u202e")


def test_it_is_as_the_schema_says(document: dict[str, Any], schema: Schema) -> None:
    validator = Draft202012Validator(schema("report"))
    for found in (figures(), values(), None):
        document["artifacts"][0]["faithfulness"] = found
        assert [e.message for e in validator.iter_errors(clean(document))] == []
    document["artifacts"][0]["faithfulness"] = figures(flipped=2.0)
    assert list(validator.iter_errors(document))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(shape.Faithfulness, "faithfulness"), (shape.Corrupted, "corrupted"), (shape.Attack, "attack"), (shape.ClassDrop, "class_drop")],
)  # fmt: skip
def test_types_and_schema_say_the_same(kind: Any, name: str, schema: Schema) -> None:
    found = schema("report")["$defs"][name]
    hints = typing.get_type_hints(kind, include_extras=True)
    assert set(found["properties"]) == set(hints)
    assert set(found["required"]) == {k for k, v in hints.items() if typing.get_origin(v) is not NotRequired}


def test_a_report_without_it_is_shown_as_before(sample: Any) -> None:
    document = sample.ordinary()
    assert "Faithful beyond" not in render_html(document)
    json.dumps(clean(document))
