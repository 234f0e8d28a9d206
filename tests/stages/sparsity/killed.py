"""A pruning or clustering in a process of its own, for a test that kills it: `killed.py FOLDER STAGE` stands still at a step."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgedl import scratch
from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.frameworks import keras
from edgedl.model import Model
from edgedl.stages.cluster import Cluster
from edgedl.stages.prune_weights import PruneWeights
from edgedl.stages.training import checkpoint, loop
from edgedl.stages.training.batches import Batches

EPOCHS, SAMPLES, BATCH = 3, 96, 8
STANDS = (1, 6)  # epoch, batch in it, from 0
STAGES = {
    "magnitude": PruneWeights(epochs=EPOCHS, batch_size=BATCH, sparsity=0.8, rise=0.9, every=1, start=0.2),
    "movement": PruneWeights(epochs=EPOCHS, batch_size=BATCH, sparsity=0.8, method="movement", loss="origin"),
    "cluster": Cluster(epochs=EPOCHS, batch_size=BATCH, clusters=8),
}


def network() -> Model:
    keras().utils.set_random_seed(3)
    L, image = keras().layers, keras().Input((6, 6, 3), name="image")
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(L.Conv2D(8, 3, name="conv")(image)))
    x = L.Dropout(0.3, name="drop")(L.Flatten(name="flat")(x))
    net = keras().Model(image, L.Dense(4, activation="softmax", name="head")(x), name="net")
    return Model(net, (TensorSpec("image", (None, 6, 6, 3), "float32"),), (TensorSpec("head", (None, 4), "float32"),))


def data() -> Dataset:
    rng = np.random.default_rng(0)
    split = Split({"image": rng.normal(size=(SAMPLES, 6, 6, 3)).astype(np.float32)}, rng.integers(0, 4, SAMPLES))
    return Dataset(split, split, train=split, metric="accuracy")


def run(folder: Path, stage: str) -> tuple[list[Any], dict[str, Any]]:
    """The weights after the stage, and its record; what it keeps for a later process lies in `folder`."""
    with scratch.using(folder):
        found = STAGES[stage](network(), data())
    return [np.asarray(w) for w in found.net.get_weights()], dict(found.records[-1])


def main(folder: str, stage: str) -> None:
    checkpoint.EVERY_S = loop.EVERY_S = 0.0
    given = Batches.epoch

    def standing(self: Any, epoch: int, done: int) -> Any:
        for i, batch in enumerate(given(self, epoch, done), start=done):
            if (epoch, i) == STANDS:
                time.sleep(600)
            yield batch

    Batches.epoch = standing  # type: ignore[method-assign]
    run(Path(folder), stage)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
