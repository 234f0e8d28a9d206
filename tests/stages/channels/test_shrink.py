"""Networks of every kind with half of their channels: costs as foretold, saved and loaded, the given network unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.errors import UsageError
from edgedl.frameworks import keras
from edgedl.stages.channels.graph import channel_graph, describe
from edgedl.stages.channels.shrink import shrink, without
from edgedl.stages.rebuilding import clone, weighted

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

ZOO = (
    "cnn", "resnet", "dscnn", "lstm", "gru", "transformer", "generator", "twotower", "unet", "multi_io", "shared",
    "nested",
)  # fmt: skip
Halved = Callable[[str], tuple[Any, Any, Any, Any]]


def run(net: Any) -> list[Any]:
    """The outputs for inputs of ones, flat."""
    inputs = [np.ones((2, *t.shape[1:]), t.dtype) for t in net.inputs]
    return [np.asarray(t) for t in keras().tree.flatten(net(inputs if len(inputs) > 1 else inputs[0], training=False))]


@pytest.mark.parametrize("name", ZOO)
def test_half_of_the_channels(name: str, halved: Halved, costs: Callable[..., None], tmp_path: Path) -> None:
    net, graph, keep, small = halved(name)
    assert not graph.left_alone
    costs(graph, graph.everything(), net)
    costs(graph, keep, small)
    assert [tuple(t.shape) for t in small.inputs + small.outputs] == [tuple(t.shape) for t in net.inputs + net.outputs]
    assert small.output_names == net.output_names
    assert {path: type(op) for path, op in weighted(small).items()} == {
        path: type(op) for path, op in weighted(net).items()
    }
    small.save(tmp_path / "small.keras")
    again = keras().models.load_model(tmp_path / "small.keras", compile=False)
    for found, expected in zip(run(again), run(small), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet", "transformer", "nested"])
def test_the_given_network_is_unchanged(name: str, halved: Halved) -> None:
    net = clone(halved(name)[0])
    weights, config, expected = [w.copy() for w in net.get_weights()], net.get_config(), run(net)
    graph = channel_graph(net)
    shrink(graph, without(graph, (int(g.channels[0]) for g in graph.prunable)))
    assert net.get_config() == config
    for found, wanted in zip([*net.get_weights(), *run(net)], [*weights, *expected], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_everything_kept_is_the_same_network(halved: Halved) -> None:
    net, graph, _, _ = halved("transformer")
    for found, expected in zip(run(shrink(graph, graph.everything())), run(net), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_trainable_flags_stay(halved: Halved) -> None:
    net = clone(halved("resnet")[0])
    net.layers[1].trainable = False
    graph = channel_graph(net)
    small = shrink(graph, without(graph, [int(graph.prunable[0].channels[0])]))
    assert [layer.trainable for layer in small.layers] == [layer.trainable for layer in net.layers]


def test_outputs_cannot_be_removed(halved: Halved) -> None:
    _, graph, _, _ = halved("multi_io")
    last = next(g for g in graph.groups if g.name == "amount")
    with pytest.raises(UsageError, match="channels of amount cannot be removed: it is an output of the network"):
        shrink(graph, without(graph, [int(last.channels[0])]))


def test_a_layer_keeps_at_least_one_channel(halved: Halved) -> None:
    _, graph, _, _ = halved("cnn")
    group = graph.prunable[0]
    with pytest.raises(UsageError, match=f"all channels of {group.name} would be removed"):
        shrink(graph, without(graph, group.channels))


def test_groups_are_described(halved: Halved) -> None:
    _, graph, _, _ = halved("resnet")
    found = describe(graph)
    stem = found[0]
    assert stem["channels"] == 8
    assert {"conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "batch_normalization"} <= set(stem["layers"])
    assert (stem["mixed"], stem["frozen"]) == (False, "")
    assert found[-1]["name"] == "dense"
    assert "softmax" in found[-1]["frozen"]


def test_layer_normalization_mixes_its_channels(halved: Halved) -> None:
    _, graph, _, _ = halved("transformer")
    mixed = {g.name: g.mixed for g in graph.groups}
    assert mixed["conv1d"]
    assert not mixed["multi_head_attention"]


def test_a_dead_end_of_the_network_is_told_apart() -> None:
    """Sections of one layer that go different ways are groups of their own."""
    L, k = keras().layers, keras()
    start = k.Input((8, 8, 3))
    x = L.Conv2D(6, 3, name="both")(start)
    left, right = k.ops.split(x, [4], axis=-1)
    net = k.Model(start, [L.Conv2D(2, 1)(left), L.Conv2D(2, 1)(right)])
    assert sorted(len(g) for g in channel_graph(net).prunable) == [2, 4]
