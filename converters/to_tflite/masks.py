"""Attention masks: the -1e9 (or lowest float) that is put before a softmax, made small enough for 8 bits to count beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...calibration import MinMax
from .. import _tflite as fb

MASKING = -1e3  # constants below are masks, not scores
MASKED = -5e2  # so are sums below
MARGIN = 16.0  # below the smallest score: exp(-16) = 1e-7 is nothing, even in 16 bits
DEPTH = 4  # operators between the constant and the softmax


@dataclass(frozen=True, slots=True)
class Mask:
    """A masking constant (tensor index), the softmax input it ends up in, and whether it is added or selected."""

    constant: int
    scores: int
    added: bool


def masks(graph: Any, model: Any) -> list[Mask]:
    """The masking constants before the softmaxes of a graph."""
    producers = {i: op for op in graph.operators for i in op.outputs}
    found: dict[int, Mask] = {}

    def walk(index: int, scores: int, added: bool, depth: int) -> Iterator[Mask]:
        op = producers.get(index)
        kind = "" if op is None else fb.op_name(model, op)
        if op is None or depth == 0 or kind not in ("ADD", "SUB", "MUL", "SELECT", "SELECT_V2", "RESHAPE"):
            return
        for i in op.inputs:
            tensor = graph.tensors[i]
            if tensor.type != fb.FLOAT32:
                continue
            if not fb.is_constant(model, tensor):
                yield from walk(i, scores, added or kind in ("ADD", "SUB"), depth - 1)
            elif np.any(fb.values(model, tensor) < MASKING):
                yield Mask(i, scores, added or kind in ("ADD", "MUL"))

    for op in graph.operators:
        if fb.op_name(model, op) == "SOFTMAX":
            for mask in walk(op.inputs[0], op.inputs[0], False, DEPTH):
                found[mask.constant] = mask
    return list(found.values())


def soften(model: Any, observe: Callable[[dict[int, Callable[[Array], None]]], None]) -> None:
    """Replace the masking constants of the main graph by values just beyond the scores seen in calibration.

    `observe` runs the calibration inputs and shows the values of the tensors it is asked for.
    """
    graph = model.subgraphs[0]
    found = masks(graph, model)
    if not found:
        return
    seen = {mask.scores: MinMax() for mask in found}

    def watch(range_of: MinMax) -> Callable[[Array], None]:
        return lambda values: range_of.update(values[values > MASKED])

    observe({index: watch(range_of) for index, range_of in seen.items()})
    for mask in found:
        low, high = seen[mask.scores].range()
        beyond = -(high - low) - MARGIN if mask.added else low - MARGIN
        tensor = graph.tensors[mask.constant]
        values = fb.values(model, tensor)
        fb.store(model, tensor, np.where(values < MASKING, np.float32(beyond), values).astype(np.float32))
