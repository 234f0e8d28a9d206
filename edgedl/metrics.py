"""Metrics: outputs against labels, and outputs against the outputs of the original network. numpy only.

`outputs` has the batch as its first axis. Class scores are `[n, k]` (or `[n, ..., k]`, one decision per position);
an output `[n]` or `[n, 1]` is a binary score: class 1 above 0.5, or above 0 where values outside 0..1 show it to be a
logit. Rows with a NaN are never right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .artifact import Array, TensorSpec
from .errors import DataError
from .registry import did_you_mean


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of merit. `bounded`: lives in 0..1, so a drop is absolute; otherwise a drop is relative."""

    name: str
    function: Callable[[Array, Array], float]
    higher_is_better: bool = True
    bounded: bool = True

    def __call__(self, outputs: Array, y: Array) -> float:
        """The metric of `outputs` against `y`. Raises DataError when they do not fit each other or are empty."""
        if len(outputs) == 0 or len(outputs) != len(y):
            raise DataError(
                f"{self.name} of {len(outputs)} outputs against {len(y)} labels", next="give as many labels as inputs"
            )
        return float(self.function(outputs, y))


def scores(outputs: Array) -> Array:
    """Class scores with inner axes of length 1 removed, binary scores as `[n]`.

    >>> scores(np.zeros((5, 1, 1, 10))).shape, scores(np.zeros((5, 1))).shape, scores(np.zeros((5, 8, 8, 1))).shape
    ((5, 10), (5,), (5, 8, 8))
    """
    inner = tuple(a for a in range(1, outputs.ndim - 1) if outputs.shape[a] == 1)
    out = outputs.squeeze(inner)
    return out[..., 0] if out.ndim > 1 and out.shape[-1] == 1 else out


def _is_binary(outputs: Array, y: Array) -> bool:
    """Whether the output holds one score per decision instead of one per class."""
    return scores(outputs).size == y.size


def predictions(outputs: Array, y: Array) -> tuple[Array, Array]:
    """Predicted and true class of every decision, both `[m]` int64; a row with a NaN predicts -1.

    Raises DataError when there is not one label for each decision.
    """
    s = scores(outputs)
    if _is_binary(outputs, y):
        with np.errstate(invalid="ignore"):
            logits = bool(np.any((s < 0) | (s > 1)))
            found = (s > (0.0 if logits else 0.5)).astype(np.int64)
        found[np.isnan(s)] = -1
    else:
        found = s.argmax(-1)
        found[np.isnan(s).any(-1)] = -1
    if found.size != y.size:
        raise DataError(
            f"labels of shape {y.shape} do not fit an output of shape {outputs.shape}", next="give one class per output"
        )
    return found.reshape(-1), y.reshape(-1).astype(np.int64)


def _class_count(outputs: Array, y: Array) -> int:
    return 2 if _is_binary(outputs, y) else int(scores(outputs).shape[-1])


def accuracy(outputs: Array, y: Array) -> float:
    """Share of the decisions that are right, 0..1."""
    found, true = predictions(outputs, y)
    return float(np.mean(found == true))


def top_k(k: int) -> Callable[[Array, Array], float]:
    """Share of the decisions whose true class is among the `k` highest scores; ties go to the lower class, as argmax does."""

    def function(outputs: Array, y: Array) -> float:
        if _is_binary(outputs, y):
            raise DataError(f"top{k} needs one score per class, and the output is {outputs.shape}", next="use accuracy")
        _, true = predictions(outputs, y)
        s = scores(outputs)
        s = s.reshape(-1, s.shape[-1])
        own = np.take_along_axis(s, true[:, None], 1)
        ahead = (s > own) | ((s == own) & (np.arange(s.shape[1]) < true[:, None]))
        return float(np.mean((ahead.sum(1) < k) & ~np.isnan(s).any(1)))

    return function


