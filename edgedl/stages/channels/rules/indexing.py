"""Rules of what picks, repeats, joins or adds entries of axes: slices, split, stack, take, tile, pad, flip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..call import Call, Shape, Shrunk, Traced
from ..units import Axis, Ids, Label
from . import rule
from .basic import arrays

# --- slices


def _resized_slice(shrunk: Shrunk) -> Any:
    """The same slice with bounds for what is left; the operation is called with its key."""
    op = type(shrunk.op).from_config(shrunk.op.get_config())
    key = tuple(_bounds(shrunk, *part) for part in _parts(_key(shrunk.call), shrunk.call.x.shape))
    return lambda x, *args, **kwargs: op(x, key)


def _bounds(shrunk: Shrunk, part: Any, axis: int | None) -> Any:
    ids = None if axis is None else shrunk.call.x.label[axis]
    if ids is None or not isinstance(part, slice) or part == slice(None):
        return part
    kept = shrunk.kept(ids)
    start, stop, _ = part.indices(len(ids))
    return slice(int(kept[:start].sum()), int(kept[:stop].sum()), None)


def _key(call: Call) -> tuple[Any, ...]:
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    return tuple(key) if isinstance(key, list | tuple) else (key,)


def _parts(key: tuple[Any, ...], shape: Shape) -> list[tuple[Any, int | None]]:
    """Each part of a key with the axis that it is for; None: a new axis. An ellipsis is written out."""
    used = sum(1 for part in key if part is not None and part is not Ellipsis)
    at = [i for i, part in enumerate(key) if part is Ellipsis]
    place = at[0] if at else len(key)
    full = (*key[:place], *[slice(None)] * (len(shape) - used), *key[place + 1 :])
    axes = iter(range(len(shape)))
    return [(part, None if part is None else next(axes)) for part in full]


@rule("GetItem", resize=_resized_slice)
def sliced(call: Call) -> Sequence[Label]:
    """Units in a row stay units; an axis of which one entry or every so many are taken stays as it is."""
    key = _key(call)
    if not all(part is None or part is Ellipsis or isinstance(part, int | slice | np.integer) for part in key):
        return call.leave_alone("it picks entries by a tensor")
    label: list[Axis] = []
    for part, axis in _parts(key, call.x.shape):
        if axis is None:
            label.append(None)
            continue
        ids = call.x.label[axis]
        if not isinstance(part, slice):
            call.freeze(ids, f"{call.path} picks one of them by its number")
            continue
        if ids is None or part == slice(None):
            label.append(ids)
            continue
        start, stop, step = part.indices(len(ids))
        if step == 1 and stop > start:
            label.append(ids[start:stop])
        else:
            call.freeze(ids, f"{call.path} picks every {step}th of them")
            label.append(None)
    return [tuple(label)]


def _resized_split(shrunk: Shrunk) -> Any:
    axis = shrunk.op.axis % len(shrunk.call.x.shape)
    if shrunk.call.x.label[axis] is None:
        return shrunk.remade()
    ends = np.cumsum([shape[axis] for shape in shrunk.outputs])
    return shrunk.remade(indices_or_sections=tuple(int(e) for e in ends[:-1]))


@rule("Split", resize=_resized_split)
def split(call: Call) -> Sequence[Label]:
    """Axes cut in several."""
    axis = call.op.axis % len(call.x.shape)
    ids = call.x.label[axis]
    if ids is None:
        return [call.x.label] * len(call.shapes)
    ends = np.cumsum([int(shape[axis] or 0) for shape in call.shapes])
    return [(*call.x.label[:axis], part, *call.x.label[axis + 1 :]) for part in np.split(ids, ends[:-1])]


# --- stacks


@rule("Stack")
def stacked(call: Call) -> Sequence[Label]:
    """Tensors along a new axis: their other axes are one."""
    if list(arrays(call)):
        return call.leave_alone("it joins tensors and constants")
    label = list(call.x.label)
    for tensor in call.inputs[1:]:
        label = [call.unite(a, b) for a, b in zip(label, tensor.label, strict=True)]
    axis = call.op.axis % (len(label) + 1)
    return [(*label[:axis], None, *label[axis:])]


@rule("Unstack")
def unstacked(call: Call) -> Sequence[Label]:
    """The entries of one axis, which stays; the other axes go on in each."""
    axis = call.op.axis % len(call.x.label)
    call.freeze(call.x.label[axis], f"{call.path} takes them apart one by one")
    return [(*call.x.label[:axis], *call.x.label[axis + 1 :])] * len(call.shapes)


# --- picking by number


def _resized_take(shrunk: Shrunk) -> Any:
    """The same entries by their new numbers, without those that are gone."""
    op = type(shrunk.op).from_config(shrunk.op.get_config())
    indices, axis = _indices(shrunk.call), shrunk.op.axis
    ids = None if axis is None else shrunk.call.x.label[axis]
    if ids is None or isinstance(indices, Traced):
        return op
    kept = shrunk.kept(ids)
    wanted = np.asarray(indices)
    wanted = np.where(wanted < 0, wanted + len(ids), wanted)
    new = (np.cumsum(kept) - 1)[wanted[kept[wanted]]].astype(np.asarray(indices).dtype)
    return lambda x, *args, **kwargs: op(x, new)


def _indices(call: Call) -> Any:
    return call.args[1] if len(call.args) > 1 else call.kwargs["indices"]


@rule("Take", resize=_resized_take)
def taken(call: Call) -> Sequence[Label]:
    """Entries by number: by constant ones units go in that order; an axis that is looked up by computed ones stays."""
    indices, data = _indices(call), call.args[0] if call.args else call.kwargs["x"]
    if call.op.axis is None or not isinstance(data, Traced):
        return call.leave_alone("it looks up single elements")
    axis = call.op.axis % len(data.label)
    before, ids, after = data.label[:axis], data.label[axis], data.label[axis + 1 :]
    if isinstance(indices, Traced):
        call.freeze(ids, f"{call.path} looks them up by numbers that are computed")
        call.freeze_all([indices])
        return [(*before, *(None,) * len(indices.shape), *after)]
    wanted = np.asarray(indices)
    if ids is None or wanted.ndim != 1:
        call.freeze(ids, f"{call.path} looks them up by their numbers")
        return [(*before, *(None,) * wanted.ndim, *after)]
    return [(*before, ids[wanted], *after)]


@rule("TakeAlongAxis")
def taken_along(call: Call) -> Sequence[Label]:
    """Entries by computed numbers: everything stays."""
    call.freeze_all()
    return [(None,) * len(shape) for shape in call.shapes]


# --- repeating


def _shape_left(shrunk: Shrunk) -> Any:
    """A shape in the configuration, for what is left."""
    label = shrunk.call.outputs[0]
    sizes = [now if ids is not None else old
             for old, now, ids in zip(shrunk.op.shape, shrunk.outputs[0], label, strict=True)]  # fmt: skip
    return shrunk.remade(shape=tuple(sizes))


@rule("BroadcastTo", resize=_shape_left)
def broadcast_to(call: Call) -> Sequence[Label]:
    """Copies along axes of length 1; the other axes go on."""
    label: list[Axis] = [None] * len(call.shapes[0])
    for i in range(1, len(call.x.label) + 1):
        if call.x.shape[-i] == call.shapes[0][-i]:
            label[-i] = call.x.label[-i]
        else:
            call.freeze(call.x.label[-i])
    return [tuple(label)]


@rule("Tile")
def tiled(call: Call) -> Sequence[Label]:
    """An axis several times after itself."""
    repeats = np.atleast_1d(call.op.repeats).tolist()
    rank = len(call.shapes[0])
    times = [1] * (rank - len(repeats)) + repeats
    label: Label = (*(None,) * (rank - len(call.x.label)), *call.x.label)
    return [tuple(None if ids is None else np.tile(ids, n) for ids, n in zip(label, times, strict=True))]


@rule("Repeat")
def repeated(call: Call) -> Sequence[Label]:
    """Each entry of an axis several times."""
    if call.op.axis is None or np.size(call.op.repeats) > 1:
        return call.leave_alone("it repeats entries unevenly")
    axis, times = call.op.axis % len(call.x.label), int(np.ravel(call.op.repeats)[0])
    return [
        tuple(np.repeat(ids, times) if i == axis and ids is not None else ids for i, ids in enumerate(call.x.label))
    ]


@rule("Flip")
def flipped(call: Call) -> Sequence[Label]:
    """Axes backwards."""
    rank = len(call.x.label)
    axes = range(rank) if call.op.axis is None else np.atleast_1d(call.op.axis) % rank
    return [tuple(ids[::-1] if i in axes and ids is not None else ids for i, ids in enumerate(call.x.label))]


# --- padding


def _padding(op: Any, rank: int) -> list[tuple[int, int]]:
    pairs = [(int(p[0]), int(p[-1])) for p in op.pad_width]
    return pairs * rank if len(pairs) == 1 else pairs


def _resized_pad(shrunk: Shrunk) -> Any:
    """The borders that are left of those along labelled axes."""
    pairs = []
    for (low, high), ids in zip(_padding(shrunk.op, len(shrunk.outputs[0])), shrunk.call.outputs[0], strict=True):
        kept = None if ids is None else shrunk.kept(ids)
        length = 0 if kept is None else len(kept)
        pairs.append((low, high) if kept is None else (int(kept[:low].sum()), int(kept[length - high :].sum())))
    return shrunk.remade(pad_width=pairs)


@rule("Pad", resize=_resized_pad)
def padded(call: Call) -> Sequence[Label]:
    """Constant entries before and after, which may go like any others."""
    label: list[Axis] = []
    for (low, high), ids in zip(_padding(call.op, len(call.x.label)), call.x.label, strict=True):
        if ids is None or not (low or high):
            label.append(ids)
        elif call.op.mode == "constant":
            label.append(_bordered(call, ids, low, high))
        else:
            call.freeze(ids, f"{call.path} mirrors or repeats them at the border")
            label.append(None)
    return [tuple(label)]


def _bordered(call: Call, ids: Ids, low: int, high: int) -> Ids:
    return np.concatenate([call.fresh(low), ids, call.fresh(high)])


# --- order along an axis


@rule("Cumsum", "Cumprod", "Sort", "Argsort", "Roll", "Diff", "TopK")
def ordered(call: Call) -> Sequence[Label]:
    """Each entry depends on the others' order: the axis stays."""
    axis = getattr(call.op, "axis", -1)
    if axis is None:
        return call.leave_alone("it works on the flattened tensor")
    axes = {int(a) % len(call.x.label) for a in np.atleast_1d(axis)}
    for a in axes:
        call.freeze(call.x.label[a], f"{call.path} depends on their order")
    return [tuple(None if i in axes else ids for i, ids in enumerate(call.x.label))] * len(call.shapes)
