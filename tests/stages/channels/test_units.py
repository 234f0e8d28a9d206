"""Units: a union-find over arrays, against sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgedl.stages.channels.units import Units


@given(st.lists(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), min_size=1, max_size=8), max_size=8))
def test_united_units_are_one(calls: list[list[tuple[int, int]]]) -> None:
    units, sets = Units(), {i: {i} for i in range(30)}
    ids = units.fresh(30)
    for pairs in calls:
        units.unite(np.array([ids[a] for a, _ in pairs]), np.array([ids[b] for _, b in pairs]))
        for a, b in pairs:
            both = sets[a] | sets[b]
            sets.update(dict.fromkeys(both, both))
    assert units.roots(ids).tolist() == [min(sets[i]) for i in range(30)]


def test_room_grows_and_keeps_what_was_united() -> None:
    units = Units()
    first = units.fresh(3)
    units.unite(first[:2], first[1:])
    more = units.fresh(5000)
    assert len(units) == 5003
    assert units.roots(first).tolist() == [0, 0, 0]
    assert units.roots(more).tolist() == list(range(3, 5003))


def test_frozen_tells_the_first_reason() -> None:
    units = Units()
    a = units.fresh(2)
    units.freeze(a, "first")
    units.freeze(a, "second")
    assert units.frozen == {0: "first", 1: "first"}
