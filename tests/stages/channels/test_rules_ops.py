"""Operations of keras.ops with a rule, products and attention: as test_rules_layers; and what freezes, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgedl.errors import UsageError
from edgedl.frameworks import keras
from edgedl.stages.channels.graph import channel_graph, describe
from edgedl.stages.channels.shrink import shrink

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Built = tuple[Any, str]  # a network, the names of layers whose channels must be prunable, apart by blanks
CASES: dict[str, Callable[[], Built]] = {}


def case(function: Callable[[], Built]) -> Callable[[], Built]:
    CASES[function.__name__] = function
    return function


def image(*shape: int) -> Any:
    return keras().Input(shape or (8, 8, 3))


def conv(x: Any, name: str, filters: int = 8) -> Any:
    return keras().layers.Conv2D(filters, 3, padding="same", activation="sigmoid", name=name)(x)


def dense(x: Any, name: str, units: int = 6, activation: str = "tanh") -> Any:
    return keras().layers.Dense(units, activation=activation, name=name)(x)


def ended(start: Any, x: Any, free: str) -> Built:
    """A network with a dense layer as its output, after averaging all but the last axis."""
    L, ops = keras().layers, keras().ops
    x = ops.mean(x, axis=tuple(range(1, len(x.shape) - 1))) if len(x.shape) > 2 else x
    return keras().Model(start, L.Dense(3, name="end")(x)), free


@case
def slices() -> Built:
    i = image()
    x = conv(i, "a")
    return ended(i, keras().ops.concatenate([x[..., 3:], x[:, 1:7:2, 2:5, :4][:, :1, :1] * x[:, :, :, -4:]], -1), "a")


@case
def split_and_stacked() -> Built:
    ops, i = keras().ops, image()
    one, two = ops.split(conv(i, "a"), 2, axis=-1)
    three, four = ops.split(conv(i, "b"), [5], axis=-1)
    x = ops.sum(ops.stack([one, two], axis=1), axis=1)
    first, *_ = ops.unstack(ops.stack([x, x * 2], axis=-2), axis=-2)
    return ended(i, ops.concatenate([first, three, ops.relu(four)], axis=-1), "a b")


@case
def padded_shortcut() -> Built:
    """ResNet's shortcut without weights: zeros for the channels that are new."""
    ops, i = keras().ops, image()
    x = conv(i, "a", 4)
    y = ops.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2)))
    return ended(i, ops.relu(ops.add(y, keras().layers.Conv2D(8, 3, 2, padding="same", name="b")(x))), "a b")


@case
def taken_in_order() -> Built:
    ops, i = keras().ops, image()
    x = ops.take(conv(i, "a"), np.array([7, 0, 2, -3, 4]), axis=-1)
    return ended(i, ops.flip(ops.take(x, np.array([1, 3]), axis=1), axis=[1, 3]), "a")


@case
def repeated_and_tiled() -> Built:
    ops, i = keras().ops, image()
    x = ops.tile(ops.repeat(conv(i, "a", 4), 2, axis=-1), (1, 1, 2, 3))
    return ended(i, ops.broadcast_to(ops.mean(x, axis=(1, 2), keepdims=True), (3, 5, 5, 24)), "a")


@case
def blocks_to_places() -> Built:
    ops, i = keras().ops, image()
    x = ops.depth_to_space(conv(i, "a", 12), 2)
    return ended(i, conv(ops.space_to_depth(x, 2), "b"), "a b")


@case
def constants_cut() -> Built:
    """Arrays among the arguments lose the same entries."""
    ops, i = keras().ops, image()
    factors = np.linspace(0.5, 2, 8).astype(np.float32)
    x = ops.add(ops.multiply(conv(i, "a"), factors), np.arange(8, dtype=np.float32))
    x = ops.where(ops.greater(x, factors.reshape(1, 1, 8)), x, ops.minimum(factors, x))
    return ended(i, x, "a")


@case
def moved_axes() -> Built:
    ops, i = keras().ops, image()
    x = ops.swapaxes(ops.moveaxis(conv(i, "a"), -1, 1), 2, 3)
    x = ops.squeeze(ops.expand_dims(ops.transpose(x, (0, 2, 3, 1)), 1), 1)
    return ended(i, ops.image.resize(x, (5, 5)), "a")


