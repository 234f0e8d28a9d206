"""The .tflite graph as an ONNX graph: constants dequantized, activations float, every operator by its handler."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError
from .. import _tflite
from .._emit import DAMAGED, Emit
from . import convolution, elementwise, loops, recurrent, shapes  # for their handlers
from .step import HANDLERS, RELU, RELU6, Step, Unsupported

Sizes = Sequence[int | str | None]
FAMILIES = (convolution, elementwise, loops, recurrent, shapes)
MAX_INPUT = 1 << 28  # elements of one input
QUANTIZED = frozenset({_tflite.INT8, _tflite.UINT8, _tflite.INT16, _tflite.INT4, _tflite.INT32, _tflite.INT64})
LIMITS = {_tflite.INT8: (-128, 127), _tflite.UINT8: (0, 255), _tflite.INT16: (-32768, 32767)}
MAY_BE_NEGATIVE = frozenset(  # operators behind which an older converter left a ReLU to the range of the result
    {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "ADD", "SUB", "MUL", "DIV"}
)
STORED = {3: np.uint8, 6: np.bool_, 10: np.float64, 12: np.uint64, 15: np.uint32, 16: np.uint16}  # besides _tflite's


class Graph:
    """One subgraph on its way to ONNX."""

    def __init__(
        self, model: Any, graph: Any, name: str, depth: int = 0, ends: Mapping[int, str] | None = None
    ) -> None:
        self.model, self.graph, self.name, self.depth = model, graph, name, depth
        self.emit = Emit(name)
        self.notes: list[str] = []
        self.ranges: dict[str, tuple[float, float]] = {}
        self.bound: dict[int, str] = {}
        self.kind = ""
        self.walks = [0]  # subgraphs of loops that were gone through, in all that one graph leads to
        self.wishes = _unique_names(graph.tensors, ends or {})  # ends: names of inputs and outputs

    def tensor(self, index: int) -> Any:
        """The TensorT of an index."""
        return self.graph.tensors[index]

    def wish(self, index: int) -> str:
        """The name that a tensor's value should have: the file's own, made unique."""
        return self.wishes[index]

    def value(self, index: int) -> str:
        """The ONNX value of a tensor; constants are brought in on the way. Raises ModelError, Unsupported."""
        if index not in self.bound:
            tensor = self.tensor(index)
            if tensor.isVariable:
                raise Unsupported(f"'{self.wishes[index]}' is a state that it keeps between calls")
            if not _tflite.is_constant(self.model, tensor) and math.prod(tensor.shape) != 0:
                raise ModelError(f"{self.name} is damaged: '{self.wishes[index]}' is used before it is computed", next=DAMAGED)  # fmt: skip
            self.bound[index] = self.emit.constant(constant(self.model, tensor, self.name), name=self.wishes[index])
        return self.bound[index]

    def bind(self, index: int, value: str) -> None:
        """Say which value a tensor is, and keep its range."""
        self.bound[index] = value
        found = real_range(self.tensor(index))
        if found and value not in self.emit.constants:
            self.ranges.setdefault(value, found)

    def clamp(self, index: int) -> int:
        """RELU or RELU6 where a quantized result cannot go below zero and its operator names no activation."""
        found = real_range(self.tensor(index))
        if not found or self.kind not in MAY_BE_NEGATIVE or found[0] < 0:
            return 0
        return RELU6 if abs(found[1] - 6) < 0.03 else RELU

    def input(self, index: int, sizes: Sizes, dtype: Any = None) -> None:
        """Declare an input of the graph. Raises ModelError for a type or size that cannot be."""
        tensor, name = self.tensor(index), self.wishes[index]
        kind = dtype or (np.float32 if is_quantized(tensor) else shapes.TYPES.get(tensor.type))
        if kind is None:
            raise ModelError(f"{self.name}: input '{name}' is of the type {_tflite.type_name(tensor.type)}, which edgedl "
                             "does not take", next="cut it off with --from, or export the model without it")  # fmt: skip
        known = [n for n in sizes if isinstance(n, int)]
        if any(n < 0 for n in known) or math.prod(known) > MAX_INPUT:
            raise ModelError(f"{self.name}: input '{name}' has the absurd shape {list(sizes)}", next=DAMAGED)
        self.emit.input(name, kind, sizes)
        self.bind(index, name)

    def run(self) -> None:
        """Emit every operator. Raises ModelError with all those that cannot be."""
        problems = []
        for op in fold_atrous(self.model, self.graph):
            self.kind = _tflite.op_name(self.model, op)
            where = self.wishes[op.outputs[0]] if op.outputs else "?"
            handler = HANDLERS.get(self.kind)
            try:
                if handler is None:
                    raise Unsupported("this operator is not known")
                handler(Step(self, op, self.kind))
            except Unsupported as reason:
                problems.append(f"'{where}' ({self.kind}): {reason}")
                self._pretend(op)
            except (ValueError, TypeError, IndexError, OverflowError, AttributeError) as error:
                raise ModelError(f"{self.name} is damaged: '{where}' ({self.kind}): {error}", next=DAMAGED) from error
        if problems:
            raise unsupported(self.name, problems)

    def _pretend(self, op: Any) -> None:
        """Results of what cannot be emitted, so that the rest can be looked at."""
        for index in op.outputs:
            tensor = self.tensor(index)
            value = self.emit.fresh(self.wishes[index])
            dtype = np.float32 if is_quantized(tensor) else shapes.TYPES.get(tensor.type, np.float32)
            element = self.emit.o.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            self.emit.types[value] = self.emit.o.helper.make_tensor_type_proto(element, tensor.shape)
            self.bound[index] = value

    def outputs(self) -> list[str]:
        """The graph's outputs by their names: an Identity where a value is a constant, an input or named otherwise."""
        found: list[str] = []
        for index in self.graph.outputs:
            value = self.value(index)
            if (
                value in self.emit.constants
                or value in self.emit.inputs
                or value in found
                or value != self.wishes[index]
            ):
                value = self.emit("Identity", value, name=self.wishes[index])
                self.bind(index, value)
            found.append(value)
        return found


