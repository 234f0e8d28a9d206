"""Cost: what a network costs as a function of how many channels each group keeps."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .graph import ChannelGraph

Counts = NDArray[np.int64]  # channels kept, `[groups]`, in the order of graph.prunable
Values = NDArray[np.float64]
Kind = Literal["macs", "params", "memory"]
MEMORY_BYTES = 4  # of an activation's element, float32


class Cost(Protocol):
    """A cost as a sum of parts, of which one group changes only a few."""

    unit: str  # "MACs", "parameters", "bytes", "ms"
    touched: list[NDArray[np.int64]]  # for each group the indices of the parts that depend on it

    def parts(self, counts: Counts, which: NDArray[np.int64] | None = None) -> Values:
        """The parts (all, or those of these indices)."""
        ...


def saving(cost: Cost, counts: Counts, group: int, step: int) -> float:
    """How much smaller the cost is when a group loses `step` channels."""
    which = cost.touched[group]
    after = counts.copy()
    after[group] -= step
    return float(cost.parts(counts, which).sum() - cost.parts(after, which).sum())


class Lengths:
    """The lengths of axes as a function of the counts: a fixed part, and how often each group's channels appear."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.group_of = np.full(len(graph.units.parent), -1, np.int64)
        for i, group in enumerate(graph.prunable):
            self.group_of[group.channels] = i
        self.full: Counts = np.array([len(g) for g in graph.prunable], np.int64)
        self.rows: dict[bytes, int] = {}
        self.fixed: list[int] = []
        self.times: list[NDArray[np.float64]] = []

    def add(self, ids: NDArray[np.int64]) -> int:
        """The index of an axis."""
        roots = self.graph.units.roots(ids)
        key = roots.tobytes()
        if key not in self.rows:
            self.rows[key] = len(self.fixed)
            groups = self.group_of[roots]
            here = np.bincount(groups[groups >= 0], minlength=len(self.full)).astype(np.float64)
            self.times.append(here / np.maximum(self.full, 1))
            self.fixed.append(int((groups < 0).sum()))
        return self.rows[key]

    def matrix(self) -> tuple[Values, Values]:
        """(fixed `[axes]`, times `[axes, groups]`): lengths are `fixed + times @ counts`."""
        times = np.stack(self.times) if self.times else np.zeros((0, len(self.full)))
        return np.array(self.fixed, np.float64), times


class Polynomial:
    """Multiply-accumulates, parameters, or activations: every part a coefficient times lengths of axes.

    Activation memory is the sum over all activations: the peak of a planned arena is not a sum over layers, and falls
    with it.
    """

    def __init__(self, graph: ChannelGraph, kind: Kind) -> None:
        self.unit = {"macs": "MACs", "params": "parameters", "memory": "bytes"}[kind]
        scale = MEMORY_BYTES if kind == "memory" else 1
        lengths = Lengths(graph)
        terms = [t for t in graph.terms if t.kind == kind]
        self.axes = [[lengths.add(ids) for ids in term.axes] for term in terms]
        self.coefficients = np.array([t.coefficient * scale for t in terms], np.float64)
        self.fixed, self.times = lengths.matrix()
        most = max((len(a) for a in self.axes), default=0)
        one = len(self.fixed)  # the index of an axis of length 1
        self.index = np.array([a + [one] * (most - len(a)) for a in self.axes], np.int64).reshape(len(terms), most)
        self.touched = _touched(self.times, self.axes, len(graph.prunable))

    def parts(self, counts: Counts, which: NDArray[np.int64] | None = None) -> Values:
        """One value a term."""
        index = self.index if which is None else self.index[which]
        coefficients = self.coefficients if which is None else self.coefficients[which]
        if which is None:
            lengths = np.append(self.fixed + self.times @ counts, 1.0)
            found: Values = coefficients * lengths[index].prod(axis=1)
            return found
        used, inverse = np.unique(index, return_inverse=True)
        real = used < len(self.fixed)
        lengths = np.ones(len(used))
        lengths[real] = self.fixed[used[real]] + self.times[used[real]] @ counts
        some: Values = coefficients * lengths[inverse.reshape(index.shape)].prod(axis=1)
        return some


def _touched(times: Values, axes: list[list[int]], groups: int) -> list[NDArray[np.int64]]:
    found: list[list[int]] = [[] for _ in range(groups)]
    of_axis = [np.flatnonzero(row).tolist() for row in times]
    for part, these in enumerate(axes):
        for group in {g for axis in these for g in of_axis[axis]}:
            found[group].append(part)
    return [np.array(f, np.int64) for f in found]
