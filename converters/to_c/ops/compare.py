"""Comparisons, and choices by a condition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..call import Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor
from ..numerics import quantize_multiplier
from ..strided import strides
from .shapes import same_numbers

Fields = dict[str, int | Constant | None]
RANK = 5  # EDNN_COMPARE_RANK of compare.h
RELATIONS = {
    "EQUAL": 4,
    "NOT_EQUAL": 4,
    "LESS": 3,
    "LESS_EQUAL": 3,
    "GREATER": 3,
    "GREATER_EQUAL": 3,
}  # newest versions
PLAIN_16 = ("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")  # which LiteRT does on the bare int16 values
BYTES = {"int8": 1, "bool": 1, "int16": 2, "int32": 4}


def _axes(y: Tensor, operands: Sequence[Tensor]) -> Constant:
    """Sizes of the output and the steps of each operand, broadcast to it."""
    need(len(y.shape) <= RANK and min(y.shape, default=1) > 0, f"its output is {list(y.shape)}")
    rows = [[1] * (RANK - len(y.shape)) + list(y.shape)]
    for t in operands:
        kept = [1] * (len(y.shape) - len(t.shape)) + list(t.shape)
        fits = len(kept) == len(y.shape) and all(a in (1, b) for a, b in zip(kept, y.shape, strict=True))
        need(fits and t.nbytes < 1 << 31, f"its {list(t.shape)} cannot be broadcast to {list(y.shape)}")
        steps = [0 if d == 1 else s for d, s in zip(kept, strides(kept), strict=True)]
        rows.append([0] * (RANK - len(steps)) + steps)
    return Constant(np.array(rows, np.int32))


def _compared(one: Op, relation: int) -> Call:
    a, b, y = one.input(0), one.input(1), one.outputs[0]
    need(a.dtype == b.dtype and a.dtype in BYTES and y.dtype == "bool", f"it compares {a.dtype} with {b.dtype}")
    scaled = a.dtype == "int8" or (a.dtype == "int16" and a.is_quantized and one.kind not in PLAIN_16)
    fields: Fields = {"axes": _axes(y, (a, b)), "bytes": BYTES[a.dtype], "relation": relation, "scaled": int(scaled)}
    for name, t in (("a", a), ("b", b)):
        multiplier, shift = quantize_multiplier(float(t.scale)) if scaled else (0, 0)
        need(shift <= (13 if t.dtype == "int8" else 5), f"the scale of '{t.name}' is too large")
        fields |= {
            f"{name}_zero": t.zero_point if scaled else 0,
            f"{name}_multiplier": multiplier,
            f"{name}_shift": shift,
        }
    return Call("compare", "ednn_compare", (Params("ednn_compare_t", fields), read(0), read(1), write()))


def _enter(kind: str, version: int, relation: int) -> None:
    @op(kind, versions=version)
    def lowered(one: Op, features: Features) -> Call:
        return _compared(one, relation)


for _relation, (_kind, _version) in enumerate(RELATIONS.items()):
    _enter(_kind, _version, _relation)


@op("SELECT_V2", versions=2)
def select(one: Op, features: Features) -> Call:
    """`condition ? a : b`, all broadcast."""
    condition, a, b, y = one.input(0), one.input(1), one.input(2), one.outputs[0]
    need(condition.dtype == "bool" and y.dtype in BYTES, f"its condition is {condition.dtype} and its output {y.dtype}")
    same_numbers(a, b, y)
    fields: Fields = {"axes": _axes(y, (a, b, condition)), "bytes": BYTES[y.dtype]}
    fields |= dict.fromkeys(
        ["relation", "scaled", "a_zero", "a_multiplier", "a_shift", "b_zero", "b_multiplier", "b_shift"], 0
    )
    return Call("compare", "ednn_select", (Params("ednn_compare_t", fields), read(0), read(1), read(2), write()))


@op("SELECT", versions=4)
def select_same(one: Op, features: Features) -> Call:
    """`condition ? a : b`, all of one shape."""
    need(all(t is not None and t.shape == one.outputs[0].shape for t in one.inputs), "its shapes differ")
    return select(one, features)
