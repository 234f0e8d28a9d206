"""Layers of Caffe that move or copy values, in ONNX: shapes, order of axes, parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from .._onnx_build import MAX_NUMEL, Unsupported, axis_of, reshape, shuffle_channels, text
from .layers import CaffeGraph, FixedBatch, builds, keep
from .net import Layer


@builds("Concat", bottoms=None)
def concat(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Along the channels, unless told otherwise."""
    p = layer.spec.concat_param
    axis = g.inner_axis(xs[0], p.concat_dim if p.HasField("concat_dim") else p.axis)
    g.add("Concat", *xs, name=layer.name, out=layer.tops[0], axis=axis)


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
    reshape(g, x, (*keep(g, x, start), merged, *sizes[end + 1 :]), layer.name, layer.tops[0])


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


@builds("ShuffleChannel")
def shuffle_channel(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """ShuffleNet's fork."""
    shuffle_channels(g, xs[0], layer.spec.shuffle_channel_param.group, layer.name, layer.tops[0])
