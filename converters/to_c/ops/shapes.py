"""Operators that move values: slices, joins, splits, padding, transpositions, blocks, gathering."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ....artifact import Array
from ..call import Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor
from ..strided import Axis, Box, axis, boxes, moved, strides, whole


def same_numbers(*tensors: Tensor) -> None:
    """Raise Unsupported where tensors differ in type, scale or zero point, so that values could not be moved as they are."""
    first = tensors[0]
    for t in tensors[1:]:
        same = len(t.scales) == len(first.scales) and (t.scales == first.scales).all()
        need(t.dtype == first.dtype, f"its types differ: {first.dtype} and {t.dtype}")
        need(same and (t.zero_points == first.zero_points).all(), f"'{t.name}' has another scale than '{first.name}'")


def integers(one: Op, index: int, count: int | None = None) -> list[int]:
    """The values of a constant input of integers. Raises Unsupported."""
    t = one.input(index)
    need(t.dtype in ("int32", "int64"), f"'{t.name}' is {t.dtype} where integers are needed")
    found = [int(v) for v in t.values.ravel()]
    need(count is None or len(found) == count, f"'{t.name}' has {len(found)} values where {count} are needed")
    return found


def position(given: int, rank: int) -> int:
    """An axis that may count from the end. Raises Unsupported."""
    need(-rank <= given < rank, f"its axis {given} is not one of {rank}")
    return given % rank


def ends(one: Op, same_type: bool = True) -> tuple[Tensor, Tensor]:
    """Input and output, of one type."""
    x, y = one.input(0), one.outputs[0]
    need(not same_type or x.dtype == y.dtype, f"its types differ: {x.dtype} and {y.dtype}")
    return x, y


def has_shape(y: Tensor, shape: Sequence[int]) -> None:
    """Raise Unsupported where an output is of another shape (sizes of 1 apart) than its operator gives."""
    need(
        [d for d in y.shape if d != 1] == [d for d in shape if d != 1],
        f"its output is {list(y.shape)}, not {list(shape)}",
    )


def picked(one: Op, indices: Sequence[Array | range], fill: int | None = None) -> Call:
    """An output whose axes take these indices of the input's (below 0: `fill`)."""
    x, y = ends(one)
    shape = [len(i) for i in indices]
    has_shape(y, shape)
    given = [axis(i, a, b) for i, a, b in zip(indices, strides(x.shape), strides(shape), strict=True)]
    return moved(one, boxes(given), fill=fill)


@op("SLICE", versions=6)
def slice_(one: Op, features: Features) -> Call:
    x, _ = ends(one)
    begins, sizes = integers(one, 1, len(x.shape)), integers(one, 2, len(x.shape))
    ranges = []
    for begin, size, d in zip(begins, sizes, x.shape, strict=True):
        end = d if size == -1 else begin + size
        need(0 <= begin <= end <= d, f"it goes from {begin} to {end} along an axis of {d}")
        ranges.append(range(begin, end))
    return picked(one, ranges)


@op("STRIDED_SLICE", versions=8)
def strided_slice(one: Op, features: Features) -> Call:
    x, _ = ends(one)
    rank = len(x.shape)
    begins, limits, steps = (integers(one, i) for i in (1, 2, 3))
    need(len(begins) == len(limits) == len(steps) <= rank, "its begins, ends and strides do not fit its input")
    need(not one.option("ellipsisMask") and not one.option("newAxisMask"), "its ellipsis or new axes")
    need(0 not in steps, "its stride is 0")
    ranges: list[range] = []
    for i, d in enumerate(x.shape):
        if i >= len(begins):
            ranges.append(range(d))
            continue
        begin, limit, step = begins[i], limits[i], steps[i]
        limit += begin if one.option("offset", False) else 0
        if int(one.option("shrinkAxisMask")) >> i & 1:
            need(-d <= begin < d, f"its index {begin} is outside of an axis of {d}")
            ranges.append(range(begin % d, begin % d + 1))
            continue
        first = None if int(one.option("beginMask")) >> i & 1 else begin
        last = None if int(one.option("endMask")) >> i & 1 else limit
        ranges.append(range(*slice(first, last, step).indices(d)))
    return picked(one, ranges)


