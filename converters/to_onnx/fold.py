"""Constants, BatchNormalization and biases folded into the layers before them, so that they are quantized together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ConversionError
from .. import _onnx
from .graph import Graph, attribute, tidy


def folded(proto: Any, folder: Path) -> Any:
    """The model after ONNX Runtime's basic optimizations: constants and BatchNormalization folded, MatMul + Add as Gemm."""
    ort = _onnx.onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    file = folder / "folded.onnx"
    options.optimized_model_filepath = str(file)
    try:
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except _onnx.runtime_errors() as error:
        raise ConversionError(
            f"ONNX Runtime cannot load the model: {_onnx.last_line(error)}",
            next="check the model with onnx.checker, or export it again",
        ) from error
    done = tidy(_onnx.onnx().load_model(str(file)))
    return fold_transposed(proto if _onnx.foreign_ops(done) else done)


def fold_transposed(proto: Any) -> Any:
    """Fold Mul and Add by a constant for each channel into the ConvTranspose before them (ONNX Runtime does not)."""
    graph = Graph(proto)
    gone: set[str] = set()
    for node in proto.graph.node:
        while node.op_type == "ConvTranspose":
            after = _scaled_by(graph, node)
            if after is None:
                break
            gone.add(after.name)
            graph.producer[after.output[0]] = node
            node.output[0] = after.output[0]
    kept = [_onnx.onnx().NodeProto.FromString(n.SerializeToString()) for n in proto.graph.node if n.name not in gone]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    graph.drop_unused()
    return proto


def _scaled_by(graph: Graph, node: Any) -> Any | None:
    """The Mul or Add that is the only reader of a ConvTranspose, once its constant is in the weights; or None."""
    name = node.output[0]
    readers = graph.consumers[name]
    weight = graph.constant(node.input[1])
    if len(readers) != 1 or name in graph.outputs or name in graph.inner or weight is None:
        return None
    after = readers[0]
    values = [graph.constant(n) for n in after.input]
    constant = next((v for v in values if v is not None), None)
    if after.op_type not in ("Mul", "Add") or constant is None or attribute(node, "group", 1) != 1:
        return None
    channels = weight.shape[1]
    per_channel = _per_channel(constant, channels, weight.ndim)
    given = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(channels, np.float32)
    if per_channel is None or given is None:
        return None
    if after.op_type == "Mul":
        scaled = weight * per_channel.reshape(1, -1, *[1] * (weight.ndim - 2))
        node.input[1] = graph.add_constant(f"{node.name}/weight", scaled.astype(np.float32))
    bias = given * per_channel if after.op_type == "Mul" else given + per_channel
    del node.input[2:]
    node.input.append(graph.add_constant(f"{node.name}/bias", bias.astype(np.float32)))
    return after


def _per_channel(constant: Array, channels: int, rank: int) -> Array | None:
    """A constant that broadcasts over [n, channels, ...] by its channel axis alone, as [channels]; or None."""
    shape = [1] * (rank - constant.ndim) + list(constant.shape)
    if len(shape) != rank or any(n != 1 for i, n in enumerate(shape) if i != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,))
