"""The outside of a .tflite: order and names of its inputs and outputs, their types, their description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...artifact import TensorSpec
from ...errors import ConversionError
from ...model import IoType
from .. import _tflite as fb
from .graph import new_op, new_tensor

TYPES = {"int8": fb.INT8, "uint8": fb.UINT8, "int16": fb.INT16}
Range = tuple[float, float]


def order_by_signature(model: Any) -> None:
    """Sort the graph's inputs and outputs as the exporter numbered them in its signature (i0, i1 ..., o0, o1 ...)."""
    signature, graph = model.signatureDefs[0], model.subgraphs[0]
    for entries in (signature.inputs, signature.outputs):
        entries.sort(key=lambda entry: int(fb.text(entry.name)[1:]))
    inputs = [entry.tensorIndex for entry in signature.inputs]
    graph.inputs = inputs + [i for i in graph.inputs if i not in inputs]
    graph.outputs = [entry.tensorIndex for entry in signature.outputs]


def rename_signature(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """One signature whose names are the model's own; the graph's inputs and outputs are in the model's order."""
    s, graph = fb.schema(), model.subgraphs[0]
    signature = s.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for names, ids, field in ((inputs, graph.inputs, "inputs"), (outputs, graph.outputs, "outputs")):
        entries = []
        for name, index in zip(names, ids, strict=True):
            entry = s.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), index
            entries.append(entry)
        setattr(signature, field, entries)
    model.signatureDefs = [signature]


def set_types(model: Any, io: IoType, ranges: Mapping[str, Range]) -> None:
    """Give quantized inputs and outputs the type `io`: QUANTIZE operators at the edge where it is another one.

    `ranges` by tensor name, for a change of width. Raises ConversionError for one that is float or missing.
    """
    if io == "float32":
        _require(model, {fb.FLOAT32})
        return
    graph, wanted = model.subgraphs[0], TYPES[io]
    for at, index in enumerate(graph.inputs):
        tensor = graph.tensors[index]
        if tensor.type in TYPES.values() and tensor.type != wanted:
            outer = _outer(graph, tensor, io, ranges)
            graph.operators.insert(0, new_op(model, "QUANTIZE", outer, index))
            graph.inputs[at] = outer
    for at, index in enumerate(graph.outputs):
        tensor = graph.tensors[index]
        if tensor.type in TYPES.values() and tensor.type != wanted:
            outer = _outer(graph, tensor, io, ranges)
            graph.operators.append(new_op(model, "QUANTIZE", index, outer))
            graph.outputs[at] = outer
    _require(model, {wanted})


def _outer(graph: Any, tensor: Any, io: IoType, ranges: Mapping[str, Range]) -> int:
    """A tensor of type `io` that stands for the same values; the inner one is renamed, so that this keeps the name."""
    scale, zero_point = _parameters(tensor, io, ranges)
    quantization = fb.schema().QuantizationParametersT()
    quantization.scale = np.array([scale], np.float32)
    quantization.zeroPoint = np.array([zero_point], np.int64)
    outer = new_tensor(graph, tensor, "", type=TYPES[io], quantization=quantization)
    tensor.name += b"_" + fb.type_name(tensor.type).encode()
    return outer


def _parameters(tensor: Any, io: IoType, ranges: Mapping[str, Range]) -> tuple[float, int]:
    scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    if tensor.type == fb.INT8 and io == "uint8":
        return scale, zero_point + 128
    info = np.iinfo(io)
    low, high = ranges.get(fb.text(tensor.name), (-32767 * scale, 32767 * scale))
    if io == "int16":
        return max(max(-low, high) / info.max, 1e-12), 0
    step = max((high - low) / (int(info.max) - int(info.min)), 1e-12)
    return step, int(np.clip(round(info.min - low / step), info.min, info.max))


def _require(model: Any, wanted: set[int]) -> None:
    """Raise ConversionError for a real-valued input or output of another type; integers (ids, masks) are left alone."""
    graph = model.subgraphs[0]
    real = {fb.FLOAT32, fb.FLOAT16, *TYPES.values()}
    for index in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[index]
        if tensor.type in real and tensor.type not in wanted:
            name = fb.type_name(tensor.type)
            raise ConversionError(
                f"'{fb.text(tensor.name)}' came out as {name}, not {fb.type_name(next(iter(wanted)))}",
                next="use --io float32, or a scheme that quantizes the layers at the model's edge",
            )


def describe(model: Any, names: tuple[Sequence[str], Sequence[str]]) -> tuple[tuple[TensorSpec, ...], ...]:
    """(inputs, outputs) as the model calls them, with the types and scales of the file."""
    graph = model.subgraphs[0]
    return tuple(
        tuple(_spec(name, graph.tensors[index]) for name, index in zip(group, ids, strict=True))
        for group, ids in zip(names, (graph.inputs, graph.outputs), strict=True)
    )


def _spec(name: str, tensor: Any) -> TensorSpec:
    shape = fb.indices(tensor.shapeSignature) or tensor.shape
    q = tensor.quantization
    scaled = q is not None and q.scale is not None and len(q.scale) == 1 and tensor.type in TYPES.values()
    inside = fb.text(tensor.name)
    return TensorSpec(
        name=name,
        shape=tuple(None if d < 0 else d for d in shape),
        dtype=fb.type_name(tensor.type),
        scale=float(q.scale[0]) if scaled else None,
        zero_point=int(q.zeroPoint[0]) if scaled else None,
        tensor="" if inside == name else inside,
    )
