"""Rules of what only moves entries: reshape, flatten, permute, transpose, squeeze, expand."""

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
    sizes = [now if old != -1 and label is not None else old
             for old, now, label in zip(before, after[offset:], shrunk.call.outputs[0][offset:], strict=True)]  # fmt: skip
    return shrunk.remade(**{key: tuple(sizes)})


@rule("Reshape", resize=_target)
@rule("Flatten")
def reshaped(call: Call) -> Sequence[Label]:
    """Axes are merged and split block by block; a split axis keeps its units on the last of its parts."""
    label: list[Axis] = []
    if any(s is None for s in (*call.x.shape[1:], *call.shapes[0][1:])):
        return [_open(call)]
    for these, those in blocks(call.x.shape, call.shapes[0]):
        label += _block(call, these, those)
    return [tuple(label)]


def _open(call: Call) -> Label:
    """A reshape with unknown sizes: only leading axes that stay can be followed."""
    before, after = call.x.shape, call.shapes[0]
    same = 0
    while same < min(len(before), len(after)) and before[-1 - same] == after[-1 - same] is not None:
        same += 1
    for axis in call.x.label[: len(before) - same]:
        call.freeze(axis)
    tail = call.x.label[len(before) - same :]
    return (*(None,) * (len(after) - same), *tail)


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


def _block(call: Call, these: range, those: range) -> list[Axis]:
    """The labels of the axes `those` of the result that are made of the axes `these`."""
    shape, target = [int(call.x.shape[i] or 1) for i in these], [int(call.shapes[0][j] or 1) for j in those]
    labels = [call.x.label[i] for i in these]
    if len(these) == len(those) and shape == target:
        return labels
    real = [(i, ids) for i, ids in enumerate(labels) if ids is not None and shape[i] > 1]
    if not real:
        return [None] * len(those)
    for _, ids in real[:-1]:
        call.freeze(ids)
    at, ids = real[-1]
    flat = tiled(ids, prod(shape[:at]), prod(shape[at + 1 :]))
    return _spread(call, flat, target)


def _spread(call: Call, flat: Ids, target: list[int]) -> list[Axis]:
    """Flat units over axes: the last axis that is longer than 1 has them, the same ones all over the others."""
    last = max((j for j, size in enumerate(target) if size > 1), default=0)
    rows = flat.reshape(-1, target[last])
    if len(rows) > 1:
        call.units.unite(np.broadcast_to(rows[0], rows.shape), rows)
    return [rows[0] if j == last else None for j in range(len(target))]


@rule("Permute", "Transpose")
def transposed(call: Call) -> Sequence[Label]:
    """Axes in another order."""
    rank = len(call.x.label)
    order = getattr(call.op, "dims", None)
    if order is not None:
        return [(call.x.label[0], *(call.x.label[i] for i in order))]
    axes = call.op.axes or tuple(reversed(range(rank)))
    return [tuple(call.x.label[i] for i in axes)]


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
    gone = {i for i, s in enumerate(call.x.shape) if i and s == 1} if axes is None else {a % rank for a in given}
    for i in gone:
        call.freeze(call.x.label[i])
    return [tuple(ids for i, ids in enumerate(call.x.label) if i not in gone)]
