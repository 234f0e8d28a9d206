"""What training towards a sparse or clustered network aims at: the labels, or the outputs of the network it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...data import Dataset
from ...errors import DataError
from ...metrics import output_name
from ...model import Model
from ..distilling import teachers
from ..distilling.objective import Distillation, Weights, made_extras
from ..distilling.outputs import heads
from ..rebuilding import tapped
from ..training.loop import Objective, training_split
from ..training.norm import reestimate
from ..training.options import Training
from ..training.task import labelled

Loss = Literal["auto", "labels", "origin"]


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

    @property
    def fingerprint(self) -> str:
        """What the inner objective depends on besides, for checkpoints."""
        return str(getattr(self.inner, "fingerprint", ""))

    @property
    def at(self) -> int:
        """Index of the output that the metric and the labels are about."""
        return int(getattr(self.inner, "at", 0))

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
    return from_origin(model, data), "origin"


def from_origin(model: Model, data: Dataset) -> Objective:
    """The outputs of the network before any stage changed it, as targets; no labels are needed.

    `Distillation` of outputs alone, at temperature 1: KL divergence of classes, binary cross-entropy of yes or no, and
    for values the squared error over their variance. Raises ModelError where the origin gives what is no number.
    """
    weights = Weights(label=0.0, logits=1.0, features=0.0, attention=0.0, relational=0.0)
    tutor = teachers.origin(model)
    found = heads(model, [tutor.net], teachers.look([tutor], model, data), data)
    names = [spec.name for spec in model.outputs]
    return Distillation(
        teachers=(tapped(tutor.net, ()),),
        heads=found,
        pairs=(),
        weights=weights,
        temperature=1.0,
        labels=None,
        extras=made_extras((), weights, 1, 0),
        at=names.index(output_name(data.metric, names)),
    )


def statistics(net: Any, data: Dataset, options: Training) -> int:
    """Measure BatchNormalization anew after a change without training; returns how many layers, 0 on generated data."""
    if not options.reestimate or data.generated or not len(training_split(data)):
        return 0
    return reestimate(net, data, options.reestimate, seed=options.seed)
