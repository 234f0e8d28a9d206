"""Carries a quantization plan out on a float ModelProto: QuantizeLinear/DequantizeLinear pairs, stored integers, float16.

An integer kernel is written as float operator between DequantizeLinear and QuantizeLinear, which ONNX Runtime and other
runtimes fuse. A tensor keeps its name: it is the value its readers see, so that float and quantized file compare.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ConversionError
from ...model import QuantizationPlan
from .. import _onnx
from .graph import Graph, attribute, in_order, opset, set_domain, tidy
from .placement import SHARE, Placement, clamp_after, data_inputs, place, scheme_of
from .weights import INT32_MAX, Storage, dynamic, half_weights, quantize_weight, store_weights, weight_axis

Ranges = Mapping[str, tuple[float, float]]
Calibrate = Callable[[Any, Mapping[str, int]], Ranges]  # (model, tensor -> bits) -> ranges
WIDE_OPSET = 21  # the first whose QuantizeLinear takes int16 and int4
BYTE = "uint8"  # of activations: with int8, ONNX Runtime leaves convolutions before a residual sum in float on x86
SMALLEST_SCALE = 1e-10


@dataclass(frozen=True, slots=True)
class Params:
    """real = scale * (integer - zero_point)."""

    scale: float
    zero_point: int
    dtype: str


def params(low: float, high: float, dtype: str) -> Params:
    """The quantization of a range that holds 0: asymmetric in 8 bits, symmetric in 16.

    >>> params(-1.0, 1.55, "int8").zero_point, params(0.0, 2.55, "uint8").zero_point, params(-1.0, 2.0, "int16").zero_point
    (-28, 0, 0)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    info = np.iinfo(dtype)
    if dtype == "int16":
        return Params(float(np.float32(max(-low, high, SMALLEST_SCALE) / info.max)), 0, dtype)
    scale = float(np.float32(max((high - low) / 255, SMALLEST_SCALE)))
    return Params(scale, int(np.clip(np.round(info.min - low / scale), info.min, info.max)), dtype)


def quantize(proto: Any, plan: QuantizationPlan, calibrate: Calibrate) -> tuple[Any, list[dict[str, str]]]:
    """The quantized model and what was left float: [{"layer", "op", "why"}]. Raises ConversionError."""
    if plan.scheme == "fp16" and set(plan.overrides.values()) <= {"fp16", "float32"}:
        return half(proto, plan), []
    graph = Graph(proto)
    placement = place(graph, plan)
    ranges = calibrate(proto, wanted(graph, placement)) if placement.bits else {}
    rewriter = Rewriter(graph, placement, ranges)
    rewriter.rewrite()
    graph.drop_unused()
    del proto.graph.value_info[:]
    return tidy(proto), placement.left_float


def half(proto: Any, plan: QuantizationPlan) -> Any:
    """Weights and arithmetic in float16; inputs, outputs and the layers overridden to float32 stay float32."""
    convert = importlib.import_module("onnxruntime.transformers.float16")
    failures: tuple[type[Exception], ...] = (*_onnx.proto_errors(), KeyError, AttributeError)
    blocked = [n.name for n in proto.graph.node if scheme_of(n.name, plan) == "float32"]
    try:
        return tidy(in_order(convert.convert_float_to_float16(proto, keep_io_types=True, node_block_list=blocked)))
    except failures as error:
        raise ConversionError(
            f"the float16 conversion failed: {_onnx.last_line(error)}", next="use --quantize int8-weight-only"
        ) from error


def wanted(graph: Graph, placement: Placement) -> dict[str, int]:
    """The tensors whose ranges are needed, with the bits of their integers."""
    found: dict[str, int] = {}
    for node in graph.model.graph.node:
        bits = placement.bits.get(node.name)
        if bits:
            for name in (*data_inputs(graph, node), *node.output):
                found[name] = min(bits, found.get(name, bits))
    return found


