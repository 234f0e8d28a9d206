"""Models wrapped by tensorflow-model-optimization: its pruning and clustering wrappers taken off, its QAT refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..frameworks import model_optimization, tf_keras
from ._keras_config import Entry, entries

ROOT = "tensorflow_model_optimization.python.core"
PRUNING, CLUSTERING = f"{ROOT}.sparsity.keras.pruning_wrapper", f"{ROOT}.clustering.keras.cluster_wrapper"
WRAPPERS: dict[str, str] = {  # class -> its module
    "PruneLowMagnitude": PRUNING,
    "ClusterWeights": CLUSTERING,
    "ClusterWeightsRNN": CLUSTERING,
    "ClusterWeightsMHA": CLUSTERING,
}
QUANTIZED = frozenset({"QuantizeWrapper", "QuantizeWrapperV2", "QuantizeLayer", "QuantizeAnnotate"})
NOTE = "the wrappers of tensorflow-model-optimization were taken off ({}); zeros and clusters are in the weights"


def is_wrapper(entry: Entry) -> bool:
    """Whether an object of a config is a wrapper that can be taken off, under its own module's name or none."""
    return entry.is_layer and entry.class_name in WRAPPERS and entry.module in ("", WRAPPERS[entry.class_name])


def wrappers(config: Any) -> list[Entry]:
    """The wrappers of a config, outer before inner. Raises RecursionError for absurd nesting."""
    return [e for e in entries(config) if is_wrapper(e)]


def refuse_quantized(path: Path, config: Any) -> None:
    """Raise ModelError where a config has the wrappers of quantization-aware training."""
    found = [e for e in entries(config) if e.is_layer and e.class_name in QUANTIZED]
    if found:
        raise ModelError(
            f"cannot load {path}: it is wrapped for quantization-aware training by tensorflow-model-optimization "
            f"({len(found)} layers, '{found[0].name}' first), whose ranges a float model has no place for",
            next="pass the model it was before quantize_model or quantize_annotate_model, and quantize that with edgedl; "
            "or convert it with tf.lite.TFLiteConverter and pass the .tflite",
        )


def plain(config: Any, load: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What `load` reads with tf_keras, its wrappers taken off, masks and clusters put into the weights; and notes.

    Raises MissingDependencyError where tensorflow-model-optimization is needed for that and not installed.
    """
    found = sorted({e.class_name for e in wrappers(config)})
    if not found:
        return load(), []
    tfmot = _library(found)
    classes = {name: getattr(importlib.import_module(module), name) for name, module in WRAPPERS.items()}
    with tf_keras().utils.custom_object_scope(classes):
        net = load()
        pruned, clustered = classes["PruneLowMagnitude"], classes["ClusterWeights"]
        for layer in _layers(net):
            if isinstance(layer, pruned):
                for weight, mask, _ in layer.pruning_vars:
                    weight.assign(weight * mask)
        if any(isinstance(layer, pruned) for layer in _layers(net)):
            net = tfmot.sparsity.keras.strip_pruning(net)
        if any(isinstance(layer, clustered) for layer in _layers(net)):
            net = tfmot.clustering.keras.strip_clustering(net)
    return net, [NOTE.format(", ".join(found))]


def _layers(net: Any) -> Iterator[Any]:
    """The layers of a tf_keras model and of models inside it."""
    for layer in net.layers:
        yield from _layers(layer) if isinstance(layer, tf_keras().Model) else [layer]


def _library(found: list[str]) -> Any:
    names = ", ".join(found)
    return model_optimization(
        f"this model is wrapped ({names}) and needs", "save the model again after strip_pruning or strip_clustering"
    )