@case
def pooled_by_functions() -> Built:
    ops, i = keras().ops, image()
    x = ops.average_pool(ops.max_pool(conv(i, "a"), 2), 2)
    return ended(i, ops.concatenate([ops.max(x, axis=(1, 2)), ops.cumsum(x, axis=1)[:, -1, 0]], axis=-1), "a")


@case
def halves_that_gate() -> Built:
    i = image()
    return ended(i, keras().ops.glu(conv(i, "a"), axis=-1), "a")


@case
def computed_kernels() -> Built:
    ops, i = keras().ops, image()
    x = ops.conv(conv(i, "a"), constant(i, (3, 3, 8, 6)), padding="same")
    x = ops.depthwise_conv(ops.tanh(x), constant(i, (3, 3, 6, 1)))
    return ended(i, ops.sigmoid(x), "a")


@case
def normalized_by_functions() -> Built:
    ops, i = keras().ops, image()
    x = ops.batch_normalization(conv(i, "a"), constant(i, (8,)), ops.abs(constant(i, (8,))) + 1, axis=-1)
    x = ops.layer_normalization(conv(x, "b"), constant(i, (8,)), constant(i, (8,)))
    return ended(i, conv(x, "c"), "a b c")


def constant(start: Any, shape: tuple[int, ...]) -> Any:
    from edgedl.converters._layers import constant_layer

    return constant_layer()(np.ones(shape, np.float32))(start)


@case
def constants_that_go_along() -> Built:
    i = image(6, 4)
    x = keras().ops.add(dense(i, "a"), constant(i, (1, 6, 6)))
    return ended(i, keras().ops.sigmoid(keras().ops.matmul(x, constant(i, (6, 5)))), "a")


# --- products: what makes them is zero, too (their makers' names begin with "p")


@case
def attention_by_hand() -> Built:
    ops, i = keras().ops, image(6, 4)

    def heads(name: str) -> Any:
        return ops.transpose(ops.reshape(dense(i, name, 8, "linear"), (-1, 6, 2, 4)), (0, 2, 1, 3))

    q, k, v = heads("pq"), heads("pk"), heads("v")
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * 0.5)
    x = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 6, 8))
    return ended(i, dense(x, "out", activation="sigmoid"), "pq pk v out")


@case
def dots() -> Built:
    L, ops, i = keras().layers, keras().ops, image(4)
    a, b, c = (dense(i, f"p{n}", 6, "linear") for n in "abc")
    x = ops.concatenate([L.Dot(1)([a, b]), ops.einsum("bi,bi->b", b, c)[:, None]], -1)
    y = ops.tensordot(dense(i, "d"), np.ones((6, 2), np.float32), 1)
    return ended(i, ops.concatenate([x, y], -1), "pa pb pc")


@case
def equations() -> Built:
    ops, i = keras().ops, image(5, 4)
    x = ops.einsum("bij,kj->bik", dense(i, "p", activation="linear"), constant(i, (7, 6)))
    return ended(i, ops.sigmoid(ops.einsum("...i,ij->...j", x, constant(i, (7, 5)))), "p")


@case
def attention_layers() -> Built:
    L, i = keras().layers, image(6, 4)
    q, k, v = dense(i, "pq", activation="linear"), dense(i, "pk", activation="linear"), dense(i, "v", 5)
    x = L.Attention(use_scale=True)([q, v, k])
    y = L.AdditiveAttention()([dense(x, "pr", activation="linear"), v, dense(i, "ps", activation="linear")])
    return ended(i, L.Concatenate()([x, y]), "pq pk v pr ps")


def _heads(**options: Any) -> Built:
    L, i = keras().layers, image(6, 4)
    x = dense(i, "a", 8)
    y = L.MultiHeadAttention(3, 4, value_dim=5, name="p", **options)(x, dense(i, "b", 7), dense(i, "c", 6))
    return ended(i, dense(y, "d", activation="sigmoid"), "a b c p d")


CASES["multi_head"] = lambda: _heads()
CASES["multi_head_without_bias"] = lambda: _heads(use_bias=False, output_shape=9)


@case
def self_attention_with_scores() -> Built:
    L, i = keras().layers, image(6, 4)
    x = dense(i, "a", 8)
    y, _ = L.MultiHeadAttention(2, 4, name="p")(x, x, return_attention_scores=True, use_causal_mask=True)
    return ended(i, L.Add()([x, y]), "a p")


