"""Keras networks and .tflite files as quantized .tflite: LiteRT runs what was written; Keras and numpy say what is right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import Artifact, TensorSpec, read_embedded
from edgedl.data import Dataset, Split
from edgedl.engine import predict
from edgedl.errors import ConversionError, DataError, ModelError, OutputError, UsageError
from edgedl.model import SCHEMES, GraphFile, Model, QuantizationPlan
from edgedl.preprocess import Preprocessing

pytest.importorskip("tensorflow", reason="needs pip install 'edgedl[compress]'")
pytest.importorskip("ai_edge_quantizer", reason="needs pip install 'edgedl[compress]'")

from edgedl.converters import _tflite as fb
from edgedl.converters.to_tflite import ToTflite
from edgedl.converters.to_tflite.graph import layers_of, unique_names
from edgedl.frameworks import keras

ZOO = (
    "cnn", "resnet", "dscnn", "lstm", "gru", "transformer", "generator", "twotower", "unet", "multi_io", "shared",
    "nested",
)  # fmt: skip
FLOAT = 1e-4  # largest relative error of a float file
LEAST_DB = {  # signal to quantization noise on data like the training data; measured 23 dB (int4) to 33 dB (int8)
    "float32": 80.0,
    "fp16": 50.0,
    "dynamic": 35.0,
    "int8": 22.0,
    "int16x8": 35.0,
    "int8-weight-only": 35.0,
    "int4-weight-only": 15.0,
}
Case = tuple[Model, Dataset, Artifact]
Cases = Callable[[str], Case]


def model_of(net: Any, plan: QuantizationPlan | None = None) -> Model:
    """A Keras network with its specs, as an importer gives it."""
    inputs = tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in net.inputs)
    outputs = tuple(TensorSpec(n, tuple(t.shape), t.dtype) for n, t in zip(net.output_names, net.outputs, strict=True))
    return Model(net, inputs, outputs, plan)


def data_of(model: Model, x: Any) -> Dataset:
    """200 calibration and 64 validation samples of one array, or of arrays by input name."""
    arrays = x if isinstance(x, dict) else {model.inputs[0].name: x}
    parts = [{k: v[s] for k, v in arrays.items()} for s in (slice(200), slice(200, 264))]
    return Dataset(Split(parts[0]), Split(parts[1]), dtypes={s.name: s.dtype for s in model.inputs})


def reference(model: Model, data: Dataset) -> dict[str, Any]:
    """What Keras computes on the validation samples, by output name."""
    feed = data.feed(data.validation)
    arrays = [feed[s.name] for s in model.inputs]
    found = keras().tree.flatten(model.net(arrays if len(arrays) > 1 else arrays[0]))
    return {s.name: np.asarray(a) for s, a in zip(model.outputs, found, strict=True)}


def decibels(a: Any, b: Any) -> float:
    noise = float(((a.astype(np.float64) - b) ** 2).sum())
    return float(10 * np.log10((a.astype(np.float64) ** 2).sum() / noise)) if noise else np.inf


def kinds(artifact: Artifact) -> list[str]:
    model = fb.read(artifact.path)
    return [fb.op_name(model, op) for graph in model.subgraphs for op in graph.operators]


@pytest.fixture(scope="module")
def case(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """`case(name)` -> (model, data, its float .tflite), once a module."""
    folder = tmp_path_factory.mktemp("float")

    @cache
    def get(name: str) -> Case:
        net, x, _ = zoo(name)
        model = model_of(net)
        data = data_of(model, x)
        return model, data, ToTflite()(model, data, folder / f"{name}.tflite")

    return get


def convert(case: Case, folder: Path, **plan: Any) -> Artifact:
    """The model quantized, from its float file."""
    model, data, base = case
    return ToTflite()(replace(model, plan=QuantizationPlan(**plan)), data, folder / "quantized.tflite", base=base.path)


def direct(path: Path, **plan: Any) -> Model:
    """A .tflite file as a model that stays in its format."""
    known = Artifact.load(path)
    assert known is not None
    return Model(GraphFile(path, "tflite"), known.inputs, known.outputs, QuantizationPlan(**plan))


# --- float


@pytest.mark.parametrize("name", ZOO)
def test_float_is_the_keras_model(name: str, case: Cases) -> None:
    model, data, artifact = case(name)
    found = predict(artifact, data.feed(data.validation))
    for output, expected in reference(model, data).items():
        assert np.abs(found[output] - expected).max() <= FLOAT * np.abs(expected).max()
    assert artifact.scheme == "float32"
    assert [s.name for s in artifact.inputs] == [s.name for s in model.inputs]
    assert [s.name for s in artifact.outputs] == [s.name for s in model.outputs]


def test_any_batch_size(case: Cases, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model, data, base = case("resnet")
    expected = reference(model, data)[model.outputs[0].name]
    x = data.feed(data.validation)["image"]
    for artifact in (base, convert(case("resnet"), tmp_path, scheme="int8")):
        assert artifact.inputs[0].shape[0] is None
        interpreter = Interpreter(str(artifact.path))
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (7, 16, 16, 3), strict=True)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[:7])
        interpreter.invoke()
        assert decibels(expected[:7], interpreter.get_tensor(interpreter.get_output_details()[0]["index"])) > 22


@pytest.mark.parametrize("name", ["twotower", "multi_io", "shared"])
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_inputs_and_outputs_keep_their_names_and_their_order(
    name: str, scheme: str, case: Cases, tmp_path: Path
) -> None:
    """By position, by the tensor's name and by signature, the same values come out."""
    from ai_edge_litert.interpreter import Interpreter

    model, data, base = case(name)
    artifact = base if scheme == "float32" else convert(case(name), tmp_path, scheme=scheme)
    feed = {k: v[:1] for k, v in data.feed(data.validation).items()}
    expected = predict(artifact, feed)
    interpreter = Interpreter(str(artifact.path))
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    assert [d["name"] for d in inputs] == [s.inside for s in artifact.inputs]
    assert [d["name"] for d in outputs] == [s.inside for s in artifact.outputs]
    for detail, spec in zip(inputs, model.inputs, strict=True):
        interpreter.set_tensor(detail["index"], feed[spec.name])
    interpreter.invoke()
    signature = Interpreter(str(artifact.path)).get_signature_runner()(**feed)
    for detail, spec in zip(outputs, model.outputs, strict=True):
        np.testing.assert_array_equal(interpreter.get_tensor(detail["index"]), expected[spec.name])
        np.testing.assert_array_equal(signature[spec.name], expected[spec.name])


