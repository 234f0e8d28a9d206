"""Indexing: Gather and Scatter in all their forms, OneHot, TopK, Compress, ReverseSequence, EyeLike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..layout import Dim, Dims, NotFree, flat, new_dim, new_dims, size
from ..node import Node, Unsupported, axis_of
from ..value import PROBES, Value
from . import op
from .math import dtype_of


def is_free(dim: Dim) -> bool:
    """Whether a dimension holds the batch."""
    return any(f.free for f in dim)


def refuse_batch(b: Builder, what: str) -> Exception:
    """The error for an operator that works along the batch: it may be meant as one of exactly 1."""
    return NotFree() if b.freed else Unsupported(what)


def anew(dims: Dims) -> Dims:
    """Dimensions of the same lengths, each of one new factor."""
    return tuple(new_dim(size(d), math.prod(f.size for f in d)) if d else () for d in dims)


def in_order(tensor: Any, dims: Dims, *, positive: bool = False) -> Value:
    """A tensor whose axes are `dims`, in ONNX's order."""
    return Value(dims, dims, tensor, None, tensor.dtype, positive)


# --- Gather


@op("Gather")
def gather(b: Builder, node: Node, data: Value, indices: Value) -> Value:
    axis = axis_of(node.integer("axis"), data.rank)
    if indices.is_constant:
        return _gathered(b, data, axis, indices.array)
    if data.is_constant and data.rank == 2 and axis == 0 and data.dtype == "float32":
        return _embedded(b, data.array, indices)
    if is_free(data.dims[axis]):
        raise refuse_batch(b, "computed indices into the batch")
    source = b.materialized(data)
    rest = (*source.dims[:axis], *source.dims[axis + 1 :])
    if any(is_free(d) for d in rest) and any(is_free(d) for d in indices.dims):
        raise refuse_batch(b, "an outer product of two batches")
    out = b.named(keras().ops.take(source.canonical(), indices.canonical(), axis=axis))
    dims = (*source.dims[:axis], *anew(indices.dims), *source.dims[axis + 1 :])
    return in_order(out, dims, positive=data.positive)


def _embedded(b: Builder, table: Array, indices: Value) -> Value:
    """Rows of a table; Keras counts negative indices from the end, as ONNX does."""
    rows, width = table.shape
    out = b.layer("Embedding", indices.tensor, weights=[table], input_dim=rows, output_dim=width)
    made = new_dim(width)
    dims, axes = (*indices.dims, made), (*indices.axes, made)
    return Value(dims, axes, out, None, out.dtype)


def _gathered(b: Builder, data: Value, axis: int, indices: Array) -> Value:
    """Constant indices: a slice where they follow each other, and no dimension where it is one number."""
    dim = data.dims[axis]
    if is_free(dim):
        raise refuse_batch(b, "single members of the batch")
    length = int(size(dim) or 1)
    index = np.asarray(indices, np.int64)
    index = np.where(index < 0, index + length, index)
    if index.size == 0 or index.min() < 0 or index.max() >= length:
        raise Unsupported(f"indices outside of a dimension of {length}")
    if not dim and index.size == 1:
        dims = (*data.dims[:axis], *((),) * index.ndim, *data.dims[axis + 1 :])
        return data.with_axes(dims, data.axes, data.tensor)
    value, at = data.apart(axis)
    tensor, made = _picked(value.tensor, index, at), new_dims(index.shape)
    layout = list(value.axes)
    layout[at : at + 1] = [flat(made)] if index.ndim else []
    dims = (*value.dims[:axis], *made, *value.dims[axis + 1 :])
    return Value(dims, tuple(layout), b.named(tensor), None, tensor.dtype, data.positive)


def _picked(tensor: Any, index: Array, axis: int) -> Any:
    """The entries `index` (any rank, flattened) of an axis; without the axis where it is one number."""
    if index.ndim == 0:
        return tensor[(slice(None),) * axis + (int(index),)]
    order = index.reshape(-1)
    steps = np.unique(np.diff(order)) if order.size > 1 else np.array([1])
    if steps.size == 1 and steps[0] > 0:
        return tensor[(slice(None),) * axis + (slice(int(order[0]), int(order[-1]) + 1, int(steps[0])),)]
    return keras().ops.take(tensor, order.astype(np.int32), axis=axis)


