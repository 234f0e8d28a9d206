"""Names to objects: `find("target", "cpu")`; listing the names imports no framework."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, Literal

from .errors import UsageError

Kind = Literal["stage", "converter", "importer", "source", "inspector", "target"]

REGISTRIES: dict[Kind, str] = {
    "stage": "edgedl.stages:STAGES",
    "converter": "edgedl.converters:CONVERTERS",
    "importer": "edgedl.converters:IMPORTERS",
    "source": "edgedl.converters:SOURCES",
    "inspector": "edgedl.converters:INSPECTORS",
    "target": "edgedl.targets:TARGETS",
}


def resolve(path: str) -> Any:
    """The object that `"module:attribute"` names. Raises ImportError or AttributeError."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def entries(kind: Kind) -> dict[str, str]:
    """The registry of a kind: name -> "module:attribute"."""
    table: dict[str, str] = resolve(REGISTRIES[kind])
    return table


def names(kind: Kind) -> tuple[str, ...]:
    """The known names of a kind, sorted."""
    return tuple(sorted(entries(kind)))


def find(kind: Kind, name: str) -> Any:
    """The object registered as `name`.

    Raises UsageError, with the nearest known name, for a name nobody registered.
    """
    table = entries(kind)
    if name not in table:
        raise UsageError(
            f"there is no {kind} '{name}'{did_you_mean(name, table)}", next=f"choose one of {', '.join(sorted(table))}"
        )
    return resolve(table[name])


def did_you_mean(name: str, known: Any) -> str:
    """A suggestion to append to an error, or nothing.

    >>> did_you_mean("quantise", ["quantize", "prune"])
    ": did you mean 'quantize'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean '{near[0]}'?" if near else ""
