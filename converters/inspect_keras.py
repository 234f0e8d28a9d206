"""What is in a Keras model: its layers with parameters, multiply-accumulates and activation memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import UsageError
from ..model import load, require_keras
from ..protocols import Layer, LayerError
from ._frameworks import keras
from ._keras_macs import Shape, count, volume


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


def _inside(op: Any) -> Any:
    """The graph of a model that is used as a layer, or None."""
    if isinstance(op, keras().Sequential):
        return keras().Model(op.inputs, op.outputs)
    return op if hasattr(op, "operations") else None


def _operations(net: Any) -> list[Any]:
    pairs = [(op, _inside(op)) for op in net.operations]
    return [o for op, model in pairs for o in (_operations(model) if model else [op])]


def _is_custom(op: Any) -> bool:
    return type(op).__name__ == "Lambda" or not type(op).__module__.startswith("keras.")


def layers_of(net: Any) -> tuple[Layer, ...]:
    """The rows of a Keras 3 functional model; a layer called twice is one row with the work of both calls."""
    tensor = keras().KerasTensor
    rows: dict[str, Layer] = {}
    _trace(net, [tensor((1, *t.shape[1:]), t.dtype, name=t.name) for t in net.inputs], "", rows)
    return tuple(rows.values())


def _trace(net: Any, inputs: Any, prefix: str, rows: dict[str, Layer]) -> Any:
    """Shapes through the graph, as Functional.compute_output_spec infers them, noting every operation on the way."""

    def operation(op: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if model := _inside(op):
                return _trace(model, args[0], f"{prefix}{op.name}/", rows)
            result = op.compute_output_spec(*args, **kwargs)
            _note(op, f"{prefix}{op.name}", (args, kwargs), result, rows)
            return result

        return call

    return net._run_through_graph(inputs, operation_fn=operation)


def _note(op: Any, name: str, arguments: Any, result: Any, rows: dict[str, Layer]) -> None:
    given, outputs = _tensors(arguments), _tensors(result)
    macs = count(op, [_shape(t) for t in given], [_shape(t) for t in outputs])
    if name in rows:
        rows[name] = replace(rows[name], macs=rows[name].macs + macs)
        return
    weights = getattr(op, "weights", [])
    rows[name] = Layer(
        name=name,
        op=type(op).__name__,
        output=_shape(outputs[0]) if outputs else (),
        dtype=str(outputs[0].dtype) if outputs else "",
        parameters=sum(volume(tuple(w.shape)) for w in weights),
        bytes=sum(volume(tuple(w.shape)) * _itemsize(w.dtype) for w in weights),
        macs=macs,
        activation_bytes=sum(volume(_shape(t)) * _itemsize(t.dtype) for t in outputs),
    )


def _tensors(structure: Any) -> list[Any]:
    return [t for t in keras().tree.flatten(structure) if isinstance(t, keras().KerasTensor)]


def _shape(tensor: Any) -> Shape:
    return tuple(tensor.shape)


def _itemsize(dtype: str) -> int:
    return {"bfloat16": 2}.get(str(dtype)) or np.dtype(str(dtype)).itemsize
