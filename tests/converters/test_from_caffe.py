"""The Caffe importer: held to OpenCV 4, to Caffe's own loops in numpy where OpenCV computes something else, and to
hostile files."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from edgedl.errors import EdgedlError, ModelError, UsageError
from edgedl.model import LoadOptions

pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

from edgedl.converters import _onnx
from edgedl.converters.from_caffe import source
from edgedl.converters.from_caffe.layers import LAYERS

IMAGE = (2, 4, 7, 6)
RNG = np.random.default_rng(0)


# a writer of caffemodels: protobuf's wire format by hand, so that the importer's schema does not check itself


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def block(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def blob(a: Any, *, old: bool = False) -> bytes:
    """A BlobProto: with a BlobShape, or the four numbers of old files."""
    a = np.asarray(a, np.float32)
    if not old:
        return block(7, block(1, b"".join(map(varint, a.shape)))) + block(5, a.tobytes())
    shape = (1,) * (4 - a.ndim) + a.shape
    return b"".join(varint(i << 3) + varint(d) for i, d in enumerate(shape, 1)) + block(5, a.tobytes())


def caffemodel(weights: Mapping[str, Sequence[Any]], *, v1: bool = False) -> bytes:
    name, blobs, layer = (4, 6, 2) if v1 else (1, 7, 100)
    return b"".join(
        block(layer, block(name, key.encode()) + b"".join(block(blobs, blob(a, old=v1)) for a in arrays))
        for key, arrays in weights.items()
    )


def inputs_text(shapes: Sequence[Sequence[int]]) -> str:
    names = ("data", "second", "third")
    dims = [" ".join(f"dim: {d}" for d in s) for s in shapes]
    return "".join(
        f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ {d} }} }} }}\n'
        for n, d in zip(names, dims, strict=False)
    )


def layer(kind: str, name: str, bottoms: str = "data", tops: str = "", more: str = "") -> str:
    ends = [*(f'bottom: "{b}"' for b in bottoms.split()), *(f'top: "{t}"' for t in (tops or name).split())]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(ends)} {more} }}\n'


def save(folder: Path, text: str, weights: Any = None, *, v1: bool = False) -> Path:
    """Both files; `weights` may be raw bytes. Returns the prototxt's path."""
    (folder / "m.prototxt").write_text(text)
    data = weights if isinstance(weights, bytes) else caffemodel(weights or {"unused": [[1.0]]}, v1=v1)
    (folder / "m.caffemodel").write_bytes(data)
    return folder / "m.prototxt"


