"""Where the axes of a tensor really are: ONNX's dimensions as products of factors, which Transpose and Reshape only relabel.

Every dimension of a value, as ONNX sees it, is a product of factors. The Keras tensor behind it holds the same factors
in an order of its own (channels last, mostly). Transpose permutes the labels; Reshape regroups them, splitting a factor
where it must. Nothing moves until an operator asks for the axes in an order that the tensor does not have. So the layout
of a whole graph is decided once, by the operators that compute, and the only transposes left are those the model means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class NotFree(Exception):
    """The graph means a batch of exactly one where a free batch was tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One axis, or a part of one: `size` entries, times the batch where `free`. Two factors are the same only by identity."""

    size: int
    free: bool = False

    def __repr__(self) -> str:
        return f"{'N*' if self.free else ''}{self.size}"


Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """A whole number that is a multiple of the batch: `times` * N."""

    times: int


Size = int | Batch


def size(dim: Iterable[Factor]) -> int | None:
    """The length of a dimension; None where it holds the batch.

    >>> size((Factor(2), Factor(3))), size((Factor(1, free=True), Factor(3))), size(())
    (6, None, 1)
    """
    found = tuple(dim)
    return None if any(f.free for f in found) else math.prod(f.size for f in found)


def shape(dims: Dims) -> tuple[int | None, ...]:
    """The length of every dimension."""
    return tuple(size(d) for d in dims)


def flat(dims: Dims) -> Dim:
    """All factors, in order."""
    return tuple(f for d in dims for f in d)


def new_dim(length: int | None, times: int = 1) -> Dim:
    """A dimension of its own; None: `times` the batch."""
    if length is None:
        return (Factor(times, free=True),)
    return () if length == 1 else (Factor(length),)


def new_dims(lengths: Iterable[int | None]) -> Dims:
    """Dimensions of their own."""
    return tuple(new_dim(n) for n in lengths)


@dataclass(slots=True)
class Splits:
    """Factors that were found to be products of smaller ones."""

    parts: dict[Factor, Dim] = field(default_factory=dict)

    def split(self, factor: Factor, first: Size) -> tuple[Factor, Factor]:
        """A factor as two, the outer one `first` long."""
        if isinstance(first, Batch):
            pair = Factor(first.times, free=True), Factor(factor.size // first.times)
        else:
            pair = Factor(first), Factor(factor.size // first, free=factor.free)
        self.parts[factor] = pair
        return pair

    def apply(self, dims: Dims) -> Dims:
        """Dimensions with every split factor replaced by its parts, in place."""
        return tuple(tuple(p for f in d for p in self._expand(f)) for d in dims) if self.parts else dims

    def _expand(self, factor: Factor) -> Dim:
        if factor not in self.parts:
            return (factor,)
        return tuple(p for part in self.parts[factor] for p in self._expand(part) if p.free or p.size != 1)


def regroup(dims: Dims, target: Sequence[Size]) -> tuple[Dims, Splits] | None:
    """The factors of `dims` grouped into dimensions of the lengths `target` (with no -1 left in it), and what was split.

    None where they do not fit without moving data: 6x4 as 8x3 cannot be told in factors of either.
    """
    splits = Splits()
    pending = list(flat(dims))
    out: list[Dim] = []
    for index, want in enumerate(target):
        dim: list[Factor] = []
        if want == 1 and pending and pending[0].free and pending[0].size == 1 and not _batch_ahead(target[index + 1 :]):
            out.append((pending.pop(0),))  # the batch of one that the graph was written with
            continue
        left = want
        while left != 1:
            if not pending:
                return None
            factor = pending.pop(0)
            step = _take(factor, left, splits)
            if step is None:
                return None
            taken, rest, left = step
            dim.append(taken)
            if rest is not None:
                pending.insert(0, rest)
        out.append(tuple(dim))
    if any(f.free or f.size != 1 for f in pending):
        if all(f.size == 1 for f in pending):
            raise NotFree
        return None
    return tuple(out), splits


def _batch_ahead(target: Sequence[Size]) -> bool:
    return any(isinstance(t, Batch) for t in target)


def _take(factor: Factor, left: Size, splits: Splits) -> tuple[Factor, Factor | None, Size] | None:
    """(what is taken of a factor, what remains of it, what is still wanted), or None."""
    if isinstance(left, Batch):
        if factor.free:
            if left.times % factor.size == 0:
                rest = left.times // factor.size
                return factor, None, rest
            if factor.size % left.times == 0:
                taken, remains = splits.split(factor, left)
                return taken, remains, 1
            return None
        if left.times % factor.size == 0:
            return factor, None, Batch(left.times // factor.size)
        return None
    if factor.free:
        if factor.size % left == 0 and factor.size > 1 and left > 1:
            taken, remains = splits.split(factor, left)
            return taken, remains, 1
        return None
    if left % factor.size == 0:
        return factor, None, left // factor.size
    if factor.size % left == 0:
        taken, remains = splits.split(factor, left)
        return taken, remains, 1
    return None


def aligned(a: Dim, b: Dim) -> tuple[Dim, Dim, Splits] | None:
    """Two dimensions of the same length cut into the same pieces: their pieces, and what was split. None: impossible.

    >>> [f.size for f in aligned((Factor(2), Factor(6)), (Factor(4), Factor(3)))[0]]
    [2, 2, 3]
    >>> aligned((Factor(3), Factor(4)), (Factor(4), Factor(3))) is None
    True
    """
    splits = Splits()
    left, right = list(a), list(b)
    out_a: list[Factor] = []
    out_b: list[Factor] = []
    while left and right:
        f, g = left.pop(0), right.pop(0)
        if f.free == g.free and f.size == g.size:
            pass
        elif not g.free and f.size % g.size == 0 and f.size != g.size:
            f, rest = splits.split(f, g.size)
            left.insert(0, rest)
        elif not f.free and g.size % f.size == 0 and f.size != g.size:
            g, rest = splits.split(g, f.size)
            right.insert(0, rest)
        elif g.free and f.free and f.size % g.size == 0:
            f, rest = splits.split(f, Batch(g.size))
            left.insert(0, rest)
        elif g.free and f.free and g.size % f.size == 0:
            g, rest = splits.split(g, Batch(f.size))
            right.insert(0, rest)
        else:
            return None
        out_a.append(f)
        out_b.append(g)
    return None if left or right else (tuple(out_a), tuple(out_b), splits)


def runs(order: Dim, wanted: Dims) -> tuple[list[Dim], list[int]]:
    """The longest runs of factors that stay together, in the order they lie, and the permutation that gives `wanted`."""
    position = {f: i for i, f in enumerate(order)}
    sequence = [position[f] for f in flat(wanted)]
    starts = [0, *(i for i in range(1, len(sequence)) if sequence[i] != sequence[i - 1] + 1)]
    pieces = [sequence[a:b] for a, b in zip(starts, [*starts[1:], len(sequence)], strict=True)] if sequence else []
    lying = sorted(pieces)
    return [tuple(order[i] for i in piece) for piece in lying], [lying.index(piece) for piece in pieces]
