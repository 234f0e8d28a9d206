"""The table of ONNX operators: each is one small function `(builder, node, *inputs) -> Value | tuple of Values`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OPS: dict[str, Callable[..., Any]] = {}


def op(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function into the table under the names of the operators that it builds."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name in OPS:
                raise ValueError(f"two functions build {name}")
            OPS[name] = function
        return function

    return enter


def table() -> dict[str, Callable[..., Any]]:
    """All operators."""
    from . import (  # noqa: F401
        attention,
        conv,
        indexing,
        joined,
        linear,
        logic,
        math,
        microsoft,
        normalization,
        pooling,
        quantization,
        reduction,
        refused,
        resize,
        rnn,
        sequence,
        shaping,
        signal,
    )

    return OPS