def values(shape: Sequence[int]) -> Any:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def run(found: Any, **inputs: Any) -> dict[str, Any]:
    session = _onnx.session(found.proto)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def near(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """`tolerance` of the largest value: float32 sums in another order."""
    assert a.shape == b.shape
    assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


# layers against OpenCV


def conv(more: str) -> str:
    return layer("Convolution", "c", more=f"convolution_param {{ num_output: 6 {more} }}")


def deconv(more: str) -> str:
    return layer("Deconvolution", "c", more=f"convolution_param {{ num_output: 6 {more} }}")


def dense(more: str) -> str:
    return layer("InnerProduct", "c", more=f"inner_product_param {{ num_output: 5 {more} }}")


def pooling(more: str) -> str:
    return layer("Pooling", "p", more=f"pooling_param {{ {more} }}")


NORM = {"b": [values((4,)), np.abs(values((4,))) + 0.5, [2.0]]}
CASES: dict[str, tuple[str, Mapping[str, Sequence[Any]], Sequence[Sequence[int]]]] = {
    "conv": (conv("kernel_size: 3 stride: 2 pad: 1"), {"c": [values((6, 4, 3, 3)), values((6,))]}, [IMAGE]),
    "conv hw": (
        conv("kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 bias_term: false group: 2"),
        {"c": [values((6, 2, 3, 1))]}, [IMAGE],
    ),
    "conv dilated": (conv("kernel_size: 2 dilation: 2"), {"c": [values((6, 4, 2, 2)), values((6,))]}, [IMAGE]),
    "conv twice given": (conv("kernel_size: 3 kernel_size: 2 pad: 0 pad: 1"), {"c": [values((6, 4, 3, 2)), values((6,))]}, [IMAGE]),
    "deconv": (deconv("kernel_size: 4 stride: 2 pad: 1"), {"c": [values((4, 6, 4, 4)), values((6,))]}, [IMAGE]),
    "deconv group": (deconv("kernel_size: 3 stride: 2 group: 2 bias_term: false"), {"c": [values((4, 3, 3, 3))]}, [IMAGE]),
    "dense": (dense(""), {"c": [values((5, 168)), values((5,))]}, [IMAGE]),
    "dense of vectors": (dense("bias_term: false"), {"c": [values((5, 8))]}, [(2, 8)]),
    "dense rows": (dense("axis: 2"), {"c": [values((5, 6)), values((5,))]}, [(2, 3, 6)]),
    "batch norm": (layer("BatchNorm", "b"), NORM, [IMAGE]),
    "batch norm, scale in place": (
        layer("BatchNorm", "b", more="batch_norm_param { eps: 0.01 }") + layer("Scale", "s", "b", "b", "scale_param { bias_term: true }"),
        {**NORM, "s": [values((4,)), values((4,))]}, [IMAGE],
    ),
    "batch norm read twice": (
        layer("BatchNorm", "b") + layer("Scale", "s", "b") + layer("ReLU", "r", "b"), {**NORM, "s": [values((4,))]}, [IMAGE],
    ),
    "scale": (layer("Scale", "s", more="scale_param { bias_term: true }"), {"s": [values((4,)), values((4,))]}, [IMAGE]),
    "scale by an input": (layer("Scale", "s", "data second", more="scale_param { axis: 0 }"), {}, [IMAGE, (2, 4)]),
    "relu": (layer("ReLU", "r"), {}, [IMAGE]),
    "leaky": (layer("ReLU", "r", more="relu_param { negative_slope: 0.1 }"), {}, [IMAGE]),
    "prelu": (layer("PReLU", "r"), {"r": [values((4,))]}, [IMAGE]),
    "prelu shared": (layer("PReLU", "r", more="prelu_param { channel_shared: true }"), {"r": [[0.3]]}, [IMAGE]),
    "elu": (layer("ELU", "e", more="elu_param { alpha: 0.7 }"), {}, [IMAGE]),
    "sigmoid, tanh, abs, bnll": (
        layer("Sigmoid", "a") + layer("TanH", "b") + layer("AbsVal", "c") + layer("BNLL", "d"), {}, [IMAGE],
    ),
    "power": (layer("Power", "p", more="power_param { power: 2 scale: 0.5 shift: 3 }"), {}, [IMAGE]),
    "exp": (layer("Exp", "e", more="exp_param { base: 2 scale: 0.5 shift: 1 }"), {}, [IMAGE]),
    "dropout": (layer("Dropout", "d", "data", "data") + layer("ReLU", "r"), {}, [IMAGE]),
    "softmax": (layer("Softmax", "s"), {}, [IMAGE]),
    "softmax axis": (layer("Softmax", "s", more="softmax_param { axis: -1 }"), {}, [IMAGE]),
    "lrn": (layer("LRN", "n", more="lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 }"), {}, [IMAGE]),
    "sum": (layer("Eltwise", "e", "data second third", more="eltwise_param { coeff: 1 coeff: -0.5 coeff: 2 }"), {}, [IMAGE] * 3),
    "product": (layer("Eltwise", "e", "data second", more="eltwise_param { operation: PROD }"), {}, [IMAGE] * 2),
    "maximum": (layer("Eltwise", "e", "data second", more="eltwise_param { operation: MAX }"), {}, [IMAGE] * 2),
    "concat": (layer("Concat", "c", "data second"), {}, [IMAGE, (2, 3, 7, 6)]),
    "concat axis": (layer("Concat", "c", "data second", more="concat_param { axis: 2 }"), {}, [IMAGE, (2, 4, 2, 6)]),
    "slice points": (layer("Slice", "s", tops="a b c", more="slice_param { axis: 2 slice_point: 1 slice_point: 5 }"), {}, [IMAGE]),
    "split": (layer("Split", "s", tops="a b") + layer("ReLU", "r", "a") + layer("TanH", "t", "b"), {}, [IMAGE]),
    "flatten": (layer("Flatten", "f"), {}, [IMAGE]),
    "flatten some": (layer("Flatten", "f", more="flatten_param { axis: 1 end_axis: 2 }"), {}, [IMAGE]),
    "reshape": (layer("Reshape", "r", more="reshape_param { shape { dim: 0 dim: -1 dim: 3 } }"), {}, [IMAGE]),
    "reshape inner": (layer("Reshape", "r", more="reshape_param { axis: 1 num_axes: 2 shape { dim: 2 dim: 14 } }"), {}, [IMAGE]),
    "permute": (layer("Permute", "p", more="permute_param { order: 0 order: 2 order: 3 order: 1 }"), {}, [IMAGE]),
    "crop": (layer("Crop", "c", "data second", more="crop_param { axis: 2 offset: 1 offset: 2 }"), {}, [IMAGE, (2, 4, 3, 4)]),
    "shuffle": (layer("ShuffleChannel", "s", more="shuffle_channel_param { group: 2 }"), {}, [IMAGE]),
    "relu6": (layer("ReLU6", "r"), {}, [IMAGE]),
    "prior box": (
        layer("PriorBox", "p", "data second", more="prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 3 "
        "flip: true clip: true variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 offset: 0.5 }") + layer("ReLU", "r"),
        {}, [IMAGE, (2, 3, 60, 50)],
    ),
    "prior box with steps": (
        layer("PriorBox", "p", "data second", more="prior_box_param { min_size: 30 aspect_ratio: 2 flip: false clip: false "
        "step: 8 variance: 0.1 }") + layer("ReLU", "r"), {}, [IMAGE, (2, 3, 60, 50)],
    ),
    "normalize": (layer("Normalize", "n", more="norm_param { across_spatial: false channel_shared: false }"), {"n": [values((4,))]}, [IMAGE]),
    "global max": (pooling("pool: MAX global_pooling: true"), {}, [IMAGE]),
    "global mean": (pooling("pool: AVE global_pooling: true"), {}, [IMAGE]),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_layer_computes_what_opencv_does(case: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="needs pip install 'opencv-python-headless<5'")
    body, weights, shapes = CASES[case]
    found = source(save(tmp_path, inputs_text(shapes) + body, weights), LoadOptions())
    assert found.reference is not None
    inputs = {n: values(s) for n, s in zip(("data", "second", "third"), shapes, strict=False)}
    inputs = {i.name: inputs[i.name] for i in found.proto.graph.input}
    wanted = found.reference(inputs)
    for name, value in run(found, **inputs).items():
        near(value, wanted[name])


# layers against Caffe's own loops in numpy


def one(folder: Path, body: str, weights: Any = None, *shapes: Sequence[int]) -> Any:
    """The only output of a network of one layer, run on `values` of the shapes."""
    shapes = shapes or (IMAGE,)
    found = source(save(folder, inputs_text(shapes) + body, weights), LoadOptions())
    inputs = {i.name: values(s) for i, s in zip(found.proto.graph.input, shapes, strict=True)}
    return next(iter(run(found, **inputs).values()))


def caffe_pool(x: Any, kind: str, k: Any, s: Any, p: Any, *, up: bool = True) -> Any:
    """`PoolingLayer::Reshape` and `Forward_cpu`, loop by loop."""
    rounded = math.ceil if up else math.floor
    size = [rounded((x.shape[2 + i] + 2 * p[i] - k[i]) / s[i]) + 1 for i in (0, 1)]
    if any(p):
        size = [n - 1 if (n - 1) * s[i] >= x.shape[2 + i] + p[i] else n for i, n in enumerate(size)]
    out = np.zeros((*x.shape[:2], *size), np.float32)
    for row, column in itertools.product(*map(range, size)):
        start = [row * s[0] - p[0], column * s[1] - p[1]]
        end = [min(start[i] + k[i], x.shape[2 + i] + p[i]) for i in (0, 1)]
        count = (end[0] - start[0]) * (end[1] - start[1])
        a, b = [slice(max(start[i], 0), min(end[i], x.shape[2 + i])) for i in (0, 1)]
        window = x[:, :, a, b]
        out[:, :, row, column] = window.max((2, 3)) if kind == "MAX" else window.sum((2, 3)) / count
    return out


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["MAX", "AVE"]),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    up=st.booleans(),
)
def test_pooling_is_caffes(
    tmp_path_factory: Any, kind: str, size: Any, kernel: Any, stride: Any, pad: Any, up: bool
) -> None:
    assume(all(p < k <= n + 2 * p for p, k, n in zip(pad, kernel, size, strict=True)))
    more = f"pool: {kind} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
    more += f"pad_h: {pad[0]} pad_w: {pad[1]}" + ("" if up else " round_mode: FLOOR")
    x = values((2, 3, *size))
    path = save(tmp_path_factory.mktemp("p"), inputs_text([x.shape]) + pooling(more))
    try:
        found = source(path, LoadOptions())
    except ModelError as error:
        assert "lies outside of the input" in error.message
        assert up
        assert any((math.ceil((n - k) / s)) * s >= n for n, k, s in zip(size, kernel, stride, strict=True))
        return
    near(run(found, data=x)["p"], caffe_pool(x, kind, kernel, stride, pad, up=up))


