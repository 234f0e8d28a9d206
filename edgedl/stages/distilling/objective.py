"""Distillation: the objective that holds a student to its teachers, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ...frameworks import keras
from ..training.checkpoint import fingerprint
from ..training.loop import Objective
from . import losses
from .matching import Pair
from .outputs import Head


@dataclass(frozen=True, slots=True)
class Weights:
    """What each part counts; 0: it is not computed."""

    label: float
    logits: float
    features: float
    attention: float
    relational: float

    def fitting(self, pairs: Sequence[Pair]) -> Weights:
        """The same without the parts for which no layers are matched."""
        if not pairs:
            return Weights(self.label, self.logits, 0.0, 0.0, 0.0)
        return self if any(pair.placed for pair in pairs) else replace(self, attention=0.0)

    def parts(self) -> dict[str, float]:
        """The weight of each part that counts, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}


@dataclass(frozen=True, slots=True)
class Labels:
    """The loss on labels, and what it is divided by (the variance of targets that are no classes)."""

    loss: Objective
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Distillation:
    """The weighted sum of: the outputs' distance (`Head.loss`), features after a learned projection, attention maps,
    relations between samples, and the loss on labels.

    `teachers` are networks that give their outputs, then what their matched layers give; they run in inference mode and get
    no gradient. Several teachers are averaged where outputs are compared; only the first one's layers are.
    """

    teachers: tuple[Any, ...]
    heads: tuple[Head, ...]
    pairs: tuple[Pair, ...]
    weights: Weights
    temperature: float
    labels: Labels | None
    extras: Any  # of `made_extras`
    at: int  # index of the output that the metric and the labels are about

    @property
    def taps(self) -> Sequence[str]:
        own = [pair.student.name for pair in self.pairs]
        return [*own, *(t for t in (self.labels.loss.taps if self.labels else ()) if t not in own)]

    @property
    def layers(self) -> Sequence[Any]:
        return [self.extras, *(self.labels.loss.layers if self.labels else ())]

    @property
    def needs_labels(self) -> bool:
        return self.labels is not None

    @property
    def fingerprint(self) -> str:
        """A digest of the teachers' weights: a checkpoint of a training towards others is not gone on from."""
        return fingerprint(*self.teachers)

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any:
        given = [self._asked(teacher, x) for teacher in self.teachers]
        found = {"logits": self._outputs(outputs, given)}
        if self.pairs:
            own = [taps[pair.student.name] for pair in self.pairs]
            found |= self._layers(own, given[0][len(self.heads) :])
        if self.labels is not None:
            found["label"] = self.labels.loss(x, y, outputs, taps) / self.labels.scale
        return self._sum({name: found[name] for name in self.weights.parts()})

    def _asked(self, teacher: Any, x: Sequence[Any]) -> list[Any]:
        """What a teacher gives, as constants, with the logits that Keras keeps of a softmax."""
        found = teacher(list(x), training=False)
        return [_constant(t) for t in (found if isinstance(found, list | tuple) else [found])]

    def _outputs(self, outputs: Sequence[Any], given: Sequence[Sequence[Any]]) -> Any:
        parts = [head.loss(outputs[i], [g[i] for g in given], self.temperature) for i, head in enumerate(self.heads)]
        return sum(parts) / len(parts)

    def _layers(self, own: Sequence[Any], other: Sequence[Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        pairs = list(zip(own, other, strict=True))
        if self.weights.features:
            found["features"] = _mean(losses.features(self.extras.project(i, s), t) for i, (s, t) in enumerate(pairs))
        if self.weights.attention:
            found["attention"] = _mean(
                losses.attention(s, t) for (s, t), pair in zip(pairs, self.pairs, strict=True) if pair.placed
            )
        if self.weights.relational:
            found["relational"] = losses.relational(*(losses.pooled(t) for t in pairs[-1]))
        return found

    def _sum(self, found: dict[str, Any]) -> Any:
        """The weighted sum, each part noted; in the first epochs features alone where hints come first."""
        total = keras().ops.zeros(())
        for name, value in found.items():
            self.extras.note(name, value)
            weight = self.weights.parts()[name]
            total = total + (weight if name == "features" else weight * self.extras.outset) * value
        return total


def _constant(tensor: Any) -> Any:
    stop = keras().ops.stop_gradient
    fixed = stop(tensor)
    logits = getattr(tensor, "_keras_logits", None)
    if logits is not None:
        fixed._keras_logits = stop(logits)
    return fixed


def _mean(parts: Any) -> Any:
    found = list(parts)
    return sum(found) / len(found)


def made_extras(pairs: Sequence[Pair], weights: Weights, epochs: int, seed: int) -> Any:
    """The Keras layer that is trained beside the student: projections of its features (1x1 convolutions), the running mean of
    each part of the loss, `told`: these by epoch, and `outset`, which is 0 as long as only features count, else 1."""
    k = keras()

    class Extras(k.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(dtype="float32")
            self.projections = [_projection(p, seed + i) if weights.features else None for i, p in enumerate(pairs)]
            self.means = [k.metrics.Mean(name=name) for name in weights.parts()]
            self.told = self.add_weight(
                shape=(epochs, len(self.means)), initializer="zeros", trainable=False, name="told"
            )
            self.outset = self.add_weight(shape=(), initializer="ones", trainable=False, name="outset")
            self.built = True

        def project(self, at: int, x: Any) -> Any:
            layer = self.projections[at]
            return x if layer is None else layer(x)

        def note(self, name: str, value: Any) -> None:
            self.means[list(weights.parts()).index(name)].update_state(value)

    return Extras()


def _projection(pair: Pair, seed: int) -> Any:
    if not pair.projected:
        return None
    k = keras()
    layer = k.layers.Dense(
        pair.teacher.channels, kernel_initializer=k.initializers.GlorotUniform(seed), dtype="float32",
        name=f"to_{pair.teacher.name}",
    )  # fmt: skip
    layer.build((None, *pair.student.spatial, pair.student.channels))
    return layer


def follow(extras: Any, hints: int) -> Any:
    """A Keras callback that lets features alone count for the first `hints` epochs, and keeps each part's mean by epoch.

    What it keeps are variables of `extras`, so that checkpoints hold them.
    """
    k = keras()

    class Follow(k.callbacks.Callback):  # type: ignore[misc, name-defined]
        row: Any = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            extras.outset.assign(0.0 if epoch < hints else 1.0)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == self.params["steps"] - 1:  # what is evaluated after an epoch does not count
                self.row = [float(mean.result()) for mean in extras.means]

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            table = extras.told.numpy()
            table[epoch] = self.row
            extras.told.assign(table)
            for mean in extras.means:
                mean.reset_state()

    return Follow()


def parts_of(extras: Any, weights: Weights, epochs: int) -> dict[str, list[float]]:
    """The mean of each part of the loss in each of the epochs that were done."""
    table = extras.told.numpy()[:epochs]
    return {name: [float(v) for v in table[:, i]] for i, name in enumerate(weights.parts())}
