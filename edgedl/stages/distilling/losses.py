"""The losses of distillation, each of two tensors or lists of them; every one is a mean, so that weights compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...frameworks import keras

TINY = 1e-30  # below which a probability counts as this; float32 keeps a relative precision of 1e-7 down to 1e-38
EPSILON = 1e-8


def class_logits(scores: Any, probabilities: bool, axis: int = -1) -> Any:
    """Logits `[n, ..., k]` of class scores, the classes on the last axis.

    Keras keeps the logits of a softmax on the tensor it gives. Where they are lost, the logarithm of the probabilities
    stands for them: it differs by a constant of each row, which no softmax sees.
    """
    ops = keras().ops
    if probabilities:
        kept = getattr(scores, "_keras_logits", None)
        scores = ops.log(ops.maximum(_single(scores), TINY)) if kept is None else kept
    scores = _single(scores)
    return scores if axis == -1 else ops.moveaxis(scores, axis, -1)


def binary_logits(scores: Any, probabilities: bool) -> Any:
    """The logit of every element: of a sigmoid's output, else the value itself."""
    ops = keras().ops
    if not probabilities:
        return _single(scores)
    kept = getattr(scores, "_keras_logits", None)
    if kept is not None:
        return _single(kept)
    p = ops.clip(_single(scores), 1e-7, 1 - 1e-7)
    return ops.log(p) - ops.log(1 - p)


def soft_classes(student: Any, teachers: Sequence[Any], temperature: float) -> Any:
    """T^2 KL(mean of the teachers || student) of logits `[n, ..., k]` softened by T, mean over all decisions.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015). Several teachers are averaged as
    probabilities.
    """
    ops = keras().ops
    p = sum(ops.softmax(t / temperature, axis=-1) for t in teachers) / len(teachers)
    gap = ops.log(ops.maximum(p, TINY)) - ops.log_softmax(student / temperature, axis=-1)
    return temperature**2 * ops.mean(ops.sum(p * gap, axis=-1))


def soft_binary(student: Any, teachers: Sequence[Any], temperature: float) -> Any:
    """The same for independent yes-or-no decisions, one logit each: T^2 KL of Bernoulli distributions, mean."""
    ops = keras().ops
    p = sum(ops.sigmoid(t / temperature) for t in teachers) / len(teachers)
    q = student / temperature
    found = p * ops.softplus(-q) + (1 - p) * ops.softplus(q)
    entropy = p * ops.log(ops.maximum(p, TINY)) + (1 - p) * ops.log(ops.maximum(1 - p, TINY))
    return temperature**2 * ops.mean(found + entropy)


def values(student: Any, teachers: Sequence[Any], variance: float) -> Any:
    """Mean squared error from the mean of the teachers, as a share of the teachers' variance."""
    target = sum(_single(t) for t in teachers) / len(teachers)
    return keras().ops.mean((_single(student) - target) ** 2) / variance


def features(student: Any, teacher: Any) -> Any:
    """Mean squared error of two feature tensors of one shape, as a share of the teacher's mean square.

    The regression of Romero et al., "FitNets: Hints for Thin Deep Nets" (ICLR 2015), made free of scale.
    """
    ops = keras().ops
    teacher = _single(teacher)
    return ops.mean((_single(student) - teacher) ** 2) / (ops.mean(teacher**2) + EPSILON)


def attention(student: Any, teacher: Any) -> Any:
    """Squared distance of where two feature tensors `[n, ..., c]` are active: each the mean square over channels, flattened
    and brought to length 1; mean over samples. Channel counts may differ.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017).
    """
    ops = keras().ops

    def places(x: Any) -> Any:
        flat = _flat(ops.mean(_single(x) ** 2, axis=-1))
        return flat / ops.sqrt(ops.sum(flat**2, axis=-1, keepdims=True) + EPSILON)

    return ops.mean(ops.sum((places(student) - places(teacher)) ** 2, axis=-1))


def relational(student: Any, teacher: Any, most: int = 64) -> Any:
    """How differently the samples of a batch lie to each other: distances, plus twice angles of triples (RKD-DA).

    Park et al., "Relational Knowledge Distillation" (CVPR 2019). `[n, ...]` each, of any size; the first `most` samples.
    """
    s, t = (_flat(_single(x))[:most] for x in (student, teacher))
    return _huber(_distances(s) - _distances(t)) + 2 * _huber(_angles(s) - _angles(t))


def _distances(x: Any) -> Any:
    """Euclidean distances of all pairs `[n, n]` over their mean, without the zeros of the diagonal."""
    ops = keras().ops
    square = ops.sum(x**2, axis=1)
    gap = ops.maximum(square[:, None] + square[None] - 2 * ops.matmul(x, ops.transpose(x)), 0.0)
    count = ops.shape(x)[0]
    far = ops.sqrt(gap + EPSILON) * (1 - ops.eye(count, dtype=gap.dtype))
    pairs = ops.cast(ops.maximum(count * (count - 1), 1), gap.dtype)
    return far / (ops.sum(far) / pairs + EPSILON)


def _angles(x: Any) -> Any:
    """Cosines of the angle at j between i and k, for all triples `[j, i, k]`."""
    ops = keras().ops
    gap = x[None] - x[:, None]
    unit = gap / ops.sqrt(ops.sum(gap**2, axis=-1, keepdims=True) + EPSILON)
    return ops.matmul(unit, ops.transpose(unit, (0, 2, 1)))


def _huber(error: Any) -> Any:
    ops = keras().ops
    size = ops.abs(error)
    return ops.mean(ops.where(size < 1, 0.5 * size**2, size - 0.5))


def _single(x: Any) -> Any:
    return keras().ops.cast(x, "float32")


def _flat(x: Any) -> Any:
    ops = keras().ops
    return ops.reshape(x, (ops.shape(x)[0], -1))


def pooled(x: Any) -> Any:
    """The mean over all positions, `[n, c]`."""
    ops = keras().ops
    x = _single(x)
    return ops.mean(x, axis=tuple(range(1, len(x.shape) - 1))) if len(x.shape) > 2 else x
