"""The finetune stage: train the network further on labelled data."""

from __future__ import annotations

from dataclasses import dataclass

from ..data import Dataset
from ..model import Model, require_keras
from .training.loop import train
from .training.options import Training
from .training.task import labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune(Training):
    """Train further on the labels, with the loss that fits the network's output."""

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The trained model. Raises DataError where there are no labels."""
        net, record = train(require_keras(model, "fine-tuning"), data, self, labelled(model, data))
        return model.changed(f"fine-tuned for {self.epochs} epochs", net, {"stage": "finetune", **record})