# --- schemes


SOME = ("dscnn", "lstm", "transformer", "twotower")


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(name, scheme) for name in ZOO for scheme in ("int8", "int16x8")]
    + [(name, scheme) for name in SOME for scheme in ("fp16", "dynamic", "int8-weight-only", "int4-weight-only")],
)
def test_every_scheme_on_every_kind_of_network(name: str, scheme: str, case: Cases, tmp_path: Path) -> None:
    model, data, _ = case(name)
    artifact = convert(case(name), tmp_path, scheme=scheme)
    found = predict(artifact, data.feed(data.validation))
    for output, expected in reference(model, data).items():
        assert decibels(expected, found[output]) >= LEAST_DB[scheme]
        assert found[output].dtype == np.float32


@pytest.mark.parametrize("name", ["cnn", "resnet", "dscnn", "lstm", "gru", "generator", "unet", "multi_io", "nested"])
def test_int8_leaves_nothing_float(name: str, case: Cases, tmp_path: Path) -> None:
    artifact = convert(case(name), tmp_path, scheme="int8", io="int8")
    assert "left_float" not in artifact.metadata
    assert "DEQUANTIZE" not in kinds(artifact)
    model = fb.read(artifact.path)
    assert not [t.name for t in model.subgraphs[0].tensors if t.type == fb.FLOAT32]


def test_what_a_scheme_cannot_serve_stays_float_and_is_named(case: Cases, tmp_path: Path) -> None:
    artifact = convert(case("transformer"), tmp_path, scheme="int16x8")
    left = artifact.metadata["left_float"]
    assert {entry["op"] for entry in left} == {"NEG", "SQUARED_DIFFERENCE"}
    assert all(entry["layer"].startswith("layer_normalization") for entry in left)
    assert all("no int16x8 form" in entry["why"] for entry in left)