@op("TRANSPOSE", versions=7)
def transpose(one: Op, features: Features) -> Call:
    x, y = ends(one)
    order = integers(one, 1, len(x.shape))
    need(sorted(order) == list(range(len(order))), f"its order of axes is {order}")
    shape, own = [x.shape[i] for i in order], strides(x.shape)
    has_shape(y, shape)
    return moved(one, boxes(whole(shape, [own[i] for i in order])))


@op("REVERSE_V2", versions=3)
def reverse(one: Op, features: Features) -> Call:
    x, _ = ends(one)
    turned = {position(a, len(x.shape)) for a in integers(one, 1)}
    return picked(one, [range(d)[::-1] if i in turned else range(d) for i, d in enumerate(x.shape)])


@op("TILE", versions=3)
def tile(one: Op, features: Features) -> Call:
    x, y = ends(one)
    times = integers(one, 1, len(x.shape))
    need(min(times, default=1) > 0, f"it is repeated {times} times")
    has_shape(y, [n * d for n, d in zip(times, x.shape, strict=True)])
    shape = [s for n, d in zip(times, x.shape, strict=True) for s in (n, d)]
    given = [s for stride in strides(x.shape) for s in (0, stride)]
    return moved(one, boxes(whole(shape, given)))


@op("BROADCAST_TO", versions=3)
def broadcast(one: Op, features: Features) -> Call:
    x, y = ends(one)
    kept = [1] * (len(y.shape) - len(x.shape)) + list(x.shape)
    need(
        len(kept) == len(y.shape) and all(a in (1, b) for a, b in zip(kept, y.shape, strict=True)),
        "its shapes do not fit",
    )
    given = [0 if d == 1 else stride for d, stride in zip(kept, strides(kept), strict=True)]
    return moved(one, boxes(whole(y.shape, given)))


@op("PAD", versions=5)
def pad(one: Op, features: Features) -> Call:
    return _padded(one, one.input(0).zero_point)


@op("PADV2", versions=5)
def pad_with(one: Op, features: Features) -> Call:
    x, value = one.input(0), one.input(2)
    need(value.elements == 1, "what it pads with is no single number")
    same_numbers(x, value)
    return _padded(one, int(value.values.ravel()[0]))


def _amounts(one: Op, rank: int) -> list[tuple[int, int]]:
    """(before, after) of each axis."""
    given = integers(one, 1, 2 * rank)
    need(min(given, default=0) >= 0 and max(given, default=0) < 1 << 20, "it pads by an absurd amount")
    return list(zip(given[::2], given[1::2], strict=True))


def _padded(one: Op, fill: int) -> Call:
    x, y = ends(one)
    same_numbers(x, y)
    need(abs(fill) < 1 << 31, "it pads with a number of more than 32 bits")
    amounts = _amounts(one, len(x.shape))
    has_shape(y, [a + d + b for (a, b), d in zip(amounts, x.shape, strict=True)])
    nothing = -1
    return picked(
        one, [np.pad(np.arange(d), a, constant_values=nothing) for a, d in zip(amounts, x.shape, strict=True)], fill
    )


@op("MIRROR_PAD", versions=3)
def mirror_pad(one: Op, features: Features) -> Call:
    x, _ = ends(one)
    mode = int(one.option("mode"))
    need(mode in (0, 1), f"its mode is {mode}")
    amounts = _amounts(one, len(x.shape))
    fits = all(max(a) <= d - (1 - mode) for a, d in zip(amounts, x.shape, strict=True))
    need(fits, "it mirrors more than there is")
    how = "symmetric" if mode else "reflect"
    return picked(one, [np.pad(np.arange(d), a, mode=how) for a, d in zip(amounts, x.shape, strict=True)])  # type: ignore[call-overload]


