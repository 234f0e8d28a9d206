"""Rules of what only moves entries: reshape, flatten, permute, transpose, squeeze, expand, depth to space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from ..call import Call, Shape, Shrunk, tiled
from ..units import Axis, Ids, Label
from . import rule


def _target(shrunk: Shrunk) -> Any:
    """A Reshape to the sizes that are left; -1 stays -1."""
    config = shrunk.op.get_config()
    key = "target_shape" if "target_shape" in config else "newshape"
    before, after = tuple(config[key]), tuple(shrunk.outputs[0])
    offset = len(after) - len(before)  # the layer's shape has no batch
    sizes = [now if old not in (-1, None) and label is not None else old
             for old, now, label in zip(before, after[offset:], shrunk.call.outputs[0][offset:], strict=True)]  # fmt: skip
    return shrunk.remade(**{key: tuple(sizes)})


@rule("Reshape", resize=_target)
@rule("Ravel")
def reshaped(call: Call) -> Sequence[Label]:
    """Axes are merged and split block by block.

    Of several axes that are merged only the last keeps its units. An axis that is split keeps them on the last of its
    parts, or where nothing could be removed then, on the longest of the others.
    """
    return [_regrouped(call, call.x.shape, call.x.label)]


@rule("Flatten")
def flattened(call: Call) -> Sequence[Label]:
    """One axis of all; the channels last, where they came first."""
    shape, label = call.x.shape, call.x.label
    if call.op.data_format == "channels_first" and len(shape) > 2:
        shape, label = (shape[0], *shape[2:], shape[1]), (label[0], *label[2:], label[1])
    return [_regrouped(call, shape, label)]


def _regrouped(call: Call, before: Shape, given: Label) -> Label:
    """The label after a reshape to the call's shape."""
    after = call.shapes[0]
    left, right = (max((i + 1 for i, s in enumerate(shape) if s is None), default=0) for shape in (before, after))
    if prod(s or 1 for s in before[left:]) != prod(s or 1 for s in after[right:]):
        left, right = _common(before, after)
    for axis in given[:left]:
        call.freeze(axis, f"{call.path} regroups an axis whose size is open")
    label: list[Axis] = [None] * right
    for these, those in blocks(before[left:], after[right:]):
        label += _block(call, [(before[left + i], given[left + i]) for i in these], [after[right + j] for j in those])
    return tuple(label)


def _common(before: Shape, after: Shape) -> tuple[int, int]:
    """Where the axes at the end that stay as they are begin, in both shapes."""
    same = 0
    while same < min(len(before), len(after)) and before[-1 - same] == after[-1 - same] is not None:
        same += 1
    return len(before) - same, len(after) - same


def blocks(before: Shape, after: Shape) -> Iterator[tuple[range, range]]:
    """Index ranges of the axes of both shapes whose products agree, as short as they can be.

    >>> list(blocks((1, 4, 4, 8), (1, 128)))
    [(range(0, 1), range(0, 1)), (range(1, 4), range(1, 2))]
    """
    i = j = 0
    while i < len(before) or j < len(after):
        start, other = i, j
        left = right = 1
        while True:
            if left <= right and i < len(before) and (left < right or i == start):
                left *= before[i] or 1
                i += 1
            elif j < len(after) and (right < left or j == other):
                right *= after[j] or 1
                j += 1
            elif left == right:
                break
            elif i < len(before):
                left *= before[i] or 1
                i += 1
            else:
                break
        yield range(start, i), range(other, j)


def _block(call: Call, axes: list[tuple[int | None, Axis]], after: Sequence[int | None]) -> list[Axis]:
    """The labels of axes of the sizes `after` that are made of `axes` (size and units)."""
    shape, labels, target = [int(s or 1) for s, _ in axes], [ids for _, ids in axes], [int(s or 1) for s in after]
    if [s for s in shape if s > 1] == [s for s in target if s > 1]:
        rest = iter([ids for s, ids in zip(shape, labels, strict=True) if s > 1])
        _freeze_single(call, shape, labels)
        return [next(rest) if size > 1 else None for size in target]
    _freeze_single(call, shape, labels)
    real = [(i, ids) for i, ids in enumerate(labels) if ids is not None and shape[i] > 1]
    if not real:
        return [None] * len(target)
    for _, ids in real[:-1]:
        call.freeze(ids, f"{call.path} merges it with another axis that can be made smaller")
    at, ids = real[-1]
    return _spread(call, tiled(ids, prod(shape[:at]), prod(shape[at + 1 :])), target)


