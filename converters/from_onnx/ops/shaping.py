"""Shapes: what only relabels axes (Reshape, Transpose, Squeeze ...), and what cuts and joins (Slice, Concat, Pad ...)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....frameworks import keras
from ..builder import Builder, elements
from ..elementwise import align_at
from ..layout import Batch, Dim, Dims, NotFree, Size, flat, new_dim, regroup, size
from ..node import Node, Unsupported, axis_of
from ..value import PROBES, Value, is_block, of_tensor
from . import op
from .math import plus

WHOLE = 1_000_000  # an end this far off means all of a dimension whose length is not known

# --- sizes


@op("Shape")
def shape_of(b: Builder, node: Node, x: Value) -> Value:
    start, end = node.integer("start"), node.integer("end", x.rank)
    found = [np.array(_at(x, n)[start:end], np.int64) for n in PROBES]
    return Value.of_constant(*found)


@op("Size")
def size_of(b: Builder, node: Node, x: Value) -> Value:
    return Value.of_constant(*(np.array(math.prod(_at(x, n)), np.int64) for n in PROBES))


def _at(x: Value, batch: int) -> list[int]:
    """The shape for a batch of this many."""
    return [math.prod(f.size * (batch if f.free else 1) for f in d) for d in x.dims]


def total(dims: Dims) -> Size:
    """How many entries these dimensions have."""
    n = math.prod(f.size for f in flat(dims))
    return Batch(n) if any(f.free for f in flat(dims)) else n


# --- relabelling


@op("Reshape")
def reshape(b: Builder, node: Node, x: Value, wanted: Value) -> Value:
    target: list[Size] = wanted.sizes()
    if not node.integer("allowzero"):
        target = [_length(x.dims[i]) if t == 0 else t for i, t in enumerate(target)]
    return reshaped(b, x, target)


def _length(dim: Dim) -> Size:
    return total((dim,))


def reshaped(b: Builder, x: Value, target: Sequence[Size]) -> Value:
    """The value with dimensions of these lengths; -1 stands for what is left."""
    for attempt in _without_minus_one(x, list(target), b.freed):
        found = regroup(x.dims, attempt)
        if found is not None:
            dims, splits = found
            x.split(splits)
            return x.with_axes(splits.apply(dims), x.axes, x.tensor)
    if -1 in target and any(f.free for f in flat(x.dims)) and not any(isinstance(t, Batch) for t in target):
        at = list(target).index(-1)
        if at != 0 and target[0] == 1 and b.freed:
            raise NotFree
    attempt = _without_minus_one(x, list(target), False)[0]
    if total(x.dims) != _product(attempt):
        if b.freed:
            raise NotFree
        raise Unsupported(f"a reshape of {list(x.shape)} to {_told(target)}")
    lengths = [-1 if isinstance(t, Batch) else t for t in attempt]
    tensor = b.named(keras().ops.reshape(x.canonical(), lengths))
    dims = tuple(new_dim(None, t.times) if isinstance(t, Batch) else new_dim(t) for t in attempt)
    return Value(dims, dims, tensor, None, x.dtype, x.positive)


def _told(target: Sequence[Size]) -> list[Any]:
    return [f"{t.times}N" if isinstance(t, Batch) else t for t in target]


def _product(target: Sequence[Size]) -> Size:
    free = [t.times for t in target if isinstance(t, Batch)]
    n = math.prod(t for t in target if not isinstance(t, Batch)) * math.prod(free)
    return Batch(n) if free else n


def _without_minus_one(x: Value, target: list[Size], freed: bool) -> list[list[Size]]:
    """The target with -1 computed; where the batch was 1 in the file, first with that 1 as the batch."""
    whole = total(x.dims)
    times = whole.times if isinstance(whole, Batch) else whole
    found = []
    if freed and isinstance(whole, Batch) and 1 in target and not any(isinstance(t, Batch) for t in target):
        found.append(_filled(target, times))
    if isinstance(whole, Batch) and not any(isinstance(t, Batch) for t in target) and -1 in target:
        rest = _filled(target, times)
        found.append(
            [Batch(int(r)) if t == -1 and not isinstance(r, Batch) else r for t, r in zip(target, rest, strict=True)]
        )
    else:
        found.append(_filled(target, times))
    return found


def _filled(target: list[Size], times: int) -> list[Size]:
    known = math.prod(t.times if isinstance(t, Batch) else t for t in target if t != -1)
    if -1 in target and (known == 0 or times % known):
        raise Unsupported(f"a reshape of {times} entries to {_told(target)}")
    return [times // known if t == -1 else t for t in target]


@op("Flatten")
def flatten(b: Builder, node: Node, x: Value) -> Value:
    axis = node.integer("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    dims = (flat(x.dims[:axis]), flat(x.dims[axis:]))
    return x.with_axes(dims, x.axes, x.tensor)


@op("Transpose")
def transpose(b: Builder, node: Node, x: Value) -> Value:
    order = node.integers("perm") or list(reversed(range(x.rank)))
    if sorted(order) != list(range(x.rank)):
        raise Unsupported(f"perm {order} of a tensor of rank {x.rank}")
    return x.with_axes(tuple(x.dims[i] for i in order), x.axes, x.tensor)


def _axes(node: Node, axes: Value | None, rank: int) -> list[int]:
    given = node.integers("axes") if axes is None else [int(a) for a in axes.array.reshape(-1)]
    return sorted(axis_of(a, rank) for a in given)


@op("Squeeze")
def squeeze(b: Builder, node: Node, x: Value, axes: Value | None = None) -> Value:
    over = _axes(node, axes, x.rank) or [i for i, d in enumerate(x.dims) if not d]
    for a in over:
        if any(f.free for f in x.dims[a]):
            if b.freed:
                raise NotFree
            raise Unsupported("squeezing the batch away")
        if size(x.dims[a]) != 1:
            raise Unsupported(f"squeezing a dimension of {size(x.dims[a])}")
    return x.with_axes(tuple(d for i, d in enumerate(x.dims) if i not in over), x.axes, x.tensor)


@op("Unsqueeze")
def unsqueeze(b: Builder, node: Node, x: Value, axes: Value | None = None) -> Value:
    given = node.integers("axes") if axes is None else [int(a) for a in axes.array.reshape(-1)]
    rank = x.rank + len(given)
    at = {axis_of(a, rank) for a in given}
    rest = iter(x.dims)
    return x.with_axes(tuple(() if i in at else next(rest) for i in range(rank)), x.axes, x.tensor)


@op("DepthToSpace")
def depth_to_space(b: Builder, node: Node, x: Value) -> Value:
    n, k = x.shape[1], node.integer("blocksize")
    if n is None or k < 1 or n % (k * k):
        raise Unsupported(f"{n} channels in blocks of {k}x{k}")
    crd = node.text("mode", "DCR") == "CRD"
    head = _length(x.dims[0])
    parts: list[Size] = [head, *([n // k // k, k, k] if crd else [k, k, n // k // k]), *map(_length, x.dims[2:])]
    y = reshaped(b, x, parts)
    order = [0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2]
    d = [y.dims[i] for i in order]
    out = y.with_axes((d[0], d[1], d[2] + d[3], d[4] + d[5]), y.axes, y.tensor)
    last = tuple(out.dims[i] for i in (0, 2, 3, 1))
    return out.with_axes(out.dims, last, out.lay(last)) if is_block(out.axes, last) else out


@op("SpaceToDepth")
def space_to_depth(b: Builder, node: Node, x: Value) -> Value:
    k = node.integer("blocksize")
    h, w = x.shape[2:]
    if h is None or w is None or k < 1 or h % k or w % k:
        raise Unsupported(f"{h}x{w} in blocks of {k}x{k}")
    y = reshaped(b, x, [_length(x.dims[0]), _length(x.dims[1]), h // k, k, w // k, k])
    d = y.dims
    crd = node.text("mode", "DCR") == "CRD"
    deep = d[1] + d[3] + d[5] if crd else d[3] + d[5] + d[1]
    return y.with_axes((d[0], deep, d[2], d[4]), y.axes, y.tensor)


# --- cutting and joining


@op("Concat")
def concat(b: Builder, node: Node, *values: Value) -> Value:
    rank = values[0].rank
    axis = axis_of(node.integer("axis"), rank)
    parts = [v for v in values if v.shape[axis] != 0]
    if len(parts) == 1:
        return parts[0]
    if any(any(f.free for f in v.dims[axis]) for v in parts):
        raise NotFree if b.freed else Unsupported("joining along the batch")
    lead = max((v for v in parts if not v.is_constant), key=elements)
    lead, at = _copy(lead).apart(axis)
    joined: list[Any] = []
    for v in parts:
        joined.append(_joinable(b, lead, at, v, axis))
    tensor = (
        b.layer("Concatenate", *joined, axis=at if at != len(lead.axes) - 1 else -1)
        if at
        else b.named(keras().ops.concatenate(joined, axis=at))
    )
    made = new_dim(sum(int(v.shape[axis] or 1) for v in parts))
    dims = tuple(made if i == axis else d for i, d in enumerate(lead.dims))
    layout = tuple(made if i == at else a for i, a in enumerate(lead.axes))
    out = Value(dims, layout, tensor, None, tensor.dtype)
    out.positive = all(v.positive for v in parts)
    return out


def _copy(v: Value) -> Value:
    return v.with_axes(v.dims, v.axes, v.tensor)


def _joinable(b: Builder, lead: Value, at: int, v: Value, axis: int) -> Any:
    """A value with the axes of `lead`, but for its own length along `axis`."""
    if v.is_constant:
        return _constant_part(b, lead, at, v, axis)
    other, _ = _copy(v).apart(axis)
    rank = lead.rank
    for d in range(rank):
        if d != axis and lead.dims[d] != other.dims[d]:
            if lead.shape[d] != other.shape[d]:
                raise Unsupported(f"joining {list(lead.shape)} and {list(other.shape)}")
            align_at(lead, other, d, d)
    names = {n: o for d in range(rank) if d != axis for n, o in zip(lead.dims[d], other.dims[d], strict=True)}
    wanted = tuple(other.dims[axis] if i == at else tuple(names[f] for f in a) for i, a in enumerate(lead.axes))
    return other.lay(wanted)


def _constant_part(b: Builder, lead: Value, at: int, v: Value, axis: int) -> Any:
    made = b.materialized(v)
    assert v.constant is not None
    wanted = []
    for i, a in enumerate(lead.axes):
        if i == at:
            wanted.append(made.dims[axis])
            continue
        index = [d for d, dim in enumerate(lead.dims) if dim and set(dim) <= set(a)]
        if sum(len(lead.dims[d]) for d in index) != len(a):
            raise Unsupported("joining a constant in a layout of parts")
        order = sorted(index, key=lambda d: a.index(lead.dims[d][0]))
        wanted.append(flat(tuple(made.dims[d] for d in order)))
    return made.lay(tuple(wanted))


@op("Split")
def split(b: Builder, node: Node, x: Value, sizes: Value | None = None) -> Any:
    axis = axis_of(node.integer("axis"), x.rank)
    length = x.shape[axis]
    if length is None:
        raise NotFree if b.freed else Unsupported("splitting the batch")
    given = node.integers("split") if sizes is None else [int(s) for s in sizes.array.reshape(-1)]
    count = node.integer("num_outputs", len(node.outputs))
    part = -(-length // max(count, 1))
    given = given or [min(part, length - i * part) for i in range(count)]
    value, at = x.apart(axis)
    cuts = np.cumsum(given)[:-1].tolist()
    if sum(given) != length or min(given) < 0:
        raise Unsupported(f"splitting {length} into {given}")
    made = keras().ops.split(value.tensor, cuts if len(set(given)) > 1 else len(given), axis=at)
    b.named(made[0])
    return tuple(_along(value, axis, at, tensor, n) for tensor, n in zip(made, given, strict=True))


def _along(value: Value, axis: int, at: int, tensor: Any, length: int) -> Value:
    """A tensor that is `value` but for its length along one dimension."""
    made = new_dim(length)
    dims = tuple(made if i == axis else d for i, d in enumerate(value.dims))
    layout = tuple(made if i == at else a for i, a in enumerate(value.axes))
    return Value(dims, layout, tensor, None, tensor.dtype, value.positive)


@op("Slice")
def slice_(b: Builder, node: Node, x: Value, starts: Value | None = None, ends: Value | None = None,
           axes: Value | None = None, steps: Value | None = None) -> Value:  # fmt: skip
    begin = starts.sizes() if starts is not None else list(node.integers("starts"))
    stop = ends.sizes() if ends is not None else list(node.integers("ends"))
    along = (
        [int(a) for a in axes.array.reshape(-1)]
        if axes is not None
        else node.integers("axes") or list(range(len(begin)))
    )
    step = [int(s) for s in steps.array.reshape(-1)] if steps is not None else [1] * len(begin)
    along = [axis_of(a, x.rank) for a in along]
    if (thin := thinned(b, x, along, begin, stop, step)) is not None:
        return thin
    out = x
    for a, i, j, s in zip(along, begin, stop, step, strict=True):
        out = sliced(b, out, a, i, j, s)
    return out


def thinned(
    b: Builder, x: Value, along: Sequence[int], begin: Sequence[Size], stop: Sequence[Size], step: Sequence[int]
) -> Value | None:
    """Every s-th pixel of an image from the first on, as a pooling of windows of one pixel; None where it is not that.

    Interpreters have fast kernels for pooling; a strided slice takes several times as long.
    """
    s = step[0]
    if len(along) != 2 or len(x.axes) != 4 or s < 2 or s != step[1] or not x.dtype.startswith("float"):
        return None
    whole = all(
        (n := x.shape[a]) is not None and i == 0 and isinstance(j, int) and j >= n >= s
        for a, i, j in zip(along, begin, stop, strict=True)
    )
    if not whole or {x.dims[a] for a in along} != {x.axes[1], x.axes[2]}:
        return None
    out = b.layer("MaxPooling2D", x.tensor, pool_size=1, strides=s)
    made = {x.axes[i]: new_dim(int(out.shape[i])) for i in (1, 2)}
    dims, axes = (tuple(made.get(d, d) for d in each) for each in (x.dims, x.axes))
    return Value(dims, axes, out, None, out.dtype, x.positive)


def sliced(b: Builder, x: Value, axis: int, begin: Size, stop: Size, step: int) -> Value:
    length = x.shape[axis]
    if length is None:
        whole = (
            begin == 0 and step == 1 and (stop == total((x.dims[axis],)) or (isinstance(stop, int) and stop >= WHOLE))
        )
        if whole:
            return x
        raise NotFree if b.freed else Unsupported("a slice of the batch")
    if isinstance(begin, Batch) or isinstance(stop, Batch):
        raise Unsupported("a slice whose bounds depend on the batch size")
    places = range(length)[slice(begin, stop if not (step < 0 and stop < -length) else None, step)]
    if len(places) == length and step == 1:
        return x
    if not len(places):
        raise Unsupported("a slice of nothing")
    value, at = x.apart(axis)
    low, high = (places[0], places[-1]) if step > 0 else (places[-1], places[0])
    index: list[Any] = [slice(None)] * len(value.axes)
    if step > 0:
        index[at] = slice(low, high + 1, step)
        tensor = value.tensor[tuple(index)]
    else:
        index[at] = slice(low, high + 1)
        tensor = keras().ops.flip(
            value.tensor[tuple(index)] if (low, high) != (0, length - 1) else value.tensor, axis=at
        )
        if step < -1:
            index[at] = slice(0, high + 1 - low, -step)
            tensor = tensor[tuple(index)]
    return _along(value, axis, at, b.named(tensor), len(places))


@op("Expand")
def expand(b: Builder, node: Node, x: Value, wanted: Value) -> Value:
    target = wanted.sizes()
    rank = max(x.rank, len(target))
    dims = ((),) * (rank - x.rank) + x.dims
    full: list[Size] = [*[1] * (rank - len(target)), *target]
    missing = [i for i in range(rank) if not dims[i] and full[i] != 1]
    value = x.with_axes(dims, x.axes, x.tensor)
    if not missing:
        return value
    if any(isinstance(full[i], Batch) for i in missing):
        return _over_batch(b, value, missing, full)
    return _repeated(b, value, [n if i in missing and not isinstance(n, Batch) else 1 for i, n in enumerate(full)])


def _over_batch(b: Builder, value: Value, missing: list[int], full: list[Size]) -> Value:
    """Copies for every member of the batch: added to zeros that have the batch."""
    ops = keras().ops
    times = [full[i] for i in missing]
    if len(missing) != 1 or times[0] != Batch(1) or any(f.free for f in flat(value.dims)):
        raise Unsupported("an expansion to the batch size in several dimensions")
    first = b.reference
    zeros = ops.multiply(ops.cast(ops.reshape(first, (-1, math.prod(first.shape[1:])))[:, :1], value.dtype), 0)
    made = new_dim(None)
    rank = len(full)
    shape = [-1 if i == missing[0] else 1 for i in range(rank)]
    lead = Value(
        tuple(made if i == missing[0] else () for i in range(rank)),
        tuple(made if i == missing[0] else () for i in range(rank)),
        ops.reshape(zeros, shape), None, value.dtype,
    )  # fmt: skip
    return b.elementwise(plus, lead, value)


def _repeated(b: Builder, value: Value, counts: list[int]) -> Value:
    tensor = b.named(keras().ops.tile(value.canonical(), counts))
    dims = tuple(_longer(d, n) for d, n in zip(value.dims, counts, strict=True))
    return Value(dims, dims, tensor, None, tensor.dtype, value.positive)


def _longer(dim: Dim, count: int) -> Dim:
    if count == 1:
        return dim
    found = total((dim,))
    return new_dim(None, found.times * count) if isinstance(found, Batch) else new_dim(found * count)


@op("Tile")
def tile(b: Builder, node: Node, x: Value, repeats: Value) -> Value:
    counts = repeats.sizes()
    if all(c == 1 for c in counts):
        return x
    for i, c in enumerate(counts):
        if isinstance(c, Batch):
            if x.dims[i] or any(k != 1 for j, k in enumerate(counts) if j != i):
                raise Unsupported("copies as many as the batch is large")
            return _over_batch(b, x, [i], [c if j == i else total((d,)) for j, d in enumerate(x.dims)])
        if c != 1 and any(f.free for f in x.dims[i]):
            raise NotFree if b.freed else Unsupported("copies of the batch")
    return _repeated(b, x, [int(c) for c in counts if not isinstance(c, Batch)])


@op("Pad")
def pad(b: Builder, node: Node, x: Value, pads: Value | None = None, fill: Value | None = None,
        axes: Value | None = None) -> Value:  # fmt: skip
    given = (
        node.integers("pads") or node.integers("paddings") if pads is None else [int(p) for p in pads.array.reshape(-1)]
    )
    along = list(range(x.rank)) if axes is None else [axis_of(int(a), x.rank) for a in axes.array.reshape(-1)]
    number = fill.array.reshape(-1)[0].item() if fill is not None and fill.array.size else node.real("value")
    n = len(along)
    pairs = dict(zip(along, zip(given[:n], given[n:], strict=True), strict=True))
    value = x
    for a, (low, high) in pairs.items():
        if low < 0 or high < 0:
            length = int(value.shape[a] or 0)
            value = sliced(b, value, a, max(-low, 0), length - max(-high, 0), 1)
    pairs = {a: (max(low, 0), max(high, 0)) for a, (low, high) in pairs.items() if low > 0 or high > 0}
    if not pairs:
        return value
    mode = node.text("mode", "constant")
    return padded(b, value, pairs, mode, number)


def padded(b: Builder, value: Value, pairs: dict[int, tuple[int, int]], mode: str, number: float) -> Value:
    """The value with borders around ONNX's dimensions `pairs`."""
    if any(f.free for a in pairs for f in value.dims[a]):
        raise Unsupported("padding the batch")
    value, place = value.spread()
    amounts = [(0, 0)] * len(value.axes)
    made = {a: new_dim(int(value.shape[a] or 1) + low + high) for a, (low, high) in pairs.items()}
    for a, pair in pairs.items():
        amounts[place[a]] = pair
    n = len(value.axes) - 2
    spatial = n in (2, 3) and amounts[0] == amounts[-1] == (0, 0) and any(f.free for f in value.axes[0])
    if mode == "constant" and number == 0 and spatial and value.dtype == "float32":
        tensor = b.layer(f"ZeroPadding{n}D", value.tensor, padding=tuple(amounts[1:-1]))
    else:
        tensor = b.named(_pad(value.tensor, amounts, mode, number, value.dtype))
    dims = tuple(made.get(a, d) for a, d in enumerate(value.dims))
    layout = tuple(dims[place.index(i)] for i in range(len(value.axes)))
    positive = value.positive and (mode != "constant" or number >= 0)
    return Value(dims, layout, tensor, None, tensor.dtype, positive)


