"""One step of training, compiled: the loss, its gradients, weight decay, clipping, the update and the moving average."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from ...artifact import Array
from ...frameworks import deep, keras, tensorflow
from ..rebuilding import tapped
from .devices import Placed, gather, half, has_float16, parts, spread, strategy_of, visible
from .options import Training
from .structure import is_kernel


class Objective(Protocol):
    """What training makes small. Symbolic: everything is a tensor of the backend, `[n, ...]`.

    `taps` are names of layers of the network whose outputs it wants; `layers` are Keras layers of its own that are
    trained with the network (projections) and thrown away afterwards. `needs_labels`: raise DataError before training
    where there are none. Called as `objective(x, y, outputs, taps)`: inputs in the network's order, labels or None,
    the network's outputs in its order, and what the tapped layers gave, by name. Returns the scalar loss, a mean over
    samples: where several devices share a batch, each calls it with its part. `fingerprint`, where there is one, tells
    what else the loss depends on (a teacher's weights), for checkpoints.

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


def _reason(error: Exception) -> str:
    """The line of an error that says why, without the stack and the arguments that TensorFlow and Keras put around it."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def tensors(x: Sequence[Array], y: Array | None) -> tuple[list[Any], Any]:
    """A batch as tensors."""
    convert = tensorflow().convert_to_tensor
    return [convert(v) for v in x], None if y is None else convert(y)


def array(variable: Any) -> Array:
    """A copy of what a variable of Keras or TensorFlow holds."""
    inner = variable if isinstance(variable, tensorflow().Variable) else variable.value
    found: Array = inner.numpy()
    return found


NO_GPU = "mixed_precision was not used: no GPU with fast float16 is visible, and training computed in float32"


class Stepper:
    """A network in training: `step` updates it by one batch, `evaluate` runs it as it is."""

    def __init__(self, student: Any, objective: Objective, options: Training) -> None:
        self.student, self.objective, self.options = student, objective, options
        self.body = tapped(student, list(objective.taps))
        self.outputs = len(self.body.outputs) - len(objective.taps)
        self.step: Any = None
        self.evaluate: Any = None
        self.mixed = False  # training computes in float16
        self.strategy: Any = None  # of several devices
        self.placed: Placed = []
        self.size = 0  # of the batch on all devices together

    def build(self, x: Sequence[Any], y: Any, fixed: bool = False) -> list[str]:
        """Compile for batches like this one, whose length may differ for `evaluate` unless the network insists on it.

        Float16 and several devices are given up where the network or the objective cannot be compiled so; returns notes on that.
        """
        tf = tensorflow()
        if not all(layer.built for layer in self.objective.layers):
            self._loss([tf.convert_to_tensor(v) for v in x], None if y is None else tf.convert_to_tensor(y), False)
        self.size, notes = len(x[0]), []
        self.mixed = self.options.mixed_precision and has_float16()
        if self.options.mixed_precision and not self.mixed:
            notes.append(NO_GPU)
        devices = visible()
        if len(devices) > 1 and (fixed or self.size < len(devices)):
            notes.append(
                f"of {len(devices)} devices one was used: a batch of {self.size}"
                + (", on which the network insists," if fixed else "")
                + " cannot be divided"
            )
        elif len(devices) > 1:
            self.strategy = strategy_of(tuple(devices))
        while True:
            try:
                self._compile(x, y)
                return notes
            except (TypeError, ValueError, RuntimeError, NotImplementedError, tf.errors.OpError) as error:
                notes.append(self._simpler(error))

    def _simpler(self, error: Exception) -> str:
        """Give up several devices, then float16; says so. Raises the error again where neither is the cause."""
        why = _reason(error)
        self.release()
        if self.strategy is not None:
            count, self.strategy = self.strategy.num_replicas_in_sync, None
            return f"of {count} devices one was used: this training cannot be divided ({why})"
        if self.mixed:
            self.mixed = False
            return f"mixed_precision was not used: this network cannot compute in float16 ({why})"
        raise error

    def _compile(self, x: Sequence[Any], y: Any) -> None:
        tf = tensorflow()
        if self.strategy is not None:
            self.placed = spread([*self.student.variables, *self._extras("variables")], self.strategy)
        self.trainables = [*self.student.trainable_variables, *self._extras("trainable_variables")]
        with nullcontext() if self.strategy is None else self.strategy.scope():
            self.optimizer = optimizer(self.options, self.trainables)
            if self.mixed:
                self.optimizer = keras().optimizers.LossScaleOptimizer(self.optimizer)
                self.optimizer.build(self.trainables)
            self.averaged = list(self.student.trainable_variables) if self.options.ema else []
            self.shadows = [tf.Variable(array(v), trainable=False) for v in self.averaged]
        self.step, self.evaluate = tf.function(self._step), tf.function(self._evaluate)
        if self.mixed or self.strategy is not None:
            self.step.get_concrete_function(*self.batch(x, y))

    def release(self) -> None:
        """Take the network and the objective's layers back to one device."""
        gather(self.placed)
        self.placed = []

    def batch(self, x: Sequence[Array], y: Array | None) -> tuple[list[Any], Any]:
        """What `step` takes: tensors, on several devices a part of the batch for each."""
        if self.strategy is None:
            return tensors(x, y)
        return [parts(v, self.strategy) for v in x], parts(y, self.strategy)

    @property
    def precision(self) -> str:
        """What training computes in."""
        return "float16" if self.mixed else "float32"

    @property
    def devices(self) -> int:
        """How many share each batch."""
        return 1 if self.strategy is None else int(self.strategy.num_replicas_in_sync)

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
        found = [
            tf.cast(v, "float32") if v.dtype in ("float16", "bfloat16") else v for v in keras().tree.flatten(found)
        ]
        taps = dict(zip(self.objective.taps, found[self.outputs :], strict=True))
        loss = tf.reduce_mean(self.objective(list(x), y, found[: self.outputs], taps))
        return loss, found[: self.outputs]

    def _step(self, x: Sequence[Any], y: Any) -> Any:
        with half(self.student) if self.mixed else nullcontext():
            if self.strategy is None:
                return self._update(x, y)
            losses = self.strategy.run(self._update, (x, y))
        return self.strategy.reduce(tensorflow().distribute.ReduceOp.SUM, losses, axis=None)

    def _update(self, x: Sequence[Any], y: Any) -> Any:
        """One update, on one device or as one of several, whose losses count by their share of the batch."""
        tf = tensorflow()
        with tf.GradientTape() as tape:
            loss, _ = self._loss(x, y, True)
            total = loss + tf.add_n([tf.cast(v, "float32") for v in self.body.losses]) if self.body.losses else loss
            if self.strategy is not None:
                share = x[0].shape[0] / self.size
                loss, total = loss * share, total * share
            if self.mixed:
                total = self.optimizer.scale_loss(total)
        gradients = tape.gradient(total, [v.value for v in self.trainables])
        if self.strategy is not None:
            gradients = self._summed(gradients)
        self.optimizer.apply(self._scaled(gradients) if self.mixed else self._shaped(gradients))
        self._average()
        return loss

    def _summed(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients of all devices together."""
        tf = tensorflow()
        known = [i for i, g in enumerate(gradients) if g is not None]
        found = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [tf.convert_to_tensor(gradients[i]) for i in known]
        )
        out: list[Any] = [None] * len(gradients)
        for i, g in zip(known, found, strict=True):
            out[i] = g
        return out

    def _scaled(self, gradients: Sequence[Any]) -> list[Any]:
        """Gradients of the scaled loss, shaped as those of the loss itself; scales are powers of 2, so nothing is lost."""
        scale, tf = self.optimizer.dynamic_scale.value, tensorflow()
        plain = [None if g is None else tf.convert_to_tensor(g) / scale for g in gradients]
        return [None if g is None else g * scale for g in self._shaped(plain)]

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
        if self.strategy is not None:  # Keras' optimizers add up what the devices give them, which is alike by now
            gradients = [None if g is None else g / self.strategy.num_replicas_in_sync for g in gradients]
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