def confusion(outputs: Array, y: Array, classes: int) -> Array:
    """Counts `[classes, classes]`: rows are the true classes, columns the predicted (rows with a NaN are left out)."""
    found, true = predictions(outputs, y)
    keep = found >= 0
    return np.bincount(true[keep] * classes + found[keep], minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(outputs: Array, y: Array, classes: int) -> Array:
    """Recall of every class, `[classes]` float64; NaN where `y` has no sample of the class."""
    found, true = predictions(outputs, y)
    count = np.bincount(true, minlength=classes)
    right = np.bincount(true[found == true], minlength=classes)
    return np.where(count > 0, right / np.maximum(count, 1), np.nan)


def f1(outputs: Array, y: Array) -> float:
    """Macro F1: the mean over the classes that occur in the labels or the predictions."""
    hit, true, found = _counts(outputs, y)
    present = (true + found) > 0
    return float(np.mean(2 * hit[present] / (true + found)[present]))


def mean_iou(outputs: Array, y: Array) -> float:
    """Mean over the classes (that occur) of intersection over union; one label per pixel."""
    hit, true, found = _counts(outputs, y)
    union = true + found - hit
    return float(np.mean(hit[union > 0] / union[union > 0]))


def _counts(outputs: Array, y: Array) -> tuple[Array, Array, Array]:
    """Per class: right decisions, labels, predictions."""
    classes = _class_count(outputs, y)
    found, true = predictions(outputs, y)
    hit = np.bincount(true[found == true], minlength=classes)
    return hit, np.bincount(true, minlength=classes), np.bincount(found[found >= 0], minlength=classes)


def roc_auc(outputs: Array, y: Array) -> float:
    """Area under the ROC curve; more than two classes: one against the rest, mean over the classes that occur.

    The Mann-Whitney statistic with mid-ranks (Hanley and McNeil, Radiology 1982).
    Raises DataError when the labels hold a single class.
    """
    s, true = scores(outputs).astype(np.float64), y.reshape(-1)
    if _is_binary(outputs, y):
        columns = {1: s.reshape(-1)}
    else:
        s = s.reshape(-1, s.shape[-1])
        columns = {1: s[:, 1] - s[:, 0]} if s.shape[1] == 2 else dict(enumerate(s.T))
    areas = [_auc(column, true == c) for c, column in columns.items() if 0 < np.sum(true == c) < len(true)]
    if not areas:
        raise DataError("roc_auc needs labels of at least two classes", next="use another metric, or more labels")
    return float(np.mean(areas))


def _auc(score: Array, positive: Array) -> float:
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    p = int(positive.sum())
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * (len(score) - p)))


def _errors(outputs: Array, y: Array) -> Array:
    if outputs.size != y.size:
        raise DataError(
            f"targets of shape {y.shape} do not fit an output of shape {outputs.shape}",
            next="give targets of the output's shape",
        )
    return outputs.astype(np.float64).reshape(-1) - y.astype(np.float64).reshape(-1)


def mae(outputs: Array, y: Array) -> float:
    """Mean absolute error, in the unit of the targets."""
    return float(np.mean(np.abs(_errors(outputs, y))))


def mse(outputs: Array, y: Array) -> float:
    """Mean squared error, in the unit of the targets squared."""
    return float(np.mean(_errors(outputs, y) ** 2))


def psnr(outputs: Array, y: Array) -> float:
    """Peak signal-to-noise ratio in dB; infinite when identical.

    The peak-to-peak range is that of the usual image encoding the targets fit: 1 (0..1), 2 (-1..1) or 255.
    """
    low, high = float(y.min()), float(y.max())
    peak = 255.0 if y.dtype == np.uint8 or high > 1 or low < -1 else 2.0 if low < 0 else 1.0
    error = mse(outputs, y)
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def top1_agreement(a: Array, b: Array) -> float:
    """Share of the decisions on which two networks choose the same class."""
    _same_shape(a, b)
    s = scores(b)
    return accuracy(a, predictions(b, s)[0]) if s.ndim == 1 else accuracy(a, s.argmax(-1))


