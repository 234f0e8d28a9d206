"""Recipe: everything one `compress` run does, as TOML that can be read, edited and run again."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from .data import DataOptions
from .errors import RecipeError
from .model import LoadOptions, Scheme
from .options import build, changed, coerce, everything
from .registry import Kind, did_you_mean, find, names

MAX_BYTES = 1 << 20
MAX_SEED = (1 << 32) - 1  # what numpy and the frameworks take alike


@dataclass(frozen=True, slots=True)
class Step:
    """One named entry of a registry with its options: a stage, an export (converter) or a target."""

    name: str
    options: Any  # the instance: a frozen dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the result must hold to, and what a run may use."""

    max_drop: float | None = None  # of the metric: absolute for scores in 0..1 (0.01 is one point), relative for errors
    max_class_drop: float | None = None  # of any one class's accuracy, absolute; without labels of its agreement
    fallback: tuple[Scheme, ...] = ()  # schemes to try, in order, where one of these does not hold
    faithfulness: bool = True  # whether artifacts are also run on corrupted and adversarial inputs
    compare_dense: bool = True  # whether the unchanged model is converted and measured too, where stages change it
    timeout_s: float = 900.0  # of one conversion
    train_timeout_s: float = 86400.0  # of one stage that changes the network, which may train it
    memory_gib: float | None = None  # of a child process; not set: three quarters of the machine's
    bench_seconds: float = 3.0  # measuring time for one artifact on one target; 0: no measuring

    def __post_init__(self) -> None:
        for name in ("max_drop", "max_class_drop"):
            most = getattr(self, name)
            if most is not None and not 0 <= most <= 1:
                raise RecipeError(
                    f"limits.{name} is {most}, which no result can mean",
                    next="give 0 to 1, or a percentage such as 1%",
                )
        if (
            min(self.timeout_s, self.train_timeout_s) <= 0
            or self.bench_seconds < 0
            or (self.memory_gib is not None and self.memory_gib <= 0)
        ):
            raise RecipeError(
                "a limit of zero or less leaves nothing to work with", next="give timeout_s and memory_gib above 0"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Model and how it is loaded, data, stages in order, exports, targets, limits, seed."""

    model: str
    load: LoadOptions = field(default_factory=LoadOptions)
    data: DataOptions = field(default_factory=DataOptions)
    stages: tuple[Step, ...] = ()
    exports: tuple[Step, ...] = ()
    targets: tuple[Step, ...] = ()
    limits: Limits = field(default_factory=Limits)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise RecipeError(f"the seed is {self.seed}, but must be 0 to {MAX_SEED}", next="choose another seed")
        quantizing = [s for s in self.stages if s.name == "quantize"]
        for key, steps in (("stages", quantizing), ("exports", self.exports)):
            _refuse_twice(key, [s.name for s in steps], steps)
        _refuse_twice("targets", self.targets, self.targets)
        if quantizing and (last := self.stages[-1].name) != "quantize":
            raise RecipeError(f"stages: {last} comes after quantize, which ends them", next="put quantize last")

    def to_toml(self, *, full: bool = True) -> str:
        """The recipe as TOML; `full` writes every option, also those at their default."""
        table = everything if full else changed
        document: dict[str, Any] = {"model": self.model, "seed": self.seed, "data": table(self.data)}
        document["load"] = {k: v for k, v in table(self.load).items() if k != TRUST}
        for key in ("stages", "exports", "targets"):
            document[key] = [{_KEYS[key][1]: s.name, **table(s.options)} for s in getattr(self, key)]
        document["limits"] = table(self.limits)
        return tomli_w.dumps({k: v for k, v in document.items() if v not in ({}, [])})


TRUST = "allow_unsafe"  # what no recipe can say for its reader
_TABLES: Mapping[str, type[Any]] = {"load": LoadOptions, "data": DataOptions, "limits": Limits}
_KEYS: Mapping[str, tuple[Kind, str]] = {
    "stages": ("stage", "stage"),
    "exports": ("converter", "format"),
    "targets": ("target", "target"),
}


def _refuse_twice(key: str, values: Sequence[Any], steps: Sequence[Step]) -> None:
    """Quantization or a format can be there once (the last would win); a target again with other options."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise RecipeError(f"the recipe has '{steps[i].name}' twice in its {key}", next="leave one of the two out")


def step(kind: Kind, name: str, options: Mapping[str, Any] | None = None) -> Step:
    """The registered `name` with `options`. Raises UsageError or RecipeError, each with a suggestion."""
    return Step(name, build(find(kind, name), options or {}, name))


def from_table(document: Mapping[str, Any]) -> Recipe:
    """A Recipe from plain values; an unknown key is an error with a suggestion."""
    _check_shape(document)
    values = dict(document)
    for key, (kind, name_key) in _KEYS.items():
        if key in values:
            values[key] = tuple(
                step(kind, table[name_key], {k: v for k, v in table.items() if k != name_key}) for table in values[key]
            )
    if TRUST in values.get("load", {}):
        raise RecipeError(
            "a recipe cannot trust a model file", next="leave load.allow_unsafe out and pass --allow-unsafe"
        )
    for key, cls in _TABLES.items():
        if key in values:
            values[key] = build(cls, values[key], key)
    if "model" not in values:
        raise RecipeError("the recipe names no model", next='add model = "FILE" at its top')
    return build(Recipe, values, "the recipe")


def assemble(
    model: str = "",
    *,
    recipe: Path | None = None,
    load: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    stages: Iterable[tuple[str, Mapping[str, Any]]] = (),
    quantize: Mapping[str, Any] | None = None,
    formats: Iterable[str] = (),
    targets: Iterable[str] = (),
    limits: Mapping[str, Any] | None = None,
    settings: Iterable[tuple[str, Any]] = (),
    seed: int | None = None,
    keep_layout: bool | None = None,
) -> Recipe:
    """A Recipe from a recipe file and what the caller asks for besides, which wins.

    `stages` are (name, options) in their order, before quantization; one that the file has too gets these options there.
    `settings` are ("PLACE.FIELD", value), where PLACE is a stage, a format, a target, "load", "data" or "limits".
    `keep_layout` is for every export.
    """
    document = read(recipe) if recipe is not None else {}
    _check_shape(document)
    if model:
        document["model"] = model
    if seed is not None:
        document["seed"] = seed
    for key, more in (("load", load), ("data", data), ("limits", limits)):
        if more:
            document[key] = {**document.get(key, {}), **more}
    _add_stages(document, stages)
    if quantize:
        _entry(document, "stages", "quantize").update(quantize)
    for key, wanted in (("exports", tuple(formats)), ("targets", tuple(targets))):
        if wanted:
            document[key] = [{_KEYS[key][1]: name} for name in wanted]
    for export in document.get("exports", []) if keep_layout is not None else ():
        export["keep_layout"] = keep_layout
    for place, value in settings:
        _set(document, place, value)
    return from_table(document)


def _entry(document: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """The table of a named entry, added at the end where it is not there yet."""
    tables: list[dict[str, Any]] = document.setdefault(key, [])
    for table in tables:
        if table.get(_KEYS[key][1]) == name:
            return table
    tables.append({_KEYS[key][1]: name})
    return tables[-1]


def _set(document: dict[str, Any], place: str, value: Any) -> None:
    name, dot, field_name = place.partition(".")
    if not dot:
        raise RecipeError(
            f"'{place}' names no option", next="write PLACE.OPTION=VALUE, such as quantize.percentile=99.9"
        )
    if name in _TABLES:
        document.setdefault(name, {})[field_name] = value
        return
    for key, (kind, _) in _KEYS.items():
        if name in names(kind):
            _put(_entry(document, key, name), field_name, value)
            return
    known = [*_TABLES, *(n for kind, _ in _KEYS.values() for n in names(kind))]
    raise RecipeError(
        f"there is no '{name}' to set{did_you_mean(name, known)}", next=f"choose one of {', '.join(known)}"
    )


def _add_stages(document: dict[str, Any], stages: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Put stages before quantization, each after those the file has; the first unused one of the same name is changed."""
    tables: list[dict[str, Any]] = document.setdefault("stages", [])
    changed: list[int] = []
    for name, options in stages:
        same = next((t for t in tables if t.get("stage") == name and id(t) not in changed), None)
        if same is None:
            same = {"stage": name}
            at = next((i for i, t in enumerate(tables) if t.get("stage") == "quantize"), len(tables))
            tables.insert(at, same)
        same.update(deepcopy(dict(options)))
        changed.append(id(same))


def _put(table: dict[str, Any], field_name: str, value: Any) -> None:
    """Set "FIELD", or "FIELD.INNER" of a table inside."""
    outer, dot, inner = field_name.partition(".")
    if not dot:
        table[outer] = value
        return
    inside = table.setdefault(outer, {})
    if not isinstance(inside, dict):
        raise RecipeError(f"'{outer}' is no table, so '{field_name}' names nothing", next=f"write {outer}=VALUE")
    _put(inside, inner, value)


def _check_shape(document: Mapping[str, Any]) -> None:
    """Tables where there must be tables, and a name in each step. Raises RecipeError."""
    for key in _TABLES:
        if not isinstance(document.get(key, {}), Mapping):
            raise RecipeError(f"'{key}' must be a table", next=f"write [{key}] with its options below it")
    for key, (_, name_key) in _KEYS.items():
        tables = document.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(t, Mapping) for t in tables):
            raise RecipeError(
                f"'{key}' must be a list of tables", next=f'write [[{key}]] and {name_key} = "..." below it'
            )
        for table in tables:
            if name_key not in table:
                raise RecipeError(f"an entry of [[{key}]] has no '{name_key}'", next=f'add {name_key} = "..."')
            coerce(str, table[name_key], f"{key}.{name_key}")


def read(path: Path) -> dict[str, Any]:
    """The plain tables of a recipe file. Raises RecipeError: no such file, not TOML, too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path} is larger than {MAX_BYTES:,} bytes: not a recipe", next="pass a recipe in TOML")
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}", next="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path} is not valid TOML: {error}", next="start from `edgedl compress ... --dry-run`"
        ) from error
