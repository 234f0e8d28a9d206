"""Keras layers that a rebuilt model may hold and that Keras itself has not; registered, so that .keras files find them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..frameworks import keras


@cache
def constant_layer() -> Any:
    """The class of a layer that returns its weight, whatever its input; with `batch_axis`, once for each member of the batch."""
    k = keras()

    @k.saving.register_keras_serializable(package="edgedl", name="Constant")
    class Constant(k.layers.Layer):  # type: ignore[misc, name-defined]
        """`value` (any shape and dtype) as a tensor. It is not trained: an ONNX file does not say which of its constants
        were parameters, and anchors or masks must stay what they are."""

        def __init__(
            self,
            value: Any = None,
            shape: Any = None,
            value_dtype: str = "",
            batch_axis: int | None = None,
            **options: Any,
        ) -> None:
            array = None if value is None else np.asarray(value)
            self.value_shape = tuple(shape if array is None else array.shape)
            self.value_dtype = value_dtype if array is None else array.dtype.name
            super().__init__(dtype=self.value_dtype if self.value_dtype.startswith("float") else None, **options)
            self.batch_axis = batch_axis
            self.constant = self.add_weight(
                shape=self.value_shape,
                dtype=self.value_dtype,
                initializer="zeros",
                trainable=False,
                name="value",
                autocast=False,
            )
            self.built = True
            if array is not None:
                self.constant.assign(array)

        def build(self, input_shape: Any) -> None:
            """Nothing depends on the input's shape."""

        def call(self, reference: Any) -> Any:
            """The weight; `reference` `[n, ...]` only tells the batch size."""
            value = k.ops.convert_to_tensor(self.constant)
            if self.batch_axis is None:
                return value
            target = list(self.value_shape)
            target[self.batch_axis] = k.ops.shape(reference)[0]
            return k.ops.broadcast_to(value, target)

        def compute_output_spec(self, reference: Any) -> Any:
            shape = list(self.value_shape)
            if self.batch_axis is not None:
                shape[self.batch_axis] = reference.shape[0]
            return k.KerasTensor(tuple(shape), dtype=self.value_dtype)

        def get_config(self) -> dict[str, Any]:
            own = {"shape": list(self.value_shape), "value_dtype": self.value_dtype, "batch_axis": self.batch_axis}
            kept: dict[str, Any] = {**super().get_config(), **own}
            kept.pop("dtype", None)
            return kept

    return Constant


def register() -> None:
    """Let Keras find these layers in files."""
    constant_layer()
