"""A BatchNormalization behind Conv1D and its like is in their weights, also in the file of a network that Keras made.

The oracle is Keras; tolerance: float32 rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.engine import predict
from edgedl.model import Model

pytest.importorskip("tensorflow", reason="needs pip install 'edgedl[compress]'")

from edgedl.converters import _tflite as fb
from edgedl.converters.to_tflite import ToTflite
from edgedl.frameworks import keras

CLOSE = 1e-5  # of the largest value


def normalized(tensor: Any) -> Any:
    """A BatchNormalization whose statistics are not the identity."""
    layer = keras().layers.BatchNormalization()
    out, n = layer(tensor), tensor.shape[-1]
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.5, 1.5, n), rng.normal(0, 1, n), rng.normal(0, 1, n), rng.uniform(0.5, 2, n)])
    return out


def written(out: Any, source: Any, folder: Path) -> tuple[list[str], float]:
    """The operators of the file of a network, and how far it is from Keras."""
    net = keras().Model(source, out)
    rng = np.random.default_rng(2)
    net.set_weights([w if np.any(w) else rng.normal(0, 1, w.shape) for w in net.get_weights()])
    specs = [tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in ts) for ts in (net.inputs, net.outputs)]
    x = rng.normal(0, 1, (3, *source.shape[1:])).astype(np.float32)
    split = Split({source.name: x})
    artifact = ToTflite()(Model(net, *specs), Dataset(split, split), folder / "m.tflite")
    (found,) = predict(artifact, {source.name: x}).values()
    wanted = np.asarray(net(x))
    graph = fb.read(artifact.path)
    kinds = [fb.op_name(graph, op) for op in graph.subgraphs[0].operators]
    return kinds, float(np.abs(found - wanted).max() / np.abs(wanted).max())


LAYERS: dict[str, Any] = {
    "Conv1D": lambda: keras().layers.Conv1D(5, 3),
    "Conv1D without a bias": lambda: keras().layers.Conv1D(5, 3, use_bias=False, padding="causal"),
    "Conv1D, dilated": lambda: keras().layers.Conv1D(5, 3, dilation_rate=2, padding="same"),
    "DepthwiseConv1D": lambda: keras().layers.DepthwiseConv1D(3, depth_multiplier=2),
    "SeparableConv1D": lambda: keras().layers.SeparableConv1D(5, 3),
    "Dense": lambda: keras().layers.Dense(5),
}


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("activation", [None, "relu"])
def test_scale_and_shift_are_in_the_weights(name: str, activation: str | None, tmp_path: Path) -> None:
    source = keras().Input((16, 6), name="x")
    out = normalized(LAYERS[name]()(source))
    out = keras().layers.Activation(activation)(out) if activation else out
    kinds, gap = written(out, source, tmp_path)
    assert {"MUL", "ADD", "SUB", "RELU"}.isdisjoint(kinds)
    assert gap <= CLOSE


def test_what_is_read_twice_keeps_its_scale(tmp_path: Path) -> None:
    source = keras().Input((16, 6), name="x")
    shared = keras().layers.Conv1D(6, 3, padding="same")(source)
    kinds, gap = written(keras().layers.Multiply()([normalized(shared), shared]), source, tmp_path)
    assert kinds.count("MUL") == 2
    assert gap <= CLOSE


def test_an_activation_before_it_stays_before_it(tmp_path: Path) -> None:
    source = keras().Input((16, 6), name="x")
    kinds, gap = written(normalized(keras().layers.Conv1D(6, 3, activation="relu")(source)), source, tmp_path)
    assert "MUL" in kinds
    assert gap <= CLOSE


def test_a_number_for_each_position_stays(tmp_path: Path) -> None:
    source = keras().Input((5, 6), name="x")
    kinds, gap = written(
        keras().layers.Conv1D(6, 1)(source) + np.arange(30, dtype=np.float32).reshape(1, 5, 6), source, tmp_path
    )
    assert "ADD" in kinds
    assert gap <= CLOSE


def test_a_layer_that_is_used_twice_is_scaled_where_it_is_normalized(tmp_path: Path) -> None:
    source = keras().Input((16, 6), name="x")
    layer = keras().layers.Conv1D(6, 3, padding="same")
    kinds, gap = written(layer(normalized(layer(source))), source, tmp_path)
    assert {"MUL", "ADD"}.isdisjoint(kinds)
    assert gap <= CLOSE