@op("GatherElements")
def gather_elements(b: Builder, node: Node, data: Value, indices: Value) -> Value:
    axis = axis_of(node.integer("axis"), data.rank)
    source, index = b.materialized(data), b.materialized(indices)
    if is_free(source.dims[axis]):
        raise refuse_batch(b, "indices into the batch")
    cut = []
    for d, (n, k) in enumerate(zip(source.shape, index.shape, strict=True)):
        if d != axis and n != k and (n is None or k is None):
            raise refuse_batch(b, "indices of another batch")
        cut.append(slice(None) if d == axis or n == k else slice(0, k))
    tensor = source.canonical()
    if any(c != slice(None) for c in cut):
        tensor = tensor[tuple(cut)]
    out = b.named(keras().ops.take_along_axis(tensor, index.canonical(), axis=axis))
    return in_order(out, index.dims, positive=data.positive)


def _strides(lengths: Sequence[int]) -> list[int]:
    return [math.prod(lengths[i + 1 :]) for i in range(len(lengths))]


def _known(v: Value) -> list[int]:
    if any(n is None for n in v.shape):
        raise Unsupported("indices that go with a batch of any size")
    return [int(n or 0) for n in v.shape]


def _linear(index: Any, lengths: Sequence[int]) -> Any:
    """Index tuples [..., k] into `lengths` as places in all of them in a row; negative ones from the end."""
    ops = keras().ops
    total = None
    for i, (n, stride) in enumerate(zip(lengths, _strides(lengths), strict=True)):
        part = index[..., i]
        part = ops.multiply(ops.where(ops.less(part, 0), ops.add(part, n), part), stride)
        total = part if total is None else ops.add(total, part)
    return total


@op("GatherND")
def gather_nd(b: Builder, node: Node, data: Value, indices: Value) -> Value:
    ops, lead = keras().ops, node.integer("batch_dims")
    if not data.is_constant and indices.is_constant and lead == 0:
        inner = _per_member(b, indices, data)
        if inner is not None:
            return _gather_members(b, data, inner)
    source, index = b.materialized(data), b.materialized(indices)
    depth = index.shape[-1]
    if depth is None or any(is_free(d) for d in source.dims[lead : lead + depth]):
        raise refuse_batch(b, "indices into the batch")
    inside = [int(n or 1) for n in source.shape[lead : lead + depth]]
    rest_dims = source.dims[lead + depth :]
    rest = [int(n or 1) for n in map(size, rest_dims)]
    linear = _linear(index.canonical(), inside)
    if lead == 0:
        if any(is_free(d) for d in rest_dims):
            raise refuse_batch(b, "a batch that is not the first dimension")
        table = ops.reshape(source.canonical(), (math.prod(inside), *rest))
        out = b.named(ops.take(table, linear, axis=0))
        return in_order(out, (*index.dims[:-1], *anew(rest_dims)))
    middle = [int(n or 1) for n in index.shape[lead:-1]]
    table = ops.reshape(source.canonical(), (-1, math.prod(inside), math.prod(rest)))
    places = ops.reshape(linear, (-1, math.prod(middle), 1))
    found = ops.take_along_axis(table, places, axis=1)
    first = [-1 if n is None else n for n in index.shape[:lead]]
    if first.count(-1) > 1:
        raise Unsupported("two dimensions of the batch")
    out = b.named(ops.reshape(found, (*first, *middle, *rest)))
    return in_order(out, (*index.dims[:-1], *anew(rest_dims)))


def _per_member(b: Builder, indices: Value, data: Value) -> Array | None:
    """Constant index tuples [N, ..., k] whose first number only counts the batch, without it: [..., k - 1]."""
    if not data.dims or not is_free(data.dims[0]) or indices.constant is None or indices.constant.at[0].ndim < 2:
        return None
    first, second = indices.constant.at
    if b.freed and first.shape[0] == 1 and indices.constant.is_fixed and not np.any(first[..., 0]):
        return first[0, ..., 1:]
    for array, n in ((first, PROBES[0]), (second, PROBES[1])):
        if array.shape[0] != n:
            return None
        counted = np.arange(n).reshape(-1, *[1] * (array.ndim - 2))
        if np.any(array[..., 0] != counted) or np.any(array[..., 1:] != first[:1, ..., 1:]):
            return None
    return first[0, ..., 1:]


