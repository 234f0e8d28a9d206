"""Networks are called with the structure of inputs that they declare, whatever it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgedl.frameworks import fed

keras = pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")

L = keras.layers


def alone() -> Any:
    a = keras.Input((3,), name="a")
    return keras.Model(a, L.Rescaling(2.0)(a))


def list_of_one() -> Any:
    a = keras.Input((3,), name="a")
    return keras.Model([a], L.Rescaling(2.0)(a))


def list_of_two() -> Any:
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    return keras.Model([b, a], L.Subtract()([b, a]))


def by_name() -> Any:
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    return keras.Model({"b": b, "a": a}, L.Subtract()([b, a]))


def sequential() -> Any:
    return keras.Sequential([keras.Input((3,), name="a"), L.Rescaling(2.0)])


@pytest.mark.parametrize("make", [alone, list_of_one, list_of_two, by_name, sequential], ids=lambda f: f.__name__)
def test_a_network_gets_its_inputs_as_it_declares_them(make: Callable[[], Any]) -> None:
    """By name, in an order that is not that of the arrays; Keras warns at any other structure."""
    values = {"a": np.full((2, 3), 1, np.float32), "b": np.full((2, 3), 5, np.float32)}
    net = make()
    given = fed(net, [values[t.name] for t in net.inputs])
    wanted = 4 if len(net.inputs) > 1 else 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        np.testing.assert_array_equal(net(given, training=False), np.full((2, 3), wanted))
        np.testing.assert_array_equal(net.predict(given, verbose=0), np.full((2, 3), wanted))


def test_what_declares_nothing_takes_one_alone_or_a_list() -> None:
    net, x = keras.Sequential([L.Rescaling(2.0)]), np.ones((2, 3), np.float32)
    assert fed(net, [x]) is x
    assert [id(v) for v in fed(net, (x, x))] == [id(x), id(x)]
