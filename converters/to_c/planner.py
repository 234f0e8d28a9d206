"""plan(): where each buffer lies in one arena, so that it is as small as can be: lifetimes, and operators that may write over
what they have read."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGN = 4  # bytes; what double-word and multiple loads of a Cortex-M need
WORK = 10_000_000  # pairs of buffers that are alive at once, compared in all tries together, at most
TRIES = 1500  # orders in which buffers are laid down, at most


@dataclass(frozen=True, slots=True)
class Buffer:
    """So many bytes that must be kept from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`offsets` in bytes, one for each buffer; `bound`: no plan can be smaller than this."""

    offsets: tuple[int, ...]
    total: int
    bound: int


Overlaps = Mapping[tuple[int, int], int]  # (index of the buffer that is read, of the one that is written) -> lead


def plan(buffers: Sequence[Buffer], overlaps: Overlaps) -> Plan:
    """Offsets for all buffers in one arena.

    Two buffers whose lifetimes meet lie apart, but for those of `overlaps`: the written one may share bytes with the one
    that is read if it begins at least `lead` bytes before it (the operator never writes a byte that it still reads). Greedy
    in several orders, then in ones varied at random from a fixed seed, until the bound is met or tries end: an order of best-fit
    placement as in Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020).
    """
    sizes = [_aligned(b.size) for b in buffers]
    apart = _conflicts(buffers)
    bound = lower_bound(buffers, overlaps)
    best_order = min(_orders(buffers, sizes), key=lambda order: _total(_placed(order, sizes, apart, overlaps), sizes))
    best = _placed(best_order, sizes, apart, overlaps)
    rng = random.Random(0)
    for _ in range(min(TRIES, WORK // sum((len(a) ** 2 for a in apart), 1))):
        if _total(best, sizes) <= bound:
            break
        tried = _varied(best_order, rng)
        found = _placed(tried, sizes, apart, overlaps)
        if _total(found, sizes) <= _total(best, sizes):
            best, best_order = found, tried
    return Plan(tuple(best), _total(best, sizes), bound)


def _orders(buffers: Sequence[Buffer], sizes: Sequence[int]) -> list[list[int]]:
    """Orders to begin with: by size, and against the time: what is written over something has its place before that."""
    every = range(len(buffers))
    keys = (lambda i: (-sizes[i], buffers[i].first), lambda i: (-sizes[i], -buffers[i].first),
            lambda i: (-buffers[i].first, -sizes[i]), lambda i: (buffers[i].first, -sizes[i]))  # fmt: skip
    return [sorted(every, key=key) for key in keys]


def lower_bound(buffers: Sequence[Buffer], overlaps: Overlaps) -> int:
    """The most that is alive at one step, where each pair of `overlaps` shares as much as its lead allows.

    An output shares with one input at most what is left of the larger of the two when it begins `lead` bytes before; with
    several such inputs the bound takes the sum of what each could save, so it may be lower than any plan, never higher.
    """
    sizes = [_aligned(b.size) for b in buffers]
    bound = 0
    for step in sorted({b.first for b in buffers} | {b.last for b in buffers}):
        alive = [i for i, b in enumerate(buffers) if b.first <= step <= b.last]
        saved = 0
        for (read, written), lead in overlaps.items():
            if read in alive and written in alive:
                saved += max(0, sizes[read] + sizes[written] - max(sizes[written], sizes[read] + _lead(lead)))
        bound = max(bound, sum(sizes[i] for i in alive) - saved)
    return max(bound, max(sizes, default=0), _chain_bound(sizes, overlaps))


def _chain_bound(sizes: Sequence[int], overlaps: Overlaps) -> int:
    """What a chain of buffers, each written over the one before, takes at least.

    In an arena too small for any two neighbours apart all of them overlap, and each begins its lead before the one before
    it, so the first begins behind the sum of all leads. Of several written over the same one, the largest lead counts.
    """
    following: dict[int, tuple[int, int]] = {}
    for (read, written), lead in overlaps.items():
        if read not in following or lead > following[read][1]:
            following[read] = written, lead
    bound = 0
    for start in following:
        at, leads, seen = start, 0, {start}
        apart = 2 * sum(sizes)
        while at in following and following[at][0] not in seen:
            written, lead = following[at]
            apart = min(apart, sizes[at] + sizes[written])
            leads += _lead(lead)
            bound = max(bound, min(apart, leads + sizes[start]))
            at = written
            seen.add(at)
    return bound


def _lead(lead: int) -> int:
    return _aligned(max(lead, 0))


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _conflicts(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For each buffer those whose lifetime meets its own."""
    return [
        [j for j, o in enumerate(buffers) if j != i and b.first <= o.last and o.first <= b.last]
        for i, b in enumerate(buffers)
    ]


def _placed(
    order: Sequence[int], sizes: Sequence[int], apart: Sequence[Sequence[int]], overlaps: Overlaps
) -> list[int]:
    """Each buffer in turn at the lowest offset where it fits between those that lie already."""
    offsets: list[int] = [-1] * len(sizes)
    for i in order:
        placed = [j for j in apart[i] if offsets[j] >= 0]
        offsets[i] = next(at for at in sorted(_places(i, placed, offsets, sizes, overlaps))
                          if all(_fits(i, at, j, offsets[j], sizes, overlaps) for j in placed))  # fmt: skip
    return offsets


def _places(
    i: int, placed: Sequence[int], offsets: Sequence[int], sizes: Sequence[int], overlaps: Overlaps
) -> set[int]:
    """Offsets worth trying: the start, behind each neighbour, and where an overlap is just allowed."""
    found = {0}
    for j in placed:
        found.add(offsets[j] + sizes[j])
        if (i, j) in overlaps:  # i is read: at least `lead` behind the one that is written
            found.add(max(0, offsets[j] + _lead(overlaps[i, j])))
        if (j, i) in overlaps:  # i is written
            found.add(max(0, offsets[j] - _lead(overlaps[j, i])))
    return found


def _fits(i: int, at: int, j: int, other: int, sizes: Sequence[int], overlaps: Overlaps) -> bool:
    if at + sizes[i] <= other or other + sizes[j] <= at:
        return True
    if (i, j) in overlaps:
        return other + _lead(overlaps[i, j]) <= at
    return (j, i) in overlaps and at + _lead(overlaps[j, i]) <= other


def _total(offsets: Sequence[int], sizes: Sequence[int]) -> int:
    return max((at + size for at, size in zip(offsets, sizes, strict=True)), default=0)


def _varied(order: Sequence[int], rng: random.Random) -> list[int]:
    """An order with one to three buffers moved elsewhere."""
    tried = list(order)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tried.insert(rng.randrange(len(tried)), tried.pop(rng.randrange(len(tried))))
    return tried
