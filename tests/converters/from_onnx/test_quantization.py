"""Quantized ONNX models in: structure held to ONNX Runtime without rounding (1e-4), the rest to the quantized original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("keras")

from edgedl.artifact import TensorSpec  # noqa: E402
from edgedl.converters import _onnx  # noqa: E402
from edgedl.converters._source import Source  # noqa: E402
from edgedl.converters.from_onnx import compare, from_source, load_onnx, proof, source  # noqa: E402
from edgedl.converters.from_onnx.build import build  # noqa: E402
from edgedl.converters.from_onnx.dequantizing import floats  # noqa: E402
from edgedl.converters.from_onnx.graph import prepared  # noqa: E402
from edgedl.converters.from_onnx.quantized import unquantized, without_activation_quantization  # noqa: E402
from edgedl.data import Dataset, Split  # noqa: E402
from edgedl.model import LoadOptions, Model, QuantizationPlan  # noqa: E402

H, N = onnx.helper, onnx.numpy_helper
F32, U8, I8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT8
KERAS = LoadOptions(form="keras")
Zoo = Callable[[str], tuple[Any, Any, Any]]


def model(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], weights: dict[str, Any]) -> Any:
    """A ModelProto; inputs and outputs: name -> (element type, shape)."""
    infos = [[H.make_tensor_value_info(k, *v) for k, v in d.items()] for d in (inputs, outputs)]
    kept = [N.from_array(np.asarray(v), k) for k, v in weights.items()]
    opsets = [H.make_opsetid("", 17), H.make_opsetid("com.microsoft", 1)]
    return H.make_model(H.make_graph(nodes, "g", *infos, kept), opset_imports=opsets, ir_version=8)


def ms(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return H.make_node(op, inputs, outputs, name="n", domain="com.microsoft", **attributes)


def imported(proto: Any, tmp_path: Path) -> Model:
    return from_source(Source(proto, "ONNX"), tmp_path / "m.onnx", KERAS)


def ran(proto: Any, feed: dict[str, Any]) -> list[Any]:
    return list(_onnx.session(proto, optimize=False).run(None, feed))


def kinds(found: Model) -> list[str]:
    return [type(o).__name__ for o in found.net.operations if type(o).__name__ != "InputLayer"]


def weights(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


# --- QDQ


@pytest.fixture(scope="module")
def qdq(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, Dataset]:
    """The zoo's cnn as an int8 .onnx file, with the model and the data it was made of."""
    from edgedl.converters.to_onnx import ToOnnx

    net, x, _ = zoo("cnn")
    specs = [
        tuple(TensorSpec(n, tuple(t.shape), t.dtype) for n, t in zip(names, tensors, strict=True))
        for names, tensors in (([t.name for t in net.inputs], net.inputs), (net.output_names, net.outputs))
    ]
    whole = Model(net, *specs, QuantizationPlan("int8"))
    data = Dataset(Split({"image": x[:100]}), Split({"image": x[100:164]}), dtypes={"image": "float32"})
    path = tmp_path_factory.mktemp("qdq") / "cnn.onnx"
    ToOnnx()(whole, data, path)
    return path, whole, data


def test_a_qdq_model_comes_back_as_layers_with_its_ranges(qdq: tuple[Path, Model, Dataset]) -> None:
    path, whole, data = qdq
    found = load_onnx(path, KERAS)
    assert kinds(found).count("Conv2D") == 2
    assert kinds(found).count("Dense") == 2
    assert not {"Round", "Cast", "Clip"} & set(kinds(found))
    assert all(w.trainable for w in found.net.weights)
    assert found.proof[0]["max_relative"] <= 1e-4
    assert found.proof[0]["against"].endswith("without quantization")
    assert any("signal to noise" in note for note in found.notes)
    assert found.plan is not None
    assert found.plan.scheme == "int8"
    stored = unquantized(_onnx.read(path))
    assert set(found.plan.ranges.values()) == set(stored.ranges.values())
    x = data.validation.x["image"]
    before, after = (np.asarray(m.net(x, training=False)) for m in (whole, found))
    assert (before.argmax(-1) == after.argmax(-1)).mean() >= 0.98  # its weights are int8 still


