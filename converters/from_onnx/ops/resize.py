"""Resize and Upsample in every mode, and sampling at computed places: AffineGrid, GridSample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..layout import Batch, new_dim
from ..node import Node, Unsupported, axis_of
from ..value import Value
from . import op
from .conv import spatial
from .indexing import in_order, is_free

MAX_TAPS = 4  # entries that an output is made of; with more, an axis is multiplied by a matrix
MAX_MATRIX = 1 << 26


@dataclass(frozen=True, slots=True)
class Mode:
    """How an axis is resampled: the attributes of ONNX's Resize."""

    kind: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    fill: float = 0.0

    @classmethod
    def of(cls, node: Node) -> Mode:
        """From a Resize node."""
        default = "half_pixel" if node.opset >= 11 else "asymmetric"
        return cls(
            node.text("mode", "nearest"), node.text("coordinate_transformation_mode", default),
            node.text("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "simple"), node.real("cubic_coeff_a", -0.75),
            bool(node.integer("exclude_outside")), bool(node.integer("antialias")), node.real("extrapolation_value"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis to resample: of how many entries how many are made, by which scale, from which part of it."""

    length: int
    wanted: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def places(axis: Axis, mode: Mode) -> Array:
    """Where in the original each new entry lies, by ONNX's coordinate_transformation_mode; in single precision, as ONNX
    Runtime counts, because a rounding error decides between two neighbours."""
    return np.asarray(_places(axis, mode), np.float64)


def _places(axis: Axis, mode: Mode) -> Array:
    i = np.arange(axis.wanted, dtype=np.float32)
    n, m, s = axis.length, axis.wanted, np.float32(axis.scale)
    match mode.coordinates:
        case "half_pixel":
            return (i + 0.5) / s - 0.5
        case "half_pixel_symmetric":
            adjust = m / (s * n)
            return np.asarray(n / 2 * (1 - adjust) + (i + 0.5) / s - 0.5)
        case "pytorch_half_pixel":
            return (i + 0.5) / s - 0.5 if m > 1 else np.zeros(m)
        case "align_corners":
            return i * (n - 1) / max(m - 1, 1)  # by the whole length, as ONNX Runtime and PyTorch; the text has s * n
        case "asymmetric":
            return i / s
        case "tf_half_pixel_for_nn":
            return (i + 0.5) / s
        case "tf_crop_and_resize":
            if m > 1:
                return axis.start * (n - 1) + i * (axis.end - axis.start) * (n - 1) / (m - 1)
            return np.full(m, 0.5 * (axis.start + axis.end) * (n - 1))
    raise Unsupported(f"coordinate_transformation_mode '{mode.coordinates}'")


def nearest(axis: Axis, mode: Mode) -> Array:
    """Which entry each new one is a copy of."""
    x = places(axis, mode)
    match mode.nearest:
        case "round_prefer_floor":
            index = np.ceil(x - 0.5)
        case "round_prefer_ceil":
            index = np.floor(x + 0.5)
        case "floor":
            index = np.floor(x)
        case "ceil":
            index = np.ceil(x)
        case "simple":  # before opset 11, which does not say: as ONNX Runtime
            index = np.ceil(x) if axis.scale < 1 else np.floor(x)
        case other:
            raise Unsupported(f"nearest_mode '{other}'")
    return np.asarray(np.clip(index, 0, axis.length - 1).astype(np.int64))


def _kernel(distance: Array, mode: Mode) -> Array:
    """The weight of an entry at this distance."""
    d = np.abs(distance)
    if mode.kind == "linear":
        return np.asarray(np.maximum(1 - d, 0))
    a = mode.cubic  # Keys, 1981
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.asarray(np.where(d <= 1, near, np.where(d < 2, far, 0.0)))


def taps(axis: Axis, mode: Mode) -> tuple[Array, Array]:
    """For each new entry, which ones it is made of and with what weight: both [wanted, taps]."""
    x = places(axis, mode)
    stretch = min(axis.scale, 1.0) if mode.antialias else 1.0
    reach = (1 if mode.kind == "linear" else 2) / stretch
    first = np.floor(x - reach).astype(np.int64) + 1 if stretch == 1.0 else np.floor(x - reach).astype(np.int64)
    count = math.ceil(2 * reach) + (0 if stretch == 1.0 else 2)
    if axis.wanted * count > MAX_MATRIX:
        raise Unsupported(f"an axis resized from {axis.length} to {axis.wanted}")
    index = first[:, None] + np.arange(count)
    weights = _kernel((index - x[:, None]) * stretch, mode)
    if mode.exclude_outside:
        weights = np.where((index < 0) | (index >= axis.length), 0.0, weights)
    if mode.exclude_outside or mode.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    index = np.clip(index, 0, axis.length - 1)
    useful = np.any(weights != 0, axis=0)
    return index[:, useful], weights[:, useful].astype(np.float32)


def outside(axis: Axis, mode: Mode) -> Array | None:
    """Which new entries lie outside of the original, where those have a value of their own; None: none."""
    if mode.coordinates != "tf_crop_and_resize":
        return None
    x = places(axis, mode)
    found = (x < 0) | (x > axis.length - 1)
    return np.asarray(found) if found.any() else None


def _along(tensor: Any, at: int, axis: Axis, mode: Mode) -> Any:
    """A tensor resampled along one axis."""
    ops = keras().ops
    if mode.kind == "nearest":
        return ops.take(tensor, nearest(axis, mode).astype(np.int32), axis=at)
    index, weights = taps(axis, mode)
    if index.shape[1] > MAX_TAPS:
        return _multiplied(tensor, at, index, weights, axis)
    shape = [1] * len(tensor.shape)
    shape[at] = axis.wanted
    total = None
    for i, w in zip(index.T, weights.T, strict=True):
        part = ops.multiply(ops.take(tensor, i.astype(np.int32), axis=at), w.reshape(shape))
        total = part if total is None else ops.add(total, part)
    return total


def _multiplied(tensor: Any, at: int, index: Array, weights: Array, axis: Axis) -> Any:
    ops = keras().ops
    if axis.length * axis.wanted > MAX_MATRIX:
        raise Unsupported(f"an axis resized from {axis.length} to {axis.wanted}")
    matrix = np.zeros((axis.length, axis.wanted), np.float32)
    np.add.at(matrix, (index, np.arange(axis.wanted)[:, None]), weights)
    rank = len(tensor.shape)
    order = [i for i in range(rank) if i != at] + [at]
    out = ops.matmul(ops.transpose(tensor, order), matrix)
    return ops.transpose(out, np.argsort(order).tolist())


def resampled(b: Builder, x: Value, axes: dict[int, Axis], mode: Mode) -> Value:
    """The value resampled along ONNX's dimensions `axes`."""
    if mode.kind not in ("nearest", "linear", "cubic"):
        raise Unsupported(f"the mode '{mode.kind}'")
    if any(is_free(x.dims[d]) for d in axes):
        raise Unsupported("resizing along the batch")
    masks = {d: found for d, a in axes.items() if (found := outside(a, mode)) is not None}
    same = not masks and mode.coordinates != "tf_crop_and_resize"
    axes = {d: a for d, a in axes.items() if not (same and a.length == a.wanted and a.scale == 1.0)}
    if not axes:
        return x
    layer = None if masks else _as_layer(b, x, axes, mode)
    if layer is not None:
        return layer
    value, where = x.spread()
    tensor = value.tensor
    integral = not x.dtype.startswith("float")
    if integral and mode.kind != "nearest":
        raise Unsupported(f"interpolation of {x.dtype}")
    for d, axis in axes.items():
        tensor = _along(tensor, where[d], axis, mode)
    for d, mask in masks.items():
        shape = [1] * len(tensor.shape)
        shape[where[d]] = mask.size
        tensor = keras().ops.where(mask.reshape(shape), mode.fill, tensor)
    dims = tuple(new_dim(axes[d].wanted) if d in axes else dim for d, dim in enumerate(value.dims))
    layout = tuple(dims[where.index(i)] for i in range(len(where)))
    return Value(dims, layout, b.named(tensor), None, tensor.dtype, x.positive and mode.kind != "cubic")


def _as_layer(b: Builder, x: Value, axes: dict[int, Axis], mode: Mode) -> Value | None:
    """A Keras layer where it does exactly the same."""
    n = x.rank - 2
    if not 1 <= n <= 3 or any(d < 2 for d in axes) or x.dtype != "float32":
        return None
    spans = [axes.get(d, Axis(int(x.shape[d] or 1), int(x.shape[d] or 1), 1.0)) for d in range(2, x.rank)]
    factors = [a.wanted // a.length if a.wanted % a.length == 0 else 0 for a in spans]
    whole = all(factors) and all(abs(a.scale - f) < 1e-6 for a, f in zip(spans, factors, strict=True))
    if mode.kind == "nearest":
        if whole and all(
            np.array_equal(nearest(a, mode), np.repeat(np.arange(a.length), f))
            for a, f in zip(spans, factors, strict=True)
        ):
            return _upsampled(b, x, factors, "nearest")
        return None
    plain = mode.coordinates in ("half_pixel", "half_pixel_symmetric") or (
        mode.coordinates == "pytorch_half_pixel" and all(a.wanted > 1 for a in spans)
    )
    exact = all(abs(a.length * a.scale - a.wanted) < 1e-4 for a in spans)
    down = mode.antialias and any(a.scale < 1 for a in spans)
    if mode.kind != "linear" or n != 2 or not plain or not exact or down or mode.exclude_outside:
        return None
    if whole:
        return _upsampled(b, x, factors, "bilinear")
    tensor = keras().ops.image.resize(
        x.channels_last(), (spans[0].wanted, spans[1].wanted), interpolation="bilinear", data_format="channels_last"
    )
    return spatial(x, b.named(tensor), channels=False)


def _upsampled(b: Builder, x: Value, factors: list[int], how: str) -> Value:
    n = len(factors)
    options: dict[str, Any] = {"interpolation": how} if n == 2 else {}
    amount = factors[0] if n == 1 else tuple(factors)
    out = spatial(x, b.layer(f"UpSampling{n}D", x.channels_last(), size=amount, **options), channels=False)
    out.positive = x.positive
    return out


@op("Resize")
def resize(b: Builder, node: Node, x: Value, *given: Value | None) -> Value:
    mode = Mode.of(node)
    roi, scales, sizes = _resize_inputs(node, given)
    along = [axis_of(a, x.rank) for a in node.integers("axes")] or list(range(x.rank))
    lengths = [x.shape[d] for d in along]
    if sizes is not None and sizes.shape != (0,):
        targets, factors = _by_size(node, x, along, sizes)
    elif scales is not None:
        factors = [float(s) for s in scales.array.reshape(-1)]
        targets = [
            None if n is None else math.floor(n * s + 1e-6 * (s == round(s)))
            for n, s in zip(lengths, factors, strict=True)
        ]
    else:
        raise Unsupported("neither scales nor sizes")
    region = roi.array.reshape(2, -1) if roi is not None and mode.coordinates == "tf_crop_and_resize" else None
    axes: dict[int, Axis] = {}
    for i, (d, n, m, s) in enumerate(zip(along, lengths, targets, factors, strict=True)):
        if n is None or m is None:
            if s != 1.0:
                raise Unsupported("resizing along the batch")
            continue
        if not 1 <= m <= MAX_MATRIX:
            raise Unsupported(f"a size of {m}")
        part = (0.0, 1.0) if region is None else (float(region[0, i]), float(region[1, i]))
        if n == m and s == 1.0 and part == (0.0, 1.0):
            continue
        axes[d] = Axis(n, m, s, *part)
    return resampled(b, x, axes, mode)


def _resize_inputs(node: Node, given: Sequence[Value | None]) -> tuple[Value | None, Value | None, Value | None]:
    """(roi, scales, sizes) by opset."""
    full = [*given, None, None, None]
    if node.opset < 11:
        return None, full[0], None
    roi, scales, sizes = (v if v is None or v.shape != (0,) else None for v in full[:3])
    return roi, scales, sizes


def _by_size(node: Node, x: Value, along: list[int], sizes: Value) -> tuple[list[int | None], list[float]]:
    """The wanted lengths and the scales that they mean, as keep_aspect_ratio_policy says."""
    targets: list[int | None] = []
    for d, t in zip(along, sizes.sizes(), strict=True):
        if isinstance(t, Batch) and not is_free(x.dims[d]):
            raise Unsupported("a size that depends on the batch")
        targets.append(None if isinstance(t, Batch) or is_free(x.dims[d]) else int(t))
    factors = [1.0 if t is None else t / int(x.shape[d] or 1) for d, t in zip(along, targets, strict=True)]
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return targets, factors
    known = [f for f, t in zip(factors, targets, strict=True) if t is not None]
    scale = min(known) if policy == "not_larger" else max(known)
    kept = [
        None if t is None else math.floor(scale * int(x.shape[d] or 1) + 0.5)
        for d, t in zip(along, targets, strict=True)
    ]
    return kept, [1.0 if t is None else scale for t in kept]


@op("Upsample")
def upsample(b: Builder, node: Node, x: Value, scales: Value | None = None) -> Value:
    if scales is not None:
        factors = [float(s) for s in scales.array.reshape(-1)]
    else:
        factors = node.reals("scales") or [1.0, 1.0, node.real("height_scale", 1.0), node.real("width_scale", 1.0)]
    kind = {"bilinear": "linear", "trilinear": "linear"}.get(node.text("mode", "nearest"), node.text("mode", "nearest"))
    mode = Mode(kind, "asymmetric", "floor")
    axes = {}
    for d, s in enumerate(factors):
        n = x.shape[d]
        if s != 1.0:
            if n is None:
                raise Unsupported("resizing along the batch")
            axes[d] = Axis(n, math.floor(n * s + 1e-6 * (s == round(s))), s)
    return resampled(b, x, axes, mode)


# --- sampling at computed places


@op("AffineGrid")
def affine_grid(b: Builder, node: Node, theta: Value, wanted: Value) -> Value:
    ops = keras().ops
    lengths = wanted.sizes()[2:]
    if any(isinstance(n, Batch) for n in lengths):
        raise Unsupported("a size that depends on the batch")
    spatial_sizes = [int(n) for n in lengths if not isinstance(n, Batch)]
    corners = bool(node.integer("align_corners"))
    lines = [np.linspace(-1, 1, n) if corners else (2 * np.arange(n) + 1) / n - 1 for n in spatial_sizes]
    if corners:
        lines = [np.zeros(1) - 1 if n == 1 else line for n, line in zip(spatial_sizes, lines, strict=True)]
    grid = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(spatial_sizes)], -1).astype(np.float32)
    source = b.materialized(theta)
    flat_grid = b.weight(grid.reshape(-1, len(spatial_sizes) + 1))
    out = ops.matmul(flat_grid, ops.transpose(source.canonical(), (0, 2, 1)))
    n = len(spatial_sizes)
    tensor = b.named(ops.reshape(out, (-1, *spatial_sizes, n)))
    return in_order(tensor, (source.dims[0], *(new_dim(s) for s in spatial_sizes), new_dim(n)))


@op("GridSample")
def grid_sample(b: Builder, node: Node, x: Value, grid: Value) -> Value:
    """Spatial transformer sampling (Jaderberg et al., 2015): gathers the neighbours of each place and weighs them."""
    ops = keras().ops
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node.text("mode", "linear"), node.text("mode", "linear"))
    padding, corners = node.text("padding_mode", "zeros"), bool(node.integer("align_corners"))
    source, target = b.materialized(x), b.materialized(grid)
    lengths = [int(n or 0) for n in source.shape[2:]]
    n = len(lengths)
    if 0 in lengths or mode not in ("linear", "nearest", "cubic") or (mode == "cubic" and n != 2):
        raise Unsupported(f"sampling by {mode} over {lengths}")
    places_at = target.canonical()
    coordinates = []
    for i, length in enumerate(lengths):
        g = places_at[..., n - 1 - i]
        if corners:
            coordinates.append(ops.multiply(ops.add(g, 1.0), (length - 1) / 2))
        else:
            coordinates.append(ops.subtract(ops.multiply(ops.add(g, 1.0), length / 2), 0.5))
    table = ops.reshape(source.channels_last(), (-1, math.prod(lengths), int(source.shape[1] or 1)))
    out = _sampled(table, coordinates, lengths, mode, padding, corners, node.real("cubic_coeff_a", -0.75))
    places_dims = target.dims[1:-1]
    shape = [int(k or 1) for k in target.shape[1:-1]]
    tensor = b.named(ops.reshape(out, (-1, *shape, int(source.shape[1] or 1))))
    made = tuple(new_dim(k) for k in shape)
    assert len(places_dims) == len(made)
    return Value(
        (source.dims[0], source.dims[1], *made), (source.dims[0], *made, source.dims[1]), tensor, None, tensor.dtype
    )


def _sampled(
    table: Any, coordinates: Sequence[Any], lengths: Sequence[int], mode: str, padding: str, corners: bool, cubic: float
) -> Any:
    ops = keras().ops
    if mode != "cubic":
        coordinates = [_bordered(c, n, padding, corners) for c, n in zip(coordinates, lengths, strict=True)]
    if mode == "nearest":
        choices = [[(ops.round(c), None)] for c in coordinates]
    elif mode == "linear":
        choices = []
        for c in coordinates:
            low = ops.floor(c)
            part = ops.subtract(c, low)
            choices.append([(low, ops.subtract(1.0, part)), (ops.add(low, 1.0), part)])
    else:
        choices = [_cubic_taps(c, cubic) for c in coordinates]
    total = None
    for corner in itertools.product(*choices):
        part = _corner(table, corner, lengths, padding, corners)
        total = part if total is None else ops.add(total, part)
    return total


def _cubic_taps(c: Any, a: float) -> list[tuple[Any, Any]]:
    ops = keras().ops
    low = ops.floor(c)
    found = []
    for offset in (-1, 0, 1, 2):
        place = ops.add(low, float(offset))
        d = ops.abs(ops.subtract(c, place))
        near = ops.add(ops.multiply(ops.square(d), ops.subtract(ops.multiply(d, a + 2), a + 3)), 1.0)
        far = ops.subtract(
            ops.multiply(ops.add(ops.multiply(ops.subtract(ops.multiply(d, a), 5 * a), d), 8 * a), d), 4 * a
        )
        found.append((place, near if offset in (0, 1) else far))
    return found


def _corner(table: Any, corner: Sequence[tuple[Any, Any]], lengths: Sequence[int], padding: str, corners: bool) -> Any:
    ops = keras().ops
    linear: Any = None
    weight: Any = None
    inside: Any = None
    for (place, share), n in zip(corner, lengths, strict=True):
        if padding != "zeros":
            place = _bordered(place, n, padding, corners)
        else:
            within = ops.logical_and(ops.greater_equal(place, 0.0), ops.less_equal(place, float(n - 1)))
            inside = within if inside is None else ops.logical_and(inside, within)
        index = ops.cast(ops.clip(ops.round(place), 0.0, float(n - 1)), "int32")
        linear = index if linear is None else ops.add(ops.multiply(linear, n), index)
        if share is not None:
            weight = share if weight is None else ops.multiply(weight, share)
    count = math.prod(int(k) for k in linear.shape[1:])
    found = ops.take_along_axis(table, ops.reshape(linear, (-1, count, 1)), axis=1)
    if inside is not None:
        shown = ops.cast(inside, "float32")
        weight = shown if weight is None else ops.multiply(weight, shown)
    return found if weight is None else ops.multiply(found, ops.reshape(weight, (-1, count, 1)))


def _bordered(c: Any, n: int, padding: str, corners: bool) -> Any:
    """Coordinates brought back inside: at the border, or mirrored at it."""
    ops = keras().ops
    if padding == "border":
        return ops.clip(c, 0.0, float(n - 1))
    if padding == "reflection":
        low, high = (0.0, float(n - 1)) if corners else (-0.5, n - 0.5)
        span = high - low
        if span <= 0:
            return ops.multiply(c, 0.0)
        turned = ops.mod(ops.subtract(c, low), 2 * span)
        back = ops.add(ops.minimum(turned, ops.subtract(2 * span, turned)), low)
        return ops.clip(back, 0.0, float(n - 1)) if not corners else back
    return c
