"""MXNet's operators on shapes in ONNX: reshaping, order of dimensions, joining, splitting, tiling, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._onnx_build import Shape, Unsupported, axis_of, reshape, text
from .ops import AXES_MAX, MANY, MxGraph, Op, axes_named, builds


@builds("Flatten", "flatten")
def flatten(g: MxGraph, op: Op) -> None:
    """All dimensions behind the first as one."""
    g.add("Flatten", op.xs[0], name=op.name, out=op.outs[0], axis=1)


@builds("Reshape", "reshape")
def reshape_op(g: MxGraph, op: Op) -> None:
    """With the special codes 0, -1, -2, -3 and -4 of `matrix_op.cc`."""
    codes = op.get("shape", (), (tuple, int))
    codes = (codes,) if isinstance(codes, int) else codes
    if not codes:
        codes = tuple(op.get("target_shape", (), tuple))  # before 0.7; 0 stood for what is left
        codes = tuple(-1 if c == 0 else c for c in codes)
        if op.flag("keep_highest", False):
            codes = (0, *codes[1:])
    if op.flag("reverse", False):
        raise Unsupported("reverse=True is not imported")
    target = reshaped(g.shape(op.xs[0]), codes)
    reshape(g, op.xs[0], target, op.name, op.outs[0])


def reshaped(shape: Shape, codes: Sequence[Any]) -> tuple[int, ...]:
    """The shape that MXNet's codes make of `shape`, as ONNX's Reshape reads it.

    >>> reshaped(("N", 6, 4, 5), (0, -4, 2, -1, -3)), reshaped((2, 3, 4), (-2, 1)), reshaped(("N", 8), (-1, 4))
    ((0, 2, 3, 20), (2, 3, 4, 1), (-1, 4))
    """
    if len(codes) > AXES_MAX or not all(isinstance(c, int) and -4 <= c < 1 << 31 for c in codes) or not codes:
        raise Unsupported(f"its shape {codes} cannot be read")
    found: list[int | str | None] = []
    left, todo = list(shape), list(codes)
    try:
        while todo:
            code = todo.pop(0)
            if code == 0:
                found.append(left.pop(0))
            elif code == -1:
                found.append(-1)
                del left[:1]
            elif code == -2:
                found += left
                left = []
            elif code == -3:
                found.append(_merged(left.pop(0), left.pop(0)))
            elif code == -4:
                found += _divided(left.pop(0), todo.pop(0), todo.pop(0))
            else:
                found.append(code)
                del left[:1]
    except IndexError:
        raise Unsupported(f"its shape {codes} does not fit an input of {text(shape)}") from None
    return _readable(found, shape, codes)


def _merged(a: Any, b: Any) -> int:
    return a * b if isinstance(a, int) and isinstance(b, int) else -1


def _divided(size: Any, a: int, b: int) -> list[int]:
    if not isinstance(size, int) or a == b == -1:
        raise Unsupported("it splits a dimension whose size is not fixed")
    a, b = (size // b if a == -1 and b else a), (size // a if b == -1 and a else b)
    if a * b != size:
        raise Unsupported(f"it splits {size} into {a} and {b}")
    return [a, b]


def _readable(found: Sequence[Any], shape: Shape, codes: Sequence[int]) -> tuple[int, ...]:
    """Open dimensions as 0 where they stay in place, else one of them as -1."""
    target = [0 if not isinstance(d, int) and i < len(shape) and shape[i] == d else d for i, d in enumerate(found)]
    target = [d if isinstance(d, int) else -1 for d in target]
    if target.count(-1) > 1:
        raise Unsupported(f"its shape {tuple(codes)} leaves more than one dimension of {text(shape)} open")
    return tuple(target)


@builds("transpose")
def transpose(g: MxGraph, op: Op) -> None:
    """By the given order, or reversed."""
    order = axes_named(g, op, "axes") or tuple(reversed(range(g.rank(op.xs[0]))))
    if sorted(order) != list(range(g.rank(op.xs[0]))):
        raise Unsupported(f"its axes {order} do not fit an input of {text(g.shape(op.xs[0]))}")
    g.add("Transpose", op.xs[0], name=op.name, out=op.outs[0], perm=order)


@builds("SwapAxis", "swapaxes")
def swap_axes(g: MxGraph, op: Op) -> None:
    """Two dimensions changed places."""
    n = g.rank(op.xs[0])
    a, b = axis_of(op.whole("dim1", 0), n), axis_of(op.whole("dim2", 0), n)
    order = list(range(n))
    order[a], order[b] = order[b], order[a]
    g.add("Transpose", op.xs[0], name=op.name, out=op.outs[0], perm=order)


@builds("expand_dims")
def expand_dims(g: MxGraph, op: Op) -> None:
    """A new dimension of size 1."""
    axis = axis_of(op.whole("axis", 0), g.rank(op.xs[0]) + 1)
    g.add("Unsqueeze", op.xs[0], g.ints((axis,), f"{op.name}/axes"), name=op.name, out=op.outs[0])


@builds("squeeze")
def squeeze(g: MxGraph, op: Op) -> None:
    """Without the dimensions of size 1 that are named, or without any."""
    shape = g.shape(op.xs[0])
    axes = axes_named(g, op, "axis") or tuple(i for i, d in enumerate(shape) if d == 1)
    if any(shape[a] != 1 for a in axes):
        raise Unsupported(f"dimensions {axes} of {text(shape)} are not all 1")
    g.add("Squeeze", op.xs[0], g.ints(axes, f"{op.name}/axes"), name=op.name, out=op.outs[0])


@builds("Concat", "concat", inputs=(1, MANY))
def concat(g: MxGraph, op: Op) -> None:
    """Along the channels, unless told otherwise."""
    axis = axis_of(op.whole("dim", 1), g.rank(op.xs[0]))
    g.add("Concat", *op.xs, name=op.name, out=op.outs[0], axis=axis)


@builds("stack", inputs=(1, MANY))
def stack(g: MxGraph, op: Op) -> None:
    """Along a new dimension."""
    axis = axis_of(op.whole("axis", 0), g.rank(op.xs[0]) + 1)
    axes = g.ints((axis,), f"{op.name}/axes")
    parts = [g.add("Unsqueeze", x, axes, name=f"{op.name}/part") for x in op.xs]
    g.add("Concat", *parts, name=op.name, out=op.outs[0], axis=axis)


@builds("SliceChannel", "split")
def split(g: MxGraph, op: Op) -> None:
    """Equal parts."""
    x = op.xs[0]
    axis, n = axis_of(op.whole("axis", 1), g.rank(x)), op.whole("num_outputs", 0)
    size = g.fixed(x, axis)[0]
    if not 0 < n <= size or size % n or n != len(op.outs):
        raise Unsupported(f"{size} cannot be cut into {n} equal parts")
    squeezed = op.flag("squeeze_axis", False)
    names = [g.fresh(f"{op.name}/part{i}") for i in range(n)] if squeezed else op.outs
    g.add_many("Split", x, g.ints((size // n,) * n, f"{op.name}/split"), name=op.name, outs=names, axis=axis)
    if squeezed:
        axes = g.ints((axis,), f"{op.name}/axes")
        for name, out in zip(names, op.outs, strict=True):
            g.add("Squeeze", name, axes, name=f"{op.name}/squeeze", out=out)


@builds("tile")
def tile(g: MxGraph, op: Op) -> None:
    """Copies along every dimension."""
    reps = op.get("reps", (), (tuple, int))
    reps = (reps,) if isinstance(reps, int) else reps
    n = g.rank(op.xs[0])
    if len(reps) > n or not all(isinstance(r, int) and 0 < r < 1 << 16 for r in reps):
        raise Unsupported(f"its reps {reps} do not fit an input of {text(g.shape(op.xs[0]))}")
    g.add(
        "Tile", op.xs[0], g.ints((1,) * (n - len(reps)) + tuple(reps), f"{op.name}/reps"), name=op.name, out=op.outs[0]
    )


@builds("Pad", "pad")
def pad_op(g: MxGraph, op: Op) -> None:
    """pad_width holds (before, after) for every dimension."""
    x, mode = op.xs[0], op.only("mode", "constant", "edge", "reflect")
    widths = op.ints("pad_width", 2 * g.rank(x), None)
    pads = g.ints((*widths[::2], *widths[1::2]), f"{op.name}/pads")
    value = g.scalar(op.number("constant_value", 0.0), x, f"{op.name}/value")
    g.add("Pad", x, pads, value, name=op.name, out=op.outs[0], mode=mode)


@builds("depth_to_space", "space_to_depth")
def depth_to_space(g: MxGraph, op: Op) -> None:
    """Blocks of pixels to channels and back, in ONNX's DCR order."""
    kind = "DepthToSpace" if op.node.op == "depth_to_space" else "SpaceToDepth"
    g.add(kind, op.xs[0], name=op.name, out=op.outs[0], blocksize=op.needed("block_size"))