def test_an_import_is_held_to_its_quantized_file_again(qdq: tuple[Path, Model, Dataset]) -> None:
    path, _, _ = qdq
    entries, where = compare(source(path, KERAS), path, KERAS, load_onnx(path, KERAS).net)
    assert where is None
    assert all(e["max_relative"] <= 1e-4 for e in entries)


def test_the_same_ranges_leave_in_an_int8_tflite(qdq: tuple[Path, Model, Dataset], tmp_path: Path) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    pytest.importorskip("ai_edge_quantizer")
    from edgedl.converters.to_tflite import ToTflite
    from edgedl.stages.quantize import Quantize

    path, _, data = qdq
    found = load_onnx(path, KERAS)
    assert found.plan is not None
    planned = Quantize()(found, data)
    assert planned.plan is not None
    assert planned.plan.ranges == found.plan.ranges
    artifact = ToTflite()(planned, data, tmp_path / "m.tflite")
    details = interpreter.Interpreter(model_path=str(artifact.path)).get_tensor_details()
    scales = {round(float(d["quantization"][0]), 7) for d in details if d["dtype"] == np.int8}
    for layer in ("conv2d_Relu", "conv2d_1_Relu", "dense_Relu"):
        low, high = found.plan.ranges[layer]
        assert any(abs(s - (high - low) / 255) < 1e-6 for s in scales), layer


def quantized_conv(low_zero: int, high: float, producer: str = "Conv") -> Any:
    """x -> Conv -> Q -> DQ -> y, with the range that begins at 0 where `low_zero` is -128."""
    nodes = [
        H.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        *([H.make_node("Relu", ["c"], ["r"], name="relu")] if producer == "Relu" else []),
        H.make_node("QuantizeLinear", ["r" if producer == "Relu" else "c", "s", "z"], ["q"], name="q"),
        H.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        H.make_node("GlobalAveragePool", ["d"], ["y"], name="pool"),
    ]
    scale, zero = np.float32(high / 255), np.int8(low_zero)
    return model(nodes, {"x": (F32, ["N", 3, 6, 6])}, {"y": (F32, ["N", 4, 1, 1])},
                 {"w": weights(4, 3, 3, 3), "s": scale, "z": zero})  # fmt: skip


@pytest.mark.parametrize(
    ("zero", "high", "producer", "layer", "top"),
    [
        (-128, 4.0, "Conv", "ReLU", None),
        (-128, 6.0, "Conv", "ReLU", 6.0),
        (-128, 4.0, "Relu", "ReLU", None),
        (0, 4.0, "Conv", "", None),
    ],
)
def test_a_range_that_begins_at_zero_stands_for_the_relu_that_was_there(
    zero: int, high: float, producer: str, layer: str, top: float | None, tmp_path: Path
) -> None:
    proto = quantized_conv(zero, high, producer)
    found = imported(proto, tmp_path)
    assert kinds(found).count("ReLU") == (1 if layer else 0)
    if layer:
        (relu,) = [x for x in found.net.layers if type(x).__name__ == "ReLU"]
        assert relu.max_value == top
    x = 0.1 * np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    (wanted,) = ran(proto, {"x": x})
    got = np.asarray(found.net(x.transpose(0, 2, 3, 1))).reshape(wanted.shape)
    assert np.abs(got - wanted).max() <= high / 255  # one step of the integers


def test_integers_moved_between_quantizing_and_dequantizing_are_floats(tmp_path: Path) -> None:
    nodes = [
        H.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        H.make_node("Transpose", ["q"], ["t"], name="t", perm=[0, 2, 1]),
        H.make_node("DequantizeLinear", ["t", "s", "z"], ["d"], name="d"),
        H.make_node("MatMul", ["d", "w"], ["y"], name="m"),
    ]
    proto = model(nodes, {"x": (F32, ["N", 4, 3])}, {"y": (F32, ["N", 3, 5])},
                  {"w": weights(4, 5), "s": np.float32(0.02), "z": np.uint8(128)})  # fmt: skip
    found = imported(proto, tmp_path)
    assert "Cast" not in kinds(found)
    assert "Round" not in kinds(found)
    assert found.proof[0]["max_relative"] <= 1e-4


