"""The student: the model itself, one that the user gives, or the model with fewer channels and fewer residual blocks."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import user_code
from ...errors import ModelError, UsageError
from ...frameworks import keras
from ...model import Model, load, require_keras
from ..channels.graph import ChannelGraph, Group, channel_graph
from ..channels.shrink import shrink
from ..rebuilding import clone, inside, leaves, rebuild, weighted
from .teachers import arranged, trusted


def read(source: str, model: Model) -> Any:
    """The network that the user names: a model file, or what `module:function` or `file.py:function` returns, with the
    model's inputs and outputs in the model's order.

    Raises UsageError: no such thing, other inputs or outputs. Raises ModelError: it cannot be read or is no Keras model.
    """
    name, net, ins, outs = _found(source)
    return arranged(f"the student {name}", net, (ins, outs), model)


def _found(source: str) -> tuple[str, Any, Sequence[str], Sequence[str]]:
    """A name for messages, the network, and the names of its inputs and outputs."""
    module, colon, _ = source.rpartition(":")
    if colon and not Path(source).exists():
        net = user_code.call(source, "a keras.Model")
        if not isinstance(net, keras().Model) or inside(net) is None:
            raise ModelError(
                f"'{source}' returned {type(net).__name__}, which is no functional or sequential Keras model",
                next="return keras.Model(inputs, outputs)",
            )
        net = clone(net)
        return f"of {Path(module).name}", net, [t.name for t in net.inputs], list(net.output_names)
    if not Path(source).exists():
        raise UsageError(
            f"there is no student at {source}", next="check the path, or name a function as in net.py:build"
        )
    found = load(source, trusted())
    net = clone(require_keras(found, "a student"))
    return Path(source).name, net, [s.name for s in found.inputs], [s.name for s in found.outputs]


def thinner(net: Any, width: float) -> Any:
    """The network with ceil(width * n) of every n channels that go together, those of the largest L2 norm.

    Raises UsageError where no channel can go.
    """
    graph = channel_graph(net)
    if not graph.prunable:
        raise UsageError(
            f"width = {width:g} cannot be: no channels of {net.name} can be removed",
            next='give a student of your own: student = "net.py:build"',
        )
    keep = graph.everything()
    for group in graph.prunable:
        order = np.argsort(-_norms(graph, group), kind="stable")
        keep[group.channels[order[math.ceil(width * len(group)) :]]] = False
    return shrink(graph, keep)


def _norms(graph: ChannelGraph, group: Group) -> Any:
    """The sum of squares of all weights that belong to each channel, `[channels]` float64."""
    layers = weighted(graph.net)
    found = np.zeros(len(graph.units.parent))
    for site in group.sites:
        array = np.asarray(layers[site.path].weights[site.index], np.float64)
        others = tuple(a for a in range(array.ndim) if a != site.axis)
        np.add.at(found, graph.units.roots(site.ids), (array**2).sum(others))
    return found[group.channels]


def shallower(net: Any, depth: float) -> Any:
    """The network with ceil(depth * n) of its n residual blocks that keep their input's shape, but at least one fewer;
    those that go are evenly spread. A block is a sum of a tensor with what is computed from it alone.

    Raises UsageError where there is no such block.
    """
    blocks = [(path, at) for path, op in leaves(net) for at in _passing(op)]
    if not blocks:
        raise UsageError(
            f"depth = {depth:g} cannot be: {net.name} has no residual block that could be left out",
            next='give a student of your own: student = "net.py:build"',
        )
    count = max(1, len(blocks) - math.ceil(depth * len(blocks)))
    gone = dict(blocks[i] for i in _evenly(len(blocks), count))

    def make(op: Any, path: str) -> Any:
        if path in gone:
            return lambda *given: keras().tree.flatten(given)[gone[path]]
        return type(op).from_config(op.get_config())

    smaller = rebuild(net, make)
    known = weighted(net)
    for path, layer in weighted(smaller).items():
        layer.set_weights(known[path].get_weights())
        layer.trainable = known[path].trainable
    return smaller


def _evenly(total: int, count: int) -> list[int]:
    """`count` of the indices below `total`, evenly spread, the last among them.

    >>> _evenly(6, 2), _evenly(5, 0), _evenly(3, 3)
    ([2, 5], [], [0, 1, 2])
    """
    return [math.ceil((i + 1) * total / count) - 1 for i in range(count)]


def _passing(op: Any) -> Iterator[int]:
    """The index of the input that passes by, where an operation adds a tensor to what is computed from it alone."""
    if type(op).__name__ != "Add" or len(op._inbound_nodes) != 1:
        return
    given = op._inbound_nodes[0].input_tensors
    if len(given) == 2 and tuple(given[0].shape) == tuple(given[1].shape):
        yield from [at for at, other in ((0, 1), (1, 0)) if _reaches(given[other], given[at])][:1]


def _reaches(tensor: Any, start: Any) -> bool:
    """Whether `tensor` is computed from `start` alone, by operations none of which adds two tensors."""
    waiting, seen = [tensor], set()
    while waiting:
        t = waiting.pop()
        if t is start or id(t) in seen:
            continue
        seen.add(id(t))
        op = t._keras_history.operation
        nodes = op._inbound_nodes
        if len(nodes) != 1 or not nodes[0].input_tensors or type(op).__name__ == "Add":
            return False
        waiting += nodes[0].input_tensors
    return tensor is not start


def fresh(net: Any, seed: int) -> Any:
    """The same network with new random weights; initializers draw theirs from Python's random numbers, seeded meanwhile."""
    before = random.getstate()
    random.seed(seed)
    try:
        return rebuild(net)
    finally:
        random.setstate(before)
