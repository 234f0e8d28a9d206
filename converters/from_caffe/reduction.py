"""Layers of Caffe that reduce dimensions, in ONNX: sums, means and positions of maxima."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._onnx_build import Unsupported, text
from .layers import CaffeGraph, affine_power, builds
from .net import Layer


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
    affine_power(g, total, factor, 0.0, 1.0, layer.name, layer.tops[0])


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