def test_integers_that_are_used_as_numbers_stay_exact(tmp_path: Path) -> None:
    nodes = [
        H.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        H.make_node("Cast", ["q"], ["y"], name="c", to=F32),
    ]
    proto = model(nodes, {"x": (F32, ["N", 4])}, {"y": (F32, ["N", 4])}, {"s": np.float32(0.02), "z": np.uint8(128)})
    found = imported(proto, tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert np.array_equal(np.asarray(found.net(x)), ran(proto, {"x": x})[0])


def test_integer_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [
        H.make_node("DequantizeLinear", ["x", "s", "z"], ["d"], name="d"),
        H.make_node("MatMul", ["d", "w"], ["m"], name="m"),
        H.make_node("QuantizeLinear", ["m", "s2", "z"], ["y"], name="q"),
    ]
    proto = model(nodes, {"x": (U8, ["N", 4])}, {"y": (U8, ["N", 5])},
                  {"w": weights(4, 5), "s": np.float32(0.02), "s2": np.float32(0.03), "z": np.uint8(128)})  # fmt: skip
    found = imported(proto, tmp_path)
    assert (found.inputs[0].dtype, found.outputs[0].dtype) == ("uint8", "float32")
    x = np.random.default_rng(0).integers(0, 256, (16, 4)).astype(np.uint8)
    wanted = (ran(proto, {"x": x})[0].astype(np.float32) - 128) * 0.03
    assert np.abs(np.asarray(found.net(x)) - wanted).max() <= 0.03 / 2 + 1e-4


def test_what_is_not_quantized_stays_as_it_is() -> None:
    proto = model(
        [H.make_node("MatMul", ["x", "w"], ["y"])], {"x": (F32, ["N", 4])}, {"y": (F32, ["N", 5])}, {"w": weights(4, 5)}
    )
    plain = Source(proto, "ONNX")
    assert floats(plain) is plain
    assert without_activation_quantization(proto) == proto


# --- integer operators


class Reader:
    """Calibration data, as ONNX Runtime's quantizer wants it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self.rest = iter([{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(8)])

    def get_next(self) -> Any:
        return next(self.rest, None)


def small_cnn() -> Any:
    nodes = [
        H.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        H.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        H.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        H.make_node("Add", ["c2", "r1"], ["a"], name="add"),
        H.make_node("Sigmoid", ["a"], ["s"], name="sigmoid"),
        H.make_node("Concat", ["s", "a"], ["k"], name="concat", axis=1),
        H.make_node("GlobalAveragePool", ["k"], ["g"], name="pool"),
        H.make_node("Flatten", ["g"], ["f"], name="flatten"),
        H.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="fc", transB=1),
    ]
    made = {"w1": weights(8, 3, 3, 3), "b1": weights(8), "w2": weights(8, 8, 3, 3, seed=1) * 0.2,
            "w3": weights(5, 16, seed=2), "b3": weights(5)}  # fmt: skip
    return model(nodes, {"x": (F32, ["N", 3, 8, 8])}, {"y": (F32, ["N", 5])}, made)


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_static_models_of_onnxruntime(form: str, per_channel: bool, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    onnx.save(small_cnn(), tmp_path / "f.onnx")
    quantization.quantize_static(
        tmp_path / "f.onnx", tmp_path / "q.onnx", Reader((2, 3, 8, 8)), per_channel=per_channel,
        quant_format=getattr(quantization.QuantFormat, form), extra_options={"ForceQuantizeNoInputCheck": True},
    )  # fmt: skip
    proto = onnx.load(tmp_path / "q.onnx")
    found = load_onnx(tmp_path / "q.onnx", KERAS)
    assert found.plan is not None
    assert len(found.plan.ranges) >= 5
    assert kinds(found).count("Conv2D") == 2
    assert "Round" not in kinds(found)
    assert "Cast" not in kinds(found)
    assert found.proof[0]["max_relative"] <= 1e-4
    x = np.random.default_rng(5).normal(size=(4, 3, 8, 8)).astype(np.float32)
    (wanted,) = ran(proto, {"x": x})
    got = np.asarray(found.net(x.transpose(0, 2, 3, 1)))
    assert 10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()) >= 15  # dB; int8 of a small network


def test_dynamic_models_of_onnxruntime_become_dense_layers(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    nodes = [
        H.make_node("MatMul", ["x", "w1"], ["m1"], name="m1"),
        H.make_node("Add", ["m1", "b1"], ["a1"], name="a1"),
        H.make_node("Relu", ["a1"], ["r1"], name="r1"),
        H.make_node("MatMul", ["r1", "w2"], ["y"], name="m2"),
    ]
    proto = model(nodes, {"x": (F32, ["N", 6])}, {"y": (F32, ["N", 3])},
                  {"w1": weights(6, 8), "b1": weights(8), "w2": weights(8, 3, seed=1)})  # fmt: skip
    onnx.save(proto, tmp_path / "f.onnx")
    quantization.quantize_dynamic(tmp_path / "f.onnx", tmp_path / "q.onnx")
    assert "MatMulInteger" in {n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node}
    found = load_onnx(tmp_path / "q.onnx", KERAS)
    assert kinds(found).count("Dense") == 2
    assert not {"Multiply", "Cast", "Round"} & set(kinds(found))
    x = np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32)
    (wanted,) = ran(proto, {"x": x})
    assert np.abs(np.asarray(found.net(x)) - wanted).max() <= 0.03 * np.abs(wanted).max()  # 8 bits a weight


def test_a_damaged_scale_is_a_clear_error(tmp_path: Path) -> None:
    proto = quantized_conv(-128, 4.0)
    del proto.graph.node[1].input[1:]
    from edgedl.errors import ModelError

    with pytest.raises(ModelError):
        imported(proto, tmp_path)


# --- ONNX Runtime's own operators

CASES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "FusedConv": lambda: (
        model([ms("FusedConv", ["x", "w", "b"], ["y"], activation="LeakyRelu", activation_params=[0.2], pads=[1, 1, 1, 1])],
              {"x": (F32, [2, 3, 5, 5])}, {"y": (F32, None)}, {"w": weights(4, 3, 3, 3), "b": weights(4)}),
        {"x": weights(2, 3, 5, 5)}),
    "FusedGemm": lambda: (
        model([ms("FusedGemm", ["x", "w", "b"], ["y"], activation="Relu", transB=1)],
              {"x": (F32, [2, 6])}, {"y": (F32, None)}, {"w": weights(4, 6), "b": weights(4)}), {"x": weights(2, 6)}),
    "FusedMatMul": lambda: (
        model([ms("FusedMatMul", ["x", "w"], ["y"], alpha=0.3, transB=1)],
              {"x": (F32, [2, 3, 6])}, {"y": (F32, None)}, {"w": weights(4, 6)}), {"x": weights(2, 3, 6)}),
    "FusedMatMul of two": lambda: (
        model([ms("FusedMatMul", ["x", "z"], ["y"], alpha=0.3, transB=1)],
              {"x": (F32, [2, 3, 6]), "z": (F32, [2, 4, 6])}, {"y": (F32, None)}, {}),
        {"x": weights(2, 3, 6), "z": weights(2, 4, 6)}),
    "Gelu": lambda: (model([ms("Gelu", ["x"], ["y"])], {"x": (F32, [2, 6])}, {"y": (F32, None)}, {}), {"x": weights(2, 6)}),
    "FastGelu": lambda: (
        model([ms("FastGelu", ["x", "b"], ["y"])], {"x": (F32, [2, 6])}, {"y": (F32, None)}, {"b": weights(6)}),
        {"x": weights(2, 6)}),
    "BiasGelu": lambda: (
        model([ms("BiasGelu", ["x", "b"], ["y"])], {"x": (F32, [2, 6])}, {"y": (F32, None)}, {"b": weights(6)}),
        {"x": weights(2, 6)}),
    "QuickGelu": lambda: (
        model([ms("QuickGelu", ["x"], ["y"], alpha=1.5)], {"x": (F32, [2, 6])}, {"y": (F32, None)}, {}), {"x": weights(2, 6)}),
    "SkipLayerNormalization": lambda: (
        model([ms("SkipLayerNormalization", ["x", "z", "g", "h", "b"], ["y", "", "", "t"], epsilon=1e-5)],
              {"x": (F32, [2, 3, 6]), "z": (F32, [2, 3, 6])}, {"y": (F32, None), "t": (F32, None)},
              {"g": weights(6), "h": weights(6), "b": weights(6)}), {"x": weights(2, 3, 6), "z": weights(2, 3, 6, seed=1)}),
    "SkipSimplifiedLayerNormalization": lambda: (
        model([ms("SkipSimplifiedLayerNormalization", ["x", "z", "g"], ["y"], epsilon=1e-5)],
              {"x": (F32, [2, 3, 6]), "z": (F32, [2, 3, 6])}, {"y": (F32, None)}, {"g": weights(6)}),
        {"x": weights(2, 3, 6), "z": weights(2, 3, 6, seed=1)}),
    "EmbedLayerNormalization": lambda: (
        model([ms("EmbedLayerNormalization", ["i", "j", "w", "p", "k", "g", "h"], ["y", "m"], epsilon=1e-5)],
              {"i": (onnx.TensorProto.INT32, [2, 3]), "j": (onnx.TensorProto.INT32, [2, 3])}, {"y": (F32, None)},
              {"w": weights(10, 6), "p": weights(8, 6), "k": weights(2, 6), "g": weights(6), "h": weights(6)}),
        {"i": np.array([[1, 2, 9], [0, 4, 4]], np.int32), "j": np.array([[0, 1, 1], [0, 0, 1]], np.int32)}),
    "Attention": lambda: (
        model([ms("Attention", ["x", "w", "b"], ["y"], num_heads=2)],
              {"x": (F32, [2, 5, 8])}, {"y": (F32, None)}, {"w": weights(8, 24), "b": weights(24)}), {"x": weights(2, 5, 8)}),
    "MatMulNBits": lambda: (
        model([ms("MatMulNBits", ["x", "w", "s", "z"], ["y"], K=40, N=3, bits=4, block_size=16)],
              {"x": (F32, [2, 40])}, {"y": (F32, None)},
              {"w": np.random.default_rng(0).integers(0, 256, (3, 3, 8)).astype(np.uint8),
               "s": np.abs(weights(9)), "z": np.random.default_rng(1).integers(0, 256, (3 * 2,)).astype(np.uint8)}),
        {"x": weights(2, 40)}),
    "MatMulNBits of 8": lambda: (
        model([ms("MatMulNBits", ["x", "w", "s"], ["y"], K=32, N=3, bits=8, block_size=16)],
              {"x": (F32, [2, 32])}, {"y": (F32, None)},
              {"w": np.random.default_rng(0).integers(0, 256, (3, 2, 16)).astype(np.uint8), "s": np.abs(weights(6))}),
        {"x": weights(2, 32)}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_operators_of_onnxruntime(name: str) -> None:
    """Of the largest value: 1e-4."""
    proto, feed = CASES[name]()
    made = build(prepared(proto, KERAS, "test"), freed=False, name="model")
    wanted = ran(proto, feed)
    laid = [feed[s.name].transpose(made.layouts.get(s.name, range(feed[s.name].ndim))) for s in made.inputs]
    found = made.net(laid, training=False)
    outputs = found if isinstance(found, list | tuple) else [found]
    for spec, tensor, array in zip(made.outputs, outputs, wanted, strict=True):
        got = np.asarray(tensor)
        order = made.layouts.get(spec.name)
        got = got if order is None else got.transpose(np.argsort(order))
        assert proof.difference(got, array)[0] <= 1e-4, spec.name


def test_ranges_of_a_tflite_source_become_the_plan(tmp_path: Path) -> None:
    proto = replace(Source(small_cnn(), "TFLite"), ranges={"r1": (0.0, 4.0), "nowhere": (0.0, 1.0)})
    found = from_source(proto, tmp_path / "m.tflite", KERAS)
    assert found.plan is not None
    assert dict(found.plan.ranges) == {"relu1": (0.0, 4.0)}
