"""Operators of several operands, element by element: every operand in the layout of the largest, constants arranged offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...artifact import Array
from .layout import Dim, Dims, Factor, aligned, flat, new_dim, size
from .node import Unsupported
from .value import Value, _times

if TYPE_CHECKING:
    from .builder import Builder


def broadcast(builder: Builder, apply: Callable[..., Any], operands: Sequence[Value]) -> Value:
    """`apply` to the operands, broadcast as numpy does, in the layout of the largest of them that is computed."""
    from .builder import elements

    computed = [v for v in operands if not v.is_constant]
    lead = max(computed, key=elements)
    rank = max(v.rank for v in operands)
    dims, told = _common(lead, operands, rank)
    there = [_present(v, dims) if v.is_constant else told[i][0] for i, v in enumerate(operands)]
    axes = _whole(_arrangement(lead, dims), there)
    ready = [
        _constant(builder, v, dims, axes) if v.is_constant else _laid(v, told[i], axes) for i, v in enumerate(operands)
    ]
    tensor = builder.named(apply(*ready))
    return Value(dims, axes, tensor, None, tensor.dtype)


def _present(v: Value, dims: Dims) -> Dims:
    """The dimensions along which a constant differs."""
    lengths = (1,) * (len(dims) - v.rank) + collapsed(v).shape
    return tuple(d if n != 1 else () for n, d in zip(lengths, dims, strict=True))


def _common(
    lead: Value, operands: Sequence[Value], rank: int
) -> tuple[Dims, dict[int, tuple[Dims, dict[Factor, Factor]]]]:
    """The dimensions of the result, and of each operand its own (aligned) with how its factors are called there."""
    for v in operands:
        if not v.is_constant:
            _align(lead, v, rank)
    if len(operands) > 2:  # the third may have cut the first anew
        for v in operands:
            if not v.is_constant:
                _align(lead, v, rank)
    out: list[Dim] = []
    taken = set(flat(lead.dims))
    told: dict[int, tuple[list[Dim], dict[Factor, Factor]]] = {i: ([], {}) for i in range(len(operands))}
    for d in range(rank):
        parts = [_dim(v, d, rank) for v in operands]
        lengths = [_length(v, d, rank) for v in operands]
        chosen = _dim(lead, d, rank)
        if not chosen:
            chosen = next((p for p, v in zip(parts, operands, strict=True) if p and not v.is_constant), ())
            chosen = _unlike(chosen, taken)
            taken |= set(chosen)
        if not chosen:
            length = next((n for n in lengths if n != 1), 1)
            chosen = new_dim(length)
        out.append(chosen)
        for i, (v, part) in enumerate(zip(operands, parts, strict=True)):
            if v.is_constant:
                continue
            if part and len(part) != len(chosen):
                raise Unsupported("operands whose dimensions cannot be aligned")
            told[i][0].append(chosen if part else ())
            told[i][1].update(zip(part, chosen, strict=True) if part else ())
    return tuple(out), {i: (tuple(d), names) for i, (d, names) in told.items()}


def _unlike(dim: Dim, taken: set[Factor]) -> Dim:
    """A dimension told in factors that are not there yet: x[:, None] * x[None] has each of x's twice."""
    if any(f.free for f in dim) and any(f.free for f in taken):
        raise Unsupported("an outer product of two batches")
    return tuple(Factor(f.size, f.free) if f in taken else f for f in dim)


def _dim(v: Value, d: int, rank: int) -> Dim:
    at = d - (rank - v.rank)
    return v.dims[at] if at >= 0 and not v.is_constant else ()


def _length(v: Value, d: int, rank: int) -> int | None:
    at = d - (rank - v.rank)
    return v.shape[at] if at >= 0 else 1


def _align(lead: Value, other: Value, rank: int) -> None:
    """Cut the dimensions of two operands into the same pieces."""
    for d in range(rank):
        align_at(lead, other, d - (rank - lead.rank), d - (rank - other.rank))


def align_at(lead: Value, other: Value, i: int, j: int) -> None:
    """Cut two dimensions into the same pieces; where there are none, lay each out as ONNX sees it."""
    a = lead.dims[i] if i >= 0 else ()
    b = other.dims[j] if j >= 0 else ()
    if not a or not b or a == b:
        return
    found = aligned(a, b)
    if found is not None:
        lead.split(found[2])
        other.split(found[2])
        return
    if size(a) != size(b) or _times(a) != _times(b):
        raise Unsupported(f"operands of {size(a)} and {size(b)} in one dimension")
    _fuse(lead, i)
    _fuse(other, j)


