"""A .tflite takes any batch without the operators that TensorFlow's converter writes for one that it does not know.

The oracle is the Keras model on three members at once; tolerance: float32 sums in another order.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.converters import _tflite as fb
from edgedl.converters._layers import constant_layer
from edgedl.data import Dataset, Split
from edgedl.frameworks import keras
from edgedl.model import Model
from edgedl.registry import find

pytest.importorskip("ai_edge_litert")


def written(net: Any, path: Path) -> tuple[Any, Counter[str]]:
    """The artifact of a Keras model, and how many operators of each kind it has."""
    inputs, outputs = (
        tuple(TensorSpec(f"{k}{i}", tuple(t.shape), t.dtype) for i, t in enumerate(ts))
        for k, ts in (("i", net.inputs), ("o", net.outputs))
    )
    none = Split({s.name: np.zeros((0, *s.shape[1:]), s.dtype) for s in inputs})
    artifact = find("converter", "tflite")()(Model(net, inputs, outputs), Dataset(none, none), path)
    graph = fb.read(artifact.path)
    return artifact, Counter(fb.op_name(graph, op) for op in graph.subgraphs[0].operators)


def run(path: Path, x: Any) -> Any:
    """What plain kernels compute of all members at once."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    net = Interpreter(str(path), experimental_op_resolver_type=plain)
    net.resize_tensor_input(net.get_input_details()[0]["index"], x.shape)
    net.allocate_tensors()
    net.set_tensor(net.get_input_details()[0]["index"], x)
    net.invoke()
    return net.get_tensor(net.get_output_details()[0]["index"])


def dilated(x: Any) -> Any:
    return keras().layers.Conv2D(4, 3, dilation_rate=2, padding="same")(x)


def projected(x: Any) -> Any:
    return keras().layers.Dense(5)(keras().layers.Reshape((96, 3))(x))


def token(x: Any) -> Any:
    L = keras().layers
    rows = L.Reshape((96, 3))(x)
    first = constant_layer()(np.arange(3, dtype=np.float32)[None, None], batch_axis=0)(x)
    return L.Dense(4)(L.Concatenate(axis=1)([first, rows]))


CASES = {"dilated": (dilated, {"CONV_2D"}), "projected": (projected, {"RESHAPE", "FULLY_CONNECTED"}),
         "token": (token, {"RESHAPE", "PAD", "ADD", "FULLY_CONNECTED"})}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_a_free_batch_needs_no_operators_of_its_own(name: str, tmp_path: Path) -> None:
    build, wanted = CASES[name]
    keras().utils.set_random_seed(1)
    image = keras().Input((8, 12, 3))
    net = keras().Model(image, build(image))
    artifact, found = written(net, tmp_path / "m.tflite")
    assert set(found) == wanted
    assert artifact.inputs[0].shape[0] is None
    assert artifact.outputs[0].shape[0] is None
    x = np.random.default_rng(0).normal(size=(3, 8, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(run(artifact.path, x), np.asarray(net(x)), atol=1e-5)


def test_members_that_are_mixed_are_left_to_tensorflow(tmp_path: Path) -> None:
    image = keras().Input((4,))
    net = keras().Model(image, keras().ops.subtract(image, keras().ops.mean(image, axis=0, keepdims=True)))
    artifact, _ = written(net, tmp_path / "m.tflite")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(run(artifact.path, x), np.asarray(net(x)), atol=1e-5)


def test_a_transposed_convolution_is_for_a_batch_of_one(tmp_path: Path) -> None:
    image = keras().Input((8, 12, 3))
    net = keras().Model(image, keras().layers.Conv2DTranspose(4, 2, strides=2)(image))
    artifact, found = written(net, tmp_path / "m.tflite")
    assert found == {"TRANSPOSE_CONV": 1}
    assert artifact.inputs[0].shape == (1, 8, 12, 3)


def test_nan_is_no_agreement() -> None:
    from edgedl.converters.to_tflite import batches, exporter
    from edgedl.frameworks import tensorflow

    def content(factor: float, batch: int) -> bytes:
        x = keras().Input((64,))
        y = keras().ops.sum(keras().ops.log(x), axis=1, keepdims=True) * factor
        return exporter._converted(tensorflow(), keras().Model(x, y), batch, [None], [None])

    pair = content(1.0, batches.BATCH)
    assert batches._check(pair, content(1.0, 1), 0) is not None
    assert batches._check(pair, content(2.0, 1), 0) is None
