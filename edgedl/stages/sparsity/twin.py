"""A Keras 3 network replayed layer by layer in tf_keras (Keras 2), for tools that accept nothing newer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...errors import ModelError
from ...frameworks import deep, tf_keras
from ..rebuilding import inside, weighted

LAYERS = frozenset(
    {
        *("Activation", "Add", "Average", "BatchNormalization", "Concatenate", "Dense", "Dropout", "ELU", "Embedding"),
        *("Flatten", "GRU", "LSTM", "LayerNormalization", "LeakyReLU", "Maximum", "Minimum", "Multiply", "Permute"),
        *("ReLU", "RepeatVector", "Rescaling", "Reshape", "SeparableConv2D", "SimpleRNN", "Softmax", "Subtract"),
        *(
            f"{kind}{n}D"
            for kind in ("Conv", "AveragePooling", "MaxPooling", "UpSampling", "ZeroPadding")
            for n in (1, 2)
        ),
        *(f"Global{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2)),
        *("Conv2DTranspose", "DepthwiseConv2D", "Cropping2D", "SpatialDropout1D", "SpatialDropout2D"),
    }
)
FORGOTTEN = ("_initializer", "_regularizer", "_constraint")  # matter only to a layer that has no weights yet
RENAMED = {"negative_slope": {"LeakyReLU": "alpha"}}  # an option of Keras 3 -> layer -> what Keras 2 calls it


def twin(net: Any) -> Any:
    """A tf_keras model with the graph, weights and layer names of a flat Keras 3 functional model.

    Raises ModelError that names every layer which Keras 2 has no counterpart for.
    """
    graph = inside(net) or net
    problems = [f"'{op.name}' ({type(op).__name__})" for op in graph.operations if not _is_known(op)]
    if problems:
        raise ModelError(
            f"tensorflow-model-optimization cannot take this model: it has no counterpart of {', '.join(problems)}",
            next='leave engine out: engine = "edgedl" takes every layer',
        )
    k = tf_keras()
    made: dict[int, Any] = {}

    def operation(op: Any) -> Callable[..., Any]:
        if id(op) not in made:
            made[id(op)] = _layer(op)
        layer = made[id(op)]
        return lambda *args, **kwargs: layer(*args, **{n: v for n, v in kwargs.items() if v is not None})

    with deep():
        inputs = [k.Input(tuple(t.shape)[1:], dtype=str(t.dtype), name=t.name) for t in graph.inputs]
        outputs = graph._run_through_graph(inputs, operation_fn=operation)
        copy = k.Model(inputs, outputs, name=net.name)
    for op in graph.operations:
        if getattr(op, "weights", None):
            made[id(op)].set_weights(op.get_weights())
    return copy


def _is_known(op: Any) -> bool:
    return type(op).__name__ in LAYERS | {"InputLayer"} and type(op).__module__.startswith("keras.")


def _layer(op: Any) -> Any:
    """The tf_keras layer of the same class, with what its constructor takes of the configuration."""
    kind = type(op).__name__
    cls = getattr(tf_keras().layers, kind)
    accepted: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            accepted |= set(inspect.signature(base.__init__).parameters)
    config = {RENAMED.get(n, {}).get(kind, n): v for n, v in op.get_config().items()}
    unused = {n for n in config if n not in accepted or n.endswith(FORGOTTEN) or n in ("dtype", "batch_shape")}
    layer = cls(**{n: v for n, v in config.items() if n not in unused - {"name", "trainable"}})
    layer.trainable = op.trainable
    return layer


def bring_back(source: Any, net: Any) -> None:
    """Weights of a tf_keras model into the Keras 3 network that it was made of, by layer name."""
    for path, layer in weighted(net).items():
        layer.set_weights(source.get_layer(path).get_weights())
