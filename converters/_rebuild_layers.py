"""Keras 2 layers as Keras 3 layers: the same class with the config it understands, and the few that need more.

`make(layer)` gives the Keras 3 layer, `explain(entry)` says why a layer of a config cannot be had (before anything of
the file is handed to a framework).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..frameworks import keras
from ._keras_config import CONTAINERS, Entry, suspicious_keras2
from ._rebuild_ops import find_op
from ._tfmot import is_wrapper

RENAMED = {
    "SyncBatchNormalization": "BatchNormalization",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
    "ThresholdedReLU": "ReLU",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Deconvolution2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
}
AUGMENTATION = frozenset(  # layers that do nothing but in training, and do not exist or draw other numbers in Keras 3
    f"Random{what}" for what in ("Flip", "Rotation", "Zoom", "Translation", "Contrast", "Brightness", "Height", "Width")
)
WORDS = frozenset({"StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "HashedCrossing", "Discretization"})
FUNCTIONS = frozenset({"TFOpLambda", "SlicingOpLambda"})
OTHER_PROGRAMS = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
WRAPPED = ("layer", "cell", "backward_layer")
FORGOTTEN = ("_initializer", "_regularizer", "_constraint")  # only matter to a layer that has no weights yet


def explain(entry: Entry, *, allow_unsafe: bool) -> str:
    """Why this object of a Keras 2 config cannot be rebuilt ("": it can)."""
    if is_wrapper(entry):
        return ""
    if odd := suspicious_keras2(entry):
        return odd
    name = entry.class_name
    if not entry.is_layer or name in CONTAINERS or name in AUGMENTATION or name == "InputLayer":
        return ""
    config = entry.config if isinstance(entry.config, dict) else {}
    if name in FUNCTIONS:
        function = str(config.get("function", ""))
        return "" if find_op(function) else f"calls tf.{function}, for which edgedl knows no Keras 3 counterpart"
    if name == "Lambda":
        return "" if allow_unsafe else "calls a Python function that is not in the file"
    if name in WORDS:
        return "turns words or keys into numbers, which belongs before the network; cut it off"
    if name == "TensorFlowOpLayer":
        return "is a TensorFlow 1 operation; save the model again with TensorFlow 2.4 to 2.15"
    if config.get("data_format") == "channels_first":
        return "has its channels first (NCHW); build the model with data_format='channels_last' and copy the weights"
    if name in OTHER_PROGRAMS or not hasattr(keras().layers, RENAMED.get(name, name)):
        return "is a class that Keras does not have"
    return ""


def make(layer: Any) -> Any:
    """The Keras 3 layer, not yet built, for a tf_keras layer that is not a model."""
    name = type(layer).__name__
    if name in AUGMENTATION:
        return keras().layers.Identity(name=clean(layer.name))
    if name == "Normalization":
        return _normalization(layer)
    if name == "Lambda":
        return keras().layers.Lambda(layer.function, arguments=layer.arguments, name=clean(layer.name), dtype="float32")
    return from_config(name, layer.get_config())


def from_config(class_name: str, config: dict[str, Any]) -> Any:
    """The Keras 3 layer for a Keras 2 class and config; wrapped layers and cells likewise."""
    cls = getattr(keras().layers, RENAMED.get(class_name, class_name))
    if class_name == "ThresholdedReLU":
        config = {"name": config["name"], "threshold": float(config["theta"])}
    accepted = _parameters(cls)
    values = {k: v for k, v in _renamed(class_name, config).items() if k in accepted and not k.endswith(FORGOTTEN)}
    values["dtype"] = "float32"
    values["name"] = clean(str(config.get("name") or class_name.lower()))
    for key, value in values.items():
        values[key] = _value(key, value)
    if "stateful" in values:
        values["stateful"] = False
    made = cls(**values)
    made.trainable = bool(config.get("trainable", True))
    return made


def _renamed(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    if class_name == "LeakyReLU" and "alpha" in config:
        return {**config, "negative_slope": config["alpha"]}
    return config


def _value(key: str, value: Any) -> Any:
    if key in WRAPPED and isinstance(value, dict):
        return from_config(value["class_name"], value["config"])
    if key == "cells" or (key == "cell" and isinstance(value, list)):
        return [from_config(v["class_name"], v["config"]) for v in value]
    if key in ("activation", "recurrent_activation"):
        return activation(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if key == "axis" and isinstance(value, (list, tuple)) and len(value) == 1:
        return int(value[0])
    return value


@cache
def _parameters(cls: Any) -> frozenset[str]:
    """What the constructor of a class and of its bases takes, as far as it passes keywords on."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return frozenset(names - {"self", "args", "kwargs", "activity_regularizer", "trainable"})


def _normalization(layer: Any) -> Any:
    """Keras 3 keeps given means and variances as constants, one value for each kept element."""
    config = layer.get_config()
    mean, variance = (np.asarray(v) for v in (layer.mean, layer.variance))
    axis = config["axis"]
    return keras().layers.Normalization(
        axis=tuple(axis) if isinstance(axis, (list, tuple)) else axis,
        mean=mean.reshape(-1) if axis is not None and mean.size > 1 else float(mean.reshape(-1)[0]),
        variance=variance.reshape(-1) if axis is not None and variance.size > 1 else float(variance.reshape(-1)[0]),
        invert=bool(config.get("invert", False)),
        name=clean(layer.name),
        dtype="float32",
    )


@cache
def hard_sigmoid() -> Callable[[Any], Any]:
    """Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1); that of Keras 3 has a slope of 1/6."""

    def hard_sigmoid_keras2(x: Any) -> Any:
        ops = keras().ops
        return ops.clip(ops.add(ops.multiply(x, 0.2), 0.5), 0.0, 1.0)

    keras().saving.register_keras_serializable(package="edgedl")(hard_sigmoid_keras2)
    return hard_sigmoid_keras2


def activation(value: Any) -> Any:
    """The Keras 3 activation for a serialized Keras 2 one. Raises ValueError for one of the user's own."""
    if isinstance(value, dict):
        name, config = value.get("class_name"), value.get("config")
        value = config if name == "function" and isinstance(config, str) else value
    if isinstance(value, dict):
        return from_config(value["class_name"], value["config"])
    if value == "hard_sigmoid":
        return hard_sigmoid()
    if value is None or hasattr(keras().activations, str(value)):
        return value
    raise ValueError(f"the activation '{value}' is not one of Keras")


def clean(name: str) -> str:
    """A name that Keras 3 takes: without slashes."""
    return name.replace("/", "_")
