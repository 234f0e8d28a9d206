"""The loss that fits what a network puts out and how its data is labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from ...artifact import Array
from ...data import Dataset
from ...errors import DataError
from ...frameworks import fed, keras, tensorflow
from ...metrics import output_name
from ...model import Model
from ..rebuilding import inside
from .batches import training_split

Kind = Literal["probabilities", "logits", "sigmoid", "binary-logit", "values"]  # of one output
SMALL = 1e-7  # the least probability whose logarithm is taken
OF_VALUES = ("mae", "mse", "psnr")  # metrics of outputs that are no classes
PLAIN = frozenset({  # operations that only lay out anew what they are given
    "Reshape", "Flatten", "Squeeze", "ExpandDims", "Transpose", "Permute", "Cast", "Identity", "Dropout", "Ravel",
})  # fmt: skip


def kinds(net: Any) -> tuple[Kind, ...]:
    """What each output of a network is, told from what makes it: softmax, sigmoid, or neither (values).

    Reshapes and casts behind the softmax are looked through, and so are models used as layers.
    """
    return tuple(_kind(t) for t in net.outputs)


def _kind(tensor: Any) -> Kind:
    while True:
        op, _, index = tensor._keras_history
        model = inside(op)
        if model is not None:
            tensor = model.outputs[index]
            continue
        name = getattr(getattr(op, "activation", None), "__name__", type(op).__name__.lower())
        if name in ("softmax", "sigmoid"):
            return "probabilities" if name == "softmax" else "sigmoid"
        if not (type(op).__name__ in PLAIN or (name == "linear" and type(op).__name__ == "Activation")):
            return "values"
        tensor = keras().tree.flatten(op._inbound_nodes[0].input_tensors)[0]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Cross-entropy of class scores against labels, mean squared error of values against targets.

    Labels are class indices (integers), one for each decision, or soft labels: float32 of the scores' shape. Class
    scores are `[n, k]` or `[n, ..., k]`, inner axes of length 1 aside; one score per decision is a binary one.
    """

    at: int  # index of the output that the labels are for
    kind: Kind
    classes: bool  # labels are classes, not values
    smoothing: float = 0.0  # of labels (Szegedy et al., "Rethinking the Inception Architecture", 2016)
    taps: Sequence[str] = ()
    layers: Sequence[Any] = ()
    needs_labels: bool = True

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any:
        tf, found = tensorflow(), outputs[self.at]
        if not self.classes:
            found = tf.cast(found, "float32")
            return tf.reduce_mean((tf.reshape(tf.cast(y, "float32"), tf.shape(found)) - found) ** 2)
        scores = logits(found, self.kind)
        if self.kind in ("sigmoid", "binary-logit"):
            return _binary(scores, y, self.smoothing)
        return _categorical(scores, y, self.smoothing)


def logits(found: Any, kind: Kind) -> Any:
    """An output before its softmax or sigmoid, float32: what Keras kept of it, else computed from the probabilities."""
    tf = tensorflow()
    if kind in ("logits", "binary-logit", "values"):
        return tf.cast(found, "float32")
    known = getattr(found, "_keras_logits", None)
    if known is not None:
        return tf.cast(known, "float32")
    p = tf.clip_by_value(tf.cast(found, "float32"), SMALL, 1 - SMALL)
    return tf.math.log(p) if kind == "probabilities" else tf.math.log(p) - tf.math.log1p(-p)


def _categorical(scores: Any, y: Any, smoothing: float) -> Any:
    tf = tensorflow()
    classes = scores.shape[-1]
    if y.shape[-1] == classes and len(y.shape) == len(scores.shape):
        y = tf.cast(y, "float32")  # one-hot
    scores = tf.reshape(scores, [-1, classes])
    if y.dtype.is_integer and not smoothing:
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(tf.cast(y, "int64"), [-1]), scores)
        return tf.reduce_mean(each)
    soft = tf.reshape(_soft(y, classes), [-1, classes])
    soft = soft * (1 - smoothing) + smoothing / classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(soft, scores))


def _binary(scores: Any, y: Any, smoothing: float) -> Any:
    """Of one score per decision, or of several that do not exclude each other."""
    tf = tensorflow()
    one_of_many = y.dtype.is_integer and len(y.shape) < len(scores.shape) and scores.shape[-1] not in (1, None)
    soft = _soft(y, scores.shape[-1]) if one_of_many else tf.cast(y, "float32")
    soft = tf.reshape(soft, tf.shape(scores)) * (1 - smoothing) + smoothing / 2
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(soft, scores))


def _soft(y: Any, classes: int) -> Any:
    tf = tensorflow()
    return tf.one_hot(tf.cast(y, "int64"), classes) if y.dtype.is_integer else tf.cast(y, "float32")


