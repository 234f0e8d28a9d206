"""Variables that a callback needs between steps, in a Keras layer, so that checkpoints of the training keep them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras


def new_state() -> Any:
    """A Keras layer that computes nothing. `hold(state, name, value)` puts a variable in it."""
    layer = keras().layers.Layer(name="sparsity_state", trainable=False)
    layer.built = True
    return layer


def hold(state: Any, name: str, value: Array) -> Any:
    """A new variable of the state, not trained."""
    array = np.asarray(value)
    variable = state.add_weight(
        shape=array.shape, dtype=str(array.dtype), initializer="zeros", trainable=False, name=name.replace("/", "_")
    )
    variable.assign(array)
    return variable
