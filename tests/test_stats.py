"""The statistics against known distributions and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.stats import compare_blocks, is_stationary, median_interval, summary


def blocks_of(rng: Any, centre: float, count: int, drift: Any = 0.0, jitter: float = 0.03, size: int = 40) -> list[Any]:
    """Log-normal latencies in blocks; `drift`: what each block is slower by."""
    slower = np.broadcast_to(1 + np.asarray(drift), (count,))
    return [centre * s * np.exp(rng.normal(0, jitter, size)) for s in slower]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=300))
def test_summary_is_numpys(ns: list[int]) -> None:
    found = summary(ns, [len(ns)])
    us = np.array(ns) / 1e3
    for name, value in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert found[name] == pytest.approx(np.percentile(us, value))
    assert found["mean"] == pytest.approx(us.mean())
    assert (found["min"], found["max"], found["runs"]) == (us.min(), us.max(), len(ns))
    assert found["std"] == pytest.approx(us.std(ddof=1) if len(ns) > 1 else 0.0)
    assert found["ci95"][0] <= found["p50"] + 1e-9 or len(ns) < 6
    assert us.min() <= found["ci95"][0] <= found["ci95"][1] <= us.max()


def test_interval_of_independent_samples_is_scipys() -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="the oracle: pip install scipy")
    values = np.random.default_rng(0).lognormal(0, 0.3, 400)
    low, high = median_interval(values, [400])
    oracle = scipy_stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = oracle.high - oracle.low
    assert abs(low - oracle.low) < 0.2 * width  # two bootstraps of 2000 and 4000 draws
    assert abs(high - oracle.high) < 0.2 * width


@pytest.mark.parametrize("count", [1, 30])
def test_interval_covers_the_median(count: int) -> None:
    """95 % intervals of 200 data sets hold the true median (1.0) in 88 to 100 % of the cases (4 standard errors below)."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        per_block = np.exp(rng.normal(0, 0.1 if count > 1 else 0.0, count))  # what the samples of a block share
        values = np.concatenate([np.exp(rng.normal(0, 0.05, 300 // count)) * b for b in per_block])
        low, high = median_interval(values, [300 // count] * count, seed=seed)
        hits += low <= 1.0 <= high
    assert 176 <= hits <= 200


def test_interval_counts_blocks_and_not_samples() -> None:
    """Samples that resemble each other within a block carry little: the naive interval would be far too narrow."""
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(500, b) + rng.normal(0, 1e-4, 500) for b in rng.normal(1, 0.1, 20)])
    low, high = median_interval(values, [500] * 20)
    naive_low, naive_high = median_interval(values, [10_000])
    assert high - low > 3 * (naive_high - naive_low)


def test_many_samples_are_thinned_and_none_is_an_error() -> None:
    values = np.random.default_rng(0).normal(1, 0.01, 200_000)
    low, high = median_interval(values, [1000] * 200)
    assert 0.999 < low < 1.0 < high < 1.001
    with pytest.raises(ValueError, match="0 values"):
        median_interval(np.empty(0), [])


def test_stationary() -> None:
    assert not is_stationary([1.0, 1.0, 1.0])
    assert is_stationary([5.0, 1.0, 1.01, 1.0, 1.01])
    assert not is_stationary([1.0, 1.0, 1.0, 1.05])


@pytest.mark.parametrize("shape", ["none", "linear", "steps", "walk"])
def test_equal_ones_are_not_told_apart_whatever_the_drift(shape: str) -> None:
    claimed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        count = 30
        drift = {
            "none": np.zeros(count),
            "linear": np.linspace(0, 0.5, count),
            "steps": np.where(np.arange(count) > 12, 0.4, 0.0),
            "walk": np.abs(np.cumsum(rng.normal(0, 0.02, count))),
        }[shape]
        a, b = (blocks_of(rng, 100, count, drift) for _ in range(2))
        claimed += compare_blocks(a, b, paired=True).verdict != "no difference found"
    assert claimed <= 3  # 5 % of 60


def test_five_percent_is_found_under_drift_in_both_directions() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drift = np.linspace(0, 0.5, 30)
        a, b = blocks_of(rng, 105, 30, drift), blocks_of(rng, 100, 30, drift)
        verdict = compare_blocks(a, b, paired=True)
        assert verdict.verdict == "slower"
        assert verdict.ratio == pytest.approx(1.05, abs=0.02)
        assert verdict.interval[0] <= verdict.ratio <= verdict.interval[1]
        assert compare_blocks(b, a, paired=True).verdict == "faster"


def test_one_disturbed_block_decides_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = blocks_of(rng, 100, 20), blocks_of(rng, 100, 20)
    a[7] = a[7] * 8
    assert compare_blocks(a, b, paired=True).verdict == "no difference found"


def test_a_difference_below_the_noise_is_none() -> None:
    rng = np.random.default_rng(0)
    a, b = blocks_of(rng, 100.5, 50, jitter=1e-4), blocks_of(rng, 100, 50, jitter=1e-4)
    verdict = compare_blocks(a, b, paired=True)
    assert verdict.interval[0] > 1  # it is there, and yet
    assert verdict.verdict == "no difference found"
    assert verdict.noise == 0.01


def test_not_in_turns_asks_for_more() -> None:
    rng = np.random.default_rng(0)
    a, b = blocks_of(rng, 103, 30), blocks_of(rng, 100, 30)
    assert compare_blocks(a, b, paired=True).verdict == "slower"
    assert compare_blocks(a, b, paired=False).verdict == "no difference found"
    assert compare_blocks([x * 1.2 for x in a], b[:20], paired=False).verdict == "slower"


def test_few_blocks_claim_nothing() -> None:
    a, b = [np.array([200.0])] * 2, [np.array([100.0])] * 2
    assert compare_blocks(a, b, paired=True).verdict == "no difference found"
    assert compare_blocks(a * 5, b * 5, paired=True).verdict == "slower"
    assert compare_blocks(a, b, paired=True).to_json()["interval"] == pytest.approx([2.0, 2.0])
