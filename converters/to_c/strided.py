"""Moving values without changing them: any map from input to output that is arithmetic in pieces, as boxes for one kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...artifact import Array
from .call import Call, Constant, Params, Pointers, need, read, write
from .graph import Op, Tensor

RANK = 8  # axes of a box, at most; EDNN_COPY_RANK of copy.h
BOXES = 4096  # of one operator, at most
FOLLOWED = 1 << 18  # runs of which the order is followed to find out what may overlap


@dataclass(frozen=True, slots=True)
class Axis:
    """Positions along one axis in elements: value i goes from `source[i]` to `target[i]`; none goes from below 0."""

    source: Array
    target: Array


@dataclass(frozen=True, slots=True)
class Box:
    """A regular grid of values, in elements: for each axis, outermost first, (size, step of the input, of the output)."""

    from_index: int  # of the operator's inputs
    to_index: int  # of its outputs
    source: int
    target: int
    axes: tuple[tuple[int, int, int], ...]


def strides(shape: Sequence[int]) -> list[int]:
    """Elements between neighbours along each axis.

    >>> strides((2, 3, 4))
    [12, 4, 1]
    """
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def axis(indices: Array | range, in_stride: int, out_stride: int, at: int = 0) -> Axis:
    """An axis of the output, whose value i has the index `indices[i]` in the input, or below 0 none; `at`: its first value's
    index in the output."""
    given = np.asarray(indices, np.int64)
    return Axis(np.where(given < 0, -1, given * in_stride), (np.arange(len(given)) + at) * out_stride)


def whole(shape: Sequence[int], in_strides: Sequence[int] | None = None) -> list[Axis]:
    """Every value of an output of this shape, from an input with these strides (its own: as it is)."""
    own = strides(shape)
    return [axis(range(d), i, o) for d, i, o in zip(shape, in_strides or own, own, strict=True)]


def boxes(axes: Sequence[Axis], from_index: int = 0, to_index: int = 0, source: int = 0, target: int = 0) -> list[Box]:
    """The grids that cover all values with a source: the product of the arithmetic pieces of each axis."""
    pieces = [list(_pieces(a)) for a in axes]
    need(math.prod(len(p) for p in pieces) <= BOXES, "its positions are too irregular")
    found = []
    for chosen in itertools.product(*pieces):
        first = source + sum(p[0] for p in chosen), target + sum(p[1] for p in chosen)
        found.append(Box(from_index, to_index, *first, _merged([p[2] for p in chosen])))
    return found


def _pieces(a: Axis) -> Iterable[tuple[int, int, tuple[int, int, int]]]:
    """(source, target, (size, steps)) of each longest arithmetic piece of an axis."""
    at, end = 0, len(a.source)
    while at < end:
        if a.source[at] < 0:
            at += 1
            continue
        last = at + 1
        steps = (1, 1)
        if last < end and a.source[last] >= 0:
            steps = int(a.source[last] - a.source[at]), int(a.target[last] - a.target[at])
            while last < end and a.source[last] >= 0 and _steps(a, last) == steps:
                last += 1
        yield int(a.source[at]), int(a.target[at]), (last - at, *steps)
        at = last


def _steps(a: Axis, at: int) -> tuple[int, int]:
    return int(a.source[at] - a.source[at - 1]), int(a.target[at] - a.target[at - 1])


def _merged(axes: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Axes without those of one value, neighbours that continue each other put together."""
    kept: list[tuple[int, int, int]] = []
    for size, i, o in (a for a in axes if a[0] != 1):
        if kept and kept[-1][1] == i * size and kept[-1][2] == o * size:
            kept[-1] = (kept[-1][0] * size, i, o)
        else:
            kept.append((size, i, o))
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Run:
    """A box in bytes whose innermost axis became a run of bytes where it is one."""

    box: Box
    width: int  # bytes of an element

    @property
    def contiguous(self) -> bool:
        return bool(self.box.axes) and self.box.axes[-1][1:] == (1, 1)

    @property
    def bytes(self) -> int:
        return self.width * (self.box.axes[-1][0] if self.contiguous else 1)

    @property
    def outer(self) -> tuple[tuple[int, int, int], ...]:
        axes = self.box.axes[:-1] if self.contiguous else self.box.axes
        return tuple((n, i * self.width, o * self.width) for n, i, o in axes)


