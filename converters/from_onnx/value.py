"""Value: what an ONNX name stands for while the Keras model is built: a constant, or a Keras tensor with its layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras
from .layout import Batch, Dim, Dims, Factor, NotFree, Size, Splits, flat, new_dim, new_dims, runs, shape, size
from .node import Unsupported

PROBES = (5, 7)  # batch sizes at which constants that depend on the batch are computed


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant at each of the two probe batch sizes: what differs depends on the batch."""

    at: tuple[Array, Array]

    @property
    def is_fixed(self) -> bool:
        """Whether it is the same whatever the batch."""
        a, b = self.at
        return a is b or (a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f")))

    @property
    def array(self) -> Array:
        """Its value. Raises Unsupported where it depends on the batch."""
        if not self.is_fixed:
            raise Unsupported("a constant that depends on the batch size")
        return self.at[0]

    def sizes(self) -> list[Size]:
        """Whole numbers, each fixed or a multiple of the batch."""
        a, b = (np.asarray(x).reshape(-1).tolist() for x in self.at)
        if len(a) != len(b):
            raise Unsupported("a list whose length depends on the batch size")
        return [_size(x, y) for x, y in zip(a, b, strict=True)]


def _size(a: Any, b: Any) -> Size:
    if a == b:
        return int(a)
    if a % PROBES[0] == 0 and a // PROBES[0] * PROBES[1] == b:
        return Batch(int(a) // PROBES[0])
    raise Unsupported("a size that depends on the batch in another way than as its multiple")


@dataclass(slots=True, eq=False)
class Value:
    """A constant or a Keras tensor. `dims` are ONNX's dimensions, `axes` those of the tensor, both in factors."""

    dims: Dims
    axes: Dims
    tensor: Any = None
    constant: Constant | None = None
    dtype: str = "float32"
    positive: bool = False  # never below zero
    made: dict[Dims, Any] = field(default_factory=dict)  # the tensor in other layouts, as they were asked for
    range: tuple[float, float] | None = None  # what a quantized original says of it
    items: tuple[Value, ...] | None = None  # the entries, where this is a sequence

    # --- constants

    @classmethod
    def of_constant(cls, first: Array, second: Array | None = None) -> Value:
        """A constant; `second` at the second probe batch size where it differs."""
        first = np.asarray(first)
        constant = Constant((first, first if second is None else np.asarray(second)))
        dims = new_dims(first.shape)
        return cls(dims, dims, None, constant, str(first.dtype))

    @classmethod
    def sequence(cls, items: Sequence[Value]) -> Value:
        """A sequence of values."""
        return cls((), (), items=tuple(items))

    @property
    def is_constant(self) -> bool:
        return self.constant is not None

    @property
    def array(self) -> Array:
        """The constant's value. Raises Unsupported where it is none, or depends on the batch."""
        if self.constant is None:
            raise Unsupported("an input that must be constant and is computed")
        return self.constant.array

    def sizes(self) -> list[Size]:
        """The constant as sizes. Raises Unsupported."""
        if self.constant is None:
            raise Unsupported("a shape that is computed from the data")
        return self.constant.sizes()

    # --- shape

    @property
    def shape(self) -> tuple[int | None, ...]:
        """As ONNX sees it; None: depends on the batch."""
        return self.constant.at[0].shape if self.constant is not None else shape(self.dims)

    @property
    def rank(self) -> int:
        return len(self.dims)

    # --- the tensor in some layout

    def lay(self, wanted: Dims) -> Any:
        """The Keras tensor with these axes; moves data only where they lie in another order."""
        if wanted == self.axes:
            return self.tensor
        if wanted not in self.made:
            self.made[wanted] = _moved(self.tensor, self.axes, wanted)
        return self.made[wanted]

    def canonical(self) -> Any:
        """The Keras tensor as ONNX sees it."""
        return self.lay(self.dims)

    def permuted(self, order: Sequence[int]) -> Any:
        """The Keras tensor whose axes are ONNX's dimensions in this order."""
        return self.lay(tuple(self.dims[i] for i in order))

    def channels_last(self) -> Any:
        """The tensor as (batch, spatial ..., channels)."""
        return self.permuted((0, *range(2, self.rank), 1))

    def in_order(self, array: Array) -> Array:
        """An array that the tensor was computed as, in ONNX's order of axes."""
        order = flat(self.axes)
        parts = array.reshape([-1 if f.free else f.size for f in order])
        moved = parts.transpose([order.index(f) for f in flat(self.dims)])
        return moved.reshape([-1 if n is None else n for n in shape(self.dims)])

    def split(self, splits: Splits) -> None:
        """Tell the value in smaller factors."""
        if splits.parts:
            self.dims, self.axes = splits.apply(self.dims), splits.apply(self.axes)
            self.made = {splits.apply(axes): tensor for axes, tensor in self.made.items()}

    def with_axes(self, dims: Dims, axes: Dims, tensor: Any) -> Value:
        """The same value, told anew."""
        return Value(dims, axes, tensor, None, self.dtype, self.positive, range=self.range)

    def like(self, tensor: Any, *, positive: bool = False) -> Value:
        """A new tensor in the same layout."""
        return Value(self.dims, self.axes, tensor, None, tensor.dtype, positive)

    def apart(self, index: int) -> tuple[Value, int]:
        """The value with ONNX's dimension `index` as one axis of its own, told as one factor; and which axis that is."""
        dim = self.dims[index]
        if len(dim) == 1:
            axes = tuple(_cut(self.axes, {dim[0]}))
            value = self if axes == self.axes else self.with_axes(self.dims, axes, self.lay(axes))
            return value, axes.index(dim)
        if not dim:
            at = _place(self, index)
            axes = (*self.axes[:at], (), *self.axes[at:])
            free = _empty_axis(self.axes, at)
            if free is not None:
                return self, free
            return self.with_axes(self.dims, axes, self.lay(axes)), at
        rest = [a for a in _cut(self.axes, set(dim)) if not set(a) & set(dim)]
        order = flat(self.axes)
        first = min(order.index(f) for f in dim)
        before = [a for a in rest if a and order.index(a[0]) < first]
        after = [a for a in rest if not (a and order.index(a[0]) < first)]
        axes = (*before, dim, *after)
        whole = new_dim(size(dim)) if size(dim) is not None else (Factor(_times(dim), free=True),)
        tensor = self.lay(axes)
        dims = (*self.dims[:index], whole, *self.dims[index + 1 :])
        return self.with_axes(dims, (*before, whole, *after), tensor), len(before)

    def spread(self) -> tuple[Value, list[int]]:
        """The value with one axis for each of ONNX's dimensions, in the order in which they lie, and where each is."""
        value = self
        for index, dim in enumerate(self.dims):
            if len(dim) > 1:
                value, _ = value.apart(index)
        order = flat(value.axes)
        keys: list[tuple[int, int]] = []
        for index, dim in enumerate(value.dims):
            at = order.index(dim[0]) if dim else (keys[-1][0] if keys else -1)
            keys.append((at, index))
        lying = [index for _, index in sorted(keys)]
        axes = tuple(value.dims[i] for i in lying)
        placed = [lying.index(i) for i in range(len(lying))]
        return value.with_axes(value.dims, axes, value.lay(axes)), placed


def _times(dim: Dim) -> int:
    return int(np.prod([f.size for f in dim]))


def _empty_axis(axes: Dims, at: int) -> int | None:
    for i in (at, at - 1):
        if 0 <= i < len(axes) and axes[i] == ():
            return i
    return None


def _place(value: Value, index: int) -> int:
    """Where an axis for a dimension of length 1 belongs: behind the dimension before it, wherever that lies,
    and never before the batch."""
    for before in reversed(value.dims[:index]):
        if before:
            return next(i for i, axis in enumerate(value.axes) if before[-1] in axis) + 1
    return 1 if value.axes and any(f.free for f in value.axes[0]) else 0


def _cut(axes: Dims, alone: set[Factor]) -> list[Dim]:
    """The axes with these factors apart from the others."""
    out: list[Dim] = []
    for axis in axes:
        if len(axis) < 2 or not set(axis) & alone:
            out.append(axis)
            continue
        group: list[Factor] = []
        for f in axis:
            if f in alone:
                out += [tuple(group), (f,)] if group else [(f,)]
                group = []
            else:
                group.append(f)
        out += [tuple(group)] if group else []
    return out


def of_tensor(tensor: Any, *, times: int = 1) -> Value:
    """A Keras tensor in ONNX's own order, all its dimensions new."""
    dims = tuple(new_dim(n, times) for n in tensor.shape)
    return Value(dims, dims, tensor, None, tensor.dtype)


# --- moving data


def _sizes(axes: Dims) -> list[int]:
    """The target of a reshape; the axis that holds the batch is -1."""
    found = [size(a) for a in axes]
    if found.count(None) > 1:
        raise NotFree
    return [-1 if n is None else n for n in found]


def _moved(tensor: Any, axes: Dims, wanted: Dims) -> Any:
    permutation = _permutation(axes, wanted)
    if permutation == sorted(permutation) and permutation:
        return tensor
    pieces, order = runs(flat(axes), wanted)
    if order == sorted(order):
        return reshaped(tensor, wanted)
    if permutation:
        return keras().ops.transpose(tensor, permutation)
    block = _block(flat(axes), wanted)
    if block is not None:
        lying, size_of_block = block
        deep = keras().ops.depth_to_space(reshaped(tensor, lying), size_of_block, data_format="channels_last")
        return reshaped(deep, wanted)
    tensor = keras().ops.transpose(reshaped(tensor, tuple(pieces)), order)
    return reshaped(tensor, wanted)


def _block(order: Dim, wanted: Dims) -> tuple[Dims, int] | None:
    """Where (n, h, w, r, s, c) is wanted as (n, h r, w s, c) with r = s, which is depth to space: its axes, and r."""
    parts = [d for d in wanted if d]
    if [len(d) for d in parts[:3]] != [1, 2, 2] or [len(d) for d in parts[3:]] not in ([], [1]):
        return None
    (n,), (h, r), (w, s), *rest = parts
    c = flat(tuple(rest))
    if r.size != s.size or r.free or s.free or order != (n, h, w, r, s, *c):
        return None
    return ((n,), (h,), (w,), (r, s, *c)), r.size


def is_block(axes: Dims, wanted: Dims) -> bool:
    """Whether all it takes from one to the other is depth to space."""
    return _block(flat(axes), wanted) is not None


def _permutation(axes: Dims, wanted: Dims) -> list[int]:
    """Which axis comes where; empty where these are no whole axes."""
    left = list(enumerate(axes))
    out = []
    for want in wanted:
        at = next((i for i, (_, axis) in enumerate(left) if axis == want), None)
        if at is None:
            return []
        out.append(left.pop(at)[0])
    return [] if left else out


def reshaped(tensor: Any, axes: Dims) -> Any:
    """The tensor with these axes, whose data lies in that order already."""
    target = _sizes(axes)
    have = [-1 if n is None else n for n in tensor.shape]
    return tensor if have == target else keras().ops.reshape(tensor, target)
