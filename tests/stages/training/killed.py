"""A training in a process of its own, for tests that kill it: `killed.py FOLDER STEP OUT` trains and writes the weights.

After the batch STEP (counted from 1; 0: none) it writes OUT.waiting and waits to be killed; until then it keeps a
checkpoint after every batch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgedl import scratch
from edgedl.data import Dataset, Split
from edgedl.frameworks import keras
from edgedl.stages.training import checkpoint, loop
from edgedl.stages.training.options import Augment, Training
from edgedl.stages.training.task import Labelled

EPOCHS, SAMPLES = 3, 200


def network() -> Any:
    keras().utils.set_random_seed(3)
    L = keras().layers
    image = keras().Input((8, 8, 3), name="image")
    x = L.BatchNormalization(name="norm")(L.Conv2D(8, 3, name="conv")(image))
    x = L.Dropout(0.3, name="drop")(L.Flatten(name="flat")(L.ReLU(name="relu")(x)))
    return keras().Model(image, L.Dense(4, activation="softmax", name="head")(x), name="net")


def data(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 256, (SAMPLES, 8, 8, 3), np.uint8), rng.integers(0, 4, SAMPLES)
    split = Split({"image": x}, y)
    return Dataset(split, split, split, metric="accuracy")


def options(**more: Any) -> Training:
    given: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 16, "ema": 0.9, "patience": 5, "clip_norm": 1.0}
    return Training(**{**given, "augment": Augment(flip=True, shift=1, noise=0.1, mixup=0.2), **more})


class Wait(keras().callbacks.Callback):  # type: ignore[misc, name-defined]
    """Stands still after a batch."""

    def __init__(self, step: int, sign: Path) -> None:
        super().__init__()
        self.left, self.sign = step, sign

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            self.sign.touch()
            time.sleep(600)


def trained(out: Path, step: int = 0) -> None:
    """Train, and write weights and record."""
    wait = Wait(step, out.with_suffix(".waiting"))
    objective = Labelled(0, "probabilities", True)
    net, record = loop.train(network(), data(), options(), objective, prepare=lambda student, steps: [wait])
    np.savez(out, **{f"w{i}": v.value.numpy() for i, v in enumerate(net.variables)})
    out.with_suffix(".json").write_text(json.dumps(record))


def main(folder: str, step: int, out: str) -> None:
    if step:
        checkpoint.EVERY_S = loop.EVERY_S = -1.0
    with scratch.using(Path(folder)):
        trained(Path(out), step)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
