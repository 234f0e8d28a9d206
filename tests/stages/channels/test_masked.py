"""Masked: a factor of 0 is the channel gone, and the slope by a factor is that of the weights that read the channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgedl.frameworks import tensorflow
from edgedl.stages.channels.graph import ChannelGraph, channel_graph
from edgedl.stages.channels.masked import Masked
from edgedl.stages.channels.shrink import Mask, shrink, without

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Zoo = Callable[[str], tuple[Any, Any, Any]]
EXACT = ("cnn", "resnet", "dscnn", "generator", "unet", "multi_io", "shared", "nested", "twotower")


def inputs_of(net: Any, x: Any, count: int = 8) -> list[Any]:
    return [x[t.name][:count] for t in net.inputs] if isinstance(x, dict) else [x[:count]]


def some(graph: ChannelGraph, seed: int) -> Mask:
    rng = np.random.default_rng(seed)
    return without(graph, [u for g in graph.prunable for u in rng.choice(g.channels, len(g) // 2, replace=False)])


def flat(outputs: Any) -> list[Any]:
    return [np.asarray(o) for o in (outputs if isinstance(outputs, list | tuple) else [outputs])]


@pytest.mark.parametrize("name", EXACT)
def test_a_mask_computes_what_the_smaller_network_does(zoo: Zoo, name: str) -> None:
    """1e-5 of outputs around 1: the same products, added in another order."""
    net, x, _ = zoo(name)
    graph = channel_graph(net)
    masked, keep, feed = Masked(graph), some(graph, 1), inputs_of(net, x)
    assert len(masked)
    assert masked.covered().all()
    whole, _ = masked(feed, tensorflow().ones((1, len(masked))))
    for a, b in zip(whole, flat(net(feed if len(feed) > 1 else feed[0])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    rows = np.repeat(keep[masked.units].astype(np.float32)[None], len(feed[0]), axis=0)
    small = shrink(graph, keep)
    got, _ = masked(feed, tensorflow().constant(rows))
    for a, b in zip(got, flat(small(feed if len(feed) > 1 else feed[0])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_each_sample_has_its_own_factors(zoo: Zoo) -> None:
    net, x, _ = zoo("dscnn")
    graph = channel_graph(net)
    masked, feed = Masked(graph), inputs_of(net, x, 2)
    rows = np.stack([some(graph, i)[masked.units] for i in (1, 2)]).astype(np.float32)
    both, _ = masked(feed, tensorflow().constant(rows))
    for i in range(2):
        alone, _ = masked([f[i : i + 1] for f in feed], tensorflow().constant(rows[i : i + 1]))
        np.testing.assert_allclose(both[0][i], alone[0][0], atol=1e-5)


def test_outputs_of_layers_can_be_tapped(zoo: Zoo) -> None:
    net, x, _ = zoo("cnn")
    masked = Masked(channel_graph(net))
    layer = net.layers[1]
    _, taps = masked([x[:4]], tensorflow().ones((1, len(masked))), [layer.name])
    np.testing.assert_allclose(taps[layer.name], layer(x[:4]), atol=1e-6)
