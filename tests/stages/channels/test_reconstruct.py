"""The fit: windows are those of Keras's own convolutions, exact solutions are found, means are made up for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from edgedl.frameworks import keras
from edgedl.stages.channels.graph import channel_graph
from edgedl.stages.channels.reconstruct import fitted_layers, gram_rows, reconstruct
from edgedl.stages.channels.shrink import shrink, without
from edgedl.stages.channels.surgeon import surgeon


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 2, 3]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2),
    st.sampled_from(["same", "valid", "causal"]), st.integers(0, 99),
)  # fmt: skip
def test_windows_give_what_the_convolution_gives(
    rank: int, kernel: int, stride: int, dilation: int, padding: str, seed: int
) -> None:
    if padding == "causal" and rank > 1:
        padding = "same"
    if stride > 1:
        dilation = 1
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *rng.integers(5, 8, rank), 3)).astype(np.float32)
    layer = getattr(keras().layers, f"Conv{rank}D")(4, kernel, stride, padding, dilation_rate=dilation)
    wanted = np.asarray(layer(x)).reshape(-1, 4)
    rows = gram_rows(layer, keras().ops.convert_to_tensor(x))
    assert_allclose(rows @ np.asarray(layer.kernel).reshape(-1, 4), wanted, atol=1e-5)


def net_with_copies(bias: bool) -> Any:
    """A network in which channels 4 to 7 of the first layer are those of 0 to 3, so that any four tell everything."""
    L = keras().layers
    x = keras().Input((8, 8, 3), name="x")
    first = L.Conv2D(8, 3, padding="same", activation="relu", name="first")
    y = L.Conv2D(6, 3, padding="same", use_bias=bias, name="second")(first(x))
    y = L.ReLU()(y if bias else L.BatchNormalization()(y))
    net = keras().Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
    kernel = np.asarray(first.kernel)
    kernel[..., 4:] = kernel[..., :4]
    first.kernel.assign(kernel)
    return net


@pytest.mark.parametrize("bias", [True, False])
def test_what_others_tell_is_made_up_for(bias: bool) -> None:
    net = net_with_copies(bias)
    x = np.random.default_rng(1).normal(size=(32, 8, 8, 3)).astype(np.float32)
    graph = channel_graph(net)
    group = next(g for g in graph.prunable if g.name == "first")
    keep = without(graph, group.channels[4:])
    small = shrink(graph, keep)
    assert fitted_layers(graph, keep) == {"second"}
    before = np.abs(np.asarray(small(x)) - np.asarray(net(x))).max()
    errors = reconstruct(graph, keep, small, [x])
    after = np.abs(np.asarray(small(x)) - np.asarray(net(x))).max()
    assert errors["second"][1] < 1e-5 < errors["second"][0]
    assert after < 5e-3 * before, "the ridge of 1e-3 keeps it from being exact"


def test_the_mean_moves_with_the_normalization() -> None:
    """A constant that a removed channel carried is not lost where the layer after it has no bias."""
    L = keras().layers
    x = keras().Input((4, 4, 2), name="x")
    first = L.Conv2D(3, 1, name="first")
    y = L.BatchNormalization(name="bn")(L.Conv2D(5, 1, use_bias=False, name="second")(first(x)))
    net = keras().Model(x, L.Dense(2)(L.Flatten()(L.ReLU()(y))))
    kernel = np.asarray(first.kernel)
    kernel[..., 2] = 0
    first.kernel.assign(kernel)
    first.bias.assign([0, 0, 3])
    data = np.random.default_rng(2).normal(size=(64, 4, 4, 2)).astype(np.float32)
    graph = channel_graph(net)
    group = next(g for g in graph.prunable if g.name == "first")
    keep = without(graph, group.channels[2:])
    small = shrink(graph, keep)
    reconstruct(graph, keep, small, [data])
    assert_allclose(np.asarray(small(data)), np.asarray(net(data)), atol=2e-3)


def test_a_network_that_insists_on_its_batch_is_fitted() -> None:
    L = keras().layers
    keras().utils.set_random_seed(0)
    given = keras().Input(batch_shape=(12, 6, 6, 3), name="x")
    net = keras().Model(given, L.Conv2D(4, 1, name="second")(L.Conv2D(8, 3, name="first")(given)))
    data = np.random.default_rng(0).normal(size=(7, 6, 6, 3)).astype(np.float32)  # fewer than one batch
    graph = channel_graph(net)
    keep = without(graph, next(g for g in graph.prunable if g.name == "first").channels[:2])
    errors = reconstruct(graph, keep, shrink(graph, keep), [data])["second"]
    assert errors[1] < errors[0]


def test_surgeon_takes_a_copy_first_and_says_it_costs_nothing() -> None:
    net = net_with_copies(True)
    x = np.random.default_rng(3).normal(size=(32, 8, 8, 3)).astype(np.float32)
    graph = channel_graph(net)
    scores = surgeon(graph, [x])
    group = next(g for g in graph.prunable if g.name == "first")
    costs = np.sort(scores[group.channels])
    assert costs[3] < 1e-2 * costs[4], "four of the eight are copies"
