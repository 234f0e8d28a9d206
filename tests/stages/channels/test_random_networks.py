"""Random networks of every kind of layer: what can go goes exactly, anything else still gives a network that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgedl.frameworks import keras
from edgedl.stages.channels.graph import channel_graph
from edgedl.stages.channels.shrink import shrink

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Block = Callable[[Any, int], Any]  # a tensor and a width, twice which is what most layers have
TANH = {"activation": "tanh"}


def width(x: Any) -> int:
    return int(x.shape[-1])


def even(x: Any) -> Any:
    """An even number of channels."""
    return x if width(x) % 2 == 0 else x[..., 1:] if width(x) > 1 else keras().ops.repeat(x, 2, axis=-1)


def residual(make: Callable[[Any, int], Any]) -> Block:
    """What `make` gives for as many channels, added."""
    return lambda x, n: keras().layers.Add()([x, make(x, width(x))])


def excited(x: Any, n: int) -> Any:
    L = keras().layers
    gate = L.Dense(width(x), activation="sigmoid")(L.Dense(n, activation="relu")(L.GlobalAveragePooling2D()(x)))
    return L.Multiply()([x, L.Reshape((1, 1, width(x)))(gate)])


def shuffled(x: Any, n: int) -> Any:
    L, x = keras().layers, even(x)
    rows, columns, c = (int(s) for s in x.shape[1:])
    return L.Reshape((rows, columns, c))(L.Permute((1, 2, 4, 3))(L.Reshape((rows, columns, 2, c // 2))(x)))


def crossed(x: Any, n: int) -> Any:
    one, two = keras().ops.split(even(x), 2, axis=-1)
    return keras().ops.concatenate([two, keras().ops.relu(one), two], axis=-1)


def grouped(x: Any, n: int) -> Any:
    return keras().layers.Conv2D(4 * n, 3, padding="same", groups=2, activation="sigmoid")(even(x))


def twice(x: Any, n: int) -> Any:
    """A model inside, called on two tensors of the same width."""
    L, inner = keras().layers, keras().Input((None, None, width(x)))
    block = keras().Model(inner, L.ReLU()(L.BatchNormalization()(L.Conv2D(2 * n, 1)(inner))))
    return L.Add()([block(x), block(keras().ops.flip(x, axis=1))])


def flipped(x: Any, n: int) -> Any:
    return keras().ops.flip(keras().ops.take(x, np.arange(width(x))[::-1].astype(np.int32), axis=-1), axis=1)


def scaled(x: Any, n: int) -> Any:
    return keras().ops.multiply(x, np.linspace(0.5, 1.5, width(x)).astype(np.float32))


def padded(x: Any, n: int) -> Any:
    return keras().ops.pad(x, [(0, 0)] * (len(x.shape) - 1) + [(1, n)])


MAPS: dict[str, Block] = {
    "conv": lambda x, n: keras().layers.Conv2D(2 * n, 3, padding="same", **TANH)(x),
    "grouped": grouped,
    "depthwise": lambda x, n: keras().layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + n % 2, **TANH)(x),
    "separable": lambda x, n: keras().layers.SeparableConv2D(2 * n, 3, padding="same", **TANH)(x),
    "transposed": lambda x, n: keras().layers.Conv2DTranspose(2 * n, 3, padding="same", **TANH)(x),
    "normalized": lambda x, n: keras().layers.ReLU()(keras().layers.BatchNormalization()(x)),
    "instance": lambda x, n: keras().layers.GroupNormalization(-1)(x),
    "layer_norm": lambda x, n: keras().layers.LayerNormalization()(x),
    "group_norm": lambda x, n: keras().layers.GroupNormalization(2)(even(x)),
    "prelu": lambda x, n: keras().layers.PReLU(shared_axes=[1, 2])(x),
    "residual": residual(lambda x, n: keras().layers.Conv2D(n, 3, padding="same", activation="relu")(x)),
    "dense_block": lambda x, n: keras().layers.Concatenate()([x, keras().layers.Conv2D(2 * n, 1, **TANH)(x)]),
    "excited": excited,
    "shuffled": shuffled,
    "crossed": crossed,
    "twice": twice,
    "flipped": flipped,
    "scaled": scaled,
    "padded": padded,
    "block": lambda x, n: keras().ops.space_to_depth(keras().layers.UpSampling2D()(x), 2),
}


def attended(x: Any, n: int) -> Any:
    L = keras().layers
    return L.Add()([x, L.MultiHeadAttention(2, 2 * n, value_dim=n + 1)(x, x)])


def queried(x: Any, n: int) -> Any:
    L = keras().layers
    return L.Add()([x, L.GroupQueryAttention(2 * n, 4, 2)(x, x)])


def mixed_places(x: Any, n: int) -> Any:
    L = keras().layers
    return L.Permute((2, 1))(L.Dense(int(x.shape[1]), **TANH)(L.Dense(2 * n, **TANH)(L.Permute((2, 1))(x))))


SEQUENCES: dict[str, Block] = {
    "dense": lambda x, n: keras().layers.Dense(2 * n, **TANH)(x),
    "conv": lambda x, n: keras().layers.Conv1D(2 * n, 3, padding="same", **TANH)(x),
    "lstm": lambda x, n: keras().layers.LSTM(2 * n, return_sequences=True)(x),
    "gru": lambda x, n: keras().layers.GRU(2 * n, return_sequences=True, reset_after=n % 2 == 0)(x),
    "both_ways": lambda x, n: keras().layers.Bidirectional(keras().layers.GRU(2 * n, return_sequences=True))(x),
    "cells": lambda x, n: keras().layers.RNN([keras().layers.LSTMCell(2 * n), keras().layers.SimpleRNNCell(n + 1)],
                                             return_sequences=True)(x),
    "each": lambda x, n: keras().layers.TimeDistributed(keras().layers.Dense(2 * n, **TANH))(x),
    "equation": lambda x, n: keras().layers.EinsumDense("abc,cd->abd", (x.shape[1], 2 * n))(x),
    "residual": residual(lambda x, n: keras().layers.Dense(n)(keras().layers.Dense(2 * n, activation="gelu")(x))),
    "layer_norm": lambda x, n: keras().layers.LayerNormalization()(x),
    "attended": attended,
    "queried": queried,
    "mixed_places": mixed_places,
    "scaled": scaled,
    "padded": padded,
    "crossed": crossed,
}  # fmt: skip

HEADS: dict[str, Callable[[Any], Any]] = {
    "flat": lambda x: keras().layers.Flatten()(x),
    "mean": lambda x: keras().ops.mean(x, axis=tuple(range(1, len(x.shape) - 1))),
    "largest": lambda x: keras().ops.max(x, axis=tuple(range(1, len(x.shape) - 1))),
}

Recipe = tuple[str, list[tuple[str, int]], list[str]]


def _recipes() -> st.SearchStrategy[Recipe]:
    def of(kind: str, blocks: dict[str, Block]) -> st.SearchStrategy[Recipe]:
        chosen = st.lists(st.tuples(st.sampled_from(sorted(blocks)), st.integers(2, 4)), min_size=2, max_size=5)
        return st.tuples(st.just(kind), chosen, st.lists(st.sampled_from(sorted(HEADS)), min_size=1, max_size=2))

    return of("map", MAPS) | of("sequence", SEQUENCES)


def build(recipe: Recipe) -> Any:
    """The network of a recipe: a first layer, the blocks, one output for each head."""
    kind, blocks, heads = recipe
    L = keras().layers
    start = keras().Input((6, 6, 3) if kind == "map" else (5, 4))
    x = (L.Conv2D(6, 3, padding="same", **TANH) if kind == "map" else L.Dense(6, **TANH))(start)
    for name, n in blocks:
        x = (MAPS if kind == "map" else SEQUENCES)[name](x, n)
    return keras().Model(start, [L.Dense(3)(L.Dense(4, **TANH)(HEADS[head](x))) for head in heads])


QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
BRIEF = [Phase.explicit, Phase.reuse, Phase.generate]  # a failure is told as it was found: recipes are short


@settings(max_examples=25, deadline=None, suppress_health_check=QUIET, phases=BRIEF)
@given(_recipes(), st.integers(0, 99))
def test_channels_without_a_reader_leave_no_trace(exact: Callable[..., Any], recipe: Recipe, seed: int) -> None:
    exact(build(recipe), seed)


@settings(max_examples=12, deadline=None, suppress_health_check=QUIET, phases=BRIEF)
@given(_recipes(), st.integers(0, 99))
def test_any_mask_gives_a_network_that_runs_and_is_saved(
    costs: Callable[..., None], tmp_path: Path, recipe: Recipe, seed: int
) -> None:
    net, rng = build(recipe), np.random.default_rng(seed)
    graph = channel_graph(net)
    assert not graph.left_alone
    keep = graph.everything()
    for group in graph.prunable:
        keep[rng.choice(group.channels, int(rng.integers(0, len(group))), replace=False)] = False
    small = shrink(graph, keep)
    costs(graph, graph.everything(), net)
    costs(graph, keep, small)
    small.save(tmp_path / "small.keras")
    again = keras().models.load_model(tmp_path / "small.keras", compile=False)
    x = rng.normal(size=(2, *net.inputs[0].shape[1:])).astype(np.float32)
    for one, other, old in zip(*(m(x, training=False) for m in (small, again, net)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert one.shape == old.shape
        assert np.isfinite(one).all()
