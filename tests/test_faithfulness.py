"""Flipped decisions, calibration error and the worst class against figures made by hand and by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl import metrics
from edgedl.faithfulness import (
    calibration_error,
    class_changes,
    compared,
    decide,
    deciding,
    reliability,
    subset,
    worst_class,
    worst_classes,
)  # fmt: skip


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_calibration_error_by_hand() -> None:
    """Two bins of fifteen: 0.95 (4 decisions, 3 right) and 0.5 (2 decisions, 1 right)."""
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.5, 0.5])
    right = np.array([1, 1, 1, 0, 1, 0])
    assert calibration_error(confidence, right) == pytest.approx((4 * 0.20 + 2 * 0.0) / 6)
    assert reliability(confidence, right) == [pytest.approx([0.5, 0.5, 2]), pytest.approx([0.95, 0.75, 4])]


def test_bins_hold_their_upper_end() -> None:
    """((i-1)/M, i/M], as in the paper: with two bins, 0.5 lies in the first, 1 in the second."""
    assert [row[2] for row in reliability(np.array([0.0, 0.5, 0.500001, 1.0]), np.ones(4), bins=2)] == [2, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 400))
def test_calibration_error_is_that_of_scikit_learns_curve(seed: int, count: int) -> None:
    calibration = pytest.importorskip("sklearn.calibration", reason="the oracle is scikit-learn")
    rng = np.random.default_rng(seed)
    confidence, right = rng.random(count), rng.integers(0, 2, count)
    rows = reliability(confidence, right)
    true, said = calibration.calibration_curve(right, confidence, n_bins=15)
    np.testing.assert_allclose([row[:2] for row in rows], np.stack([said, true], 1), atol=1e-12)
    weights = np.array([row[2] for row in rows]) / count
    assert calibration_error(confidence, right) == pytest.approx(float(np.sum(weights * np.abs(true - said))))


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_perfectly_calibrated_and_perfectly_wrong(seed: int) -> None:
    right = np.random.default_rng(seed).integers(0, 2, 50)
    assert calibration_error(right.astype(float), right) == 0
    assert calibration_error(1.0 - right, right) == pytest.approx(1.0)


def test_confidence_of_logits_and_of_probabilities_is_the_same() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    y = np.zeros(50, np.int64)
    pairs = [(deciding("accuracy", {"o": v}, y), v) for v in (logits, softmax(logits))]
    assert [how.form for how, _ in pairs if how] == ["logits", "probabilities"]
    (a, sure_a), (b, sure_b) = (decide(how, {"o": v}) for how, v in pairs if how)
    assert np.array_equal(a, b)
    np.testing.assert_allclose(sure_a, sure_b, atol=1e-6)


def test_binary_scores() -> None:
    y = np.array([0, 1, 1, 0])
    p, logit = np.array([[0.2], [0.9], [0.4], [0.6]]), np.array([[-3.0], [800.0], [-900.0], [0.1]])
    how = deciding("accuracy", {"o": p}, y)
    assert how is not None
    assert how.form == "probability"
    found, sure = decide(how, {"o": p})
    assert found.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(sure, [0.8, 0.9, 0.6, 0.6])
    how = deciding("accuracy", {"o": logit}, y)
    assert how is not None
    found, sure = decide(how, {"o": logit})
    assert found.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(sure, [1 / (1 + np.exp(-3)), 1, 1, 1 / (1 + np.exp(-0.1))])


def test_a_nan_decides_nothing_and_is_never_right() -> None:
    before = {"o": softmax(np.eye(4)[:3] * 5)}
    after = {"o": before["o"].copy()}
    after["o"][1, 2] = np.nan
    how = deciding("accuracy", before, np.arange(3))
    assert how is not None
    found, sure = decide(how, after)
    assert found.tolist() == [0, -1, 2]
    assert sure[1] == 0
    figures = compared(how, before, after, np.arange(3))
    assert figures["flipped"] == figures["lost"] == pytest.approx(1 / 3)
    assert np.isfinite(figures["ece"]).all()


def test_flips_by_hand() -> None:
    """Five decisions: 3 stay, one turns wrong, one turns right."""
    y = np.array([0, 1, 2, 0, 1])
    before, after = ({"o": np.eye(3)[c] * 0.7 + 0.1} for c in ([0, 1, 2, 0, 0], [0, 1, 2, 1, 1]))
    how = deciding("accuracy", before, y)
    assert how is not None
    figures = compared(how, before, after, y, ("cat", "dog", "cow"))
    assert (figures["flipped"], figures["lost"], figures["gained"]) == (0.4, 0.2, 0.2)
    assert figures["per_class"] == [{"label": "cat", "count": 2, "original": 1.0, "now": 0.5}]
    changes = class_changes(how, before, after, y, ("cat", "dog", "cow"))
    assert {c["label"]: c["now"] - c["original"] for c in changes} == {"cat": -0.5, "dog": 0.5, "cow": 0.0}
    assert worst_class(changes) == {"label": "cat", "drop": 0.5, "count": 2}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8))
def test_class_changes_are_the_recalls(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, 60)
    before, after = ({"o": softmax(rng.normal(size=(60, classes)))} for _ in range(2))
    how = deciding("accuracy", before, y)
    assert how is not None
    changes = class_changes(how, before, after, y)
    for key, outputs in (("original", before), ("now", after)):
        want = metrics.per_class_accuracy(outputs["o"], y, classes)
        assert [c[key] for c in changes] == pytest.approx(want[~np.isnan(want)].tolist())
    figures = compared(how, before, after, y)
    was, now = (metrics.accuracy(o["o"], y) for o in (before, after))
    assert figures["lost"] - figures["gained"] == pytest.approx(was - now)
    assert figures["flipped"] == pytest.approx(1 - metrics.top1_agreement(after["o"], before["o"]))


def test_without_labels_a_class_is_what_the_original_decides() -> None:
    before, after = ({"o": softmax(np.eye(3)[c] * 4)} for c in ([0, 0, 0, 0, 1, 1], [0, 0, 0, 2, 1, 1]))
    how = deciding("agreement", before, None)
    assert how is not None
    assert not how.labelled
    changes = class_changes(how, before, after, None)
    assert worst_class(changes) == {"label": "0", "drop": 0.25, "count": 4}
    assert [c["label"] for c in worst_classes(changes)] == ["0"]
    figures = compared(how, before, after, None)
    assert figures["flipped"] == pytest.approx(1 / 6)
    assert "ece" not in figures
    assert "lost" not in figures


def test_values_are_no_decisions() -> None:
    values = {"o": np.random.default_rng(0).random((30, 4)) * 3}
    assert deciding("agreement", values, None) is None
    assert deciding("mae", values, np.ones((30, 4), np.float32)) is None
    assert worst_class([]) is None


def test_the_output_is_that_of_the_metric() -> None:
    outputs = {"amount": np.ones((4, 1)), "kind": softmax(np.eye(4))}
    how = deciding("kind:accuracy", outputs, np.arange(4))
    assert how is not None
    assert (how.output, how.form) == ("kind", "probabilities")


@pytest.mark.parametrize("classes", [1, 3])
def test_segmentation_counts_positions(classes: int) -> None:
    """Half of one mask of two flips: 8 of 32 positions; the IoU is scored as by the metric."""
    y = np.zeros((2, 4, 4), np.int64)
    y[:, :2] = 1
    other = y.copy()
    other[0] = 0
    masks = [m[..., None] * 0.8 + 0.1 if classes == 1 else np.eye(3)[m] * 0.8 + 0.05 for m in (y, other)]
    before, after = ({"o": m} for m in masks)
    how = deciding("mean_iou", before, y)
    assert how is not None
    assert (how.unit, how.per_sample, how.is_binary) == ("position", 16, classes == 1)
    figures = compared(how, before, after, y)
    assert figures["flipped"] == figures["lost"] == 0.25
    assert figures["iou"] == pytest.approx((8 / 16 + 16 / 24) / 2)
    assert worst_class(class_changes(how, before, after, y)) == {"label": "1", "drop": 0.5, "count": 16}


def test_segmentation_without_labels_is_known_by_its_probabilities() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 4, 5, 6)) * 3
    how = deciding("agreement", {"o": softmax(scores)}, None)
    assert how is not None
    assert (how.per_sample, how.labelled, how.form) == (20, False, "probabilities")
    figures = compared(how, {"o": softmax(scores)}, {"o": softmax(scores)}, None)
    assert (figures["flipped"], figures["iou"]) == (0.0, 1.0)
    assert deciding("fidelity", {"o": scores}, None) is None
    assert deciding("fidelity", {"o": rng.random((3, 4, 5, 6))}, None) is None


@given(st.integers(1, 500), st.integers(1, 200))
def test_a_subset_is_spread_evenly(total: int, most: int) -> None:
    index = subset(total, most)
    assert len(index) == min(total, most)
    assert index[0] == 0
    assert index[-1] < total
    if len(index) > 1:
        assert index[-1] == total - 1
        assert np.ptp(np.diff(index)) <= 1