def _gather_members(b: Builder, data: Value, inner: Array) -> Value:
    """The same entries of every member of the batch."""
    ops, depth = keras().ops, inner.shape[-1]
    inside = [int(n or 1) for n in data.shape[1 : 1 + depth]]
    rest_dims = data.dims[1 + depth :]
    rest = [int(n or 1) for n in map(size, rest_dims)]
    index = (
        np.ravel_multi_index(tuple(np.where(inner < 0, inner + inside, inner).reshape(-1, depth).T), inside)
        if depth
        else None
    )
    if index is None:
        return data
    table = ops.reshape(data.canonical(), (-1, math.prod(inside), *rest))
    found = ops.take(table, index.astype(np.int32), axis=1)
    out = b.named(ops.reshape(found, (-1, *inner.shape[:-1], *rest)))
    return in_order(out, (data.dims[0], *new_dims(inner.shape[:-1]), *anew(rest_dims)))


# --- Scatter


_COMBINE = {"add": "add", "mul": "mul", "max": "max", "min": "min"}


def _scattered(b: Builder, data: Any, linear: Any, updates: Any, how: str, width: int) -> Any:
    """`updates` [U, width] put into `data` [T, width] at the rows `linear` [U]."""
    ops = keras().ops
    places = ops.reshape(linear, (-1, 1))
    if how not in ("none", *_COMBINE):
        raise Unsupported(f"the reduction '{how}'")
    return ops.scatter_update(data, places, updates, reduction=None if how == "none" else _COMBINE[how])


def _replaced(data: Any, places: Array, updates: Any, axis: int) -> Any:
    """Constant places: a choice between the data and the updates, in the order of the data."""
    ops, total = keras().ops, data.shape[axis]
    source = np.full(total, -1, np.int64)
    source[places] = np.arange(len(places))
    shape = [1] * len(data.shape)
    shape[axis] = total
    if np.all(source >= 0):
        return ops.take(updates, source.astype(np.int32), axis=axis)
    spread = ops.take(updates, np.maximum(source, 0).astype(np.int32), axis=axis)
    return ops.where((source >= 0).reshape(shape), spread, data)


@op("ScatterND")
def scatter_nd(b: Builder, node: Node, data: Value, indices: Value, updates: Value) -> Value:
    ops, how = keras().ops, node.text("reduction", "none")
    source, change = b.materialized(data), b.materialized(updates)
    inner = _per_member(b, indices, source)
    if inner is not None:
        if how != "none":
            raise Unsupported(f"the reduction '{how}' with a batch of any size")
        return _scatter_members(b, source, inner, change)
    if any(is_free(d) for d in source.dims):
        raise refuse_batch(b, "indices into the batch")
    lengths = _known(source)
    depth = int(indices.shape[-1] or 0)
    width = math.prod(lengths[depth:])
    table = ops.reshape(source.canonical(), (math.prod(lengths[:depth]), width))
    rows = ops.reshape(change.canonical(), (-1, width))
    if indices.is_constant and how == "none":
        places = _linear_constant(indices.array, lengths[:depth])
        out = _replaced(table, places, rows, 0)
    else:
        linear = _linear(b.materialized(indices).canonical(), lengths[:depth])
        out = _scattered(b, table, linear, rows, how, width)
    return in_order(b.named(ops.reshape(out, lengths)), anew(source.dims))


def _linear_constant(index: Array, lengths: Sequence[int]) -> Array:
    index = np.where(index < 0, index + np.asarray(lengths), index)
    return np.asarray((index * np.asarray(_strides(lengths))).sum(-1).reshape(-1))


def _scatter_members(b: Builder, source: Value, inner: Array, change: Value) -> Value:
    """The same places in every member of the batch."""
    ops = keras().ops
    lengths = [int(n or 1) for n in source.shape[1:]]
    depth = inner.shape[-1]
    width = math.prod(lengths[depth:])
    table = ops.reshape(source.canonical(), (-1, math.prod(lengths[:depth]), width))
    rows = ops.reshape(change.canonical(), (-1, int(np.prod(inner.shape[:-1])), width))
    out = _replaced(table, _linear_constant(inner, lengths[:depth]), rows, 1)
    return in_order(b.named(ops.reshape(out, (-1, *lengths))), (source.dims[0], *anew(source.dims[1:])))


