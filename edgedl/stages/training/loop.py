"""train(): a network trained towards an objective, from a Dataset; it stops early, goes on where it was killed, and tells."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from ...artifact import Array
from ...data import Dataset, Split
from ...errors import DataError, ModelError, UsageError
from ...frameworks import keras
from ...metrics import REFERENCED, find_metric, output_name
from ...worker import progress
from ..rebuilding import clone
from .batches import Batches, batches, divided, in_order, training_split
from .checkpoint import EVERY_S, Checkpoint, checkpoint
from .norm import BATCH, norms, reestimate, reestimate_on, room
from .optimizing import Objective, Stepper, array, tensors
from .options import Training
from .schedules import rate
from .structure import impose, structure
from .task import softened

__all__ = ["Objective", "Prepare", "train", "training_split"]

USUAL = 0.1  # no learning rate above it is worth a try
Prepare = Callable[[Any, int], Sequence[Any]]  # (the copy to train, steps in all) -> Keras callbacks
WATCHED = 1000  # validation samples that are looked at after each epoch, at most
SCORED = 256 << 20  # bytes of outputs and labels of which the metric after an epoch is, about; the loss is of all
TELL_S = 0.25  # least time between two messages of progress


def train(
    net: Any, data: Dataset, options: Training, objective: Objective, *, prepare: Prepare | None = None
) -> tuple[Any, dict[str, Any]]:
    """A trained copy of `net`, and a record of it in plain JSON.

    `net` is not changed. `prepare` may put constraints on weights or change the copy before it is trained, and gives
    Keras callbacks. Raises DataError: no data, or no labels where the objective needs them. Raises ModelError for a
    loss that is not a number before the first epoch is done; later, the weights of the last finished epoch are kept.
    """
    split = training_split(data)
    if objective.needs_labels and split.y is None:
        raise DataError("this training needs labels, and the data has none", next="use distill, which needs none")
    with _seeded(options.seed):
        student = clone(net)
        _seed_layers(student, options.seed)
        if options.epochs:
            kept_at = checkpoint(net, data, options, objective, prepare)
            record = _Job.start(student, data, options, objective, prepare, kept_at).run()
        else:
            record = {"epochs": [], "epochs_done": 0, "notes": [], "ended": ""}
            record["reestimated"] = reestimate(student, data, options.reestimate, seed=options.seed)
    return student, record


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initializers without a seed draw from Python's random numbers: these, seeded, and afterwards as before."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _seed_layers(net: Any, seed: int) -> None:
    """Random states of dropout and its like begin at the seed, each at its own."""
    states = [v for v in net.variables if v.name.startswith("seed_generator_state")]
    for i, state in enumerate(states):
        drawn = np.random.default_rng([seed, i]).integers(0, 2**31)
        state.assign(np.array([drawn, 0], dtype=state.dtype))


@dataclass(slots=True)
class _Job:
    """One training: what it works on, and how far it is."""

    stepper: Stepper
    batches: Batches
    watched: Split
    chosen: Array  # indices into `watched` that are looked at after each epoch
    options: Training
    callbacks: Any
    fixed: bool  # the network insists on its batch
    record: dict[str, Any]
    epochs: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    total: float = 0.0  # of the losses of this epoch
    good: list[Array] = field(default_factory=list)  # the network's weights after the last finished epoch
    best: list[Array] = field(default_factory=list)  # ... after the best one, where early stopping is on
    began: float = field(default_factory=time.monotonic)
    told: float = 0.0
    first: int = 0  # the step at which this process began
    checkpoint: Checkpoint | None = None
    stopped: bool = False  # no epoch is left to do
    ended: str = ""  # why before all epochs were done: "early" (early stopping), "diverged", "callback"
    saved: float = field(default_factory=time.monotonic)  # when the last checkpoint was written

    @classmethod
    def start(
        cls, student: Any, data: Dataset, options: Training, objective: Objective, prepare: Any,
        kept_at: Checkpoint | None = None,
    ) -> _Job:  # fmt: skip
        split = training_split(data)
        chosen, held = divided(len(split), options)
        fixed = int(student.inputs[0].shape[0] or 0)
        at = getattr(objective, "at", 0)
        ranks = {name: len(t.shape) for name, t in zip(split.x, student.inputs, strict=True)}
        made = batches(data, chosen, options, fixed, ranks, lambda y: softened(y, tuple(student.outputs[at].shape)))
        rules = structure(student) if options.keep_zeros else []
        found = list(prepare(student, options.epochs * made.count)) if prepare else []
        kept = impose(rules)
        if not student.trainable_variables:
            raise UsageError("no layer of this network is trainable", next="set trainable = True on its layers")
        stepper = Stepper(student, objective, options)
        notes = stepper.build(*made.make(0, 0, chosen), fixed=bool(fixed))
        watched, index, name = _watched(data, split, held, objective)
        callbacks = keras().callbacks.CallbackList(
            found, model=student, epochs=options.epochs, steps=made.count, verbose=0
        )
        record = {
            "samples": len(chosen), "held_out": len(held), "watched": name, "batch_size": made.size,
            "optimizer": options.optimizer, "schedule": options.schedule, "peak": options.peak, "notes": notes,
            "kept": [asdict(k) for k in kept], "precision": stepper.precision, "devices": stepper.devices,
        }  # fmt: skip
        return cls(stepper, made, watched, index, options, callbacks, bool(fixed), record, checkpoint=kept_at)

    # --- what outlives the process

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is one of this training."""
        if self.checkpoint is None:
            return
        found = self.checkpoint.load()
        if found is None:
            self.record["notes"] += self.checkpoint.others()
            return
        header, groups = found
        used = header.get("precision", "float32")
        if used != self.stepper.precision:
            self.record["notes"].append(
                f"a checkpoint was not used, because it is of training in {used}: training began anew"
            )
            return
        for variable, value in zip(self.stepper.variables, groups["variables"], strict=True):
            variable.assign(value)
        self.good, self.best = groups["good"], groups["best"]
        self.step = self.first = header["step"]
        self.total, self.epochs, self.stopped = float.fromhex(header["total"]), header["epochs"], header["done"]
        self.ended = header.get("ended", "")
        self.record["notes"] += [note for note in header["notes"] if note not in self.record["notes"]]
        self.record["resumed_from"] = {"epoch": self.step // self.batches.count + 1, "step": self.step}
        for i, callback in enumerate(self.stateful):
            callback.set_state({k: groups[f"callback{i}"][j] for j, k in enumerate(header["callbacks"][i])})

    def _save(self, done: bool = False) -> None:
        """Write everything that the rest of the training depends on."""
        if self.checkpoint is None:
            return
        states = [callback.get_state() for callback in self.stateful]
        groups = {"variables": [array(v) for v in self.stepper.variables], "good": self.good, "best": self.best}
        groups |= {f"callback{i}": list(state.values()) for i, state in enumerate(states)}
        header = {
            "step": self.step, "total": self.total.hex(), "epochs": self.epochs, "done": done,
            "notes": self.record["notes"], "callbacks": [list(state) for state in states], "ended": self.ended,
            "precision": self.stepper.precision,
        }  # fmt: skip
        self.checkpoint.save(header, groups)
        self.saved = time.monotonic()

    @property
    def stateful(self) -> list[Any]:
        """The callbacks that have something to keep: get_state() gives arrays by name, set_state() takes them."""
        return [c for c in self.callbacks.callbacks if hasattr(c, "get_state") and hasattr(c, "set_state")]

    # --- the way through

    @property
    def steps(self) -> int:
        return self.options.epochs * self.batches.count

    def run(self) -> dict[str, Any]:
        try:
            self._epochs()
        finally:
            self.stepper.release()
        self.callbacks.on_train_end()
        return {**self._finished(), "reestimated": self._remeasured()}

    def _epochs(self) -> None:
        student = self.stepper.student
        self.callbacks.on_train_begin()
        self._resume()
        student.stop_training = self.stopped
        epoch = self.step // self.batches.count
        while not student.stop_training and epoch < self.options.epochs:
            more = self._epoch(epoch)
            epoch += 1
            if student.stop_training and more and epoch < self.options.epochs:
                self.ended = "callback"
            student.stop_training = student.stop_training or not more
            self._save(done=student.stop_training or epoch == self.options.epochs)

    def _epoch(self, epoch: int) -> bool:
        """Train one epoch; returns whether to go on."""
        self.callbacks.on_epoch_begin(epoch)
        start, done = time.monotonic(), self.step - epoch * self.batches.count
        for x, y in self.batches.epoch(epoch, done):
            self.callbacks.on_train_batch_begin(done)
            value = rate(self.options, self.step, self.steps)
            self.stepper.optimizer.learning_rate = value
            loss = float(self.stepper.step(*self.stepper.batch(x, y)))
            if not np.isfinite(loss):
                self._diverged(x, epoch, loss)
                return False
            self.callbacks.on_train_batch_end(done, {"loss": loss})
            done, self.step, self.total = done + 1, self.step + 1, self.total + loss
            self._tell(epoch, self.total / done)
            if time.monotonic() - self.saved > EVERY_S and done < self.batches.count:
                self._save()
        entry = {"loss": self.total / done, "rate": value, "seconds": round(time.monotonic() - start, 3)}
        self.total = 0.0
        return self._judged(epoch, entry)

    def _judged(self, epoch: int, entry: dict[str, Any]) -> bool:
        """Look at the network after an epoch: keep its weights, and say whether to go on."""
        self.stepper.swap()
        weights = self._weights()
        if not all(np.isfinite(w).all() for w in weights if w.dtype.kind == "f"):
            self._diverged([], epoch, float("nan"))
            return False
        entry |= self._look()
        self.stepper.swap()
        self.good = weights
        self.epochs.append(entry)
        self.callbacks.on_epoch_end(epoch, {k: v for k, v in entry.items() if v is not None})
        if not self.options.patience:
            return True
        best = self._best()
        if best == epoch:
            self.best = weights
        if epoch - best < self.options.patience:
            return True
        self.ended = "early" if epoch + 1 < self.options.epochs else ""
        return False

    def _weights(self) -> list[Array]:
        return [array(v) for v in self.stepper.student.variables]

    def _look(self) -> dict[str, Any]:
        """Loss and metric on the watched samples."""
        if not len(self.chosen):
            return {}
        total = 0.0
        outputs: list[Array] = []
        labels: list[Array] = []
        at = getattr(self.stepper.objective, "at", 0)
        data, size = self.batches.data, self.batches.size
        kept = 0  # bytes
        for x, y, count in in_order(data, self.watched, self.chosen, size, self.fixed):
            loss, found = self.stepper.evaluate(*tensors(x, y))
            total += float(loss) * count
            if y is not None and kept < SCORED:
                outputs.append(np.asarray(found[at])[:count])
                labels.append(np.asarray(y)[:count])
                kept += outputs[-1].nbytes + labels[-1].nbytes
        metric = _metric(data.metric, self.stepper.student, at)
        value = None
        if metric is not None and labels:
            try:
                value = float(metric(np.concatenate(outputs), np.concatenate(labels)))
            except DataError:  # labels that this metric cannot score, such as a single class
                value = None
        return {"val_loss": total / len(self.chosen), "metric": value}

    def _tell(self, epoch: int, loss: float) -> None:
        now = time.monotonic()
        if now - self.told < TELL_S and self.step < self.steps:
            return
        self.told = now
        left = (now - self.began) / (self.step - self.first) * (self.steps - self.step)
        metric = next((e["metric"] for e in self.epochs[-1:] if e.get("metric") is not None), None)
        name = self.batches.data.metric
        seen = "" if metric is None else f", {name} {metric:.3f}"
        text = f"epoch {epoch + 1}/{self.options.epochs}, loss {loss:.4f}{seen}, {_clock(left)} left"
        progress(self.step, self.steps, text)

    # --- the end

    def _diverged(self, x: Sequence[Array], epoch: int, loss: float) -> None:
        """Raise ModelError where no epoch was finished, else note that its weights are kept."""
        if any(v.dtype.kind == "f" and not np.isfinite(v).all() for v in x):
            raise DataError("the training data holds values that are not numbers", next="remove these samples")
        self.ended = "diverged"
        lower = f"{min(self.options.peak / 10, USUAL):.2g}"
        told = f"the loss became {loss:g} in epoch {epoch + 1}, at a peak learning rate of {self.options.peak:g}"
        plain = ", or mixed_precision = false" if self.stepper.mixed else ""
        if not self.good:
            raise ModelError(told, next=f"set learning_rate = {lower}, or clip_norm = 1{plain}")
        self.record["notes"].append(
            f"{told}: training stopped, and the weights after epoch {len(self.epochs)} are kept; try learning_rate = {lower}{plain}"
        )

    def _finished(self) -> dict[str, Any]:
        """Put the weights that are kept into the network; returns the record."""
        student, kept = self.stepper.student, self.best or self.good
        for variable, value in zip(student.variables, kept, strict=True):
            variable.assign(value)
        for variable in student.trainable_variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
                variable.constraint = None
        best = self._best() + 1 if self.options.patience else len(self.epochs)
        done = {"epochs": self.epochs, "epochs_done": len(self.epochs), "best_epoch": best, "ended": self.ended}
        return {**self.record, **done}

    def _remeasured(self) -> int:
        """BatchNormalization measured exactly on samples as training saw them, augmented; returns how many layers.

        "Precise BN" of Wu and Johnson ("Rethinking 'Batch' in BatchNorm", 2021): the moving statistics are averages over
        the last few batches, while the weights moved on. Not on samples without augmentation: ResNet-20 on CIFAR-10,
        trained on shifts over black borders, loses three points so.
        """
        count = -(-min(self.options.reestimate, len(self.batches.chosen)) // self.batches.size)
        if not count or not norms(self.stepper.student):
            return 0
        fresh = islice(self.batches.epoch(self.options.epochs), count)
        together = 1 if self.fixed else max(1, min(BATCH, room(self.stepper.student)) // self.batches.size)
        return reestimate_on(self.stepper.student, _joined((x for x, _ in fresh), together))

    def _best(self) -> int:
        """The epoch of the least loss on the held-out samples, from 0."""
        return int(np.argmin(np.nan_to_num([entry["val_loss"] for entry in self.epochs], nan=np.inf)))


def _watched(data: Dataset, split: Split, held: Array, objective: Objective) -> tuple[Split, Array, str]:
    """What is looked at after each epoch: the held-out tenth, else some validation samples, on which nothing depends."""
    if len(held):
        return split, held, "a held-out tenth of the training data"
    usable = not data.generated and (data.validation.y is not None or not objective.needs_labels)
    count = min(WATCHED, len(data.validation)) if usable else 0
    return data.validation, np.arange(count), "validation data, only to be shown" if count else ""


def _metric(name: str, net: Any, at: int) -> Any:
    """The metric of the data where it is about output `at` and labels, or None."""
    wanted, colon, bare = name.rpartition(":")
    if bare in REFERENCED or (
        colon and wanted in net.output_names and output_name(name, net.output_names) != net.output_names[at]
    ):
        return None
    return find_metric(name)


def _joined(batches: Iterator[list[Array]], count: int) -> Iterator[list[Array]]:
    """Every `count` batches as one."""
    while group := list(islice(batches, count)):
        yield [np.concatenate(parts) for parts in zip(*group, strict=True)]


def _clock(seconds: float) -> str:
    """A duration in words.

    >>> _clock(5.2), _clock(185), _clock(7300)
    ('5 s', '3:05 min', '2:01 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds) // 60
    return f"{minutes}:{int(seconds) % 60:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
