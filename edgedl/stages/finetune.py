"""The finetune stage: train the network further on labelled data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data import Dataset
from ..errors import UsageError
from ..model import Model, require_keras
from .training.loop import train
from .training.options import Training
from .training.task import ending, epochs_of, labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune(Training):
    """Train further on the labels, with the loss that fits the network's output."""

    label_smoothing: float = 0.0  # share of each label that is spread over all classes (Szegedy et al., 2016)

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The trained model. Raises DataError where there are no labels."""
        net = require_keras(model, "fine-tuning")
        net, record = train(net, data, self, labelled(model, data, self.label_smoothing))
        return model.changed(_told(record), net, {"stage": "finetune", **record})

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"label_smoothing is {self.label_smoothing:g}, but must be at least 0 and below 1", next="leave it out"
            )


def _told(record: dict[str, Any]) -> str:
    """The line of the history: how long, from which loss to which, and why not longer."""
    epochs = record["epochs"]
    if not epochs:
        return "fine-tuned for 0 epochs"
    losses = f"loss {epochs[0]['loss']:.4f} to {epochs[-1]['loss']:.4f}"
    return f"fine-tuned for {epochs_of(record)}: {losses}{ending(record)}"