@op("SPACE_TO_DEPTH", versions=2)
def space_to_depth(one: Op, features: Features) -> Call:
    x, y = ends(one)
    n, h, w, c, b = _blocks(one, x)
    need(h % b == 0 == w % b, f"its {h} x {w} is not divided by {b}")
    need(y.shape == (n, h // b, w // b, c * b * b), "its shapes do not fit")
    given = [h * w * c, b * w * c, b * c, w * c, c, 1]
    return moved(one, boxes(whole([n, h // b, w // b, b, b, c], given)))


@op("DEPTH_TO_SPACE", versions=2)
def depth_to_space(one: Op, features: Features) -> Call:
    x, y = ends(one)
    n, h, w, c, b = _blocks(one, x)
    need(c % (b * b) == 0, f"its {c} channels are not divided by {b * b}")
    c //= b * b
    need(y.shape == (n, h * b, w * b, c), "its shapes do not fit")
    given = [h * w * b * b * c, w * b * b * c, b * c, b * b * c, c, 1]
    return moved(one, boxes(whole([n, h, b, w, b, c], given)))


def _blocks(one: Op, x: Tensor) -> tuple[int, int, int, int, int]:
    """Batch, height, width, channels, size of a block."""
    b = int(one.option("blockSize"))
    need(len(x.shape) == 4 and 0 < b < 1 << 15, f"its input has the shape {list(x.shape)} and its blocks the size {b}")
    n, h, w, c = x.shape
    return n, h, w, c, b


@op("SPACE_TO_BATCH_ND", versions=4)
def space_to_batch(one: Op, features: Features) -> Call:
    """Batch of phase (i, j) has the rows i, i + block, ... of the padded input."""
    x, y = ends(one)
    same_numbers(x, y)
    block, edges = _block_and_edges(one, x)
    size = [d + a + b for d, (a, b) in zip(x.shape[1:-1], edges, strict=True)]
    need(all(s % b == 0 for s, b in zip(size, block, strict=True)), "its padded sizes are not divided by its blocks")
    shape = [x.shape[0] * math.prod(block), *(s // b for s, b in zip(size, block, strict=True)), x.shape[-1]]
    need(list(y.shape) == shape, "its shapes do not fit")
    found: list[Box] = []
    for phase, offsets in enumerate(itertools.product(*(range(b) for b in block))):
        along = [_inside(np.arange(s // b) * b + o - before, d) for s, b, o, (before, _), d in
                 zip(size, block, offsets, edges, x.shape[1:-1], strict=True)]  # fmt: skip
        indices = [np.arange(x.shape[0]), *along, np.arange(x.shape[-1])]
        found += boxes(_axes(indices, strides(x.shape), strides(shape)), target=phase * x.shape[0] * strides(shape)[0])
    return moved(one, found, fill=x.zero_point)


@op("BATCH_TO_SPACE_ND", versions=4)
def batch_to_space(one: Op, features: Features) -> Call:
    """The inverse, of which `edges` are cut off."""
    x, y = ends(one)
    block, edges = _block_and_edges(one, x)
    n = x.shape[0] // math.prod(block)
    need(n * math.prod(block) == x.shape[0], "its batch is not divided by its blocks")
    size = [d * b - before - after for d, b, (before, after) in zip(x.shape[1:-1], block, edges, strict=True)]
    shape = [n, *size, x.shape[-1]]
    need(min(size) > 0 and list(y.shape) == shape, "its shapes do not fit")
    found: list[Box] = []
    for phase, offsets in enumerate(itertools.product(*(range(b) for b in block))):
        along: list[Axis] = []
        for d, b, o, (before, _), s, i, t in zip(
            x.shape[1:-1], block, offsets, edges, size, strides(x.shape)[1:-1], strides(shape)[1:-1], strict=True
        ):
            to = np.arange(d) * b + o - before
            kept = np.flatnonzero((to >= 0) & (to < s))
            along.append(Axis(kept * i, to[kept] * t))
        outer = axis(range(n), strides(x.shape)[0], strides(shape)[0])
        found += boxes([outer, *along, axis(range(x.shape[-1]), 1, 1)], source=phase * n * strides(x.shape)[0])
    return moved(one, found)


def _inside(indices: Array, size: int) -> Array:
    return np.where((indices >= 0) & (indices < size), indices, -1)


def _axes(indices: Sequence[Array], given: Sequence[int], out: Sequence[int]) -> list[Axis]:
    return [axis(i, a, b) for i, a, b in zip(indices, given, out, strict=True)]


def _block_and_edges(one: Op, x: Tensor) -> tuple[list[int], list[tuple[int, int]]]:
    need(len(x.shape) in (3, 4), f"its input has {len(x.shape)} axes")
    block = integers(one, 1, len(x.shape) - 2)
    edges = integers(one, 2, 2 * len(block))
    need(all(0 < b < 256 for b in block) and all(0 <= e < 1 << 20 for e in edges), "its blocks or paddings cannot be")
    return block, list(zip(edges[::2], edges[1::2], strict=True))


@op("CONCATENATION", versions=4)
def concatenation(one: Op, features: Features) -> Call:
    y = one.outputs[0]
    parts = [one.input(i) for i in range(len(one.inputs))]
    need(int(one.option("fusedActivationFunction")) == 0, "its fused activation")
    same_numbers(y, *parts)
    return _joined(one, parts, position(int(one.option("axis")), len(y.shape)))


def _joined(one: Op, parts: Sequence[Tensor], along: int) -> Call:
    y = one.outputs[0]
    found: list[Box] = []
    at = 0
    for index, part in enumerate(parts):
        rest = [d for i, d in enumerate(part.shape) if i != along]
        need(
            len(part.shape) == len(y.shape) and rest == [d for i, d in enumerate(y.shape) if i != along],
            "its shapes do not fit",
        )
        given = whole(part.shape)
        given = [
            axis(range(d), i, o) for d, i, o in zip(part.shape, strides(part.shape), strides(y.shape), strict=True)
        ]
        found += boxes(given, from_index=index, target=at * strides(y.shape)[along])
        at += part.shape[along]
    need(at == y.shape[along], "its shapes do not fit")
    return moved(one, found, inputs=range(len(parts)))


@op("PACK", versions=4)
def pack(one: Op, features: Features) -> Call:
    y = one.outputs[0]
    parts = [one.input(i) for i in range(len(one.inputs))]
    same_numbers(y, *parts)
    along = position(int(one.option("axis")), len(y.shape))
    need(len(parts) == y.shape[along], "its shapes do not fit")
    rest = [d for i, d in enumerate(y.shape) if i != along]
    out = [s for i, s in enumerate(strides(y.shape)) if i != along]
    found: list[Box] = []
    for index, part in enumerate(parts):
        need(list(part.shape) == rest, "its shapes do not fit")
        given = [axis(range(d), i, o) for d, i, o in zip(rest, strides(rest), out, strict=True)]
        found += boxes(given, from_index=index, target=index * strides(y.shape)[along])
    return moved(one, found, inputs=range(len(parts)))


@op("UNPACK", versions=4)
def unpack(one: Op, features: Features) -> Call:
    x = one.input(0)
    same_numbers(x, *one.outputs)
    along = position(int(one.option("axis")), len(x.shape))
    need(len(one.outputs) == x.shape[along], "its shapes do not fit")
    rest = [d for i, d in enumerate(x.shape) if i != along]
    given = [s for i, s in enumerate(strides(x.shape)) if i != along]
    found: list[Box] = []
    for index, part in enumerate(one.outputs):
        need(list(part.shape) == rest, "its shapes do not fit")
        found += boxes(whole(rest, given), to_index=index, source=index * strides(x.shape)[along])
    return moved(one, found, outputs=range(len(one.outputs)))


@op("SPLIT", versions=4)
def split(one: Op, features: Features) -> Call:
    x = one.input(1)
    return _parted(one, 1, position(integers(one, 0, 1)[0], len(x.shape)))


@op("SPLIT_V", versions=2)
def split_v(one: Op, features: Features) -> Call:
    x = one.input(0)
    return _parted(one, 0, position(integers(one, 2, 1)[0], len(x.shape)))


def _parted(one: Op, index: int, along: int) -> Call:
    x = one.input(index)
    same_numbers(x, *one.outputs)
    found: list[Box] = []
    at = 0
    for i, part in enumerate(one.outputs):
        rest = [d for j, d in enumerate(part.shape) if j != along]
        need(
            len(part.shape) == len(x.shape) and rest == [d for j, d in enumerate(x.shape) if j != along],
            "its shapes do not fit",
        )
        found += boxes(whole(part.shape, strides(x.shape)), to_index=i, source=at * strides(x.shape)[along])
        at += part.shape[along]
    need(at == x.shape[along], "its shapes do not fit")
    return moved(one, found, inputs=(index,), outputs=range(len(one.outputs)))


@op("GATHER", versions=7)
def gather(one: Op, features: Features) -> Call:
    """Rows along an axis, by constant indices or by those of a tensor."""
    x, y = ends(one)
    same_numbers(x, y)
    along = position(int(one.option("axis")), len(x.shape))
    need(int(one.option("batchDims", 0)) == 0, "its batch dimensions")
    return _rows(one, x, one.input(1), along, y)


@op("EMBEDDING_LOOKUP", versions=4)
def embedding_lookup(one: Op, features: Features) -> Call:
    x, y = one.input(1), one.outputs[0]
    same_numbers(x, y)
    need(len(x.shape) > 0, "its table has no rows")
    return _rows(one, x, one.input(0), 0, y)


def _rows(one: Op, x: Tensor, indices: Tensor, along: int, y: Tensor) -> Call:
    need(indices.dtype == "int32", f"its indices are {indices.dtype}")
    has_shape(y, [*x.shape[:along], *indices.shape, *x.shape[along + 1 :]])
    table = next(i for i, t in enumerate(one.inputs) if t is x)
    if indices.data is not None:
        chosen = indices.values.ravel().astype(np.int64)
        need(bool(((chosen >= 0) & (chosen < x.shape[along])).all()), "an index is outside of its axis")
        shape = [*x.shape[:along], len(chosen), *x.shape[along + 1 :]]
        lists = [chosen if i == along else np.arange(d) for i, d in enumerate(shape)]
        return moved(one, boxes(_axes(lists, strides(x.shape), strides(shape))), inputs=(table,))
    width = x.nbytes // max(x.elements, 1)
    need(x.elements > 0 and x.nbytes < 1 << 31 and y.nbytes < 1 << 31, "its sizes cannot be")
    fields: dict[str, int | Constant | None] = {
        "outer": math.prod(x.shape[:along]), "rows": x.shape[along], "count": indices.elements,
        "bytes": math.prod(x.shape[along + 1 :]) * width,
    }  # fmt: skip
    at = next(i for i, t in enumerate(one.inputs) if t is indices)
    return Call("gather", "ednn_gather", (Params("ednn_gather_t", fields), read(table), read(at), write()))


@op("GATHER_ND", versions=5)
def gather_nd(one: Op, features: Features) -> Call:
    """Slices by tuples of indices in the last axis of input 1."""
    x, y = ends(one)
    same_numbers(x, y)
    indices = one.input(1)
    need(indices.dtype == "int32" and len(indices.shape) > 0, f"its indices are {indices.dtype}")
    depth = indices.shape[-1]
    need(0 < depth <= len(x.shape) and depth <= 6, f"its indices have {depth} parts for {len(x.shape)} axes")
    has_shape(y, [*indices.shape[:-1], *x.shape[depth:]])
    width = x.nbytes // max(x.elements, 1)
    need(x.elements > 0 and x.nbytes < 1 << 31 and y.nbytes < 1 << 31, "its sizes cannot be")
    fields: dict[str, int | Constant | None] = {
        "sizes": Constant(np.array(x.shape[:depth], np.int32)), "depth": depth,
        "count": indices.elements // depth, "bytes": math.prod(x.shape[depth:]) * width,
    }  # fmt: skip
    return Call("gather", "ednn_gather_nd", (Params("ednn_gather_nd_t", fields), read(0), read(1), write()))
