"""What is done to the graph before kernels are chosen: small functions from a Graph to a Graph, in one explicit list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...artifact import Array
from .call import lower
from .graph import Graph, Op, Tensor
from .numerics import BLOCK
from .strided import copied

Pass = Callable[[Graph], Graph]
LAYOUT = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})  # the same bytes under another shape
FOLDED = 1 << 20  # elements of a constant that is computed here, at most
FUSED_INTO = frozenset({"CONV_2D"})  # operators whose kernels can add another tensor to each result


def simplified(graph: Graph) -> Graph:
    """All passes, in order."""
    for step in PASSES:
        graph = step(graph)
    return graph


def drop_unused(graph: Graph) -> Graph:
    """Operators of which nobody reads anything are left out."""
    wanted = {id(t) for t in graph.outputs}
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if any(id(t) in wanted for t in op.outputs):
            kept.append(op)
            wanted |= {id(t) for t in op.inputs if t is not None}
    return replace(graph, ops=tuple(reversed(kept)))


def fold_pads(graph: Graph) -> Graph:
    """A PAD with its zero point before a VALID convolution becomes that convolution's own padding (EXPLICIT)."""
    readers, made = graph.readers(), {id(t): op for op in graph.ops for t in op.outputs}
    folded: dict[int, Op] = {}
    gone: set[int] = set()
    for op in graph.ops:
        if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or int(op.option("padding")) != 1:
            continue
        x = op.input(0)
        pad = made.get(id(x))
        if pad is None or len(readers[id(x)]) != 1 or any(x is t for t in graph.outputs):
            continue
        amounts = _pad_amounts(pad)
        if amounts is None or not _reaches(op, pad.input(0), amounts):
            continue
        options = {**op.options, "padding": -1, "explicit": amounts}
        folded[id(op)] = replace(op, inputs=(pad.input(0), *op.inputs[1:]), options=options)
        gone.add(id(pad))
    return replace(graph, ops=tuple(folded.get(id(op), op) for op in graph.ops if id(op) not in gone))


def _pad_amounts(op: Op) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a PAD of an image by its zero point; None for any other operator."""
    if op.kind not in ("PAD", "PADV2") or len(op.input(0).shape) != 4 or op.input(1).data is None:
        return None
    x, y, amounts = op.input(0), op.outputs[0], np.asarray(op.input(1).values)
    if x.dtype != y.dtype or not _alike(x, y) or amounts.dtype.kind != "i":
        return None
    if amounts.shape != (4, 2) or (amounts < 0).any() or amounts[0].any() or amounts[3].any():
        return None
    if op.kind == "PADV2":
        value = op.input(2)
        if value.data is None or not _alike(x, value) or int(value.values.ravel()[0]) != x.zero_point:
            return None
    (top, bottom), (left, right) = amounts[1].tolist(), amounts[2].tolist()
    return top, left, bottom, right


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether the integers of two tensors stand for the same real values."""
    return np.array_equal(a.scales, b.scales) and np.array_equal(a.zero_points, b.zero_points)


def _reaches(op: Op, x: Tensor, amounts: tuple[int, int, int, int]) -> bool:
    """Whether every window of a convolution begins before the end of its unpadded input."""
    sizes, strides = op.outputs[0].shape[1:3], (int(op.option("strideH", 1)), int(op.option("strideW", 1)))
    return all((o - 1) * s - a < n for o, s, a, n in zip(sizes, strides, amounts[:2], x.shape[1:3], strict=True))


def fuse_additions(graph: Graph) -> Graph:
    """An ADD of a convolution's result, which nobody else reads, and another tensor is done by the convolution's kernel.

    The convolution moves to the place of the addition, where both are known. Only where all elements are in blocks of 16:
    LiteRT rounds what is left behind those otherwise.
    """
    readers, made = graph.readers(), {id(t): op for op in graph.ops for t in op.outputs}
    gone: set[int] = set()
    fused: dict[int, Op] = {}
    for add in graph.ops:
        if add.kind != "ADD" or len(add.inputs) != 2 or add.outputs[0].dtype != "int8":
            continue
        pair = [add.input(0), add.input(1)]
        if pair[0] is pair[1] or pair[0].shape != pair[1].shape or add.outputs[0].elements % BLOCK:
            continue
        for mine, other in (pair, pair[::-1]):
            conv = made.get(id(mine))
            if conv is None or conv.kind not in FUSED_INTO or conv.epilogue or id(conv) in gone:
                continue
            alone = len(readers[id(mine)]) == 1 and not any(mine is t for t in graph.outputs)
            if alone and other.data is None and mine.dtype == other.dtype == "int8" and id(add) not in fused:
                inputs = (*conv.inputs[:2], conv.inputs[2] if len(conv.inputs) > 2 else None, other)
                fused[id(add)] = replace(
                    conv, inputs=inputs, outputs=add.outputs, epilogue=replace(add, inputs=(mine, other))
                )
                gone.add(id(conv))
    return replace(graph, ops=tuple(fused.get(id(op), op) for op in graph.ops if id(op) not in gone))


