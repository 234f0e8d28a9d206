"""Convolution, shapes, structure: channels with zero outgoing weights go without a trace, and what must be free is free."""

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


# --- convolution


@case
def grouped() -> Built:
    L, i = keras().layers, image()
    x = L.Conv2D(12, 3, groups=3, activation="sigmoid", name="b")(L.Conv2D(9, 3, activation="tanh", name="a")(i))
    return ended(i, x, "a b")


@case
def depthwise_by_groups() -> Built:
    L, i = keras().layers, image()
    x = L.Conv2D(8, 3, groups=4, activation="sigmoid", name="b")(L.Conv2D(4, 3, activation="tanh", name="a")(i))
    return ended(i, x, "a")


@case
def depthwise_multiplied() -> Built:
    L, i = keras().layers, image()
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="b")(L.Conv2D(4, 3, activation="tanh", name="a")(i))
    x = L.PReLU(shared_axes=[1, 2])(L.BatchNormalization()(x))
    return ended(i, L.Conv2D(5, 1, activation="sigmoid", name="c")(x), "a c")


@case
def separable() -> Built:
    L, i = keras().layers, image()
    x = L.SeparableConv2D(6, 3, depth_multiplier=2, activation="sigmoid", name="b")(L.Conv2D(4, 3, name="a")(i))
    return ended(i, x, "a b")


@case
def one_dimension() -> Built:
    L, i = keras().layers, image(16, 3)
    x = L.DepthwiseConv1D(3)(L.Conv1D(6, 3, padding="causal", activation="tanh", name="a")(i))
    x = L.UpSampling1D(2)(L.SeparableConv1D(5, 3, name="b")(L.MaxPooling1D(2)(x)))
    x = L.Cropping1D(1)(L.ZeroPadding1D(2)(L.Conv1DTranspose(4, 3, 2, activation="sigmoid", name="c")(x)))
    return ended(i, x, "a b c")


@case
def three_dimensions() -> Built:
    L, i = keras().layers, image(6, 6, 6, 2)
    x = L.Conv3D(4, 3, padding="same", activation="tanh", name="a")(i)
    x = L.Conv3DTranspose(3, 2, 2, activation="sigmoid", name="b")(L.AveragePooling3D(2)(x))
    return keras().Model(i, L.Dense(2)(L.GlobalMaxPooling3D()(x))), "a b"


@case
def channels_first() -> Built:
    """Only pooling and flattening: TensorFlow's own convolution in this layout is wrong on some CPUs."""
    L, i = keras().layers, image()
    x = L.Permute((3, 1, 2))(L.Conv2D(6, 3, activation="tanh", name="a")(i))
    x = L.BatchNormalization(axis=1)(L.MaxPooling2D(2, data_format="channels_first")(x))
    return keras().Model(i, L.Dense(2)(L.Flatten(data_format="channels_first")(x))), "a"


@case
def transposed_and_skips() -> Built:
    L, i = keras().layers, image()
    a = L.Conv2D(6, 3, padding="same", activation="tanh", name="a")(i)
    x = L.Conv2DTranspose(5, 2, 2, activation="sigmoid", name="b")(L.AveragePooling2D(2)(a))
    x = L.Concatenate()([x, a, L.Conv2D(6, 1, name="c")(i)])
    return ended(i, L.Add()([L.Conv2D(4, 3, padding="same", name="d")(x), L.Conv2D(4, 1, name="e")(i)]), "a b c d")


@case
def squeeze_and_excite() -> Built:
    L, i = keras().layers, image()
    x = L.Conv2D(8, 3, activation="sigmoid", name="a")(i)
    gate = L.Dense(8, activation="sigmoid")(L.Dense(4, activation="relu", name="b")(L.GlobalAveragePooling2D()(x)))
    x = L.Multiply()([x, L.Reshape((1, 1, 8))(gate)])
    return ended(i, L.Conv2D(5, 1, name="c")(x), "a b c")


@case
def adaptive_and_resized() -> Built:
    L, i = keras().layers, image()
    x = L.AdaptiveAveragePooling2D(3)(L.Resizing(7, 7)(L.Conv2D(6, 3, activation="sigmoid", name="a")(i)))
    return ended(i, x, "a")


# --- shapes


@case
def maps_of_a_vector() -> Built:
    L, i = keras().layers, image(4)
    x = L.Reshape((2, 3, 6))(L.Dense(36, activation="tanh", name="a")(i))
    return ended(i, L.Conv2DTranspose(4, 3, 2, activation="sigmoid", name="b")(x), "a b")


@case
def flattened_and_permuted() -> Built:
    L, i = keras().layers, image()
    x = L.Permute((3, 1, 2))(L.Conv2D(6, 3, activation="tanh", name="a")(i))
    return keras().Model(i, L.Dense(2)(L.Dense(5, activation="sigmoid", name="b")(L.Flatten()(x)))), "a b"


