"""Builder: walks the nodes of an ONNX graph, asks the table of operators for each, and keeps what every name stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras
from .elementwise import broadcast
from .layout import Dims, NotFree, flat, new_dim, size
from .node import Node
from .value import Value, of_tensor

INLINE = 64  # a constant of at most so many elements is written into the graph; a larger one becomes a weight


@dataclass(slots=True)
class Builder:
    """The model as far as it is built."""

    reference: Any  # a Keras input: constants that must be tensors hang on it
    freed: bool = False  # whether the batch was 1 in the file and is any number here
    names: set[str] = field(default_factory=set)
    renamed: dict[str, Any] = field(default_factory=dict)  # operations of Keras by the names they were given here
    node: Node | None = None
    scope: MutableMapping[str, Value] = field(default_factory=dict)  # what the names mean where the walk is
    depth: int = 0  # how many bodies of control flow the walk is in
    made: int = 0  # nodes of such bodies so far
    bodies: dict[tuple[int, str], tuple[Node, Any]] = field(default_factory=dict)  # each is read once

    # --- names

    def name(self, suffix: str = "") -> str:
        """A name of its own for what is made of the node at hand."""
        base = (
            re.sub(r"[^A-Za-z0-9_.\-]+", "_", (self.node.name if self.node else "model") + suffix).strip("_") or "node"
        )
        found, count = base, 1
        while found in self.names:
            found, count = f"{base}_{count}", count + 1
        self.names.add(found)
        return found

    def layer(
        self, cls: str, *inputs: Any, weights: Sequence[Array] | None = None, suffix: str = "", **config: Any
    ) -> Any:
        """Call a new Keras layer, with weights if given; returns its output."""
        made = getattr(keras().layers, cls)(name=self.name(suffix), **config)
        out = made(list(inputs) if len(inputs) > 1 else inputs[0])
        if weights is not None:
            made.set_weights([np.asarray(w) for w in weights])
        return out

    # --- constants as tensors

    def tensor(self, value: Value) -> Any:
        """The value as a Keras tensor in ONNX's order; a constant becomes a weight."""
        return self.materialized(value).canonical()

    def materialized(self, value: Value) -> Value:
        """The value with a tensor behind it."""
        if value.constant is None:
            return value
        from .._layers import constant_layer

        first, second = value.constant.at
        free = [i for i, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if a != b]
        if not free:
            layer = constant_layer()(value.constant.array, name=self.name("_constant"))
            return _of_constant(layer(self.reference), value.constant.array.shape)
        array = uniform(value, free)
        layer = constant_layer()(array, batch_axis=free[0], name=self.name("_constant"))
        return of_tensor(layer(self.reference), times=first.shape[free[0]] // 5)

    def weight(self, array: Array) -> Any:
        """An array as an operand: itself where it is short, else the tensor of a weight."""
        from .._layers import constant_layer

        if array.size <= INLINE:
            return array
        return constant_layer()(array, name=self.name("_constant"))(self.reference)

    def wrap(self, tensor: Any, dims: Dims | None = None) -> Value:
        """A Keras tensor whose axes are `dims` in ONNX's own order; new dimensions where none are given."""
        return of_tensor(tensor) if dims is None else Value(dims, dims, tensor, None, tensor.dtype)

    # --- operators of several operands

    def elementwise(self, apply: Callable[..., Any], *operands: Value) -> Value:
        """An operator that works element by element with broadcasting, in the layout of its largest operand."""
        return broadcast(self, apply, operands)

    def unary(self, apply: Callable[[Any], Any], x: Value, *, positive: bool = False) -> Value:
        """An operator that works element by element."""
        tensor = apply(x.tensor)
        return x.like(self.named(tensor), positive=positive)

    def named(self, tensor: Any) -> Any:
        """The tensor, the operation that made it called as the node is."""
        operation = getattr(tensor, "_keras_history", None)
        if operation is not None and self.node is not None:
            made = operation.operation
            known = made.name in self.names and isinstance(made, keras().Layer)
            if not known and self.renamed.get(made.name) is not made:  # Keras's own "add_1" may be a node's name too
                made.name = self.name()
                self.renamed[made.name] = made
        return tensor


def uniform(value: Value, free: Sequence[int]) -> Array:
    """A constant that is the same for every member of the batch, its batch axis 1 long. Raises Unsupported."""
    from .node import Unsupported

    assert value.constant is not None
    first, second = value.constant.at
    if len(free) != 1:
        raise Unsupported("a constant that depends on the batch size in several dimensions")
    one = np.take(first, [0], axis=free[0])
    times = first.shape[free[0]] % 5 == 0
    if not times or not all(bool(np.array_equal(a, np.broadcast_to(one, a.shape))) for a in (first, second)):
        raise Unsupported("a constant that differs from one member of the batch to the next")
    return one


def refuse_mixing(builder: Builder, x: Value, axes: Iterable[int]) -> None:
    """Raises NotFree where ONNX's dimensions `axes`, about to become one number, hold a batch that was 1 in the file:
    what looks at all members at once may do so only for inputs that no proof has seen, such as loud ones."""
    if builder.freed and any(f.free for a in axes for f in x.dims[a]):
        raise NotFree


def _of_constant(tensor: Any, shape: Sequence[int]) -> Value:
    dims = tuple(new_dim(n) for n in shape)
    return Value(dims, dims, tensor, None, tensor.dtype)


def elements(value: Value) -> float:
    """How much data a value is, the batch counted as very many."""
    return float(np.prod([f.size * (1e9 if f.free else 1) for f in flat(value.dims)] or [1]))


__all__ = ["Builder", "elements", "refuse_mixing", "size", "uniform"]
