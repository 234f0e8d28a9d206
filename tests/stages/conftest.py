"""Fixtures for tests of stages: a small untrained network as a model, and data for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.frameworks import keras
from edgedl.model import Model


def model_of(net: Any) -> Model:
    """A network as a loaded model."""
    inputs, outputs = (
        tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in ts) for ts in (net.inputs, net.outputs)
    )
    return Model(net, inputs, outputs)


@pytest.fixture
def small() -> Model:
    """Convolution, depthwise and pointwise convolution with normalization, dense; 8x8x3 images, 4 classes."""
    pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")
    keras().utils.set_random_seed(0)
    L, rng = keras().layers, np.random.default_rng(0)
    image = keras().Input((8, 8, 3), name="image")
    x = L.ReLU()(L.BatchNormalization(name="norm1")(L.Conv2D(16, 3, name="first")(image)))
    x = L.ReLU()(L.BatchNormalization(name="norm2")(L.DepthwiseConv2D(3, padding="same", name="depth")(x)))
    x = L.ReLU()(L.BatchNormalization(name="norm3")(L.Conv2D(32, 1, use_bias=False, name="point")(x)))
    x = L.GlobalAveragePooling2D()(x)
    net = keras().Model(image, L.Dense(4, activation="softmax", name="head")(x), name="small")
    for layer in net.layers:  # statistics and scales as training leaves them
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return model_of(net)


def dataset(model: Model, count: int = 48, labels: bool = True, seed: int = 0) -> Dataset:
    """Random inputs for a model of one input, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    spec = model.inputs[0]
    x = rng.normal(size=(count, *(d or 4 for d in spec.shape[1:]))).astype(np.float32)
    classes = model.outputs[0].shape[-1] or 2
    scores = x.reshape(count, -1) @ rng.normal(size=(x[0].size, classes))
    split = Split({spec.name: x}, scores.argmax(1) if labels else None)
    names = tuple(map(str, range(classes))) if labels else ()
    return Dataset(split, split, train=split, labels=names, metric="accuracy" if labels else "agreement")


@pytest.fixture
def data_for() -> Callable[..., Dataset]:
    """`data_for(model, count=48, labels=True)`."""
    return dataset


@pytest.fixture
def as_model() -> Callable[[Any], Model]:
    """`as_model(net)`."""
    return model_of
