"""`exact`: removing channels whose outgoing weights are zero leaves the outputs as they are, to 1e-5."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Of each weight the axes along which the layer reads: an entry that is zero there takes nothing from its channel.
READS = {
    "Dense": {"kernel": (0,)},
    **{f"Conv{n}D": {"kernel": (-2,)} for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": {"kernel": (-1,)} for n in (1, 2, 3)},
    **{f"SeparableConv{n}D": {"pointwise_kernel": (-2,)} for n in (1, 2)},
    **{
        name: {"kernel": (0,), "recurrent_kernel": (0,)}
        for name in ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional")
    },
    **{f"ConvLSTM{n}D": {"kernel": (-2,), "recurrent_kernel": (-2,)} for n in (1, 2, 3)},
}


@pytest.fixture(scope="session")
def exact() -> Callable[..., Any]:
    """`exact(net, seed=0)` -> the smaller network, after comparing it with `net` on random inputs.

    Random weights; of every prunable group without a shared statistic a random half goes, its outgoing weights zero. Where
    two tensors are multiplied (`products`: how the names of layers begin that make them) also what makes them is zero.
    """
    pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")
    return _exact


@pytest.fixture(scope="session")
def followed(exact: Callable[..., Any]) -> Callable[..., None]:
    """`followed(net, "a b")`: the rules understand the network, leave channels of the layers `a` and `b` prunable, count
    its costs exactly before and after, and lose nothing."""
    from edgedl.stages.channels.graph import channel_graph, describe

    def check(net: Any, free: str, products: tuple[str, ...] = ()) -> None:
        graph = channel_graph(net)
        assert not graph.left_alone
        assert set(free.split()) <= {s.path for g in graph.prunable for s in g.sites}, describe(graph)
        assert_costs(graph, graph.everything(), net)
        if any(not group.mixed for group in graph.prunable):
            small = exact(net, products=products)
            after = channel_graph(small)
            assert_costs(after, after.everything(), small)

    return check


@pytest.fixture(scope="session")
def costs() -> Callable[[Any, Any, Any], None]:
    """`costs(graph, keep, net)`: the terms of a graph under a mask are what `net` is counted to cost, exactly."""
    return assert_costs


def assert_costs(graph: Any, keep: Any, net: Any) -> None:
    """Compare multiply-accumulates and parameters."""
    from edgedl.macs import layers_of

    total = {"macs": 0.0, "params": 0.0, "memory": 0.0}
    for term in graph.terms:
        total[term.kind] += term.coefficient * np.prod([graph.kept(keep, axis).sum() for axis in term.axes])
    rows = layers_of(net)
    assert (total["macs"], total["params"]) == (sum(r.macs for r in rows), sum(r.parameters for r in rows))


def _exact(net: Any, seed: int = 0, products: tuple[str, ...] = (), lengths: int = 5) -> Any:
    from edgedl.stages.channels.graph import channel_graph
    from edgedl.stages.channels.shrink import shrink
    from edgedl.stages.rebuilding import weighted

    rng = np.random.default_rng(seed)
    randomize(net, rng)
    graph, layers = channel_graph(net), weighted(net)
    keep = graph.everything()
    for group in graph.prunable:
        if group.mixed:
            continue
        gone = rng.choice(group.channels, int(rng.integers(1, len(group))), replace=False)
        keep[gone] = False
        everything = any(site.path.rpartition("/")[2].startswith(products) for site in group.sites)
        for site in group.sites:
            silence(layers[site.path], site, ~keep[graph.units.roots(site.ids)], everything=everything)
    before = [w.copy() for w in net.get_weights()]
    inputs = random_inputs(net, rng, lengths)
    small = shrink(graph, keep)
    assert not keep.all()
    assert small.count_params() < net.count_params()
    for expected, found in zip(outputs(net, inputs), outputs(small, inputs), strict=True):
        assert expected.shape == found.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return small


def randomize(net: Any, rng: np.random.Generator) -> None:
    """Random weights of a size that keeps activations near 1; variances are positive, whole numbers stay."""
    for weight in net.weights:
        if not weight.dtype.startswith("float"):
            continue
        fan = max(int(np.prod(weight.shape[:-1])), 1) if len(weight.shape) > 1 else 4
        values = rng.normal(size=tuple(weight.shape)) / np.sqrt(fan)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)


def silence(layer: Any, site: Any, gone: Any, *, everything: bool) -> None:
    """Zero the entries `gone` along a site, if the layer reads along it, or in any case."""
    weight = layer.weights[site.index]
    inner = getattr(layer, "layer", None) if type(layer).__name__ == "TimeDistributed" else layer
    reads = READS.get(type(inner).__name__)
    known = () if reads is None else reads.get(weight.name, ())
    along = {axis % len(weight.shape) for axis in known}
    if everything or reads is None or site.axis in along:
        if reads is None and not everything and len(weight.shape) < 2:
            return  # scales and offsets of normalization belong to the channel itself
        if type(inner).__name__.startswith(("Depthwise", "Embedding", "PReLU")) and not everything:
            return
        array = weight.numpy()
        array[(slice(None),) * site.axis + (gone,)] = 0
        weight.assign(array)


def random_inputs(net: Any, rng: np.random.Generator, length: int = 5) -> list[Any]:
    """Three examples for each input; open sizes are `length`, whole numbers below 4."""
    found = []
    for tensor in net.inputs:
        shape = (tensor.shape[0] or 3, *(length if n is None else n for n in tensor.shape[1:]))
        whole = not tensor.dtype.startswith("float")
        values = rng.integers(0, 4, shape) if whole else rng.normal(size=shape)
        found.append(values.astype(tensor.dtype))
    return found


def outputs(net: Any, inputs: list[Any]) -> list[Any]:
    """Arrays, flat."""
    import keras

    return [np.asarray(t) for t in keras.tree.flatten(net(inputs if len(inputs) > 1 else inputs[0], training=False))]


@pytest.fixture(scope="session")
def halved() -> Callable[[str], tuple[Any, Any, Any, Any]]:
    """`halved(name)` -> (network of tests/zoo.py as it is made, its graph, a mask without half of every group, what is left)."""
    from edgedl.stages.channels.graph import channel_graph
    from edgedl.stages.channels.shrink import shrink

    spec = importlib.util.spec_from_file_location("edgedl_untrained_zoo", Path(__file__).parents[2] / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._train = lambda model, *args, **options: model  # the weights are random here anyway

    @cache
    def get(name: str) -> tuple[Any, Any, Any, Any]:
        net, rng = module.build(name)[0], np.random.default_rng(1)
        randomize(net, rng)
        graph = channel_graph(net)
        keep = graph.everything()
        for group in graph.prunable:
            keep[rng.choice(group.channels, len(group) // 2, replace=False)] = False
        return net, graph, keep, shrink(graph, keep)

    return get
