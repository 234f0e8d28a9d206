"""BatchNormalization folded into the convolution or dense layer before it, as every converter does when it writes a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...frameworks import keras
from ..rebuilding import copied, inside, rebuild, weighted

SCALED: dict[str, str] = {  # layer -> the kernel whose outputs are scaled
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"), "kernel"),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), "kernel"),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), "pointwise_kernel"),
}


def fold(net: Any) -> tuple[Any, int]:
    """A copy in which each BatchNormalization that follows a linear layer alone is part of it, and how many were.

    Outputs are the same up to float32 rounding. Layers keep their names; the normalizations are gone.
    """
    pairs = dict(_pairs(net, ""))
    if not pairs:
        return net, 0
    gone = set(pairs.values())

    def make(op: Any, path: str) -> Callable[..., Any]:
        if path in gone:
            return lambda x, **_: x
        if path in pairs:
            return type(op).from_config({**op.get_config(), "use_bias": True})  # type: ignore[no-any-return]
        return copied(op)  # type: ignore[no-any-return]

    copy = rebuild(net, make)
    before, after = weighted(net), weighted(copy)
    for path, layer in after.items():
        if path in pairs:
            _fill(layer, before[path], before[pairs[path]])
        else:
            layer.set_weights(before[path].get_weights())
        layer.trainable = before[path].trainable
    return copy, len(pairs)


def _pairs(net: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(path of a layer, path of the BatchNormalization after it)."""
    graph = inside(net) or net
    for op in graph.operations:
        if inside(op) is not None:
            yield from _pairs(op, f"{prefix}{op.name}/")
    nodes = [node for level in graph._nodes_by_depth.values() for node in level]
    calls = Counter(id(node.operation) for node in nodes)
    readers = Counter(id(t) for node in nodes for t in node.input_tensors)
    ends = {id(t) for t in graph.outputs}
    for node in nodes:
        norm = node.operation
        if not isinstance(norm, keras().layers.BatchNormalization) or calls[id(norm)] != 1:
            continue
        (source,) = node.input_tensors
        layer = source._keras_history.operation
        alone = calls[id(layer)] == 1 and readers[id(source)] == 1 and id(source) not in ends
        if alone and _is_linear(layer) and _last(norm, source) and not {id(t) for t in node.outputs} & ends:
            yield f"{prefix}{layer.name}", f"{prefix}{norm.name}"


def _is_linear(layer: Any) -> bool:
    return type(layer).__name__ in SCALED and layer.activation is keras().activations.linear


def _last(norm: Any, tensor: Any) -> bool:
    axis = norm.axis[0] if isinstance(norm.axis, list | tuple) else norm.axis
    return axis in (-1, len(tensor.shape) - 1)


def _fill(layer: Any, before: Any, norm: Any) -> None:
    """Kernel and bias of the two together."""
    mean, variance = (np.asarray(v) for v in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma)
    bias = np.asarray(before.bias) if before.use_bias else 0.0
    shift = (bias - mean) * scale + (np.asarray(norm.beta) if norm.center else 0.0)
    for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
        if hasattr(before, name):
            value = np.asarray(getattr(before, name))
            getattr(layer, name).assign(
                _scaled(value, scale, before) if name == SCALED[type(before).__name__] else value
            )
    layer.bias.assign(shift)


def _scaled(kernel: Any, scale: Any, layer: Any) -> Any:
    kind = type(layer).__name__
    if kind.endswith("Transpose"):
        return kernel * scale[:, None]
    if kind.startswith("Depthwise"):
        return kernel * scale.reshape(kernel.shape[-2:])
    return kernel * scale
