"""Which kernels are left as they are where nothing is said, and why."""

from __future__ import annotations

from typing import Any

from .kernels import kernels

TINY = 0.02  # of all weights in kernels: smaller ones have little to save


def alone(net: Any) -> dict[str, str]:
    """Kernel name -> why pruning leaves it alone where `include` does not name it."""
    every = kernels(net)
    total = sum(k.size for k in every)
    found = {}
    for kernel in every:
        if kernel.role == "embedding":
            found[kernel.name] = "an embedding"
        elif kernel.role == "depthwise":
            found[kernel.name] = "depthwise"
        elif kernel.size < TINY * total:
            found[kernel.name] = f"holds less than {TINY:.0%} of the weights"
    return found
