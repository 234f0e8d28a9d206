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
        self.parent: Ids = np.zeros(0, np.int64)
        self.frozen: dict[int, str] = {}  # unit -> why
        self.mixed: set[int] = set()

    def fresh(self, count: int) -> Ids:
        """New units `[count]`."""
        start = len(self.parent)
        ids = np.arange(start, start + count, dtype=np.int64)
        self.parent = np.concatenate([self.parent, ids])
        return ids

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
        pairs = np.unique(np.stack([self.roots(a.reshape(-1)), self.roots(b.reshape(-1))]), axis=1)
        for left, right in pairs.T.tolist():
            left, right = self._root(left), self._root(right)
            if left != right:
                self.parent[max(left, right)] = min(left, right)

    def _root(self, unit: int) -> int:
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = int(self.parent[unit])
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
