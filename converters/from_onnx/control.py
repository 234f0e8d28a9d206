"""Control flow that is decided before the model runs: If with a constant condition, Loop and Scan of a fixed length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .value import Value

CONTROL: dict[str, Callable[..., Sequence[Value]]] = {}
