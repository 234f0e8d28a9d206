"""Trainings that several devices share: `divided.py DEVICES FOLDER` runs each case on so many logical CPUs of one process.

FOLDER/NAME.npz holds the trained weights and FOLDER/NAME.json the record. test_devices.py runs the same on one device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedl import scratch
from edgedl.data import Dataset, Split
from edgedl.frameworks import keras, tensorflow
from edgedl.stages.training import devices
from edgedl.stages.training.loop import train
from edgedl.stages.training.options import Training
from edgedl.stages.training.task import Labelled

PLAIN: dict[str, Any] = {"epochs": 2, "batch_size": 18, "learning_rate": 0.01, "clip_norm": 1.0, "weight_decay": 1e-2}
CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "ema": 0.9, "patience": 3},
    "adamw": {"optimizer": "adamw"},
    "mixed": {"optimizer": "sgd", "mixed_precision": True},
    "projected": {"optimizer": "sgd", "clip_norm": 0.0},
    "statistics": {"optimizer": "sgd", "learning_rate": 1e-4},  # so that the layer before stays nearly as it is
    "fixed": {"optimizer": "sgd"},
    "undivided": {"optimizer": "sgd", "clip_norm": 0.0},
}


@dataclass(frozen=True)
class Projected:
    """Squared error of a projection, trained beside the network, of what its layer "hidden" gives."""

    project: Any
    whole: bool = False  # refuse a part of a batch
    taps: Sequence[str] = ("hidden",)
    needs_labels: bool = False

    @property
    def layers(self) -> Sequence[Any]:
        return [self.project]

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any:
        if self.whole and x[0].shape[0] == PLAIN["batch_size"] // 2:
            raise ValueError("half a batch")
        return tensorflow().reduce_mean((self.project(taps["hidden"]) - x[0][:, :5]) ** 2)


def network(case: str) -> Any:
    keras().utils.set_random_seed(3)
    L = keras().layers
    node = keras().Input((6,), batch_size=18 if case == "fixed" else None, name="x")
    x = L.Dense(12, activation="relu", name="hidden")(node)
    if case == "statistics":
        x = L.Dropout(0.3)(L.BatchNormalization(momentum=0.5, name="norm")(x))
    net = keras().Model(node, L.Dense(3, activation="softmax", name="head")(x), name="net")
    kernel = net.get_layer("hidden").kernel
    kernel.assign(np.where(np.abs(kernel.numpy()) < 0.2, 0, kernel.numpy()))  # which training is to keep
    return net


def data() -> Dataset:
    rng = np.random.default_rng(0)
    split = Split({"x": rng.normal(size=(90, 6)).astype(np.float32)}, rng.integers(0, 3, 90))
    return Dataset(split, split, split, metric="accuracy")


def run(case: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    """The network and the record of a case; labels, unless the case has an objective of its own."""
    objective: Any = Labelled(0, "probabilities", True)
    if case in ("projected", "undivided"):
        layer = keras().layers.Dense(5, name="project", kernel_initializer=keras().initializers.GlorotUniform(1))
        objective = Projected(layer, case == "undivided")
    devices.ON_CPU = case == "mixed"
    try:
        return train(network(case), data(), Training(**{**PLAIN, **CASES[case]}), objective, **more)
    finally:
        devices.ON_CPU = False


def resumed(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The case "sgd", stopped after an epoch, as Ctrl-C does, and run again."""

    class Kill(keras().callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    with scratch.using(folder):
        try:
            run("sgd", prepare=lambda net, steps: [Kill()])
        except KeyboardInterrupt:
            return run("sgd")
    raise AssertionError("it was not stopped")


def main(count: int, folder: Path) -> None:
    config = tensorflow().config
    logical = [config.LogicalDeviceConfiguration()] * count
    config.set_logical_device_configuration(config.list_physical_devices("CPU")[0], logical)
    found = {name: run(name) for name in CASES} | {"resumed": resumed(folder / "scratch")}
    for name, (net, record) in found.items():
        np.savez(folder / f"{name}.npz", **{f"w{i:02}": w for i, w in enumerate(net.get_weights())})
        told = {**record, "kinds": sorted({type(v.value).__name__ for v in net.variables})}
        (folder / f"{name}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