def _freeze_single(call: Call, shape: Sequence[int], labels: Sequence[Axis]) -> None:
    for size, ids in zip(shape, labels, strict=True):
        if size == 1:
            call.freeze(ids, f"it is the only one, and {call.path} regroups it")


def _spread(call: Call, flat: Ids, target: list[int]) -> list[Axis]:
    """Flat units over axes: one axis has them, the same ones all over the others."""
    long = [j for j, size in enumerate(target) if size > 1]
    at = long[-1] if long else 0
    if len(long) > 1:
        if call.turned:
            at = max(long[:-1], key=lambda j: target[j])
        call.split = True
    grid = np.moveaxis(flat.reshape(target), at, -1).reshape(-1, target[at])
    if len(grid) > 1:
        call.units.unite(np.broadcast_to(grid[0], grid.shape), grid)
    return [grid[0] if j == at else None for j in range(len(target))]


@rule("RepeatVector")
def repeated(call: Call) -> Sequence[Label]:
    """The same vector at every step."""
    return [(call.x.label[0], None, call.x.label[1])]


# --- the order of axes


@rule("Permute", "Transpose", "Moveaxis", "Swapaxes")
def transposed(call: Call) -> Sequence[Label]:
    """Axes in another order."""
    return [tuple(call.x.label[i] for i in _order(call.op, len(call.x.label)))]


def _order(op: Any, rank: int) -> Sequence[int]:
    """Which axis comes at each place."""
    places = np.arange(rank)
    if type(op).__name__ == "Permute":
        return (0, *op.dims)
    if type(op).__name__ == "Moveaxis":
        return _moved(op, rank)
    if type(op).__name__ == "Swapaxes":
        one, other = op.axis1 % rank, op.axis2 % rank
        places[one], places[other] = other, one
        return places.tolist()
    return [a % rank for a in op.axes] if op.axes else places[::-1].tolist()


def _moved(op: Any, rank: int) -> Sequence[int]:
    """The order after keras.ops.moveaxis."""
    source, destination = ([a % rank for a in np.atleast_1d(v).tolist()] for v in (op.source, op.destination))
    order = [i for i in range(rank) if i not in source]
    for to, a in sorted(zip(destination, source, strict=True)):
        order.insert(to, a)
    return order


@rule("ExpandDims")
def expanded(call: Call) -> Sequence[Label]:
    """New axes of length 1."""
    axes = call.op.axis if isinstance(call.op.axis, list | tuple) else (call.op.axis,)
    rank = len(call.shapes[0])
    added = {a % rank for a in axes}
    rest = iter(call.x.label)
    return [tuple(None if i in added else next(rest) for i in range(rank))]


@rule("Squeeze")
def squeezed(call: Call) -> Sequence[Label]:
    """Axes of length 1 gone."""
    axes = call.op.axis
    given = axes if isinstance(axes, list | tuple) else (axes,)
    rank = len(call.x.shape)
    gone = {i for i, s in enumerate(call.x.shape) if s == 1} if axes is None else {a % rank for a in given}
    for i in gone:
        call.freeze(call.x.label[i])
    return [tuple(ids for i, ids in enumerate(call.x.label) if i not in gone)]


# --- channels and places


@rule("DepthToSpace", "SpaceToDepth")
def deepened(call: Call) -> Sequence[Label]:
    """Blocks of places as channels or back: each channel with its block."""
    axis = call.channels_axis(4)
    call.freeze_all_but(call.x, axis)
    ids, places = call.x.label[axis], int(call.op.block_size) ** 2
    if ids is not None and type(call.op).__name__ == "SpaceToDepth":
        ids = np.tile(ids, places)
    elif ids is not None:
        rows = ids.reshape(places, -1)
        call.units.unite(np.broadcast_to(rows[0], rows.shape), rows)
        ids = rows[0]
    return [tuple(ids if i == axis else None for i in range(4))]
