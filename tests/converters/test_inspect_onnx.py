"""The ONNX inspector: counts held to numbers worked out by hand and to Keras; per-layer errors to the files' outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.errors import DataError, ModelError
from edgedl.model import GraphFile, Model, QuantizationPlan

pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

from edgedl.converters import _onnx
from edgedl.converters.inspect_onnx import OnnxInspector
from edgedl.converters.to_onnx import ToOnnx


def save(folder: Path, nodes: list[Any], x: list[Any], y: list[Any], **constants: Any) -> Path:
    """A small opset-17 file with float input `x` and output `y`."""
    o = _onnx.onnx()
    info = o.helper.make_tensor_value_info
    weights = [o.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = o.helper.make_graph(nodes, "g", [info("x", 1, x)], [info("y", 1, y)], initializer=weights)
    proto = o.helper.make_model(graph, opset_imports=[o.helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "m.onnx"
    o.save(proto, path)
    return path


def make(*arguments: Any, **attributes: Any) -> Any:
    return _onnx.onnx().helper.make_node(*arguments, **attributes)


def weights(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


CASES: dict[str, tuple[list[Any], list[Any], list[Any], dict[str, Any], int, int]] = {
    # nodes, x, y, constants, multiply-accumulates, parameters
    "conv": (
        [("Conv", ["x", "w", "b"], ["y"], {"strides": [2, 2]})],
        ["n", 3, 9, 9], ["n", 8, 4, 4], {"w": (8, 3, 3, 3), "b": (8,)}, 4 * 4 * 8 * 27, 8 * 27 + 8,
    ),
    "grouped conv": (
        [("Conv", ["x", "w"], ["y"], {"group": 4})],
        ["n", 4, 5, 5], ["n", 4, 3, 3], {"w": (4, 1, 3, 3)}, 3 * 3 * 4 * 9, 36,
    ),
    "transposed": (
        [("ConvTranspose", ["x", "w"], ["y"], {"strides": [2, 2]})],
        ["n", 3, 4, 4], ["n", 5, 8, 8], {"w": (3, 5, 2, 2)}, 4 * 4 * 3 * 5 * 4, 60,
    ),
    "gemm": (
        [("Gemm", ["x", "w", "b"], ["y"], {"transB": 1})],
        ["n", 6], ["n", 4], {"w": (4, 6), "b": (4,)}, 24, 28,
    ),
    "matmul": ([("MatMul", ["x", "w"], ["y"], {})], ["n", 5, 6], ["n", 5, 4], {"w": (6, 4)}, 5 * 24, 24),
    "lstm": (
        [("LSTM", ["x", "w", "r"], ["", "h"], {"hidden_size": 3}), ("Squeeze", ["h"], ["y"], {})],
        [7, 1, 2], [3], {"w": (1, 12, 2), "r": (1, 12, 3)}, 7 * (24 + 36), 60,
    ),
    "gru": (
        [("GRU", ["x", "w", "r"], ["", "h"], {"hidden_size": 3}), ("Squeeze", ["h"], ["y"], {})],
        [7, 1, 2], [3], {"w": (1, 9, 2), "r": (1, 9, 3)}, 7 * (18 + 27), 45,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_counts(case: str, tmp_path: Path) -> None:
    nodes, x, y, shapes, macs, parameters = CASES[case]
    made = [make(op, inputs, outputs, f"n{i}", **more) for i, (op, inputs, outputs, more) in enumerate(nodes)]
    path = save(tmp_path, made, x, y, **{k: weights(*s) for k, s in shapes.items()})
    layers = OnnxInspector().layers(path)
    assert sum(layer.macs for layer in layers) == macs
    assert sum(layer.parameters for layer in layers) == parameters
    assert sum(layer.bytes for layer in layers) == 4 * parameters
    assert layers[0].op == nodes[0][0]


def conv_model(folder: Path) -> tuple[Model, Dataset]:
    nodes = [
        make("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        make("Relu", ["c"], ["r"], "relu"),
        make("GlobalAveragePool", ["r"], ["p"], "pool"),
        make("Flatten", ["p"], ["f"], "flat"),
        make("Gemm", ["f", "fw", "fb"], ["y"], "head"),
    ]
    path = save(
        folder, nodes, ["n", 3, 8, 8], ["n", 5], w=weights(16, 3, 3, 3), b=weights(16), fw=weights(16, 5), fb=weights(5)
    )
    model = Model(
        GraphFile(path, "onnx"),
        (TensorSpec("x", (None, 3, 8, 8), "float32"),),
        (TensorSpec("y", (None, 5), "float32"),),
    )
    x = np.random.default_rng(1).normal(size=(96, 3, 8, 8)).astype(np.float32)
    return model, Dataset(Split({"x": x[:48]}), Split({"x": x[48:]}))


BITS = {"float32": 32, "fp16": 16, "int8": 8, "int8-weight-only": 8, "dynamic": 8, "int4-weight-only": 4}


@pytest.mark.parametrize("scheme", list(BITS))
def test_weights_count_as_they_are_stored(scheme: Any, tmp_path: Path) -> None:
    model, data = conv_model(tmp_path)
    artifact = ToOnnx()(replace(model, plan=QuantizationPlan(scheme=scheme)), data, tmp_path / "q.onnx")
    layers = OnnxInspector().layers(artifact.path)
    assert sum(layer.parameters for layer in layers) == 16 * 27 + 16 + 80 + 5
    assert sum(layer.macs for layer in layers) == 64 * 16 * 27 + 80
    biases = 21 * (2 if scheme == "fp16" else 4)
    assert sum(layer.bytes for layer in layers) == (16 * 27 + 80) * BITS[scheme] // 8 + biases
    assert not {"QuantizeLinear", "DequantizeLinear"} & {layer.op for layer in layers}
    conv = next(layer for layer in layers if layer.op == "Conv")
    assert conv.output == (None, 16, 8, 8)
    assert conv.dtype == {"int8": "uint8", "fp16": "float16"}.get(scheme, "float32")
    assert conv.activation_bytes == 16 * 64 * {"int8": 1, "fp16": 2}.get(scheme, 4)


def test_keras_and_onnx_count_the_same_parameters(zoo: Callable[[str], Any], tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="needs pip install 'edgedl[compress]'")
    net, x, _ = zoo("cnn")
    spec = TensorSpec(net.inputs[0].name, tuple(net.inputs[0].shape), "float32")
    model = Model(net, (spec,), (TensorSpec(net.output_names[0], tuple(net.outputs[0].shape), "float32"),))
    split = Split({spec.name: x[:64]})
    artifact = ToOnnx()(model, Dataset(split, split), tmp_path / "m.onnx")
    assert sum(layer.parameters for layer in OnnxInspector().layers(artifact.path)) == net.count_params()


@pytest.mark.parametrize("io", ["float32", "int8"])
def test_compare_finds_the_layer_that_was_coarsely_quantized(io: Any, tmp_path: Path) -> None:
    model, data = conv_model(tmp_path)
    base = ToOnnx()(replace(model, plan=QuantizationPlan(scheme="float32")), data, tmp_path / "f.onnx")
    plan = QuantizationPlan(overrides={"head": "int4-weight-only"}, io=io)
    artifact = ToOnnx()(replace(model, plan=plan), data, tmp_path / "q.onnx")
    inputs = data.feed(data.validation, 0, 20)
    errors = OnnxInspector().compare(base.path, artifact.path, inputs)
    assert [e.name for e in errors][:3] == ["conv", "relu", "pool"]
    by_name = {e.name: e for e in errors}
    assert by_name["conv"].sqnr_db > 30
    assert by_name["conv"].bytes == 16 * 27 + 64
    if io == "float32":
        assert by_name["head"].bytes == 40 + 20
        assert by_name["head"].sqnr_db < by_name["conv"].sqnr_db
        outputs = [_onnx.session(a.path.read_bytes()).run(None, {"x": inputs["x"][:16]})[0] for a in (base, artifact)]
        noise = ((outputs[0] - outputs[1]) ** 2).sum()
        assert by_name["head"].sqnr_db == pytest.approx(10 * np.log10((outputs[0] ** 2).sum() / noise), abs=2)


def test_a_file_compared_with_itself_is_without_error(tmp_path: Path) -> None:
    model, data = conv_model(tmp_path)
    errors = OnnxInspector().compare(model.net.path, model.net.path, data.feed(data.validation, 0, 4))
    assert {e.sqnr_db for e in errors} == {np.inf}
    assert len(errors) == 5
    with pytest.raises(DataError, match="input 'x'"):
        OnnxInspector().compare(model.net.path, model.net.path, {"z": np.zeros(3)})


def test_foreign_operators_are_named(tmp_path: Path) -> None:
    model, _ = conv_model(tmp_path)
    assert OnnxInspector().custom_ops(model.net.path) == ()
    o = _onnx.onnx()
    proto = o.load(model.net.path)
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "MyRelu", "acme.ops"
    proto.opset_import.append(o.helper.make_opsetid("acme.ops", 1))
    o.save(proto, model.net.path)
    assert OnnxInspector().custom_ops(model.net.path) == ("acme.ops::MyRelu",)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 3000), noise=st.binary(min_size=1, max_size=8))
def test_damaged_files_are_one_sentence(tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = conv_model(folder)[0].net.path
    whole = path.read_bytes()
    for damaged in (whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        path.write_bytes(damaged)
        with contextlib.suppress(ModelError):
            assert OnnxInspector().layers(path)
