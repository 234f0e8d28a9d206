"""MXNet's parts of a tensor in ONNX: slices, crops, rows of a table, a choice between two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._onnx_build import Unsupported, axis_of, text
from .ops import MxGraph, Op, axes_named, builds


@builds("Embedding", inputs=2)
def embedding(g: MxGraph, op: Op) -> None:
    """Rows of a table; MXNet holds indices as floats."""
    index = g.add("Cast", op.xs[0], name=f"{op.name}/index", to=7)
    g.add("Gather", op.xs[1], index, name=op.name, out=op.outs[0], axis=0)


@builds("where", inputs=3)
def where(g: MxGraph, op: Op) -> None:
    """The second input where the first is not zero, else the third."""
    condition = g.add("Cast", op.xs[0], name=f"{op.name}/condition", to=9)
    g.add("Where", condition, *op.xs[1:], name=op.name, out=op.outs[0])


@builds("slice_axis")
def slice_axis(g: MxGraph, op: Op) -> None:
    """From `begin` to `end` (None: to the end) along one dimension."""
    axis = axis_of(op.needed("axis"), g.rank(op.xs[0]))
    _slice(g, op, {axis: (op.whole("begin", 0), op.whole("end", None), 1)})


@builds("slice", "crop")
def slice_op(g: MxGraph, op: Op) -> None:
    """From `begin` to `end` with a step, for the first dimensions."""
    keys = {key: op.get(key, (), (tuple, int)) for key in ("begin", "end", "step")}
    parts = {k: (v,) if isinstance(v, int) else v for k, v in keys.items()}
    n = len(parts["begin"])
    steps = parts["step"] or (1,) * n
    if not len(parts["end"]) == len(steps) == n <= g.rank(op.xs[0]):
        raise Unsupported(f"its begin {parts['begin']} and end {parts['end']} do not fit")
    _slice(g, op, dict(enumerate(zip(parts["begin"], parts["end"], steps, strict=True))))


def _slice(g: MxGraph, op: Op, cuts: Mapping[int, tuple[Any, Any, Any]]) -> None:
    """A Slice of the dimensions that are cut at all; only forwards."""
    rows = {a: (b or 0, (1 << 31) if e is None else e, s or 1) for a, (b, e, s) in cuts.items()}
    if not all(isinstance(v, int) and abs(v) <= 1 << 31 for row in rows.values() for v in row) or any(
        r[2] < 1 for r in rows.values()
    ):
        raise Unsupported(f"its bounds {rows} cannot be read, or run backwards")
    rows = {a: row for a, row in rows.items() if row != (0, 1 << 31, 1)}
    if not rows:
        g.add("Identity", op.xs[0], name=op.name, out=op.outs[0])
        return
    columns = [*zip(*rows.values(), strict=True)]
    values = (columns[0], columns[1], tuple(rows), columns[2])
    bounds = [g.ints(v, f"{op.name}/{k}") for k, v in zip(("starts", "ends", "axes", "steps"), values, strict=True)]
    g.add("Slice", op.xs[0], *bounds, name=op.name, out=op.outs[0])


@builds("slice_like", inputs=2)
def slice_like(g: MxGraph, op: Op) -> None:
    """Cut to the size of the second input, in all dimensions or in those named."""
    axes = axes_named(g, op, "axes") or tuple(range(g.rank(op.xs[0])))
    ours, theirs = g.shape(op.xs[0]), g.shape(op.xs[1])
    cuts = {a: (0, theirs[a], 1) for a in axes if ours[a] != theirs[a]}
    _slice(g, op, cuts)


@builds("Crop", inputs=(1, 2))
def crop(g: MxGraph, op: Op) -> None:
    """To the height and width of the second input, or to `h_w`, at an offset or in the middle."""
    sizes = g.fixed(op.xs[0], 2)
    target = g.fixed(op.xs[1], 2) if len(op.xs) == 2 else op.ints("h_w", 2, None)
    free = [s - t for s, t in zip(sizes, target, strict=True)]
    start = [f // 2 for f in free] if op.flag("center_crop", False) else op.ints("offset", 2, 0)
    if any(not 0 <= a <= f for a, f in zip(start, free, strict=True)):
        raise Unsupported(f"{text(target)} does not lie in {text(sizes)}")
    _slice(g, op, {i + 2: (a, a + t, 1) for i, (a, t) in enumerate(zip(start, target, strict=True))})
