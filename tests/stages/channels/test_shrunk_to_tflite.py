"""Networks with half of their channels as float .tflite: the file computes what the smaller Keras network does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.engine import predict
from edgedl.model import Model
from edgedl.registry import find

pytest.importorskip("tensorflow", reason="needs pip install 'edgedl[compress]'")
pytest.importorskip("ai_edge_litert", reason="needs pip install 'edgedl[tflite]'")

from edgedl.frameworks import keras

ZOO = (
    "cnn", "resnet", "dscnn", "lstm", "gru", "transformer", "generator", "twotower", "unet", "multi_io", "shared",
    "nested",
)  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_the_file_is_the_smaller_network(name: str, halved: Callable[[str], Any], tmp_path: Path) -> None:
    net, rng = halved(name)[3], np.random.default_rng(0)
    inputs = tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in net.inputs)
    outputs = tuple(TensorSpec(n, tuple(t.shape), t.dtype) for n, t in zip(net.output_names, net.outputs, strict=True))
    x = {s.name: rng.integers(0, 20, (4, *s.shape[1:])) if s.dtype == "int32" else rng.normal(size=(4, *s.shape[1:]))
         for s in inputs}  # fmt: skip
    arrays = {s.name: x[s.name].astype(s.dtype) for s in inputs}
    split = Split(arrays)
    data = Dataset(split, split, dtypes={s.name: s.dtype for s in inputs})
    artifact = find("converter", "tflite")()(Model(net, inputs, outputs), data, tmp_path / "small.tflite")
    found = predict(artifact, arrays)
    given = list(arrays.values())
    expected = keras().tree.flatten(net(given if len(given) > 1 else given[0], training=False))
    for spec, values in zip(outputs, expected, strict=True):
        wanted = np.asarray(values)
        assert np.abs(found[spec.name] - wanted).max() <= 1e-4 * np.abs(wanted).max()
