"""Constants of the kernels in kernels/dsp/matrix.h: weights by pairs of channels, rescaling with one rounding instead of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...artifact import Array

FRACTION = 12  # bits behind the point of a rescaled sum
INT8 = (-128, 127)
PHASES = 1 << 12  # of the rounding, of which the best are tried


@dataclass(frozen=True, slots=True)
class Rescaling:
    """`saturate((((sum - less) << shift) * multiplier >> 32) + offset) >> FRACTION)`."""

    shift: int
    multiplier: int
    offset: int
    less: int = 0


def ordered(rows: Array, kernel_h: int, run: int) -> Array:
    """Weights `[channels, kernel_h * run]` in the order in which the patch is gathered: `[channels, k up to a multiple of 4]`.

    Of each row of the kernel (`run` values) as many as make whole words, then what is left of all rows, then zeros.

    >>> ordered(np.arange(10)[None], 2, 5).tolist()
    [[0, 1, 2, 3, 5, 6, 7, 8, 4, 9, 0, 0]]
    """
    channels, whole = len(rows), run // 4 * 4
    cube = rows.reshape(channels, kernel_h, run)
    flat = np.concatenate([cube[:, :, :whole].reshape(channels, -1), cube[:, :, whole:].reshape(channels, -1)], 1)
    return np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))


def interleaved(rows: Array) -> Array:
    """Weights `[channels, k]` (k a multiple of 4) as matrix.h wants them: `[pairs, k / 4, 8]`, int8.

    >>> interleaved(np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])).tolist()
    [[[0, 4, 2, 6, 1, 5, 3, 7]], [[8, 0, 10, 0, 9, 0, 11, 0]]]
    """
    whole = np.pad(rows, ((0, len(rows) % 2), (0, 0)))
    quads = whole.reshape(len(whole) // 2, 2, -1, 4)  # pair, channel, quad, k
    return np.asarray(quads[:, :, :, [0, 2, 1, 3]].reshape(*quads.shape[:3], 2, 2).transpose(0, 2, 3, 4, 1)
                      .reshape(len(whole) // 2, -1, 8), np.int8)  # fmt: skip


def constants(biases: Array, found: list[Rescaling]) -> Array:
    """The 7 words of each pair of channels, int32 `[pairs, 7]`."""
    padded = [*zip([int(b) for b in biases], found, strict=True)]
    padded += [(0, Rescaling(0, 0, 0))] * (len(padded) % 2)
    words = [
        [a - ra.less, b - rb.less, ra.shift | rb.shift << 8, ra.multiplier, ra.offset, rb.multiplier, rb.offset]
        for (a, ra), (b, rb) in zip(padded[::2], padded[1::2], strict=True)
    ]
    return np.array(words, np.int64).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Reference:
    """What LiteRT computes: a sum rescaled, clamped to `limits`. `away`: halves away from zero (gemmlowp), not up (ruy)."""

    multiplier: int
    shift: int
    zero: int
    limits: tuple[int, int] = INT8
    away: bool = False

    def __call__(self, x: int) -> int:
        left, right = max(self.shift, 0), max(-self.shift, 0)
        high = ((x << left) * self.multiplier + (1 << 30)) >> 31
        down = 1 if self.away and right > 0 and high < 0 else 0
        found = ((high + (1 << right >> 1) - down) >> right) + self.zero
        return min(max(found, self.limits[0]), self.limits[1])

    def steps(self, low: int, high: int) -> list[tuple[int, int]]:
        """(sum, result) on both sides of each sum in low..high where the result changes."""
        left, right = max(self.shift, 0), max(-self.shift, 0)
        found = {low, high}
        for value in range(self.limits[0] + 1, self.limits[1] + 1):
            for less in (0, 1) if self.away else (0,):
                half = (1 << 30) + (((1 << right >> 1) - less) << 31)
                first = -((half - ((value - self.zero) << (31 + right))) // (self.multiplier << left))
                found |= {x for x in (first - 1, first) if low <= x <= high}
        return [(x, self(x)) for x in sorted(found)]


def even(pairs: Array) -> Array:
    """Weights or constants of pairs of channels, with an empty pair more if their number is odd."""
    return np.pad(pairs, ((0, len(pairs) % 2), *((0, 0) for _ in pairs.shape[1:])))


def rescaling(wanted: Reference, low: int, high: int) -> Rescaling | None:
    """What gives the same int8 as the reference for every sum in low..high.

    Where both roundings of the reference go up they are one: floor((sum * multiplier + 2^30 + 2^(30 + r)) / 2^(31 + r)) with
    r = -shift; with s = FRACTION - r >= 1 all of it is a multiple of what the upper word of the product keeps, and exact.
    Where that does not hold (r too large, sums that overflow) numbers near by are tried and compared with the reference at
    every sum where its result changes. None: nothing was found.

    >>> rescaling(Reference(1 << 30, -7, -128), -30000, 30000)
    Rescaling(shift=6, multiplier=1073741824, offset=-522224, less=0)
    """
    most = max(abs(low), abs(high))
    if wanted.multiplier == 0 or wanted(low) == wanted(high):
        return Rescaling(0, 0, wanted(low) * (1 << FRACTION))
    up = FRACTION + wanted.shift
    one_rounding = not wanted.away or wanted.limits[0] >= wanted.zero  # what is below zero is clamped
    if one_rounding and wanted.shift < 0 and up >= 1 and most << (1 + up) < 1 << 31:
        half = 1 << (FRACTION - 1)
        return Rescaling(1 + up, wanted.multiplier, (1 << (up - 1)) + half + wanted.zero * (1 << FRACTION))
    if wanted.shift > 0 and most << wanted.shift >= 1 << 31:
        return None
    steps = np.array(wanted.steps(low, high), np.int64).T
    tried = (_near(wanted, low, high, least, steps) for least in (0, (low + high) // 2))
    return next((found for found in tried if found is not None), None)


def _near(wanted: Reference, low: int, high: int, least: int, steps: Array) -> Rescaling | None:
    """Numbers of the kernel for sums in low..high that give all of `steps`, with `less` not far above `least`.

    The product's lower word is dropped before the offset is added; `less` is chosen so that hardly anything of the
    reference's own offset is in it.
    """
    right = -wanted.shift
    up = max(0, FRACTION + 1 - right)
    amount = right + up - FRACTION - 1  # the multiplier is divided by 2^amount
    most = max(abs(low - least), abs(high - least)) + PHASES
    if amount > 30 or most << up >= 1 << 31:
        return None
    near = (wanted.multiplier + (1 << amount >> 1)) >> amount
    constant = (1 << 30) + ((1 << right >> 1) << 31 if right > 0 else 0) + (wanted.zero << (31 + right))
    scale = right - FRACTION - 1
    constant = constant >> scale if scale >= 0 else constant << -scale
    for factor in (n << up for n in range(max(near - 2, 1), near + 3) if n < 1 << 31):
        dropped = (constant + least * factor + (np.arange(PHASES) * factor)) % (1 << 32)
        for k in np.argsort(np.minimum(dropped, (1 << 32) - dropped))[:8].tolist():
            offset = (constant + (least + k) * factor) >> 32
            if not -(1 << 29) < offset < 1 << 29:
                continue
            product = ((steps[0] - least - k) * factor) >> 32
            for move in (0, 1):
                found = np.clip((product + offset + move) >> FRACTION, *wanted.limits)
                if (found == steps[1]).all():
                    return Rescaling(up, factor >> up, offset + move, least + k)
    return None


def addition_at_once(sums: Mapping[str, int], rest: bool = False) -> tuple[int, int, int, int] | None:
    """(a, b, offset, shift) with which `saturate((x * a + y * b + offset) >> shift)` is the ADD of `numerics.addition`.

    Of blocks of 16 elements, or of the `rest` behind them, where LiteRT rounds otherwise. Tried on all 65,536 pairs: of each two factors near those of the real scales the offsets that serve every pair are an
    interval, often not an empty one. None: no such numbers, or limits that are not those of int8.
    """
    if (sums["least"], sums["largest"]) != INT8:
        return None
    x, y = (v.ravel() for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    wanted = _sums(sums, x, y, rest)
    real = [sums[f"{k}_multiplier"] * 2.0 ** (-sums[f"{k}_right"] + sums["out_shift"]) for k in "ab"]
    real = [r * sums["out_multiplier"] * 2.0 ** (20 - 62) for r in real]
    most = 256 * (real[0] + real[1]) + 300  # of a sum, and of its parts
    shift = min(31 - int(most).bit_length(), 24)
    if shift < 8:
        return None
    least = np.where(wanted > -128, wanted << shift, -(1 << 40))
    largest = np.where(wanted < 127, ((wanted + 1) << shift) - 1, 1 << 40)
    around = sorted(((i, j) for i in range(-6, 7) for j in range(-6, 7)), key=lambda ij: abs(ij[0]) + abs(ij[1]))
    for i, j in around:
        a, b = round(real[0] * (1 << shift)) + i, round(real[1] * (1 << shift)) + j
        products = x * a + y * b
        room = (1 << 31) - 1 - int(np.abs(products).max())
        low, high = max(int((least - products).max()), -room), min(int((largest - products).min()), room)
        if low <= high and a > 0 and b > 0:
            return a, b, (low + high) // 2, shift
    return None


def _sums(sums: Mapping[str, int], x: Array, y: Array, rest: bool) -> Array:
    """What `ednn_add_one` gives (each operand rounded once), or what add.c gives for the rest (rounded twice): int64."""

    def rescaled(v: Array, multiplier: int, right: int) -> Array:
        high = (v * multiplier + (1 << 30)) >> 31
        return np.asarray((high + (1 << right >> 1) - ((high < 0) & (right > 0))) >> right)

    def operand(v: Array, name: str) -> Array:
        down = sums[f"{name}_right"]
        first, last = (0, down) if rest else (down, 0)
        return rescaled((v - sums[f"{name}_zero"]) << (20 - first), sums[f"{name}_multiplier"], last)

    left, right = operand(x, "a"), operand(y, "b")
    found = rescaled(left + right, sums["out_multiplier"], -sums["out_shift"]) + sums["out_zero"]
    return np.asarray(np.clip(found, sums["least"], sums["largest"]))
