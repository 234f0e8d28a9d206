"""Two tensors element by element: sums, differences, products, squared differences, the smaller, the larger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....artifact import Array
from .. import pairs
from ..call import Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor
from ..numerics import BLOCK, activation_limits, addition, farthest, quantize_multiplier

OUTER = 4  # EDNN_OUTER of elementwise.h
LEFT = 15  # bits that the operands of sums of int16 are shifted up by
REPEATED = 8  # elements that LiteRT's vector code for ADD adds to one value at a time


@op("ADD", versions=5)
def add(one: Op, features: Features) -> Call:
    """`a + b`, each scaled to twice the larger scale, then rescaled: add.cc."""
    return _sum(one, 1, features)


@op("SUB", versions=5)
def sub(one: Op, features: Features) -> Call:
    """`a - b`: sub.cc."""
    return _sum(one, -1, features)


@op("MUL", versions=7)
def mul(one: Op, features: Features) -> Call:
    """`a * b`; the factor of scales is computed as float32, as mul.cc does.

    LiteRT's vector code for int8 narrows results to int16 without saturation: factors with which one could go beyond that
    are refused.
    """
    a, b, y = _operands(one)
    product = np.float32(np.float32(a.scale * b.scale) / y.scale)
    multiplier, shift = quantize_multiplier(float(product))
    need(_zero_points(a, b, y) or y.dtype == "int8", "an int16 tensor has a zero point")
    narrow = y.dtype != "int8" or farthest(a) * farthest(b) * float(product) + abs(y.zero_point) < 32767
    most = (255 if y.dtype == "int8" else 32768) ** 2
    need(narrow and (shift <= 0 or most << shift < 1 << 31), f"a rescaling factor of {float(product):g} is too large")
    least, largest = activation_limits(one, y)
    fields = {
        "a_zero": a.zero_point, "b_zero": b.zero_point, "out_zero": y.zero_point,
        "multiplier": multiplier, "shift": shift, "least": least, "largest": largest,
    }  # fmt: skip
    found = _mul_words(one, fields) if "dsp" in features else None
    return found or _call(one, "mul" if y.dtype == "int8" else "mul_s16", "mul", fields)


def _mul_words(one: Op, fields: Mapping[str, int]) -> Call | None:
    """The kernel for equal shapes on Armv7E-M; None where it does not fit."""
    right = -fields["shift"]
    if not _alike(one) or (fields["least"], fields["largest"]) != pairs.INT8 or not 1 <= right <= 22:
        return None
    addend = (1 << right >> 1) + fields["out_zero"] * (1 << right)
    zeros = {name: fields[name] for name in ("a_zero", "b_zero")}
    return _words(one, "mul_words", {**zeros, "multiplier": fields["multiplier"], "addend": addend, "shift": right})


def _alike(one: Op) -> bool:
    """Whether this is int8, and neither operand is repeated."""
    return one.outputs[0].dtype == "int8" and one.input(0).shape == one.input(1).shape == one.outputs[0].shape


def _words(one: Op, kernel: str, fields: Mapping[str, int]) -> Call:
    params = Params(f"ednn_{kernel}_t", {**fields, "count": one.outputs[0].elements})
    arguments = (params, read(0), read(1), write(0))
    return Call(kernel=kernel, function=f"ednn_{kernel}_s8", arguments=arguments, overlap={0: 0, 1: 0})


@op("SQUARED_DIFFERENCE", versions=3)
def squared_difference(one: Op, features: Features) -> Call:
    """`(a - b) * (a - b)`: squared_difference.cc."""
    a, b, y = _operands(one, ("int8",))
    twice = 2.0 * max(float(a.scale), float(b.scale))
    divisor = float(np.float32(1 << 14) * y.scale)
    need(twice > 0 and divisor > 0, "a scale is 0")
    multiplier, shift = quantize_multiplier(twice * twice / divisor)
    need(shift <= 0, "its output has too small a scale")
    fields = {**_scaled("a", a, twice), **_scaled("b", b, twice)}
    fields |= {"out_zero": y.zero_point, "out_multiplier": multiplier, "out_shift": shift}
    return _call(one, "elementwise_square", "square", fields)


@op("MINIMUM", versions=4)
def minimum(one: Op, features: Features) -> Call:
    """The smaller of two values, compared as they are stored: LiteRT does not look at scales."""
    return _extreme(one, "min")


@op("MAXIMUM", versions=4)
def maximum(one: Op, features: Features) -> Call:
    """The larger of two values, compared as they are stored."""
    return _extreme(one, "max")


def _extreme(one: Op, which: str) -> Call:
    a, b, y = _operands(one, quantized=False)
    same = all(np.array_equal(t.scales, y.scales) and np.array_equal(t.zero_points, y.zero_points) for t in (a, b))
    need(same, "its tensors have different scales")
    return _call(one, f"elementwise_{which}" if y.dtype == "int8" else f"elementwise_{which}_s16", which, {})


def _sum(one: Op, sign: int, features: Features) -> Call:
    a, b, y = _operands(one)
    if y.dtype == "int8":
        return _sum_of_bytes(one, sign, features)
    least, largest = activation_limits(one, y)
    limits = {"least": least, "largest": largest}
    need(_zero_points(a, b, y), "an int16 tensor has a zero point")
    if one.option("potScaleInt16", True):
        powers = [power_of_two(float(t.scale)) for t in (a, b, y)]
        if all(p is not None for p in powers):
            rights = [(powers[2] or 0) - (p or 0) for p in powers[:2]]
            need(min(rights) >= 0 and 0 in rights and max(rights) < 16, "scales that LiteRT does not add either")
            need(a.shape == b.shape, "operands of different shapes whose scales are powers of two")
            fields = {"a_right": rights[0], "b_right": rights[1], "sign": sign, **limits}
            return _call(one, "add_pot", "add_pot", fields)
    twice = 2.0 * max(float(a.scale), float(b.scale))
    need(twice > 0 and float(y.scale) > 0, "a scale is 0")
    multiplier, shift = quantize_multiplier(twice / ((1 << LEFT) * float(y.scale)))
    need(shift <= 0, "its output has too small a scale")
    fields = {
        **_scaled("a", a, twice), **_scaled("b", b, twice),
        "out_multiplier": multiplier, "out_shift": shift, "sign": sign, **limits,
    }  # fmt: skip
    fields["whole"] = y.elements // BLOCK * BLOCK if sign > 0 and a.elements == b.elements == y.elements else 0
    need(fields["whole"] == 0 or max(fields["a_right"], fields["b_right"]) <= LEFT, "its scales are too far apart")
    return _call(one, "add_s16", "add", {name: v for name, v in fields.items() if not name.endswith("_zero")})


def _sum_of_bytes(one: Op, sign: int, features: Features) -> Call:
    """A sum or difference of int8, rounded as LiteRT does: sums otherwise in vector code than elsewhere, differences never."""
    a, b, y = one.input(0), one.input(1), one.outputs[0]
    fields = addition(one, a, b, y)
    if "dsp" in features and sign > 0 and _alike(one):
        blocks = pairs.addition_at_once(fields)
        rest = pairs.addition_at_once(fields, rest=True) if y.elements % BLOCK else (0, 0, 0, 0)
        if blocks is not None and rest is not None:
            names = [f"{part}.{name}" for part in ("blocks", "rest") for name in ("a", "b", "offset", "shift")]
            return _words(one, "add_words", dict(zip(names, (*blocks, *rest), strict=True)))
    whole, repeated = vectors(a.shape, b.shape, y.shape) if sign > 0 else (0, False)
    more = {"sign": sign, "whole": whole, "repeated": int(repeated)}
    return _call(one, "add", "add", {**{f"one.{name}": value for name, value in fields.items()}, **more})


def _scaled(name: str, tensor: Tensor, twice: float) -> dict[str, int]:
    multiplier, shift = quantize_multiplier(float(tensor.scale) / twice)
    return {f"{name}_zero": tensor.zero_point, f"{name}_multiplier": multiplier, f"{name}_right": -shift}


def power_of_two(scale: float) -> int | None:
    """The exponent of a scale that LiteRT takes for a power of two (`CheckedLog2`, in float32); None for others.

    >>> power_of_two(0.25), power_of_two(0.3)
    (-2, None)
    """
    if scale <= 0:
        return None
    found = np.float32(math.log(scale)) * (np.float32(1) / np.float32(math.log(2)))
    whole = np.float32(round(float(found)))
    return int(whole) if abs(np.float32(found - whole)) < 1e-3 else None


def _zero_points(*tensors: Tensor) -> bool:
    """Whether none has a zero point."""
    return not any(t.zero_point for t in tensors)


def _operands(
    one: Op, dtypes: tuple[str, ...] = ("int8", "int16"), quantized: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    need(len(one.inputs) == 2, f"it has {len(one.inputs)} inputs")
    need(one.epilogue is None, "an addition in the same kernel")
    a, b, y = one.input(0), one.input(1), one.outputs[0]
    need(a.dtype == b.dtype == y.dtype and y.dtype in dtypes, f"it computes in {a.dtype}, {b.dtype} and {y.dtype}")
    need(not quantized or all(t.scale > 0 for t in (a, b, y)), "a scale is 0")
    return a, b, y


def _call(one: Op, kernel: str, name: str, fields: Mapping[str, Any]) -> Call:
    a, b, y = one.input(0), one.input(1), one.outputs[0]
    size = "s8" if y.dtype == "int8" else "s16"
    places = {f"pairs.{key}": value for key, value in rows_of(a.shape, b.shape, y.shape).items()}
    overlap = {i: 0 for i, t in enumerate((a, b)) if t.elements == y.elements}
    arguments = (Params(f"ednn_{name}_{size}_t", {**places, **fields}), read(0), read(1), write(0))
    return Call(kernel=kernel, function=f"ednn_{name}_{size}", arguments=arguments, overlap=overlap)


def rows_of(a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...]) -> dict[str, Any]:
    """The fields of `ednn_pairs_t`: how rows of two shapes meet. Raises Unsupported.

    Dimensions that both operands walk through, or repeat, in the same way become one.

    >>> found = rows_of((2, 3, 4), (4,), (2, 3, 4))
    >>> found["rows"], found["length"], found["step_b"], found["sizes"].values.tolist()
    (6, 4, 1, [1, 1, 1, 6])
    """
    groups = _groups(a, b, y)
    need(len(groups) <= OUTER + 1, f"its operands repeat along more dimensions than {OUTER + 1}")
    groups = [(1, False, False)] * (OUTER + 1 - len(groups)) + groups
    return {
        "sizes": Constant(np.array([g[0] for g in groups[:-1]], np.int32)),
        "steps_a": Constant(_steps([(g[0], g[1]) for g in groups])),
        "steps_b": Constant(_steps([(g[0], g[2]) for g in groups])),
        "rows": math.prod(g[0] for g in groups[:-1]),
        "length": groups[-1][0], "step_a": int(groups[-1][1]), "step_b": int(groups[-1][2]),
    }  # fmt: skip


def vectors(a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, bool]:
    """(elements, whether an operand is repeated along a row): how much of each row LiteRT's ADD of int8 does in vector code.

    As `ProcessBroadcastShapes` of TensorFlow sorts shapes, whose rows are those of `rows_of`. From the last dimension on,
    each may be missing: dimensions of both operands, of one of them, of both, of the other one, of both; all other shapes
    are done element by element.

    >>> vectors((3, 37), (3, 37), (3, 37)), vectors((3, 37), (37,), (3, 37)), vectors((3, 37), (3, 1), (3, 37))
    ((96, False), (32, False), (32, True))
    >>> vectors((3, 1, 37), (1, 50, 1), (3, 50, 37))
    (0, False)
    """
    groups = _groups(a, b, y)[::-1]
    both, sided = (True, True), [g[1:] for g in groups if g[1:] != (True, True)]
    if len(sided) > 2 or len(set(sided)) < len(sided):
        return 0, False
    length = groups[0][0] if groups else 1
    repeated = bool(groups) and groups[0][1:] != both
    step = REPEATED if repeated else BLOCK
    return length // step * step, repeated


def _groups(a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...]) -> list[tuple[int, bool, bool]]:
    """(size, whether a has it, whether b has it) of dimensions of more than 1, neighbours that are alike as one."""
    rank = len(y)
    need(len(a) <= rank and len(b) <= rank, "its operands have more dimensions than its result")
    a, b = ((1,) * (rank - len(s)) + s for s in (a, b))
    for i, size in enumerate(y):
        fits = a[i] in (1, size) and b[i] in (1, size) and max(a[i], b[i]) == size
        need(fits and size > 0, f"its shapes {a}, {b} and {y} do not fit")
    groups: list[tuple[int, bool, bool]] = []
    for size, in_a, in_b in zip(y, a, b, strict=True):
        if size == 1:
            continue
        mine = in_a == size, in_b == size
        if groups and groups[-1][1:] == mine:
            groups[-1] = (groups[-1][0] * size, *mine)
        else:
            groups.append((size, *mine))
    return groups


def _steps(groups: list[tuple[int, bool]]) -> Array:
    """Elements from one index to the next, of all dimensions but the last; 0 where there is only one."""
    found, step = [], 1
    for size, has in reversed(groups):
        found.append(step if has else 0)
        step *= size if has else 1
    return np.array(found[:0:-1], np.int32)
