"""Patterns of zeros: counts, groups and N:M against tensorflow-model-optimization's own masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedl.errors import UsageError
from edgedl.stages.sparsity.patterns import Pattern, best, choose, holds, lamp, parse

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
SCORES = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(0, 10, width=32)))
SHARES = st.floats(0, 0.99)
PATTERNS = st.sampled_from(["unstructured", "1x4", "4x1", "2x3", "2:4", "1:4", "3:4", "1:2"])


@settings(deadline=None)
@given(SCORES, PATTERNS, SHARES)
def test_a_mask_has_its_pattern_and_the_share_of_each_kernel(scores: Any, text: str, share: float) -> None:
    pattern = parse(text)
    (mask,) = choose([scores], pattern, share, "layer")
    assert mask.shape == scores.shape
    if pattern.keep is None or share >= (pattern.share or 0):
        assert holds(mask, pattern)
    if (pattern.rows, pattern.columns) == (1, 1):
        assert mask.sum() == max(1, round(mask.size * (1 - share)))
        assert scores[mask].min() >= scores[~mask].max(initial=0)


@settings(deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=4), st.sampled_from(["global", "lamp"]), SHARES)
def test_one_order_over_all_kernels_meets_the_share_and_empties_none(kernels: Any, ranking: Any, share: float) -> None:
    masks = choose(kernels, parse("unstructured"), share, ranking)
    total = sum(k.size for k in kernels)
    assert sum(int(m.sum()) for m in masks) == max(round(total * (1 - share)), len(kernels))
    assert all(m.any() for m in masks)


def test_global_takes_from_the_kernel_of_small_weights() -> None:
    small, large = np.full((1, 1, 10), 0.1), np.full((1, 1, 10), 1.0)
    masks = choose([small, large], parse("unstructured"), 0.4, "global")
    assert [int(m.sum()) for m in masks] == [2, 10]


def test_lamp_does_not_depend_on_the_scale_of_a_kernel() -> None:
    """Lee et al., 2021: the score is relative to what else the kernel has."""
    scores = np.random.default_rng(0).random(50)
    np.testing.assert_allclose(lamp(scores), lamp(100 * scores), rtol=1e-12)
    order = np.argsort(scores)
    expected = [scores[i] ** 2 / sum(scores[j] ** 2 for j in order[at:]) for at, i in enumerate(order)]
    np.testing.assert_allclose(lamp(scores)[order], expected, rtol=1e-9)


# TensorFlow flushes subnormal numbers to zero: to it a weight of 1e-45 is none
WEIGHTS = st.floats(-9, 9, width=32, allow_subnormal=False)


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 20)), elements=WEIGHTS, unique=True),
       st.sampled_from([(2, 4), (1, 4), (1, 2), (3, 8)]))  # fmt: skip
def test_n_of_m_is_tfmots_mask(weights: Any, keep_of: tuple[int, int]) -> None:
    """Rows of weights; tfmot counts zeros (m by n) where edgedl counts what stays (N:M)."""
    utils = pytest.importorskip("tensorflow_model_optimization.python.core.sparsity.keras.pruning_utils")
    keep, of = keep_of
    expected = np.asarray(utils.generate_m_by_n_mask(_constant(np.abs(weights)), (of - keep, of)))
    (mask,) = choose([np.abs(weights)[None]], parse(f"{keep}:{of}"), 1 - keep / of, "layer")
    nonzero = weights != 0  # tfmot may keep padding rather than a weight that is zero, which is the same network
    np.testing.assert_array_equal(mask[0][nonzero], expected.astype(bool)[nonzero])


def _constant(value: Any) -> Any:
    from edgedl.frameworks import tensorflow

    return tensorflow().constant(value)


def test_n_of_m_comes_step_by_step() -> None:
    scores = np.arange(8.0).reshape(1, 1, 8)
    counts = [int(choose([scores], parse("1:4"), share, "layer")[0].sum()) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert counts == [8, 6, 4, 2, 2]


def test_blocks_at_the_edge_are_ranked_by_what_they_have() -> None:
    scores = np.array([[[1.0, 1.0, 1.0, 1.0, 3.0]]])  # a full block of ones, and one weight of 3 alone
    (mask,) = choose([scores], parse("1x4"), 0.5, "layer")
    assert mask.tolist() == [[[False, False, False, False, True]]]


def test_best_takes_the_first_of_equals() -> None:
    assert best(np.zeros(4), 2).tolist() == [True, True, False, False]


def test_the_block_of_a_target() -> None:
    assert parse("target") == Pattern("1x4", 1, 4)
    with pytest.raises(UsageError, match="no block of sparse kernels is known for the target 'toaster'"):
        parse("target", "toaster")


@pytest.mark.parametrize("text", ["3:2", "4:4", "0:4"])
def test_n_of_m_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="the pattern"):
        parse(text)


@pytest.mark.parametrize("text", ["", "1x", "0x4", "x", "2:4:8", "１x４", "-1:4", "unstructure", "99999x1"])
def test_text_that_is_no_pattern(text: str) -> None:
    with pytest.raises(UsageError, match="there is no pattern"):
        parse(text)
