"""A Transpose before a Flatten before a MatMul: the weights' rows are put into the other order instead."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _onnx
from .graph import Graph, attribute


def fold_transposes(proto: Any) -> Any:
    """The model without the Transposes that only order what a fully connected layer sums up; changed in place.

    What is left after tf2onnx has cancelled the others: NHWC networks flatten rows, columns, channels, and the same
    values lie as channels, rows, columns in ONNX.
    """
    graph = Graph(proto)
    for node in list(proto.graph.node):
        if node.op_type == "Transpose":
            _fold(graph, node)
    dead = {id(n) for n in proto.graph.node if n.op_type == "Transpose" and not _read(graph, n.output[0])}
    if dead:
        kept = [_onnx.onnx().NodeProto.FromString(n.SerializeToString()) for n in proto.graph.node if id(n) not in dead]
        del proto.graph.node[:]
        proto.graph.node.extend(kept)
        graph.drop_unused()
    return proto


def _read(graph: Graph, name: str) -> bool:
    return name in graph.outputs or name in graph.inner or any(name in n.input for n in graph.model.graph.node)


def _only_reader(graph: Graph, name: str) -> Any:
    readers = graph.consumers[name]
    return readers[0] if len(readers) == 1 and name not in graph.outputs and name not in graph.inner else None


def _fold(graph: Graph, transpose: Any) -> None:
    """Let the Reshape read what the Transpose reads, where one MatMul with constant weights is all that follows."""
    perm = list(attribute(transpose, "perm", []))
    info = graph.info.get(transpose.input[0])
    shape = _onnx.shape_of(info)[1:] if info is not None else ()
    reshape = _only_reader(graph, transpose.output[0])
    if not perm or perm[0] != 0 or len(shape) != len(perm) - 1 or None in shape or not _flattens(graph, reshape):
        return
    matmul = _only_reader(graph, reshape.output[0])
    if matmul is None or matmul.op_type not in ("MatMul", "Gemm") or matmul.input[0] != reshape.output[0]:
        return
    weights = graph.constant(matmul.input[1])
    count = int(np.prod([d or 1 for d in shape]))
    turned = matmul.op_type == "Gemm" and (attribute(matmul, "transA", 0) or attribute(matmul, "transB", 0))
    if weights is None or weights.ndim != 2 or len(weights) != count or turned:
        return
    before = [shape[axis - 1] for axis in perm[1:]]
    rows = np.arange(count).reshape(before).transpose([perm[1:].index(axis) for axis in range(1, len(perm))])
    readers = [n for n in graph.model.graph.node if matmul.input[1] in n.input]
    ordered = np.ascontiguousarray(weights[rows.ravel()])
    if len(readers) == 1 and matmul.input[1] not in graph.inner:
        graph.constants[matmul.input[1]].CopyFrom(_onnx.onnx().numpy_helper.from_array(ordered, matmul.input[1]))
    else:
        matmul.input[1] = graph.add_constant(f"{matmul.input[1]}/ordered", ordered)
    reshape.input[0] = transpose.input[0]


def _flattens(graph: Graph, node: Any) -> bool:
    """Whether a node makes one axis of all but the first."""
    if node is None:
        return False
    if node.op_type == "Flatten":
        return bool(attribute(node, "axis", 1) == 1)
    if node.op_type != "Reshape" or attribute(node, "allowzero", 0):
        return False
    shape = graph.constant(node.input[1])
    return shape is not None and len(shape) == 2 and int(shape[0]) in (-1, 0) and int(shape[0]) != int(shape[1])
