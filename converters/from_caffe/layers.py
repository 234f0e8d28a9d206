"""Caffe layers in ONNX: one function a layer type, found in one table. Each follows the layer's Forward_cpu."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ...artifact import Array
from .._onnx_build import (
    BATCH,
    MAX_NUMEL,
    Graph,
    Unsupported,
    Window,
    axis_of,
    pool,
    reshape,
    shuffle_channels,
    text,
)
from .net import Layer


class FixedBatch(Exception):
    """A layer mixes the images of a batch, so the batch size has to be the declared one."""


@dataclass(slots=True)
class CaffeGraph(Graph):
    """A Graph that knows the batch size the prototxt declares."""

    batch: int = 1

    def sizes(self, x: str) -> tuple[int, ...]:
        """A tensor's shape with the declared batch size."""
        shape = self.shape(x)
        head = (self.batch,) if shape[:1] == (BATCH,) else self.fixed(x, 0)[:1]
        return (*head, *self.fixed(x, 1))

    def is_open(self, x: str) -> bool:
        """Whether the batch size is left open."""
        return self.shape(x)[:1] == (BATCH,)

    def inner_axis(self, x: str, axis: int) -> int:
        """A checked axis that is not an open batch. Raises FixedBatch, Unsupported."""
        found = axis_of(axis, self.rank(x))
        if found == 0 and self.is_open(x):
            raise FixedBatch
        return found


Builder = Callable[[CaffeGraph, Layer, Sequence[str]], None]
LAYERS: dict[str, Builder] = {}
REFUSED = {  # known, and not imported
    "DetectionOutput": "non-maximum suppression is left to the application: end the model at this layer's inputs",
    "Python": "it runs Python code that is not in the file",
    "LSTM": "recurrent layers of Caffe carry their state in a separate input",
    "RNN": "recurrent layers of Caffe carry their state in a separate input",
    "BN": "forks give this name to layers with different weights; fold it into Scale with the fork's own tool",
    "ROIPooling": "regions of interest are not imported",
    "PSROIPooling": "regions of interest are not imported",
    "Proposal": "region proposals are not imported",
}


