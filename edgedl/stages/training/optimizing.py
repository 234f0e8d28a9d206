"""One step of training, compiled: the loss, its gradients, weight decay, clipping, the update and the moving average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ...artifact import Array
from ...frameworks import deep, keras, tensorflow
from ..rebuilding import tapped
from .options import Training
from .structure import is_kernel


class Objective(Protocol):
    """What training makes small. Symbolic: everything is a tensor of the backend, `[n, ...]`.

    `taps` are names of layers of the network whose outputs it wants; `layers` are Keras layers of its own that are
    trained with the network (projections) and thrown away afterwards. `needs_labels`: raise DataError before training
    where there are none. Called as `objective(x, y, outputs, taps)`: inputs in the network's order, labels or None,
    the network's outputs in its order, and what the tapped layers gave, by name. Returns the scalar loss.

    Labels are as the data has them, or soft (float32 of the scores' shape) where `augment.mixup` is on.
    """

    @property
    def taps(self) -> Sequence[str]: ...
    @property
    def layers(self) -> Sequence[Any]: ...
    @property
    def needs_labels(self) -> bool: ...

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any: ...


def optimizer(options: Training, trainables: Sequence[Any]) -> Any:
    """The optimizer of the options, built for these variables. Weight decay of adamw is its own and on kernels only."""
    found = keras().optimizers
    if options.optimizer == "sgd":
        made = found.SGD(options.peak, momentum=options.momentum, nesterov=options.momentum > 0)
    elif options.optimizer == "adam":
        made = found.Adam(options.peak)
    else:
        made = found.AdamW(options.peak, weight_decay=options.weight_decay)
        made.exclude_from_weight_decay(var_list=[v for v in trainables if not is_kernel(v)])
    made.build(list(trainables))
    return made


def array(variable: Any) -> Array:
    """A copy of what a variable of Keras or TensorFlow holds."""
    inner = variable if isinstance(variable, tensorflow().Variable) else variable.value
    found: Array = inner.numpy()
    return found


class Stepper:
    """A network in training: `step` updates it by one batch, `evaluate` runs it as it is."""

    def __init__(self, student: Any, objective: Objective, options: Training) -> None:
        self.student, self.objective, self.options = student, objective, options
        self.body = tapped(student, list(objective.taps))
        self.outputs = len(self.body.outputs) - len(objective.taps)
        self.step: Any = None
        self.evaluate: Any = None

    def build(self, x: Sequence[Any], y: Any) -> None:
        """Compile for batches like this one, whose length may differ unless the network insists on it."""
        tf = tensorflow()
        if not all(layer.built for layer in self.objective.layers):
            self._loss([tf.convert_to_tensor(v) for v in x], None if y is None else tf.convert_to_tensor(y), False)
        self.trainables = [*self.student.trainable_variables, *self._extras("trainable_variables")]
        self.optimizer = optimizer(self.options, self.trainables)
        self.averaged = list(self.student.trainable_variables) if self.options.ema else []
        self.shadows = [tf.Variable(v.value, trainable=False) for v in self.averaged]
        self.step, self.evaluate = tf.function(self._step), tf.function(self._evaluate)

    @property
    def variables(self) -> list[Any]:
        """Everything that changes, in a fixed order: weights, statistics, random states, optimizer, averages."""
        return [*self.student.variables, *self._extras("variables"), *self.optimizer.variables, *self.shadows]

    def _extras(self, what: str) -> list[Any]:
        return [v for layer in self.objective.layers for v in getattr(layer, what)]

    def _loss(self, x: Sequence[Any], y: Any, training: bool) -> tuple[Any, list[Any]]:
        tf = tensorflow()
        with deep():
            found = self.body(list(x), training=training)
        found = [v if v.dtype != "bfloat16" else tf.cast(v, "float32") for v in keras().tree.flatten(found)]
        taps = dict(zip(self.objective.taps, found[self.outputs :], strict=True))
        loss = tf.reduce_mean(self.objective(list(x), y, found[: self.outputs], taps))
        return loss, found[: self.outputs]

    def _step(self, x: Sequence[Any], y: Any) -> Any:
        tf = tensorflow()
        with tf.GradientTape() as tape:
            loss, _ = self._loss(x, y, True)
            total = loss + tf.add_n(self.body.losses) if self.body.losses else loss
        gradients = tape.gradient(total, [v.value for v in self.trainables])
        self.optimizer.apply(self._shaped(gradients))
        self._average()
        return loss

    def _shaped(self, gradients: Sequence[Any]) -> list[Any]:
        """Gradients with the penalty on large kernels (as torch.optim has it for SGD and Adam), then clipped."""
        tf, decay = tensorflow(), self.options.weight_decay
        if decay and self.options.optimizer != "adamw":
            gradients = [
                g if g is None or not is_kernel(v) else tf.convert_to_tensor(g) + decay * v.value
                for g, v in zip(gradients, self.trainables, strict=True)
            ]
        if self.options.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.options.clip_norm)
        return list(gradients)

    def _average(self) -> None:
        """The moving average; its decay rises to the one asked for, as in tf.train.ExponentialMovingAverage."""
        tf = tensorflow()
        if self.averaged:
            done = tf.cast(self.optimizer.iterations.value, "float32")
            decay = tf.minimum(self.options.ema, (1 + done) / (10 + done))
            for shadow, variable in zip(self.shadows, self.averaged, strict=True):
                shadow.assign(shadow * decay + tf.cast(variable.value, shadow.dtype) * (1 - decay))

    def _evaluate(self, x: Sequence[Any], y: Any) -> tuple[Any, list[Any]]:
        return self._loss(x, y, False)

    def swap(self) -> None:
        """Put the moving averages in the weights' place, and these in theirs; a second time undoes it."""
        for shadow, variable in zip(self.shadows, self.averaged, strict=True):
            kept = array(variable)
            variable.assign(array(shadow))
            shadow.assign(kept)