def test_statistics_without_a_factor_are_nothing(tmp_path: Path) -> None:
    """A factor of 0 (a net that was never trained): mean 0 and variance 0."""
    found = one(tmp_path, layer("BatchNorm", "b", more="batch_norm_param { eps: 4 }"), {"b": [*NORM["b"][:2], [0.0]]})
    near(found, values(IMAGE) / 2)


def test_a_scale_behind_a_batch_norm_is_one_operator(tmp_path: Path) -> None:
    body, weights, shapes = CASES["batch norm, scale in place"]
    found = source(save(tmp_path, inputs_text(shapes) + body, weights), LoadOptions())
    assert [n.op_type for n in found.proto.graph.node] == ["BatchNormalization"]
    body, weights, shapes = CASES["batch norm read twice"]
    found = source(save(tmp_path, inputs_text(shapes) + body, weights), LoadOptions())
    assert [n.op_type for n in found.proto.graph.node] == ["BatchNormalization", "Mul", "Relu"]


X = values(IMAGE)
FORMULAS: dict[str, tuple[str, Any]] = {
    "mvn": (layer("MVN", "m", more="mvn_param { eps: 0.5 }"), (X - X.mean((2, 3), keepdims=True)) / (X.std((2, 3), keepdims=True) + 0.5)),
    "mvn across": (
        layer("MVN", "m", more="mvn_param { across_channels: true }"),
        (X - X.mean((1, 2, 3), keepdims=True)) / X.std((1, 2, 3), keepdims=True),
    ),
    "mean only": (layer("MVN", "m", more="mvn_param { normalize_variance: false }"), X - X.mean((2, 3), keepdims=True)),
    "lrn within": (
        layer("LRN", "n", more="lrn_param { local_size: 3 alpha: 2 beta: 0.6 norm_region: WITHIN_CHANNEL }"),
        X * (1 + 2 * caffe_pool(X * X, "AVE", (3, 3), (1, 1), (1, 1))) ** -0.6,
    ),
    "tile": (layer("Tile", "t", more="tile_param { axis: 1 tiles: 3 }"), np.tile(X, (1, 3, 1, 1))),
    "mean": (layer("Reduction", "r", more="reduction_param { operation: MEAN axis: 2 coeff: 3 }"), X.mean((2, 3)) * 3),
    "sum of absolutes": (layer("Reduction", "r", more="reduction_param { operation: ASUM axis: -1 }"), np.abs(X).sum(3)),
    "sum of squares": (layer("Reduction", "r", more="reduction_param { operation: SUMSQ axis: 1 }"), (X * X).sum((1, 2, 3))),
    "sum of all": (layer("Reduction", "r", more="reduction_param { axis: 0 coeff: 0.5 }"), X.sum() / 2),
    "arg max": (layer("ArgMax", "a", more="argmax_param { axis: 1 }"), X.argmax(1)[:, None].astype(np.float32)),
    "arg max of all": (layer("ArgMax", "a"), X.reshape(2, -1).argmax(1).reshape(2, 1, 1).astype(np.float32)),
    "maximum and where": (
        layer("ArgMax", "a", more="argmax_param { out_max_val: true top_k: 2 }"),
        np.stack([np.argsort(-X.reshape(2, -1))[:, :2].astype(np.float32), -np.sort(-X.reshape(2, -1))[:, :2]], 1),
    ),
    "log": (layer("Power", "p", more="power_param { power: 2 }") + layer("Log", "l", "p", more="log_param { base: 10 scale: 3 shift: 1 }"), np.log10(X * X * 3 + 1)),
    "exp e": (layer("Exp", "e"), np.exp(X)),
    "power of nothing": (layer("Power", "p"), X),
    "threshold": (layer("Threshold", "t", more="threshold_param { threshold: 0.5 }"), (X > 0.5).astype(np.float32)),
    "clip": (layer("Clip", "c", more="clip_param { min: -0.5 max: 1 }"), X.clip(-0.5, 1)),
    "swish": (layer("Swish", "s", more="swish_param { beta: 2 }"), X / (1 + np.exp(-2 * X))),
    "upsample": (layer("Upsample", "u", more="upsample_param { scale: 2 }"), X.repeat(2, 2).repeat(2, 3)),
    "dropout of a fork": (layer("Dropout", "d", more="dropout_param { dropout_ratio: 0.25 scale_train: false }"), X * 0.75),
    "permuted batch": (layer("Permute", "p", more="permute_param { order: 1 order: 0 }"), X.transpose(1, 0, 2, 3)),
    "declared batch": (layer("Reshape", "r", more="reshape_param { shape { dim: 2 dim: -1 } }"), X.reshape(2, -1)),
    "mixed batch": (layer("Reshape", "r", more="reshape_param { shape { dim: 4 dim: -1 } }"), X.reshape(4, -1)),
    "minimum": (layer("Power", "p", more="power_param { scale: 2 }") + layer("Eltwise", "e", "data p", more="eltwise_param { operation: MIN }"), np.minimum(X, 2 * X)),
    "bias of two": (layer("Reduction", "r", more="reduction_param { operation: MEAN axis: 2 }") + layer("Bias", "b", "data r", more="bias_param { axis: 0 }"), X + X.mean((2, 3), keepdims=True)),
    "data in place": (layer("ReLU", "a", "data", "data") + layer("Power", "p", "data", more="power_param { shift: 1 }"), X.clip(0) + 1),
    "equal slices": (layer("Slice", "s", tops="a b") + layer("Eltwise", "e", "a b", more="eltwise_param { coeff: 1 coeff: -1 }"), X[:, :2] - X[:, 2:]),
    "normalize": (layer("Normalize", "n", more="norm_param { across_spatial: true channel_shared: true }"), 3 * X / np.sqrt((X * X).sum((1, 2, 3), keepdims=True))),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(FORMULAS))
