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

    def unite(self, a: Axis, b: Axis) -> Axis:
        """Two axes of the same length as one; where one of them is fixed, so is the other."""
        if a is None or b is None:
            self.freeze(a)
            self.freeze(b)
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
        variable = getattr(self.op, name, None)
        if variable is None:
            return
        index = next(i for i, w in enumerate(self.op.weights) if w is variable)
        if index not in self.weights:
            self.weights[index] = label
            return
        for before, now in zip(self.weights[index], label, strict=True):
            self.unite(before, now)

    def macs(self, coefficient: float, *axes: Axis) -> None:
        """Multiply-accumulates of this call: `coefficient` times the lengths of `axes` (fixed ones are in it already)."""
        self.terms.append(Term(self.path, "macs", coefficient, tuple(a for a in axes if a is not None)))

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
        variable = getattr(self.op, name)
        return self.weights[next(i for i, w in enumerate(self.op.weights) if w is variable)]

    def remade(self, **changes: Any) -> Any:
        """A new operation with the same configuration but `changes`."""
        return type(self.op).from_config({**self.op.get_config(), **changes})


def volume(shape: Sequence[int | None]) -> int:
    """Elements of a shape, unknown sizes as 1."""
    return prod(1 if s is None else s for s in shape)


def tiled(axis: Ids, before: int, after: int) -> Ids:
    """Units along a flattened block of axes of which one is labelled: `before` elements outside it, `after` inside.

    >>> tiled(np.array([5, 6]), 2, 2).tolist()
    [5, 5, 6, 6, 5, 5, 6, 6]
    """
    return np.tile(np.repeat(axis, after), before)
