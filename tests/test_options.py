"""Dataclasses from tables: types, unknown keys, suggestions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.errors import RecipeError, UsageError
from edgedl.options import build, changed, coerce, everything, parse_value, plain


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


@dataclass(frozen=True)
class Inner:
    shift: int = 0
    flip: bool = False
    size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise UsageError(f"inner.shift is {self.shift}, but must be at least 0", next="leave it out")


@dataclass(frozen=True)
class Outer:
    name: str = ""
    inner: Inner = field(default_factory=Inner)
    spare: Inner | None = None
    moved: Inner = Inner(shift=2)


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


INNER = st.builds(Inner, shift=st.integers(0, 9), flip=st.booleans(), size=st.lists(st.integers()).map(tuple))


@given(st.builds(Outer, name=st.text(), inner=INNER, spare=st.none() | INNER, moved=INNER))
def test_tables_inside_round_trip_and_are_plain(outer: Outer) -> None:
    """Two equal instances are the same table, so that TOML, JSON and the keys of kept steps agree."""
    for table in (everything(outer), changed(outer)):
        assert build(Outer, table, "x") == outer
        assert json.loads(json.dumps(table)) == table, "lists, tables and numbers only"
    assert all(key in everything(outer)["inner"] for key in ("shift", "flip", "size"))


def test_a_table_inside_says_only_what_differs_where_that_is_asked() -> None:
    outer = Outer(inner=Inner(shift=4))
    assert changed(outer) == {"inner": {"shift": 4}}
    assert changed(Outer()) == {}
    assert everything(outer) == {
        "name": "",
        "inner": {"shift": 4, "flip": False, "size": []},
        "moved": {"shift": 2, "flip": False, "size": []},
    }, "all fields, without the one that is not set"


@pytest.mark.parametrize("moved", [Inner(), Inner(shift=3), Inner(shift=2, flip=True)])
def test_a_table_whose_default_is_not_that_of_its_type_comes_back(moved: Inner) -> None:
    outer = Outer(moved=moved)
    assert build(Outer, changed(outer), "x") == outer
    assert build(Outer, everything(outer), "x") == outer


def test_plain_values_all_the_way_down() -> None:
    assert plain({"a": (1, (2, "b")), "c": Inner(size=(3,))}) == {"a": [1, [2, "b"]], "c": {"size": [3]}}
    assert plain(Outer(inner=Inner(flip=True))) == {"inner": {"flip": True}}
    assert plain(Inner) is Inner, "a class is no instance"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"inner": {"shfit": 1}}, "x.inner has no option 'shfit': did you mean 'shift'"),
        ({"inner": {"shift": 1.5}}, "x.inner.shift is 1.5, but must be a whole number"),
        ({"inner": {"shift": -1}}, "inner.shift is -1, but must be at least 0"),
        ({"inner": {"size": ["a"]}}, "x.inner.size is 'a', but must be a whole number"),
        ({"inner": 3}, "x.inner is 3, but must be a table"),
        ({"inner": [1]}, "must be a table"),
        ({"inner": None}, "must be a table"),
        ({"spare": 3}, "x.spare is 3, but must be a table"),
        ({"spare": {"flip": 1}}, "x.spare.flip is 1, but must be true or false"),
        ({"inner": Outer()}, "must be a table"),
    ],
)
def test_a_wrong_value_inside_a_table_names_its_place(table: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        build(Outer, table, "x")
    assert caught.value.next


def test_an_instance_stands_for_its_table() -> None:
    inner = Inner(shift=1)
    assert build(Outer, {"inner": inner}, "x").inner is inner
    assert coerce(Inner, {"shift": 1}, "x") == inner
    assert coerce(Inner | None, None, "x") is None
