"""Dataclasses from tables: types, unknown keys, suggestions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.errors import RecipeError
from edgedl.options import build, changed, everything, parse_value


@dataclass(frozen=True)
class Example:
    ratio: float = 0.5
    count: int = 1
    mode: Literal["fast", "slow"] = "fast"
    size: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    on: bool = False
    weights: tuple[float, ...] = (0.0,)
    either: tuple[str, ...] | str = ()
    limit: float | None = None


@given(
    st.builds(
        Example,
        ratio=st.floats(allow_nan=False, allow_infinity=False),
        count=st.integers(),
        mode=st.sampled_from(["fast", "slow"]),
        size=st.none() | st.tuples(st.integers(), st.integers()),
        names=st.lists(st.text()).map(tuple),
        table=st.dictionaries(st.text(), st.integers()),
        on=st.booleans(),
        weights=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
        either=st.lists(st.text()).map(tuple) | st.text(),
        limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_round_trip(example: Example) -> None:
    assert build(Example, everything(example), "x") == example
    assert build(Example, changed(example), "x") == example


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"ration": 1.0}, "did you mean 'ratio'"),
        ({"ratio": "much"}, "must be a number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"count": True}, "must be a whole number"),
        ({"mode": "fasst"}, "did you mean 'fast'"),
        ({"size": [1, 2, 3]}, "size has 3 values, but must be a list of 2 whole numbers"),
        ({"size": 3}, "size is 3, but must be a list of 2 whole numbers"),
        ({"ratio": float("nan")}, "ratio is nan, but must be a finite number"),
        ({"ratio": float("-inf")}, "must be a finite number"),
        ({"ratio": 10**400}, "must be a finite number"),
        ({"limit": float("inf")}, "limit is inf, but must be a finite number"),
        ({"weights": [0.5, float("nan")]}, "weights is nan, but must be a finite number"),
        ({"weights": {"a": 1}}, "must be a list of numbers"),
        ({"either": 3}, "either is 3, but must be a list of texts or text"),
        ({"table": 3}, "must be a table"),
        ({"on": 1}, "must be true or false"),
        ({"names": 3}, "names is 3, but must be text"),
    ],
)
def test_a_wrong_value_names_the_option(table: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        build(Example, table, "x")
    assert caught.value.next


def test_one_value_stands_for_a_list_of_any_length() -> None:
    assert build(Example, {"weights": 1, "names": "one"}, "x") == Example(weights=(1.0,), names=("one",))
    assert build(Example, {"either": "one"}, "x").either == "one", "text where text is declared stays text"


@given(st.text())
def test_any_text_parses_to_something(text: str) -> None:
    parse_value(text)