def least_memory(graph: Graph) -> Graph:
    """Operators in the order that keeps the fewest bytes alive: depth first, of branches the hungriest first.

    Sethi and Ullman's rule on the peak of each branch; kept only where it is better than the order of the file.
    """
    made = {id(t): op for op in graph.ops for t in op.outputs}
    order: list[Op] = []
    seen: set[int] = set()
    peaks: dict[int, int] = {}

    def peak(op: Op) -> int:
        if id(op) not in peaks:
            peaks[id(op)] = 0
            before = [peak(made[id(t)]) for t in op.inputs if t is not None and id(t) in made]
            own = sum(t.nbytes for t in (*op.inputs, *op.outputs) if t is not None and t.data is None)
            peaks[id(op)] = max([own, *before])
        return peaks[id(op)]

    def visit(op: Op) -> None:
        stack = [(op, False)]
        while stack:
            one, ready = stack.pop()
            if ready:
                order.append(one)
            elif id(one) not in seen:
                seen.add(id(one))
                stack.append((one, True))
                before = {id(made[id(t)]): made[id(t)] for t in one.inputs if t is not None and id(t) in made}
                stack += [(b, False) for b in sorted(before.values(), key=lambda b: peaks.get(id(b), 0))]

    for op in graph.ops:
        peak(op)
    for op in graph.ops:
        if any(t is out for t in op.outputs for out in graph.outputs):
            visit(op)
    if len(order) != len(graph.ops):
        return graph
    better = replace(graph, ops=tuple(order))
    return better if _most_alive(better) < _most_alive(graph) else graph


def _most_alive(graph: Graph) -> int:
    """The most bytes of tensors alive at one operator."""
    last: dict[int, int] = {id(t): len(graph.ops) for t in graph.outputs}
    for at, op in enumerate(graph.ops):
        for t in op.inputs:
            if t is not None and t.data is None:
                last[id(t)] = max(last.get(id(t), 0), at)
    alive: dict[int, Tensor] = {id(t): t for t in graph.inputs}
    most = 0
    for at, op in enumerate(graph.ops):
        alive |= {id(t): t for t in op.outputs}
        most = max(most, sum(t.nbytes for t in alive.values()))
        alive = {key: t for key, t in alive.items() if last.get(key, -1) > at}
    return most


def fold_constants(graph: Graph) -> Graph:
    """What depends on no input is computed here: shapes, filled tensors, constants that are only moved."""
    known: dict[int, Tensor] = {}
    kept: list[Op] = []
    for op in graph.ops:
        ready = op
        if any(id(t) in known for t in op.inputs):
            ready = replace(op, inputs=tuple(None if t is None else known.get(id(t), t) for t in op.inputs))
        found = None if any(t is out for t in op.outputs for out in graph.outputs) else _folded(ready)
        if found is None:
            kept.append(ready)
        else:
            known |= {id(t): replace(t, data=values) for t, values in zip(op.outputs, found, strict=True)}
    return replace(graph, ops=tuple(kept)) if known else graph


def _folded(op: Op) -> list[Array] | None:
    """The values of each output, where they can be told; None where they cannot."""
    x = op.inputs[0] if op.inputs else None
    if x is None or not op.outputs or any(t.elements > FOLDED for t in op.outputs):
        return None
    y = op.outputs[0]
    if op.kind == "SHAPE" and y.shape == (len(x.shape),) and y.dtype in ("int32", "int64"):
        return [np.array(x.shape, y.dtype)]
    if any(t is not None and t.data is None for t in op.inputs):
        return None
    if op.kind in LAYOUT and x.elements == y.elements and x.dtype == y.dtype:
        return [x.values.reshape(y.shape)]
    if op.kind == "FILL" and len(op.inputs) == 2 and op.input(1).elements == 1 and op.input(1).dtype == y.dtype:
        return [np.full(y.shape, op.input(1).values.ravel()[0])] if x.values.ravel().tolist() == list(y.shape) else None
    try:
        made = lower(op, frozenset())
    except ValueError:
        return None
    return copied(op, made) if made.kernel == "copy" else None


PASSES: tuple[Pass, ...] = (fold_constants, drop_unused, fold_pads, least_memory, fuse_additions)
