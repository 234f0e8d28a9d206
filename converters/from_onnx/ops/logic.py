"""Comparisons, logic, choices and bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....frameworks import keras
from ..builder import Builder
from ..node import Node
from ..value import Value
from . import op

_BINARY = {
    "Equal": "equal", "Less": "less", "Greater": "greater", "LessOrEqual": "less_equal",
    "GreaterOrEqual": "greater_equal", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
}  # fmt: skip


def _binary(name: str, function: str) -> None:
    @op(name)
    def build(b: Builder, node: Node, x: Value, y: Value) -> Value:
        return b.elementwise(getattr(keras().ops, function), x, y)


for _name, _function in _BINARY.items():
    _binary(_name, _function)


@op("Not")
def logical_not(b: Builder, node: Node, x: Value) -> Value:
    return b.unary(keras().ops.logical_not, x)


@op("BitwiseNot")
def bitwise_not(b: Builder, node: Node, x: Value) -> Value:
    return b.unary(keras().ops.bitwise_not, x)


@op("BitShift")
def bit_shift(b: Builder, node: Node, x: Value, y: Value) -> Value:
    """Shifts by less than the width of the type; by more, or by a negative number, everything is shifted out."""
    ops, left = keras().ops, node.text("direction") == "LEFT"
    width, unsigned = np.iinfo(x.dtype).bits, x.dtype.startswith("uint")

    def apply(t: Any, by: Any) -> Any:
        inside = ops.logical_and(ops.greater_equal(by, 0), ops.less(by, width))
        near = ops.clip(by, 0, width - 1)
        shifted = ops.left_shift(t, near) if left else ops.right_shift(t, near)
        gone = ops.zeros_like(shifted) if left or unsigned else ops.right_shift(t, ops.full_like(t, width - 1))
        return ops.cast(ops.where(inside, shifted, gone), x.dtype)

    def simple(t: Any, by: Any) -> Any:
        return ops.cast(ops.left_shift(t, by) if left else ops.right_shift(t, by), x.dtype)

    small = y.is_constant and bool(np.all((y.array >= 0) & (y.array < width)))
    return b.elementwise(simple if small else apply, x, y)


@op("Where")
def where(b: Builder, node: Node, condition: Value, x: Value, y: Value) -> Value:
    return b.elementwise(keras().ops.where, condition, x, y)
