"""Functions of one value: those of int8 are tables of 256 entries, made here as LiteRT computes them; softmax; PReLU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ....artifact import Array
from ..call import Call, Constant, Features, Params, need, op, read, write
from ..fixed_point import clamp, high_mul_16, inverse_square_root, rescale, rounded_shift
from ..graph import Op, Tensor
from ..libm import expf, nearest, round_away
from ..numerics import quantize_multiplier

ALL_INT8 = np.arange(-128, 128)
# Points of LiteRT's table of the logistic function that are one above the rounded value: seen in what its TANH gives
_ONE_ABOVE = np.array([c == "1" for c in f"{0x088BDE5F75DE6203A00022040900880001:0136b}" + "0" * 119 + "1"])
SIGMOID_16 = (np.floor(65536 / (1 + np.exp(-np.arange(256) / 24)) + 0.5) + _ONE_ABOVE).astype(np.uint16)
Table = Callable[[Op, Tensor, Tensor], Array]  # a function of int8 as its 256 results, before they are limited to int8
Real = Callable[[Array], Array]
Fields = dict[str, int | Constant | None]


def same_shape(one: Op, *dtypes: str) -> tuple[Tensor, Tensor]:
    """Input and output of a function of one value. Raises Unsupported."""
    x, y = one.input(0), one.outputs[0]
    need(
        x.dtype == y.dtype and x.dtype in dtypes,
        f"it computes in {x.dtype} and {y.dtype}; {' or '.join(dtypes)} is known",
    )
    need(x.elements == y.elements, "its output is not of the size of its input")
    return x, y


def by_table(one: Op, table: Array) -> Call:
    """The call for a function of int8 by its 256 results."""
    x, y = one.input(0), one.outputs[0]
    values = Constant(np.clip(table, -128, 127).astype(np.int8), align=1)
    return Call(
        "lut", "ednn_lut_s8", (values, read(), write(), y.elements), overlap={0: 0} if x.nbytes == y.nbytes else {}
    )


def float_table(x: Tensor, y: Tensor, real: Real) -> Array:
    """As LUTPopulate: float32 throughout, rounded half away from zero."""
    values = np.float32(x.scale) * (ALL_INT8 - x.zero_point).astype(np.float32)
    inverse = np.float32(1) / y.scale
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = round_away(np.asarray(real(values), np.float32) * inverse)
    return np.asarray(np.clip(scaled, -1e9, 1e9) + y.zero_point).astype(np.int64)


def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)) in float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.float32(1) / (np.float32(1) + expf(-x)), np.float32)


def gelu(x: Array) -> Array:
    """0.5 x erfc(-x / sqrt 2), as LiteRT writes it."""
    return np.asarray(np.float32(0.5) * x * nearest(math.erfc, x * np.float32(-math.sqrt(0.5))), np.float32)


def gelu_by_tanh(x: Array) -> Array:
    """GELU's approximation."""
    inner = np.float32(2 / math.sqrt(math.pi) * math.sqrt(0.5)) * (x + np.float32(0.044715) * x * x * x)
    return np.asarray(np.float32(0.5) * x * (np.float32(1) + nearest(math.tanh, inner)), np.float32)


def elu(x: Array) -> Array:
    """x, or exp(x) - 1 below 0."""
    return np.where(x < 0, nearest(math.expm1, np.minimum(x, 0)), x)


def float_log(x: Tensor, y: Tensor) -> Array:
    """log(x); the least output for what has none."""
    least = np.float32(-128 - y.zero_point) * y.scale

    def real(values: Array) -> Array:
        return np.where(values > 0, nearest(math.log, np.where(values > 0, values, np.float32(1))), least)

    return float_table(x, y, real)


def _gelu_table(one: Op, x: Tensor, y: Tensor) -> Array:
    return float_table(x, y, gelu_by_tanh if one.option("approximate", False) else gelu)


def rescaled(values: Array, factor: float, zero_point: int) -> Array:
    """round(values * factor) + zero point, in fixed point."""
    multiplier, shift = quantize_multiplier(factor)
    need(shift <= 23, f"a rescaling factor of {factor:g} is too large")
    return np.array([rescale(int(v), multiplier, shift) + zero_point for v in values])