@case
def repeated_vector() -> Built:
    L, i = keras().layers, image(4)
    x = L.RepeatVector(3)(L.Dense(6, activation="tanh", name="a")(i))
    return ended(i, L.LSTM(4, return_sequences=True, name="b")(x), "a b")


@case
def pixel_shuffle() -> Built:
    L, i = keras().layers, image()
    x = L.Conv2D(12, 3, padding="same", activation="tanh", name="a")(i)
    x = L.Permute((1, 3, 2, 4, 5))(L.Reshape((8, 8, 2, 2, 3))(x))
    x = L.Reshape((16, 16, 3))(L.Permute((1, 3, 2, 4, 5))(L.Permute((1, 3, 2, 4, 5))(x)))
    return ended(i, L.Conv2D(4, 3, name="b")(x), "a b")


@case
def channels_before_blocks() -> Built:
    """As PyTorch shuffles pixels: the channels come first of the three parts."""
    L, i = keras().layers, image()
    x = L.Conv2D(12, 3, padding="same", activation="tanh", name="a")(i)
    x = L.Reshape((16, 16, 3))(L.Permute((1, 4, 2, 5, 3))(L.Reshape((8, 8, 3, 2, 2))(x)))
    return ended(i, L.Conv2D(4, 3, name="b")(x), "a b")


@case
def channel_shuffle() -> Built:
    L, i = keras().layers, image()
    x = L.Conv2D(16, 3, activation="tanh", name="a")(i)
    x = L.Reshape((6, 6, 16))(L.Permute((1, 2, 4, 3))(L.Reshape((6, 6, 2, 8))(x)))
    return ended(i, L.Conv2D(6, 3, groups=2, activation="sigmoid", name="b")(x), "a b")


@case
def open_sizes() -> Built:
    L, i = keras().layers, keras().Input((None, None, 3))
    x = L.Reshape((-1, 8))(L.Conv2D(8, 1, activation="sigmoid", name="a")(i))
    return ended(i, L.Dense(6, activation="tanh", name="b")(x), "a b")


@case
def tokens_mixed() -> Built:
    """Dense layers over the places of a map, as in an MLP-Mixer."""
    L, i = keras().layers, image(6, 4)
    x = L.Permute((2, 1))(L.Dense(5, activation="tanh", name="a")(i))
    x = L.Permute((2, 1))(L.Dense(6)(L.Dense(7, activation="sigmoid", name="b")(x)))
    return ended(i, x, "b")


# --- products


@case
def equations() -> Built:
    L, i = keras().layers, image(6, 4)
    x = L.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de", activation="tanh", name="a")(i)
    x = L.EinsumDense("abde,def->abf", (None, 5), bias_axes="f", activation="sigmoid", name="b")(x)
    return ended(i, L.EinsumDense("...x,xy->...y", 4, bias_axes="y", name="c")(x), "a b c")


# --- structure


@case
def one_layer_in_many_places() -> Built:
    L, i = keras().layers, image()
    relu, conv = L.ReLU(), L.Conv2D(6, 3, padding="same", name="b")
    x = relu(L.Conv2D(6, 3, name="a")(i))
    y = L.MaxPooling2D()(relu(conv(x)))
    return ended(i, L.Add()([L.GlobalAveragePooling2D()(conv(y)), L.GlobalAveragePooling2D()(relu(x))]), "a")


@case
def model_called_twice() -> Built:
    L = keras().layers
    inner = keras().Input((8, 8, 4))
    x = L.Reshape((4, 2, 8, 6))(L.Conv2D(6, 3, padding="same", activation="sigmoid", name="a")(inner))
    block = keras().Model(inner, L.Reshape((64, 6))(x)[:, :, 1:], name="block")
    outer = keras().Input((8, 8, 4))
    pair = keras().Model(outer, [block(outer), block(L.Conv2D(4, 1, name="b")(outer))], name="pair")
    i = keras().Input((8, 8, 3))
    first, second = pair(keras().Sequential([L.Conv2D(4, 1, name="c")], name="stem")(i))
    return ended(i, L.Concatenate()([first, second]), "pair/block/a pair/b stem/c")


@case
def several_outputs() -> Built:
    L, i = keras().layers, image()
    x = L.Conv2D(6, 3, activation="sigmoid", name="a")(i)
    y = L.Dense(5, activation="tanh", name="b")(L.Flatten()(x))
    return keras().Model(i, {"map": L.Conv2D(2, 1)(x), "kind": L.Dense(3, activation="softmax")(y)}), "a b"


@case
def embedded() -> Built:
    L, i = keras().layers, keras().Input((5,), dtype="int32")
    places = L.Embedding(5, 6, name="p")(keras().ops.zeros_like(i))
    x = L.Add()([L.Embedding(7, 6, name="a")(i), places])
    return ended(i, L.Dense(4, activation="sigmoid", name="b")(x), "a b")


@pytest.mark.parametrize("name", CASES)
def test_channels_without_a_reader_leave_no_trace(name: str, followed: Callable[..., None]) -> None:
    followed(*CASES[name]())
