"""The quantize stage: a plan is decided, nothing is done, and what cannot work is refused with the remedy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.errors import UsageError
from edgedl.model import SCHEMES, GraphFile, Model, QuantizationPlan
from edgedl.stages.quantize import Quantize

SPEC = (TensorSpec("x", (None, 4), "float32"),)
FILE = Model(GraphFile(Path("m.tflite"), "tflite"), SPEC, SPEC)
SPLIT = Split({"x": np.zeros((1, 4), np.float32)})
DATA = Dataset(SPLIT, SPLIT)


@pytest.fixture(scope="module")
def nested() -> Model:
    pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")
    from edgedl.frameworks import keras

    layers = keras().layers
    inner = keras().Sequential([keras().Input((4,)), layers.Dense(4, name="stem")], name="backbone")
    node = keras().Input((4,), name="x")
    return Model(keras().Model(node, layers.Dense(2, name="head")(inner(node))), SPEC, SPEC)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_plan_is_what_was_asked_for(scheme: Any) -> None:
    stage = Quantize(scheme, calibration="mse", percentile=99.0, samples=7, overrides={"conv*": "fp16"})
    model = stage(FILE, DATA)
    assert model.plan == QuantizationPlan(scheme, "mse", 99.0, 7, overrides={"conv*": "fp16"})
    assert model.history == (f"quantize to {scheme}",)
    assert FILE.plan is None


def test_fields_are_those_of_the_plan() -> None:
    plan = {f.name: f.type for f in dataclasses.fields(QuantizationPlan)}
    stage = {f.name: f.type for f in dataclasses.fields(Quantize)}
    assert stage == {k: v for k, v in plan.items() if k != "ranges"}
    assert Quantize()(FILE, DATA).plan == QuantizationPlan()


def test_ranges_that_were_decided_before_stay() -> None:
    trained = dataclasses.replace(FILE, plan=QuantizationPlan(ranges={"conv": (0.0, 6.0)}))
    plan = Quantize("int16x8")(trained, DATA).plan
    assert plan is not None
    assert plan.ranges == {"conv": (0.0, 6.0)}


@pytest.mark.parametrize(
    ("options", "text", "remedy"),
    [
        ({"scheme": "int9"}, "there is no scheme 'int9': did you mean 'int8'", "choose one of float32"),
        ({"calibration": "max"}, "there is no calibration 'max'", "minmax, percentile, mse"),
        ({"io": "uint16"}, "there is no io 'uint16'", "choose one of"),
        ({"overrides": {"conv": "int80"}}, r"there is no scheme \(of the override 'conv'\) 'int80'", "choose one of"),
        ({"samples": 0}, "samples is 0", "samples = 200"),
        ({"percentile": 50.0}, "percentile is 50", "99.99"),
        ({"percentile": 100.1}, "percentile is 100.1", "99.99"),
        ({"scheme": "dynamic", "io": "int8"}, "int8 inputs and outputs do not go with .* dynamic", "int16x8 or int8"),
        ({"scheme": "int16x8", "io": "uint8"}, "uint8 inputs and outputs do not go with .* int16x8", "--quantize int8"),
        ({"scheme": "int8", "io": "int16"}, "int16 inputs and outputs do not go with .* int8", "--quantize int16x8"),
    ],
)
def test_what_cannot_work(options: dict[str, Any], text: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        Quantize(**options)(FILE, DATA)
    assert remedy in caught.value.next


@pytest.mark.parametrize(
    ("scheme", "io"), [("int8", "int8"), ("int8", "uint8"), ("int16x8", "int16"), ("int16x8", "int8")]
)
def test_io_types_that_fit(scheme: Any, io: Any) -> None:
    plan = Quantize(scheme, io=io)(FILE, DATA).plan
    assert plan is not None
    assert plan.io == io


def test_overrides_match_layers_also_inside_models(nested: Model) -> None:
    for pattern in ("stem", "he*", "backbone"):
        assert Quantize(overrides={pattern: "float32"})(nested, DATA).plan
    with pytest.raises(UsageError, match="no layer matches the override 'haed': did you mean 'head'") as caught:
        Quantize(overrides={"haed": "float32"})(nested, DATA)
    assert "stem" in caught.value.next


def test_imports_no_framework() -> None:
    code = "import sys, edgedl.stages.quantize; print({'tensorflow', 'keras', 'onnx', 'ai_edge_litert'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
