"""Inputs moved against a network by the sign of its own gradients (FGSM). The framework is imported inside functions.

Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015: x + epsilon * sign(dL/dx).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .artifact import Array
from .faithfulness import Decisions
from .frameworks import fed, keras, tensorflow

SHARE = 0.015  # of the standard deviation of the preprocessed input: about 1 of 255 grey levels of a photograph
TRACED = 8  # from so many batches on it pays to trace the gradient first
TINY = 1e-30  # probabilities below are none


def epsilons(inputs: Mapping[str, Array], share: float = SHARE) -> dict[str, Array]:
    """How far each real input may move: `share` of its standard deviation, of each feature by itself unless it is an image.

    `inputs` are preprocessed, with features last; an image has four axes. Integer inputs cannot move and are left out.
    """
    found = {}
    for name, x in inputs.items():
        if x.dtype.kind == "f":
            axes = None if x.ndim == 4 else tuple(range(max(x.ndim - 1, 1)))
            found[name] = np.asarray(share * x.astype(np.float64).std(axis=axes), np.float32)
    return found


def fgsm(
    net: Any, how: Decisions, at: int, inputs: Mapping[str, Array], y: Array, epsilon: Mapping[str, Array], batch: int
) -> dict[str, Array] | None:
    """The inputs `[n, ...]`, each moved by `epsilon` where that raises the cross-entropy of the decisions against `y`.

    `at`: which output of the Keras network decides; where the network insists on a `batch`, it must divide n. Images stay within
    the range of `inputs`. None where no gradient reaches an input.
    """
    gradients = input_gradients(net, how, at, inputs, y, tuple(epsilon), batch)
    if gradients is None:
        return None
    out = dict(inputs)
    for name, gradient in gradients.items():
        x = inputs[name]
        moved = x + (epsilon[name] * np.sign(gradient)).astype(x.dtype)
        out[name] = np.clip(moved, x.min(), x.max()) if x.ndim == 4 else moved
    return out


def input_gradients(
    net: Any, how: Decisions, at: int, inputs: Mapping[str, Array], y: Array, names: Sequence[str], batch: int
) -> dict[str, Array] | None:
    """dL/dx of every input in `names`, as large as it; None where none of them has one. The last batch may be smaller."""
    tf, total = tensorflow(), len(next(iter(inputs.values())))
    y = y.reshape(total, -1)

    def one(feed: dict[str, Any], true: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            for name in names:
                tape.watch(feed[name])
            value = loss(net, how, at, list(feed.values()), true)
        found = zip(names, tape.gradient(value, [feed[name] for name in names]), strict=True)
        return {name: tf.convert_to_tensor(gradient) for name, gradient in found if gradient is not None}

    run = tf.function(one) if total > TRACED * batch else one
    parts: dict[str, list[Array]] = {}
    for start in range(0, total, batch):
        feed = {name: tf.convert_to_tensor(x[start : start + batch]) for name, x in inputs.items()}
        for name, gradient in run(feed, tf.convert_to_tensor(y[start : start + batch])).items():
            parts.setdefault(name, []).append(gradient.numpy())
    return {name: np.concatenate(p) for name, p in parts.items()} or None


def loss(net: Any, how: Decisions, at: int, feed: Sequence[Any], y: Any) -> Any:
    """Cross-entropy of the deciding output against the classes `y`, summed over the decisions."""
    tf = tensorflow()
    outputs = net(fed(net, feed), training=False)
    values = list(outputs.values()) if isinstance(outputs, dict) else keras().tree.flatten(outputs)
    logits, true = _logits(values[at], how), tf.reshape(tf.convert_to_tensor(y), [-1])
    if how.is_binary:
        flat = tf.reshape(logits, [-1])
        each = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(true, flat.dtype), flat)
    else:
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(true, tf.reshape(logits, [-1, logits.shape[-1]]))
    return tf.reduce_sum(each)


def _logits(found: Any, how: Decisions) -> Any:
    """Logits of an output: those that Keras keeps with a softmax or sigmoid, whose gradients do not saturate, or its log."""
    tf = tensorflow()
    kept = getattr(found, "_keras_logits", None)
    if how.form in ("logit", "logits"):
        return found
    if kept is not None and tuple(kept.shape) == tuple(found.shape):
        return kept
    p = tf.clip_by_value(tf.cast(found, tf.float32), TINY, 1.0)
    return tf.math.log(p) - tf.math.log(tf.maximum(1 - p, TINY)) if how.is_binary else tf.math.log(p)