def test_weights_get_smaller(case: Cases, tmp_path: Path) -> None:
    sizes = {s: convert(case("unet"), tmp_path, scheme=s).size for s in SCHEMES}
    assert sizes["fp16"] < 0.7 * sizes["float32"]
    for scheme in ("dynamic", "int8", "int16x8", "int8-weight-only"):
        assert sizes[scheme] < 0.55 * sizes["float32"]
    assert sizes["int4-weight-only"] < 0.9 * sizes["int8-weight-only"]


def test_a_scheme_that_does_not_pay_says_so(case: Cases, tmp_path: Path) -> None:
    assert "notes" not in convert(case("dscnn"), tmp_path, scheme="fp16").metadata
    notes = convert(case("lstm"), tmp_path, scheme="int8").metadata["notes"]
    assert ["unrolled" in note for note in notes] == [True]


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_calibrations(calibration: Any, case: Cases, tmp_path: Path) -> None:
    model, data, _ = case("resnet")
    artifact = convert(case("resnet"), tmp_path, scheme="int8", calibration=calibration, samples=50)
    assert artifact.metadata["calibration_samples"] == 50
    found = predict(artifact, data.feed(data.validation))[model.outputs[0].name]
    assert decibels(reference(model, data)[model.outputs[0].name], found) > 22


def test_ranges_are_the_observed_extremes(case: Cases, tmp_path: Path) -> None:
    """Min-max: the input's scale and zero point are those of the calibration inputs, not of a moving average."""
    _, data, _ = case("cnn")
    spec = convert(case("cnn"), tmp_path, scheme="int8", io="int8").inputs[0]
    x = data.feed(data.calibration)["image"]
    assert spec.scale == pytest.approx((x.max() - x.min()) / 255, rel=1e-5)
    assert spec.zero_point == pytest.approx(-128 - x.min() / spec.scale, abs=0.5)


def test_decided_ranges_win(case: Cases, tmp_path: Path) -> None:
    artifact = convert(
        case("cnn"), tmp_path, scheme="int8", ranges={"max_pooling2d": (0.0, 51.0), "conv2d": (0.0, 51.0)}
    )
    model = fb.read(artifact.path)
    op = next(op for op in model.subgraphs[0].operators if fb.op_name(model, op) == "CONV_2D")
    assert model.subgraphs[0].tensors[op.outputs[0]].quantization.scale[0] == pytest.approx(0.2, rel=1e-5)


# --- types of inputs and outputs


