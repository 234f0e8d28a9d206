"""train(): a network trained towards an objective, from a Dataset, by Keras's own fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ...data import Dataset, Split
from ...errors import DataError
from ...frameworks import keras
from ...worker import progress
from ..rebuilding import clone, tapped
from .options import Training


class Objective(Protocol):
    """What training makes small. Symbolic: everything is a tensor of the backend, `[n, ...]`.

    `taps` are names of layers of the network whose outputs it wants; `layers` are Keras layers of its own that are
    trained with the network (projections) and thrown away afterwards. `needs_labels`: raise DataError before training
    where there are none. Called as `objective(x, y, outputs, taps)`: inputs in the network's order, labels or None,
    the network's outputs in its order, and what the tapped layers gave, by name. Returns the scalar loss.
    """

    @property
    def taps(self) -> Sequence[str]: ...
    @property
    def layers(self) -> Sequence[Any]: ...
    @property
    def needs_labels(self) -> bool: ...

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any: ...


Prepare = Callable[[Any, int], Sequence[Any]]  # (the copy to train, steps in all) -> Keras callbacks


def train(
    net: Any, data: Dataset, options: Training, objective: Objective, *, prepare: Prepare | None = None
) -> tuple[Any, dict[str, Any]]:
    """A trained copy of `net`, and a record of it in plain JSON (per epoch: loss, validation loss, rate, seconds).

    `net` is not changed. `prepare` may put constraints on weights or change the copy before it is compiled, and gives
    callbacks. Raises DataError: no data, or no labels where the objective needs them. Raises ModelError for a loss
    that is not a number.
    """
    split = training_split(data)
    if objective.needs_labels and split.y is None:
        raise DataError("this training needs labels, and the data has none", next="use distill, which needs none")
    student = clone(net)
    steps = options.epochs * -(-len(split) // options.batch_size)
    callbacks = list(prepare(student, steps)) if prepare else []
    trainer = _trainer(student, objective)
    trainer.compile(keras().optimizers.Adam(options.peak), jit_compile=False)
    feed = data.feed(split)
    x = [feed[name] for name in split.x]
    callbacks.append(keras().callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: progress(epoch + 1, options.epochs, f"loss {(logs or {}).get('loss', 0):.4f}")
    ))  # fmt: skip
    history = trainer.fit(
        x if len(x) > 1 else x[0], None if split.y is None else np.asarray(split.y),
        batch_size=options.batch_size, epochs=options.epochs, verbose=0, callbacks=callbacks,
    )  # fmt: skip
    return student, {"loss": [float(v) for v in history.history["loss"]]}


def training_split(data: Dataset) -> Split:
    """The training split, or the calibration split where there is none."""
    return data.calibration if data.train is None else data.train


def _trainer(student: Any, objective: Objective) -> Any:
    """A Keras model that computes the objective; its weights are the student's and the objective's own."""
    k = keras()
    body = tapped(student, list(objective.taps))
    count = len(body.outputs) - len(objective.taps)

    class Trainer(k.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.extra = list(objective.layers)

        def call(self, x: Any, training: bool | None = None) -> Any:
            return self.body(x, training=training)

        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, **more: Any) -> Any:
            found = list(y_pred) if isinstance(y_pred, list | tuple) else [y_pred]
            given = list(x) if isinstance(x, list | tuple) else [x]
            taps = dict(zip(objective.taps, found[count:], strict=True))
            return objective(given, y, found[:count], taps)

    return Trainer()