def _fuse(v: Value, index: int) -> None:
    """Make a dimension one factor."""
    whole, _ = v.apart(index)
    v.dims, v.axes, v.tensor, v.made = whole.dims, whole.axes, whole.tensor, {}


def _arrangement(lead: Value, dims: Dims) -> Dims:
    """The axes of the result: the lead's, and what it has not, behind the dimension before it."""
    axes = [a for a in lead.axes if a]
    have = set(flat(tuple(axes)))
    for d, dim in enumerate(dims):
        if not dim or dim[0] in have:
            continue
        before = next((x[-1] for x in reversed(dims[:d]) if x and x[-1] in have), None)
        at = 0 if before is None else next(i for i, a in enumerate(axes) if before in a) + 1
        axes.insert(at, dim)
        have |= set(dim)
    if len(axes) < len(dims):
        axes = _with_ones(axes, lead, dims)
    return tuple(axes)


def _with_ones(axes: list[Dim], lead: Value, dims: Dims) -> list[Dim]:
    """Axes of length 1 where the lead has them: its shape then stays as it is."""
    kept = list(lead.axes)
    return kept if [a for a in kept if a] == axes else axes


def _whole(axes: Dims, operands: Sequence[Dims]) -> Dims:
    """The axes cut so that every operand has each of them whole or not at all."""
    sets = [set(flat(d)) for d in operands]
    out: list[Dim] = []
    for axis in axes:
        group: list[Factor] = []
        for f in axis:
            if group and any((f in s) != (group[-1] in s) for s in sets):
                out.append(tuple(group))
                group = []
            group.append(f)
        out.append(tuple(group))
    return tuple(out)


def _laid(v: Value, told: tuple[Dims, dict[Factor, Factor]], axes: Dims) -> Any:
    """An operand's tensor with the axes of the result, length 1 where it has nothing there."""
    names = {new: old for old, new in told[1].items()}
    wanted = tuple(tuple(names[f] for f in axis if f in names) for axis in axes)
    return v.lay(wanted)


def _constant(builder: Builder, v: Value, dims: Dims, axes: Dims) -> Any:
    """A constant in the layout of the result: a number, a short array, or the tensor of a new weight."""
    array = arranged(collapsed(v), dims, axes)
    if array.size == 1:  # a whole number keeps its type, which Keras would take for int32
        return array.reshape(()) if array.dtype.kind in "iu" else array.item()
    return builder.weight(array)


def collapsed(v: Value) -> Array:
    """The constant's value; one that only repeats itself along the batch is 1 long there."""
    from .builder import uniform

    assert v.constant is not None
    first, second = v.constant.at
    if v.constant.is_fixed:
        return first
    if first.ndim != second.ndim:
        raise Unsupported("a constant whose rank depends on the batch size")
    free = [i for i, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if a != b]
    if not free:
        raise Unsupported("a constant that depends on the batch size")
    return uniform(v, free)


def arranged(array: Array, dims: Dims, axes: Dims) -> Array:
    """An array that broadcasts against `dims`, so that it broadcasts against the same data with these axes."""
    array = np.asarray(array).reshape((1,) * (len(dims) - np.ndim(array)) + np.shape(array))
    lengths: list[int] = []
    place: dict[Factor, int] = {}
    for n, dim in zip(array.shape, dims, strict=True):
        for f in dim:
            place[f] = len(lengths)
            lengths.append(1 if n == 1 else f.size)
        if not dim and n != 1:
            raise Unsupported(f"a constant of length {n} where the other operand has 1")
    order = [place[f] for f in flat(axes)]
    spread = array.reshape(lengths).transpose(order) if lengths else array.reshape(())
    target, at = [], 0
    for axis in axes:
        part = spread.shape[at : at + len(axis)]
        if len(set(part)) > 1 and 1 in part and any(n != 1 for n in part):
            full = [f.size for f in axis]
            if any(f.free for f in axis):
                raise Unsupported("a constant over a part of the batch")
            spread = np.broadcast_to(spread, (*spread.shape[:at], *full, *spread.shape[at + len(axis) :]))
            part = spread.shape[at : at + len(axis)]
        target.append(int(np.prod(part)))
        at += len(axis)
    return np.ascontiguousarray(spread.reshape(target))