def _ratio(x: Tensor, y: Tensor) -> float:
    """Input scale / output scale, divided as float32."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(x.scale / y.scale)


def _relu(low: float, high: float) -> Table:
    def table(one: Op, x: Tensor, y: Tensor) -> Array:
        least = -128 if low == -math.inf else y.zero_point + int(round_away(np.float32(low) / y.scale))
        most = 127 if high == math.inf else y.zero_point + int(round_away(np.float32(high) / y.scale))
        return np.clip(rescaled(ALL_INT8 - x.zero_point, _ratio(x, y), y.zero_point), max(least, -128), min(most, 127))

    return table


def _leaky_relu(one: Op, x: Tensor, y: Tensor) -> Array:
    alpha = np.float32(one.option("alpha"))
    values = ALL_INT8 - x.zero_point
    identity = rescaled(values, _ratio(x, y), y.zero_point)
    return np.where(values >= 0, identity, rescaled(values, float(x.scale * alpha / y.scale), y.zero_point))


def _abs(one: Op, x: Tensor, y: Tensor) -> Array:
    values = np.abs(ALL_INT8 - x.zero_point)
    return values + y.zero_point if x.scale == y.scale else rescaled(values, _ratio(x, y), y.zero_point)


def _rsqrt(one: Op, x: Tensor, y: Tensor) -> Array:
    """Below 0 LiteRT stops with an error; here the largest value stands, as for 0."""
    multiplier, shift = quantize_multiplier(1.0 / float(np.sqrt(x.scale) * y.scale))
    need(-11 <= shift <= 20, "its scales differ too much")

    def at(value: int) -> int:
        if value <= 0:
            return 127
        root, by = inverse_square_root(value)
        return rescale(rescale(1, root, by + 20), multiplier, shift - 20) + y.zero_point

    return np.array([at(int(v)) for v in ALL_INT8 - x.zero_point])


def _int16(multiplier: int) -> int:
    """A multiplier of 16 bits."""
    return 32767 if multiplier >= (1 << 31) - 1 - (1 << 15) else (multiplier + (1 << 15)) >> 16


def _shift_16(value: int, by: int) -> int:
    return clamp(value << by, -32768, 32767)


def _hard_swish(one: Op, x: Tensor, y: Tensor) -> Array:
    fine = np.float32(1 / 128) * x.scale
    multiplier, shift = quantize_multiplier(float(fine / y.scale))
    relu_multiplier, relu_shift = quantize_multiplier(float(fine / np.float32(3 / 32768)))
    need(-15 <= shift <= 0 and -15 <= relu_shift <= 15, "its scales differ too much")

    def at(value: int) -> int:
        high = value << 7
        out = high_mul_16(high, _int16(multiplier))
        gate = _shift_16(high, relu_shift - 1) if relu_shift > 0 else high
        gate = high_mul_16(gate, _int16(relu_multiplier))
        gate = _shift_16(gate, 1) if relu_shift > 0 else rounded_shift(gate, -relu_shift)
        gate = (gate + (1 << 15)) >> 1
        both = gate * out
        return rounded_shift(both >> 15 if both >= 0 else -(-both >> 15), -shift) + y.zero_point

    return np.array([at(int(v)) for v in ALL_INT8 - x.zero_point])


TABLES: Mapping[str, tuple[int, Table]] = {
    "RELU": (3, _relu(0.0, math.inf)),
    "RELU6": (3, _relu(0.0, 6.0)),
    "RELU_N1_TO_1": (3, _relu(-1.0, 1.0)),
    "RELU_0_TO_1": (3, _relu(0.0, 1.0)),
    "LEAKY_RELU": (2, _leaky_relu),
    "HARD_SWISH": (1, _hard_swish),
    "ABS": (5, _abs),
    "RSQRT": (3, _rsqrt),
    "EXP": (2, lambda one, x, y: float_table(x, y, expf)),
    "LOG": (2, lambda one, x, y: float_log(x, y)),
    "ELU": (1, lambda one, x, y: float_table(x, y, elu)),
    "GELU": (2, _gelu_table),
}  # kind -> (newest version, its table)


def _enter(kind: str, version: int, table: Table) -> None:
    @op(kind, versions=version)
    def lowered(one: Op, features: Features) -> Call:
        x, y = same_shape(one, "int8", *(["int16"] if kind in SIGNS else []))
        need(float(x.scale) > 0 and float(y.scale) > 0, "a scale is 0")
        return by_table(one, table(one, x, y)) if x.dtype == "int8" else _by_sign(one, x, y)


SIGNS = ("RELU", "RELU6", "LEAKY_RELU", "ABS")  # what LiteRT does in int16 too


def _by_sign(one: Op, x: Tensor, y: Tensor) -> Call:
    """A function of int16 that is linear on either side of 0."""
    need(x.zero_point == y.zero_point == 0, "its zero points are not 0")
    alpha = np.float32(one.option("alpha")) if one.kind == "LEAKY_RELU" else np.float32(1)
    multiplier, shift = quantize_multiplier(_ratio(x, y))
    below_multiplier, below_shift = quantize_multiplier(float(x.scale * alpha / y.scale))
    need(max(shift, below_shift) <= 15, "its scales differ too much")
    least = 0 if one.kind.startswith("RELU") else -32768
    largest = min(int(round_away(np.float32(6) / y.scale)), 32767) if one.kind == "RELU6" else 32767
    fields: Fields = {
        "count": y.elements, "multiplier": multiplier, "shift": shift, "below": -1 if one.kind == "ABS" else 1,
        "below_multiplier": below_multiplier, "below_shift": below_shift, "least": least, "largest": largest,
    }  # fmt: skip
    return Call("relu16", "ednn_relu_s16", (Params("ednn_relu16_t", fields), read(), write()), overlap={0: 0})


for _kind, (_version, _table) in TABLES.items():
    _enter(_kind, _version, _table)


@op("LOGISTIC", versions=3)
def logistic_(one: Op, features: Features) -> Call:
    """int8 by a table; int16 by interpolation between 256 points, as LiteRT's."""
    x, y = same_shape(one, "int8", "int16")
    need(
        y.scale == np.float32(1 / 256 if x.dtype == "int8" else 1 / 32768),
        "the scale of its output is not 1/256 or 1/32768",
    )
    if x.dtype == "int16":
        return _interpolated(one, "ednn_logistic_s16")
    return by_table(one, float_table(x, y, logistic))