def builds(*types: str, bottoms: int | None = 1) -> Callable[[Builder], Builder]:
    """Register the builder of layer types with this many inputs (None: one or more)."""

    def register(builder: Builder) -> Builder:
        def checked(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
            if (bottoms is None and not xs) or (bottoms is not None and len(xs) != bottoms):
                raise Unsupported(f"it has {len(xs)} inputs where {'one or more' if bottoms is None else bottoms} fit")
            if not layer.tops:
                raise Unsupported("it has no output")
            builder(g, layer, xs)

        LAYERS.update(dict.fromkeys(types, checked))
        return builder

    return register


# convolution and inner products


@builds("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", bottoms=None)
def convolution(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Several inputs share the weights, as in Caffe."""
    p = layer.spec.convolution_param
    for x, out in _pairs(xs, layer):
        channels, *_ = _spatial_input(g, x, p)
        kernel, shared = _windows(g, x, p)
        group = channels if layer.type != "Convolution" and p.group == 1 else p.group
        _divides(group, channels, p.num_output)
        weight = layer.weight(0, (p.num_output, channels // group, *kernel))
        inputs = [x, g.constant(weight, f"{layer.name}/weight"), *_bias(g, layer, p.bias_term, p.num_output)]
        g.add("Conv", *inputs, name=layer.name, out=out, group=group, kernel_shape=kernel, **shared)


@builds("Deconvolution", bottoms=None)
def deconvolution(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Transposed convolution; its weights are ordered as ONNX wants them."""
    p = layer.spec.convolution_param
    for x, out in _pairs(xs, layer):
        channels, *_ = _spatial_input(g, x, p)
        kernel, shared = _windows(g, x, p)
        _divides(p.group, channels, p.num_output)
        weight = layer.weight(0, (channels, p.num_output // p.group, *kernel))
        inputs = [x, g.constant(weight, f"{layer.name}/weight"), *_bias(g, layer, p.bias_term, p.num_output)]
        g.add("ConvTranspose", *inputs, name=layer.name, out=out, group=p.group, kernel_shape=kernel, **shared)


def _pairs(xs: Sequence[str], layer: Layer) -> list[tuple[str, str]]:
    if len(xs) != len(layer.tops):
        raise Unsupported(f"it has {len(xs)} inputs and {len(layer.tops)} outputs")
    return list(zip(xs, layer.tops, strict=True))


def _spatial_input(g: CaffeGraph, x: str, p: Any) -> tuple[int, ...]:
    if g.rank(x) not in (3, 4, 5) or p.axis not in (1, 1 - g.rank(x)):
        raise Unsupported(f"only axis 1 of an input with 1 to 3 spatial dimensions is imported, not {text(g.shape(x))}")
    return g.fixed(x)


def _divides(group: int, channels: int, outputs: int) -> None:
    if group < 1 or outputs < 1 or channels % group or outputs % group:
        raise Unsupported(f"{group} groups do not fit {channels} channels in and {outputs} out")


def _windows(g: CaffeGraph, x: str, p: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Kernel sizes, and strides, pads and dilations as ONNX's attributes."""
    n = g.rank(x) - 2
    pads = _each(p, "pad", n, 0)
    kernel = _each(p, "kernel", n, None)
    return kernel, {
        "strides": _each(p, "stride", n, 1),
        "pads": (*pads, *pads),
        "dilations": _each(p, "dilation", n, 1),
    }


def _each(p: Any, what: str, n: int, default: int | None) -> tuple[int, ...]:
    """A parameter of every spatial dimension: given once for all, once for each, or as *_h and *_w."""
    names = {f.name for f in p.DESCRIPTOR.fields}
    if f"{what}_h" in names and (p.HasField(f"{what}_h") or p.HasField(f"{what}_w")):
        values = [getattr(p, f"{what}_h"), getattr(p, f"{what}_w")]
    else:
        found = getattr(p, "kernel_size" if what == "kernel" else what)
        values = [found] if isinstance(found, int) else list(found)
        values = values * n if len(values) == 1 else values
    if not values and default is not None:
        values = [default] * n
    if len(values) != n or any(v > 1 << 16 or (v < 1 and what != "pad") for v in values):
        raise Unsupported(f"its {what} {values} does not fit {n} spatial dimensions")
    return tuple(values)


def _bias(g: CaffeGraph, layer: Layer, has: bool, n: int) -> list[str]:
    return [g.constant(layer.weight(1, (n,)), f"{layer.name}/bias")] if has else []


@builds("InnerProduct")
def inner_product(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """All dimensions from `axis` on are one vector."""
    p = layer.spec.inner_product_param
    axis = g.inner_axis(xs[0], p.axis)
    inner = math.prod(g.sizes(xs[0])[axis:])
    shape = (inner, p.num_output) if p.transpose else (p.num_output, inner)
    weight = layer.weight(0, shape)
    if axis == 1:
        flat = xs[0] if g.rank(xs[0]) == 2 else g.add("Flatten", xs[0], name=f"{layer.name}/flatten", axis=1)
        inputs = [flat, g.constant(weight, f"{layer.name}/weight"), *_bias(g, layer, p.bias_term, p.num_output)]
        g.add("Gemm", *inputs, name=layer.name, out=layer.tops[0], transB=int(not p.transpose))
        return
    rows = reshape(g, xs[0], (*_keep(g, xs[0], axis), inner), f"{layer.name}/flatten")
    matrix = g.constant(weight if p.transpose else weight.T, f"{layer.name}/weight")
    if not p.bias_term:
        g.add("MatMul", rows, matrix, name=layer.name, out=layer.tops[0])
        return
    y = g.add("MatMul", rows, matrix, name=layer.name)
    g.add(
        "Add",
        y,
        g.constant(layer.weight(1, (p.num_output,)), f"{layer.name}/bias"),
        name=f"{layer.name}/add",
        out=layer.tops[0],
    )


def _keep(g: CaffeGraph, x: str, axis: int) -> tuple[int, ...]:
    """The first `axis` dimensions as Reshape wants them."""
    return (0, *g.sizes(x)[1:axis]) if axis else ()


@builds("Embed")
def embed(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Rows of a table, by indices that Caffe holds as floats."""
    p = layer.spec.embed_param
    index = g.add("Cast", xs[0], name=f"{layer.name}/index", to=7)
    table = g.constant(layer.weight(0, (p.input_dim, p.num_output)), f"{layer.name}/weight")
    if not p.bias_term:
        g.add("Gather", table, index, name=layer.name, out=layer.tops[0], axis=0)
        return
    y = g.add("Gather", table, index, name=layer.name, axis=0)
    g.add(
        "Add",
        y,
        g.constant(layer.weight(1, (p.num_output,)), f"{layer.name}/bias"),
        name=f"{layer.name}/add",
        out=layer.tops[0],
    )


# pooling and normalization


@builds("Pooling")
def pooling(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """`PoolingLayer::Reshape`: the size is rounded up; with padding, no window starts beyond the image and its pad."""
    p, (x,), (out, *rest) = layer.spec.pooling_param, xs, layer.tops
    if rest:
        raise Unsupported("its second output, the positions of the maxima, is not imported")
    if g.rank(x) != 4 or p.pool == 2:
        raise Unsupported("stochastic pooling" if p.pool == 2 else f"its input is {text(g.shape(x))}, not an image")
    if p.global_pooling:
        g.add("GlobalAveragePool" if p.pool else "GlobalMaxPool", x, name=layer.name, out=out)
        return
    sizes = g.fixed(x, 2)
    kernel, stride, pads = _each(p, "kernel", 2, None), _each(p, "stride", 2, 1), _each(p, "pad", 2, 0)
    up = p.ceil_mode and p.round_mode == 0
    count = [
        pooled(s, k, st, pa, up=up, clip=any(pads)) for s, k, st, pa in zip(sizes, kernel, stride, pads, strict=True)
    ]
    if any(n < 1 for n in count) or any(pa >= k for pa, k in zip(pads, kernel, strict=True)):
        raise Unsupported(f"a window of {text(kernel)} with padding {text(pads)} does not fit {text(sizes)}")
    pool(g, x, "avg" if p.pool else "max", Window(kernel, stride, pads, tuple(count)), layer.name, out)


def pooled(size: int, kernel: int, stride: int, padding: int, *, up: bool, clip: bool) -> int:
    """How many windows Caffe's pooling takes.

    >>> pooled(6, 3, 2, 0, up=True, clip=False), pooled(6, 2, 2, 1, up=True, clip=True)
    (3, 4)
    """
    free = size + 2 * padding - kernel
    n = (-(-free // stride) if up else free // stride) + 1
    return n - 1 if clip and (n - 1) * stride >= size + padding else n


@builds("BatchNorm")
def batch_norm(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Statistics are stored unscaled, with the factor they are to be divided by. No gain or bias of its own."""
    n = _channels(g, xs[0])
    own = layer.spec.batch_norm_param.scale_bias
    gain, bias = (layer.weight(3, (n,)), layer.weight(4, (n,))) if own else (np.ones(n), np.zeros(n))
    normalize(g, layer, xs[0], gain, bias, layer.name, layer.tops[0])


def batch_norm_scale(g: CaffeGraph, layer: Layer, scale: Layer, x: str) -> None:
    """BatchNorm and the Scale behind it as one operator."""
    n = _channels(g, x)
    bias = scale.weight(1, (n,)) if scale.spec.scale_param.bias_term else np.zeros(n)
    normalize(g, layer, x, scale.weight(0, (n,)), bias, layer.name, scale.tops[0])


def fuses(norm: Layer, scale: Layer) -> bool:
    """Whether `scale` only adds gain and bias to the channels that `norm` normalizes."""
    if (norm.type, scale.type) != ("BatchNorm", "Scale") or norm.spec.batch_norm_param.scale_bias:
        return False
    p = scale.spec.scale_param
    return scale.bottoms == norm.tops and p.axis == 1 and p.num_axes == 1


def _channels(g: CaffeGraph, x: str) -> int:
    if g.rank(x) < 2:
        raise Unsupported(f"its input {text(g.shape(x))} has no channels")
    return g.fixed(x, 1)[0]


def normalize(g: CaffeGraph, layer: Layer, x: str, gain: Array, bias: Array, name: str, out: str) -> None:
    """A BatchNormalization with the stored statistics."""
    p = layer.spec.batch_norm_param
    if p.HasField("use_global_stats") and not p.use_global_stats:
        raise Unsupported("use_global_stats: false normalizes by the statistics of each batch; set it to true")
    n = _channels(g, x)
    factor = float(layer.weight(2, (1,))[0])
    factor = 0.0 if factor == 0 else 1.0 / factor
    parts = {"scale": gain, "bias": bias, "mean": layer.weight(0, (n,)) * factor, "var": layer.weight(1, (n,)) * factor}
    inputs = [g.constant(np.asarray(v, np.float32), f"{name}/{k}") for k, v in parts.items()]
    g.add("BatchNormalization", x, *inputs, name=name, out=out, epsilon=p.eps)


@builds("LRN")
def lrn(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Local response normalization, across channels or within one."""
    p, x = layer.spec.lrn_param, xs[0]
    if p.local_size % 2 == 0:
        raise Unsupported(f"its local_size {p.local_size} is not odd")
    if p.norm_region == 0:
        g.add("LRN", x, name=layer.name, out=layer.tops[0], size=p.local_size, alpha=p.alpha, beta=p.beta, bias=p.k)
        return
    half = (p.local_size - 1) // 2
    square = g.add("Mul", x, x, name=f"{layer.name}/square")
    window = Window((p.local_size,) * 2, (1, 1), (half, half), g.fixed(x, 2))
    mean = pool(g, square, "avg", window, f"{layer.name}/pool")
    power = _affine_power(g, mean, p.alpha, 1.0, -p.beta, f"{layer.name}/power", "")
    g.add("Mul", x, power, name=layer.name, out=layer.tops[0])


@builds("MVN")
def mvn(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Mean-variance normalization; here eps is added to the deviation, not to the variance."""
    p, x, name = layer.spec.mvn_param, xs[0], layer.name
    if g.rank(x) != 4:
        raise Unsupported(f"its input is {text(g.shape(x))}, not an image")
    axes = (1, 2, 3) if p.across_channels else (2, 3)
    mean = g.add("ReduceMean", x, name=f"{name}/mean", axes=axes, keepdims=1)
    if not p.normalize_variance:
        g.add("Sub", x, mean, name=name, out=layer.tops[0])
        return
    centred = g.add("Sub", x, mean, name=f"{name}/centre")
    square = g.add("Mul", centred, centred, name=f"{name}/square")
    variance = g.add("ReduceMean", square, name=f"{name}/variance", axes=axes, keepdims=1)
    deviation = g.add("Sqrt", variance, name=f"{name}/deviation")
    divisor = g.add("Add", deviation, g.scalar(p.eps, x, f"{name}/eps"), name=f"{name}/divisor")
    g.add("Div", centred, divisor, name=name, out=layer.tops[0])


@builds("Normalize")
def l2_normalize(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """SSD's L2 normalization with a learned gain (`normalize_layer.cpp` of weiliu89/caffe)."""
    p, x, name = layer.spec.norm_param, xs[0], layer.name
    channels, *sizes = g.fixed(x, 1)
    axes = tuple(range(1, g.rank(x))) if p.across_spatial else (1,)
    square = g.add("Mul", x, x, name=f"{name}/square")
    total = g.add("ReduceSum", square, g.ints(axes, f"{name}/axes"), name=f"{name}/sum", keepdims=1)
    safe = g.add("Add", total, g.scalar(p.eps, x, f"{name}/eps"), name=f"{name}/safe")
    norm = g.add("Sqrt", safe, name=f"{name}/norm")
    unit = g.add("Div", x, norm, name=f"{name}/unit")
    n = 1 if p.channel_shared else channels
    gain = layer.weight(0, (n,)).reshape(n, *(1 for _ in sizes))
    g.add("Mul", unit, g.constant(gain, f"{name}/scale"), name=name, out=layer.tops[0])


# element by element


@builds("ReLU")
def relu(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """With a slope for negative values where one is given."""
    slope = layer.spec.relu_param.negative_slope
    if slope:
        g.add("LeakyRelu", xs[0], name=layer.name, out=layer.tops[0], alpha=slope)
    else:
        g.add("Relu", xs[0], name=layer.name, out=layer.tops[0])


@builds("PReLU")
def prelu(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """One slope for each channel, or one for all."""
    channels, *sizes = g.fixed(xs[0], 1)
    n = 1 if layer.spec.prelu_param.channel_shared else channels
    slope = layer.weight(0, (n,)).reshape(n, *(1 for _ in sizes))
    g.add("PRelu", xs[0], g.constant(slope, f"{layer.name}/slope"), name=layer.name, out=layer.tops[0])


@builds("ReLU6")
def relu6(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """ReLU up to 6."""
    _clip(g, layer, xs[0], 0.0, 6.0)


@builds("Clip")
def clip(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Limited to [min, max]."""
    _clip(g, layer, xs[0], layer.spec.clip_param.min, layer.spec.clip_param.max)


def _clip(g: CaffeGraph, layer: Layer, x: str, low: float, high: float) -> None:
    limits = (g.scalar(low, x, f"{layer.name}/min"), g.scalar(high, x, f"{layer.name}/max"))
    g.add("Clip", x, *limits, name=layer.name, out=layer.tops[0])


def _same_name(op: str) -> Builder:
    def build(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
        g.add(op, xs[0], name=layer.name, out=layer.tops[0])

    return build


for _type, _op in {"Sigmoid": "Sigmoid", "TanH": "Tanh", "AbsVal": "Abs", "BNLL": "Softplus"}.items():
    builds(_type)(_same_name(_op))


@builds("ELU")
def elu(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Exponential linear unit."""
    g.add("Elu", xs[0], name=layer.name, out=layer.tops[0], alpha=layer.spec.elu_param.alpha)


@builds("Swish")
def swish(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """x * sigmoid(beta * x)."""
    inner = _scaled(g, xs[0], layer.spec.swish_param.beta, f"{layer.name}/scale")
    gate = g.add("Sigmoid", inner, name=f"{layer.name}/sigmoid")
    g.add("Mul", xs[0], gate, name=layer.name, out=layer.tops[0])


@builds("Threshold")
def threshold(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """1 where x is above the threshold, else 0."""
    limit = g.scalar(layer.spec.threshold_param.threshold, xs[0], f"{layer.name}/threshold")
    above = g.add("Greater", xs[0], limit, name=f"{layer.name}/greater")
    g.add("Cast", above, name=layer.name, out=layer.tops[0], to=1)


@builds("Power")
def power(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """(shift + scale * x) ^ power."""
    p = layer.spec.power_param
    _affine_power(g, xs[0], p.scale, p.shift, p.power, layer.name, layer.tops[0])


def _affine_power(g: CaffeGraph, x: str, scale: float, shift: float, exponent: float, name: str, out: str) -> str:
    """The steps that are not the identity; `out` is the name of the last."""
    steps = [("Mul", scale, 1.0), ("Add", shift, 0.0), ("Pow", exponent, 1.0)]
    steps = [(op, value, idle) for op, value, idle in steps if value != idle]
    if not steps:
        return g.add("Identity", x, name=name, out=out)
    for i, (op, value, _) in enumerate(steps):
        last = i == len(steps) - 1
        by = g.scalar(value, x, f"{name}/{op.lower()}")
        x = g.add(op, x, by, name=name if last else f"{name}/{op}", out=out if last else "")
    return x


def _scaled(g: CaffeGraph, x: str, scale: float, name: str) -> str:
    return x if scale == 1 else g.add("Mul", x, g.scalar(scale, x, f"{name}/by"), name=name)


@builds("Exp")
def exp(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """base ^ (shift + scale * x)."""
    p = layer.spec.exp_param
    log_base = _log_base(p.base)
    inner = _affine_power(g, xs[0], p.scale * log_base, p.shift * log_base, 1.0, f"{layer.name}/inner", "")
    g.add("Exp", inner, name=layer.name, out=layer.tops[0])


@builds("Log")
def log(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """log_base(shift + scale * x)."""
    p = layer.spec.log_param
    inner = _affine_power(g, xs[0], p.scale, p.shift, 1.0, f"{layer.name}/inner", "")
    log_base = _log_base(p.base)
    if log_base == 1:
        g.add("Log", inner, name=layer.name, out=layer.tops[0])
    else:
        natural = g.add("Log", inner, name=f"{layer.name}/log")
        g.add("Mul", natural, g.scalar(1 / log_base, xs[0], f"{layer.name}/by"), name=layer.name, out=layer.tops[0])


def _log_base(base: float) -> float:
    """The natural logarithm of a base; -1 stands for e."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf or base == 1:
        raise Unsupported(f"its base {base:g} is not a positive number other than 1")
    return math.log(base)


@builds("Dropout")
def dropout(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Nothing at inference; kept as an operator, so that the model can be trained on."""
    p = layer.spec.dropout_param
    if not p.scale_train:
        _affine_power(g, xs[0], 1 - p.dropout_ratio, 0.0, 1.0, layer.name, layer.tops[0])
        return
    ratio = g.constant(np.float32(p.dropout_ratio), f"{layer.name}/ratio")
    g.add_many("Dropout", xs[0], ratio, name=layer.name, outs=(layer.tops[0],))


@builds("Softmax")
def softmax(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Over the channels, unless told otherwise."""
    axis = g.inner_axis(xs[0], layer.spec.softmax_param.axis)
    g.add("Softmax", xs[0], name=layer.name, out=layer.tops[0], axis=axis)


# several inputs


@builds("Eltwise", bottoms=None)
def eltwise(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Product, sum with a factor for each input, maximum or (in forks) minimum."""
    p = layer.spec.eltwise_param
    if len({g.shape(x) for x in xs}) > 1:
        raise Unsupported("its inputs differ in shape: " + ", ".join(text(g.shape(x)) for x in xs))
    if p.coeff and (len(p.coeff) != len(xs) or p.operation != 1):
        raise Unsupported(f"{len(p.coeff)} factors do not fit {len(xs)} inputs of this operation")
    terms = [_scaled(g, x, c, f"{layer.name}/coeff") for x, c in zip(xs, p.coeff or [1.0] * len(xs), strict=True)]
    op = ("Mul", "Add", "Max", "Min")[p.operation]
    if len(terms) == 1:
        g.add("Identity", terms[0], name=layer.name, out=layer.tops[0])
    elif op in ("Max", "Min"):
        g.add(op, *terms, name=layer.name, out=layer.tops[0])
    else:
        y = terms[0]
        for i, term in enumerate(terms[1:]):
            last = i == len(terms) - 2
            y = g.add(op, y, term, name=layer.name if last else f"{layer.name}/{i}", out=layer.tops[0] if last else "")


@builds("Concat", bottoms=None)
def concat(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Along the channels, unless told otherwise."""
    p = layer.spec.concat_param
    axis = g.inner_axis(xs[0], p.concat_dim if p.HasField("concat_dim") else p.axis)
    g.add("Concat", *xs, name=layer.name, out=layer.tops[0], axis=axis)


@builds("Scale", "Bias", bottoms=None)
def scale_or_bias(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """A product or a sum with a learned tensor or a second input, whose first dimension belongs to `axis`."""
    p = layer.spec.scale_param if layer.type == "Scale" else layer.spec.bias_param
    op = "Mul" if layer.type == "Scale" else "Add"
    x = xs[0]
    if len(xs) > 2:
        raise Unsupported(f"it has {len(xs)} inputs where 1 or 2 fit")
    axis = axis_of(p.axis, g.rank(x) + (1 if p.num_axes == 0 and len(xs) == 1 else 0))
    if len(xs) == 2:
        by, shape = _aligned(g, x, xs[1], axis, layer.name), None
    else:
        shape = _covered(g, x, axis, p.num_axes)
        by = _learned(g, layer, 0, shape, g.rank(x) - axis, f"{layer.name}/{layer.type.lower()}")
    if layer.type == "Bias" or not p.bias_term:
        g.add(op, x, by, name=layer.name, out=layer.tops[0])
        return
    y = g.add(op, x, by, name=layer.name)
    if shape is None:
        shape = tuple(g.sizes(xs[1]))
    bias = _learned(g, layer, 2 - len(xs), shape, g.rank(x) - axis, f"{layer.name}/bias")
    g.add("Add", y, bias, name=f"{layer.name}/add", out=layer.tops[0])


def _covered(g: CaffeGraph, x: str, axis: int, num_axes: int) -> tuple[int, ...]:
    if num_axes != 0:
        g.inner_axis(x, axis)
    end = g.rank(x) if num_axes == -1 else axis + num_axes
    if not axis <= end <= g.rank(x):
        raise Unsupported(f"its num_axes {num_axes} does not fit the input {text(g.shape(x))}")
    return g.sizes(x)[axis:end]


def _learned(g: CaffeGraph, layer: Layer, index: int, shape: tuple[int, ...], room: int, name: str) -> str:
    ones = (1,) * (room - len(shape))
    return g.constant(layer.weight(index, shape).reshape(*shape, *ones), name)


def _aligned(g: CaffeGraph, x: str, by: str, axis: int, name: str) -> str:
    """A second input with as many dimensions behind it as it takes to stand at `axis`."""
    behind = g.rank(x) - axis - g.rank(by)
    if behind < 0 or g.sizes(x)[axis : axis + g.rank(by)] != g.sizes(by):
        raise Unsupported(f"its inputs {text(g.shape(x))} and {text(g.shape(by))} do not fit at axis {axis}")
    if not behind:
        return by
    axes = tuple(range(g.rank(by), g.rank(by) + behind))
    return g.add("Unsqueeze", by, g.ints(axes, f"{name}/axes"), name=f"{name}/unsqueeze")


@builds("Axpy", bottoms=3)
def axpy(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """a * x + y with one a for each channel (SENet)."""
    a, x, y = xs
    channels = g.fixed(x, 1)[0]
    gain = reshape(g, a, (0, channels, *(1 for _ in g.fixed(x, 2))), f"{layer.name}/gain")
    product = g.add("Mul", x, gain, name=f"{layer.name}/scale")
    g.add("Add", product, y, name=layer.name, out=layer.tops[0])


# shapes


@builds("Flatten")
def flatten(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """The dimensions from `axis` to `end_axis` become one."""
    p, x = layer.spec.flatten_param, xs[0]
    start, end = g.inner_axis(x, p.axis), axis_of(p.end_axis, g.rank(x), "end_axis")
    if start == 1 and end == g.rank(x) - 1:
        g.add("Flatten", x, name=layer.name, out=layer.tops[0], axis=1)
        return
    if start > end:
        raise Unsupported(f"its end_axis {p.end_axis} lies before its axis {p.axis}")
    sizes = g.sizes(x)
    merged = math.prod(sizes[start : end + 1])
    reshape(g, x, (*_keep(g, x, start), merged, *sizes[end + 1 :]), layer.name, layer.tops[0])


@builds("Reshape")
def reshape_layer(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """The declared batch size written as a number is taken for the batch where the rest fits one image."""
    p, x = layer.spec.reshape_param, xs[0]
    shape = _target(g.sizes(x), tuple(p.shape.dim), p.axis, p.num_axes)
    if g.is_open(x):
        if math.prod(shape[1:]) != math.prod(g.sizes(x)[1:]) or not shape:
            raise FixedBatch
        shape = (0, *shape[1:])
    reshape(g, x, shape, layer.name, layer.tops[0])


def _target(sizes: tuple[int, ...], dims: tuple[int, ...], axis: int, num_axes: int) -> tuple[int, ...]:
    """The shape that a Reshape layer makes (`ReshapeLayer::Reshape`)."""
    start = axis if axis >= 0 else len(sizes) + axis + 1
    end = len(sizes) if num_axes == -1 else start + num_axes
    if not 0 <= start <= end <= len(sizes) or num_axes < -1:
        raise Unsupported(f"its axis {axis} and num_axes {num_axes} do not fit an input of {text(sizes)}")
    if (
        any(d < -1 for d in dims)
        or dims.count(-1) > 1
        or any(d == 0 and start + i >= len(sizes) for i, d in enumerate(dims))
    ):
        raise Unsupported(f"its shape {dims} cannot be read for an input of {text(sizes)}")
    middle = [sizes[start + i] if d == 0 else d for i, d in enumerate(dims)]
    shape = [*sizes[:start], *middle, *sizes[end:]]
    if -1 in shape:
        known = math.prod(d for d in shape if d != -1)
        shape[shape.index(-1)] = math.prod(sizes) // known if known else 0
    if math.prod(shape) != math.prod(sizes) or not all(0 < d < MAX_NUMEL for d in shape):
        raise Unsupported(f"an input of {text(sizes)} does not fit its shape {dims}")
    return tuple(shape)


@builds("Permute")
def permute(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Axes that are not named keep their order, behind those that are."""
    x, order = xs[0], [int(i) for i in layer.spec.permute_param.order]
    order += [i for i in range(g.rank(x)) if i not in order]
    if sorted(order) != list(range(g.rank(x))):
        raise Unsupported(f"its order {order} does not fit an input of {text(g.shape(x))}")
    if order[:1] != [0] and g.is_open(x):
        raise FixedBatch
    g.add("Transpose", x, name=layer.name, out=layer.tops[0], perm=order)


@builds("Slice")
def slice_layer(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """One output between each two slice points, or equal parts."""
    p, x = layer.spec.slice_param, xs[0]
    axis = g.inner_axis(x, p.slice_dim if p.HasField("slice_dim") else p.axis)
    size = g.sizes(x)[axis]
    points = (
        [0, *p.slice_point, size]
        if p.slice_point
        else [size * i // len(layer.tops) for i in range(len(layer.tops) + 1)]
    )
    parts = [b - a for a, b in pairwise(points)]
    if len(parts) != len(layer.tops) or any(n < 1 for n in parts) or (not p.slice_point and size % len(layer.tops)):
        raise Unsupported(f"{size} cannot be cut into {len(layer.tops)} outputs at {list(p.slice_point)}")
    g.add_many("Split", x, g.ints(parts, f"{layer.name}/split"), name=layer.name, outs=layer.tops, axis=axis)


@builds("Split")
def split(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """The same value under several names."""
    for top in layer.tops:
        g.add("Identity", xs[0], name=layer.name, out=top)


@builds("Crop", bottoms=2)
def crop(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """The first input cut to the size of the second, from `axis` on."""
    p, x = layer.spec.crop_param, xs[0]
    axis = g.inner_axis(x, p.axis)
    sizes, target = g.sizes(x)[axis:], g.sizes(xs[1])[axis:]
    starts = list(p.offset) * (len(sizes) if len(p.offset) == 1 else 1) or [0] * len(sizes)
    if not len(sizes) == len(target) == len(starts):
        raise Unsupported(f"{len(starts)} offsets do not fit {len(sizes)} cropped axes")
    ends = [a + n for a, n in zip(starts, target, strict=True)]
    if any(b > n for b, n in zip(ends, sizes, strict=True)):
        raise Unsupported(f"{text(target)} from {starts} on does not lie in {text(sizes)}")
    axes = tuple(range(axis, g.rank(x)))
    bounds = [g.ints(v, f"{layer.name}/{k}") for k, v in (("starts", starts), ("ends", ends), ("axes", axes))]
    g.add("Slice", x, *bounds, name=layer.name, out=layer.tops[0])


@builds("Tile")
def tile(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Copies along one axis."""
    p = layer.spec.tile_param
    axis = g.inner_axis(xs[0], p.axis)
    if not 0 < p.tiles < 1 << 16:
        raise Unsupported(f"{p.tiles} copies")
    repeats = [p.tiles if i == axis else 1 for i in range(g.rank(xs[0]))]
    g.add("Tile", xs[0], g.ints(repeats, f"{layer.name}/repeats"), name=layer.name, out=layer.tops[0])


@builds("Reduction")
def reduction(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Sum, sum of absolute values, sum of squares or mean over all dimensions from `axis` on."""
    p, x = layer.spec.reduction_param, xs[0]
    axes = tuple(range(g.inner_axis(x, p.axis), g.rank(x)))
    factor = p.coeff / (math.prod(g.sizes(x)[axes[0] :]) if p.operation == 4 else 1)
    if p.operation == 2:
        x = g.add("Abs", x, name=f"{layer.name}/abs")
    elif p.operation == 3:
        x = g.add("Mul", x, x, name=f"{layer.name}/square")
    if p.operation == 4:
        total = g.add("ReduceMean", x, name=f"{layer.name}/reduce", axes=axes, keepdims=0)
        factor = p.coeff
    else:
        total = g.add("ReduceSum", x, g.ints(axes, f"{layer.name}/axes"), name=f"{layer.name}/reduce", keepdims=0)
    _affine_power(g, total, factor, 0.0, 1.0, layer.name, layer.tops[0])


@builds("ArgMax")
def arg_max(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Positions as floats, or values; without an axis over the whole image, as N x (1 or 2) x top_k."""
    p, x = layer.spec.argmax_param, xs[0]
    whole = not p.HasField("axis")
    axis = 1 if whole else g.inner_axis(x, p.axis)
    if whole:
        x = g.add("Flatten", x, name=f"{layer.name}/flatten", axis=1)
    if not 0 < p.top_k <= g.sizes(x)[axis]:
        raise Unsupported(f"its top_k {p.top_k} does not fit an input of {text(g.shape(x))}")
    k = g.ints((p.top_k,), f"{layer.name}/k")
    outs = (g.fresh(f"{layer.name}/values"), g.fresh(f"{layer.name}/indices"))
    values, indices = g.add_many("TopK", x, k, name=f"{layer.name}/top", outs=outs, axis=axis)
    if not whole:
        if p.out_max_val:
            g.add("Identity", values, name=layer.name, out=layer.tops[0])
        else:
            g.add("Cast", indices, name=layer.name, out=layer.tops[0], to=1)
        return
    axes = g.ints((1,), f"{layer.name}/axes")
    found = g.add("Cast", indices, name=f"{layer.name}/cast", to=1)
    if not p.out_max_val:
        g.add("Unsqueeze", found, axes, name=layer.name, out=layer.tops[0])
        return
    both = [g.add("Unsqueeze", v, axes, name=f"{layer.name}/row") for v in (found, values)]
    g.add("Concat", *both, name=layer.name, out=layer.tops[0], axis=1)


@builds("ShuffleChannel")
def shuffle_channel(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """ShuffleNet's fork."""
    shuffle_channels(g, xs[0], layer.spec.shuffle_channel_param.group, layer.name, layer.tops[0])


# sizes of images


@builds("Interp")
def interp(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Bilinear with aligned corners (`interp_layer.cpp` of DeepLab and PSPNet); negative padding crops."""
    p, x = layer.spec.interp_param, xs[0]
    sizes = g.fixed(x, 2)
    if p.pad_beg > 0 or p.pad_end > 0 or len(sizes) != 2:
        raise Unsupported("its padding is not negative" if len(sizes) == 2 else "its input is not an image")
    cut = [s + p.pad_beg + p.pad_end for s in sizes]
    size = [_interp_size(p, s, given) for s, given in zip(cut, (p.height, p.width), strict=True)]
    if p.pad_beg or p.pad_end:
        ends = [s + p.pad_end for s in sizes]
        named = (("starts", [-p.pad_beg] * 2), ("ends", ends), ("axes", (2, 3)))
        x = g.add("Slice", x, *(g.ints(v, f"{layer.name}/{k}") for k, v in named), name=f"{layer.name}/crop")
    resize(g, x, size, layer.name, layer.tops[0], mode="linear", coordinate_transformation_mode="align_corners")


def _interp_size(p: Any, size: int, given: int) -> int:
    if p.HasField("height") and p.HasField("width"):
        return int(given)
    if p.shrink_factor < 1 or p.zoom_factor < 1 or p.HasField("height") or p.HasField("width"):
        raise Unsupported("its size is not given in a known way")
    small = (size - 1) // p.shrink_factor + 1
    return int(small + (small - 1) * (p.zoom_factor - 1))


@builds("Upsample")
def upsample(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Each pixel repeated; with SegNet's second input (positions of maxima) it is refused."""
    p, x = layer.spec.upsample_param, xs[0]
    factors = (p.scale_h or p.scale, p.scale_w or p.scale)
    size = [s * f for s, f in zip(g.fixed(x, 2), factors, strict=True)]
    resize(
        g,
        x,
        size,
        layer.name,
        layer.tops[0],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def resize(g: Graph, x: str, size: Sequence[int], name: str, out: str, **how: str) -> str:
    """A Resize of the spatial dimensions to `size`, by exact scales, so that the batch may stay open."""
    old = g.fixed(x, 2)
    if not all(0 < s <= 1 << 16 for s in size):
        raise Unsupported(f"its output would be {text(size)}")
    if any((o * np.float32(s / o)).astype(int) != s for o, s in zip(old, size, strict=True)):
        shape = g.add("Shape", x, name=f"{name}/shape", start=0, end=2)
        full = g.add("Concat", shape, g.ints(size, f"{name}/size"), name=f"{name}/sizes", axis=0)
        return g.add("Resize", x, "", "", full, name=name, out=out, **how)
    scales = np.asarray([1, 1, *(s / o for o, s in zip(old, size, strict=True))], np.float32)
    return g.add("Resize", x, "", g.constant(scales, f"{name}/scales"), name=name, out=out, **how)


@builds("PriorBox", bottoms=2)
def prior_box(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """SSD's default boxes (`prior_box_layer.cpp` of weiliu89/caffe): a constant, 1 x 2 x (boxes * 4)."""
    p = layer.spec.prior_box_param
    feature, image = g.fixed(xs[0], 2), g.fixed(xs[1], 2)
    if len(feature) != 2 or len(image) != 2:
        raise Unsupported("its inputs are not images")
    if p.HasField("img_h") or p.HasField("img_w"):
        image = (p.img_h, p.img_w)
    elif p.HasField("img_size"):
        image = (p.img_size, p.img_size)
    boxes = prior_boxes(p, feature, image)
    g.add("Identity", g.constant(boxes, f"{layer.name}/boxes"), name=layer.name, out=layer.tops[0])


def prior_boxes(p: Any, feature: tuple[int, ...], image: tuple[int, ...]) -> Array:
    """Corners of all boxes and their variances, float32 [1, 2, H * W * priors * 4]."""
    sides = np.asarray(_sides(p), np.float64)  # priors x (width, height)
    if min(image) < 1 or not len(sides) or math.prod(feature) * len(sides) > 1 << 24:
        raise Unsupported("its boxes cannot be made from its parameters")
    if p.HasField("step_h") or p.HasField("step_w"):
        steps = (p.step_h, p.step_w)
    else:
        steps = (p.step, p.step) if p.HasField("step") else (image[0] / feature[0], image[1] / feature[1])
    ys, xs = ((np.arange(n) + p.offset) * step for n, step in zip(feature, steps, strict=True))
    grid_y, grid_x = np.meshgrid(ys, xs, indexing="ij")
    centre = np.stack([grid_x, grid_y], -1)[:, :, None, :]  # H x W x 1 x (x, y)
    corners = np.concatenate([centre - sides / 2, centre + sides / 2], -1) / np.asarray([*image[::-1]] * 2)
    corners = np.clip(corners, 0, 1) if p.clip else corners
    given = list(p.variance) or [0.1]
    if len(given) not in (1, 4):
        raise Unsupported(f"it has {len(given)} variances, not 1 or 4")
    variance = np.broadcast_to(np.asarray(given), corners.shape)
    return np.stack([corners.reshape(-1), variance.reshape(-1)])[None].astype(np.float32)


def _sides(p: Any) -> list[tuple[float, float]]:
    """Width and height of the boxes of one cell; sizes are cut to whole pixels as in the original."""
    if len(p.max_size) not in (0, len(p.min_size)) or not all(0 < v < 1e6 for v in (*p.min_size, *p.max_size)):
        raise Unsupported(f"its min_size {list(p.min_size)} and max_size {list(p.max_size)} do not fit")
    ratios: list[float] = [1.0]
    for ratio in p.aspect_ratio:
        if not 0 < ratio < math.inf:
            raise Unsupported(f"its aspect_ratio {ratio:g} is not positive")
        if all(abs(ratio - r) >= 1e-6 for r in ratios):
            ratios += [ratio, 1 / ratio] if p.flip else [ratio]
    sides: list[tuple[float, float]] = []
    for i, size in enumerate(int(s) for s in p.min_size):
        sides.append((size, size))
        if p.max_size:
            sides.append((math.sqrt(size * int(p.max_size[i])),) * 2)
        sides += [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return sides
