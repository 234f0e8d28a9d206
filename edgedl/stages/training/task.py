"""The loss that fits what a network puts out and how its data is labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...data import Dataset
from ...frameworks import keras
from ...metrics import output_name
from ...model import Model

Kind = Literal["probabilities", "logits", "sigmoid", "binary-logit", "values"]  # of one output


def kinds(net: Any) -> tuple[Kind, ...]:
    """What each output of a network is, told from the activation that makes it: softmax, sigmoid, or none."""
    return tuple(_kind(t) for t in net.outputs)


def _kind(tensor: Any) -> Kind:
    op = tensor._keras_history.operation
    name = getattr(getattr(op, "activation", None), "__name__", type(op).__name__.lower())
    return {"softmax": "probabilities", "sigmoid": "sigmoid"}.get(name, "values")  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Cross-entropy of class scores against labels, mean squared error of values against targets."""

    at: int  # index of the output that the labels are for
    kind: Kind
    classes: bool  # labels are class indices
    taps: Sequence[str] = ()
    layers: Sequence[Any] = ()
    needs_labels: bool = True

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any:
        ops, losses = keras().ops, keras().losses
        found = outputs[self.at]
        if not self.classes:
            return ops.mean(losses.mean_squared_error(ops.cast(y, found.dtype), ops.reshape(found, ops.shape(y))))
        return ops.mean(losses.sparse_categorical_crossentropy(y, found, from_logits=self.kind == "values"))


def labelled(model: Model, data: Dataset) -> Labelled:
    """The loss of a model on the labels of its data."""
    split = data.validation if data.train is None else data.train
    name = output_name(data.metric, {s.name: s for s in model.outputs})
    at = [s.name for s in model.outputs].index(name)
    return Labelled(at, kinds(model.net)[at], split.y is not None and split.y.dtype.kind in "iu")
