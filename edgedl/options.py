"""A frozen dataclass from a table of plain values: its fields are the only declaration of its options."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from .errors import RecipeError
from .registry import did_you_mean

T = TypeVar("T")


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from a table (TOML, JSON, the command line).

    Raises RecipeError for a key that is no field (with the nearest one) and for a value of another type.
    """
    kinds = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise RecipeError(
                f"{where} has no option '{key}'{did_you_mean(key, known)}", next=f"its options are {', '.join(known)}"
            )
        values[key] = coerce(kinds[key], value, f"{where}.{key}")
    return cls(**values)


def coerce(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`, or a RecipeError that says what was expected.

    >>> coerce(float, 1, "x"), coerce(tuple[str, ...], ["a"], "x"), coerce(float | None, None, "x")
    (1.0, ('a',), None)
    """
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(arguments, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        near = did_you_mean(str(value), [str(a) for a in arguments])
        raise RecipeError(f"{where} cannot be {value!r}{near}", next=f"choose one of {', '.join(map(str, arguments))}")
    if origin is tuple and isinstance(value, list | tuple):
        return _coerce_tuple(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): coerce(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where} is {value!r}, but must be {_describe(kind)}", next="correct the value")


def _coerce_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    options = [k for k in kinds if k is not type(None)]
    for kind in options[:-1]:
        try:
            return coerce(kind, value, where)
        except RecipeError:
            continue
    return coerce(options[-1], value, where)


def _coerce_tuple(kinds: tuple[Any, ...], values: Any, where: str) -> tuple[Any, ...]:
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(values)
    if len(kinds) != len(values):
        raise RecipeError(f"{where} has {len(values)} values, but must have {len(kinds)}", next="correct the value")
    return tuple(coerce(k, v, where) for k, v in zip(kinds, values, strict=True))


def _describe(kind: Any) -> str:
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    return names.get(kind, str(kind).replace("typing.", ""))


def changed(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass instance that differ from their defaults, as plain TOML values."""
    out = {}
    for f in dataclasses.fields(instance):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        value = getattr(instance, f.name)
        if value != default:
            out[f.name] = plain(value)
    return out


def plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts, all the way down."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def everything(instance: Any) -> dict[str, Any]:
    """All fields of a dataclass instance as plain TOML values; None (not set) is left out."""
    pairs = ((f.name, getattr(instance, f.name)) for f in dataclasses.fields(instance))
    return {name: plain(value) for name, value in pairs if value is not None}


def parse_value(text: str) -> Any:
    """A value as it is typed on the command line: TOML, else the text itself.

    >>> parse_value("0.5"), parse_value("mse"), parse_value("[1, 2]"), parse_value("true")
    (0.5, 'mse', [1, 2], True)
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
