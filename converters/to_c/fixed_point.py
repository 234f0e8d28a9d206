"""gemmlowp's fixed-point arithmetic in Python, for tables that are made here and read by the C."""

from __future__ import annotations

MOST, LEAST = (1 << 31) - 1, -(1 << 31)


def clamp(x: int, low: int = LEAST, high: int = MOST) -> int:
    """`x`, or the limit that it is beyond."""
    return min(max(x, low), high)


def wrapped(x: int) -> int:
    """`x` as an int32 that has overflowed.

    >>> wrapped(1 << 31) == -(1 << 31)
    True
    """
    return (x - LEAST) % (1 << 32) + LEAST


def high_mul(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul of int32: a * b / 2^31, halves up."""
    return clamp((a * b + (1 << 30)) >> 31)


def high_mul_16(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul of int16: a * b / 2^15, halves up."""
    return clamp((a * b + (1 << 14)) >> 15, -32768, 32767)


def rounded_shift(x: int, exponent: int) -> int:
    """RoundingDivideByPOT: x / 2^exponent, halves away from zero.

    >>> rounded_shift(-6, 2), rounded_shift(6, 2)
    (-2, 2)
    """
    half = (1 << exponent) >> 1
    return (x + half - (1 if exponent and x < 0 else 0)) >> exponent


def rescale(x: int, multiplier: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier, rounded twice."""
    left, right = max(shift, 0), max(-shift, 0)
    return rounded_shift(high_mul(wrapped(x << left), multiplier), right)


def rescale_up(x: int, multiplier: int, shift: int) -> int:
    """The same with halves up in the second rounding: what LiteRT's vector code does, on x86 as on Arm."""
    left, right = max(shift, 0), max(-shift, 0)
    return (high_mul(wrapped(x << left), multiplier) + ((1 << right) >> 1)) >> right


def shifted_left(x: int, by: int) -> int:
    """SaturatingRoundingMultiplyByPOT for a positive exponent."""
    return clamp(x << by)


def inverse_square_root(x: int) -> tuple[int, int]:
    """(multiplier, shift) of 1 / sqrt(x), x >= 0, as GetInvSqrtQuantizedMultiplierExp with a shift to the left: by
    Newton's method in fixed point.

    >>> inverse_square_root(4)
    (1073741828, 0)
    """
    if x <= 1:
        return MOST, 0
    shift = 11
    while x >= 1 << 29:
        x, shift = x // 4, shift + 1
    pairs = (31 - x.bit_length()) // 2 - 1
    x, shift = x << 2 * pairs, shift - pairs
    given = x >> 1
    half, three_halves = rounded_shift(given, 1), (1 << 28) + (1 << 27)
    root = 1 << 28
    for _ in range(5):
        cube = shifted_left(high_mul(high_mul(root, root), root), 6)
        root = shifted_left(wrapped(high_mul(three_halves, root) - high_mul(half, cube)), 3)
    root = high_mul(root, 1518500250)
    return (wrapped(root << -shift), 0) if shift < 0 else (root, -shift)
