"""Element-by-element arithmetic of Caffe in ONNX, on one input or several."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._onnx_build import Unsupported, axis_of, reshape, text
from .layers import CaffeGraph, affine_power, builds, scaled
from .net import Layer


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
    affine_power(g, xs[0], p.scale, p.shift, p.power, layer.name, layer.tops[0])


@builds("Exp")
def exp(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """base ^ (shift + scale * x)."""
    p = layer.spec.exp_param
    log_base = _log_base(p.base)
    inner = affine_power(g, xs[0], p.scale * log_base, p.shift * log_base, 1.0, f"{layer.name}/inner", "")
    g.add("Exp", inner, name=layer.name, out=layer.tops[0])


@builds("Log")
def log(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """log_base(shift + scale * x)."""
    p = layer.spec.log_param
    inner = affine_power(g, xs[0], p.scale, p.shift, 1.0, f"{layer.name}/inner", "")
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


@builds("Eltwise", bottoms=None)
def eltwise(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Product, sum with a factor for each input, maximum or (in forks) minimum."""
    p = layer.spec.eltwise_param
    if len({g.shape(x) for x in xs}) > 1:
        raise Unsupported("its inputs differ in shape: " + ", ".join(text(g.shape(x)) for x in xs))
    if p.coeff and (len(p.coeff) != len(xs) or p.operation != 1):
        raise Unsupported(f"{len(p.coeff)} factors do not fit {len(xs)} inputs of this operation")
    terms = [scaled(g, x, c, f"{layer.name}/coeff") for x, c in zip(xs, p.coeff or [1.0] * len(xs), strict=True)]
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