def test_a_layer_computes_its_formula(case: str, tmp_path: Path) -> None:
    body, wanted = FORMULAS[case]
    near(one(tmp_path, body, {"n": [[3.0]]}), np.asarray(wanted, np.float32))


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ("height: 13 width: 9", (13, 9)),
        ("zoom_factor: 3", (19, 16)),
        ("shrink_factor: 2", (4, 3)),
        ("shrink_factor: 2 zoom_factor: 3", (10, 7)),
    ],
)
def test_interp_aligns_corners(tmp_path: Path, more: str, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    wanted = torch.nn.functional.interpolate(torch.tensor(X), size=size, mode="bilinear", align_corners=True)
    near(one(tmp_path, layer("Interp", "i", more=f"interp_param {{ {more} }}")), wanted.numpy())


def test_embedding_and_axpy(tmp_path: Path) -> None:
    table, bias = values((9, 3)), values((3,))
    text = inputs_text([(2, 5)]) + layer("Embed", "e", more="embed_param { input_dim: 9 num_output: 3 }")
    index = np.array([[0, 1, 2, 3, 8], [8, 7, 0, 0, 1]], np.float32)
    found = run(source(save(tmp_path, text, {"e": [table, bias]}), LoadOptions()), data=index)["e"]
    near(found, table[index.astype(int)] + bias)
    a, x, y = values((2, 4, 1, 1)), values(IMAGE), values((2, 4, 7, 6)) + 1
    text = inputs_text([a.shape, x.shape, y.shape]) + layer("Axpy", "f", "data second third")
    near(run(source(save(tmp_path, text), LoadOptions()), data=a, second=x, third=y)["f"], a * x + y)


def test_every_layer_type_has_a_test() -> None:
    text = "".join([*(body for body, *_ in CASES.values()), *(body for body, _ in FORMULAS.values()), conv("")])
    elsewhere = {"Embed", "Axpy", "Interp", "Pooling", "DepthwiseConvolution", "ConvolutionDepthwise"}
    assert [kind for kind in LAYERS if f'type: "{kind}"' not in text and kind not in elsewhere] == []
