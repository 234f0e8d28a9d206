"""A frozen dataclass from a table of plain values: its fields are the only declaration of its options."""

from __future__ import annotations

import dataclasses
import math
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
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where) if isinstance(value, Mapping) else _instance(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(arguments, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        near = did_you_mean(str(value), [str(a) for a in arguments])
        raise RecipeError(f"{where} cannot be {value!r}{near}", next=f"choose one of {', '.join(map(str, arguments))}")
    if origin is tuple and (isinstance(value, list | tuple) or _is_single(arguments, value)):
        return _coerce_tuple(arguments, value if isinstance(value, list | tuple) else (value,), kind, where)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): coerce(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, where)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise _wrong(kind, value, where)


def _instance(kind: type[Any], value: Any, where: str) -> Any:
    """A value that is an instance of the dataclass already, as Python callers give it."""
    if isinstance(value, kind):
        return value
    raise _wrong(kind, value, where)


def _finite(value: float, where: str) -> float:
    """NaN and infinity are valid TOML, and no option can mean them."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isfinite(number):
        return number
    raise RecipeError(f"{where} is {value}, but must be a finite number", next="correct the value")


def _is_single(kinds: tuple[Any, ...], value: Any) -> bool:
    """Whether one value may stand for a list of any length: 0.5 for [0.5]."""
    return kinds[-1] is ... and isinstance(value, str | int | float)


def _coerce_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """`value` as the first kind it fits; text that may be text stays text, rather than a list of one."""
    if value is None and type(None) in kinds:
        return None
    options = sorted((k for k in kinds if k is not type(None)), key=lambda k: k is not type(value))
    if len(options) == 1:
        return coerce(options[0], value, where)
    for kind in options:
        try:
            return coerce(kind, value, where)
        except RecipeError:
            continue
    raise _wrong(typing.Union[kinds], value, where)  # noqa: UP007 - built from a tuple


def _coerce_tuple(kinds: tuple[Any, ...], values: Any, kind: Any, where: str) -> tuple[Any, ...]:
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(values)
    if len(kinds) != len(values):
        raise RecipeError(f"{where} has {len(values)} values, but must be {_describe(kind)}", next="correct the value")
    return tuple(coerce(k, v, where) for k, v in zip(kinds, values, strict=True))


def _wrong(kind: Any, value: Any, where: str) -> RecipeError:
    return RecipeError(f"{where} is {value!r}, but must be {_describe(kind)}", next="correct the value")


_ONE = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
_MANY = {float: "numbers", int: "whole numbers", str: "texts", bool: "true or false"}


def _describe(kind: Any) -> str:
    """A type in words.

    >>> _describe(tuple[float, ...]), _describe(tuple[int, int] | None), _describe(tuple[str, ...] | str)
    ('a list of numbers', 'a list of 2 whole numbers', 'a list of texts or text')
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(k) for k in arguments if k is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        count = "" if arguments[-1] is ... else f"{len(arguments)} "
        return f"a list of {count}{_MANY.get(arguments[0], 'values')}"
    if dataclasses.is_dataclass(kind) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a table"
    return _ONE.get(kind, "another value")


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
    """Tuples as lists, mappings and dataclasses as dicts, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return changed(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def everything(instance: Any) -> dict[str, Any]:
    """All fields of a dataclass instance as plain TOML values; None (not set) is left out."""
    pairs = ((f.name, getattr(instance, f.name)) for f in dataclasses.fields(instance))
    return {
        name: everything(value) if dataclasses.is_dataclass(value) else plain(value)
        for name, value in pairs
        if value is not None
    }


def parse_value(text: str) -> Any:
    """A value as it is typed on the command line: TOML, else the text itself.

    >>> parse_value("0.5"), parse_value("mse"), parse_value("[1, 2]"), parse_value("true")
    (0.5, 'mse', [1, 2], True)
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