def moved(
    one: Op,
    found: Sequence[Box],
    *,
    fill: int | None = None,
    inputs: Sequence[int] = (0,),
    outputs: Sequence[int] = (0,),
) -> Call:
    """The call that copies these boxes between the named inputs and outputs; `fill`: what else the output has.

    Every box is held to the tensors' sizes. Raises Unsupported.
    """
    ins, outs = [one.input(i) for i in inputs], [one.outputs[i] for i in outputs]
    width = ins[0].nbytes // max(ins[0].elements, 1)
    same = all(t.dtype == ins[0].dtype for t in (*ins, *outs))
    need(
        same and ins[0].dtype in ("int8", "uint8", "int16", "int32", "int64", "bool"),
        "its types differ or are not known",
    )
    need(all(t.nbytes < 1 << 31 for t in (*ins, *outs)), "a tensor is too large")
    for box in found:
        _check(box, ins[box.from_index], outs[box.to_index])
    covered = [sum(math.prod(n for n, _, _ in b.axes) for b in found if b.to_index == i) for i in range(len(outs))]
    need(fill is not None or covered == [t.elements for t in outs], "its shapes do not fit")
    runs = [_Run(box, width) for box in found if all(n > 0 for n, _, _ in box.axes)]
    rank = max([len(r.outer) for r in runs], default=0)
    need(rank <= RANK, f"it has {rank} axes that cannot be put together; {RANK} are known")
    rows = [_row(r, rank) for r in runs]
    table = np.array(rows, np.int64).reshape(len(rows), 5 + 3 * rank)
    fields: dict[str, int | Constant | None] = {
        "boxes": Constant(table.astype(np.int32)), "count": len(rows), "rank": rank,
        "filled": 0 if fill is None else outs[0].elements, "fill": fill or 0, "width": width,
    }  # fmt: skip
    single = len(ins) == len(outs) == 1 and fill is None
    lead = _lead(runs) if single else None
    return Call(
        "copy", "ednn_copy",
        (Params("ednn_copy_t", fields), Pointers(tuple(read(i) for i in inputs)), Pointers(tuple(write(i) for i in outputs))),
        overlap={} if lead is None else {inputs[0]: lead},
    )  # fmt: skip


def copied(one: Op, call: Call) -> list[Array]:
    """The outputs of a call of `ednn_copy` whose inputs are all constant."""
    params, ins, outs = call.arguments
    assert isinstance(params, Params)
    assert isinstance(ins, Pointers)
    assert isinstance(outs, Pointers)
    table, fill = params.fields["boxes"], params.fields["fill"]
    assert isinstance(table, Constant)
    assert isinstance(fill, int)
    given = [np.ascontiguousarray(one.input(r.index).values).reshape(-1).view(np.uint8) for r in ins.refs]
    made = [np.full(one.outputs[r.index].shape, fill, one.input(ins.refs[0].index).values.dtype) for r in outs.refs]
    flat = [m.reshape(-1).view(np.uint8) for m in made]
    for row in table.values.tolist():
        source, target = np.arange(row[4]) + row[2], np.arange(row[4]) + row[3]
        for size, i, o in np.array(row[5:], np.int64).reshape(-1, 3)[::-1].tolist():
            source = (np.arange(size)[:, None] * i + source).ravel()
            target = (np.arange(size)[:, None] * o + target).ravel()
        flat[row[1]][target] = given[row[0]][source]
    return made


def _row(run: _Run, rank: int) -> list[int]:
    """A box as copy.h has it."""
    b, w = run.box, run.width
    axes = [(1, 0, 0)] * (rank - len(run.outer)) + list(run.outer)
    return [b.from_index, b.to_index, b.source * w, b.target * w, run.bytes, *itertools.chain(*axes)]


def _check(box: Box, x: Tensor, y: Tensor) -> None:
    """Raise Unsupported where a box leaves its tensors."""
    for first, steps, tensor in ((box.source, 1, x), (box.target, 2, y)):
        reach = [(a[0] - 1) * a[steps] for a in box.axes]
        low, high = first + sum(min(r, 0) for r in reach), first + sum(max(r, 0) for r in reach)
        need(not reach or min(a[0] for a in box.axes) > 0, "it is empty")
        need(low >= 0 and high < tensor.elements, f"it reaches outside of '{tensor.name}'")


def _lead(runs: Sequence[_Run]) -> int | None:
    """How many bytes before the input the output must begin so that no run is written over one that is read later; None
    where that is not worth following."""
    if sum(math.prod(n for n, _, _ in r.outer) for r in runs) > FOLLOWED:
        return None
    sources, targets, sizes = [], [], []
    for run in runs:
        source = target = np.zeros(1, np.int64)
        for n, i, o in run.outer:
            source = (source[:, None] + np.arange(n) * i).ravel()
            target = (target[:, None] + np.arange(n) * o).ravel()
        sources.append(source + run.box.source * run.width)
        targets.append(target + run.box.target * run.width)
        sizes.append(np.full(len(source), run.bytes))
    if not sources:
        return None
    source, target, size = np.concatenate(sources), np.concatenate(targets), np.concatenate(sizes)
    later = np.append(np.minimum.accumulate(source[::-1])[::-1][1:], np.iinfo(np.int64).max >> 1)
    return int(max((target + size - later).max(), (target - source).max(), 0))