@op("TANH", versions=3)
def tanh(one: Op, features: Features) -> Call:
    """int8 by a table; int16 by interpolation between 256 points, as LiteRT's."""
    x, y = same_shape(one, "int8", "int16")
    if x.dtype == "int16":
        need(y.scale == np.float32(1 / 32768), "the scale of its output is not 1/32768")
        return _interpolated(one, "ednn_tanh_s16")
    need(float(y.scale) > 0, "a scale is 0")
    return by_table(one, float_table(x, y, lambda v: nearest(math.tanh, v)))


def _interpolated(one: Op, function: str) -> Call:
    """LOGISTIC or TANH of int16: the input is brought to the scale 1 / (3 * 4096), where the table's steps are 1/24."""
    x, y = one.input(0), one.outputs[0]
    need(x.zero_point == y.zero_point == 0 and float(x.scale) > 0, "its zero points are not 0")
    factor, left = float(x.scale) * 4096.0 * 3.0, 0
    need(factor < 32768, "the scale of its input is too large")
    other = (1 / 4096,) if function == "ednn_logistic_s16" else (1 / 4096, 1 / 2048)
    need(float(x.scale) not in other, f"its input's scale is {x.scale:g}, for which LiteRT has another method")
    while factor <= 32767.0 / 2.0 and left <= 30:
        left, factor = left + 1, factor * 2.0
    fields: Fields = {"table": Constant(SIGMOID_16), "multiplier": int(factor), "shift": left, "count": y.elements}
    return Call("sigmoid16", function, (Params("ednn_sigmoid16_t", fields), read(), write()), overlap={0: 0})


