"""The fixed-point numbers of TensorFlow Lite: multipliers and shifts, activation limits; as its own `Prepare` computes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...artifact import Array
from .graph import Op, Tensor, Unsupported

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (-(1 << 31), (1 << 31) - 1)}
BLOCK = 16  # elements that LiteRT's vector code for ADD adds at a time; what is left behind them it rounds otherwise
NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3  # ActivationFunctionType of schema.fbs


def quantize_multiplier(real: float) -> tuple[int, int]:
    """(multiplier, shift): real = multiplier / 2^31 * 2^shift, as `QuantizeMultiplier` of quantization_util.cc.

    The multiplier is 0 or in 2^30..2^31-1. Raises Unsupported for what is negative or too large.

    >>> quantize_multiplier(0.5), quantize_multiplier(0.75)
    ((1073741824, 0), (1610612736, 0))
    """
    if not (math.isfinite(real) and real >= 0):
        raise Unsupported(f"a rescaling factor is {real}")
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = _round(fraction * (1 << 31))
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        raise Unsupported(f"a rescaling factor of {real:g} is too large")
    return multiplier, shift


def _round(value: float) -> int:
    """Half away from zero, as std::round."""
    return math.floor(value + 0.5) if value >= 0 else -math.floor(-value + 0.5)


def convolution_multipliers(
    x: Tensor, weights: Tensor, y: Tensor, channels: int, as_dense: bool = False
) -> tuple[Array, Array]:
    """(multipliers, shifts) int32 for each output channel, from double products of float scales.

    `as_dense`: as FULLY_CONNECTED, which multiplies the two scales of a tensor as floats.
    """
    scales = np.resize(weights.scales, channels) if len(weights.scales) == 1 else weights.scales
    if len(scales) != channels:
        raise Unsupported(f"there are {len(weights.scales)} scales of weights for {channels} channels")
    if not float(y.scale) > 0:
        raise Unsupported("the scale of its output is 0")
    products = [float(x.scale) * float(s) for s in scales]
    if as_dense and len(weights.scales) == 1:
        products = [float(x.scale * weights.scale)] * channels
    pairs = [quantize_multiplier(product / float(y.scale)) for product in products]
    return np.array([m for m, _ in pairs], np.int32), np.array([s for _, s in pairs], np.int32)


def activation_limits(op: Op, y: Tensor) -> tuple[int, int]:
    """(least, largest) quantized result, as `CalculateActivationRangeQuantized`. Raises Unsupported for tanh and sign."""
    low, high = LIMITS[y.dtype]
    kind = int(op.option("fusedActivationFunction"))
    if kind == NONE:
        return low, high
    if kind == RELU:
        return max(low, _at(0.0, y)), high
    if kind == RELU6:
        return max(low, _at(0.0, y)), min(high, _at(6.0, y))
    if kind == RELU_N1_TO_1:
        return max(low, _at(-1.0, y)), min(high, _at(1.0, y))
    raise Unsupported(f"the fused activation {kind} is not known")


def _at(real: float, y: Tensor) -> int:
    return y.zero_point + _round(float(np.float32(real) / y.scale))


def addition(op: Op, a: Tensor, b: Tensor, y: Tensor) -> dict[str, int]:
    """The fields of `ednn_add_one_t` (add_one.h): an ADD or SUB of int8, as `Prepare` of add.cc scales it. Raises Unsupported.

    LiteRT's vector code for ADD shifts an operand by 20 + its (negative) shift bits to the left, and narrows results to
    int16 without saturation: what would go beyond that is refused.
    """
    twice = 2.0 * max(float(a.scale), float(b.scale))
    if not (twice > 0 and float(y.scale) > 0):
        raise Unsupported("a scale is 0")
    left, a_shift = quantize_multiplier(float(a.scale) / twice)
    right, b_shift = quantize_multiplier(float(b.scale) / twice)
    total, shift = quantize_multiplier(twice / ((1 << 20) * float(y.scale)))
    if shift > 0:
        raise Unsupported(f"its output's scale {float(y.scale):g} is too small beside those of its inputs")
    if op.kind == "ADD":
        if min(a_shift, b_shift) < -20:
            raise Unsupported("the scales of its inputs are too far apart")
        reach = sum(farthest(t) * float(t.scale) for t in (a, b)) / float(y.scale)
        if reach + abs(y.zero_point) >= 32767:
            raise Unsupported(f"its output's scale {float(y.scale):g} is too small beside those of its inputs")
    least, largest = activation_limits(op, y)
    return {
        "a_zero": a.zero_point, "a_multiplier": left, "a_right": -a_shift,
        "b_zero": b.zero_point, "b_multiplier": right, "b_right": -b_shift,
        "out_zero": y.zero_point, "out_multiplier": total, "out_shift": shift, "least": least, "largest": largest,
    }  # fmt: skip


def farthest(x: Tensor) -> int:
    """The largest distance of an int8 from the tensor's zero point."""
    return max(127 - x.zero_point, x.zero_point + 128)


def same_padding(size: int, out: int, kernel: int, stride: int, dilation: int) -> int:
    """Rows (or columns) of padding before the first one for the padding SAME, as `ComputePadding`.

    >>> same_padding(96, 48, 3, 2, 1), same_padding(25, 25, 3, 1, 1)
    (0, 1)
    """
    return max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0) // 2


def padding(op: Op, size: Any, out: Any, kernel: Any) -> tuple[int, int]:
    """(top, left) of an operator with the options strideH, strideW, padding; heights and widths as pairs."""
    kind = int(op.option("padding"))
    if kind not in (0, 1):
        raise Unsupported(f"the padding {kind} is neither SAME nor VALID")
    if kind == 1:  # VALID
        return 0, 0
    strides = int(op.option("strideH", 1)), int(op.option("strideW", 1))
    dilations = int(op.option("dilationHFactor", 1)), int(op.option("dilationWFactor", 1))
    top, left = (
        same_padding(s, o, k, t, d) for s, o, k, t, d in zip(size, out, kernel, strides, dilations, strict=True)
    )
    return top, left
