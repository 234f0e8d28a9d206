"""Pooling: MaxPool, AveragePool, LpPool and their global forms, with any padding, rounding and dilation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..node import Node, Unsupported
from ..value import Value
from . import op
from .conv import Pads, is_same, lying, padded, spatial, windows

MAX_PLACES = 256  # in a window that is written out, one slice for each


def _windows(node: Node, x: Value) -> tuple[list[int], list[int], list[int], Pads, list[int]]:
    """Kernel, strides, dilations, pads, and how far beyond the pads the last windows reach (ceil_mode)."""
    kernel = node.integers("kernel_shape")
    if len(kernel) != x.rank - 2:
        raise Unsupported(f"a window of {len(kernel)} dimensions on a tensor of rank {x.rank}")
    strides, dilations, pads = windows(node, x, kernel)
    beyond = [0] * len(kernel)
    if node.integer("ceil_mode"):
        for i, (n, k, s, d, (a, z)) in enumerate(zip(x.shape[2:], kernel, strides, dilations, pads, strict=True)):
            if n is None:
                raise Unsupported("ceil_mode on a dimension whose size is not known")
            span = (k - 1) * d + 1
            count = -(-(n + a + z - span) // s) + 1
            if (count - 1) * s >= n + a:  # the last window must begin inside the input or its first pad
                count -= 1
            beyond[i] = max((count - 1) * s + span - (n + a + z), 0)
    return kernel, strides, dilations, pads, beyond


@op("MaxPool")
def max_pool(b: Builder, node: Node, x: Value) -> Any:
    kernel, strides, dilations, pads, beyond = _windows(node, x)
    reach = [(a, z + e) for (a, z), e in zip(pads, beyond, strict=True)]
    if node.wants(1):
        return _with_indices(b, node, x, kernel, strides, dilations, reach)
    n = len(kernel)
    if n > 3 or any(d > 1 for d in dilations):
        out = _slid(keras().ops.maximum, _lowest(b, x, x.channels_last(), reach), kernel, strides, dilations)
    elif is_same(x, kernel, strides, dilations, reach) and any(p for pair in reach for p in pair):
        out = _pool(b, "Max", x.channels_last(), kernel, strides, "same")
    else:
        out = _pool(b, "Max", _under(b, x, kernel, reach), kernel, strides, "valid")
    found = spatial(x, out, channels=False)
    found.positive = x.positive
    return found


def _pool(b: Builder, kind: str, tensor: Any, kernel: Sequence[int], strides: Sequence[int], padding: str) -> Any:
    return b.layer(
        f"{kind}Pooling{len(kernel)}D", tensor, pool_size=tuple(kernel), strides=tuple(strides), padding=padding
    )


def _under(b: Builder, x: Value, kernel: Sequence[int], reach: Pads) -> Any:
    """The input with borders that no window prefers to its own entries."""
    tensor = x.channels_last()
    if not any(p for pair in reach for p in pair):
        return tensor
    if x.positive:
        return padded(b, tensor, reach)
    lengths = tensor.shape[1:-1]
    if all(2 * max(p) <= k and max(p) <= (n or 1) for p, k, n in zip(reach, kernel, lengths, strict=True)):
        # mirrored entries lie in the same window anyway, and keep a quantizer's range as it is
        mirrored = [(0, 0), *reach, (0, 0)]
        return b.named(keras().ops.pad(tensor, mirrored, mode="symmetric"))
    return _lowest(b, x, tensor, reach)


def _lowest(b: Builder, x: Value, tensor: Any, reach: Pads) -> Any:
    if not any(p for pair in reach for p in pair):
        return tensor
    lowest: Any = np.finfo(np.float32).min if x.dtype.startswith("float") else int(np.iinfo(x.dtype).min)
    return b.named(
        keras().ops.pad(
            tensor, [(0, 0), *reach, (0, 0)], constant_values=float(lowest) if x.dtype.startswith("float") else lowest
        )
    )


def _slid(combine: Any, tensor: Any, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """A reduction over windows, written as one strided slice for each place in the window."""
    lengths = tensor.shape[1:-1]
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(lengths, kernel, strides, dilations, strict=True)]
    if int(np.prod(kernel)) > MAX_PLACES:
        raise Unsupported(f"a dilated window of more than {MAX_PLACES} entries")
    out = None
    for place in itertools.product(*(range(k) for k in kernel)):
        parts = [
            slice(p * d, p * d + (c - 1) * s + 1, s)
            for p, d, c, s in zip(place, dilations, counts, strides, strict=True)
        ]
        piece = tensor[(slice(None), *parts, slice(None))]
        out = piece if out is None else combine(out, piece)
    return out


def _with_indices(
    b: Builder, node: Node, x: Value, kernel: list[int], strides: list[int], dilations: list[int], reach: Pads
) -> tuple[Value, Value]:
    """The largest entries, and where in the whole input, all of it in a row, each was: window place by window place."""
    ops = keras().ops
    lengths, channels = [int(n or 0) for n in x.shape[2:]], int(x.shape[1] or 0)
    columns = bool(node.integer("storage_order"))
    if (columns and x.rank != 4) or 0 in (*lengths, channels) or int(np.prod(kernel)) > MAX_PLACES:
        raise Unsupported(f"indices by columns, or of {np.prod(kernel)} entries")
    tensor = _lowest(b, x, x.channels_last(), reach)
    counts = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(tensor.shape[1:-1], kernel, strides, dilations, strict=True)
    ]
    best: Any = None
    at: Any = None
    for place in itertools.product(*(range(k) for k in kernel)):
        rows = [p * d + np.arange(c) * s for p, d, c, s in zip(place, dilations, counts, strides, strict=True)]
        parts = [slice(int(r[0]), int(r[-1]) + 1, s) for r, s in zip(rows, strides, strict=True)]
        piece = tensor[(slice(None), *parts, slice(None))]
        grid = list(np.meshgrid(*(r - a for r, (a, _) in zip(rows, reach, strict=True)), indexing="ij"))
        order = slice(None, None, -1) if columns else slice(None)
        index = np.ravel_multi_index(tuple(grid[order]), lengths[order], mode="clip")[None, ..., None].astype(np.int64)
        if best is None:
            best, at = piece, ops.add(ops.cast(ops.zeros_like(piece), "int64"), index)
        else:
            more = ops.greater(piece, best)
            best, at = ops.where(more, piece, best), ops.where(more, index, at)
    size = math.prod(lengths)
    corner = ops.cast(ops.ones_like(best[(slice(None), *(slice(0, 1),) * (x.rank - 1))]), "int64")
    member = ops.subtract(ops.cumsum(corner, axis=0), corner)
    at = ops.add(ops.add(at, np.arange(channels, dtype=np.int64) * size), ops.multiply(member, channels * size))
    found = spatial(x, b.named(best), channels=False)
    return found, Value(found.dims, found.axes, at, None, "int64", True)


@op("MaxUnpool")
def max_unpool(b: Builder, node: Node, x: Value, indices: Value, wanted: Value | None = None) -> Value:
    """Entries back to where a MaxPool took them from: of each window, the place whose index is the one that was kept."""
    ops, kernel = keras().ops, node.integers("kernel_shape")
    if (node.integers("strides") or [1] * len(kernel)) != kernel or any(node.integers("pads")):
        raise Unsupported("windows that overlap, or with padding")
    sizes = [int(n or 0) * k for n, k in zip(x.shape[2:], kernel, strict=True)]
    channels = int(x.shape[1] or 0)
    tensor, at = x.channels_last(), b.materialized(indices).channels_last()
    for axis, k in enumerate(kernel, 1):
        tensor, at = ops.repeat(tensor, k, axis=axis), ops.repeat(at, k, axis=axis)
    count = math.prod(sizes)
    own = np.arange(count).reshape(1, *sizes, 1) + np.arange(channels) * count
    kept = ops.equal(ops.mod(at, channels * count), own.astype(np.int64))
    out = ops.where(kept, tensor, ops.zeros_like(tensor))
    if wanted is not None:
        target = [int(n) for n in wanted.sizes()[2:] if isinstance(n, int)]
        if len(target) != len(sizes) or any(t < s for t, s in zip(target, sizes, strict=True)):
            raise Unsupported(f"an output of {target} from {sizes}")
        out = ops.pad(out, [(0, 0), *((0, t - s) for t, s in zip(target, sizes, strict=True)), (0, 0)])
    return spatial(x, b.named(out), channels=False)


@op("AveragePool")
def average_pool(b: Builder, node: Node, x: Value) -> Value:
    kernel, strides, dilations, pads, beyond = _windows(node, x)
    reach = [(a, z + e) for (a, z), e in zip(pads, beyond, strict=True)]
    n = len(kernel)
    if any(d > 1 for d in dilations) or n > 3:
        total = _slid(
            keras().ops.add, padded(b, x.channels_last(), reach) if n <= 3 else _refuse(), kernel, strides, dilations
        )
        out = keras().ops.multiply(total, 1.0 / float(np.prod(kernel)))
    elif not any(p for pair in reach for p in pair):
        return spatial(x, _pool(b, "Average", x.channels_last(), kernel, strides, "valid"), channels=False)
    elif not node.integer("count_include_pad") and is_same(x, kernel, strides, dilations, reach):
        return spatial(x, _pool(b, "Average", x.channels_last(), kernel, strides, "same"), channels=False)
    else:
        out = _pool(b, "Average", padded(b, x.channels_last(), reach), kernel, strides, "valid")
    share = _share(x, kernel, strides, dilations, pads, reach, bool(node.integer("count_include_pad")))
    if share is not None:
        out = keras().ops.multiply(out, b.weight(share))
    return spatial(x, b.named(out), channels=False)


def _refuse() -> Any:
    raise Unsupported("a window over more than three dimensions")


def _share(
    x: Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Pads, reach: Pads, with_pads: bool
) -> Array | None:  # fmt: skip
    """What an average over all entries of a window must be multiplied by: all entries / those that count. None: 1."""
    maps = []
    for n, k, s, d, (a, z), (_, r) in zip(x.shape[2:], kernel, strides, dilations, pads, reach, strict=True):
        if n is None:
            raise Unsupported("padding of a dimension whose size is not known")
        counted = np.zeros(n + a + r)
        counted[(0 if with_pads else a) : (n + a + z if with_pads else n + a)] = 1
        count = (n + a + r - (k - 1) * d - 1) // s + 1
        maps.append(np.array([counted[i * s : i * s + (k - 1) * d + 1 : d].sum() for i in range(count)]) / k)
    total = maps[0]
    for more in maps[1:]:
        total = total[..., None] * more
    if np.all(total == 1):
        return None
    return np.asarray((1.0 / total)[None, ..., None], np.float32)


@op("LpPool")
def lp_pool(b: Builder, node: Node, x: Value) -> Value:
    ops, p = keras().ops, node.integer("p", 2)
    kernel, strides, dilations, pads, beyond = _windows(node, x)
    reach = [(a, z + e) for (a, z), e in zip(pads, beyond, strict=True)]
    powered = ops.power(ops.abs(x.channels_last()), float(p))
    total = _slid(ops.add, padded(b, powered, reach), kernel, strides, dilations)
    return spatial(x, b.named(ops.power(total, 1.0 / p)), channels=False)


def _global(b: Builder, x: Value, kind: str) -> Value:
    n, tensor = x.rank - 2, x.permuted((0, *lying(x), 1))
    if 1 <= n <= 3:
        out = b.layer(f"Global{kind}Pooling{n}D", tensor, keepdims=True)
    else:
        reduce = keras().ops.max if kind == "Max" else keras().ops.mean
        out = b.named(reduce(tensor, axis=list(range(1, n + 1)), keepdims=True))
    found = spatial(x, out, channels=False)
    found.positive = x.positive
    return found


@op("GlobalAveragePool")
def global_average_pool(b: Builder, node: Node, x: Value) -> Value:
    return _global(b, x, "Average")


@op("GlobalMaxPool")
def global_max_pool(b: Builder, node: Node, x: Value) -> Value:
    return _global(b, x, "Max")


@op("GlobalLpPool")
def global_lp_pool(b: Builder, node: Node, x: Value) -> Value:
    ops, p = keras().ops, node.integer("p", 2)
    axes = list(range(1, x.rank - 1))
    total = ops.sum(ops.power(ops.abs(x.channels_last()), float(p)), axis=axes, keepdims=True)
    return spatial(x, b.named(ops.power(total, 1.0 / p)), channels=False)
