"""Parameters are Keras's own count, multiply-accumulates TensorFlow's profiler's or the published figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.errors import UsageError

pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")

from edgedl.converters.inspect_keras import KerasInspector
from edgedl.frameworks import keras, tensorflow
from edgedl.macs import layers_of


def profiled_macs(net: Any) -> int:
    """Half of the floating point operations that TensorFlow's profiler counts in convolutions and products."""
    tf = tensorflow()
    specs = [tf.TensorSpec((1, *t.shape[1:]), t.dtype) for t in net.inputs]
    graph = tf.function(lambda *x: net(list(x), training=False)).get_concrete_function(*specs).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    with graph.as_default():
        found = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    kinds = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "Conv2DBackpropInput", "BatchMatMulV2")
    children, total = list(found.children), 0
    while children:
        node = children.pop()
        total += node.float_ops if node.name in kinds else 0
        children.extend(node.children)
    return total // 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["cnn", "resnet", "dscnn", "unet", "multi_io", "shared", "nested"])
def test_macs_are_those_of_the_profiler(zoo: Any, name: str) -> None:
    net, _, _ = zoo(name)
    assert sum(layer.macs for layer in layers_of(net)) == profiled_macs(net)


@pytest.mark.parametrize("name", ["cnn", "gru", "transformer", "twotower", "shared", "nested"])
def test_parameters_and_shapes_are_those_of_keras(zoo: Any, name: str) -> None:
    net, _, _ = zoo(name)
    rows = layers_of(net)
    assert sum(r.parameters for r in rows) == net.count_params()
    assert sum(r.bytes for r in rows) == 4 * net.count_params()
    assert {(1, *t.shape[1:]) for t in net.outputs} <= {r.output for r in rows}
    for row in rows:
        assert row.activation_bytes == 4 * np.prod(row.output)
        assert row.dtype in ("float32", "int32")


def test_nested_models_are_flattened_by_name(zoo: Any, tmp_path: Path) -> None:
    net, _, _ = zoo("nested")
    net.save(tmp_path / "m.keras")
    rows = {r.name: r for r in KerasInspector().layers(tmp_path / "m.keras")}
    assert rows["backbone/stem/conv2d"].macs == 8 * 8 * 8 * 27  # stride 2 on 16x16, 3x3x3 -> 8
    assert rows["backbone/stem/conv2d"].output == (1, 8, 8, 8)  # though the backbone itself takes any size
    assert rows["head"].op == "Dense"


def test_recurrent_wrapped_and_attention_layers() -> None:
    L = keras().layers
    x = keras().Input((10, 6))
    net = keras().Model(
        x,
        [
            L.LSTM(4, name="lstm")(x),
            L.Bidirectional(L.GRU(3), name="both")(x),
            L.TimeDistributed(L.Dense(5), name="each")(x),
            L.MultiHeadAttention(2, 4, name="mha")(x, x),
            L.EinsumDense("abc,cde->abde", (None, 2, 4), name="einsum")(x),
            L.SeparableConv1D(8, 3, name="separable")(x),
            L.Conv1DTranspose(8, 4, 2, name="transposed")(x),
            keras().ops.matmul(x, keras().ops.transpose(x, (0, 2, 1))),
        ],
    )
    rows = {r.name: r for r in layers_of(net)}
    assert rows["lstm"].macs == 10 * 4 * (6 * 4 + 4 * 4)
    assert rows["both"].macs == 2 * 10 * 3 * (6 * 3 + 3 * 3)
    assert rows["each"].macs == 10 * 6 * 5
    assert rows["mha"].macs == 4 * 10 * 6 * 8 + 2 * (2 * 10 * 10 * 4)  # four projections, two products a head
    assert rows["einsum"].macs == 10 * 6 * 2 * 4
    assert rows["separable"].macs == 8 * (3 * 6 + 6 * 8)  # 10 - 3 + 1 positions
    assert rows["transposed"].macs == 10 * 4 * 6 * 8
    assert next(r for r in rows.values() if r.op == "Matmul").macs == 10 * 10 * 6


def test_unknown_sizes_count_once() -> None:
    x = keras().Input((None, None, 3))
    rows = layers_of(keras().Model(x, keras().layers.Conv2D(4, 3, padding="same")(x)))
    assert rows[-1].output == (1, None, None, 4)
    assert rows[-1].macs == 4 * 27


def test_custom_ops_and_comparisons(zoo: Any, tmp_path: Path) -> None:
    net, _, _ = zoo("lstm")
    net.save(tmp_path / "m.keras")
    assert KerasInspector().custom_ops(tmp_path / "m.keras") == ()
    x = keras().Input((3,))
    keras().Model(x, keras().layers.Lambda(lambda t: t * 2)(x)).save(tmp_path / "l.keras")
    assert KerasInspector(allow_unsafe=True).custom_ops(tmp_path / "l.keras") == ("Lambda",)
    with pytest.raises(UsageError, match="not quantized"):
        KerasInspector().compare(tmp_path / "m.keras", tmp_path / "m.keras", {})


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "macs", "parameters"),
    [  # Banbury et al., MLPerf Tiny Benchmark, 2021: 12.5 M, 7.5 M, 2.7 M and 0.26 M operations
        ("pretrainedResnet.h5", 12_501_632, 78_666),
        ("vww_96.h5", 7_489_664, 221_794),
        ("kws_ref_model", 2_656_768, 24_908),
        ("ad01.h5", 264_192, 269_992),
    ],
)
def test_mlperf_tiny(assets: Path, file: str, macs: int, parameters: int) -> None:
    rows = KerasInspector().layers(assets / "models" / "mlperf_tiny" / file)
    assert sum(r.macs for r in rows) == macs
    assert sum(r.parameters for r in rows) == parameters
