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
        ({"size": [1, 2, 3]}, "must have 2"),
        ({"on": 1}, "must be true or false"),
        ({"names": "one"}, "names is 'one'"),
    ],
)
def test_a_wrong_value_names_the_option(table: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        build(Example, table, "x")
    assert caught.value.next


@given(st.text())
def test_any_text_parses_to_something(text: str) -> None:
    parse_value(text)
