"""Range observers, held to numpy: exact extremes, percentiles to a bin, ranges of nearly the least error."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgedl.calibration import BINS, observer
from edgedl.errors import DataError, UsageError
from edgedl.model import Calibration

METHODS = get_args(Calibration)
floats = st.floats(-1e6, 1e6, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6)
arrays = hnp.arrays(np.float32, st.integers(1, 200), elements=floats)


def range_of(x: Any, method: Any, parts: int = 1, **options: Any) -> tuple[float, float]:
    seen = observer(method, **options)
    for part in np.array_split(x, parts):
        seen.update(part)
    return seen.range()


def squared_error(x: Any, low: float, high: float, bits: int) -> float:
    """Of the usual affine quantizer with an exact zero."""
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    q = np.clip(np.round(x / scale) + zero, 0, 2**bits - 1)
    return float((((q - zero) * scale - x) ** 2).mean())


@settings(max_examples=60, deadline=None)
@given(arrays)
def test_minmax_is_exact_and_includes_zero(x: Any) -> None:
    assert range_of(x, "minmax", parts=3) == (min(0.0, float(x.min())), max(0.0, float(x.max())))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(x=arrays, seed=st.integers(0, 99), parts=st.integers(1, 9))
def test_neither_order_nor_batches_matter(method: Any, x: Any, seed: int, parts: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(x)
    assert range_of(shuffled, method, parts) == range_of(x, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@settings(max_examples=40, deadline=None)
@given(x=arrays)
def test_inside_the_extremes_with_zero(method: Any, symmetric: bool, x: Any) -> None:
    low, high = range_of(x, method, symmetric=symmetric)
    top = max(0.0, float(np.abs(x).max()))
    assert -top <= low <= 0 <= high <= top
    assert not symmetric or low == -high


@settings(max_examples=60, deadline=None)
@given(x=arrays, percentile=st.floats(50.5, 100))
def test_percentile_is_numpys_to_a_bin(x: Any, percentile: float) -> None:
    """Values up to the threshold are at least `percentile` %, and a bin less they would not be."""
    _, high = range_of(x, "percentile", percentile=percentile, symmetric=True)
    expected = float(np.percentile(np.abs(x.astype(np.float64)), percentile, method="inverted_cdf"))
    bin_width = 2 * np.abs(x).max() / BINS
    assert expected <= high * (1 + 1e-6) + 1e-12
    assert high <= expected + bin_width + 1e-12


def test_percentile_counts_zeros() -> None:
    x = np.concatenate([np.zeros(9900), np.linspace(1, 100, 100)])
    assert range_of(x, "percentile", percentile=99.5)[1] == pytest.approx(50, abs=1)


def test_percentile_of_100_clips_nothing() -> None:
    x = np.random.default_rng(0).normal(size=1000)
    assert range_of(x, "percentile", percentile=100) == range_of(x, "minmax")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "outlier", "uniform", "skewed"])
def test_mse_finds_the_least_error(name: str, bits: int) -> None:
    """Against a search over 100 x 100 ranges with the true quantizer: at most 8 % above its best."""
    rng = np.random.default_rng(3)
    x = {
        "normal": rng.normal(size=20_000),
        "laplace": rng.laplace(size=20_000),
        "relu": np.maximum(rng.normal(size=20_000), 0),
        "outlier": np.append(rng.normal(size=20_000), [60.0, -3.0]),
        "uniform": rng.uniform(-1, 3, 20_000),
        "skewed": rng.gamma(1.0, size=20_000) - 0.5,
    }[name]
    low, high = range_of(x, "mse", bits=bits)
    lows = min(x.min(), 0) * np.arange(0, 101, 4) / 100
    highs = x.max() * np.arange(4, 101, 4) / 100
    best = min(squared_error(x, a, b, bits) for a in lows for b in highs)
    assert squared_error(x, low, high, bits) <= 1.08 * best
    assert squared_error(x, low, high, bits) <= 1.03 * squared_error(x, *range_of(x, "minmax"), bits)


def test_mse_symmetric_matches_the_known_clipping_of_a_normal() -> None:
    """4 bits, normal: 2.5 to 2.6 standard deviations (Banner et al. 2019, table of optimal alpha: 2.55)."""
    x = np.random.default_rng(0).normal(size=400_000)
    assert range_of(x, "mse", bits=4, symmetric=True)[1] == pytest.approx(2.55, abs=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_bounded(method: Any) -> None:
    """The same few kilobytes after a thousand batches whose values grow by 12 orders of magnitude."""
    seen = observer(method)
    rng = np.random.default_rng(0)
    for exponent in np.linspace(-6, 6, 1000):
        seen.update(rng.normal(size=64) * 10**exponent)
    histogram = getattr(seen, "histogram", None)
    assert histogram is None or histogram.counts.shape == (2 * BINS,)
    assert math.isfinite(seen.range()[1])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros(method: Any) -> None:
    assert observer(method).range() == (0.0, 0.0)
    assert range_of(np.zeros(10), method) == (0.0, 0.0)
    assert range_of(np.zeros(0), method) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(method: Any, bad: float) -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        observer(method).update(np.array([1.0, bad]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.float16, np.float64])
@pytest.mark.parametrize("method", METHODS)
def test_any_dtype_and_shape(method: Any, dtype: Any) -> None:
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    low, high = range_of(x, method, percentile=100.0)
    assert low == 0
    assert 22 <= high <= 23


def test_an_unknown_method() -> None:
    with pytest.raises(UsageError, match="did you mean 'percentile'"):
        observer("percentil")  # type: ignore[arg-type]
