"""What each output is in the student and in its teachers, and the loss between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...artifact import Array
from ...data import Dataset
from ...frameworks import keras
from ...metrics import REFERENCED, output_name
from ...model import Model
from ..rebuilding import inside
from . import losses

Decision = Literal["classes", "binary", "values"]
PASSING = frozenset({"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "ExpandDims", "Cast", "Copy"})
FLAT = 1e-6  # variance under which outputs count as constant


@dataclass(frozen=True, slots=True)
class Made:
    """Whether an output is made by a softmax (along `axis`), by a sigmoid, or by neither."""

    by: Literal["softmax", "sigmoid", ""]
    axis: int = -1


@dataclass(frozen=True, slots=True)
class Head:
    """One output: what is decided there, how each side makes it, and the variance of the teacher's values."""

    name: str
    decision: Decision
    student: Made
    teachers: tuple[Made, ...]
    variance: float = 1.0

    def loss(self, student: Any, teachers: Sequence[Any], temperature: float) -> Any:
        """The distance of the student's output from the teachers', a scalar tensor."""
        if self.decision == "classes":
            own = losses.class_logits(student, self.student.by == "softmax", self.student.axis)
            given = [
                losses.class_logits(t, m.by == "softmax", m.axis) for t, m in zip(teachers, self.teachers, strict=True)
            ]
            return losses.soft_classes(own, given, temperature)
        if self.decision == "binary":
            own = losses.binary_logits(student, self.student.by == "sigmoid")
            given = [losses.binary_logits(t, m.by == "sigmoid") for t, m in zip(teachers, self.teachers, strict=True)]
            return losses.soft_binary(own, given, temperature)
        return losses.values(student, teachers, self.variance)


def made(tensor: Any) -> Made:
    """What makes an output, seen through operations that only pass it on."""
    while True:
        op, _, index = tensor._keras_history
        if inside(op) is not None:
            tensor = inside(op).outputs[index]
            continue
        name = getattr(getattr(op, "activation", None), "__name__", type(op).__name__)
        if name.lower() == "softmax":
            axis = getattr(op, "axis", -1)
            last = axis in (-1, len(tensor.shape) - 1) or not isinstance(axis, int)
            return Made("softmax", -1 if last else axis)
        if name.lower() == "sigmoid":
            return Made("sigmoid")
        given = op._inbound_nodes[0].input_tensors if op._inbound_nodes else []
        if type(op).__name__ not in PASSING or len(given) != 1 or given[0].shape[-1] != tensor.shape[-1]:
            return Made("")
        tensor = given[0]


def heads(model: Model, teachers: Sequence[Any], given: Sequence[Sequence[Array]], data: Dataset) -> tuple[Head, ...]:
    """One Head for each output. `teachers`: their networks, outputs ordered as the model's; `given`: by teacher, by
    output, what it gives for some inputs."""
    found = []
    for at, spec in enumerate(model.outputs):
        own, others = made(model.net.outputs[at]), tuple(made(t.outputs[at]) for t in teachers)
        decision = _decision((own, *others), spec.shape, _has_classes(model, data, spec.name))
        variance = sum(float(g[at].astype("float64").var()) for g in given) / len(given)
        found.append(Head(spec.name, decision, own, others, variance if variance > FLAT else 1.0))
    return tuple(found)


def _decision(sides: Sequence[Made], shape: tuple[int | None, ...], has_classes: bool) -> Decision:
    by = {side.by for side in sides}
    if "softmax" in by:
        return "classes"
    if "sigmoid" in by:
        return "binary"
    if not has_classes:
        return "values"
    return "binary" if len(shape) < 2 or shape[-1] == 1 else "classes"


def _has_classes(model: Model, data: Dataset, name: str) -> bool:
    """Whether the data says that an output without softmax or sigmoid holds logits: its labels are classes."""
    splits = [s for s in (data.train, data.calibration, data.validation) if s is not None and s.y is not None]
    if not splits or data.metric.rpartition(":")[2] in REFERENCED:
        return False
    y = splits[0].y
    labelled = output_name(data.metric, {s.name: s for s in model.outputs}) == name
    return labelled and y is not None and y.dtype.kind in "iu"


def scores(net: Any, x: Sequence[Array], batch: int) -> list[Array]:
    """What a network gives for some inputs, as arrays in the order of its outputs."""
    model = keras().Model(net.inputs, list(net.outputs))
    found = model.predict(list(x), batch_size=batch, verbose=0)
    return list(found) if isinstance(found, list | tuple) else [found]
