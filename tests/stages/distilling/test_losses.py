"""The losses against numpy and against keras.distillation, and what must hold for any values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.frameworks import keras
from edgedl.stages.distilling import losses

FLOATS = st.floats(-8, 8, width=32)
BATCHES = arrays(np.float32, (6, 5), elements=FLOATS)
EXAMPLES = settings(max_examples=25, deadline=None)


def number(tensor: Any) -> float:
    return float(np.asarray(tensor))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@given(BATCHES, BATCHES, st.floats(0.5, 20))
@EXAMPLES
def test_soft_classes_is_hintons_loss(student: np.ndarray, teacher: np.ndarray, temperature: float) -> None:
    s, t = student.astype(np.float64) / temperature, teacher.astype(np.float64) / temperature
    p = softmax(t)
    wanted = temperature**2 * (p * (np.log(p) - np.log(softmax(s)))).sum(-1).mean()
    found = number(losses.soft_classes(student, [teacher], temperature))
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4 * temperature**2)  # float32 against float64
    assert found >= -1e-4 * temperature**2


def test_soft_classes_is_that_of_keras_where_that_is_exact() -> None:
    student, teacher = normal(32, 10, seed=1), normal(32, 10, seed=2)
    assert number(losses.soft_classes(student, [teacher], 3.0)) == pytest.approx(
        of_keras(teacher, student, 3.0), rel=1e-4
    )


def of_keras(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """Keras's loss. Its default, the text "kl_divergence", takes logits for probabilities (3.15.1): an instance does not."""
    loss = keras().distillation.LogitsDistillation(temperature, loss=keras().losses.KLDivergence())
    return number(loss.compute_loss(teacher, student))


def test_keras_cuts_small_probabilities_and_this_does_not() -> None:
    student, teacher = np.array([[0.0, 40.0]], np.float32), np.array([[40.0, 0.0]], np.float32)
    assert number(losses.soft_classes(student, [teacher], 1.0)) == pytest.approx(40.0, rel=1e-4)
    assert of_keras(teacher, student, 1.0) < 17  # its probabilities end at 1e-7


@given(BATCHES, BATCHES, BATCHES)
@EXAMPLES
def test_several_teachers_count_as_their_mean_probability(s: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    mean = np.log((softmax(a) + softmax(b)) / 2)
    assert number(losses.soft_classes(s, [a, b], 1.0)) == pytest.approx(
        number(losses.soft_classes(s, [mean], 1.0)), rel=1e-3, abs=1e-4
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_yes_or_no_is_two_classes(temperature: float) -> None:
    s, t = normal(64, seed=3), 3 * normal(64, seed=4)
    zero = np.zeros_like(s)
    wanted = losses.soft_classes(np.stack([s, zero], -1), [np.stack([t, zero], -1)], temperature)
    assert number(losses.soft_binary(s, [t], temperature)) == pytest.approx(number(wanted), rel=1e-4)


def test_probabilities_that_lost_their_logits_give_the_same_loss() -> None:
    s, t = 3 * normal(32, 10, seed=5), 6 * normal(32, 10, seed=6)
    lost = [losses.class_logits(softmax(z), True) for z in (s, t)]
    assert number(losses.soft_classes(lost[0], [lost[1]], 4.0)) == pytest.approx(
        number(losses.soft_classes(s, [t], 4.0)), rel=1e-4
    )
    p = 1 / (1 + np.exp(-s))
    np.testing.assert_allclose(losses.binary_logits(p, True), s, atol=0.01)  # of 1 - p little is left in float32


def test_logits_are_those_before_the_softmax() -> None:
    z = 30 * normal(4, 6, seed=7)
    np.testing.assert_array_equal(losses.class_logits(keras().layers.Softmax()(z), True), z)
    np.testing.assert_array_equal(losses.binary_logits(keras().activations.sigmoid(keras().ops.array(z)), True), z)


def test_classes_may_lie_on_another_axis() -> None:
    z = normal(2, 5, 3, seed=8)
    found = losses.class_logits(softmax(np.moveaxis(z, 1, -1)).transpose(0, 2, 1), True, axis=1)
    np.testing.assert_allclose(softmax(np.asarray(found)), softmax(np.moveaxis(z, 1, -1)), atol=1e-6)


def test_values_are_compared_in_the_teachers_own_scale() -> None:
    s, t = normal(16, 4, seed=9), normal(16, 4, seed=10)
    for scale in (1.0, 1000.0):
        found = number(losses.values(scale * s, [scale * t], float((scale * t).var())))
        assert found == pytest.approx(((s - t) ** 2).mean() / t.var(), rel=1e-4)


@given(st.floats(0.1, 100))
@EXAMPLES
def test_features_do_not_depend_on_scale(scale: float) -> None:
    s, t = normal(4, 3, 3, 5, seed=11), normal(4, 3, 3, 5, seed=12)
    wanted = ((s - t) ** 2).mean() / (t**2).mean()
    assert number(losses.features(scale * s, scale * t)) == pytest.approx(wanted, rel=1e-3)


def test_attention_is_that_of_the_paper() -> None:
    s, t = normal(4, 3, 2, 5, seed=13), normal(4, 3, 2, 7, seed=14)

    def places(x: np.ndarray) -> np.ndarray:
        flat = (x**2).mean(-1).reshape(len(x), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    wanted = ((places(s) - places(t)) ** 2).sum(1).mean()
    assert number(losses.attention(s, t)) == pytest.approx(wanted, rel=1e-4)


def huber(x: np.ndarray) -> float:
    return float(np.where(abs(x) < 1, 0.5 * x**2, abs(x) - 0.5).mean())


def test_relational_is_that_of_the_paper() -> None:
    s, t = normal(7, 4, seed=15), normal(7, 6, seed=16)

    def distances(x: np.ndarray) -> np.ndarray:
        d = np.linalg.norm(x[:, None] - x[None], axis=-1)
        return d / d[d > 0].mean()

    def angles(x: np.ndarray) -> np.ndarray:
        n = len(x)
        out = np.zeros((n, n, n))
        for j in range(n):
            for i in range(n):
                for k in range(n):
                    a, b = x[i] - x[j], x[k] - x[j]
                    size = np.linalg.norm(a) * np.linalg.norm(b)
                    out[j, i, k] = a @ b / size if size else 0
        return out

    wanted = huber(distances(s) - distances(t)) + 2 * huber(angles(s) - angles(t))
    assert number(losses.relational(s, t)) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("loss", [losses.features, losses.attention, losses.relational])
def test_nothing_is_lost_by_the_teacher_itself(loss: Any) -> None:
    x = normal(5, 4, 4, 3, seed=17)
    assert number(loss(x, x)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 4), (3, 4)])
def test_relations_of_equal_samples_have_finite_gradients(shape: tuple[int, int]) -> None:
    import tensorflow as tf

    x = tf.Variable(np.ones(shape, np.float32))
    with tf.GradientTape() as tape:
        loss = losses.relational(x, normal(*shape))
    assert np.isfinite(np.asarray(tape.gradient(loss, x))).all()


def test_pooled() -> None:
    x = normal(2, 3, 4, 5)
    np.testing.assert_allclose(losses.pooled(x), x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert losses.pooled(x[:, 0, 0]).shape == (2, 5)
