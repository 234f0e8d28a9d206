"""The steps of a run as functions: what a stage's training notes reaches who runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedl import steps
from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.model import Model

keras = pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.stages.training import devices  # noqa: E402


@pytest.mark.skipif(devices.has_float16(), reason="a GPU computes in float16 here, which is no note")
def test_notes_of_a_training_are_notes_of_the_step(tmp_path: Path) -> None:
    node = keras.Input((3,), name="x")
    net = keras.Model(node, keras.layers.Dense(2, name="y")(node))
    specs = [(TensorSpec(name, (None, size), "float32"),) for name, size in (("x", 3), ("y", 2))]
    steps.remember("the model", Model(net, *specs))
    rng = np.random.default_rng(0)
    split = Split({"x": rng.normal(size=(8, 3)).astype(np.float32)}, rng.integers(0, 2, 8))
    for name in ("data", "out", "kept"):
        (tmp_path / name).mkdir()
    Dataset(split, split, split, metric="accuracy").save(tmp_path / "data")
    options = {"epochs": 1, "mixed_precision": True}
    found = steps.apply_stage(
        "the model", str(tmp_path / "data"), "finetune", options, str(tmp_path / "out"), "after", str(tmp_path / "kept")
    )
    assert found["records"][0]["notes"]
    assert found["notes"] == [f"finetune: {note}" for note in found["records"][0]["notes"]]
