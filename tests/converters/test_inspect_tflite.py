"""The TFLite inspector: counts held to arithmetic and to Keras, errors by layer to LiteRT, damage to a clear refusal."""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.artifact import Artifact, TensorSpec
from edgedl.converters import _tflite as fb
from edgedl.converters.inspect_tflite import TfliteInspector, readable
from edgedl.data import Dataset, Split
from edgedl.errors import ModelError
from edgedl.model import Model, QuantizationPlan

DATA = Path(__file__).parents[1] / "data"
INSPECTOR = TfliteInspector()
FILES = sorted(DATA.glob("*.tflite"))
SCHEMES = ("float32", "fp16", "dynamic", "int8", "int16x8", "int8-weight-only", "int4-weight-only")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Any, Any]:
    """A small network of every counted operator in every scheme, its Keras model and inputs."""
    pytest.importorskip("tensorflow", reason="needs pip install 'edgedl[compress]'")
    pytest.importorskip("ai_edge_quantizer", reason="needs pip install 'edgedl[compress]'")
    from edgedl.converters.to_tflite import ToTflite
    from edgedl.frameworks import keras

    layers = keras().layers
    keras().utils.set_random_seed(1)
    node = keras().Input((8, 8, 3), name="x", batch_size=1)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(node)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(x)
    x = layers.Conv2DTranspose(6, 2, strides=2, name="transposed")(x)
    net = keras().Model(node, layers.Dense(5, name="dense")(layers.Flatten()(x)))
    specs = [TensorSpec("x", (None, 8, 8, 3), "float32")], [TensorSpec("dense", (None, 5), "float32")]
    model = Model(net, tuple(specs[0]), tuple(specs[1]))
    inputs = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
    data = Dataset(Split({"x": inputs}), Split({"x": inputs}))
    folder = tmp_path_factory.mktemp("inspect")
    paths = {}
    for scheme in SCHEMES:
        paths[scheme] = folder / f"{scheme}.tflite"
        ToTflite()(replace(model, plan=QuantizationPlan(scheme)), data, paths[scheme])
    return paths, net, inputs


