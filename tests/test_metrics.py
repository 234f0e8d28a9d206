"""Metrics against scikit-learn; agreement functions against their definitions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from edgedl import metrics
from edgedl.artifact import Array, TensorSpec
from edgedl.errors import DataError
from edgedl.metrics import METRICS, agreement, drop, evaluate, evaluate_all, find_metric, is_classification

quick = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def multiclass(draw: st.DrawFn) -> tuple[Array, Array]:
    """Scores `[n, k]`, often with ties, and labels of which every class may be missing."""
    rng = np.random.default_rng(draw(seeds))
    n, k = draw(st.integers(2, 40)), draw(st.integers(3, 8))
    levels = draw(st.sampled_from([3, 1000]))
    return rng.integers(0, levels, (n, k)).astype(np.float32), rng.integers(0, k, n)


@st.composite
def binary(draw: st.DrawFn) -> tuple[Array, Array]:
    """Probabilities `[n, 1]` on a grid (ties), and labels 0/1 of both classes."""
    rng = np.random.default_rng(draw(seeds))
    n = draw(st.integers(2, 50))
    y = rng.integers(0, 2, n)
    y[:2] = (0, 1)
    return rng.integers(0, 11, (n, 1)).astype(np.float32) / 10, y


def sklearn_quietly(function: object, *args: object, **options: object) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(function(*args, **options))  # type: ignore[operator]


@quick
@given(multiclass())
def test_multiclass_metrics_are_sklearns(case: tuple[Array, Array]) -> None:
    scores, y = case
    found = scores.argmax(1)
    k = scores.shape[1]
    assert metrics.accuracy(scores, y) == pytest.approx(oracle.accuracy_score(y, found))
    assert metrics.f1(scores, y) == pytest.approx(oracle.f1_score(y, found, average="macro", zero_division=0))
    assert metrics.mean_iou(scores, y) == pytest.approx(
        oracle.jaccard_score(y, found, average="macro", zero_division=0)
    )
    np.testing.assert_array_equal(metrics.confusion(scores, y, k), oracle.confusion_matrix(y, found, labels=range(k)))
    recall = oracle.recall_score(y, found, labels=range(k), average=None, zero_division=0)
    mine = metrics.per_class_accuracy(scores, y, k)
    present = np.bincount(y, minlength=k) > 0
    np.testing.assert_allclose(mine[present], recall[present])
    assert np.isnan(mine[~present]).all()


@quick
@given(multiclass(), st.integers(1, 4))
def test_top_k(case: tuple[Array, Array], k: int) -> None:
    scores, y = case
    distinct = scores - np.arange(scores.shape[1], dtype=np.float32) * 1e-3  # the lower class wins a tie, as in argmax
    expected = sklearn_quietly(oracle.top_k_accuracy_score, y, distinct, k=k, labels=range(scores.shape[1]))
    assert find_metric(f"top{k}")(scores, y) == pytest.approx(expected)
    assert find_metric("top1")(scores, y) == metrics.accuracy(scores, y)


@quick
@given(binary())
def test_binary_metrics_are_sklearns(case: tuple[Array, Array]) -> None:
    scores, y = case
    assert metrics.roc_auc(scores, y) == pytest.approx(oracle.roc_auc_score(y, scores[:, 0]))
    found = (scores[:, 0] > 0.5).astype(int)
    assert metrics.accuracy(scores, y) == pytest.approx(oracle.accuracy_score(y, found))
    assert metrics.f1(scores, y) == pytest.approx(oracle.f1_score(y, found, average="macro", zero_division=0))
    np.testing.assert_array_equal(metrics.confusion(scores, y, 2), oracle.confusion_matrix(y, found, labels=[0, 1]))


@quick
@given(seeds, st.integers(3, 6))
def test_roc_auc_of_many_classes_is_one_against_the_rest(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k, 30)])
    p = rng.dirichlet(np.ones(k), len(y))
    assert metrics.roc_auc(p, y) == pytest.approx(oracle.roc_auc_score(y, p, multi_class="ovr"))
    two = p[:, :2] / p[:, :2].sum(1, keepdims=True)
    assert metrics.roc_auc(two, y > 0) == pytest.approx(oracle.roc_auc_score(y > 0, two[:, 1]))


@quick
@given(seeds, st.sampled_from([(20,), (20, 1), (5, 4), (3, 4, 5, 2)]))
def test_errors_are_sklearns(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    a, y = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    assert metrics.mae(a, y) == pytest.approx(oracle.mean_absolute_error(y.ravel(), a.ravel()), rel=1e-5)
    assert metrics.mse(a, y) == pytest.approx(oracle.mean_squared_error(y.ravel(), a.ravel()), rel=1e-5)


def test_segmentation_counts_every_pixel() -> None:
    y = np.array([[[0, 1], [2, 2]]])
    outputs = np.eye(3, dtype=np.float32)[np.array([[[0, 1], [2, 0]]])]
    assert metrics.mean_iou(outputs, y) == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert metrics.accuracy(outputs, y) == 0.75
    one_channel = np.array([[[[0.9], [0.2]], [[0.7], [0.1]]]])
    assert metrics.mean_iou(one_channel, np.array([[[1, 0], [0, 0]]])) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_inner_axes_of_length_one_do_not_matter() -> None:
    scores, y = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]], np.array([0, 1, 2, 0])
    assert metrics.accuracy(scores[:, None, None], y) == metrics.accuracy(scores, y) == 0.75
    assert metrics.accuracy(np.array([[[[0.9]]], [[[0.1]]]]), np.array([1, 1])) == 0.5


def test_binary_logits_are_cut_at_zero() -> None:
    assert metrics.accuracy(np.array([[0.2], [-3.0], [4.0]]), np.array([1, 0, 1])) == 1.0
    assert metrics.accuracy(np.array([[0.2], [0.4], [0.9]]), np.array([0, 0, 1])) == 1.0


def test_a_row_with_nan_is_never_right() -> None:
    scores = np.array([[np.nan, 0.0], [1.0, 0.0]])
    assert metrics.accuracy(scores, np.array([0, 0])) == 0.5
    assert find_metric("top2")(scores, np.array([0, 0])) == 0.5
    assert metrics.confusion(scores, np.array([0, 0]), 2).tolist() == [[1, 0], [0, 0]]
    assert metrics.accuracy(np.array([[np.nan], [0.1]]), np.array([0, 0])) == 0.5


@pytest.mark.parametrize(
    ("y", "noise", "peak"),
    [
        (np.array([0.0, 1.0]), 0.1, 1.0),
        (np.array([-1.0, 1.0]), 0.1, 2.0),
        (np.array([0.0, 255.0]), 5.0, 255.0),
        (np.array([0, 1], np.uint8), 5.0, 255.0),
    ],
)
def test_psnr_peak(y: Array, noise: float, peak: float) -> None:
    assert metrics.psnr(y + noise, y) == pytest.approx(20 * math.log10(peak / noise))
    assert metrics.psnr(y, y) == math.inf


@quick
@given(seeds, st.floats(1e-4, 1.0))
def test_sqnr_and_fidelity(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=100)
    noise = rng.normal(size=100)
    noise *= level * np.linalg.norm(a) / np.linalg.norm(noise)
    assert metrics.sqnr_db(a, a + noise) == pytest.approx(-20 * math.log10(level), abs=1e-6)
    assert metrics.fidelity(a + noise, a) == pytest.approx(1 - level**2, abs=1e-9)


def test_broken_outputs_never_look_good() -> None:
    a, bad = np.ones(4), np.array([1.0, 1.0, np.nan, 1.0])
    assert metrics.sqnr_db(a, bad) == -math.inf
    assert metrics.max_relative_error(bad, a) == math.inf
    assert metrics.sqnr_db(np.zeros(4), a) == -math.inf
    assert metrics.max_relative_error(a, np.zeros(4)) == math.inf
    assert metrics.fidelity(bad, a) == 0
    assert drop("accuracy", 0.9, math.nan) == math.inf
    assert metrics.sqnr_db(a, a) == math.inf
    assert metrics.max_relative_error(np.zeros(4), np.zeros(4)) == 0


def test_drop_is_positive_when_worse() -> None:
    assert drop("accuracy", 0.9, 0.88) == pytest.approx(0.02)
    assert drop("accuracy", 0.88, 0.9) == pytest.approx(-0.02)
    assert drop("mse", 2.0, 2.1) == pytest.approx(0.05)
    assert drop("psnr", 40.0, 38.0) == pytest.approx(0.05)
    assert drop("mae", 0.0, 0.1) == math.inf
    assert drop("mae", 0.0, 0.0) == 0
    assert drop("psnr", math.inf, 40.0) == math.inf
    assert drop("head:top3", 0.5, 0.4) == pytest.approx(0.1)


def test_a_metric_may_name_its_output() -> None:
    outputs = {"boxes": np.zeros((2, 4)), "classes": np.eye(2)}
    y = np.array([0, 1])
    assert evaluate("classes:accuracy", outputs, y) == 1.0
    assert list(evaluate_all("classes:accuracy", outputs, y)) == ["classes:accuracy", "f1", "roc_auc"]
    with pytest.raises(DataError, match=r"does not have: did you mean 'classes'"):
        evaluate("classe:accuracy", outputs, y)


@pytest.mark.parametrize(("name", "near"), [("acuracy", "accuracy"), ("top0", "top5"), ("psrn", "psnr")])
def test_an_unknown_metric_is_named_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(DataError, match=f"'{name}': did you mean '{near}'"):
        find_metric(name)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_refuses_what_does_not_fit(name: str) -> None:
    with pytest.raises(DataError):
        METRICS[name](np.zeros((3, 4)), np.zeros(2))
    with pytest.raises(DataError):
        METRICS[name](np.zeros((0, 4)), np.zeros(0))
    with pytest.raises(DataError):
        METRICS[name](np.zeros((3, 4)), np.zeros((3, 5)))


def test_auc_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="two classes"):
        metrics.roc_auc(np.zeros((3, 1)), np.ones(3, int))


def test_what_looks_like_class_scores() -> None:
    softmax = np.array([[0.9, 0.1], [0.3, 0.7]])
    assert is_classification(softmax)
    assert is_classification(softmax[:, None, None])
    assert is_classification(np.array([[-3.0, 5.0]]))  # logits
    assert not is_classification(np.array([[10.0, 20.0, 300.0, 400.0]]))  # a box
    assert not is_classification(np.zeros((2, 1)))
    assert not is_classification(np.zeros((2, 8, 8, 3)))
    assert is_classification(TensorSpec("a", (None, 10), "float32"))
    assert not is_classification(TensorSpec("a", (None, 1), "float32"))
    assert not is_classification(TensorSpec("a", (None, None), "float32"))


def test_agreement_of_all_outputs() -> None:
    reference = {"scores": np.array([[0.9, 0.1], [0.4, 0.6]]), "box": np.array([[1.0, 2.0], [3.0, 4.0]])}
    found = agreement(reference, {"box": reference["box"] * 1.01, "scores": np.array([[0.8, 0.2], [0.6, 0.4]])})
    assert found["scores"]["top1_agreement"] == 0.5
    assert found["scores"]["max_relative_error"] == pytest.approx(0.2 / 0.9)
    assert found["box"]["sqnr_db"] == pytest.approx(40)
    assert "top1_agreement" not in found["box"]
    with pytest.raises(DataError, match="'box' is missing"):
        agreement(reference, {"scores": reference["scores"]})
    with pytest.raises(DataError, match="cannot be compared"):
        agreement(reference, {**reference, "box": np.zeros((1, 2))})


def test_agreement_as_a_metric() -> None:
    reference = np.array([[0.9, 0.1], [0.4, 0.6]])
    assert evaluate("agreement", {"o": reference[:, ::-1].copy()}, reference) == 0.0
    assert evaluate("agreement", {"o": reference}, reference) == 1.0
    box = np.array([[10.0, 20.0, 300.0, 400.0]])
    assert evaluate("agreement", {"o": box * 0.9}, box) == pytest.approx(0.99)
    signal = np.array([[-3.0, 5.0]])
    assert evaluate("fidelity", {"o": signal * 0.9}, signal) == pytest.approx(0.99)
