"""Call: one operation of a network as a rule sees it; Traced: a tensor with its shape and the units along its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from .units import Axis, Ids, Label, Units

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A symbolic tensor (`spec`, a KerasTensor for a batch of 1) and its units by axis."""

    spec: Any
    label: Label

    @property
    def shape(self) -> Shape:
        return tuple(self.spec.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A cost that is `coefficient` times the product of the lengths of `axes`."""

    path: str  # of the operation
    kind: Literal["macs", "params", "memory"]
    coefficient: float
    axes: tuple[Ids, ...]


@dataclass(slots=True, eq=False)
class Call:
    """An operation, what it is called with, and what a rule may do: unite, freeze, label weights, count work."""

    op: Any
    path: str
    args: Any  # as called, with Traced in the places of tensors
    kwargs: Mapping[str, Any]
    inputs: Sequence[Traced]  # the Traced among the arguments, flat
    shapes: Sequence[Shape]  # of the outputs, flat
    units: Units
    weights: dict[int, Label]  # by index in op.weights; kept from earlier calls of the same operation
    terms: list[Term] = field(default_factory=list)
    outputs: list[Label] = field(default_factory=list)  # what the rule said
    alone: str = ""  # why the rule does not understand this one; "": it does
    turned: bool = False  # a reshape that splits an axis is to keep its units on another part than the last
    split: bool = False  # it does split one
    free: bool = False  # nothing in its configuration or arguments depends on the sizes
    inner: Call | None = None  # the call of the layer that this one wraps

    @property
    def x(self) -> Traced:
        """The first tensor."""
        return self.inputs[0]

    def fresh(self, count: int) -> Ids:
        """New units."""
        return self.units.fresh(count)

    def freeze(self, axis: Axis, why: str = "") -> None:
        """Never remove these units; without a reason: because of this operation."""
        self.units.freeze(axis, why or f"{self.path} ({type(self.op).__name__}) needs its size")

    def freeze_all_but(self, tensor: Traced, *axes: int) -> None:
        """Freeze what lies along the other axes of a tensor."""
        kept = {a % len(tensor.label) for a in axes}
        for i, axis in enumerate(tensor.label):
            if i not in kept:
                self.freeze(axis)

    def freeze_all(self, tensors: Sequence[Traced] | None = None) -> None:
        """Freeze every axis of these tensors, or of all that are given."""
        for tensor in self.inputs if tensors is None else tensors:
            for axis in tensor.label:
                self.freeze(axis)

    def leave_alone(self, why: str) -> list[Label]:
        """Freeze all that is given and name the operation as one that was not understood: `why` is a short clause."""
        self.alone = why
        for tensor in self.inputs:
            for axis in tensor.label:
                self.freeze(axis, f"{self.path} is left alone: {why}")
        return [(None,) * len(shape) for shape in self.shapes]

    def unite(self, a: Axis, b: Axis) -> Axis:
        """Two axes of the same length as one; where one of them is fixed, so is the other."""
        if a is None or b is None:
            why = f"at {self.path} ({type(self.op).__name__}) they meet what cannot be made smaller"
            self.freeze(a, why)
            self.freeze(b, why)
            return a if b is None else b
        self.units.unite(a, b)
        return a

    def ids(self, axis: Axis, length: int) -> Ids:
        """The units of an axis; of a fixed one new frozen units, to be moved around with others."""
        if axis is not None:
            return axis
        found = self.fresh(length)
        self.freeze(found, f"what {self.path} is given is fixed")
        return found

    def weight(self, name: str, label: Label) -> None:
        """The units along the axes of the weight that the layer has as attribute `name`, if it has one."""
        self.variable(getattr(self.op, name, None), label)

    def variable(self, variable: Any, label: Label) -> None:
        """The units along the axes of a weight of the operation, if it is one; sublayers' weights are among them."""
        index = place(self.op, variable)
        if index is None:
            return
        if index not in self.weights:
            self.weights[index] = label
            return
        for before, now in zip(self.weights[index], label, strict=True):
            self.unite(before, now)

    def macs(self, coefficient: float, *axes: Axis) -> None:
        """Multiply-accumulates of this call: `coefficient` times the lengths of `axes` (fixed ones are in it already)."""
        self.terms.append(Term(self.path, "macs", coefficient, tuple(a for a in axes if a is not None)))

    def work(self, coefficient: float, *tensors: tuple[Shape, Label]) -> None:
        """Multiply-accumulates of this call: `coefficient` times the sizes of all axes of `tensors`, open ones as 1."""
        fixed, axes = coefficient, []
        for shape, label in tensors:
            for size, ids in zip(shape, label, strict=True):
                if ids is None:
                    fixed *= 1 if size is None else size
                else:
                    axes.append(ids)
        self.macs(fixed, *axes)

    def channels_axis(self, rank: int) -> int:
        """Index of the channels' axis by the layer's data_format."""
        return 1 if getattr(self.op, "data_format", None) == "channels_first" else rank - 1


@dataclass(frozen=True, slots=True, eq=False)
class Shrunk:
    """An operation that is to be made anew for smaller tensors."""

    op: Any
    path: str
    inputs: Sequence[Shape]  # of its first call, after
    outputs: Sequence[Shape]
    weights: Mapping[int, tuple[int, ...]]  # shapes after, by index in op.weights
    call: Call
    kept: Callable[[Ids], Any]  # units -> bool array of the same shape

    def weight(self, name: str) -> tuple[int, ...]:
        """The shape after of the weight that is attribute `name`."""
        return self.variable(getattr(self.op, name))

    def variable(self, variable: Any) -> tuple[int, ...]:
        """The shape after of a weight of the operation. Raises KeyError where it is none."""
        index = place(self.op, variable)
        if index is None:
            raise KeyError(self.path)
        return self.weights[index]

    def remade(self, **changes: Any) -> Any:
        """A new operation with the same configuration but `changes`."""
        return type(self.op).from_config(unbuilt({**self.op.get_config(), **changes}))


def place(op: Any, variable: Any) -> int | None:
    """The index of a variable in `op.weights`, or None."""
    if variable is None:
        return None
    return next((i for i, w in enumerate(op.weights) if w is variable), None)


def unbuilt(config: Any) -> Any:
    """A serialized configuration without the shapes that layers inside it were built for.

    >>> unbuilt({"layer": {"config": {"units": 3}, "build_config": {"input_shape": [1, 4]}}})
    {'layer': {'config': {'units': 3}}}
    """
    if isinstance(config, dict):
        return {key: unbuilt(value) for key, value in config.items() if key != "build_config"}
    return [unbuilt(v) for v in config] if isinstance(config, list) else config


def volume(shape: Sequence[int | None]) -> int:
    """Elements of a shape, unknown sizes as 1."""
    return prod(1 if s is None else s for s in shape)


def tiled(axis: Ids, before: int, after: int) -> Ids:
    """Units along a flattened block of axes of which one is labelled: `before` elements outside it, `after` inside.

    >>> tiled(np.array([5, 6]), 2, 2).tolist()
    [5, 5, 6, 6, 5, 5, 6, 6]
    """
    return np.tile(np.repeat(axis, after), before)
