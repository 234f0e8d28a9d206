"""Reductions: ReduceMean and its kin, ArgMax, ArgMin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....frameworks import keras
from ..builder import Builder, refuse_mixing
from ..node import Node, Unsupported, axis_of
from ..value import Value
from . import op


def axes_of(node: Node, x: Value, axes: Value | None) -> list[int] | None:
    """The axes of a reduction, from the attribute or the input; None: nothing to reduce."""
    given = node.integers("axes") if axes is None else [int(a) for a in axes.array.reshape(-1)]
    if not given:
        return None if node.integer("noop_with_empty_axes") else list(range(x.rank))
    return sorted({axis_of(a, x.rank) for a in given})


def reduced(b: Builder, node: Node, x: Value, axes: list[int], reduce: Callable[..., Any]) -> Value:
    """`reduce(tensor, axis=..., keepdims=...)` over ONNX's dimensions, in the layout that the value has."""
    refuse_mixing(b, x, axes)
    keep = bool(node.integer("keepdims", 1))
    value = x
    for a in axes:
        value, _ = value.apart(a)
    gone = {value.dims[a] for a in axes if value.dims[a]}
    at = [i for i, axis in enumerate(value.axes) if axis in gone]
    keep_tensor = len(value.axes) == len(at) or not at or (keep and len(value.axes) == x.rank)
    if not at:  # all of them are 1 long
        at_ones = [i for i, axis in enumerate(value.axes) if not axis]
        tensor = reduce(value.tensor, axis=at_ones[0], keepdims=True) if at_ones else _through_one(value, reduce)
    else:
        tensor = reduce(value.tensor, axis=at if len(at) > 1 else at[0], keepdims=keep_tensor)
    layout = tuple(() if i in at else axis for i, axis in enumerate(value.axes))
    if not keep_tensor:
        layout = tuple(axis for i, axis in enumerate(value.axes) if i not in at)
    dims = tuple(() if i in axes else d for i, d in enumerate(value.dims))
    if not keep:
        dims = tuple(d for i, d in enumerate(dims) if i not in axes)
    tensor = b.named(tensor)
    return Value(dims, layout, tensor, None, tensor.dtype)


def _through_one(value: Value, reduce: Callable[..., Any]) -> Any:
    tensor = keras().ops.expand_dims(value.tensor, -1)
    return reduce(tensor, axis=len(tensor.shape) - 1, keepdims=False)


def _reduction(name: str, build: Callable[..., Any], positive: bool = False) -> None:
    @op(name)
    def reduction(b: Builder, node: Node, x: Value, axes: Value | None = None) -> Value:
        over = axes_of(node, x, axes)
        if over is None:
            if name in ("ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
                return reduced(b, node, x, [], build)
            return x
        if x.rank == 0:
            return reduced(b, node, x, [], build)
        if name in ("ReduceMax", "ReduceMin") and any(x.shape[a] == 0 for a in over):
            raise Unsupported("the largest or smallest of nothing")
        out = reduced(b, node, x, over, build)
        out.positive = positive or (x.positive and name != "ReduceLogSum")
        return out


def _mean(t: Any, **k: Any) -> Any:
    mean = keras().ops.mean(t, **k)
    return mean if t.dtype.startswith("float") else keras().ops.cast(keras().ops.trunc(mean), t.dtype)


def _sum(t: Any, **k: Any) -> Any:
    return keras().ops.sum(t, **k)


def _square_sum(t: Any, **k: Any) -> Any:
    return keras().ops.sum(keras().ops.square(t), **k)


def _l1(t: Any, **k: Any) -> Any:
    return keras().ops.sum(keras().ops.abs(t), **k)


def _l2(t: Any, **k: Any) -> Any:
    return keras().ops.sqrt(_square_sum(t, **k))


def _log_sum(t: Any, **k: Any) -> Any:
    return keras().ops.log(keras().ops.sum(t, **k))


def _log_sum_exp(t: Any, **k: Any) -> Any:
    return keras().ops.logsumexp(t, **k)


def _bool_or(function: str, logical: str) -> Callable[..., Any]:
    def reduce(t: Any, **k: Any) -> Any:
        return getattr(keras().ops, logical if t.dtype == "bool" else function)(t, **k)

    return reduce


_reduction("ReduceMean", _mean)
_reduction("ReduceSum", _sum)
_reduction("ReduceMax", _bool_or("max", "any"))
_reduction("ReduceMin", _bool_or("min", "all"))
_reduction("ReduceProd", lambda t, **k: keras().ops.prod(t, **k))
_reduction("ReduceSumSquare", _square_sum, positive=True)
_reduction("ReduceL1", _l1, positive=True)
_reduction("ReduceL2", _l2, positive=True)
_reduction("ReduceLogSum", _log_sum)
_reduction("ReduceLogSumExp", _log_sum_exp)


def _arg(name: str, function: str) -> None:
    @op(name)
    def build(b: Builder, node: Node, x: Value) -> Value:
        ops = keras().ops
        axis = axis_of(node.integer("axis"), x.rank)
        refuse_mixing(b, x, [axis])
        value, at = x.apart(axis)
        tensor = value.tensor
        last = bool(node.integer("select_last_index"))
        found = getattr(ops, function)(ops.flip(tensor, axis=at) if last else tensor, axis=at, keepdims=True)
        if last:
            found = ops.subtract(tensor.shape[at] - 1, found)
        found = b.named(ops.cast(found, "int64"))
        layout = tuple(() if i == at else a for i, a in enumerate(value.axes))
        dims = tuple(() if i == axis else d for i, d in enumerate(value.dims))
        if not node.integer("keepdims", 1):
            dims = tuple(d for i, d in enumerate(dims) if i != axis)
        return Value(dims, layout, found, None, "int64", True)


_arg("ArgMax", "argmax")
_arg("ArgMin", "argmin")

__all__ = ["axes_of", "reduced"]