def unsupported(name: str, problems: list[str]) -> ModelError:
    """The error that lists every operator in the way, alike ones once."""
    counted = list(dict.fromkeys(problems))
    listed = counted[0] if len(counted) == 1 else "".join(f"\n  - {p}" for p in counted[:200])
    more = f"\n  ... and {len(counted) - 200} more" if len(counted) > 200 else ""
    return ModelError(
        f"cannot rebuild {name}: {listed}{more}",
        next="docs/importers/tflite.md lists the operators; quantize or bench the file as it is (form='auto'), or "
        "load the model that it was made from",
    )


def _unique_names(tensors: Sequence[Any], ends: Mapping[int, str]) -> list[str]:
    """Names of the tensors: `ends`, else the file's own; a number behind those that are there twice or empty."""
    seen: Counter[str] = Counter(ends.values())
    names = []
    for i, tensor in enumerate(tensors):
        if i in ends:
            names.append(ends[i])
            continue
        name = _tflite.text(tensor.name) or f"tensor_{i}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name};{i}")
    return names


def is_quantized(tensor: Any) -> bool:
    """Whether its integers stand for real numbers."""
    q = tensor.quantization
    return tensor.type in QUANTIZED and q is not None and q.scale is not None and len(q.scale) > 0


def real_range(tensor: Any) -> tuple[float, float] | None:
    """(min, max) of the real numbers that a quantized activation can hold: (qmin - zero_point) * scale ..."""
    if tensor.type not in LIMITS or not is_quantized(tensor):
        return None
    scale = float(tensor.quantization.scale[0])
    zero = tensor.quantization.zeroPoint
    zero_point = int(zero[0]) if zero is not None and len(zero) else 0
    low, high = ((q - zero_point) * scale for q in LIMITS[tensor.type])
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def constant(model: Any, tensor: Any, name: str) -> Array:
    """The values of a constant as they are used: quantized and half ones as float32. Raises ModelError, Unsupported."""
    if tensor.sparsity is not None:
        raise Unsupported(f"the weights '{_tflite.text(tensor.name)}' are stored sparse")
    try:
        values = _stored(model, tensor)
        if is_quantized(tensor):
            return dequantized(values, tensor.quantization)
    except ValueError as error:
        raise ModelError(f"{name} is damaged: constant '{_tflite.text(tensor.name)}': {error}", next=DAMAGED) from error
    return values.astype(np.float32) if values.dtype in (np.float16, np.float64) else values


def _stored(model: Any, tensor: Any) -> Array:
    data = _tflite.raw(model, tensor)
    if data is None:
        return np.zeros(tensor.shape, shapes.TYPES.get(tensor.type, np.float32))
    if tensor.type == _tflite.INT4:
        nibbles = np.stack([data & 15, data >> 4], axis=1).reshape(-1)[: _tflite.elements(tensor)].astype(np.int8)
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).reshape(tensor.shape)
    if tensor.type in STORED:
        return np.frombuffer(data.tobytes(), STORED[tensor.type]).reshape(tensor.shape)
    return _tflite.values(model, tensor)


