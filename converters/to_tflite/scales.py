"""Scales and shifts of channels (a BatchNormalization, a bias) put into the weights before them, also across a RESHAPE.

TensorFlow's converter does so where they follow at once; Conv1D and whatever else computes in another rank has a RESHAPE
between, and would keep a MUL and an ADD at run time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...artifact import Array
from .. import _tflite as fb
from .graph import new_tensor

CHANNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # the axis of the weights that they are on
KEEPS = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})  # the last axis, where it is as long as before
FOLDED = frozenset({"MUL", "ADD", "SUB"})
FUSED = frozenset({"NONE", "RELU", "RELU_N1_TO_1", "RELU6"})


def fold_scales(model: Any) -> int:
    """Fold them in a float graph; returns how many operators that saved."""
    return sum(_fold(model, graph) for graph in model.subgraphs)


def _fold(model: Any, graph: Any) -> int:
    readers: dict[int, list[Any]] = {}
    for op in graph.operators:
        for i in op.inputs:
            readers.setdefault(i, []).append(op)
    gone: set[int] = set()
    for op in graph.operators:
        if fb.op_name(model, op) in CHANNELS and not _activation(op):
            while (last := _scaled(model, graph, op, readers)) is not None:
                gone.add(id(last))
                if _activation(op):
                    break
    graph.operators = [op for op in graph.operators if id(op) not in gone]
    return len(gone)


def _activation(op: Any) -> int:
    return int(op.builtinOptions.fusedActivationFunction)


def _scaled(model: Any, graph: Any, op: Any, readers: dict[int, list[Any]]) -> Any:
    """Put the scale or shift that alone reads what `op` makes into its weights; returns the operator, or None."""
    channels = graph.tensors[op.outputs[0]].shape[-1]
    before, following = op, _only_reader(graph, op, readers)
    while following is not None and fb.op_name(model, following) in KEEPS:
        before, following = following, _only_reader(graph, following, readers)
        if list(graph.tensors[before.outputs[0]].shape)[-1:] != [channels]:
            return None
    if following is None or fb.op_name(model, following) not in FOLDED or not _may_fuse(following):
        return None
    vector = _vector(model, graph, following, before.outputs[0], channels)
    if vector is None or not _take(model, graph, op, fb.op_name(model, following), vector):
        return None
    op.builtinOptions.fusedActivationFunction = _activation(following)
    made = graph.tensors[following.outputs[0]]
    if before is not op:
        tensor = graph.tensors[op.outputs[0]]
        tensor.name = b";".join(n for n in (made.name, tensor.name) if n)
    before.outputs = [following.outputs[0]]
    return following


def _may_fuse(op: Any) -> bool:
    names = vars(fb.schema().ActivationFunctionType).items()
    return next((n for n, v in names if v == _activation(op) and not n.startswith("_")), "") in FUSED


def _only_reader(graph: Any, op: Any, readers: dict[int, list[Any]]) -> Any:
    found = readers.get(op.outputs[0], [])
    return found[0] if len(found) == 1 and op.outputs[0] not in graph.outputs else None


def _vector(model: Any, graph: Any, op: Any, computed: int, channels: int) -> Array | None:
    """The constant of an operator as one number for each channel; None where it is something else."""
    kind, (first, second) = fb.op_name(model, op), op.inputs
    other = second if first == computed else first
    tensor, rank = graph.tensors[other], len(graph.tensors[op.outputs[0]].shape)
    if other == computed or (kind == "SUB" and first != computed) or not fb.is_constant(model, tensor):
        return None
    shape = list(tensor.shape)
    if tensor.type != fb.FLOAT32 or len(shape) > rank or any(n != 1 for n in shape[:-1]):
        return None
    values = fb.values(model, tensor).reshape(-1).astype(np.float64)
    if values.size not in (1, channels) or list(graph.tensors[op.outputs[0]].shape)[-1] != channels:
        return None
    return np.broadcast_to(-values if kind == "SUB" else values, (channels,))


def _take(model: Any, graph: Any, op: Any, kind: str, vector: Array) -> bool:
    """Multiply the weights and the bias of an operator, or add to its bias; False where these are no plain constants."""
    weights = graph.tensors[op.inputs[1]]
    has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
    given = [weights, *([graph.tensors[op.inputs[2]]] if has_bias else [])]
    axis = CHANNELS[fb.op_name(model, op)]
    if any(t.type != fb.FLOAT32 or not fb.is_constant(model, t) for t in given):
        return False
    if len(weights.shape) <= axis or weights.shape[axis] != len(vector):
        return False
    bias = fb.values(model, given[1]).astype(np.float64) if has_bias else np.zeros(len(vector))
    if kind == "MUL":
        shape = [1] * len(weights.shape)
        shape[axis] = len(vector)
        scaled = fb.values(model, weights) * vector.reshape(shape)
        op.inputs[1] = _stored(model, graph, weights, scaled, "/scaled")
    changed = bias * vector if kind == "MUL" else bias + vector
    index = _stored(model, graph, given[-1] if has_bias else weights, changed, "/bias")
    op.inputs = [*op.inputs[:2], index]
    return True


def _stored(model: Any, graph: Any, like: Any, array: Array, suffix: str) -> int:
    index = new_tensor(graph, like, suffix, shape=list(array.shape))
    fb.store(model, graph.tensors[index], array.astype(np.float32))
    return index


__all__ = ["fold_scales"]
