"""fading(): channels that are to go end small, and the cut then changes little, where a cut at once changes a lot."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl import scratch
from edgedl.data import Dataset, Split
from edgedl.errors import UsageError
from edgedl.stages.channels.choose import choose
from edgedl.stages.channels.cost import Polynomial
from edgedl.stages.channels.criteria import score
from edgedl.stages.channels.graph import ChannelGraph, channel_graph
from edgedl.stages.channels.progressive import fading, fading_weights, rate, strength
from edgedl.stages.channels.shrink import Mask, shrink
from edgedl.stages.training.checkpoint import checkpoint
from edgedl.stages.training.loop import train
from edgedl.stages.training.options import Training
from edgedl.stages.training.task import Labelled, kinds

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Zoo = Callable[[str], tuple[Any, Any, Any]]


def halved(zoo: Zoo, name: str) -> tuple[ChannelGraph, Mask, Dataset, Any, Any]:
    net, x, y = zoo(name)
    data = Dataset(Split({net.inputs[0].name: x[:400]}, y[:400]), Split({net.inputs[0].name: x[400:]}, y[400:]))
    graph = channel_graph(net)
    cost = Polynomial(graph, "macs")
    half = cost.parts(np.array([len(g) for g in graph.prunable])).sum() / 2
    keep = choose(graph, score(graph, "l2"), cost, half, ranking="per-layer")
    return graph, keep, data, x[400:], y[400:]


@pytest.mark.parametrize(("name", "optimizer"), [("resnet", "sgd"), ("cnn", "adam")])
def test_the_cut_after_fading_loses_next_to_nothing(zoo: Zoo, name: str, optimizer: Any) -> None:
    graph, keep, data, x, y = halved(zoo, name)
    net = graph.net
    objective = Labelled(0, kinds(net)[0], True)
    options = Training(epochs=5, optimizer=optimizer, reestimate=0)
    before = net.get_weights()
    trained, _ = train(net, data, options, objective, prepare=fading(graph, keep))
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True)), "the original is changed"
    assert strength(fading_weights(graph, keep, trained)) < 0.02 * strength(fading_weights(graph, keep, net))

    again = channel_graph(trained)
    assert np.array_equal(again.units.parent, graph.units.parent), "units are numbered by the structure alone"
    at_once = np.abs(shrink(graph, keep).predict(x, verbose=0) - net.predict(x, verbose=0)).max()
    faded = np.abs(shrink(again, keep).predict(x, verbose=0) - trained.predict(x, verbose=0)).max()
    assert at_once > 0.3, "a cut at once must cost something for this test to mean anything"
    assert faded < 0.02
    accuracy = np.mean(shrink(again, keep).predict(x, verbose=0).argmax(-1) == y)
    assert accuracy > np.mean(shrink(graph, keep).predict(x, verbose=0).argmax(-1) == y)


def test_only_weights_of_channels_that_go_fade(zoo: Zoo) -> None:
    """Every entry that fades is one that the cut takes away, and the other way round, statistics aside."""
    graph, keep, *_ = halved(zoo, "resnet")
    small = shrink(graph, keep)
    entries = [sum(int(np.prod(w.shape)) for w in net.trainable_weights) for net in (graph.net, small)]
    assert sum(int(going.sum()) for _, going in fading_weights(graph, keep, graph.net)) == entries[0] - entries[1] > 0


def test_a_checkpoint_of_other_channels_is_not_gone_on_with(zoo: Zoo, tmp_path: Path) -> None:
    graph, keep, data, *_ = halved(zoo, "cnn")
    other = np.asarray(keep).copy()
    channels = graph.prunable[0].channels
    other[channels] = np.roll(other[channels], 1)
    options, objective = Training(epochs=1), Labelled(0, kinds(graph.net)[0], True)
    with scratch.using(tmp_path):
        places = [checkpoint(graph.net, data, options, objective, fading(graph, k)) for k in (keep, keep, other)]
    first, same, other_path = [place.path for place in places if place is not None]
    assert first == same != other_path


def test_the_strength_grows_and_multiplies_to_what_is_left() -> None:
    factors = [rate(i, 50, 1e-3) for i in range(50)]
    assert np.prod(factors) == pytest.approx(1e-3)
    assert all(b < a < 1 for a, b in pairwise(factors))


@pytest.mark.parametrize("left", [0.0, 1.0, -1.0, float("nan")])
def test_silly_shares_are_told(zoo: Zoo, left: float) -> None:
    graph, keep, *_ = halved(zoo, "cnn")
    with pytest.raises(UsageError, match="cannot be left"):
        fading(graph, keep, left=left)
