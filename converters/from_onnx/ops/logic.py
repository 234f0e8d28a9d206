"""Comparisons, logic, choices and bits."""

from __future__ import annotations

from typing import Any

from ..._frameworks import keras
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
    ops = keras().ops
    shift: Any = ops.left_shift if node.text("direction") == "LEFT" else ops.right_shift
    return b.elementwise(lambda left, right: ops.cast(shift(left, right), x.dtype), x, y)


@op("Where")
def where(b: Builder, node: Node, condition: Value, x: Value, y: Value) -> Value:
    return b.elementwise(keras().ops.where, condition, x, y)
