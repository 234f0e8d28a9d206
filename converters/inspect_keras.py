"""What is in a Keras model: its layers with parameters, multiply-accumulates and activation memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact import Array
from ..errors import UsageError
from ..macs import inside, layers_of
from ..model import load, require_keras
from ..protocols import Layer, LayerError


@dataclass(frozen=True, slots=True)
class KerasInspector:
    """Reads any Keras file that edgedl loads. Layers of models in the model are called "outer/inner"."""

    allow_unsafe: bool = False  # load files that carry Python code

    def layers(self, path: Path) -> tuple[Layer, ...]:
        """One row a layer or operation, in the order of the graph, for a batch of 1. Raises ModelError."""
        return layers_of(self._net(path))

    def custom_ops(self, path: Path) -> tuple[str, ...]:
        """Classes that are not Keras's own, and Lambda, whose code only Python runs."""
        found = {type(op).__name__ for op in _operations(self._net(path)) if _is_custom(op)}
        return tuple(sorted(found))

    def compare(self, float_path: Path, path: Path, inputs: Mapping[str, Array]) -> tuple[LayerError, ...]:
        """Raises UsageError: a Keras file is not quantized."""
        raise UsageError(
            f"{path.name} cannot be compared with {float_path.name} layer by layer: a Keras file is not quantized",
            next="convert it to .tflite or .onnx and compare these",
        )

    def _net(self, path: Path) -> Any:
        return require_keras(load(path, allow_unsafe=self.allow_unsafe), "inspecting layers as Keras sees them")


def _operations(net: Any) -> list[Any]:
    pairs = [(op, inside(op)) for op in net.operations]
    return [o for op, model in pairs for o in (_operations(model) if model else [op])]


def _is_custom(op: Any) -> bool:
    return type(op).__name__ == "Lambda" or not type(op).__module__.startswith("keras.")
