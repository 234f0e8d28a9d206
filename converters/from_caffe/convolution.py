"""Convolution, inner products, embedding and pooling of Caffe in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .._onnx_build import Unsupported, Window, pool, reshape, text
from .layers import CaffeGraph, builds, keep
from .net import Layer


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
    rows = reshape(g, xs[0], (*keep(g, xs[0], axis), inner), f"{layer.name}/flatten")
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
