"""Normalization layers of Caffe in ONNX, and the fusion of BatchNorm with Scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifact import Array
from .._onnx_build import Unsupported, Window, pool, text
from .layers import CaffeGraph, affine_power, builds
from .net import Layer


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
    power = affine_power(g, mean, p.alpha, 1.0, -p.beta, f"{layer.name}/power", "")
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
