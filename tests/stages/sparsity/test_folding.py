"""Folding BatchNormalization: the same outputs, and only where the layer before it is linear and read by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedl.stages.sparsity.folding import fold

pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")


def _randomised(net: Any) -> Any:
    from edgedl.frameworks import keras

    rng = np.random.default_rng(0)
    for layer in net._flatten_layers():
        if isinstance(layer, keras().layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return net


def _same(net: Any, copy: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = net.predict(x, verbose=0)
    np.testing.assert_allclose(copy.predict(x, verbose=0), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_every_kind_of_layer_before_it() -> None:
    from edgedl.frameworks import keras

    L = keras().layers
    image = keras().Input((8, 8, 3))
    x = L.BatchNormalization(name="a")(L.Conv2D(6, 3)(image))
    x = L.BatchNormalization(name="b", scale=False)(L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x))
    x = L.BatchNormalization(name="c", center=False)(L.Conv2DTranspose(5, 2)(x))
    x = L.BatchNormalization(name="d")(L.SeparableConv2D(7, 2)(x))
    x = L.BatchNormalization(name="e")(L.Dense(4, use_bias=False)(L.Flatten()(x)))
    net = _randomised(keras().Model(image, L.ReLU()(x)))
    copy, count = fold(net)
    assert count == 5
    assert not [layer for layer in copy.layers if isinstance(layer, L.BatchNormalization)]
    _same(net, copy, (3, 8, 8, 3))


def test_inside_a_model_that_is_used_as_a_layer() -> None:
    from edgedl.frameworks import keras

    L = keras().layers
    inner = keras().Sequential(
        [keras().Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()], name="stem"
    )
    image = keras().Input((8, 8, 3))
    net = _randomised(keras().Model(image, L.Flatten()(inner(image))))
    copy, count = fold(net)
    assert count == 1
    _same(net, copy, (2, 8, 8, 3))


def test_what_cannot_be_folded_stays() -> None:
    """An activation between, a second reader, an output, another axis, a layer that is called twice."""
    from edgedl.frameworks import keras

    L = keras().layers
    image = keras().Input((8, 8, 4))
    active = L.BatchNormalization()(L.Conv2D(4, 1, activation="relu")(image))
    read_twice = L.Conv2D(4, 1)(active)
    both = L.Add()([read_twice, L.BatchNormalization()(read_twice)])
    across = L.BatchNormalization(axis=1)(L.Conv2D(4, 1)(both))
    conv = L.Conv2D(4, 1)
    twice = L.BatchNormalization()(conv(conv(across)))
    net = _randomised(keras().Model(image, [L.ReLU()(twice), L.BatchNormalization()(L.Conv2D(2, 1)(twice))]))
    copy, count = fold(net)
    assert count == 0
    assert copy is net


def test_names_of_layers_stay(small: Any) -> None:
    copy, count = fold(small.net)
    assert count == 3
    assert [layer.name for layer in copy.layers if layer.weights] == ["first", "depth", "point", "head"]
    _same(small.net, copy, (4, 8, 8, 3))
