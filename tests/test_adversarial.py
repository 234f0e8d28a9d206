"""FGSM: gradients against finite differences, no change at epsilon 0, and what it does to a network that decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgedl.adversarial import epsilons, fgsm, input_gradients, loss
from edgedl.faithfulness import Decisions, decide, deciding

Zoo = Callable[[str], tuple[Any, Any, Any]]
SAMPLES = 24


def prepared(zoo: Zoo, name: str) -> tuple[Any, dict[str, Any], Any, Decisions]:
    """Network, some inputs by name, their classes, what decides."""
    net, x, y = zoo(name)
    inputs = {k: v[:SAMPLES] for k, v in (x if isinstance(x, dict) else {net.inputs[0].name: x}).items()}
    y = np.asarray((y["kind"] if isinstance(y, dict) else y)[:SAMPLES]).astype(np.int64)
    y = y[..., 0] if name in ("unet", "shared") else y
    how = deciding("accuracy", outputs_of(net, inputs), y)
    assert how is not None
    return net, inputs, y, how


def outputs_of(net: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    feed = list(inputs.values())
    found = net(feed if len(feed) > 1 else feed[0], training=False)
    return {"out": np.asarray(found[0] if isinstance(found, list) else found)}


def losses(net: Any, how: Decisions, inputs: dict[str, Any], y: Any) -> float:
    return float(loss(net, how, 0, list(inputs.values()), y))


@pytest.mark.parametrize("name", ["cnn", "lstm", "transformer", "shared", "unet", "multi_io"])
def test_the_gradient_is_that_of_finite_differences(zoo: Zoo, name: str) -> None:
    """The slope along the gradient of every input, by central differences of a single-precision loss: within 2 %.

    Against wrong classes, where losses and gradients are large.
    """
    net, inputs, y, how = prepared(zoo, name)
    y = (y + 1) % (2 if how.is_binary else 3)
    gradients = input_gradients(net, how, 0, inputs, y, tuple(inputs), batch=10)
    assert gradients is not None
    for key, gradient in gradients.items():
        assert gradient.shape == inputs[key].shape
        length = float(np.linalg.norm(gradient))
        step = min(0.02, 0.2 / length) * gradient / length
        there, back = ({**inputs, key: inputs[key] + s * step} for s in (1, -1))
        slope = (losses(net, how, there, y) - losses(net, how, back, y)) / (2 * float(np.linalg.norm(step)))
        assert slope == pytest.approx(length, rel=0.02), key


@pytest.mark.parametrize("name", ["cnn", "multi_io"])
def test_signs_are_those_of_finite_differences(zoo: Zoo, name: str) -> None:
    """Of single values, those whose gradient is large enough to be seen in single precision."""
    net, inputs, y, how = prepared(zoo, name)
    first = next(iter(inputs))
    gradients = input_gradients(net, how, 0, inputs, y, (first,), batch=SAMPLES)
    assert gradients is not None
    moved = fgsm(net, how, 0, inputs, y, {first: np.float32(1e-3)}, SAMPLES)
    assert moved is not None
    for flat in np.argsort(-np.abs(gradients[first]).ravel())[:12]:
        at = np.unravel_index(flat, gradients[first].shape)
        there, back = inputs[first].copy(), inputs[first].copy()
        there[at] += 0.01
        back[at] -= 0.01
        rise = losses(net, how, {**inputs, first: there}, y) - losses(net, how, {**inputs, first: back}, y)
        change = moved[first][at] - inputs[first][at]
        if inputs[first].min() < inputs[first][at] < inputs[first].max():
            assert np.sign(rise) == np.sign(change), at


def test_nothing_moves_at_epsilon_zero_and_ever_less_is_right_beyond(zoo: Zoo) -> None:
    net, inputs, y, how = prepared(zoo, "cnn")
    right = []
    for share in (0.0, 0.3, 0.6, 1.2):
        moved = fgsm(net, how, 0, inputs, y, epsilons(inputs, share), batch=16)
        assert moved is not None
        if share == 0:
            assert all(np.array_equal(moved[k], inputs[k]) for k in inputs)
        assert {k: (v.shape, v.dtype) for k, v in moved.items()} == {k: (v.shape, v.dtype) for k, v in inputs.items()}
        right.append(float(np.mean(decide(how, outputs_of(net, moved))[0] == y)))
    clean = float(np.mean(decide(how, outputs_of(net, inputs))[0] == y))
    assert right[0] == clean
    assert right == sorted(right, reverse=True)
    assert right[-1] < clean - 0.3


def test_it_is_worse_than_noise_of_the_same_size(zoo: Zoo) -> None:
    net, inputs, y, how = prepared(zoo, "cnn")
    epsilon = epsilons(inputs, 0.3)
    moved = fgsm(net, how, 0, inputs, y, epsilon, batch=SAMPLES)
    assert moved is not None
    signs = {k: np.random.default_rng(0).choice([-1.0, 1.0], v.shape) for k, v in inputs.items()}
    noisy = {k: (v + epsilon[k] * signs[k]).astype(np.float32) for k, v in inputs.items()}
    assert losses(net, how, moved, y) > 2 * losses(net, how, noisy, y)


def test_a_saturated_softmax_still_has_gradients(zoo: Zoo) -> None:
    """Scores a thousand times as far apart: the probabilities are 0 and 1 exactly, the logits behind them are not."""
    from edgedl.frameworks import keras

    net, inputs, y, how = prepared(zoo, "cnn")
    sharp = keras().models.clone_model(net)
    weights = net.get_weights()
    sharp.set_weights([*weights[:-2], 1000 * weights[-2], 1000 * weights[-1]])
    assert set(np.unique(outputs_of(sharp, inputs)["out"])) <= {0.0, 1.0}
    wrong = (y + 1) % 5
    for true in (y, wrong):
        gradients = input_gradients(sharp, how, 0, inputs, true, tuple(inputs), batch=SAMPLES)
        assert gradients is not None
        moved = [np.any(g) for g in next(iter(gradients.values()))]
        assert np.mean(moved) > 0.9 or true is y


def test_images_move_alike_and_stay_in_range_features_each_by_its_own_spread(zoo: Zoo) -> None:
    net, inputs, y, how = prepared(zoo, "multi_io")
    scaled = {**inputs, "vector": inputs["vector"] * np.float32([1, 10, 100, 1000])}
    epsilon = epsilons(scaled, 0.1)
    assert epsilon["image"].shape == ()
    np.testing.assert_allclose(epsilon["vector"], 0.1 * scaled["vector"].std(0), rtol=1e-4)
    moved = fgsm(net, how, 0, inputs, y, epsilons(inputs, 0.1), batch=SAMPLES)
    assert moved is not None
    assert moved["image"].max() <= inputs["image"].max()
    far = np.abs(moved["image"] - inputs["image"])
    assert float(far.max()) == pytest.approx(float(epsilons(inputs, 0.1)["image"]), rel=1e-3)


def test_small_batches_give_the_same_gradients(zoo: Zoo) -> None:
    """Traced (24 batches) or not, whole batches or not: alike in single precision."""
    net, inputs, y, how = prepared(zoo, "multi_io")
    want, *others = (input_gradients(net, how, 0, inputs, y, tuple(inputs), batch) for batch in (SAMPLES, 10, 1))
    assert want is not None
    for found in others:
        assert found is not None
        for key, gradient in want.items():
            np.testing.assert_allclose(found[key], gradient, atol=1e-5 * np.abs(gradient).max())


def test_integers_cannot_move(zoo: Zoo) -> None:
    _, x, _ = zoo("twotower")
    assert epsilons(x) == {}


def test_no_gradient_is_told_apart_from_none_that_is_zero(zoo: Zoo) -> None:
    """An embedding of numbers that are given as reals has no gradient at all."""
    from edgedl.frameworks import keras

    L = keras().layers
    node = keras().Input((4,), name="ids")
    net = keras().Model(node, L.Dense(3, activation="softmax")(L.Flatten()(L.Embedding(9, 2)(node))))
    inputs, y = {"ids": np.arange(8, dtype=np.float32).reshape(2, 4)}, np.array([0, 1])
    how = deciding("accuracy", outputs_of(net, inputs), y)
    assert how is not None
    assert fgsm(net, how, 0, inputs, y, epsilons(inputs), 2) is None
