"""Costs as functions of channel counts, held to what the shrunken network really has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.macs import layers_of, volume
from edgedl.stages.channels.choose import mask_of
from edgedl.stages.channels.cost import Polynomial, saving
from edgedl.stages.channels.graph import channel_graph
from edgedl.stages.channels.shrink import shrink

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Zoo = Callable[[str], tuple[Any, Any, Any]]
NAMES = ("cnn", "resnet", "dscnn", "unet", "nested", "shared", "generator", "multi_io")


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_those_of_the_smaller_network(zoo: Zoo, name: str) -> None:
    """Exactly: MACs by macs.layers_of, parameters by Keras."""
    graph = channel_graph(zoo(name)[0])
    rng = np.random.default_rng(3)
    full = np.array([len(g) for g in graph.prunable])
    counts = np.array([rng.integers(1, n + 1) for n in full])
    net = shrink(graph, mask_of(graph, rng.random(len(graph.units.parent)), counts))
    for kept, network in ((full, graph.net), (counts, net)):
        assert Polynomial(graph, "macs").parts(kept).sum() == sum(row.macs for row in layers_of(network))
        assert Polynomial(graph, "params").parts(kept).sum() == network.count_params()


def test_memory_is_that_of_all_activations(zoo: Zoo) -> None:
    graph = channel_graph(zoo("cnn")[0])
    full = np.array([len(g) for g in graph.prunable])
    layers = [op for op in graph.net.layers if type(op).__name__ != "InputLayer"]
    elements = sum(volume(tuple(layer.output.shape)) for layer in layers)
    assert Polynomial(graph, "memory").parts(full).sum() == 4 * elements


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_saving_is_the_difference_of_two_totals(zoo: Zoo, data: st.DataObject) -> None:
    """Only the parts that a group touches are looked at; the others must not change."""
    graph = channel_graph(zoo(data.draw(st.sampled_from(("resnet", "unet", "dscnn"))))[0])
    cost = Polynomial(graph, data.draw(st.sampled_from(("macs", "params", "memory"))))
    counts = np.array([data.draw(st.integers(2, len(g))) for g in graph.prunable])
    group = data.draw(st.integers(0, len(counts) - 1))
    step = data.draw(st.integers(1, int(counts[group]) - 1))
    after = counts.copy()
    after[group] -= step
    assert saving(cost, counts, group, step) == pytest.approx(cost.parts(counts).sum() - cost.parts(after).sum())
    assert saving(cost, counts, group, step) > 0
