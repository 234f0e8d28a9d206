"""Units: the entries of tensors' axes that are there or gone together, as a union-find over whole arrays.

Every removable entry of an axis has the number of a unit; two units that must live or die together are united. This is
DepGraph's dependency relation (Fang et al., CVPR 2023) held for single entries of an axis instead of whole layers, so
that concatenation, splitting, grouping and flattening need no cases of their own: they only move numbers around.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Axis = Ids | None  # the units along one axis of a tensor; None: an axis whose entries all stay
Label = tuple[Axis, ...]  # one for each axis of a tensor


class Units:
    """Units, which of them are united, which are frozen (never removed) and why, which are mixed.

    A mixed unit takes part in a statistic over its axis (LayerNormalization): without it the others change a little,
    so that removing it is never exact.
    """

    def __init__(self) -> None:
        self._room: Ids = np.arange(1024, dtype=np.int64)  # grows by doubling: units are made a few at a time
        self._count = 0
        self.frozen: dict[int, str] = {}  # unit -> why
        self.mixed: set[int] = set()

    def __len__(self) -> int:
        return self._count

    @property
    def parent(self) -> Ids:
        """The unit above each unit; the one that stands for others is above itself."""
        return self._room[: self._count]

    def fresh(self, count: int) -> Ids:
        """New units `[count]`."""
        start = self._count
        self._count += count
        if self._count > len(self._room):
            more = np.arange(len(self._room), max(2 * len(self._room), self._count), dtype=np.int64)
            self._room = np.concatenate([self._room, more])
        return np.arange(start, self._count, dtype=np.int64)

    def roots(self, ids: Ids) -> Ids:
        """The unit that stands for each of `ids`, of the same shape."""
        found = self.parent[ids]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def unite(self, a: Ids, b: Ids) -> None:
        """Make each unit of `a` one with that of `b` at the same place; both of the same length.

        >>> units = Units(); x, y = units.fresh(2), units.fresh(2); units.unite(x, y); bool((units.roots(y) == x).all())
        True
        """
        left, right = self.roots(a.reshape(-1)), self.roots(b.reshape(-1))
        low, high = np.minimum(left, right), np.maximum(left, right)
        pairs = np.unique((high * self._count + low)[low != high])
        highs, lows = pairs // self._count, pairs % self._count
        if len(np.unique(highs)) == len(highs) and not np.isin(highs, lows).any():
            self._room[highs] = lows  # no unit takes part twice as the one that goes under: all at once
            return
        for one, other in zip(highs.tolist(), lows.tolist(), strict=True):
            x, y = self._root(one), self._root(other)
            if x != y:
                self._room[max(x, y)] = min(x, y)

    def _root(self, unit: int) -> int:
        parent = self._room
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = int(parent[unit])
        return unit

    def freeze(self, ids: Axis, why: str) -> None:
        """Never remove these units; `why` is a short clause that names what stands in the way."""
        if ids is not None:
            for unit in np.unique(self.roots(ids)).tolist():
                self.frozen.setdefault(unit, why)

    def mix(self, ids: Axis) -> None:
        """Note that these units share a statistic."""
        if ids is not None:
            self.mixed.update(np.unique(self.roots(ids)).tolist())