@op("ScatterElements", "Scatter")
def scatter_elements(b: Builder, node: Node, data: Value, indices: Value, updates: Value) -> Value:
    ops, how = keras().ops, node.text("reduction", "none")
    axis = axis_of(node.integer("axis"), data.rank)
    source, change = b.materialized(data), b.materialized(updates)
    if any(is_free(d) for d in source.dims):
        return _scatter_along(b, source, indices, change, axis, how)
    lengths = _known(source)
    shape = _known(b.materialized(indices) if not indices.is_constant else indices)
    grid = np.indices(shape)
    table = ops.reshape(source.canonical(), (math.prod(lengths), 1))
    rows = ops.reshape(change.canonical(), (-1, 1))
    strides = _strides(lengths)
    others = sum(grid[d] * strides[d] for d in range(len(lengths)) if d != axis) + np.zeros(shape, np.int64)
    if indices.is_constant:
        index = indices.array
        places = (others + np.where(index < 0, index + lengths[axis], index) * strides[axis]).reshape(-1)
        if how == "none":
            return in_order(b.named(ops.reshape(_replaced(table, places, rows, 0), lengths)), anew(source.dims))
        linear: Any = places.astype(np.int64)
    else:
        index_tensor = ops.cast(indices.canonical(), "int64")
        along = ops.where(ops.less(index_tensor, 0), ops.add(index_tensor, lengths[axis]), index_tensor)
        linear = ops.add(ops.multiply(along, strides[axis]), others.astype(np.int64))
    out = _scattered(b, table, linear, rows, how, 1)
    return in_order(b.named(ops.reshape(out, lengths)), anew(source.dims))


def _scatter_along(b: Builder, source: Value, indices: Value, change: Value, axis: int, how: str) -> Value:
    """With a free batch: constant indices that are the same for every member."""
    from ..elementwise import collapsed

    ops = keras().ops
    if axis == 0 or how != "none" or not indices.is_constant or not is_free(source.dims[0]):
        raise refuse_batch(b, "computed places with a batch of any size")
    index = collapsed(indices)
    if index.shape[0] != 1:
        raise refuse_batch(b, "indices for some members of the batch")
    lengths = [int(n or 1) for n in source.shape[1:]]
    strides, grid = _strides(lengths), np.indices(index.shape[1:])
    along = np.where(index[0] < 0, index[0] + lengths[axis - 1], index[0])
    places = sum((along if d == axis - 1 else grid[d]) * strides[d] for d in range(len(lengths)))
    table = ops.reshape(source.canonical(), (-1, math.prod(lengths)))
    rows = ops.reshape(change.canonical(), (-1, int(np.prod(index.shape[1:]))))
    out = _replaced(table, np.asarray(places).reshape(-1), rows, 1)
    return in_order(b.named(ops.reshape(out, (-1, *lengths))), (source.dims[0], *anew(source.dims[1:])))


# --- choosing


@op("OneHot")
def one_hot(b: Builder, node: Node, indices: Value, depth: Value, values: Value) -> Value:
    ops = keras().ops
    count = int(depth.array.reshape(-1)[0])
    if not 1 <= count <= 1 << 20:
        raise Unsupported(f"a depth of {count}")
    axis = axis_of(node.integer("axis", -1), indices.rank + 1)
    index = b.tensor(indices)
    index = ops.expand_dims(ops.where(ops.less(index, 0), ops.add(index, count), index), axis)
    shape = [1] * (indices.rank + 1)
    shape[axis] = count
    hot = ops.equal(index, np.arange(count).astype(indices.dtype).reshape(shape))
    if values.is_constant:
        off, on = (np.asarray(v, values.dtype) for v in values.array.reshape(-1))
    else:
        off, on = values.canonical()[0], values.canonical()[1]
    out = b.named(ops.where(hot, on, off))
    dims = (*indices.dims[:axis], new_dim(count), *indices.dims[axis:])
    return in_order(out, dims)