def softened(y: Array, output: tuple[int | None, ...]) -> Array:
    """Labels that can be mixed, float32: class indices as one-hot rows where an output has several scores a decision."""
    classes = output[-1]
    if y.dtype.kind not in "iu" or classes in (1, None) or y.ndim >= len(output) or len(output) < 2:
        return y.astype(np.float32)
    return np.asarray(np.asarray(y)[..., None] == np.arange(classes), np.float32)


def labelled(model: Model, data: Dataset, smoothing: float = 0.0) -> Labelled:
    """The loss of a model on the labels of its data, for the output that the metric is about.

    Classes or values are told from the metric, the output and the labels. Raises DataError where there are no labels,
    or they do not fit the output.
    """
    name = output_name(data.metric, {s.name: s for s in model.outputs})
    at = [s.name for s in model.outputs].index(name)
    y = training_split(data).y
    if y is None:
        raise DataError(
            "this training needs labels, and the training data has none",
            next="give labels with the data, or use distill, which needs none (--prune without --finetune does)",
        )
    kind, shape = kinds(model.net)[at], tuple(model.net.outputs[at].shape)
    decisions = _decisions(shape, y)
    if not _are_classes(kind, y, decisions, data.metric.rpartition(":")[2]):
        _fit(y.shape[1:], shape[1:], name)
        return Labelled(at, "values", False)
    if kind == "values":
        kind = "binary-logit" if decisions == "one score" else _scores(model, data, at)
    _check_classes(y, shape, decisions, name)
    return Labelled(at, kind, True, smoothing)


def _decisions(shape: tuple[int | None, ...], y: Array) -> str:
    """How labels lie to an output: "scores" (one label for each row of class scores), "one score" (for each element)."""
    inner = [d for d in shape[1:] if d != 1]
    labels = [d for d in y.shape[1:] if d != 1]
    if shape[-1] not in (1, None) and len(labels) == len(inner) - 1:
        return "scores"
    return "one score" if len(labels) == len(inner) else "neither"


def _are_classes(kind: Kind, y: Array, decisions: str, metric: str) -> bool:
    if metric in OF_VALUES:
        return False
    if y.dtype.kind in "iub":
        few = decisions != "one score" or int(np.max(y, initial=0)) <= 1
        return few or kind == "sigmoid"
    if kind == "values":
        return False
    return bool(np.all((np.asarray(y[:1000]) >= 0) & (np.asarray(y[:1000]) <= 1)))  # soft or several labels


def _scores(model: Model, data: Dataset, at: int) -> Kind:
    """Whether class scores without a softmax in sight are probabilities all the same: some outputs tell."""
    feed = data.feed(training_split(data), 0, model.net.inputs[0].shape[0] or 16)
    x = [feed[s.name] for s in model.inputs]
    found = model.net(fed(model.net, x), training=False)
    p = np.asarray(keras().tree.flatten(found)[at], np.float64)
    return "probabilities" if p.min() >= 0 and np.allclose(p.sum(-1), 1, atol=1e-3) else "logits"


def _check_classes(y: Array, shape: tuple[int | None, ...], decisions: str, name: str) -> None:
    if y.dtype.kind not in "iub":
        return _fit(y.shape[1:], shape[1:], name)
    if decisions == "neither":
        raise DataError(
            f"labels of shape {list(y.shape[1:])} do not fit the output '{name}' of shape {list(shape[1:])}",
            next="give one class for each decision, or name the output in the metric, as in output:accuracy",
        )
    known = shape[-1] if decisions == "scores" else 2
    low, high = int(np.min(y, initial=0)), int(np.max(y, initial=0))
    if low < 0 or (known is not None and high >= known):
        raise DataError(
            f"the labels are {low} to {high}, and the output '{name}' has the classes 0 to {(known or 1) - 1}",
            next="correct the labels",
        )
    return None


def _fit(given: tuple[int, ...], wanted: tuple[int | None, ...], name: str) -> None:
    """Raise DataError for targets that are not as many values as an output."""
    if None not in wanted and prod(given) != prod(d or 1 for d in wanted):
        raise DataError(
            f"targets of shape {list(given)} do not fit the output '{name}' of shape {list(wanted)}",
            next="give targets of the output's shape, or name the output in the metric, as in output:mae",
        )


def ending(record: Mapping[str, Any]) -> str:
    """Why a training ended before all its epochs, and which weights are kept, to follow a line of the history."""
    kept = f"the weights of epoch {record['best_epoch']} are kept" if record["ended"] else ""
    if record["ended"] == "diverged":
        return f", then the loss was no longer a number; {kept}"
    return f", stopped early; {kept}" if record["ended"] == "early" else ""


def epochs_of(record: Mapping[str, Any]) -> str:
    """How many epochs a training had.

    >>> epochs_of({"epochs_done": 1}), epochs_of({"epochs_done": 8})
    ('1 epoch', '8 epochs')
    """
    count, resumed = record["epochs_done"], record.get("resumed_from")
    told = f", resumed in epoch {resumed['epoch']} from a checkpoint" if resumed else ""
    return f"{count} epoch{'' if count == 1 else 's'}{told}"