@pytest.mark.parametrize(
    ("scheme", "io"), [("int8", "int8"), ("int8", "uint8"), ("int16x8", "int16"), ("int16x8", "int8")]
)
@pytest.mark.parametrize("name", ["resnet", "multi_io"])
def test_io_types(name: str, scheme: str, io: str, case: Cases, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model, data, _ = case(name)
    artifact = convert(case(name), tmp_path, scheme=scheme, io=io)
    assert {s.dtype for s in (*artifact.inputs, *artifact.outputs)} == {io}
    assert all(s.scale for s in (*artifact.inputs, *artifact.outputs))
    interpreter = Interpreter(str(artifact.path))
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert {np.dtype(d["dtype"]).name for d in details} == {io}
    found = predict(artifact, data.feed(data.validation))
    for output, expected in reference(model, data).items():
        assert decibels(expected, found[output]) >= 20


def test_integer_ids_stay_integers(case: Cases, tmp_path: Path) -> None:
    artifact = convert(case("twotower"), tmp_path, scheme="int8", io="int8")
    assert [s.dtype for s in artifact.inputs] == ["int32", "int32"]
    assert artifact.outputs[0].dtype == "int8"


def test_never_a_silent_float(case: Cases, tmp_path: Path) -> None:
    """Integer outputs of a float scheme: the quantize stage refuses them, and so does the converter."""
    with pytest.raises(ConversionError, match="came out as float32, not int8"):
        convert(case("cnn"), tmp_path, scheme="dynamic", io="int8")
    assert not list(tmp_path.iterdir())


# --- layers of their own scheme


def test_overrides_by_layer_name(case: Cases, tmp_path: Path) -> None:
    artifact = convert(case("cnn"), tmp_path, scheme="int8", overrides={"conv2d": "float32", "conv2d*": "int16x8"})
    left = artifact.metadata["left_float"]
    assert left == [{"layer": "conv2d", "op": "CONV_2D", "why": "an override asks for it"}]
    model = fb.read(artifact.path)
    tensors = model.subgraphs[0].tensors
    types = [fb.type_name(tensors[op.outputs[0]].type) for op in model.subgraphs[0].operators
             if fb.op_name(model, op) in ("CONV_2D", "FULLY_CONNECTED", "SOFTMAX")]  # fmt: skip
    assert types == ["float32", "int16", "int8", "int8", "int8"]
    _, data, _ = case("cnn")
    found = predict(artifact, data.feed(data.validation))
    assert decibels(*reference(case("cnn")[0], data).values(), *found.values()) > 25


def test_an_int8_layer_in_a_float_network(case: Cases, tmp_path: Path) -> None:
    artifact = convert(case("cnn"), tmp_path, scheme="float32", overrides={"dense": "int8"})
    assert kinds(artifact).count("QUANTIZE") == kinds(artifact).count("DEQUANTIZE") == 1
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == "float32"


def test_layer_names_of_nested_and_numbered_layers(case: Cases) -> None:
    known = {"stem", "conv", "conv_1", "dense"}
    assert layers_of("m_1/stem_1/conv_1/convolution", known) == ("conv",)
    assert layers_of("m_1/conv_1_2/convolution;m_1/dense_1/MatMul", known) == ("conv_1", "dense")
    assert layers_of("StatefulPartitionedCall:0", known) == ()


# --- files that stay .tflite


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_is_quantized_without_tensorflow(scheme: str, case: Cases, tmp_path: Path) -> None:
    """As the direct way of a device or a light installation: in a process that never imports a training framework."""
    model, data, base = case("cnn")
    x = data.feed(data.calibration)["image"]
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys, numpy as np
from pathlib import Path
from edgedl.model import load, QuantizationPlan
from edgedl.data import Dataset, Split
from edgedl.converters.to_tflite import ToTflite
from dataclasses import replace
x = np.load({str(tmp_path / "x.npy")!r})
model = load({str(base.path)!r})
split = Split({{model.inputs[0].name: x}})
ToTflite()(replace(model, plan=QuantizationPlan({scheme!r})), Dataset(split, split), Path({str(tmp_path / "m.tflite")!r}))
assert not {{"tensorflow", "keras", "tf_keras", "torch", "onnx"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)
    artifact = Artifact.load(tmp_path / "m.tflite")
    assert artifact is not None
    found = predict(artifact, data.feed(data.validation))[model.outputs[0].name]
    assert decibels(reference(model, data)[model.outputs[0].name], found) >= LEAST_DB[scheme]


def test_overrides_of_a_file_match_its_tensors(case: Cases, tmp_path: Path) -> None:
    _, data, base = case("cnn")
    model = direct(base.path, scheme="int8", overrides={"*dense_1/MatMul*": "float32"})
    artifact = ToTflite()(model, data, tmp_path / "m.tflite")
    assert [entry["op"] for entry in artifact.metadata["left_float"]] == ["FULLY_CONNECTED"]
    with pytest.raises(UsageError, match="no operator's output matches the override 'dens'"):
        ToTflite()(direct(base.path, scheme="int8", overrides={"dens": "float32"}), data, tmp_path / "n.tflite")


@pytest.mark.parametrize("first", ["int8", "dynamic", "int8-weight-only"])
def test_a_quantized_file_is_refused(first: Any, case: Cases, tmp_path: Path) -> None:
    _, data, _ = case("cnn")
    model = direct(convert(case("cnn"), tmp_path, scheme=first).path)
    for plan in (None, QuantizationPlan("int8"), QuantizationPlan("fp16")):
        with pytest.raises(UsageError, match=r"quantized\.tflite is already quantized"):
            ToTflite()(replace(model, plan=plan), data, tmp_path / "again.tflite")


def test_another_format_is_refused(case: Cases, tmp_path: Path) -> None:
    model, data, _ = case("cnn")
    onnx = replace(model, net=GraphFile(tmp_path / "m.onnx", "onnx"))
    with pytest.raises(UsageError, match=r"m.onnx is an .onnx file"):
        ToTflite()(onnx, data, tmp_path / "m.tflite")


def test_custom_operators_are_refused_by_name(case: Cases, tmp_path: Path) -> None:
    from edgedl.engine import describe

    _, data, _ = case("cnn")
    known = describe(Path(__file__).parents[1] / "data/tiny_float.tflite")
    model = Model(GraphFile(Path(__file__).parents[1] / "data/custom.tflite", "tflite"), known.inputs, known.outputs)
    names = fb.custom_names(fb.read(model.net.path))
    assert names
    with pytest.raises(ConversionError, match=names[0]):
        ToTflite()(model, data, tmp_path / "m.tflite")


def test_names_are_made_unique() -> None:
    model = fb.parse((Path(__file__).parents[1] / "data/tiny_float.tflite").read_bytes(), "tiny")
    for tensor, name in zip(model.subgraphs[0].tensors, (b"a", b"a", b"a_2"), strict=False):
        tensor.name = name
    unique_names(model)
    names = [t.name for t in model.subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    assert names[0] == b"a"


# --- numbers that must not overflow


def dense(weights: Any, bias: Any) -> Model:
    """One dense layer."""
    node = keras().Input((weights.shape[0],), name="x")
    net = keras().Model(node, keras().layers.Dense(weights.shape[1], name="dense")(node))
    net.set_weights([weights, bias])
    return model_of(net)


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_the_bias_of_a_dead_channel_survives(scheme: str, tmp_path: Path) -> None:
    """Weights of 1e-9 and a bias of 5 need a bias beyond 32 bits, which ai-edge-quantizer clips."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 4)).astype(np.float32)
    weights[:, 1] *= 1e-9
    weights[:, 2] = 0
    model = dense(weights, np.array([0.1, 5, -4, 0.3], np.float32))
    x = rng.normal(size=(264, 16)).astype(np.float32)
    data = data_of(model, x)
    plan = QuantizationPlan(scheme)
    artifact = ToTflite()(replace(model, plan=plan), data, tmp_path / "m.tflite")
    found = predict(artifact, data.feed(data.validation))["dense"][:, 1:3]
    np.testing.assert_allclose(found, [[5, -4]] * 64, atol=0.1)  # one step of int8 is 0.07


def test_masks_of_minus_infinity_do_not_stretch_the_ranges(tmp_path: Path) -> None:
    layers = keras().layers
    node = keras().Input((6, 4), name="x")
    attended = layers.MultiHeadAttention(2, 4)(node, node, use_causal_mask=True)
    model = model_of(keras().Model(node, layers.Dense(3, name="end")(layers.Flatten()(attended))))
    data = data_of(model, np.random.default_rng(0).normal(size=(264, 6, 4)).astype(np.float32))
    artifact = ToTflite()(replace(model, plan=QuantizationPlan("int8")), data, tmp_path / "m.tflite")
    found = predict(artifact, data.feed(data.validation))["end"]
    assert decibels(reference(model, data)["end"], found) > 20


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_masks_that_are_added(scheme: str, tmp_path: Path) -> None:
    layers = keras().layers
    node = keras().Input((6, 6), name="x")
    masked = layers.Dense(6)(node) + np.triu(np.full((6, 6), -1e9, np.float32), 1)
    model = model_of(keras().Model(node, layers.Softmax(name="end")(masked)))
    data = data_of(model, np.random.default_rng(0).normal(size=(264, 6, 6)).astype(np.float32))
    artifact = ToTflite()(replace(model, plan=QuantizationPlan(scheme)), data, tmp_path / "m.tflite")
    found = predict(artifact, data.feed(data.validation))["end"]
    assert decibels(reference(model, data)["end"], found) > 25


@pytest.mark.parametrize("layer", ["LeakyReLU", "PReLU", "ELU"])
def test_activations_are_computed_on_integers(layer: str, tmp_path: Path) -> None:
    layers = keras().layers
    node = keras().Input((6, 6, 2), name="x")
    hidden = getattr(layers, layer)()(layers.Conv2D(4, 3)(node))
    net = keras().Model(node, layers.Conv2D(2, 1, name="end")(hidden))
    for weight in net.weights:
        if "alpha" in weight.path:
            weight.assign(np.linspace(-0.5, 0.5, weight.shape[-1]) * np.ones(weight.shape))
    model = model_of(net)
    data = data_of(model, np.random.default_rng(0).normal(size=(264, 6, 6, 2)).astype(np.float32))
    artifact = ToTflite()(replace(model, plan=QuantizationPlan("int8")), data, tmp_path / "m.tflite")
    assert "left_float" not in artifact.metadata
    found = predict(artifact, data.feed(data.validation))["end"]
    assert decibels(reference(model, data)["end"], found) > 28


# --- the file


def test_metadata_travels(case: Cases, tmp_path: Path) -> None:
    model, data, base = case("multi_io")
    more = replace(
        data, preprocessing={"image": Preprocessing(scale=0.5), "other": Preprocessing()}, labels=("a", "b", "c")
    )
    plan = QuantizationPlan("int8", calibration="mse")
    artifact = ToTflite()(replace(model, plan=plan), more, tmp_path / "m.tflite", base=base.path)
    assert artifact.labels == ("a", "b", "c")
    assert artifact.preprocessing("image") == Preprocessing(scale=0.5)
    assert set(artifact.metadata["preprocessing"]) == {"image"}
    assert artifact.metadata["calibration"] == "mse"
    assert {"ai-edge-litert", "ai-edge-quantizer"} <= set(artifact.metadata["versions"])
    assert Artifact.load(tmp_path / "m.tflite") == artifact
    assert read_embedded(tmp_path / "m.tflite")


def test_nothing_superfluous_in_the_file(case: Cases, tmp_path: Path) -> None:
    artifact = convert(case("resnet"), tmp_path, scheme="int8", io="int8")
    model = fb.read(artifact.path)
    graph = model.subgraphs[0]
    used = {i for op in graph.operators for i in (*op.inputs, *op.outputs)} | {*graph.inputs, *graph.outputs}
    assert used - {-1} == set(range(len(graph.tensors)))
    contents = [bytes(b.data) for b in model.buffers if b.data is not None]
    assert len(set(contents)) == len(contents)
    assert {b"min_runtime_version"} >= {m.name for m in model.metadata}


def test_constants_are_aligned(case: Cases, tmp_path: Path) -> None:
    """schema.fbs: force_align 16; kernels on microcontrollers read them in place."""
    data = convert(case("resnet"), tmp_path, scheme="int8").path.read_bytes()
    lazy = fb.schema().Model.GetRootAs(data, 0)
    start = np.frombuffer(data, np.uint8).ctypes.data
    buffers = [lazy.Buffers(i) for i in range(lazy.BuffersLength())]
    places = [b.DataAsNumpy().ctypes.data - start for b in buffers if not b.DataIsNone() and b.DataLength()]
    assert places
    assert all(place % 16 == 0 for place in places)


def test_the_same_bytes_each_time(case: Cases, tmp_path: Path) -> None:
    first = convert(case("cnn"), tmp_path, scheme="int8").path.read_bytes()
    assert convert(case("cnn"), tmp_path, scheme="int8").path.read_bytes() == first


# --- what goes wrong


def test_nan_weights_are_named(case: Cases, tmp_path: Path) -> None:
    weights = np.ones((4, 2), np.float32)
    weights[1, 1] = np.nan
    model = dense(weights, np.zeros(2, np.float32))
    with pytest.raises(ConversionError, match=r"dense/kernel .* NaN"):
        ToTflite()(model, data_of(model, np.zeros((264, 4), np.float32)), tmp_path / "m.tflite")


def test_nan_in_the_calibration_data(case: Cases, tmp_path: Path) -> None:
    model, data, base = case("cnn")
    x = data.feed(data.calibration)["image"].copy()
    x[3, 0, 0, 0] = np.nan
    broken = replace(data, calibration=Split({"image": x}))
    with pytest.raises(ConversionError, match="NaN on the calibration inputs"):
        ToTflite()(replace(model, plan=QuantizationPlan("int8")), broken, tmp_path / "m.tflite", base=base.path)


@pytest.mark.parametrize(
    ("split", "error", "text"),
    [
        (
            Split({"image": np.zeros((4, 9, 9, 3), np.float32)}),
            ConversionError,
            "does not run on the calibration inputs",
        ),
        (Split({"picture": np.zeros((4, 16, 16, 3), np.float32)}), DataError, "no input 'image'"),
        (Split({"image": np.zeros((0, 16, 16, 3), np.float32)}), DataError, "no calibration input"),
    ],
)
def test_calibration_data_that_does_not_fit(split: Split, error: Any, text: str, case: Cases, tmp_path: Path) -> None:
    model, data, base = case("cnn")
    with pytest.raises(error, match=text):
        ToTflite()(
            replace(model, plan=QuantizationPlan("int8")),
            replace(data, calibration=split),
            tmp_path / "m.tflite",
            base=base.path,
        )


def test_an_operator_tensorflow_lite_lacks_is_named(tmp_path: Path) -> None:
    class Digamma(keras().layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            import tensorflow as tf

            return tf.math.digamma(x)

    node = keras().Input((4,), name="x")
    model = model_of(keras().Model(node, Digamma(name="odd")(node)))
    with pytest.raises(ConversionError, match=r"no operator for Digamma \(in .*odd"):
        ToTflite()(model, data_of(model, np.ones((264, 4), np.float32)), tmp_path / "m.tflite")


def test_an_rnn_over_sequences_of_any_length(tmp_path: Path) -> None:
    node = keras().Input((None, 3), name="x")
    model = model_of(keras().Model(node, keras().layers.LSTM(4, name="memory")(node)))
    data = data_of(model, np.random.default_rng(0).normal(size=(264, 5, 3)).astype(np.float32))
    artifact = ToTflite()(replace(model, plan=QuantizationPlan("dynamic")), data, tmp_path / "m.tflite")
    found = predict(artifact, data.feed(data.validation))["memory"]
    assert decibels(reference(model, data)["memory"], found) > 30
    with pytest.raises(ConversionError, match=r"'memory' \(LSTM\) takes sequences of any length"):
        ToTflite()(replace(model, plan=QuantizationPlan("int8")), data, tmp_path / "n.tflite")


def test_bidirectional_rnns_are_unrolled(tmp_path: Path) -> None:
    layers = keras().layers
    node = keras().Input((5, 3), name="x")
    model = model_of(keras().Model(node, layers.Dense(2, name="end")(layers.Bidirectional(layers.GRU(4))(node))))
    data = data_of(model, np.random.default_rng(0).normal(size=(264, 5, 3)).astype(np.float32))
    artifact = ToTflite()(replace(model, plan=QuantizationPlan("int8")), data, tmp_path / "m.tflite")
    assert "WHILE" not in kinds(artifact)
    assert decibels(reference(model, data)["end"], predict(artifact, data.feed(data.validation))["end"]) > 18
    assert model.net.layers[1].forward_layer.unroll is False  # the model given is left as it was


def test_a_folder_that_is_not_there(case: Cases, tmp_path: Path) -> None:
    model, data, base = case("cnn")
    with pytest.raises(OutputError, match="cannot write"):
        ToTflite()(model, data, tmp_path / "missing" / "m.tflite", base=base.path)


def test_a_base_that_is_damaged(case: Cases, tmp_path: Path) -> None:
    model, data, base = case("cnn")
    half = tmp_path / "half.tflite"
    half.write_bytes(base.path.read_bytes()[:2000])
    with pytest.raises(ModelError, match="damaged"):
        ToTflite()(model, data, tmp_path / "m.tflite", base=half)