def sqnr_db(reference: Array, other: Array) -> float:
    """Signal to quantization-noise ratio, 10 log10(sum ref^2 / sum (ref - other)^2), in dB.

    Infinite when identical, minus infinity when `other` holds a NaN or inf or the reference is all zero.

    >>> round(sqnr_db(np.array([10.0, 0.0]), np.array([9.0, 0.0])), 3)
    20.0
    """
    _same_shape(reference, other)
    a, b = reference.astype(np.float64), other.astype(np.float64)
    if not np.isfinite(b).all():
        return -math.inf
    noise, signal = float(np.sum((a - b) ** 2)), float(np.sum(a**2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def max_relative_error(a: Array, b: Array) -> float:
    """max|a - b| / max|b|, with `b` the reference; infinite when `a` holds a NaN or inf.

    >>> max_relative_error(np.array([1.5, 4.0]), np.array([1.0, 4.0]))
    0.125
    """
    _same_shape(a, b)
    p, q = a.astype(np.float64), b.astype(np.float64)
    if not np.isfinite(p).all():
        return math.inf
    error, scale = float(np.abs(p - q).max(initial=0)), float(np.abs(q).max(initial=0))
    if error == 0:
        return 0.0
    return error / scale if scale > 0 else math.inf


def fidelity(outputs: Array, reference: Array) -> float:
    """1 - noise power / signal power, 0..1: 0.99 is an SQNR of 20 dB, 0.999 of 30 dB."""
    return max(0.0, 1 - 10 ** (-sqnr_db(reference, outputs) / 10))


def agreement_score(outputs: Array, reference: Array) -> float:
    """Top-1 agreement where the reference looks like class scores, else `fidelity`."""
    return top1_agreement(outputs, reference) if is_classification(reference) else fidelity(outputs, reference)


def _same_shape(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise DataError(
            f"outputs of shape {a.shape} and {b.shape} cannot be compared", next="compare outputs of the same model"
        )


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", accuracy),
        Metric("top5", top_k(5)),
        Metric("f1", f1),
        Metric("roc_auc", roc_auc),
        Metric("mae", mae, higher_is_better=False, bounded=False),
        Metric("mse", mse, higher_is_better=False, bounded=False),
        Metric("psnr", psnr, bounded=False),
        Metric("mean_iou", mean_iou),
        Metric("agreement", agreement_score),  # y: the original's output
        Metric("fidelity", fidelity),  # y: the original's output
    )
}
REFERENCED = frozenset({"agreement", "fidelity"})  # metrics whose y is the original's output, not a label


def find_metric(name: str) -> Metric:
    """The metric of a name; "top3" stands for any k; the part before a colon ("output:metric") is ignored.

    Raises DataError, with a suggestion, for an unknown name.
    """
    _, _, bare = name.rpartition(":")
    if bare in METRICS:
        return METRICS[bare]
    if re.fullmatch(r"top[1-9]\d{0,4}", bare):
        return Metric(bare, top_k(int(bare[3:])))
    raise DataError(
        f"there is no metric '{bare}'{did_you_mean(bare, METRICS)}", next=f"choose one of {', '.join(sorted(METRICS))}"
    )


def output_name(metric: str, names: Any) -> str:
    """The output a metric is about: the one before its last colon, else the first of `names`. Raises DataError."""
    names = list(names)
    wanted, colon, _ = metric.rpartition(":")
    if not colon:
        return str(names[0])
    if wanted not in names:
        raise DataError(
            f"the metric '{metric}' is about an output '{wanted}' that the model does not have{did_you_mean(wanted, names)}",
            next=f"the outputs are {', '.join(names)}",
        )
    return wanted


def evaluate(metric: str, outputs: Mapping[str, Array], y: Array) -> float:
    """The metric of the first output, or of the one named in "output:metric".

    `y` is the labels, or for `agreement` and `fidelity` the original's values of that output. Raises DataError.
    """
    return find_metric(metric)(outputs[output_name(metric, outputs)], y)


def evaluate_all(metric: str, outputs: Mapping[str, Array], y: Array) -> dict[str, float]:
    """The metric first, then those that say more about the same kind of task (f1, roc_auc, top5; mse for mae ...)."""
    found = {metric: evaluate(metric, outputs, y)}
    value, bare = outputs[output_name(metric, outputs)], metric.rpartition(":")[2]
    more: tuple[str, ...] = ()
    if bare == "accuracy":
        classes = _class_count(value, y)
        both = len(np.unique(y)) > 1
        more = ("f1", *(("roc_auc",) if classes == 2 and both else ()), *(("top5",) if classes >= 20 else ()))
    elif bare in ("mae", "mse"):
        more = tuple({"mae", "mse"} - {bare})
    for name in more:
        found[name] = METRICS[name](value, y)
    return found


def drop(metric: str, original: float, now: float) -> float:
    """How much was lost; positive is worse, negative better.

    Metrics in 0..1 (accuracy, f1, roc_auc, mean_iou, agreement ...): the absolute difference, 0.01 is one point.
    Unbounded ones (mae, mse, psnr): relative to the original, 0.01 is one percent. NaN counts as an infinite loss.
    """
    found = find_metric(metric)
    if math.isnan(now):
        return math.inf
    if now == original:
        return 0.0
    lost = original - now if found.higher_is_better else now - original
    if found.bounded:
        return lost
    if math.isinf(original):
        return math.inf
    return lost / abs(original) if original != 0 else math.copysign(math.inf, lost)


def is_classification(output: TensorSpec | Array) -> bool:
    """Whether an output looks like class scores, one decision per sample.

    A spec: its shape is `[n, k]`, k > 1 (inner axes of length 1 aside). Values besides: each row is within 0..1 and
    sums to one (softmax), or there are negative values (logits). Boxes, landmarks and images are not.
    """
    shape = tuple(output.shape)
    if len(shape) < 2 or any(d != 1 for d in shape[1:-1]) or shape[-1] is None or shape[-1] < 2:
        return False
    if isinstance(output, TensorSpec):
        return True
    s = scores(output).astype(np.float64)
    if not len(s) or not np.isfinite(s).all():
        return False
    return bool(s.min() < 0 or (s.max() <= 1.01 and np.abs(np.median(s.sum(-1)) - 1) < 0.05))


def agreement(reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Per output of the reference: `sqnr_db`, `max_relative_error`, and `top1_agreement` where it looks like class scores.

    Raises DataError when an output is missing or has another shape.
    """
    found: dict[str, dict[str, float]] = {}
    for name, ref in reference.items():
        if name not in outputs:
            raise DataError(f"the output '{name}' is missing", next=f"the outputs are {', '.join(outputs)}")
        other = outputs[name]
        found[name] = {"sqnr_db": sqnr_db(ref, other), "max_relative_error": max_relative_error(other, ref)}
        if is_classification(ref):
            found[name]["top1_agreement"] = top1_agreement(other, ref)
    return found
