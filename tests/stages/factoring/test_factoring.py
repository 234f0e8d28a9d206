"""Low-rank factors against numpy's SVD and brute force: decompositions, ranks, patches."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")

from edgedl.frameworks import keras
from edgedl.stages.factoring.decompose import Metric, error, matrix, product, truncated, tucker
from edgedl.stages.factoring.ranks import Choice, by_energy, by_evidence, hull, within
from edgedl.stages.factoring.sites import patches

PLAIN = Metric()
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


# --- the decompositions, against numpy's SVD


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.data())
@QUICK
def test_a_matrix_loses_exactly_the_discarded_singular_values(n: int, out: int, seed: int, data: Any) -> None:
    weights = np.random.default_rng(seed).normal(size=(n, out))
    rank = data.draw(st.integers(1, min(n, out)))
    left, right = truncated(weights, PLAIN, rank)
    values = np.linalg.svd(weights, compute_uv=False)
    assert (left.shape, right.shape) == ((n, rank), (rank, out))
    lost = np.sqrt(np.sum(values[rank:] ** 2))
    assert np.linalg.norm(weights - left @ right) == pytest.approx(lost, abs=1e-9)
    assert error(weights, (left, right), PLAIN) == pytest.approx(lost / np.linalg.norm(weights), abs=1e-9)


@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(0, 99), st.data())
@QUICK
def test_tucker_loses_at_most_what_both_unfoldings_discard(k: int, ins: int, outs: int, seed: int, data: Any) -> None:
    kernel = np.random.default_rng(seed).normal(size=(k, k, ins, outs))
    ranks = data.draw(st.tuples(st.integers(1, ins), st.integers(1, min(outs, k * k * ins))))
    factors = tucker(kernel, PLAIN, ranks)
    tails = [
        np.linalg.svd(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1), compute_uv=False)[rank:]
        for axis, rank in zip((2, 3), ranks, strict=True)
    ]
    lost = np.linalg.norm(matrix(kernel) - product(factors, kernel.shape)) ** 2
    assert lost <= sum(np.sum(t**2) for t in tails) * (1 + 1e-6) + 1e-12  # De Lathauwer et al., 2000, property 10
    assert lost >= max(np.sum(t**2) for t in tails) * (1 - 1e-6) - 1e-12


@given(st.integers(2, 10), st.integers(2, 10), st.integers(0, 99), st.data())
@QUICK
def test_in_a_metric_no_other_factors_of_the_rank_are_better(n: int, out: int, seed: int, data: Any) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, n)) * rng.uniform(0.01, 3, n)
    weights, rank = rng.normal(size=(n, out)), data.draw(st.integers(1, min(n, out) - 1))
    metric = Metric.of(x.T @ x / len(x))
    aware = np.linalg.norm(x @ (weights - product(truncated(weights, metric, rank), weights.shape)))
    plain = np.linalg.norm(x @ (weights - product(truncated(weights, PLAIN, rank), weights.shape)))
    best = np.sqrt(np.sum(np.linalg.svd(x @ weights, compute_uv=False)[rank:] ** 2))
    assert best <= aware * (1 + 1e-6)
    assert aware <= best * 1.02 + 1e-3 * np.linalg.norm(x @ weights)  # the ridge of the metric: 1e-5 of the variance
    assert aware <= plain * (1 + 1e-3) + 1e-9


def test_what_lies_between_has_uncorrelated_entries_of_one_variance() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    metric = Metric.of(x.T @ x / len(x))
    middle = x @ truncated(np.random.default_rng(2).normal(size=(6, 5)), metric, 3)[0]
    covariance = middle.T @ middle / len(x) / metric.scale**2
    assert covariance == pytest.approx(np.eye(3), abs=1e-2)


# --- the choice of ranks


def test_energy_is_the_fewest_that_hold_the_share() -> None:
    values = np.array([4.0, 2.0, 1.0, 1.0])  # squares 16, 4, 1, 1 of 22
    assert [by_energy(values, e) for e in (0.5, 16 / 22, 0.8, 20 / 22, 0.95, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert by_energy(np.zeros(3), 0.9) == 1


@pytest.mark.parametrize(("rows", "columns", "rank"), [(40, 90, 5), (60, 60, 10), (90, 40, 1), (30, 200, 0)])
def test_evidence_finds_the_rank_below_the_noise(rows: int, columns: int, rank: int) -> None:
    rng = np.random.default_rng(3)
    signal = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    values = np.linalg.svd(signal + 0.3 * rng.normal(size=(rows, columns)), compute_uv=False)
    assert by_evidence(values, rows, columns) == max(rank, 1)


@given(st.lists(st.lists(st.tuples(st.integers(1, 50), st.floats(0.001, 1)), max_size=4), min_size=1, max_size=4),
       st.floats(0, 1))  # fmt: skip
@QUICK
def test_the_budget_is_held_and_no_worse_than_the_hull_allows(layers: Any, share: float) -> None:
    choices = {
        str(i): [Choice((), 60, 0.0), *(Choice((c,), c, e) for c, e in options)] for i, options in enumerate(layers)
    }
    budget = share * 60 * len(layers)
    chosen = within(choices, budget)
    cost, lost = sum(c.cost for c in chosen.values()), sum(c.error for c in chosen.values())
    least = sum(min(c.cost for c in options) for options in choices.values())
    assert cost <= budget or cost == least
    fitting = [sum(c.error for c in all_) for all_ in itertools.product(*choices.values()) if sum(c.cost for c in all_) <= budget]  # fmt: skip
    step = max((b.error - a.error for o in choices.values() for a, b in itertools.pairwise(hull(o))), default=0.0)
    assert not fitting or lost <= min(fitting) + step + 1e-9  # the greedy misses the best by less than its last step


# --- patches and covariances


@given(
    st.sampled_from(["same", "valid"]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(5, 9),
    st.integers(1, 3), st.sampled_from([1, 2]),
)  # fmt: skip
@QUICK
def test_patches_times_the_kernel_are_the_convolution(
    padding: str, k: int, stride: int, dilation: int, size: int, ins: int, rank: int
) -> None:
    if stride > 1 and dilation > 1:
        dilation = 1  # Keras refuses both
    kind = {1: keras().layers.Conv1D, 2: keras().layers.Conv2D}[rank]
    kernel = (k, 3)[:rank]
    layer = kind(4, kernel, stride, padding=padding, dilation_rate=dilation, use_bias=False)
    shape = (size, size + 2)[:rank]
    if padding == "valid" and any((w - 1) * dilation + 1 > n for w, n in zip(kernel, shape, strict=True)):
        return
    x = np.random.default_rng(size).normal(size=(2, *shape, ins)).astype(np.float32)
    wanted = np.asarray(layer(x))
    found = patches(layer, x) @ matrix(layer.kernel.numpy())
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_causal_patches() -> None:
    layer = keras().layers.Conv1D(3, 3, padding="causal", dilation_rate=2, use_bias=False)
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    wanted = np.asarray(layer(x))
    np.testing.assert_allclose(patches(layer, x) @ matrix(layer.kernel.numpy()), wanted, rtol=1e-4, atol=1e-5)
