"""Weights as integers: scales, rounding, and the nodes that turn stored integers back into float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from .. import _onnx
from .graph import Graph, attribute, set_domain
from .placement import HEAVY, RECURRENT

BLOCK = 32  # rows of a matrix that share a 4-bit scale
CANDIDATES = np.linspace(0.5, 1.0, 26)  # clipping points tried for 4 bits, as shares of the largest weight
SMALLEST = 1e-12  # a scale below is of a channel that is all zeros
INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Integers (int8, also where they use 4 bits), float32 scales, and the axis the scales run along (None: one scale)."""

    values: Array
    scales: Array
    axis: int | None
    block: int = 0  # elements along the axis that share a scale; 0: one


def quantize_weight(w: Array, axis: int | None, bits: int = 8, floor: Array | None = None) -> QuantizedWeight:
    """Symmetric, narrow-range (-127..127, -7..7) weights with one scale a channel along `axis`.

    `floor` holds the smallest permissible scales. 4 bits: the clipping point with the least squared error.
    """
    top = 2 ** (bits - 1) - 1
    flat = w.reshape(1, -1) if axis is None else np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    scales = _scales(flat, top, bits)
    if floor is not None:
        scales = np.maximum(scales, floor.astype(np.float32))
    values = _balanced(flat / scales[:, None], top, int(np.prod(w.shape[2:])) if w.ndim > 2 and axis == 0 else 0)
    if axis is None:
        return QuantizedWeight(values.reshape(w.shape), scales.reshape(()), None)
    moved = values.reshape(w.shape[axis], *np.delete(w.shape, axis))
    return QuantizedWeight(np.ascontiguousarray(np.moveaxis(moved, 0, axis)), scales, axis)


