"""Range observers: what a stream of values says about the range its quantizer should cover."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import DataError, UsageError
from .model import Calibration
from .registry import did_you_mean

Array = npt.NDArray[Any]
BINS = 4096  # on each side of 0
CANDIDATES = 128  # clipping points tried on each side by "mse"


class Observer(Protocol):
    """Sees values batch by batch, in bounded memory; tells the range a quantizer should cover."""

    def update(self, values: Array) -> None:
        """Take in an array of any shape. Raises DataError for NaN and infinity."""

    def range(self) -> tuple[float, float]:
        """(low, high) with low <= 0 <= high; (0, 0) where nothing but zeros was seen."""


def observer(method: Calibration, *, percentile: float = 99.99, bits: int = 8, symmetric: bool = False) -> Observer:
    """A fresh observer.

    `percentile` is of the absolute values, in (50, 100]; `bits` is the width of the integers that "mse" quantizes to;
    a `symmetric` range is (-m, m). Raises UsageError for an unknown method.

    >>> seen = observer("minmax"); seen.update(np.array([0.5, 2.0])); seen.range()
    (0.0, 2.0)
    """
    if method == "minmax":
        return MinMax(symmetric)
    if method == "percentile":
        return Percentile(symmetric, percentile=percentile)
    if method == "mse":
        return MeanSquaredError(symmetric, bits=bits)
    known = ("minmax", "percentile", "mse")
    raise UsageError(
        f"there is no calibration '{method}'{did_you_mean(method, known)}", next=f"choose one of {', '.join(known)}"
    )


@dataclass(slots=True)
class MinMax:
    """The smallest and the largest value seen, and 0: nothing is clipped."""

    symmetric: bool = False
    low: float = 0.0
    high: float = 0.0

    def update(self, values: Array) -> None:
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                "a value seen during calibration is NaN or infinite",
                next="check the calibration data and the model's weights for NaN",
            )
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self) -> tuple[float, float]:
        return _mirrored(self.low, self.high) if self.symmetric else (self.low, self.high)


def _mirrored(low: float, high: float) -> tuple[float, float]:
    top = max(-low, high)
    return -top, top


@dataclass(slots=True)
class Histogram:
    """Counts in 2 * BINS bins of equal width around 0; the width is a power of two and doubles when a value is outside.

    Doubling merges pairs of bins exactly, and the width at the end depends on the largest value alone: neither the
    order nor the batches of the values matter. Bin i covers [i - BINS, i - BINS + 1) * width. Zeros are counted apart,
    for every quantizer here represents 0 without error.
    """

    width: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    zeros: int = 0

    def add(self, values: Array, largest: float) -> None:
        """Count values whose absolute values are at most `largest`."""
        flat = np.ravel(values).astype(np.float64)
        nonzero = flat[flat != 0]
        self.zeros += flat.size - nonzero.size
        if nonzero.size == 0:
            return
        width = _width(largest)
        if self.width == 0.0:
            self.width = width
        while self.width < width:
            self._double()
        index = np.clip(np.floor(nonzero / self.width), -BINS, BINS - 1).astype(np.int64) + BINS
        self.counts += np.bincount(index, minlength=2 * BINS)

    def _double(self) -> None:
        merged = np.zeros_like(self.counts)
        merged[BINS // 2 : BINS + BINS // 2] = self.counts.reshape(BINS, 2).sum(1)
        self.counts, self.width = merged, 2 * self.width

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray((np.arange(-BINS, BINS) + 0.5) * self.width, np.float64)


def _width(largest: float) -> float:
    """The power of two of which BINS hold `largest`.

    >>> _width(1.0) * BINS, _width(0.9) * BINS
    (2.0, 1.0)
    """
    return math.ldexp(1.0, max(math.frexp(largest)[1] - int(math.log2(BINS)), -1000))


@dataclass(slots=True)
class _Histogrammed:
    """What "percentile" and "mse" share: the extremes and the histogram."""

    symmetric: bool = False
    extremes: MinMax = field(default_factory=MinMax)
    histogram: Histogram = field(default_factory=Histogram)

    def update(self, values: Array) -> None:
        self.extremes.update(values)
        self.histogram.add(values, max(_mirrored(self.extremes.low, self.extremes.high)))

    def range(self) -> tuple[float, float]:
        low, high = self.extremes.range()
        if self.histogram.width == 0.0:
            return low, high
        low, high = self.clip(low, high)
        return _mirrored(low, high) if self.symmetric else (low, high)

    def clip(self, low: float, high: float) -> tuple[float, float]:
        """The part of the extremes to cover."""
        return low, high


@dataclass(slots=True)
class Percentile(_Histogrammed):
    """Clips where `percentile` % of the absolute values (zeros counted) are below; exact to one bin.

    A bin is 1/4096 to 1/2048 of the largest absolute value wide.
    """

    percentile: float = 99.99

    def clip(self, low: float, high: float) -> tuple[float, float]:
        counts = self.histogram.counts
        outward = counts[BINS:] + counts[BINS - 1 :: -1]
        below = self.histogram.zeros + np.cumsum(outward)
        wanted = self.percentile / 100 * below[-1]
        first = int(np.searchsorted(below, wanted * (1 - 1e-12)))
        threshold = (first + 1) * self.histogram.width
        return max(low, -threshold), min(high, threshold)


@dataclass(slots=True)
class MeanSquaredError(_Histogrammed):
    """The clipping points with the least expected squared error: what is clipped plus the rounding noise, step^2 / 12.

    The error model of Banner et al., "Post training 4-bit quantization of convolutional networks" (NeurIPS 2019),
    on the histogram instead of a fitted density; grid search as in Nagel et al., "A White Paper on Neural Network
    Quantization" (2021), section 3.1.
    """

    bits: int = 8

    def clip(self, low: float, high: float) -> tuple[float, float]:
        steps = np.arange(1, CANDIDATES + 1) / CANDIDATES
        if self.symmetric:
            top = max(-low, high)
            lows, highs = -top * steps[:, None], top * steps[:, None]
        else:
            lows, highs = low * steps[:, None], high * steps[None, :]
        clipped = self._clipped(highs, 1) + self._clipped(-lows, -1)
        noise = ((highs - lows) / (2**self.bits - 1)) ** 2 / 12
        error = clipped + noise * self.histogram.counts.sum()
        best = np.unravel_index(int(np.argmin(error)), error.shape)
        return (
            max(low, float(np.broadcast_to(lows, error.shape)[best])),
            min(high, float(np.broadcast_to(highs, error.shape)[best])),
        )

    def _clipped(self, at: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
        """Sum of (x - at)^2 over the values beyond `at` on one side (1: above 0, -1: below 0, mirrored)."""
        counts = self.histogram.counts[BINS:] if side > 0 else self.histogram.counts[BINS - 1 :: -1]
        centres = self.histogram.centres[BINS:]
        moments = [np.concatenate([np.cumsum((counts * centres**p)[::-1])[::-1], [0.0]]) for p in range(3)]
        first = np.searchsorted(centres, at)  # bins whose centre is beyond
        n, sum_x, sum_x2 = (moment[first] for moment in moments)
        return np.asarray(np.maximum(sum_x2 - 2 * at * sum_x + at**2 * n, 0.0))
