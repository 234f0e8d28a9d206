"""Means, sums and extremes along axes, L2 normalization, places of the largest, images of another size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ....artifact import Array
from ..call import Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor
from ..libm import round_away
from ..numerics import LIMITS, quantize_multiplier
from ..strided import strides
from .shapes import ends, has_shape, integers, position, same_numbers

Fields = dict[str, int | Constant | None]
VECTOR = 16  # channels that LiteRT's mean over images does at once, with another rounding than the rest
RANK = 4  # EDNN_REDUCE_RANK of reduce.h


def _axes(one: Op) -> tuple[Tensor, Tensor, list[int], int]:
    """Input, output, axes that go, and how many values make one."""
    x, y = ends(one)
    need(x.dtype in ("int8", "int16"), f"it computes in {x.dtype}; int8 and int16 are known")
    need(x.elements > 0 and x.elements < 1 << 23, "its input is empty or too large")
    gone = sorted({position(a, len(x.shape)) for a in integers(one, 1)})
    has_shape(y, [1 if i in gone else d for i, d in enumerate(x.shape)])
    return x, y, gone, math.prod(x.shape[i] for i in gone)


def _table(x: Tensor, gone: Sequence[int]) -> Constant:
    """The axes as reduce.h has them, neighbours of one kind put together. Raises Unsupported for more than it has."""
    sides: list[list[tuple[int, int]]] = [[], []]
    before = -1
    for i, (d, stride) in enumerate(zip(x.shape, strides(x.shape), strict=True)):
        if d == 1:
            continue
        kind = int(i in gone)
        if kind == before:
            sides[kind][-1] = (sides[kind][-1][0] * d, stride)
        else:
            sides[kind].append((d, stride))
        before = kind
    need(max(len(s) for s in sides) <= RANK, "its axes take too many turns")
    return Constant(np.array([[(1, 0)] * (RANK - len(s)) + s for s in sides], np.int32))


def _reduced(one: Op, function: str, fields: Fields, x: Tensor, gone: Sequence[int]) -> Call:
    empty: Fields = dict.fromkeys(["offset", "multiplier", "shift", "out_zero", "least", "largest", "upward"], 0)
    given: Fields = {"axes": _table(x, gone), "thresholds": None, **empty, "period": 1, **fields}
    name = f"ednn_{function}_{'s8' if x.dtype == 'int8' else 's16'}"
    return Call("reduce", name, (Params("ednn_reduce_t", given), read(), write()), overlap={0: _lead(x, gone)})


def _lead(x: Tensor, gone: Sequence[int]) -> int:
    """Bytes that the output must begin before the input: results are written below all that later ones are made of."""
    first = np.zeros(1, np.int64)  # the lowest value that each result reads
    for i, (d, stride) in enumerate(zip(x.shape, strides(x.shape), strict=True)):
        if i not in gone:
            first = (first[:, None] + np.arange(d) * stride).ravel()
    later = np.minimum.accumulate(first[::-1])[::-1][1:]
    return int(max((np.arange(1, len(first)) - later).max(initial=0), 0)) * (x.nbytes // x.elements)


@op("MEAN", versions=3)
def mean(one: Op, features: Features) -> Call:
    """Two methods, as LiteRT has: one of its own for images of int8 over height and width with axes kept."""
    x, y, gone, count = _axes(one)
    least, largest = LIMITS[x.dtype]
    need(float(y.scale) > 0, "a scale is 0")
    if x.dtype == "int8" and one.option("keepDims", False) and len(x.shape) == 4 and gone == [1, 2]:
        zero = np.float32(x.zero_point) * x.scale / y.scale
        need(abs(float(zero)) < 1 << 20, "its scales differ too much")
        bias = y.zero_point - int(zero + np.float32(0.5) if zero > 0 else zero - np.float32(0.5))
        multiplier, shift = quantize_multiplier(float(x.scale / (np.float32(count) * y.scale)))
        offset, period = 0, x.shape[3]
        upward = period // VECTOR * VECTOR
    else:
        multiplier, shift = quantize_multiplier(float(x.scale) / float(y.scale))
        by = min(count.bit_length() - 1, 32, 31 + shift)
        multiplier, shift = (multiplier << by) // count, shift - by
        bias, offset, period, upward = y.zero_point, x.zero_point * count, 1, 0
    need(shift <= 7 and (shift <= 0 or count << shift < 1 << 22), "its scales differ too much")
    fields: Fields = {
        "offset": offset, "multiplier": multiplier, "shift": shift, "out_zero": bias, "least": least, "largest": largest,
        "period": period, "upward": upward,
    }  # fmt: skip
    return _reduced(one, "mean", fields, x, gone)


@op("SUM", versions=2)
def sum_(one: Op, features: Features) -> Call:
    """`round(sum * scale + bias)` in float32, as LiteRT: by the 255 sums at which the result changes."""
    x, y, gone, count = _axes(one)
    need(x.dtype == "int8", "it computes in int16")
    need(float(y.scale) > 0, "a scale is 0")
    scale = x.scale / y.scale
    bias = np.float32(-x.zero_point) * scale * np.float32(count)

    def result(sums: Array) -> Array:
        return np.clip(round_away(sums.astype(np.float32) * scale + bias), -1e6, 1e6) + y.zero_point

    wanted = np.arange(-127, 128)
    low, high = np.full(255, -128 * count - 1), np.full(255, 127 * count + 1)
    while (high - low > 1).any():  # low gives less than wanted, high enough or cannot be
        middle = (low + high) // 2
        enough = result(middle) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return _reduced(one, "mean", {"thresholds": Constant(high.astype(np.int32))}, x, gone)


@op("REDUCE_MAX", versions=3)
def reduce_max(one: Op, features: Features) -> Call:
    return _extreme(one, "max")


@op("REDUCE_MIN", versions=3)
def reduce_min(one: Op, features: Features) -> Call:
    return _extreme(one, "min")


def _extreme(one: Op, function: str) -> Call:
    x, y, gone, _ = _axes(one)
    same_numbers(x, y)
    return _reduced(one, function, {}, x, gone)


@op("ARG_MAX", versions=3)
def arg_max(one: Op, features: Features) -> Call:
    return _place(one, 1)


@op("ARG_MIN", versions=3)
def arg_min(one: Op, features: Features) -> Call:
    return _place(one, -1)


def _place(one: Op, sign: int) -> Call:
    x, y = one.input(0), one.outputs[0]
    need(x.dtype == "int8" and y.dtype in ("int32", "int64"), f"it computes in {x.dtype} and {y.dtype}")
    along = position(integers(one, 1, 1)[0], len(x.shape))
    need(x.elements > 0, "its input is empty")
    has_shape(y, [1 if i == along else d for i, d in enumerate(x.shape)])
    fields: Fields = {
        "outer": math.prod(x.shape[:along]), "size": x.shape[along], "inner": math.prod(x.shape[along + 1 :]), "sign": sign,
    }  # fmt: skip
    function = "ednn_argmax_s8" if y.dtype == "int32" else "ednn_argmax_s8_s64"
    return Call("argmax", function, (Params("ednn_argmax_t", fields), read(), write()))


@op("L2_NORMALIZATION", versions=2)
def l2_normalization(one: Op, features: Features) -> Call:
    x, y = ends(one)
    need(x.dtype == "int8" and x.shape == y.shape and len(x.shape) > 0, f"its input is {x.dtype} {list(x.shape)}")
    need(int(one.option("fusedActivationFunction")) == 0, "its fused activation")
    need(y.scale == np.float32(1 / 128) and y.zero_point == 0, "its output is not of scale 1/128 and zero point 0")
    need(0 < x.shape[-1] < 1 << 15 and x.elements > 0, "its rows are empty or longer than 32767")
    fields: Fields = {"rows": x.elements // x.shape[-1], "depth": x.shape[-1], "zero": x.zero_point}
    return Call("l2norm", "ednn_l2norm_s8", (Params("ednn_l2norm_t", fields), read(), write()), overlap={0: 0})


def _image(one: Op) -> tuple[Tensor, Tensor, bool, bool]:
    """Input, output, align corners, half-pixel centers."""
    x, y = ends(one)
    same_numbers(x, y)
    need(len(x.shape) == len(y.shape) == 4 and min(x.shape + y.shape) > 0, "its tensors are no images")
    need(x.shape[0] == y.shape[0] and x.shape[3] == y.shape[3], "its shapes do not fit")
    need(max(*x.shape[1:3], *y.shape[1:3]) < 1 << 14 and max(x.nbytes, y.nbytes) < 1 << 31, "its images are too large")
    align, half = bool(one.option("alignCorners", False)), bool(one.option("halfPixelCenters", False))
    need(not (align and half), "it aligns corners and has centers at half pixels")
    if one.input(1).data is not None:
        need(integers(one, 1, 2) == list(y.shape[1:3]), "its shapes do not fit")
    return x, y, align, half


def _sizes(x: Tensor, y: Tensor) -> Fields:
    return {"batch": x.shape[0], "in_h": x.shape[1], "in_w": x.shape[2], "out_h": y.shape[1], "out_w": y.shape[2]}


def _both(x: Tensor, y: Tensor, along: Callable[[int, int], Array]) -> Fields:
    """Tables of rows and columns."""
    return {
        "rows": Constant(along(x.shape[1], y.shape[1]).astype(np.int16)),
        "columns": Constant(along(x.shape[2], y.shape[2]).astype(np.int16)),
    }


@op("RESIZE_NEAREST_NEIGHBOR", versions=4)
def resize_nearest(one: Op, features: Features) -> Call:
    x, y, align, half = _image(one)

    def along(size: int, out: int) -> Array:
        scale = np.float32(size - 1) / np.float32(out - 1) if align and out > 1 else np.float32(size) / np.float32(out)
        at = (np.arange(out).astype(np.float32) + np.float32(0.5 if half else 0)) * scale
        return np.clip(round_away(at) if align else np.floor(at), 0, size - 1)

    width = x.nbytes // x.elements
    fields: Fields = {**_both(x, y, along), **_sizes(x, y), "bytes": x.shape[3] * width}
    return Call("resize", "ednn_resize_nearest", (Params("ednn_nearest_t", fields), read(), write()))


@op("RESIZE_BILINEAR", versions=4)
def resize_bilinear(one: Op, features: Features) -> Call:
    x, y, align, half = _image(one)
    need(x.dtype in ("int8", "int16"), f"it computes in {x.dtype}; int8 and int16 are known")

    def along(size: int, out: int) -> Array:
        """(lower, upper, weight of the upper) in steps of 1/1024."""
        corners = align and out > 1
        step = (1024 * (size - 1) + (out - 1) // 2) // (out - 1) if corners else (1024 * size + out // 2) // out
        at = np.arange(out) * step + (step // 2 - 512 if half else 0)
        first = np.maximum(np.trunc(at / 1024), 0)
        second = np.minimum(np.trunc((at + 1023) / 1024), size - 1)
        first = np.minimum(first, size - 1)
        return np.stack([first, second, at - 1024 * first], -1)

    fields: Fields = {**_both(x, y, along), **_sizes(x, y), "channels": x.shape[3]}
    function = f"ednn_resize_bilinear_{'s8' if x.dtype == 'int8' else 's16'}"
    return Call("resize", function, (Params("ednn_bilinear_t", fields), read(), write()))
