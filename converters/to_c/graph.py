"""A .tflite file as a small typed graph: tensors with their scales, operators with their options, nothing of the format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ConversionError, ModelError
from .. import _tflite

MAX_ELEMENTS = 1 << 26  # of one tensor; no microcontroller has memory for more
DAMAGED = "copy or download the model again"
C_TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "uint8_t",
}
_NUMPY = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "int32": np.int32, "int64": np.int64, "bool": np.bool_,
          "float32": np.float32, "float16": np.float16}  # fmt: skip
_LIMITS = {
    "int8": (-128, 127), "int4": (-8, 7), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (-(1 << 31), (1 << 31) - 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor; `data` are a constant's values (int4 unpacked to int8), in its shape.

    `scales` (float32) and `zero_points` (int64) have one entry, or one for each index of `axis`; none: not quantized.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # "int8", "int4" (constants only), "int16", "int32", "int64", "bool", "float32"
    scales: Array
    zero_points: Array
    axis: int = 0
    data: Array | None = None
    variable: bool = False  # it keeps its values from one run to the next, and is (really) zero before the first

    @property
    def is_quantized(self) -> bool:
        return len(self.scales) > 0

    @property
    def scale(self) -> np.float32:
        """The scale of a tensor that has one. Raises Unsupported."""
        if len(self.scales) != 1:
            raise Unsupported(f"'{self.name}' has {len(self.scales) or 'no'} scales where one is needed")
        return np.float32(self.scales[0])

    @property
    def zero_point(self) -> int:
        """The zero point of a tensor that has one scale."""
        return int(self.zero_points[0]) if len(self.zero_points) else 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the arena."""
        return self.elements * np.dtype(_NUMPY["int8" if self.dtype == "int4" else self.dtype]).itemsize

    @property
    def values(self) -> Array:
        """A constant's values. Raises Unsupported for what is computed."""
        if self.data is None:
            raise Unsupported(f"'{self.name}' is computed, and firmware needs it as a constant")
        return self.data


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operator. `options` are those of schema.fbs by their names there; `inputs` has None for what is left out."""

    kind: str  # BuiltinOperator
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    intermediates: tuple[Tensor, ...] = ()  # tensors that exist only for their scales: those of an LSTM
    epilogue: Op | None = None  # an elementwise operator done on each result at once; its other input is `inputs[-1]`

    @property
    def name(self) -> str:
        return self.outputs[0].name if self.outputs else self.kind

    def input(self, index: int) -> Tensor:
        """An input that must be there. Raises Unsupported."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise Unsupported(f"input {index} is missing")
        return found

    def option(self, name: str, default: Any = 0) -> Any:
        return self.options.get(name, default)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Operators in an order in which they can run. Tensors are told apart by identity."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ops: tuple[Op, ...]

    def readers(self) -> dict[int, list[Op]]:
        """By id() of a tensor the operators that read it; outputs of the graph are read by nobody here."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in op.inputs:
                if tensor is not None:
                    found.setdefault(id(tensor), []).append(op)
        return found


class Unsupported(ValueError):
    """Why an operator cannot become C; the converter gathers them all."""


def read(path: Path) -> Graph:
    """The main graph of a .tflite. Raises ModelError for a damaged file, ConversionError for what no firmware can have:
    float computation, shapes that are not known, more than one graph."""
    model = _tflite.read(path)
    try:
        return _Reader(model, path.name).graph()
    except (IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path.name} is damaged: {error}", next=DAMAGED) from error


class _Reader:
    """One file on its way; tensors are made once each."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name, self.main = model, name, model.subgraphs[0]
        self.made: dict[int, Tensor] = {}

    def graph(self) -> Graph:
        main = self.main
        self._check_order()
        inputs = tuple(self.tensor(i) for i in main.inputs)
        ops = tuple(self._op(op) for op in main.operators)
        found = Graph(self.name, inputs, tuple(self.tensor(i) for i in main.outputs), ops)
        self._check_types(found)
        return found

    def _check_order(self) -> None:
        """Raise ModelError where something is used before it is computed, or computed twice."""
        main = self.main
        known = {i for i, t in enumerate(main.tensors) if _tflite.is_constant(self.model, t) or t.isVariable}
        known |= set(main.inputs) | {-1}
        for op in main.operators:
            missing = [i for i in op.inputs if i not in known and math.prod(main.tensors[i].shape) != 0]
            if missing:
                name = _tflite.text(main.tensors[missing[0]].name)
                raise ModelError(f"{self.name} is damaged: '{name}' is used before it is computed", next=DAMAGED)
            for i in op.outputs:
                if i in known:
                    raise ModelError(f"{self.name} is damaged: tensor {i} is computed twice", next=DAMAGED)
                known.add(i)
        lost = [i for i in main.outputs if i not in known]
        if lost or not main.outputs:
            raise ModelError(f"{self.name} is damaged: an output is never computed", next=DAMAGED)

    def tensor(self, index: int) -> Tensor:
        if index not in self.made:
            self.made[index] = self._tensor(index)
        return self.made[index]

    def _tensor(self, index: int) -> Tensor:
        given = self.main.tensors[index]
        name = _tflite.text(given.name) or f"tensor_{index}"
        signature = _tflite.indices(given.shapeSignature) or given.shape
        if any(d < 0 for d in signature[1:]) or any(d < 0 for d in given.shape):
            raise ConversionError(
                f"{self.name}: '{name}' has the shape {signature}, and firmware needs every size",
                next="export the model with fixed input sizes",
            )
        if math.prod(given.shape) > MAX_ELEMENTS:
            raise ModelError(f"{self.name}: '{name}' has the absurd shape {given.shape}", next=DAMAGED)
        scales, zero_points, axis = _quantization(given)
        data, dtype = self._data(given), _tflite.type_name(given.type)
        if dtype not in _NUMPY and dtype != "int4":
            raise ConversionError(
                f"{self.name}: '{name}' is of the type {dtype}, which firmware does not know",
                next="quantize the model: edgedl compress MODEL --data DATA --quantize int8",
            )
        per_channel = len(scales) > 1
        if per_channel and not (0 <= axis < len(given.shape) and len(scales) == given.shape[axis]):
            scales, axis = self._repaired(name, given, scales)
            zero_points = np.resize(zero_points, len(scales))
        return Tensor(name, tuple(given.shape), dtype, scales, zero_points, axis, data, bool(given.isVariable))

    def _repaired(self, name: str, given: Any, scales: Array) -> tuple[Array, int]:
        """The axis that scales can only be along where the file names another (old converters did)."""
        fits = [i for i, d in enumerate(given.shape) if d == len(scales)]
        if len(fits) != 1:
            raise ModelError(
                f"{self.name} is damaged: '{name}' of shape {given.shape} has {len(scales)} scales", next=DAMAGED
            )
        return scales, fits[0]

    def _data(self, given: Any) -> Array | None:
        raw = _tflite.raw(self.model, given)
        if raw is None:
            return np.zeros(given.shape, np.int32) if math.prod(given.shape) == 0 else None
        kind = _tflite.type_name(given.type)
        if kind == "int4":
            low = np.stack([raw << 4, raw], -1).reshape(-1)[: math.prod(given.shape)].astype(np.int8) >> 4
            return np.asarray(low, np.int8).reshape(given.shape)
        if kind not in _NUMPY:
            raise Unsupported(f"constants of the type {kind} are not known")
        return np.frombuffer(raw.tobytes(), _NUMPY[kind])[: math.prod(given.shape)].reshape(given.shape)

    def _op(self, op: Any) -> Op:
        options = {} if op.builtinOptions is None else dict(vars(op.builtinOptions))
        inputs = tuple(None if i < 0 else self.tensor(i) for i in op.inputs)
        version = int(self.model.operatorCodes[op.opcodeIndex].version)
        outputs = tuple(self.tensor(i) for i in op.outputs)
        between = tuple(self.tensor(i) for i in _tflite.indices(op.intermediates))
        return Op(_tflite.op_name(self.model, op), inputs, outputs, options, version, between)

    def _check_types(self, graph: Graph) -> None:
        """Raise ConversionError for a float model."""
        ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
        inner = [t for op in graph.ops for t in op.outputs if id(t) not in ends]
        floats = [t for t in inner if t.dtype in ("float32", "float16")]
        if floats or (not inner and any(t.dtype == "float32" for t in graph.inputs)):
            kinds = "float" if len(floats) > len(inner) / 2 or not inner else f"float in part (at '{floats[0].name}')"
            raise ConversionError(
                f"{self.name} is {kinds}, and firmware computes with integers",
                next="quantize it: edgedl compress MODEL --data DATA --quantize int8",
            )


def _quantization(given: Any) -> tuple[Array, Array, int]:
    """(scales float32, zero points int64, axis). Raises ValueError for scales that are not positive numbers."""
    q = given.quantization
    if q is None or q.scale is None or len(q.scale) == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    scales = np.asarray(q.scale, np.float32)
    zero_points = np.zeros(len(scales), np.int64) if q.zeroPoint is None else np.asarray(q.zeroPoint, np.int64)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ValueError(f"'{_tflite.text(given.name)}' has a scale that is no positive number")
    if len(zero_points) != len(scales):
        zero_points = np.resize(zero_points, len(scales)) if len(zero_points) else np.zeros(len(scales), np.int64)
    low, high = _LIMITS.get(_tflite.type_name(given.type), _LIMITS["int32"])
    if ((zero_points < low) | (zero_points > high)).any():
        raise ValueError(f"'{_tflite.text(given.name)}' has a zero point outside its type")
    return scales, zero_points, int(q.quantizedDimension or 0)
