"""MXNet operators in ONNX: the table, in which every operator has one function, and what the functions share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...artifact import Array
from .._onnx import array
from .._onnx_build import Graph, Unsupported, axis_of
from .files import Node, parse_value

AXES_MAX = 32


@dataclass(frozen=True, slots=True)
class Op:
    """A node with its inputs as ONNX tensors; `outs` are the names its outputs are to have."""

    node: Node
    xs: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    def get(self, key: str, default: Any, kind: type | tuple[type, ...] = (int, float)) -> Any:
        """A parameter, or `default` where it is not written. Raises Unsupported where it is not of this kind."""
        if key not in self.node.attrs:
            return default
        value = parse_value(self.node.attrs[key])
        if value is None and default is None:
            return None
        wrong = isinstance(value, bool) and kind is not bool
        if kind is bool and value in (0, 1):
            return bool(value)
        if kind is str:
            return str(value)
        if not isinstance(value, kind) or wrong or (isinstance(value, float) and math.isnan(value)):
            raise Unsupported(f"its parameter {key}={self.node.attrs[key][:60]} cannot be read")
        return value

    def whole(self, key: str, default: Any) -> Any:
        """A whole number."""
        return self.get(key, default, int)

    def needed(self, key: str) -> int:
        """A whole number that has to be written."""
        value = self.whole(key, None)
        if value is None:
            raise Unsupported(f"its parameter {key} is missing")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default it has to be written."""
        value = self.get(key, default)
        if value is None or not -1e38 < value < 1e38:
            raise Unsupported(f"its parameter {key} is missing or not a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        return bool(self.get(key, default, bool))

    def word(self, key: str, default: str) -> str:
        """A text."""
        return str(self.get(key, default, str))

    def ints(self, key: str, n: int, default: int | None) -> tuple[int, ...]:
        """A tuple of `n` whole numbers; one number stands for all of them."""
        value = self.get(key, (), (tuple, int))
        values = (value,) * n if isinstance(value, int) else value
        if not values and default is not None:
            return (default,) * n
        if len(values) != n or not all(isinstance(v, int) and 0 <= v < 1 << 16 for v in values):
            raise Unsupported(f"its parameter {key}={self.node.attrs.get(key)} does not fit {n} dimensions")
        return tuple(values)

    def only(self, key: str, *allowed: str) -> str:
        """A text that has to be one of these; the first is the default."""
        value = self.word(key, allowed[0])
        if value not in allowed:
            raise Unsupported(f"its parameter {key}={value} is not imported")
        return value


@dataclass(slots=True)
class MxGraph(Graph):
    """A Graph with the values of the parameter file, which become constants where they are used."""

    def value(self, x: str) -> Array:
        """A parameter's value. Raises Unsupported for what is computed."""

        if x not in self.constants:
            raise Unsupported(f"its input '{x}' is not a stored parameter")
        return array(self.constants[x])


Builder = Callable[[MxGraph, Op], None]
OPS: dict[str, Builder] = {}
ARITY: dict[str, tuple[int, int]] = {}
MANY = 1 << 16
LABELLED = frozenset(
    {
        "SoftmaxOutput",
        "Softmax",
        "LogisticRegressionOutput",
        "LinearRegressionOutput",
        "MAERegressionOutput",
        "SVMOutput",
    }
)  # operators whose second input is a label: only the first counts
REFUSED = {
    "_contrib_MultiBoxDetection": "non-maximum suppression is left to the application: end the model before it",
    "_contrib_box_nms": "non-maximum suppression is left to the application: end the model before it",
    "Custom": "it runs Python code that is not in the file",
    "_arange": "it makes a tensor of its own, without an input",
    "arange": "it makes a tensor of its own, without an input",
    "RNN": "fused recurrent layers are not imported; unfuse the cell before saving (FusedRNNCell.unfuse)",
    "ROIPooling": "regions of interest are not imported",
}


def builds(*names: str, inputs: int | tuple[int, int] = 1) -> Callable[[Builder], Builder]:
    """Register the builder of operators with this many inputs (or from, to)."""

    def register(builder: Builder) -> Builder:
        for name in names:
            OPS[name] = builder
            ARITY[name] = (inputs, inputs) if isinstance(inputs, int) else inputs
        return builder

    return register


def axes_named(g: MxGraph, op: Op, key: str) -> tuple[int, ...]:
    """The dimensions of the first input that a parameter names, none where it is not written."""
    value = op.get(key, None, (tuple, int))
    values = () if value is None else (value,) if isinstance(value, int) else value
    if len(values) > AXES_MAX or not all(isinstance(v, int) for v in values):
        raise Unsupported(f"its parameter {key}={value} cannot be read")
    return tuple(axis_of(v, g.rank(op.xs[0])) for v in values)


def scalar_op(g: MxGraph, op: Op, onnx_op: str, x: str, value: float, *, first: bool = False) -> None:
    """An operator of `x` and a number, as the node's result."""
    other = g.scalar(value, x, f"{op.name}/scalar")
    g.add(onnx_op, *((other, x) if first else (x, other)), name=op.name, out=op.outs[0])
