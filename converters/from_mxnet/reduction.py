"""MXNet's reductions over dimensions in ONNX."""

from __future__ import annotations

from .._onnx_build import Unsupported, axis_of, reshape
from .ops import MxGraph, Op, axes_named, builds

REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "sum_axis": "ReduceSum", "max": "ReduceMax", "max_axis": "ReduceMax", "min": "ReduceMin", "min_axis": "ReduceMin", "prod": "ReduceProd", "norm": "ReduceL2"}  # fmt: skip


@builds(*REDUCTIONS)
def reduce(g: MxGraph, op: Op) -> None:
    """Over the named dimensions, over all others (exclude), or over all; then the result has one element."""
    kind, x = REDUCTIONS[op.node.op], op.xs[0]
    axes = axes_named(g, op, "axis")
    if op.node.op == "norm" and op.whole("ord", 2) != 2:
        raise Unsupported("only ord=2 is imported")
    everything = not axes
    axes = axes or tuple(range(g.rank(x)))
    if op.flag("exclude", False) and not everything:
        axes = tuple(i for i in range(g.rank(x)) if i not in axes)
    keep = op.flag("keepdims", False)
    whole = len(axes) == g.rank(x) and not keep
    name = f"{op.name}/all" if whole else op.name
    out = "" if whole else op.outs[0]
    if kind == "ReduceSum":
        y = g.add(kind, x, g.ints(axes, f"{op.name}/axes"), name=name, out=out, keepdims=int(keep))
    else:
        y = g.add(kind, x, name=name, out=out, axes=axes, keepdims=int(keep))
    if whole:  # MXNet has no tensors without dimensions
        reshape(g, y, (1,), op.name, op.outs[0])


@builds("argmax", "argmin", "argmax_channel")
def arg_max(g: MxGraph, op: Op) -> None:
    """Positions, as floats."""
    axis = 1 if op.node.op == "argmax_channel" else op.whole("axis", None)
    if axis is None:
        raise Unsupported("without an axis it is not imported")
    kind = "ArgMin" if op.node.op == "argmin" else "ArgMax"
    keep = int(op.flag("keepdims", False))
    index = g.add(kind, op.xs[0], name=f"{op.name}/index", axis=axis_of(axis, g.rank(op.xs[0])), keepdims=keep)
    g.add("Cast", index, name=op.name, out=op.outs[0], to=1)
