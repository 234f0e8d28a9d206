"""Normalization and recurrent layers: channels with zero outgoing weights go without a trace, and what must be free is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgedl.frameworks import keras

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Built = tuple[Any, str]  # a network, the names of layers whose channels must be prunable, apart by blanks
CASES: dict[str, Callable[[], Built]] = {}


def case(function: Callable[[], Built]) -> Callable[[], Built]:
    CASES[function.__name__] = function
    return function


def image(*shape: int) -> Any:
    return keras().Input(shape or (8, 8, 3))


def ended(start: Any, x: Any, free: str) -> Built:
    """A network with a dense layer as its output, after pooling a map or a sequence."""
    L = keras().layers
    x = (
        L.GlobalAveragePooling2D()(x)
        if len(x.shape) == 4
        else L.GlobalAveragePooling1D()(x)
        if len(x.shape) == 3
        else x
    )
    return keras().Model(start, L.Dense(3, name="end")(x)), free


# --- normalization


@case
def instance_norm() -> Built:
    L, i = keras().layers, image()
    x = L.GroupNormalization(-1)(L.Conv2D(6, 3, name="a")(i))
    return ended(i, L.ReLU()(x), "a")


@case
def norms() -> Built:
    L, i = keras().layers, image(6, 4)
    x = L.Dense(8, name="a")(i)
    x = L.RMSNormalization()(L.LayerNormalization()(x))
    x = L.GroupNormalization(2)(L.UnitNormalization()(x))
    return ended(i, L.Dense(5, activation="sigmoid", name="b")(x), "a b")


# --- recurrent


@case
def recurrent_layers() -> Built:
    L, i = keras().layers, image(5, 3)
    x = L.LSTM(6, return_sequences=True, name="a")(i)
    x = L.GRU(5, return_sequences=True, name="b")(x)
    x = L.GRU(5, return_sequences=True, reset_after=False, name="c")(x)
    return ended(i, L.SimpleRNN(4, name="d")(x), "a b c d")


def _both_ways(mode: str | None, **options: Any) -> Built:
    L, i = keras().layers, image(5, 3)
    x = L.Bidirectional(L.LSTM(6, return_sequences=True, **options), merge_mode=mode, name="a")(i)
    x = L.Concatenate()(x) if mode is None else x
    return ended(i, L.Bidirectional(L.GRU(4), merge_mode="concat", name="b")(x), "a b")


for _mode in ("concat", "sum", "mul", "ave", None):
    CASES[f"bidirectional_{_mode}"] = lambda mode=_mode: _both_ways(mode)


@case
def states_passed_on() -> Built:
    L, i = keras().layers, image(5, 3)
    x, h, c = L.LSTM(6, return_sequences=True, return_state=True, name="a")(i)
    y = L.LSTM(6, return_sequences=True, name="b")(x, initial_state=[h, c])
    y, *states = L.Bidirectional(L.GRU(4, return_state=True, return_sequences=True), name="c")(y)
    return ended(i, L.Concatenate()([L.GRU(4, name="d")(y, initial_state=states[0]), states[1]]), "a c")


@case
def cells() -> Built:
    L, i = keras().layers, image(5, 3)
    x = L.RNN([L.LSTMCell(6), L.GRUCell(5)], return_sequences=True, name="a")(i)
    x = L.Bidirectional(L.RNN(L.SimpleRNNCell(4), return_sequences=True), name="b")(x)
    return ended(i, L.RNN(L.GRUCell(4, use_bias=False), name="c")(x), "a b c")


@case
def conv_lstm() -> Built:
    L, i = keras().layers, image(3, 6, 6, 2)
    x = L.ConvLSTM2D(4, 3, return_sequences=True, name="a")(i)
    return ended(i, L.ConvLSTM2D(3, 3, padding="same", name="b")(x), "a b")


@case
def at_every_step() -> Built:
    L, i = keras().layers, image(3, 6, 6, 2)
    x = L.TimeDistributed(L.Conv2D(4, 3, activation="sigmoid"), name="a")(i)
    x = L.TimeDistributed(L.Flatten())(L.TimeDistributed(L.BatchNormalization())(x))
    x = L.TimeDistributed(L.Dense(5, activation="tanh"), name="b")(x)
    return ended(i, L.LSTM(4, name="c")(x), "a b c")


@pytest.mark.parametrize("name", CASES)
def test_channels_without_a_reader_leave_no_trace(name: str, followed: Callable[..., None]) -> None:
    followed(*CASES[name]())
