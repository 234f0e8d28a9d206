"""How long pruning takes without any training: ResNet-20, a residual network of 500 layers, MobileNetV2; wall and CPU time.

EDGEDL_ASSETS=... python benchmarks/pruning_time.py [NAME ...]

Each network is pruned to half of its multiply-accumulates, first by Taylor, then by the default criterion, on 512 images of
CIFAR-10. CPU time is that of all threads: on a machine that others use, it says more than the wall.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow
from pruning import model_and_data

GOALS = {"resnet20": 10.0, "500 layers": 60.0, "mobilenetv2": 60.0}
DEPTH = 24  # residual blocks a stage: 3 stages of them make 500 layers


def deep_resnet() -> Any:
    """A ResNet of He et al. (2016) for 32x32 images, 16 to 64 channels, with random weights."""
    from edgedl.frameworks import deep, keras

    k = keras()
    k.utils.set_random_seed(0)

    def conv(x: Any, filters: int, stride: int = 1) -> Any:
        x = k.layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        return k.layers.BatchNormalization()(x)

    with deep():
        image = k.Input((32, 32, 3), name="image")
        x = k.layers.ReLU()(conv(image, 16))
        for filters in (16, 32, 64):
            for _ in range(DEPTH):
                stride = 1 if x.shape[-1] == filters else 2
                shortcut = x if stride == 1 else conv(x, filters, stride)
                y = conv(k.layers.ReLU()(conv(x, filters, stride)), filters)
                x = k.layers.ReLU()(k.layers.Add()([y, shortcut]))
        x = k.layers.GlobalAveragePooling2D()(x)
        return k.Model(image, k.layers.Dense(10, activation="softmax")(x), name="deep")


def mobilenet() -> Any:
    """MobileNetV2 (Sandler et al., 2018) for 32x32 images, 10 classes, with random weights."""
    from edgedl.frameworks import keras

    k = keras()
    k.utils.set_random_seed(0)
    return k.applications.MobileNetV2(input_shape=(32, 32, 3), weights=None, classes=10)


def adapted(net: Any) -> tuple[Any, Any]:
    """A network as stages take it, and images for it."""
    from edgedl.artifact import TensorSpec
    from edgedl.data import Dataset, Split
    from edgedl.model import Model

    (tensor,) = net.inputs
    inputs, outputs = (
        tuple(TensorSpec(t.name, tuple(t.shape), str(t.dtype)) for t in tensors)
        for tensors in (net.inputs, net.outputs)
    )
    with np.load(assets() / "datasets/cifar10_jpeg/train_6000.npz") as file:
        x, y = file["x"][:1000].astype(np.float32) / 255, file["y"][:1000].astype(np.int64)
    split = Split({tensor.name: x}, y)
    return Model(net, inputs, outputs), Dataset(split, split, split, metric="accuracy")


def timed(name: str, model: Any, data: Any, criterion: str | None) -> None:
    """Prune once and print both times."""
    from edgedl.macs import layers_of
    from edgedl.stages.prune_channels import PruneChannels

    options: dict[str, Any] = {"criterion": criterion} if criterion else {}
    stage = PruneChannels(ratio=0.5, **options)
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    small = stage(model, data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    before, after = (sum(r.macs for r in layers_of(m.net)) for m in (model, small))
    what = f"{name} ({len(model.net.layers)} layers), {stage.criterion}, {before / after:.2f} x"
    figure(what, f"{wall:.1f} s (CPU {cpu:.1f})", f"<= {GOALS[name]:g} s", wall <= GOALS[name] and after * 2 <= before)


MADE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "resnet20": model_and_data,
    "500 layers": lambda: adapted(deep_resnet()),
    "mobilenetv2": lambda: adapted(mobilenet()),
}


def main(wanted: list[str]) -> None:
    """A line a network and criterion."""
    quiet_tensorflow()
    for name, make in MADE.items():
        if not wanted or name in wanted:
            model, data = make()
            for criterion in ("taylor", None):
                timed(name, model, data, criterion)


if __name__ == "__main__":
    main(sys.argv[1:])