def _pad(tensor: Any, amounts: list[tuple[int, int]], mode: str, number: float, dtype: str) -> Any:
    ops = keras().ops
    if mode == "constant":
        if number == 0:
            return ops.pad(tensor, amounts)
        return ops.pad(tensor, amounts, constant_values=float(number) if dtype.startswith("float") else int(number))
    if mode == "reflect" and all(max(p) < (n or 1) for p, n in zip(amounts, tensor.shape, strict=True) if any(p)):
        return ops.pad(tensor, amounts, mode="reflect")
    for axis, (low, high) in enumerate(amounts):
        if not (low or high):
            continue
        length = tensor.shape[axis]
        if mode == "edge":
            index = np.clip(np.arange(-low, length + high), 0, length - 1)
        elif mode == "wrap":
            index = np.arange(-low, length + high) % length
        elif mode == "reflect":
            period = max(2 * (length - 1), 1)
            turned = np.abs(np.arange(-low, length + high)) % period
            index = np.where(turned < length, turned, period - turned)
        else:
            raise Unsupported(f"padding of mode '{mode}'")
        tensor = _taken(tensor, index, axis)
    return tensor


def _taken(tensor: Any, index: Any, axis: int) -> Any:
    return keras().ops.take(tensor, np.asarray(index, np.int32), axis=axis)


@op("ConstantOfShape")
def constant_of_shape(b: Builder, node: Node, shape: Value) -> Value:
    raise Unsupported("a shape that is computed from the data")


@op("Trilu")
def trilu(b: Builder, node: Node, x: Value, k: Value | None = None) -> Value:
    ops = keras().ops
    shift = int(k.array.reshape(-1)[0]) if k is not None else 0
    rows, columns = x.shape[-2:]
    if rows is None or columns is None:
        raise Unsupported("a triangle over the batch")
    mask = (np.triu if node.integer("upper", 1) else np.tril)(np.ones((rows, columns), bool), shift)
    return b.elementwise(lambda m, t: ops.where(m, t, ops.zeros_like(t)), Value.of_constant(mask), x)


__all__ = ["of_tensor", "padded", "reshaped", "sliced", "total"]