def quantize_blocks(w: Array, bits: int = 4) -> QuantizedWeight:
    """A matrix [rows, columns] with a scale for every BLOCK rows of a column (ONNX's blocked DequantizeLinear)."""
    rows, columns = w.shape
    top = 2 ** (bits - 1) - 1
    blocks = -(-rows // BLOCK)
    padded = np.zeros((blocks * BLOCK, columns), np.float32)
    padded[:rows] = w
    flat = padded.reshape(blocks, BLOCK, columns).transpose(0, 2, 1).reshape(-1, BLOCK)
    scales = _scales(flat, top, bits)
    each = np.repeat(scales.reshape(blocks, columns), BLOCK, axis=0)[:rows]
    values = _balanced((w / each).T, top, 0).T
    return QuantizedWeight(np.ascontiguousarray(values), scales.reshape(blocks, columns), 0, BLOCK)


def _balanced(real: Array, top: int, kernel: int) -> Array:
    """Round [channels, weights] to integers so that the rounding errors of a channel, and of each kernel in it, cancel.

    Inputs that are not around 0 (images, what follows a ReLU) would otherwise shift the channel's mean.
    The element-, kernel- and channel-wise steps of SQuant (Guo et al., ICLR 2022), which needs no data.
    """
    values = np.clip(np.round(real), -top, top)
    if kernel > 1:
        shape = (-1, kernel)
        values = _flipped(real.reshape(shape), values.reshape(shape), top).reshape(real.shape)
    return _flipped(real, values, top).astype(np.int8)


def _flipped(real: Array, values: Array, top: int) -> Array:
    """Move the integers whose rounding was closest to the other side by one, until the sum of errors is below 1/2.

    Where values are clipped, the sum can stay larger: none is moved away from its real value, or out of range.
    """
    errors = values - real
    total = errors.sum(axis=1)
    sign = np.sign(total)[:, None]
    gain = np.where(np.abs(values - sign) <= top, sign * errors, -1.0)
    rank = np.argsort(np.argsort(-gain, axis=1, kind="stable"), axis=1, kind="stable")
    moved = (rank < np.round(np.abs(total))[:, None]) & (gain > 0)
    return np.asarray(values - moved * sign)


def _scales(flat: Array, top: int, bits: int) -> Array:
    """One scale for each row of [channels, weights]."""
    largest = np.abs(flat).max(axis=1)
    full = np.where(largest > SMALLEST, largest, 1.0) / top
    if bits > 4:
        return full.astype(np.float32)
    best, least = full.copy(), np.full(len(full), np.inf)
    for share in CANDIDATES:
        scales = full * share
        error = ((np.clip(np.round(flat / scales[:, None]), -top, top) * scales[:, None] - flat) ** 2).sum(axis=1)
        better = error < least
        best[better], least[better] = scales[better], error[better]
    return best.astype(np.float32)


def packed(values: Array) -> bytes:
    """Integers -8..7 two to a byte, the first in the low half (ONNX's INT4).

    >>> packed(np.array([1, -1, 7], np.int8)).hex()
    'f107'
    """
    flat = np.zeros(values.size + values.size % 2, np.uint8)
    flat[: values.size] = values.ravel().astype(np.uint8) & 15
    return bytes((flat[::2] | flat[1::2] << 4).tobytes())


def weight_axis(graph: Graph, node: Any) -> tuple[int, int | None] | None:
    """(which input is the weight, its channel axis), or None for a node without constant weights."""
    index = 0 if node.op_type == "Gather" else 1
    if len(node.input) <= index or node.input[index] not in graph.constants or not graph.is_float(node.input[index]):
        return None
    rank = len(graph.constants[node.input[index]].dims)
    if rank < 2:
        return None
    if node.op_type == "Conv":
        return 1, 0
    if node.op_type == "ConvTranspose":
        return 1, 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 1, 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul":
        return 1, 1 if rank == 2 else None
    if node.op_type in RECURRENT:
        return 1, 1
    return (0, None) if node.op_type == "Gather" else None


class Storage:
    """Puts quantized constants into a graph, each once."""

    def __init__(self, graph: Graph, domain: str) -> None:
        self.graph = graph
        self.domain = domain  # of DequantizeLinear where the standard one does not take the type
        self.nodes: list[Any] = []  # made and not yet placed
        self.done: dict[tuple[str, int, bytes], str] = {}  # weights that several nodes share are stored once

    def take(self) -> list[Any]:
        """The nodes made since the last call."""
        made, self.nodes = self.nodes, []
        return made

    def dequantize(self, source: str, scale: str, zero: str, out: str, axis: int | None, block: int, wide: bool) -> str:
        """A DequantizeLinear node; `wide` where its integers are int16 or int4."""
        options: dict[str, int] = {} if axis is None else {"axis": axis}
        if block:
            options["block_size"] = block
        domain = self.domain if wide else ""
        if domain:
            set_domain(self.graph.model, domain, 1)
        inputs = [source, scale, zero] if zero else [source, scale]
        name = self.graph.unique(out)
        self.nodes.append(
            _onnx.onnx().helper.make_node(
                "DequantizeLinear", inputs, [name], name=name, domain=domain or None, **options
            )
        )
        return name

    def weight(self, name: str, w: QuantizedWeight, bits: int = 8) -> str:
        """Store a weight; returns the name of its float value."""
        o = _onnx.onnx()
        key = (name, bits, w.scales.tobytes())
        if key in self.done:
            return self.done[key]
        if bits == 4:
            tensor = o.TensorProto(dims=w.values.shape, data_type=o.TensorProto.INT4, raw_data=packed(w.values))
            values = self.graph.add_constant("w", tensor)
            zero = ""
        else:
            values = self.graph.add_constant("w", w.values)
            zero = self.graph.add_constant("z", np.zeros(w.scales.shape, np.int8))
        scale = self.graph.add_constant("s", w.scales.astype(np.float32))
        self.done[key] = self.dequantize(values, scale, zero, "d", w.axis, w.block, bits == 4)
        return self.done[key]

    def bias(self, name: str, value: Array, scales: Array) -> str | None:
        """Store a bias as int32 with the scale of the products it is added to; None where it does not fit."""
        q = np.round(value.astype(np.float64) / scales)
        if np.abs(q).max(initial=0) > INT32_MAX:
            return None
        values = self.graph.add_constant("b", q.astype(np.int32))
        scale = self.graph.add_constant("s", scales.astype(np.float32))
        zero = self.graph.add_constant("z", np.zeros(scales.shape, np.int32))
        return self.dequantize(values, scale, zero, "d", 0 if scales.ndim else None, 0, False)


def store_weights(graph: Graph, storage: Storage, node: Any, bits: int) -> list[Any]:
    """Weight-only: the node reads DequantizeLinear of stored integers. Returns the node and what it needs, in order."""
    found = weight_axis(graph, node)
    if found is None or node.op_type not in HEAVY | RECURRENT | {"Gather"}:
        return [node]
    index, axis = found
    if node.op_type == "Gather":
        return _stored_table(graph, storage, node)
    for i in (1, 2) if node.op_type in RECURRENT else (index,):
        value = graph.constant(node.input[i])
        if value is None:
            continue
        blocked = bits == 4 and value.ndim == 2 and node.op_type == "MatMul" and value.shape[0] >= BLOCK
        weight = quantize_blocks(value) if blocked else quantize_weight(value, axis, bits)
        node.input[i] = storage.weight(node.input[i], weight, bits)
    return [*storage.take(), node]


def _stored_table(graph: Graph, storage: Storage, node: Any) -> list[Any]:
    """An embedding: the rows are looked up as integers and turned into float after, so that the table never is float.

    uint8, since ONNX Runtime 1.31 cannot load an int8 one in opset 21 on x86 (its own rewriting to uint8 goes wrong).
    """
    table = graph.constant(node.input[0])
    if table is None or table.ndim != 2 or not graph.is_activation(node.output[0]):
        return [node]
    w = quantize_weight(table, None)
    out = node.output[0]
    node.input[0] = graph.add_constant("w", (w.values.astype(np.int16) + 128).astype(np.uint8))
    node.output[0] = graph.unique(f"{out}_uint8")
    scale = graph.add_constant("s", w.scales)
    zero = graph.add_constant("z", np.array(128, np.uint8))
    after = _onnx.onnx().helper.make_node("DequantizeLinear", [node.output[0], scale, zero], [out], name=f"{out}_DQ")
    return [node, after]


def dynamic(graph: Graph, storage: Storage, node: Any) -> list[Any]:
    """Dynamic quantization of a matrix product: its input is quantized by the range it has in that run.

    DynamicQuantizeLinear, MatMulInteger, and the scales put back; ONNX Runtime fuses these into one kernel.
    Other layers store int8 weights.
    """
    found = weight_axis(graph, node)
    plain = node.op_type == "MatMul" or (
        node.op_type == "Gemm"
        and not attribute(node, "transA", 0)
        and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    )
    if found is None or found[1] is None or not plain:
        return store_weights(graph, storage, node, 8)
    weight = graph.constant(node.input[1])
    assert weight is not None  # weight_axis found it
    w = quantize_weight(weight.T if attribute(node, "transB", 0) else weight, 1)
    make, base, out = _onnx.onnx().helper.make_node, node.name, node.output[0]
    names = {k: graph.unique(k) for k in ("x", "x_scale", "x_zero", "int32", "float", "scale", "scaled")}
    values = graph.add_constant("w", np.ascontiguousarray(w.values))
    scales = graph.add_constant("s", w.scales)
    zero = graph.add_constant("z", np.zeros(w.scales.shape, np.int8))
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    nodes = [
        make(
            "DynamicQuantizeLinear",
            [node.input[0]],
            [names["x"], names["x_scale"], names["x_zero"]],
            f"{base}/quantize",
        ),
        make("MatMulInteger", [names["x"], values, names["x_zero"], zero], [names["int32"]], f"{base}/MatMulInteger"),
        make("Cast", [names["int32"]], [names["float"]], f"{base}/cast", to=_onnx.onnx().TensorProto.FLOAT),
        make("Mul", [names["x_scale"], scales], [names["scale"]], f"{base}/scale"),
        make("Mul", [names["float"], names["scale"]], [names["scaled"] if bias else out], f"{base}/scaled"),
    ]
    if bias:
        nodes.append(make("Add", [names["scaled"], bias], [out], f"{base}/bias"))
    return nodes


def half_weights(graph: Graph, node: Any) -> list[Any]:
    """One layer with float16 weights in a file of another scheme: stored as float16, computed in float32."""
    nodes = []
    for i in (1, 2) if node.op_type in RECURRENT else (1,):
        value = graph.constant(node.input[i]) if len(node.input) > i else None
        if value is None or value.dtype != np.float32 or node.op_type not in HEAVY | RECURRENT:
            continue
        name = node.input[i]
        stored = graph.add_constant(f"{name}_float16", value.astype(np.float16))
        node.input[i] = graph.unique(f"{name}_float32")
        nodes.append(_onnx.onnx().helper.make_node("Cast", [stored], [node.input[i]], f"{node.input[i]}_Cast", to=1))
    return [*nodes, node]
