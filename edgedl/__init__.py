"""edgedl: compress a trained model for a device, prove it, measure it, run it."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "Artifact": "artifact",
    "Dataset": "data",
    "EdgedlError": "errors",
    "LoadOptions": "model",
    "Model": "model",
    "QuantizationPlan": "model",
    "Recipe": "recipe",
    "load": "model",
    "compress": "pipeline",
    "import_model": "importing",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'edgedl' has no attribute '{name}'")
