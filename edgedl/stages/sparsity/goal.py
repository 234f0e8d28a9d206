"""What training towards a sparse or clustered network aims at: the labels, or the outputs of the network it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...data import Dataset
from ...errors import DataError
from ...frameworks import fed, keras
from ...model import Model
from ..training.loop import Objective, training_split
from ..training.norm import reestimate
from ..training.options import Training
from ..training.task import kinds, labelled

Loss = Literal["auto", "labels", "origin"]


@dataclass(frozen=True, slots=True)
class FromOrigin:
    """The outputs of the network that the model was before any stage changed it, as targets; no labels are needed.

    Kullback-Leibler divergence for softmax outputs, binary cross-entropy for sigmoids, and for others the squared
    error over the variance of the target (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).
    """

    teacher: Any
    kinds: Sequence[str]
    taps: Sequence[str] = ()
    layers: Sequence[Any] = ()
    needs_labels: bool = False

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any:
        ops, k = keras().ops, keras()
        found = self.teacher(fed(self.teacher, x), training=False)
        targets = [ops.stop_gradient(t) for t in k.tree.flatten(found)]
        parts = [_distance(*pair) for pair in zip(self.kinds, targets, outputs, strict=True)]
        return sum(parts[1:], parts[0])


def _distance(kind: str, target: Any, output: Any) -> Any:
    ops, losses = keras().ops, keras().losses
    if kind == "probabilities":
        return ops.mean(losses.kl_divergence(target, output))
    if kind == "sigmoid":
        return ops.mean(losses.binary_crossentropy(target, output))
    return ops.mean(ops.square(target - output)) / (ops.var(target) + 1e-7)


@dataclass(frozen=True, slots=True)
class WithState:
    """An objective whose layers include one that only holds what the masks or clusters are, for checkpoints."""

    inner: Objective
    state: Any

    @property
    def taps(self) -> Sequence[str]:
        return self.inner.taps

    @property
    def layers(self) -> Sequence[Any]:
        return [*self.inner.layers, self.state]

    @property
    def needs_labels(self) -> bool:
        return self.inner.needs_labels

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any:
        return self.inner(x, y, outputs, taps)


def goal(model: Model, data: Dataset, loss: Loss) -> tuple[Objective, str]:
    """The objective and which it is, "labels" or "origin". Raises DataError for loss = "labels" where there are none."""
    has_labels = training_split(data).y is not None
    if loss == "labels" and not has_labels:
        raise DataError(
            'loss = "labels" needs labels, and the training data has none',
            next='leave loss out, or use loss = "origin", which needs none',
        )
    if loss == "labels" or (loss == "auto" and has_labels):
        return labelled(model, data), "labels"
    teacher = model.net if model.origin is None else model.origin
    return FromOrigin(teacher, kinds(model.net)), "origin"


def statistics(net: Any, data: Dataset, options: Training) -> int:
    """Measure BatchNormalization anew after a change without training; returns how many layers, 0 on generated data."""
    if not options.reestimate or data.generated or not len(training_split(data)):
        return 0
    return reestimate(net, data, options.reestimate, seed=options.seed)
