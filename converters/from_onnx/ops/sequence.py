"""Sequences of tensors, as far as their length and every position in them are known before the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..builder import Builder
from ..control import joined, pieces, stacked
from ..layout import NotFree
from ..node import Node, Unsupported, axis_of
from ..value import Value
from . import op
from .shaping import split

MAX_LENGTH = 4096


def _items(v: Value) -> tuple[Value, ...]:
    if v.items is None:
        raise Unsupported("a tensor where a sequence is needed")
    return v.items


def _position(v: Value, length: int) -> int:
    """A position in a sequence, from the front. Raises Unsupported."""
    at = int(v.array.reshape(-1)[0])
    if not -length <= at < max(length, 1):
        raise Unsupported(f"position {at} in a sequence of {length}")
    return at + length if at < 0 else at


@op("SequenceEmpty")
def sequence_empty(b: Builder, node: Node) -> Value:
    return Value.sequence(())


@op("SequenceConstruct")
def sequence_construct(b: Builder, node: Node, *values: Value) -> Value:
    return Value.sequence(values)


@op("SequenceLength")
def sequence_length(b: Builder, node: Node, sequence: Value) -> Value:
    return Value.of_constant(np.array(len(_items(sequence)), np.int64))


@op("SequenceAt")
def sequence_at(b: Builder, node: Node, sequence: Value, position: Value) -> Value:
    items = _items(sequence)
    at = _position(position, len(items))
    if not items:
        raise Unsupported("an entry of an empty sequence")
    return items[at]


@op("SequenceInsert")
def sequence_insert(b: Builder, node: Node, sequence: Value, value: Value, position: Value | None = None) -> Value:
    items = list(_items(sequence))
    if len(items) >= MAX_LENGTH:
        raise Unsupported(f"a sequence of more than {MAX_LENGTH}")
    at = len(items) if position is None else int(position.array.reshape(-1)[0])
    if not -len(items) <= at <= len(items):
        raise Unsupported(f"position {at} in a sequence of {len(items)}")
    items.insert(at, value)
    return Value.sequence(items)


@op("SequenceErase")
def sequence_erase(b: Builder, node: Node, sequence: Value, position: Value | None = None) -> Value:
    items = list(_items(sequence))
    if not items:
        raise Unsupported("an entry of an empty sequence")
    items.pop(len(items) - 1 if position is None else _position(position, len(items)))
    return Value.sequence(items)


@op("SplitToSequence")
def split_to_sequence(b: Builder, node: Node, x: Value, sizes: Value | None = None) -> Value:
    axis = axis_of(node.integer("axis"), x.rank)
    length = x.shape[axis]
    if length is None:
        if b.freed:
            raise NotFree
        raise Unsupported("splitting the batch")
    parts = [1] * length
    if sizes is not None:
        array = sizes.array
        step = int(array) if array.ndim == 0 else 0
        parts = [min(step, length - i) for i in range(0, length, step)] if step > 0 else array.reshape(-1).tolist()
    if len(parts) > MAX_LENGTH or sum(parts) != length or min(parts, default=0) < 0:
        raise Unsupported(f"splitting {length} into {len(parts)} parts")
    if sizes is None and not node.integer("keepdims", 1):
        return Value.sequence(pieces(x, axis))
    if x.constant is not None:
        cuts = np.cumsum(parts)[:-1]
        both = [np.split(a, cuts, axis) for a in x.constant.at]
        return Value.sequence([Value.of_constant(*pair) for pair in zip(*both, strict=True)])
    cut = Node(node.proto, node.opset, node.name, {"axis": axis})
    return Value.sequence(split(b, cut, x, Value.of_constant(np.array(parts, np.int64))))


@op("Optional")
def optional(b: Builder, node: Node, x: Value | None = None) -> Value:
    if x is None:
        raise Unsupported("an optional value that is absent")
    return x


@op("OptionalGetElement")
def optional_get_element(b: Builder, node: Node, x: Value) -> Value:
    return x


@op("OptionalHasElement")
def optional_has_element(b: Builder, node: Node, x: Value | None = None) -> Value:
    return Value.of_constant(np.array(x is not None, np.bool_))


@op("ConcatFromSequence")
def concat_from_sequence(b: Builder, node: Node, sequence: Value) -> Any:
    items, axis = _items(sequence), node.integer("axis")
    if not items:
        raise Unsupported("an empty sequence")
    if node.integer("new_axis"):
        return stacked(b, node, items, axis)
    return joined(b, node, items, axis_of(axis, items[0].rank))
