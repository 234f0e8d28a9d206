"""The error function in a .tflite, alone or in a GELU that TensorFlow's converter does not recognise.

The oracle is math.erf for the approximation and Keras for networks; tolerances: float32 rounding of its polynomials.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.engine import predict
from edgedl.model import Model

pytest.importorskip("tensorflow", reason="needs pip install 'edgedl[compress]'")

from edgedl.converters.to_tflite import ToTflite
from edgedl.converters.to_tflite.erf import erf, without_erf
from edgedl.frameworks import keras

CLOSE = 1e-6


def test_the_approximation_is_close() -> None:
    x = np.concatenate([np.linspace(-6, 6, 100_001), [-np.inf, -1e30, 1e30, np.inf]]).astype(np.float32)
    found = np.asarray(erf(keras().ops.convert_to_tensor(x)))
    assert np.abs(found - [math.erf(float(v)) for v in x]).max() <= CLOSE
    small = np.float32(10.0) ** np.arange(-30, -2, dtype=np.float32)
    there = np.asarray(erf(keras().ops.convert_to_tensor(small)))
    assert np.abs(there / [math.erf(float(v)) for v in small] - 1).max() <= CLOSE


def nets() -> dict[str, Any]:
    ops, layers = keras().ops, keras().layers
    source = keras().Input((4, 6), name="x")
    hidden = layers.Dense(5, bias_initializer="uniform")(source)
    return {
        "alone": keras().Model(source, ops.erf(hidden)),
        "two GELUs of one tensor": keras().Model(
            source, ops.gelu(hidden, approximate=False) - 2.0 * ops.gelu(hidden, approximate=True)
        ),
    }


@pytest.mark.parametrize("name", ["alone", "two GELUs of one tensor"])
def test_a_network_with_erf_goes_out(name: str, tmp_path: Path) -> None:
    net = nets()[name]
    x = np.random.default_rng(0).normal(0, 2, (3, 4, 6)).astype(np.float32)
    specs = [tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in ts) for ts in (net.inputs, net.outputs)]
    split = Split({"x": x})
    artifact = ToTflite()(Model(net, *specs), Dataset(split, split), tmp_path / "m.tflite")
    (found,) = predict(artifact, {"x": x}).values()
    assert np.abs(found - np.asarray(net(x))).max() <= 5 * CLOSE


def test_a_network_without_stays_as_it_is() -> None:
    source = keras().Input((6,), name="x")
    net = keras().Model(source, keras().ops.gelu(source, approximate=False))
    assert without_erf(net) is net
