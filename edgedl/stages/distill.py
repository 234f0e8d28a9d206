"""The distill stage: train a network to do as its teacher does, with labels or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..data import Dataset
from ..errors import DataError, UsageError
from ..metrics import output_name
from ..model import Model, require_keras
from .distilling import students, teachers
from .distilling.matching import Pair, match
from .distilling.objective import Distillation, Labels, Weights, follow, made_extras, parts_of
from .distilling.outputs import heads
from .rebuilding import tapped
from .training.loop import train, training_split
from .training.options import Training
from .training.task import ending, epochs_of, labelled

LABELS = 0.1  # the weight of the loss on labels where there are some and none is given
NOTE_GENERATED = "distilled on generated inputs: give the data that the model is for to get back more of what was lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill(Training):
    """Train towards the outputs of a teacher (Hinton et al., 2015), by default the original network, which needs no labels.

    The loss is `label_weight` x labels + (1 - `label_weight`) x `logits` x outputs + the parts below. Class scores are
    compared by KL divergence at a temperature, yes-or-no scores by that of each, values by their squared error.
    """

    teacher: tuple[str, ...] = field(default=(), metadata={"file": True})  # model files; none: the original network
    teacher_module: str = field(
        default="", metadata={"file": True}
    )  # module:callable of a teacher that is only weights
    teacher_weights: str = field(default="", metadata={"file": True})  # its file of weights
    teacher_inputs: Mapping[str, str] = field(default_factory=dict)  # NAME -> shape of an input it leaves open
    temperature: float = 4.0  # softens class scores; above 0
    label_weight: float | None = None  # 0..1, share of the loss on labels; not set: 0.1 where there are labels
    logits: float = 1.0  # weight of the outputs' distance
    features: float = 1.0  # of the squared error of features, projected where channels differ (FitNets, ICLR 2015)
    attention: float = 0.0  # of the distance of attention maps (Zagoruyko and Komodakis, ICLR 2017)
    relational: float = 0.0  # of the distances and angles between samples (Park et al., CVPR 2019)
    hint_epochs: int = 0  # first epochs in which only features count, as FitNets' first stage
    layers: tuple[str, ...] = ()  # names, patterns or "student=teacher" of layers to match; none: chosen
    student: str = field(default="", metadata={"file": True})  # a model file or module:function; none: the model itself
    width: float = 1.0  # share of each layer's channels that the student keeps
    depth: float = 1.0  # share of the residual blocks that it keeps
    inherit: bool = True  # what is left of the model keeps its weights; false: new random ones

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        if self.temperature <= 0:
            raise UsageError(f"temperature is {self.temperature:g}, but must be above 0", next="use temperature = 4")
        if self.label_weight is not None and not 0 <= self.label_weight <= 1:
            raise UsageError(f"label_weight is {self.label_weight:g}, but must be in 0..1", next="leave it out")
        for name in ("logits", "features", "attention", "relational", "hint_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name):g}, but must be at least 0", next="leave it out")
        if self.hint_epochs and self.hint_epochs >= self.epochs:
            raise UsageError(
                f"hint_epochs is {self.hint_epochs}, and epochs is {self.epochs}: nothing but features would ever count",
                next="set hint_epochs below epochs",
            )
        for name in ("width", "depth"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(
                    f"{name} is {getattr(self, name):g}, but must be above 0 and at most 1", next="use 0.5"
                )

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The student in the model's place, its inputs and outputs under the model's names.

        Raises UsageError: no such teacher or student, other inputs or outputs, a layer that is not there.
        Raises DataError where a label weight is asked for and there are no labels. Raises ModelError for a loss, or
        a teacher's output, that is not a number.
        """
        require_keras(model, "distillation")
        tutors = self._teachers(model)
        student = replace(model, net=self._student(model))
        given = teachers.look(tutors, model, data)
        pairs = self._pairs(student.net, tutors[0].net)
        weights = self._weights(data, pairs)
        objective = Distillation(
            teachers=(_tapped(tutors[0].net, pairs), *(_tapped(t.net, ()) for t in tutors[1:])),
            heads=heads(student, [t.net for t in tutors], given, data),
            pairs=pairs,
            weights=weights,
            temperature=self.temperature,
            labels=_labels(student, data) if weights.label else None,
            extras=made_extras(pairs, weights, self.epochs, self.seed),
            at=_scored(model, data),
        )
        net, record = train(
            student.net, data, self, objective,
            prepare=lambda copy, steps: [follow(objective.extras, self.hint_epochs)],
        )  # fmt: skip
        parts = parts_of(objective.extras, weights, record["epochs_done"])
        told = self._told(tutors, objective) | {"parts": parts} | record
        names = " and ".join(t.name for t in tutors)
        after = model.changed(f"distilled from {names} for {epochs_of(record)}{ending(record)}", net, told)
        return replace(after, notes=(*after.notes, *_notes(data, model.notes)))

    def _teachers(self, model: Model) -> list[teachers.Teacher]:
        if not self.teacher:
            return [teachers.origin(model)]
        options = teachers.trusted(self.teacher_module, self.teacher_weights, self.teacher_inputs)
        return [teachers.read(path, model, options) for path in self.teacher]

    def _student(self, model: Model) -> Any:
        net = students.read(self.student, model) if self.student else model.net
        if self.depth < 1:
            net = students.shallower(net, self.depth)
        if self.width < 1:
            net = students.thinner(net, self.width)
        return net if self.inherit else students.fresh(net, self.seed)

    def _pairs(self, student: Any, teacher: Any) -> tuple[Pair, ...]:
        """The layers that are compared; none where no part of the loss is about layers."""
        if not (self.features or self.attention or self.relational or self.layers):
            return ()
        return match(student, teacher, self.layers)

    def _weights(self, data: Dataset, pairs: Sequence[Pair]) -> Weights:
        """What each part counts with this data. Raises DataError, UsageError for a loss of nothing."""
        label, has_labels = self.label_weight, training_split(data).y is not None
        if label and not has_labels:
            raise DataError(
                f"label_weight is {label:g}, and the data has no labels", next="leave it out, or give data with labels"
            )
        if label is None:
            label = LABELS if has_labels else 0.0
        every = Weights(label, (1 - label) * self.logits, self.features, self.attention, self.relational)
        found = every.fitting(pairs)
        if not found.parts():
            raise UsageError("all weights of the loss are 0, or no layers match", next="use logits = 1")
        if self.hint_epochs and not found.features:
            raise UsageError(
                "hint_epochs is about features, and these have no weight or no layers match", next="use features = 1"
            )
        return found

    def _told(self, tutors: Sequence[teachers.Teacher], objective: Distillation) -> dict[str, Any]:
        """What the report says of how it was done."""
        return {
            "stage": "distill",
            "teachers": [t.name for t in tutors],
            "student": self.student or "the model itself",
            "temperature": self.temperature,
            "weights": {f.name: getattr(objective.weights, f.name) for f in fields(objective.weights)},
            "outputs": {head.name: head.decision for head in objective.heads},
            "layers": [
                {"student": str(p.student), "teacher": str(p.teacher), "projected": p.projected}
                for p in objective.pairs
            ],
        }


def _tapped(net: Any, pairs: Sequence[Pair]) -> Any:
    """A teacher that gives its outputs, then what its matched layers give."""
    found = tapped(net, [pair.teacher.name for pair in pairs])
    found.trainable = False
    return found


def _labels(model: Model, data: Dataset) -> Labels:
    """The loss on labels; targets that are no classes are measured by their variance, as values of a teacher are."""
    y = training_split(data).y
    scale = 1.0
    if y is not None and y.dtype.kind == "f" and float(y.var()) > 0:
        scale = float(y.var())
    return Labels(labelled(model, data), scale)


def _scored(model: Model, data: Dataset) -> int:
    """Index of the output that the metric is about."""
    names = [s.name for s in model.outputs]
    return names.index(output_name(data.metric, names))


def _notes(data: Dataset, known: Sequence[str]) -> tuple[str, ...]:
    return (NOTE_GENERATED,) if data.generated and NOTE_GENERATED not in known else ()