@op("SOFTMAX", versions=3)
def softmax(one: Op, features: Features) -> Call:
    """`exp(x - max) / sum`: of int8 with the float32 numbers of LiteRT, of int16 by its two tables."""
    x, y = one.input(0), one.outputs[0]
    need(x.dtype in ("int8", "int16"), f"its input is {x.dtype}; int8 and int16 are known")
    need(len(x.shape) > 0 and x.shape == y.shape and x.elements > 0, "its shapes do not fit")
    beta = np.float32(one.option("beta", 1.0))
    need(
        math.isfinite(beta) and min(float(beta), float(x.scale), float(y.scale)) > 0,
        "its beta or a scale is not positive",
    )
    depth = x.shape[-1]
    need(depth < 1 << 15, "its rows are longer than 32767")
    shape = {"rows": x.elements // depth, "depth": depth}
    if x.dtype == "int16":
        return _softmax_16(x, y, beta, shape)
    need(y.dtype in ("int8", "int16"), f"its output is {y.dtype}; int8 and int16 are known")
    fraction, exponent = math.frexp(float(y.scale))
    need(
        fraction == 0.5 and 1 <= 1 - exponent <= 16,
        f"its output's scale is {y.scale:g}, no power of 2 from 2^-16 to 1/2",
    )
    low, high = (-128, 127) if y.dtype == "int8" else (-32768, 32767)
    exponents = expf(-(x.scale * beta) * np.arange(256, dtype=np.float32))
    bits = np.where(exponents >= np.finfo(np.float32).tiny, exponents, np.float32(0)).view(np.uint32)
    fields: Fields = {
        "table": Constant(bits),
        **shape,
        "bits": 1 - exponent,
        "out_zero": y.zero_point,
        "least": low,
        "largest": high,
    }
    function = "ednn_softmax_s8" if y.dtype == "int8" else "ednn_softmax_s8_s16"
    overlap = {0: 0} if y.dtype == "int8" else {}
    return Call("softmax", function, (Params("ednn_softmax_t", fields), read(), write()), overlap=overlap)


def _softmax_16(x: Tensor, y: Tensor, beta: np.float32, shape: Mapping[str, int]) -> Call:
    need(y.dtype == "int16" and x.zero_point == y.zero_point == 0, "its output is not int16, or a zero point is not 0")
    need(abs(float(y.scale) * 32768 - 1) < 0.001, "its output's scale is not 1/32768")
    multiplier, shift = quantize_multiplier(float(x.scale * beta) / (10.0 / 65535.0))
    need(shift <= 14, "its input is too coarse")
    step = 65535.0
    exp = interpolation_table(lambda v: np.exp(v), 10 / step, 32767, 2 / step, 0)
    inverse = interpolation_table(lambda v: 1 / (1 + v), 1 / step, -32768, 2 / step, 0)
    fields: Fields = {
        "exp": Constant(exp),
        "inverse": Constant(inverse),
        **shape,
        "multiplier": multiplier,
        "shift": shift,
    }
    return Call("softmax16", "ednn_softmax_s16", (Params("ednn_softmax16_t", fields), read(), write()), overlap={0: 0})


def interpolation_table(real: Real, scale: float, zero: int, out_scale: float, out_zero: int) -> Array:
    """513 points of a function of int16, each moved by half the error in the middle, as LUTPopulate<int16_t> in doubles."""
    low, high = scale * (-32768 - zero), scale * (32767 - zero)
    out_low, out_high = out_scale * (-32768 - out_zero), out_scale * (32767 - out_zero)
    step, inverse = (high - low) / 512, 65536 / (out_high - out_low)
    at = low + np.arange(512) * step
    value, middle, following = real(at), real(at + step / 2), real(low + np.arange(1, 513) * step)
    sample = round_away(value * inverse)
    error = round_away((following * inverse + sample) / 2) - round_away(middle * inverse)
    points = np.append(sample - round_away(error / 2), round_away(real(np.array([high])) * inverse))
    return np.asarray(np.clip(points, -32768, 32767), np.int16)


@op("PRELU", versions=1)
def prelu(one: Op, features: Features) -> Call:
    """`x`, or `x * alpha` below 0; alpha is a constant that is broadcast."""
    x, y = same_shape(one, "int8")
    alpha = one.input(1)
    need(alpha.dtype == "int8", f"its alpha is {alpha.dtype}")
    need(float(x.scale) > 0 and float(y.scale) > 0, "a scale is 0")
    slopes = alpha.values.astype(np.int64) - alpha.zero_point
    slopes = periodic(slopes, x.shape)
    first = quantize_multiplier(_ratio(x, y))
    second = quantize_multiplier(float(x.scale * alpha.scale / y.scale))
    need(first[1] <= 22 and second[1] <= 14, "its scales differ too much")
    fields: Fields = {
        "slopes": Constant(slopes.astype(np.int16)), "period": len(slopes), "count": y.elements, "zero": x.zero_point,
        "out_zero": y.zero_point, "multiplier": first[0], "shift": first[1], "slope_multiplier": second[0],
        "slope_shift": second[1],
    }  # fmt: skip
    return Call("prelu", "ednn_prelu_s8", (Params("ednn_prelu_t", fields), read(), write()), overlap={0: 0})


def periodic(values: Array, shape: tuple[int, ...]) -> Array:
    """The shortest run of values that, repeated, is `values` broadcast to `shape`. Raises Unsupported.

    >>> periodic(np.array([[[3, 4]]]), (1, 5, 2)).tolist()
    [3, 4]
    """
    kept = list(values.shape)
    kept = [1] * (len(shape) - len(kept)) + kept
    fits = len(kept) == len(shape) and all(a in (1, b) for a, b in zip(kept, shape, strict=True))
    need(fits, f"its {list(values.shape)} cannot be broadcast to {list(shape)}")
    first = next((i for i, d in enumerate(kept) if d != 1), len(kept))
    return np.broadcast_to(values.reshape(kept[first:]), shape[first:]).ravel()
