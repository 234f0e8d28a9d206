"""What is in an .onnx file: its layers with parameters and multiply-accumulates, and the error of each after quantizing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array, Artifact
from ..engine import describe
from ..errors import DataError, ModelError
from ..protocols import Layer, LayerError
from . import _onnx

PLUMBING = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant"})  # part of a layer
PASSED = PLUMBING | {"Cast", "Identity", "Reshape", "Transpose"}  # between a stored weight and the layer that uses it
NO_WEIGHTS = frozenset({"Clip", "Pad", "Resize", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Tile", "Expand", "Range"})
INTEGER = {"MatMulInteger": (0, 1), "ConvInteger": (1,), "QLinearMatMul": (3,), "QLinearConv": (3, 8)}  # weights
CHUNK = 8  # inputs run at once in a comparison
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class OnnxInspector:
    """Reads .onnx files: float, QDQ, weight-only and dynamically quantized."""

    def layers(self, path: Path) -> tuple[Layer, ...]:
        """The nodes of the main graph in order; Quantize/DequantizeLinear count with the layer they belong to.

        Dimensions that the file leaves open (the batch) count as 1. Raises ModelError.
        """
        graph = _View(_onnx.read(path))
        return tuple(_layer(graph, node) for node in graph.nodes)

    def custom_ops(self, path: Path) -> tuple[str, ...]:
        """Operators that a stock ONNX Runtime has not, as "domain::Op". Raises ModelError."""
        return tuple(_onnx.foreign_ops(_onnx.read(path)))

    def compare(self, float_path: Path, path: Path, inputs: Mapping[str, Array]) -> tuple[LayerError, ...]:
        """Run both files and compare the tensors they have in common, in graph order.

        `inputs` as the float network takes them, by name. Raises ModelError, DataError.
        """
        pair = [_Side(p, inputs) for p in (float_path, path)]
        views = [_View(side.model) for side in pair]
        makers = [{n.output[0]: n for n in view.nodes} for view in views]
        seen = set(views[1].shown)
        common = [name for name in makers[0] if name in seen and views[0].is_float(name) and views[1].is_float(name)]
        errors = _errors(pair, common, len(next(iter(inputs.values()))))
        sizes = {layer.name: layer.bytes for layer in self.layers(path)}
        found = []
        for name in common:
            node = makers[0][name]
            layer = node.name or name
            maker = makers[1].get(name, node).name or name  # another where a BatchNormalization was folded into it
            size = sizes.get(f"{layer}/MatMulInteger", sizes.get(maker, 0))
            found.append(LayerError(layer, node.op_type, errors[name], size))
        return tuple(found)


class _View:
    """Look-ups over the main graph of a model."""

    def __init__(self, model: Any) -> None:
        self.constants = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is not None:
                    self.constants[node.output[0]] = value
        self.producer = {name: n for n in model.graph.node for name in n.output}
        self.readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        graph = _onnx.inferred(model).graph
        self.info = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}
        self.nodes = [n for n in model.graph.node if n.op_type not in PLUMBING and not self._stores(n)]
        self.shown = {name for n in model.graph.node for name in n.output if name}
        self.counted: set[str] = set()  # weights that an earlier layer has

    def _stores(self, node: Any) -> bool:
        """Whether a node only prepares a stored weight."""
        return node.op_type in PASSED and self.stored(node.output[0]) is not None

    def stored(self, name: str) -> Any | None:
        """The constant behind a tensor, through what dequantizes or reshapes it; or None."""
        for _ in range(8):
            if name in self.constants:
                return self.constants[name]
            node = self.producer.get(name)
            if node is None or node.op_type not in PASSED or not node.input:
                return None
            name = node.input[0]
        return None

    def shape(self, name: str) -> Shape:
        if name in self.constants:
            return tuple(self.constants[name].dims)
        return _onnx.shape_of(self.info[name]) if name in self.info else ()

    def dtype(self, name: str) -> str:
        if name in self.constants:
            return _onnx.dtype_name(self.constants[name].data_type)
        return _onnx.dtype_name(self.info[name].type.tensor_type.elem_type) if name in self.info else "unknown"

    def is_float(self, name: str) -> bool:
        return self.dtype(name) in ("float32", "float16")

    def result(self, node: Any) -> str:
        """The tensor that leaves a layer: after its QuantizeLinear (behind a Relu or Clip), where that is all that reads it."""
        name = at = str(node.output[0])
        for _ in range(2):
            readers = self.readers.get(at, [])
            if len(readers) != 1 or readers[0].op_type not in ("QuantizeLinear", "Relu", "Clip"):
                return name
            at = str(readers[0].output[0])
            if readers[0].op_type == "QuantizeLinear":
                return at
        return name


def _layer(graph: _View, node: Any) -> Layer:
    out = graph.result(node)
    shape = graph.shape(node.output[0])
    dtype = graph.dtype(out)
    count = size = 0
    for tensor in _weights(graph, node):
        if tensor.name not in graph.counted:
            graph.counted.add(tensor.name)
            elements = int(np.prod(tensor.dims, dtype=np.int64))
            count += elements
            size += -(-elements * _bits(_onnx.dtype_name(tensor.data_type)) // 8)
    return Layer(
        name=node.name or node.output[0],
        op=node.op_type,
        output=shape,
        dtype=dtype,
        parameters=count,
        bytes=size,
        macs=_macs(graph, node),
        activation_bytes=-(-_elements(shape) * _bits(dtype) // 8) if shape else 0,
    )


def _weights(graph: _View, node: Any) -> Iterator[Any]:
    """The constants of a layer that training made: not shapes, not bounds, not scales."""
    made = [graph.producer[name].op_type for name in node.input if name in graph.producer]
    if node.op_type in NO_WEIGHTS or ("DynamicQuantizeLinear" in made and node.op_type == "Mul"):
        return
    for i, name in enumerate(node.input):
        tensor = graph.stored(name) if i in INTEGER.get(node.op_type, (i,)) else None
        if tensor is None or not len(tensor.dims):
            continue
        kind = _onnx.dtype_name(tensor.data_type)
        behind = name not in graph.constants or node.op_type in INTEGER
        if (
            kind in ("float32", "float16", "float64", "bfloat16")
            or (behind and kind != "int64")
            or _is_table(node, kind)
        ):
            yield tensor


def _is_table(node: Any, kind: str) -> bool:
    return node.op_type == "Gather" and kind in ("int8", "uint8")


def _bits(dtype: str) -> int:
    """Bits of one element as stored.

    >>> _bits("int4"), _bits("bfloat16"), _bits("bool")
    (4, 16, 8)
    """
    digits = "".join(c for c in dtype if c.isdigit())
    return 8 if dtype in ("bool", "unknown", "string") or not digits else int(digits)


def _elements(shape: Sequence[int | None]) -> int:
    return int(np.prod([d or 1 for d in shape], dtype=np.int64))


def _macs(graph: _View, node: Any) -> int:
    """Multiply-accumulates of a node for one input."""
    op = node.op_type
    index = 3 if op.startswith("QLinear") else 1
    weight = graph.shape(node.input[index]) if len(node.input) > index else ()
    first, out = graph.shape(node.input[0]) if node.input else (), graph.shape(node.output[0])
    if not weight or not first or not out:
        weight = _behind(graph, node, weight)
    if op in ("Conv", "ConvInteger", "QLinearConv"):
        return _elements(out[2:]) * _elements(weight) if out else 0
    if op == "ConvTranspose":
        return _elements(first[2:]) * _elements(weight) if first else 0
    if op == "Gemm":
        transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
        return _elements(out) * (weight[1 if transposed else 0] or 1) if weight and out else 0
    if op in ("MatMul", "MatMulInteger", "QLinearMatMul") and first:
        return _elements(out) * (first[-1] or 1) if out else 0
    if op in ("LSTM", "GRU", "RNN") and first:
        recurrent = graph.stored(node.input[2])
        inner = _elements(weight) + (_elements(tuple(recurrent.dims)) if recurrent is not None else 0)
        return (first[0] or 1) * inner
    return 0


def _behind(graph: _View, node: Any, weight: Shape) -> Shape:
    """The shape of a stored weight where inference gave none."""
    stored = graph.stored(node.input[1]) if not weight and len(node.input) > 1 else None
    return weight if stored is None else tuple(stored.dims)


class _Side:
    """One of two files that are compared."""

    def __init__(self, path: Path, inputs: Mapping[str, Array]) -> None:
        self.path = path
        self.model = _onnx.read(path)
        self.specs: Artifact = Artifact.load(path) or describe(path)
        self.inputs = inputs
        missing = sorted({s.name for s in self.specs.inputs} - set(inputs))
        if missing:
            raise DataError(f"{path.name} has an input '{missing[0]}', which was not given", next="give all inputs")

    def run(self, session: Any, names: Sequence[str], start: int, stop: int) -> list[Array]:
        feed = {s.inside: s.quantize(self.inputs[s.name][start:stop]) for s in self.specs.inputs}
        return [np.asarray(a, np.float64) for a in session.run(list(names), feed)]


def _errors(pair: Sequence[_Side], names: Sequence[str], total: int) -> dict[str, float]:
    """Signal to quantization noise in dB of each tensor, over all inputs, in bounded memory."""
    batch = max(_onnx.fixed_batch(side.model) for side in pair) or min(CHUNK, total)
    energy = {name: np.zeros(2) for name in names}
    for group in _onnx.groups(pair[0].model, names, batch):
        if not group:
            continue
        try:
            sessions = [_onnx.session(_onnx.exposed(side.model, group)) for side in pair]
            for start in range(0, total - batch + 1, batch):
                values = [s.run(x, group, start, start + batch) for s, x in zip(pair, sessions, strict=True)]
                for name, a, b in zip(group, *values, strict=True):
                    energy[name] += ((a**2).sum(), ((a - b) ** 2).sum()) if a.shape == b.shape else (1.0, math.inf)
        except _onnx.runtime_errors() as error:
            raise ModelError(
                f"{pair[0].path.name} and {pair[1].path.name} cannot be compared: {_onnx.last_line(error)}",
                next="compare a quantized file with the float file it was made from",
            ) from error
    return {name: _decibels(signal, noise) for name, (signal, noise) in energy.items()}


def _decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite where there is no noise.

    >>> _decibels(100.0, 1.0), _decibels(1.0, 0.0)
    (20.0, inf)
    """
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and noise < math.inf else -math.inf
