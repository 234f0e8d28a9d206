"""Step: one operator of a .tflite file as its handler sees it, and the table of handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ...artifact import Array
from .._emit import Emit, Shape
from .._tflite import schema

RELU, RELU_N1_TO_1, RELU6, TANH = 1, 2, 3, 4  # ActivationFunctionType of schema.fbs
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)  # orders of axes: to NHWC, to NCHW


class Unsupported(Exception):
    """Why one operator cannot be taken over; collected and reported with all the others."""


class Names(Protocol):
    """What a step asks of the graph around it."""

    emit: Emit
    notes: list[str]

    def value(self, index: int) -> str:
        """The ONNX value of a tensor."""

    def bind(self, index: int, value: str) -> None:
        """Say which value a tensor is."""

    def wish(self, index: int) -> str:
        """The name that a tensor's value should have."""

    def clamp(self, index: int) -> int:
        """The ActivationFunctionType that a quantized tensor's range stands for (0: none)."""

    def tensor(self, index: int) -> Any:
        """The TensorT."""


class Step:
    """One operator: its inputs as ONNX values, its options, and where its results go."""

    def __init__(self, graph: Names, op: Any, kind: str) -> None:
        self.graph, self.emit, self.op, self.kind = graph, graph.emit, op, kind

    def has(self, i: int) -> bool:
        """Whether an optional input is there."""
        return i < len(self.op.inputs) and self.op.inputs[i] >= 0

    def x(self, i: int = 0) -> str:
        """The ONNX value of an input. Raises Unsupported where it is missing."""
        if not self.has(i):
            raise Unsupported(f"its input {i} is missing")
        return self.graph.value(self.op.inputs[i])

    def values(self) -> list[str]:
        """All inputs."""
        return [self.x(i) for i in range(len(self.op.inputs))]

    def maybe_array(self, i: int) -> Array | None:
        """The values of an input that is constant, else None."""
        return self.emit.constants.get(self.x(i)) if self.has(i) else None

    def array(self, i: int) -> Array:
        """The values of a constant input. Raises Unsupported for one that is computed."""
        found = self.maybe_array(i)
        if found is None:
            raise Unsupported(f"its input {i} is computed, and is known only for a constant")
        return found

    def ints(self, i: int) -> list[int]:
        """The values of a constant integer input."""
        return [int(v) for v in self.array(i).reshape(-1)]

    def shape(self, i: int = 0) -> Shape:
        """The sizes of an input. Raises Unsupported where not even their number is known."""
        found = self.emit.shape(self.x(i))
        if found is None:
            raise Unsupported(f"the rank of its input {i} is not known")
        return found

    def fixed(self, i: int = 0) -> list[int]:
        """The sizes of an input, all known. Raises Unsupported."""
        found = [s for s in self.shape(i) if s is not None]
        if len(found) != len(self.shape(i)):
            raise Unsupported("it needs fixed sizes: give them with --input NAME=SHAPE")
        return found

    def option(self, name: str, options: str) -> Any:
        """A field of the operator's options table (`options`: its name in schema.fbs), or its default."""
        table = self.op.builtinOptions
        kind = getattr(schema(), f"{options}T")
        return getattr(table if isinstance(table, kind) else kind(), name)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node in the middle of what this step emits."""
        return self.emit(op, *inputs, name=f"{self.graph.wish(self.op.outputs[0])};{op}", **attributes)

    def last(self, op: str, *inputs: str, activation: int = 0, **attributes: Any) -> None:
        """The node that makes the first result, and the fused activation behind it."""
        clamp = activation or self.graph.clamp(self.op.outputs[0])
        if clamp:
            self.out(self.activated(self(op, *inputs, **attributes), clamp))
        elif op == "Identity":
            self.out(inputs[0])
        else:
            self.out(self.emit(op, *inputs, name=self.graph.wish(self.op.outputs[0]), **attributes))

    def out(self, value: str, i: int = 0) -> None:
        """A value is result number i."""
        if i < len(self.op.outputs):
            self.graph.bind(self.op.outputs[i], value)

    def outs(self, values: Sequence[str]) -> None:
        """The results."""
        for i, value in enumerate(values):
            self.out(value, i)

    def activated(self, x: str, activation: int) -> str:
        """A value behind a fused activation, named as the first result. Raises Unsupported."""
        name = self.graph.wish(self.op.outputs[0])
        limits = {RELU_N1_TO_1: (-1.0, 1.0), RELU6: (0.0, 6.0)}
        if activation in limits:
            low, high = (self.float(v) for v in limits[activation])
            return self.emit("Clip", x, low, high, name=name)
        if activation in (RELU, TANH):
            return self.emit("Relu" if activation == RELU else "Tanh", x, name=name)
        if activation:
            raise Unsupported(f"its fused activation {activation} is not known")
        return x

    def float(self, value: float) -> str:
        """A scalar constant."""
        return self.emit.constant(np.float32(value))

    def longs(self, values: Sequence[int]) -> str:
        """A constant vector of int64."""
        return self.emit.constant(list(values), np.int64)

    def cast(self, x: str, dtype: Any) -> str:
        """A value in another type; itself where it has it."""
        if self.emit.dtype(x) == np.dtype(dtype):
            return x
        return self("Cast", x, to=int(self.emit.o.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))


Handler = Callable[[Step], None]
HANDLERS: dict[str, Handler] = {}


def op(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for BuiltinOperator names."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register
