"""The types of a file's inputs and outputs: exactly what the plan asks for, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...artifact import TensorSpec
from ...errors import ConversionError
from ...model import IoType
from .. import _onnx
from .graph import Graph, opset, set_domain
from .quantize import WIDE_OPSET, Params, Ranges, params

SHIFT = {("int8", "uint8"): 128, ("uint8", "int8"): -128}  # of the zero point; the real values stay the same


def float_ends(proto: Any, specs: Sequence[TensorSpec], side: str) -> list[str]:
    """The float inputs ("input") or outputs ("output") of a file, by their names inside it."""
    wanted = {s.inside for s in specs}
    float32 = _onnx.onnx().TensorProto.FLOAT
    ends = getattr(proto.graph, side)
    return [v.name for v in ends if v.name in wanted and v.type.tensor_type.elem_type == float32]


def set_io(proto: Any, io: IoType, ranges: Ranges) -> dict[str, Params]:
    """Turn float inputs and outputs into integers of type `io`; returns their parameters by name.

    Where the network quantizes that tensor itself, its own parameters are used and its outer pair of operators goes.
    Otherwise `ranges` says what the integers cover. Integer inputs (indices) stay what they are.
    """
    if io == "float32":
        return {}
    float32 = _onnx.onnx().TensorProto.FLOAT
    found: dict[str, Params] = {}
    for value in list(proto.graph.input):
        if value.type.tensor_type.elem_type == float32:
            found[value.name] = _integer_input(Graph(proto), value, io, ranges)
    for value in list(proto.graph.output):
        if value.type.tensor_type.elem_type == float32:
            found[value.name] = _integer_output(Graph(proto), value, io, ranges)
    Graph(proto).drop_unused()
    return found


def _known(graph: Graph, node: Any) -> Params | None:
    """The parameters of a QuantizeLinear or DequantizeLinear with one scale."""
    scale, zero = graph.constant(node.input[1]), graph.constant(node.input[2]) if len(node.input) > 2 else None
    if scale is None or zero is None or scale.size != 1:
        return None
    return Params(float(scale.ravel()[0]), int(zero.ravel()[0]), str(zero.dtype))


def _as(p: Params | None, io: IoType) -> Params | None:
    """The same quantization in another type, where the integers map one to one."""
    if p is None or p.dtype == io:
        return p
    shift = SHIFT.get((p.dtype, io))
    return None if shift is None else Params(p.scale, p.zero_point + shift, io)


def _operator(graph: Graph, op: str, source: str, out: str, name: str, p: Params) -> Any:
    wide = p.dtype == "int16" and opset(graph.model) < WIDE_OPSET
    domain = "com.microsoft" if wide else ""
    if wide:
        set_domain(graph.model, domain, 1)
    scale = graph.add_constant("s", np.array(p.scale, np.float32))
    zero = graph.add_constant("z", np.array(p.zero_point, p.dtype))
    return _onnx.onnx().helper.make_node(op, [source, scale, zero], [out], f"{name}_io", domain=domain or None)


def _set_type(value: Any, io: IoType) -> None:
    value.type.tensor_type.elem_type = _onnx.onnx().helper.np_dtype_to_tensor_dtype(np.dtype(io))


def _integer_input(graph: Graph, value: Any, io: IoType, ranges: Ranges) -> Params:
    name = value.name
    readers = graph.consumers[name]
    pairs = [n for n in readers if n.op_type == "QuantizeLinear" and n.input[0] == name]
    own = _known(graph, pairs[0]) if pairs else None
    p = _as(own, io) or params(*ranges[name], io)
    _set_type(value, io)
    inside = graph.unique(f"{name}_real")
    nodes = list(graph.model.graph.node)
    if own == p:  # the integers go straight to what dequantizes them
        gone = {n.name for n in pairs if _known(graph, n) == p}
        integers = {n.output[0] for n in pairs if n.name in gone}
        nodes = [n for n in nodes if n.name not in gone]
    else:
        integers = set()
    direct = False
    for node in nodes:
        for i, source in enumerate(node.input):
            if source in integers:
                node.input[i] = name
            elif source == name:
                node.input[i], direct = inside, True
    _rename_inner(graph, name, inside)
    if direct or name in graph.inner:
        nodes.insert(0, _operator(graph, "DequantizeLinear", name, inside, name, p))
    _replace(graph, nodes)
    return p


def _rename_inner(graph: Graph, old: str, new: str) -> None:
    """Readers inside Loop and If bodies see the real values too."""
    for g in list(_onnx.graphs(graph.model.graph))[1:]:
        for node in g.node:
            node.input[:] = [new if n == old else n for n in node.input]


def _replace(graph: Graph, nodes: Sequence[Any]) -> None:
    kept = [_onnx.onnx().NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(kept)


def _integer_output(graph: Graph, value: Any, io: IoType, ranges: Ranges) -> Params:
    name = value.name
    maker = graph.producer.get(name)
    own = _known(graph, maker) if maker is not None and maker.op_type == "DequantizeLinear" else None
    p = _as(own, io) or params(*ranges[name], io)
    _set_type(value, io)
    inside = graph.unique(f"{name}_real")
    nodes = list(graph.model.graph.node)
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [inside if n == name else n for n in names]
    _rename_inner(graph, name, inside)
    if maker is not None and own == p:
        _reuse(nodes, maker, name)
    else:
        nodes.append(_operator(graph, "QuantizeLinear", inside, name, name, p))
    _replace(graph, nodes)
    return p


def _reuse(nodes: list[Any], maker: Any, name: str) -> None:
    """The output is the integers that `maker` dequantizes; `maker` goes where nothing else reads its reals."""
    integers, reals = maker.input[0], maker.output[0]
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name if n == integers else n for n in names]
    if not any(reals in n.input for n in nodes):
        nodes[:] = [n for n in nodes if n.name != maker.name]


def specs(
    proto: Any, wanted: Sequence[TensorSpec], side: str, io: IoType, known: Mapping[str, Params]
) -> tuple[TensorSpec, ...]:
    """The TensorSpecs of the inputs or outputs as they are in the file. Raises ConversionError for another type."""
    by_name = {v.name: v for v in getattr(proto.graph, side)}
    found = []
    for spec in wanted:
        value = by_name.get(spec.inside)
        if value is None:
            raise ConversionError(
                f"the written file has no {side} '{spec.inside}', only {', '.join(by_name)}",
                next="please report the model",
            )
        dtype = _onnx.dtype_name(value.type.tensor_type.elem_type)
        p = known.get(spec.inside)
        shape = _onnx.shape_of(value) if value.type.tensor_type.HasField("shape") else spec.shape
        if dtype == "float32" != io or (p is not None and dtype != p.dtype):
            raise ConversionError(
                f"the {side} '{spec.name}' was written as {dtype} instead of {io}", next="use --io float32"
            )
        found.append(
            replace(
                spec,
                shape=shape,
                dtype=dtype,
                scale=None if p is None else p.scale,
                zero_point=None if p is None else p.zero_point,
                tensor="" if spec.inside == spec.name else spec.inside,
            )
        )
    return tuple(found)
