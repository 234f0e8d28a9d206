"""choose(): which channels go, so that a budget is met and the least is lost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .cost import Cost, Counts, saving
from .graph import ChannelGraph, Group
from .shrink import Mask

Ranking = Literal["global", "per-layer", "per-cost"]
Scores = NDArray[np.float64]  # by unit; only those that stand for a channel of a group mean something


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a group may be cut to."""

    round_to: int = 1  # the channels that stay are a multiple of it, where any go
    min_channels: int = 1
    min_share: float = 0.0  # of a group's channels that stay at least

    def least(self, size: int) -> int:
        """The fewest channels that a group of `size` may keep.

        >>> Bounds(round_to=8, min_share=0.3).least(64), Bounds(round_to=8).least(12), Bounds(round_to=8).least(6)
        (24, 8, 6)
        """
        wanted = max(self.min_channels, int(np.ceil(size * self.min_share)), 1)
        return min(size, -(-wanted // self.round_to) * self.round_to)

    def below(self, count: int) -> int:
        """The next smaller number of channels."""
        return (count - 1) // self.round_to * self.round_to


def choose(
    graph: ChannelGraph,
    scores: Scores,
    cost: Cost,
    budget: float,
    *,
    ranking: Ranking = "global",
    bounds: Bounds | Sequence[Bounds] = Bounds(),
) -> Mask:
    """A mask over units that keeps the best channels within `budget` (in the unit of `cost`).

    - "global": blocks of channels of all groups in the order of their mean score, the least first;
    - "per-cost": in the order of score lost for each unit of cost saved, which changes as the network shrinks;
    - "per-layer": the same share of every group, the worst channels of each.

    Raises UsageError where even the smallest network is above the budget; says how small it can be and which layers stop it.
    """
    groups = graph.prunable
    each = [bounds] * len(groups) if isinstance(bounds, Bounds) else list(bounds)
    full = np.array([len(g) for g in groups], np.int64)
    least = np.array([b.least(len(g)) for b, g in zip(each, groups, strict=True)], np.int64)
    smallest = float(cost.parts(least).sum())
    if smallest > budget * (1 + 1e-9):
        raise _too_small(graph, cost, full, least, budget)
    if ranking == "per-layer":
        counts = _uniform(full, least, each, cost, budget)
    else:
        counts = _greedy(groups, scores, cost, budget, each, least, aware=ranking == "per-cost")
    return mask_of(graph, scores, counts)


def mask_of(graph: ChannelGraph, scores: Scores, counts: Counts) -> Mask:
    """The mask that keeps so many channels of each group, those of the highest scores."""
    keep = graph.everything()
    for group, count in zip(graph.prunable, counts, strict=True):
        order = np.argsort(scores[group.channels], kind="stable")
        keep[group.channels[order[: len(group) - count]]] = False
    return keep


def _greedy(
    groups: Sequence[Group],
    scores: Scores,
    cost: Cost,
    budget: float,
    bounds: Sequence[Bounds],
    least: Counts,
    *,
    aware: bool,
) -> Counts:
    """Block after block, the one that loses least first. What a block saves only falls as others go, so that a stale
    priority is never too high: one that comes up is looked at again before it is believed."""
    counts: Counts = np.array([len(g) for g in groups], np.int64)
    lost = [np.concatenate([[0.0], np.cumsum(np.sort(scores[g.channels]))]) for g in groups]
    parts = cost.parts(counts)

    def priority(i: int) -> tuple[float, int] | None:
        after = bounds[i].below(int(counts[i]))
        step = int(counts[i]) - after
        if after < least[i]:
            return None
        gone = len(groups[i]) - int(counts[i])
        worth = float(lost[i][gone + step] - lost[i][gone])
        by = saving(cost, counts, i, step) if aware else float(step)
        return worth / max(by, 1e-12), step

    heap = [(found[0], i) for i in range(len(groups)) if (found := priority(i)) is not None]
    heapq.heapify(heap)
    history: list[tuple[int, int]] = []  # (group, channels) of each block that went
    total = float(parts.sum())
    while total > budget * (1 + 1e-9) and heap:
        _, i = heapq.heappop(heap)
        found = priority(i)
        if found is None:
            continue
        if heap and found[0] > heap[0][0]:
            heapq.heappush(heap, (found[0], i))
            continue
        total -= saving(cost, counts, i, found[1])
        counts[i] -= found[1]
        history.append((i, found[1]))
        if (again := priority(i)) is not None:
            heapq.heappush(heap, (again[0], i))
    return _refilled(counts, history, cost, budget)


def _refilled(counts: Counts, history: Sequence[tuple[int, int]], cost: Cost, budget: float) -> Counts:
    """The last blocks to go come back where the budget has room for them, which a large block may have left."""
    total, shut = float(cost.parts(counts).sum()), set()
    for i, step in reversed(history):
        if i in shut:
            continue
        after = counts.copy()
        after[i] += step
        more = saving(cost, after, i, step)
        if total + more <= budget * (1 + 1e-9):
            counts, total = after, total + more
        else:
            shut.add(i)  # its blocks come back in the order in which they went, the last first
    return counts


def _uniform(full: Counts, least: Counts, bounds: Sequence[Bounds], cost: Cost, budget: float) -> Counts:
    """The largest share of every group that meets the budget, by bisection."""

    def at(share: float) -> Counts:
        wanted = [
            round(n * share / b.round_to) * b.round_to if share < 1 else n
            for n, b in zip(full.tolist(), bounds, strict=True)
        ]
        return np.minimum(full, np.maximum(least, np.array(wanted, np.int64)))

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost.parts(at(middle)).sum() <= budget else (low, middle)
    return at(high) if cost.parts(at(high)).sum() <= budget else at(low)


def _too_small(graph: ChannelGraph, cost: Cost, full: Counts, least: Counts, budget: float) -> UsageError:
    smallest, whole = float(cost.parts(least).sum()), float(cost.parts(full).sum())
    fixed = [f"{g.name} ({g.frozen})" for g in graph.groups if g.frozen and len(g) > 1]
    alone = [f"{path} ({op})" for path, op in graph.left_alone.items()]
    bound = ["the fewest channels a layer may keep (min_share, min_channels, round_to)"] if (least > 1).any() else []
    stop = ", ".join([*bound, *[*alone, *fixed][:5]]) or "each layer keeps one channel"
    return UsageError(
        f"the budget of {_plain(budget)} {cost.unit} cannot be met: the smallest this network can be has {_plain(smallest)}, "
        f"{math.floor(100 * whole / smallest) / 100:g} x fewer; "
        f"what stands in the way: {stop}",
        next="cut less, or lower min_share (as --set prune_channels.min_share=0.1), min_channels and round_to",
    )


def _plain(value: float) -> str:
    """A count with its thousands apart, a small number with four digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