@op("TopK")
def top_k(b: Builder, node: Node, x: Value, k: Value | None = None) -> tuple[Value, Value]:
    ops = keras().ops
    axis = axis_of(node.integer("axis", -1), x.rank)
    count = node.integer("k") if k is None else int(k.array.reshape(-1)[0])
    length = x.shape[axis]
    if length is None:
        raise refuse_batch(b, "the largest members of the batch")
    if not 1 <= count <= length:
        raise Unsupported(f"the {count} largest of {length}")
    value, at = x.apart(axis)
    layout = (*value.axes[:at], *value.axes[at + 1 :], value.axes[at])
    tensor, smallest = value.lay(layout), not node.integer("largest", 1)
    if smallest:
        if x.dtype.startswith("uint"):
            raise Unsupported(f"the smallest of {x.dtype}")
        tensor = ops.negative(tensor)
    found, index = ops.top_k(tensor, count)
    found = ops.negative(found) if smallest else found
    index = ops.cast(index, "int64")
    b.named(found)
    made = new_dim(count)
    dims = (*value.dims[:axis], made, *value.dims[axis + 1 :])
    axes = (*layout[:-1], made)
    return (
        Value(dims, axes, found, None, found.dtype, x.positive),
        Value(dims, axes, index, None, "int64", True),
    )


@op("Compress")
def compress(b: Builder, node: Node, x: Value, condition: Value) -> Value:
    if not condition.is_constant:
        raise Unsupported("a condition that is computed: how much is left depends on the data")
    kept = np.flatnonzero(condition.array.reshape(-1))
    if node.has("axis"):
        return _gathered(b, x, axis_of(node.integer("axis"), x.rank), kept)
    row = x.with_axes((flat(x.dims),), x.axes, x.tensor)
    return _gathered(b, row, 0, kept)


@op("ReverseSequence")
def reverse_sequence(b: Builder, node: Node, x: Value, lengths: Value) -> Value:
    ops = keras().ops
    time, batch = node.integer("time_axis"), node.integer("batch_axis", 1)
    x = b.materialized(x)
    steps = x.shape[time]
    if steps is None or {time, batch} != {0, 1}:
        raise Unsupported("sequences along the batch")
    count = b.tensor(lengths) if not lengths.is_constant else np.asarray(lengths.array)
    count = ops.cast(count, "int64")
    at = np.arange(steps).reshape((-1, 1) if time == 0 else (1, -1))
    length = ops.expand_dims(count, time)
    index = ops.where(ops.less(at, length), ops.subtract(ops.subtract(length, 1), at), at)
    for _ in range(x.rank - 2):
        index = ops.expand_dims(index, -1)
    return in_order(b.named(ops.take_along_axis(x.canonical(), index, axis=time)), x.dims)


@op("EyeLike")
def eye_like(b: Builder, node: Node, x: Value) -> Value:
    dtype = dtype_of(node.integer("dtype")) if node.has("dtype") else x.dtype
    if x.rank != 2 or None in x.shape:
        raise Unsupported("an identity as large as the batch")
    rows, columns = (int(n or 0) for n in x.shape)
    wanted = "float32" if dtype in ("float16", "bfloat16", "float64") else dtype
    return Value.of_constant(np.eye(rows, columns, node.integer("k"), dtype=wanted))


@op("TensorScatter")
def tensor_scatter(b: Builder, node: Node, past: Value, update: Value, write: Value | None = None) -> Value:
    """A cache with new entries written at an index of its own for each member of the batch."""
    ops = keras().ops
    axis = axis_of(node.integer("axis", -2), past.rank)
    length, new = past.shape[axis], update.shape[axis]
    if length is None or new is None or axis == 0:
        raise Unsupported("writing along the batch")
    source, change = b.materialized(past), b.materialized(update)
    shape = [1] * past.rank
    shape[axis] = length
    at = np.arange(length).reshape(shape)
    first = np.zeros(1, np.int64) if write is None else b.tensor(write)
    first = ops.cast(ops.reshape(first, (-1, *[1] * (past.rank - 1))), "int64")
    place = ops.subtract(at, first)
    if node.text("mode", "linear") == "circular":
        place = ops.mod(place, length)
    inside = ops.logical_and(ops.greater_equal(place, 0), ops.less(place, new))
    spread = ops.take_along_axis(change.canonical(), ops.clip(place, 0, new - 1), axis=axis)
    return in_order(b.named(ops.where(inside, spread, source.canonical())), source.dims)


__all__ = ["anew", "in_order", "is_free", "refuse_batch"]