MACS = {
    "CONV_2D": 8 * 8 * 4 * 3 * 3 * 3,
    "DEPTHWISE_CONV_2D": 4 * 4 * 4 * 3 * 3,
    "TRANSPOSE_CONV": 4 * 4 * 4 * 2 * 2 * 6,
    "FULLY_CONNECTED": 8 * 8 * 6 * 5,
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_macs_and_parameters(scheme: str, files: Any) -> None:
    """Multiply-accumulates by hand; parameters of Keras, whatever the scheme stores them as."""
    layers = INSPECTOR.layers(files[0][scheme])
    assert {layer.op: layer.macs for layer in layers if layer.macs} == MACS
    kept = {layer.op: layer.parameters for layer in layers if layer.op in MACS}
    assert kept["CONV_2D"] == 3 * 3 * 3 * 4 + 4
    assert sum(layer.parameters for layer in layers) == pytest.approx(
        files[1].count_params(), abs=16
    )  # absent zero biases


def test_bytes_of_weights_by_scheme(files: Any) -> None:
    def weights(scheme: str) -> int:
        return next(layer.bytes for layer in INSPECTOR.layers(files[0][scheme]) if layer.op == "FULLY_CONNECTED")

    count = 8 * 8 * 6 * 5
    assert weights("float32") == pytest.approx(4 * count, abs=20)
    assert weights("fp16") == pytest.approx(2 * count, abs=20)
    assert weights("int8") == pytest.approx(count, abs=40)
    assert weights("int8-weight-only") == pytest.approx(count, abs=20)
    assert weights("int4-weight-only") == pytest.approx(count / 2, abs=20)


def test_shapes_types_and_activation_memory(files: Any) -> None:
    conv = next(layer for layer in INSPECTOR.layers(files[0]["int8"]) if layer.op == "CONV_2D")
    assert conv.output[1:] == (8, 8, 4)
    assert conv.dtype == "int8"
    assert conv.activation_bytes == 8 * 8 * 4
    assert "conv" in conv.name
    first = next(layer for layer in INSPECTOR.layers(files[0]["float32"]) if layer.op == "CONV_2D")
    assert first.activation_bytes == 4 * conv.activation_bytes


def test_compare_orders_schemes_by_their_error(files: Any) -> None:
    paths, _, inputs = files
    last = {}
    for scheme in SCHEMES:
        errors = INSPECTOR.compare(paths["float32"], paths[scheme], {"x": inputs[:4]})
        assert [e.op for e in errors if e.op in MACS] == list(MACS)
        last[scheme] = errors[-1].sqnr_db
    assert last["float32"] == math.inf
    assert last["fp16"] > last["int8-weight-only"] > last["int4-weight-only"]
    assert last["int16x8"] > last["int8"] > 20


def test_compare_is_the_error_of_the_output(files: Any) -> None:
    """The last layer's figure is that of the outputs themselves."""
    from edgedl.engine import describe, predict

    paths, _, inputs = files
    a, b = (predict(describe(paths[s]), {"x": inputs[:8]})["dense"] for s in ("float32", "int8"))
    expected = 10 * np.log10((a.astype(np.float64) ** 2).sum() / ((a - b) ** 2).sum())
    errors = INSPECTOR.compare(paths["float32"], paths["int8"], {"x": inputs[:8]})
    assert errors[-1].sqnr_db == pytest.approx(expected, abs=1.0)  # other kernels: up to one step of difference


def test_compare_with_an_input_that_is_not_there(files: Any) -> None:
    with pytest.raises(ModelError, match="no input 'x'"):
        INSPECTOR.compare(files[0]["float32"], files[0]["int8"], {"y": files[2][:1]})


def test_custom_and_flex_operators_are_named() -> None:
    assert INSPECTOR.custom_ops(DATA / "tiny_float.tflite") == ()
    assert len(INSPECTOR.custom_ops(DATA / "custom.tflite")) == 1
    assert INSPECTOR.custom_ops(DATA / "flex.tflite")[0].startswith("Flex")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_reads_every_golden(path: Path) -> None:
    layers = INSPECTOR.layers(path)
    assert layers
    assert all(layer.macs >= 0 and layer.activation_bytes >= 0 for layer in layers)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_pack_is_the_inverse_of_parse(path: Path) -> None:
    model = fb.parse(path.read_bytes(), path.name)
    again = fb.parse(fb.pack(model), path.name)
    for one, other in zip(model.subgraphs, again.subgraphs, strict=True):
        assert [t.name for t in one.tensors] == [t.name for t in other.tensors]
        assert [(list(o.inputs), list(o.outputs)) for o in one.operators] == [
            (list(o.inputs), list(o.outputs)) for o in other.operators
        ]
        for a, b in zip(one.tensors, other.tensors, strict=True):
            x, y = fb.raw(model, a), fb.raw(again, b)
            assert (x is None) == (y is None)
            assert x is None or y is None or np.array_equal(x, y)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a .tflite"),
        (b"hello world", "not a .tflite"),
        (b"\x1c\0\0\0TFL3", "damaged"),
        (b"\xff" * 4 + b"TFL3", "damaged"),
    ],
)
def test_what_is_no_tflite(data: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=text):
        INSPECTOR.layers(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        INSPECTOR.layers(tmp_path / "none.tflite")


@settings(max_examples=150, deadline=None)
@given(
    file=st.sampled_from(FILES),
    cut=st.floats(0.01, 1.0),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 2**32 - 1)), max_size=6),
)
def test_damage_is_refused_or_read_but_never_crashes(file: Path, cut: float, edits: list[Any]) -> None:
    data = bytearray(file.read_bytes())
    for place, value in edits:
        at = min(int(place * len(data)), len(data) - 4)
        struct.pack_into("<I", data, at, value)
    with contextlib.suppress(ModelError):
        model = fb.parse(bytes(data[: max(8, int(cut * len(data)))]), "fuzzed")
        assert all(0 <= op.opcodeIndex < len(model.operatorCodes) for g in model.subgraphs for op in g.operators)
        fb.custom_names(model)


def test_a_flatbuffer_bomb_is_refused() -> None:
    """Many graphs that are one and the same table of tensors: small on disk, endless to read."""
    import flatbuffers

    s = fb.schema()
    builder = flatbuffers.Builder(1024)
    s.TensorStart(builder)
    tensor = s.TensorEnd(builder)
    s.SubGraphStartTensorsVector(builder, 20_000)
    for _ in range(20_000):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    s.SubGraphStart(builder)
    s.SubGraphAddTensors(builder, tensors)
    graph = s.SubGraphEnd(builder)
    s.ModelStartSubgraphsVector(builder, 20_000)
    for _ in range(20_000):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    s.ModelStart(builder)
    s.ModelAddSubgraphs(builder, graphs)
    builder.Finish(s.ModelEnd(builder), file_identifier=b"TFL3")
    with pytest.raises(ModelError, match="more parts than fit"):
        fb.parse(bytes(builder.Output()), "bomb")


def test_readable_names() -> None:
    assert readable("a/relu;b/conv/convolution;c") == "b/conv/convolution"
    assert readable("dense/BiasAdd") == "dense/BiasAdd"


@pytest.mark.acceptance
def test_real_files(assets: Path) -> None:
    """MACs as published: MobileNetV2 1.0 224 300 M, MLPerf Tiny ResNet-8 12.5 M, VWW 7.49 M; and a file LiteRT refuses."""
    folder = assets / "models"
    expected = {
        "coral_test_data/tf2_mobilenet_v2_1.0_224_ptq.tflite": 300_775_552,
        "mlperf_tiny/pretrainedResnet_quant.tflite": 12_501_632,
        "mlperf_tiny/vww_96_float.tflite": 7_489_664,
        "tflite_micro/person_detect.tflite": 7_157_888,
    }
    for name, macs in expected.items():
        assert sum(layer.macs for layer in INSPECTOR.layers(folder / name)) == macs
    for path in folder.rglob("*.tflite"):
        assert INSPECTOR.layers(path)
        assert Artifact.load(path) is None
