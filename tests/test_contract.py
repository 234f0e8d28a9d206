"""What every registered stage, converter, importer, inspector and target must hold to."""

from __future__ import annotations

import dataclasses
import inspect
import json
import tomllib
import typing
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from edgedl.data import DataOptions, Dataset, Split
from edgedl.errors import RecipeError, UsageError
from edgedl.model import LoadOptions, Model, QuantizationPlan, load
from edgedl.options import build, everything
from edgedl.recipe import Limits, Recipe, from_table
from edgedl.registry import REGISTRIES, entries, find, names

STEPS = [(kind, name) for kind in ("stage", "converter", "target") for name in names(kind)]
CHECKED: dict[str, dict[str, Any]] = {  # options that take no other value, or only with others
    "prune_weights": {"pattern": {"pattern": "2:4"}},
    "prune_channels": {"rounds": {"rounds": 2, "epochs": 2}, "progressive": {"progressive": True, "epochs": 2}},
}
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


def another(kind: Any, default: Any) -> Any:
    """A value of a field's type that is not its default."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return next(a for a in arguments if a != default)
    if origin is tuple:
        one = another(arguments[0], None)
        return (one,) if arguments[-1] is ... else (one,) * len(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"a*": another(arguments[1], None)}
    if dataclasses.is_dataclass(kind):
        return others(kind)[0]
    if arguments:  # a union
        return another(arguments[0], default)
    if kind is bool:
        return not default
    if kind is int:
        return (default or 0) + 1
    if kind is float:
        return (default or 0.0) * 0.75 + 0.1
    return "other" if kind is str else {"scale": 0.5}


def others(cls: Any, **known: Any) -> list[Any]:
    """One instance for each field, in which only that field is not at its default; `known`: options that are checked."""
    kinds = typing.get_type_hints(cls)
    found = []
    for f in dataclasses.fields(cls):
        given = known[f.name] if f.name in known else {f.name: another(kinds[f.name], getattr(cls(), f.name))}
        found.append(cls(**given))
        assert found[-1] != cls(), f"{cls.__name__}.{f.name}"
    return found


def hold_to_toml(recipe: Recipe) -> None:
    for full in (True, False):
        assert from_table(tomllib.loads(recipe.to_toml(full=full))) == recipe


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_round_trips_through_a_recipe_field_by_field(kind: Any, name: str) -> None:
    key, word = PLACES[kind]
    cls = find(kind, name)
    for options in (cls(), *others(cls, **CHECKED.get(name, {}))):
        recipe = from_table({"model": "m.keras", key: [{word: name, **everything(options)}]})
        assert getattr(recipe, key)[0].options == options
        hold_to_toml(recipe)


def test_data_and_limits_round_trip_field_by_field() -> None:
    for data in others(DataOptions, metric={"metric": "scores:mae"}):
        hold_to_toml(Recipe("m.keras", data=data))
    for way in others(LoadOptions):
        if not way.allow_unsafe:  # which no recipe can say
            hold_to_toml(Recipe("m.keras", load=way))
    for limits in others(Limits):
        hold_to_toml(Recipe("m.keras", limits=limits))
    hold_to_toml(Recipe("m.keras", seed=5))


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


# --- nothing changes what it was given


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A convolution and a dense layer with weights, statistics and a plan, as a loaded file."""
    keras = pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4, 4, 1), name="image"),
        keras.layers.Conv2D(2, 3, use_bias=False),
        keras.layers.BatchNormalization(moving_variance_initializer=keras.initializers.Constant(2.0)),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    path = tmp_path_factory.mktemp("contract") / "tiny.keras"
    keras.Sequential(layers).save(path)
    return load(path)


@pytest.fixture
def samples(tiny: Model) -> Dataset:
    rng = np.random.default_rng(0)
    splits = [Split({tiny.inputs[0].name: rng.random((8, 4, 4, 1), np.float32)}, np.arange(8) % 3) for _ in range(2)]
    return Dataset(*splits, labels=("a", "b", "c"))


def content(model: Model, data: Dataset) -> str:
    """All that a Model and its Dataset hold, to be compared before and after."""
    flags = [[layer.name, layer.trainable] for layer in model.net.layers]
    weights = [w.tobytes().hex() for w in model.net.get_weights()]
    arrays = [[k, a.tobytes().hex()] for s in (data.calibration, data.validation) for k, a in {**s.x, "y": s.y}.items()]
    plain = [model.inputs, model.outputs, model.plan, model.history, model.notes, data.labels, data.preprocessing]
    return json.dumps([model.net.to_json(), flags, weights, arrays, [repr(p) for p in plain]])


PLANS = [None, QuantizationPlan(scheme="int8", overrides={"dense*": "fp16"}), QuantizationPlan(scheme="dynamic")]


@pytest.mark.parametrize("name", names("stage"))
def test_a_stage_leaves_its_input_unchanged(name: str, tiny: Model, samples: Dataset) -> None:
    for plan in PLANS:
        model = dataclasses.replace(tiny, plan=plan)
        before = content(model, samples)
        after = find("stage", name)()(model, samples)
        assert content(model, samples) == before
        assert after is not model
        assert after.history[: len(model.history)] == model.history
        assert len(after.history) > len(model.history), "a stage says what it did"


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.scheme if p else "float32")
@pytest.mark.parametrize("name", names("converter"))
def test_a_converter_leaves_its_input_unchanged(
    name: str, plan: QuantizationPlan | None, tiny: Model, samples: Dataset, tmp_path: Path
) -> None:
    model = dataclasses.replace(tiny, plan=plan)
    before = content(model, samples)
    artifact = find("converter", name)()(model, samples, tmp_path / f"out.{name}")
    assert content(model, samples) == before
    assert artifact.path == tmp_path / f"out.{name}"
    assert artifact.path.stat().st_size > 0
