"""What every registered stage, converter, importer, inspector and target must hold to."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from contextlib import AbstractContextManager
from typing import Any

import pytest

from edgedl.errors import RecipeError, UsageError
from edgedl.options import build, everything
from edgedl.recipe import from_table
from edgedl.registry import REGISTRIES, entries, find, names

STEPS = [(kind, name) for kind in ("stage", "converter", "target") for name in names(kind)]
PLACES = {"stage": ("stages", "stage"), "converter": ("exports", "format"), "target": ("targets", "target")}


@pytest.mark.parametrize("kind", list(REGISTRIES))
def test_every_name_resolves(kind: Any) -> None:
    assert names(kind)
    for name in entries(kind):
        assert callable(find(kind, name))


@pytest.mark.parametrize("kind", list(REGISTRIES))
def test_an_unknown_name_is_an_error_with_a_suggestion(kind: Any) -> None:
    known = names(kind)[0]
    with pytest.raises(UsageError, match=f"did you mean '{known}'"):
        find(kind, known + "x")


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_is_a_frozen_dataclass_with_documented_defaults(kind: Any, name: str) -> None:
    cls = find(kind, name)
    assert dataclasses.is_dataclass(cls)
    assert inspect.getdoc(cls)
    instance = cls()
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        instance.something = 1
    for f in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, f.name, None)


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_round_trips_through_a_recipe(kind: Any, name: str) -> None:
    key, word = PLACES[kind]
    recipe = from_table({"model": "m.keras", key: [{word: name, **everything(find(kind, name)())}]})
    assert getattr(recipe, key)[0].options == find(kind, name)()
    assert from_table(tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_rejects_an_unknown_option_by_name(kind: Any, name: str) -> None:
    with pytest.raises(RecipeError, match="no_such_option"):
        build(find(kind, name), {"no_such_option": 1}, name)


@pytest.mark.parametrize("name", names("target"))
def test_a_target_opens_to_a_session(name: str) -> None:
    opened = find("target", name)().open()
    assert isinstance(opened, AbstractContextManager)
    with opened as session:
        assert all(callable(getattr(session, method)) for method in ("load", "run", "environment"))


@pytest.mark.parametrize("name", names("inspector"))
def test_an_inspector_has_its_methods(name: str) -> None:
    inspector = find("inspector", name)()
    assert all(callable(getattr(inspector, method)) for method in ("layers", "compare", "custom_ops"))
