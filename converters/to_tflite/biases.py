"""Biases written again: ai-edge-quantizer clips them to 32 bits where a channel's weights are tiny, or all zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...artifact import Array
from .. import _tflite as fb

BIASED = {  # operator -> which inputs are (x, weights, bias), and the channel axis of its weights
    "FULLY_CONNECTED": (0, 1, 2, 0),
    "CONV_2D": (0, 1, 2, 0),
    "DEPTHWISE_CONV_2D": (0, 1, 2, 3),
    "TRANSPOSE_CONV": (2, 1, 3, 0),
}
LARGEST = 2.0**30  # of a 32-bit bias: leaves room for the products that are added to it


def rewrite_biases(model: Any, reference: Any) -> None:
    """Make every bias of the quantized `model` stand for that of the float `reference`.

    64-bit biases (int16x8) hold any; for a 32-bit one that would saturate, the channel's weights get a larger scale,
    as TensorFlow's converter does. Operators are matched by the names of their outputs.
    """
    floats = {_output(reference, op): op for op in reference.subgraphs[0].operators if op.outputs}
    graph = model.subgraphs[0]
    shared = _weights_of_several(model, graph)
    for op in graph.operators:
        places = BIASED.get(fb.op_name(model, op))
        twin = floats.get(_output(model, op)) if places else None
        if places is None or twin is None or not _has_bias(model, op, places[2], (fb.INT32, fb.INT64)):
            continue
        if _has_bias(reference, twin, places[2], (fb.FLOAT32,)):
            _rewrite(model, op, (reference, twin), places, op.inputs[places[1]] in shared)


def _output(model: Any, op: Any) -> str:
    return fb.text(model.subgraphs[0].tensors[op.outputs[0]].name)


def _has_bias(model: Any, op: Any, at: int, types: tuple[int, ...]) -> bool:
    if len(op.inputs) <= at or op.inputs[at] < 0:
        return False
    tensor = model.subgraphs[0].tensors[op.inputs[at]]
    return tensor.type in types and fb.is_constant(model, tensor)


def _weights_of_several(model: Any, graph: Any) -> set[int]:
    """The weights that more than one operator reads."""
    seen: set[int] = set()
    several: set[int] = set()
    for op in graph.operators:
        places = BIASED.get(fb.op_name(model, op))
        if places is not None and len(op.inputs) > places[1]:
            index = op.inputs[places[1]]
            (several if index in seen else seen).add(index)
    return several


def _rewrite(model: Any, op: Any, float_op: tuple[Any, Any], places: tuple[int, ...], shared: bool) -> None:
    at_x, at_weights, at_bias, axis = places
    tensors, reference = model.subgraphs[0].tensors, float_op[0]
    x, weights, bias = (tensors[op.inputs[i]] for i in (at_x, at_weights, at_bias))
    real = fb.values(reference, reference.subgraphs[0].tensors[float_op[1].inputs[at_bias]]).astype(np.float64)
    if x.type not in (fb.INT8, fb.INT16) or weights.type != fb.INT8:
        return
    step = float(x.quantization.scale[0])
    scale = np.asarray(weights.quantization.scale, np.float64)
    if bias.type == fb.INT32:
        needed = np.abs(real) / (step * LARGEST)
        if np.any(needed > scale) and not shared and len(scale) == len(real):
            scale = _coarser(model, weights, scale, np.maximum(scale, needed), axis)
    wide = np.int64 if bias.type == fb.INT64 else np.int32
    limits = np.iinfo(wide)
    exact = np.clip(np.round(real / (step * scale)), float(limits.min), np.nextafter(float(limits.max), 0))
    fb.store(model, bias, exact.astype(wide))
    bias.quantization.scale = np.asarray(step * scale, np.float32)


def _coarser(model: Any, weights: Any, old: Array, new: Array, axis: int) -> Array:
    """Requantize the channels of int8 weights whose scale changes; returns the scales as they are stored."""
    shape = [1] * len(weights.shape)
    shape[axis] = len(old)
    stored: Array = new.astype(np.float32).astype(np.float64)
    q = fb.values(model, weights).astype(np.float64) * (old / stored).reshape(shape)
    fb.store(model, weights, np.round(q).astype(np.int8))
    weights.quantization.scale = new.astype(np.float32)
    return stored
