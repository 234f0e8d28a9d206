"""RULES: for each class of layer or operation how units pass through it, and how it is made anew when some are gone.

A rule takes a Call and returns the labels of the outputs, flat. To add one: a function with `@rule("ClassName")` in a file
of this folder (named in FILES), with `resize` where the operation's configuration or arguments hold a size, and `adjust`
where a size is a factor in what it computes.
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
Adjust = Callable[
    [Shrunk, list[Any]], list[Any]
]  # changes the weights that are left: arrays in the order of op.weights

FILES = ("basic", "convolution", "shaping", "indexing", "reduction", "normalization", "contraction", "constant",
         "recurrent", "attention")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """How units pass through an operation, and how it is made anew; without `resize` a copy will do."""

    propagate: Propagate
    resize: Resize | None
    adjust: Adjust | None


RULES: dict[str, Rule] = {}


def rule(*names: str, resize: Resize | None = None, adjust: Adjust | None = None) -> Callable[[Propagate], Propagate]:
    """Register a function as the rule of the operations of these class names."""

    def register(function: Propagate) -> Propagate:
        for name in names:
            assert name not in RULES, name
            RULES[name] = Rule(function, resize, adjust)
        return function

    return register


@cache
def rules() -> dict[str, Rule]:
    """The whole table."""
    for name in FILES:
        importlib.import_module(f"{__name__}.{name}")
    return RULES


def rule_for(op: Any) -> Rule | None:
    """The rule of an operation by the name of its class; of Keras's own classes and edgedl's, not of others with the name."""
    if type(op).__module__.partition(".")[0] not in ("keras", "edgedl"):
        return None
    return rules().get(type(op).__name__)
