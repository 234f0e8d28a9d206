"""RULES: for each class of layer or operation how units pass through it, and how it is made anew when some are gone.

A rule takes a Call and returns the labels of the outputs, flat. To add one: a function with `@rule("ClassName")` in a file
of this folder (named in FILES), with `resize` where the operation's configuration holds a size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..call import Call, Shrunk
from ..units import Label

Propagate = Callable[[Call], Sequence[Label]]
Resize = Callable[[Shrunk], Any]  # gives what is called in the operation's place

FILES = ("basic", "convolution", "shaping")


@dataclass(frozen=True, slots=True)
class Rule:
    """How units pass through an operation, and how it is made anew; without `resize` a copy will do."""

    propagate: Propagate
    resize: Resize | None


RULES: dict[str, Rule] = {}


def rule(*names: str, resize: Resize | None = None) -> Callable[[Propagate], Propagate]:
    """Register a function as the rule of the operations of these class names."""

    def register(function: Propagate) -> Propagate:
        for name in names:
            assert name not in RULES, name
            RULES[name] = Rule(function, resize)
        return function

    return register


@cache
def rules() -> dict[str, Rule]:
    """The whole table."""
    for name in FILES:
        importlib.import_module(f"{__name__}.{name}")
    return RULES
