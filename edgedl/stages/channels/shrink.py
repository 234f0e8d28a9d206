"""shrink(): a plain, smaller Keras network without the channels that are to go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ..rebuilding import copied, rebuild, weighted
from .call import Call, Shrunk
from .graph import ChannelGraph, axis_after
from .rules import rule_for
from .units import Label

Mask = NDArray[np.bool_]


def without(graph: ChannelGraph, channels: Iterable[int]) -> Mask:
    """The mask over units that removes these channels (units of groups)."""
    keep = graph.everything()
    keep[list(channels)] = False
    return keep


def shrink(graph: ChannelGraph, keep: Mask) -> Any:
    """The network of `graph` with smaller layers and the weights that are left; the given one is not changed.

    `keep`: bool over units, False for every channel that goes. Raises UsageError where it would remove a frozen channel or
    leave a layer with nothing.
    """
    _check(graph, keep)
    net = rebuild(graph.net, lambda op, path: _remade(graph, keep, op, path), lambda path: _entrance(graph, keep, path))
    twins = weighted(net)
    for path, layer in weighted(graph.net).items():
        twins[path].set_weights(smaller_weights(graph, keep, path, layer))
        twins[path].trainable = layer.trainable
    return net


def smaller_weights(graph: ChannelGraph, keep: Mask, path: str, layer: Any) -> list[Any]:
    """A layer's weights with only the entries that stay along each axis."""
    call = graph.calls.get(path)
    arrays: list[Any] = layer.get_weights()
    if call is None:
        return arrays
    for index, label in call.weights.items():
        for axis, ids in enumerate(label):
            if ids is not None:
                kept = graph.kept(keep, ids)
                arrays[index] = arrays[index] if kept.all() else np.compress(kept, arrays[index], axis=axis)
    found = rule_for(layer)
    if found is None or found.adjust is None or not _touched(graph, keep, call):
        return arrays
    return found.adjust(_shrunk(graph, keep, layer, path, call), arrays)


def _check(graph: ChannelGraph, keep: Mask) -> None:
    for group in graph.groups:
        left = int(keep[group.channels].sum())
        if group.frozen and left < len(group):
            raise UsageError(f"channels of {group.name} cannot be removed: {group.frozen}", next="leave this layer out")
        if not left:
            raise UsageError(f"all channels of {group.name} would be removed", next="keep at least one")


def _entrance(graph: ChannelGraph, keep: Mask, path: str) -> list[Any] | None:
    """Shapes of the inputs of a model inside, or None where they stay as they are."""
    entrance = graph.models.get(path)
    if entrance is None:
        return None
    return [_shape(graph, keep, label, s) for label, s in zip(entrance.labels, entrance.shapes, strict=True)]


def _remade(graph: ChannelGraph, keep: Mask, op: Any, path: str) -> Any:
    """The operation as it must be for what is left around it."""
    call = graph.calls.get(path)
    found = rule_for(op)
    if call is None or found is None or found.resize is None or not _touched(graph, keep, call):
        return copied(op)
    return found.resize(_shrunk(graph, keep, op, path, call))


def _shrunk(graph: ChannelGraph, keep: Mask, op: Any, path: str, call: Call) -> Shrunk:
    weights = {
        i: _shape(graph, keep, call.weights.get(i, (None,) * len(w.shape)), w.shape)
        for i, w in enumerate(getattr(op, "weights", ()))
    }
    inputs = [_shape(graph, keep, t.label, t.shape) for t in call.inputs]
    outputs = [_shape(graph, keep, label, shape) for label, shape in zip(call.outputs, call.shapes, strict=True)]
    return Shrunk(op, path, inputs, outputs, weights, call, lambda ids: graph.kept(keep, ids))


def _touched(graph: ChannelGraph, keep: Mask, call: Call) -> bool:
    labels = [*call.weights.values(), *(t.label for t in call.inputs), *call.outputs]
    return any(ids is not None and not graph.kept(keep, ids).all() for label in labels for ids in label)


def _shape(graph: ChannelGraph, keep: Mask, label: Label, shape: Any) -> Any:
    return tuple(axis_after(graph, keep, ids, size) for ids, size in zip(label, shape, strict=True))