def dequantized(values: Array, q: Any) -> Array:
    """(values - zero_point) * scale, along the axis that has as many entries as there are scales.

    Some files name an axis that does not fit (person_detect of TensorFlow Lite Micro); then the only axis of that size
    is meant. Raises ValueError where there is none.
    """
    scale = np.asarray(q.scale, np.float64)
    zero = np.asarray(q.zeroPoint if q.zeroPoint is not None and len(q.zeroPoint) else [0], np.float64)
    if not np.isfinite(scale).all():
        raise ValueError("a scale is not finite")
    if scale.size == 1:
        return ((values.astype(np.float64) - zero.flat[0]) * scale.flat[0]).astype(np.float32)
    axis = int(q.quantizedDimension)
    if not 0 <= axis < values.ndim or values.shape[axis] != scale.size:
        fitting = [a for a, n in enumerate(values.shape) if n == scale.size]
        if len(fitting) != 1:
            raise ValueError(f"it has {scale.size} scales and the shape {list(values.shape)}")
        axis = fitting[0]
    around = [1] * values.ndim
    around[axis] = scale.size
    zeros = zero.reshape(around) if zero.size == scale.size else zero.flat[0]
    return ((values.astype(np.float64) - zeros) * scale.reshape(around)).astype(np.float32)


def fold_atrous(model: Any, graph: Any) -> list[Any]:
    """The operators, with SPACE_TO_BATCH_ND -> convolution -> BATCH_TO_SPACE_ND as one dilated convolution.

    The pattern is TensorFlow's own way to run a dilation d: padding before, cropping after. On the whole image it is a
    convolution with dilation d whose padding is the pad less the crop (plus d times the inner padding).
    """
    users = Counter(i for op in graph.operators for i in op.inputs) + Counter(graph.outputs)
    producer = {o: op for op in graph.operators for o in op.outputs}
    gone: set[int] = set()
    for last in graph.operators:
        if _tflite.op_name(model, last) != "BATCH_TO_SPACE_ND" or not last.inputs:
            continue
        conv = producer.get(last.inputs[0])
        first = producer.get(conv.inputs[0]) if conv is not None and conv.inputs else None
        if conv is None or first is None or users[last.inputs[0]] != 1 or users[conv.inputs[0]] != 1:
            continue
        found = _atrous(model, graph, first, conv, last)
        if found:
            conv.inputs[0], conv.outputs, conv.atrous = first.inputs[0], list(last.outputs), found
            gone |= {id(first), id(last)}
    return [op for op in graph.operators if id(op) not in gone]


def _atrous(model: Any, graph: Any, first: Any, conv: Any, last: Any) -> tuple[list[int], list[int]] | None:
    """(dilations, pads) of the whole, or None where the three do not make one convolution."""
    kind = _tflite.op_name(model, conv)
    if _tflite.op_name(model, first) != "SPACE_TO_BATCH_ND" or kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return None
    options = conv.builtinOptions
    if getattr(options, "strideH", 0) != 1 or getattr(options, "strideW", 0) != 1:
        return None
    if options.dilationHFactor != 1 or options.dilationWFactor != 1:
        return None
    try:
        block, pads, again, crops = (
            _tflite.values(model, graph.tensors[op.inputs[i]]).reshape(-1) for op in (first, last) for i in (1, 2)
        )
    except (ValueError, IndexError):
        return None
    if len(block) != 2 or len(pads) != 4 or len(crops) != 4 or list(block) != list(again) or min(block) < 1:
        return None
    kernel = graph.tensors[conv.inputs[1]].shape[1:3]
    inner = [(0, 0)] * 2 if options.padding else [((k - 1) // 2, k // 2) for k in kernel]
    whole = [int(inner[i // 2][i % 2] * block[i // 2] + pads[i] - crops[i]) for i in range(4)]
    if min(whole) < 0:
        return None
    return [int(b) for b in block], [whole[0], whole[2], whole[1], whole[3]]


def source_graph(
    model: Any, name: str, sizes: Mapping[str, Sizes], ends: Mapping[int, str] | None = None
) -> tuple[Graph, list[str]]:
    """The main graph as ONNX, and its outputs; `sizes` replaces the shape of inputs, `ends` the names of tensors. Raises ModelError."""
    main = model.subgraphs[0]
    graph = Graph(model, main, name, ends=ends)
    for index in main.inputs:
        if index in graph.bound or index < 0:
            raise ModelError(f"{name} is damaged: one of its inputs is there twice or nowhere", next=DAMAGED)
        graph.input(index, sizes.get(graph.wish(index), main.tensors[index].shape))
    if not main.outputs:
        raise ModelError(f"{name} is damaged: its graph has no output", next=DAMAGED)
    graph.run()
    return graph, graph.outputs()