@case
def grouped_queries() -> Built:
    L, i = keras().layers, image(6, 4)
    x = dense(i, "pa", 8, "linear")
    y = L.GroupQueryAttention(4, 6, 3, name="p")(x, x)
    return ended(i, L.Add()([x, y]), "pa p")


@pytest.mark.parametrize("name", CASES)
def test_channels_without_a_reader_leave_no_trace(name: str, followed: Callable[..., None]) -> None:
    followed(*CASES[name](), products=("p", "constant"))


# --- what stays, and why


def _frozen(x: Callable[[Any], Any], *, filters: int = 6) -> str:
    i = image()
    net = keras().Model(i, x(conv(i, "a", filters)))
    groups = [g for g in channel_graph(net).groups if any(s.path == "a" for s in g.sites)]
    assert len(groups) == 1
    return groups[0].frozen


REASONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "output": (lambda x: x, "it is an output of the network"),
    "softmax": (lambda x: keras().layers.Softmax()(x), "softmax"),
    "activation": (lambda x: keras().layers.Activation("softmax")(x), "softmax"),
    "one_of_them": (lambda x: x[..., 0], "picks one of them by its number"),
    "every_second": (lambda x: x[..., ::2], "picks every 2th of them"),
    "argmax": (lambda x: keras().ops.argmax(x, axis=-1), "is computed over all of them"),
    "cumsum": (lambda x: keras().ops.cumsum(x, axis=-1), "depends on their order"),
    "mirrored": (
        lambda x: keras().ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="reflect"),
        "mirrors or repeats them at the border",
    ),
    "fixed": (lambda x: keras().layers.Add()([x, keras().layers.Conv2D(6, 1)(x)[..., :1]]), "output"),
    "spread": (lambda x: keras().ops.softmax(x, axis=(1, 3)), "softmax"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_go_says_why(name: str) -> None:
    build, words = REASONS[name]
    assert words in _frozen(build)


def test_scores_that_come_out_keep_the_heads() -> None:
    L, i = keras().layers, image(6, 4)
    y, scores = L.MultiHeadAttention(2, 4, name="heads")(i, i, return_attention_scores=True)
    found = {
        len(g): g.frozen for g in channel_graph(keras().Model(i, [L.Dense(3)(y), scores])).groups if g.name == "heads"
    }
    assert found[2] == "it is an output of the network"


def test_a_layer_without_a_configuration_is_a_clear_error() -> None:
    L, i = keras().layers, image(6)

    class Odd(L.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.function = function

        def call(self, x: Any) -> Any:
            return self.function(x)

    net = keras().Model(i, dense(Odd(keras().ops.tanh)(dense(i, "a")), "b"))
    graph = channel_graph(net)
    with pytest.raises(UsageError, match=r"odd \(Odd\) cannot be made anew from its configuration"):
        shrink(graph, graph.everything())


def test_an_operation_that_is_not_known_is_named_and_its_neighbours_stay() -> None:
    L, i = keras().layers, image(6)

    class Rotated(L.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return keras().ops.roll(x, 1, -1)

    x = Rotated(name="mine")(dense(i, "a"))
    graph = channel_graph(ended(i, dense(x, "b"), "")[0])
    assert graph.left_alone == {"mine": "Rotated is not known"}
    found = {g["name"]: g["frozen"] for g in describe(graph)}
    assert found["a"] == "mine is left alone: Rotated is not known"
    assert found["b"] == ""


def test_a_users_layer_with_the_name_of_a_known_one_is_not_taken_for_it() -> None:
    L, i = keras().layers, image(6)
    Dense = type("Dense", (L.Dense,), {"__module__": "users"})
    graph = channel_graph(ended(i, Dense(5, name="mine")(dense(i, "a")), "")[0])
    assert graph.left_alone == {"mine": "Dense is not known"}


def test_an_unknown_layer_where_nothing_could_go_is_not_named() -> None:
    L, i = keras().layers, image(6)
    Odd = type("Odd", (L.Layer,), {"call": lambda self, x: x * 2})
    assert not channel_graph(ended(i, dense(Odd()(i), "a"), "")[0]).left_alone
