"""How faithful an artifact is beyond its metric: decisions that flipped, calibration error, the worst class. numpy only.

A decision is one prediction of a class: one a sample, or one a position where the output has one for each pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .artifact import Array
from .metrics import is_classification, mean_iou, output_name, scores

BINS = 15  # of the calibration error, as in Guo et al. 2017
WORST = 5  # classes in the table of the worst
Form = Literal["probabilities", "logits", "probability", "logit"]  # the latter two: one score a decision


@dataclass(frozen=True, slots=True)
class Decisions:
    """Which output decides on classes, and in what form: told once, from the original's outputs."""

    output: str
    form: Form
    per_sample: int  # decisions a sample
    labelled: bool

    @property
    def is_binary(self) -> bool:
        """Whether there is one score for two classes."""
        return self.form in ("probability", "logit")

    @property
    def unit(self) -> str:
        """What one decision is about."""
        return "prediction" if self.per_sample == 1 else "position"


def deciding(metric: str, original: Mapping[str, Array], y: Array | None) -> Decisions | None:
    """The output of `metric` as decisions, or None where it holds values and no classes.

    With labels these must be classes (integers); without, the output must look like one class a sample, or like the
    probabilities of classes at each position.
    """
    name = output_name(metric, original)
    value = original[name]
    s = scores(value)
    if y is not None:
        if y.dtype.kind not in "iu":
            return None
        binary = s.size == y.size
        per_sample = y.size // max(len(y), 1)
    elif is_classification(value) or _are_probabilities(s):
        binary, per_sample = False, int(np.prod(s.shape[1:-1]))
    else:
        return None
    with np.errstate(invalid="ignore"):
        outside = bool(np.any((s < 0) | (s > 1)))
    names: tuple[Form, Form] = ("probability", "logit") if binary else ("probabilities", "logits")
    return Decisions(name, names[outside], per_sample, y is not None)


def _are_probabilities(s: Array) -> bool:
    """Whether every row of scores `[n, ..., k]`, of several positions, is within 0..1 and sums to one."""
    if s.ndim < 3 or s.shape[-1] < 2 or not np.isfinite(s).all():
        return False
    return bool(s.min() >= 0 and np.abs(s.sum(-1, dtype=np.float64) - 1).max() < 0.01)


def decide(how: Decisions, outputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """Class `[m]` int64 and confidence `[m]` float64, 0..1, of every decision; a NaN decides -1 with confidence 0.

    Confidence is the probability of the class chosen; logits go through softmax or sigmoid.
    """
    s: Array = scores(outputs[how.output]).astype(np.float64)
    if how.is_binary:
        p = _sigmoid(s) if how.form == "logit" else s
        p = p.reshape(-1)
        with np.errstate(invalid="ignore"):
            found = (p > 0.5).astype(np.int64)
        confidence = np.maximum(p, 1 - p)
        bad = np.asarray(np.isnan(p))
    else:
        s = s.reshape(-1, s.shape[-1])
        bad = np.asarray(np.isnan(s).any(-1))
        s = np.where(bad[:, None], 0.0, s)
        p = _softmax(s) if how.form == "logits" else s
        found, confidence = s.argmax(-1), p.max(-1)
    return np.where(bad, -1, found), np.where(bad, 0.0, np.clip(confidence, 0.0, 1.0))


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def reliability(confidence: Array, right: Array, bins: int = BINS) -> list[list[float]]:
    """[mean confidence, accuracy, decisions] of each bin of confidence that holds any, from low to high.

    Bins are ((i-1)/bins, i/bins] (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).
    """
    at = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = [np.bincount(at, weights=v.astype(np.float64), minlength=bins) for v in (confidence, right)]
    return [[float(sums[0][b] / count[b]), float(sums[1][b] / count[b]), int(count[b])] for b in np.flatnonzero(count)]


def calibration_error(confidence: Array, right: Array, bins: int = BINS) -> float:
    """Expected calibration error, 0..1: mean distance of confidence and accuracy over the bins, weighted by decisions.

    >>> round(calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0])), 3)
    0.1
    """
    rows = reliability(confidence, right, bins)
    return sum(n * abs(c - a) for c, a, n in rows) / max(len(confidence), 1)


def class_changes(
    how: Decisions, before: Mapping[str, Array], after: Mapping[str, Array], y: Array | None, labels: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Share of each class's decisions that is right, before and after; rows as in `per_class` of a report.

    Without labels a class is what the original decides, so that before is 1 and after the share that stayed.
    """
    was, now = (decide(how, outputs)[0] for outputs in (before, after))
    true = was if y is None else y.reshape(-1)
    keep = true >= 0
    classes = 2 if how.is_binary else scores(before[how.output]).shape[-1]
    count = np.bincount(true[keep], minlength=classes)
    hits = [np.bincount(true[keep & (found == true)], minlength=classes) for found in (was, now)]
    return [
        {"label": labels[c] if c < len(labels) else str(c), "count": int(count[c])}
        | {key: float(hit[c] / count[c]) for key, hit in zip(("original", "now"), hits, strict=True)}
        for c in map(int, np.flatnonzero(count))
    ]


def worst_class(changes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The class that lost most: {"label", "drop", "count"}, the drop absolute (0.01 is one point); None without classes.

    >>> worst_class([{"label": "cat", "original": 0.75, "now": 0.5, "count": 4}, {"label": "dog", "original": 1.0, "now": 1.0, "count": 9}])
    {'label': 'cat', 'drop': 0.25, 'count': 4}
    """
    lost = max(changes, key=lambda c: float(c["original"] - c["now"]), default=None)
    if lost is None:
        return None
    return {"label": lost["label"], "drop": float(lost["original"] - lost["now"]), "count": lost["count"]}


def worst_classes(changes: Sequence[Mapping[str, Any]], most: int = WORST) -> list[dict[str, Any]]:
    """The classes that lost most, worst first; those that lost nothing left out."""
    lost = [dict(c) for c in changes if c["now"] < c["original"]]
    return sorted(lost, key=lambda c: float(c["now"] - c["original"]))[:most]


def compared(
    how: Decisions, before: Mapping[str, Array], after: Mapping[str, Array], y: Array | None, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures of clean inputs: what flipped, confidence, and with labels the calibration error and its bins.

    `flipped`: share of the decisions that changed; `lost`: from right to wrong, `gained`: from wrong to right. `iou`, where
    there are several decisions a sample: mean intersection over union of the two segmentations.
    """
    (was, sure), (now, sure_now) = (decide(how, outputs) for outputs in (before, after))
    found: dict[str, Any] = {
        "unit": how.unit,
        "decisions": len(was),
        "flipped": float(np.mean(was != now)),
        "confidence": [float(sure.mean()), float(sure_now.mean())],
        "per_class": worst_classes(class_changes(how, before, after, y, labels)),
    }
    if how.per_sample > 1:
        found["iou"] = mean_iou(
            after[how.output], was.reshape(scores(after[how.output]).shape[: None if how.is_binary else -1])
        )
    if y is not None:
        true = y.reshape(-1)
        right, right_now = was == true, now == true
        pairs = ((sure, right), (sure_now, right_now))
        found |= {
            "lost": float(np.mean(right & ~right_now)),
            "gained": float(np.mean(~right & right_now)),
            "ece": [calibration_error(*pair) for pair in pairs],
            "reliability": [reliability(*pair) for pair in pairs],
        }
    return found


def subset(total: int, most: int) -> Array:
    """Indices of at most so many samples, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