class Rewriter:
    """Goes over the nodes once, in order, and writes the new list of nodes."""

    def __init__(self, graph: Graph, placement: Placement, ranges: Ranges) -> None:
        self.graph = graph
        self.placement = placement
        self.ranges = ranges
        wide = opset(graph.model) < WIDE_OPSET
        self.storage = Storage(graph, "com.microsoft" if wide else "")
        self.params: dict[tuple[str, int], Params] = {}
        self.pairs: dict[tuple[str, int], str] = {}  # (tensor, bits) -> its dequantized form
        self.nodes: list[Any] = []

    def rewrite(self) -> None:
        """Replace the nodes of the graph."""
        for node in list(self.graph.model.graph.node):
            copy = _onnx.onnx().NodeProto.FromString(node.SerializeToString())
            self.nodes.extend(self._rewritten(copy))
        del self.graph.model.graph.node[:]
        self.graph.model.graph.node.extend(self.nodes)

    def _rewritten(self, node: Any) -> list[Any]:
        scheme, bits = self.placement.scheme[node.name], self.placement.bits.get(node.name)
        if bits:
            return self._integer(node, bits)
        if scheme == "dynamic":
            return dynamic(self.graph, self.storage, node)
        if scheme == "fp16":
            return half_weights(self.graph, node)
        if scheme in ("int8", "int16x8", "int8-weight-only", "int4-weight-only"):
            return store_weights(self.graph, self.storage, node, 4 if scheme == "int4-weight-only" else 8)
        return [node]

    def _integer(self, node: Any, bits: int) -> list[Any]:
        """A node between DequantizeLinear and QuantizeLinear, with quantized weights and bias."""
        before: list[Any] = []
        original = list(node.input)
        clamp_of = self.graph.producer.get(original[0]) if node.op_type in ("Relu", "Clip") else None
        fused = clamp_of is not None and clamp_after(self.graph, clamp_of, self.placement.bits) is not None
        for i, name in enumerate(original):
            if fused or name not in data_inputs(self.graph, node):
                continue
            node.input[i] = self._read(name, bits, before)
        self._constants(node, original, bits)
        before += self.storage.take()
        return [*before, node, *self._outputs(node, original, bits)]

    def _read(self, name: str, bits: int, before: list[Any]) -> str:
        """The dequantized form of a tensor in these bits: made by its producer, by an earlier reader, or now."""
        if (name, bits) not in self.pairs:
            self.params[name, bits] = self._params(name, bits)
            nodes, self.pairs[name, bits] = self._pair(name, name, self.graph.unique("d"), bits)
            before += nodes
        return self.pairs[name, bits]

    def _params(self, name: str, bits: int) -> Params:
        return params(*self.ranges[name], "int16" if bits == 16 else BYTE)

    def _pair(self, name: str, source: str, out: str, bits: int) -> tuple[list[Any], str]:
        """QuantizeLinear and DequantizeLinear from `source` to `out`, with the parameters of the tensor `name`."""
        p = self.params[name, bits]
        domain = self.storage.domain if bits == 16 else ""
        if domain:
            set_domain(self.graph.model, domain, 1)
        scale = self.graph.add_constant("s", np.array(p.scale, np.float32))
        zero = self.graph.add_constant("z", np.array(p.zero_point, p.dtype))
        middle = self.graph.unique("q")
        make = _onnx.onnx().helper.make_node
        return [
            make("QuantizeLinear", [source, scale, zero], [middle], f"{middle}Q", domain=domain or None),
            make("DequantizeLinear", [middle, scale, zero], [out], f"{middle}D", domain=domain or None),
        ], out

    def _outputs(self, node: Any, original: list[str], bits: int) -> list[Any]:
        if node.name in self.placement.float_out or clamp_after(self.graph, node, self.placement.bits) is not None:
            return []
        after = []
        for i, name in enumerate(node.output):
            shared = node.op_type in SHARE and (original[0], bits) in self.params
            self.params[name, bits] = self.params[original[0], bits] if shared else self._params(name, bits)
            node.output[i] = self.graph.unique("r")
            nodes, self.pairs[name, bits] = self._pair(name, node.output[i], name, bits)
            after += nodes
        return after

    def _constants(self, node: Any, original: list[str], bits: int) -> None:
        """Quantize the constant operands of a node."""
        heavy = weight_axis(self.graph, node) if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
        if heavy is not None:
            self._weight_and_bias(node, original, heavy[1], bits)
        elif node.op_type in ("Add", "Mul", "Concat", "MatMul", "Gemm"):
            for i, name in enumerate(original[:2] if node.op_type == "Gemm" else original):
                value = self.graph.constant(name)
                if value is not None and value.dtype == np.float32:
                    node.input[i] = self._constant(name, value, bits)

    def _constant(self, name: str, value: np.ndarray[Any, Any], bits: int) -> str:
        """A constant operand in the type of the activations."""
        if (name, bits) not in self.pairs:
            dtype = "int16" if bits == 16 else BYTE
            p = params(float(value.min(initial=0)), float(value.max(initial=0)), dtype)
            info = np.iinfo(dtype)
            q = np.clip(np.round(value / np.float32(p.scale)) + p.zero_point, info.min, info.max).astype(dtype)
            stored = self.graph.add_constant("c", q)
            scale = self.graph.add_constant("s", np.array(p.scale, np.float32))
            zero = self.graph.add_constant("z", np.array(p.zero_point, dtype))
            self.pairs[name, bits] = self.storage.dequantize(stored, scale, zero, "d", None, 0, bits == 16)
        return self.pairs[name, bits]

    def _weight_and_bias(self, node: Any, original: list[str], axis: int | None, bits: int) -> None:
        weight = self.graph.constant(original[1])
        assert weight is not None  # weight_axis found it
        bias = self.graph.constant(original[2]) if len(original) > 2 and original[2] else None
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        source = self.params.get((original[0], bits))
        integer_bias = bias is not None and plain and source is not None and bias.ndim == 1 and axis is not None
        floor = None
        if integer_bias and bits == 8 and bias is not None and source is not None:  # so that the bias fits in int32
            floor = np.broadcast_to(np.abs(bias) * 1.0001 / (source.scale * INT32_MAX), (weight.shape[axis or 0],))
        grouped = node.op_type == "ConvTranspose"
        w = quantize_weight(weight, axis, floor=None if grouped else floor)
        node.input[1] = self.storage.weight(original[1], w)
        if integer_bias and bias is not None and source is not None and len(bias) in (1, w.scales.size):
            stored = self.storage.bias(original[2], bias, np.float32(source.scale) * w.scales)
            node.input[2] = stored or original[2]
