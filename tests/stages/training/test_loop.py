"""The training loop: torch as the oracle of its updates, seeds, early stopping, structure kept, losses that diverge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl import scratch  # noqa: E402
from edgedl.data import Dataset, Split  # noqa: E402
from edgedl.errors import DataError, ModelError, UsageError  # noqa: E402
from edgedl.stages.training import checkpoint  # noqa: E402
from edgedl.stages.training.loop import train  # noqa: E402
from edgedl.stages.training.norm import reestimate  # noqa: E402
from edgedl.stages.training.options import Augment, Training  # noqa: E402
from edgedl.stages.training.structure import keep_structure  # noqa: E402
from edgedl.stages.training.task import Labelled  # noqa: E402

CLASSES = Labelled(0, "logits", True)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6)).astype(np.float32), RNG.integers(0, 3, 64)


def data(x: Any = X, y: Any = Y, name: str = "x") -> Dataset:
    split = Split({name: x}, y)
    return Dataset(split, split, split, metric="accuracy")


def dense(hidden: int = 0, rate: float = 0.0) -> Any:
    keras.utils.set_random_seed(1)
    node = x = keras.Input((6,), name="x")
    if hidden:
        x = keras.layers.Dropout(rate, name="drop")(keras.layers.Dense(hidden, activation="relu", name="hidden")(x))
    return keras.Model(node, keras.layers.Dense(3, name="head")(x), name="net")


def weights(net: Any) -> list[Any]:
    return [w.copy() for w in net.get_weights()]


class Poison(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes the weights infinite at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.at:
            self.model.set_weights([np.full_like(w, np.inf) for w in self.model.get_weights()])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_updates_are_torchs(name: str) -> None:
    """One batch an epoch, so that the order of samples does not matter. float32: 1e-5; 1e-4 of Adam's, because Keras
    adds epsilon before the correction of the bias and torch after it."""
    tolerance = 1e-5 if name == "sgd" else 1e-4
    torch = pytest.importorskip("torch", reason="needs torch")
    net = dense()
    given = {"lr": 0.05, "weight_decay": 0.1}
    rest = {"sgd": {"momentum": 0.9, "nesterov": True}, "adam": {"eps": 1e-7}, "adamw": {"eps": 1e-7}}[name]
    layer = torch.nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(net.get_weights()[0].T))
        layer.bias.copy_(torch.tensor(net.get_weights()[1]))
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = kind(groups, **given, **rest)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(torch.tensor(X)), torch.tensor(Y)).backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1e9)
        optimizer.step()
    options = Training(
        epochs=5, batch_size=64, optimizer=name, learning_rate=0.05, weight_decay=0.1, schedule="constant", warmup=0.0
    )
    trained, record = train(net, data(), options, CLASSES)
    np.testing.assert_allclose(trained.get_weights()[0], layer.weight.detach().numpy().T, atol=tolerance)
    np.testing.assert_allclose(trained.get_weights()[1], layer.bias.detach().numpy(), atol=tolerance)
    assert [e["rate"] for e in record["epochs"]] == [0.05] * 5


def test_the_moving_average_is_kept_instead_of_the_weights() -> None:
    """Averages of the weights after every step, which a run without averaging shows one epoch after another."""
    options = Training(epochs=4, batch_size=64, schedule="constant", warmup=0.0, learning_rate=0.1)
    net = dense()
    shadow, decays = weights(net), [min(0.5, (1 + t) / (10 + t)) for t in range(1, 5)]
    for epochs, decay in enumerate(decays, 1):
        after = train(net, data(), replace(options, epochs=epochs), CLASSES)[0].get_weights()
        shadow = [s * decay + a * (1 - decay) for s, a in zip(shadow, after, strict=True)]
    found, _ = train(net, data(), replace(options, ema=0.5), CLASSES)
    for a, b in zip(found.get_weights(), shadow, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_seed_decides_and_the_network_given_stays() -> None:
    net = dense(8, 0.5)
    before = weights(net)
    options = Training(epochs=2, batch_size=16)
    first, again, other = (
        train(net, data(), o, CLASSES)[0].get_weights() for o in (options, options, replace(options, seed=1))
    )
    for a, b, c in zip(first, again, before, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(a != c)
    assert any(np.any(a != b) for a, b in zip(first, other, strict=True))
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_stops_early_with_the_best_weights() -> None:
    """Labels are random: what is learned from them makes the held-out tenth worse sooner or later."""
    options = Training(epochs=60, batch_size=16, patience=2, learning_rate=0.05, schedule="constant")
    _, record = train(dense(64), data(), options, CLASSES)
    losses = [e["val_loss"] for e in record["epochs"]]
    assert record["epochs_done"] == len(losses) < 60
    assert record["best_epoch"] == int(np.argmin(losses)) + 1 == len(losses) - 2
    assert record["ended"] == "early"
    assert (record["samples"], record["held_out"]) == (58, 6)
    assert json.loads(json.dumps(record)) == record


class Seen(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[Any]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append([np.array(v.value) for v in self.model.variables])


def test_the_weights_of_the_best_epoch_are_put_back() -> None:
    seen = Seen()
    options = Training(epochs=60, batch_size=16, patience=3, learning_rate=0.05, schedule="constant")
    net, record = train(dense(64), data(), options, CLASSES, prepare=lambda net, steps: [seen])
    best = record["best_epoch"] - 1
    assert best < len(seen.weights) - 1
    for kept, then, last in zip(net.variables, seen.weights[best], seen.weights[-1], strict=True):
        np.testing.assert_array_equal(kept.value, then)
        if then.dtype.kind == "f":
            assert np.any(then != last)


def test_a_loss_that_is_no_number_says_which_rate_to_try() -> None:
    with pytest.raises(ModelError, match="in epoch 1, at a peak learning rate") as caught:
        train(dense(), data(), Training(learning_rate=0.3), CLASSES, prepare=lambda net, steps: [Poison(0)])
    assert "learning_rate = 0.03" in caught.value.next


def test_the_last_good_weights_are_kept_where_the_loss_becomes_no_number_later() -> None:
    options = Training(epochs=4, batch_size=16)
    net, record = train(dense(), data(), options, CLASSES, prepare=lambda net, steps: [Poison(2)])
    assert all(np.isfinite(w).all() for w in net.get_weights())
    assert record["epochs_done"] == 2
    assert "weights after epoch 2 are kept" in record["notes"][0]
    assert record["ended"] == "diverged"


def test_inputs_that_are_no_numbers_are_told_apart() -> None:
    with pytest.raises(DataError, match="not numbers"):
        train(dense(), data(np.full_like(X, np.nan)), Training(), CLASSES)


@pytest.mark.parametrize("seed", [-1, 1 << 31])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match=f"seed is {seed}, but must be 0 to"):
        Training(seed=seed)


def test_without_labels_it_names_distill() -> None:
    with pytest.raises(DataError) as caught:
        train(dense(), data(y=None), Training(), CLASSES)
    assert "distill" in caught.value.next


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_zeros_and_clusters_stay(ema: float) -> None:
    net = dense(200)
    kernel, bias, head, *rest = net.get_weights()
    kernel = RNG.choice(np.array([-0.3, 0.0, 0.1, 0.2], np.float32), kernel.shape)
    head = np.where(RNG.random(head.shape) < 0.5, 0, head)
    net.set_weights([kernel, bias, head, *rest])
    trained, record = train(net, data(), Training(epochs=2, batch_size=16, ema=ema), CLASSES)
    after, _, other, *_ = trained.get_weights()
    assert np.all(after[kernel == 0] == 0)
    assert len(np.unique(after)) == 4
    assert all(len(np.unique(after[kernel == v])) == 1 for v in np.unique(kernel))
    assert np.any(after != kernel)
    assert np.all(other[head == 0] == 0)
    assert np.all(other[head != 0] != head[head != 0])
    assert {k["path"]: k["clusters"] for k in record["kept"]} == {"hidden/kernel": 4, "head/kernel": 0}
    free, _ = train(net, data(), Training(epochs=1, keep_zeros=False), CLASSES)
    assert np.mean(free.get_weights()[0][kernel == 0] != 0) > 0.5, "all but those behind a dead ReLU"


def test_a_kernel_without_structure_is_left_alone() -> None:
    assert keep_structure(dense(8)) == []


class _Saved(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


def _interrupted(net: Any, steps: int) -> Sequence[Any]:
    return [_Saved()]


@dataclass(frozen=True)
class Taught:
    """Squared error to another network's outputs."""

    teacher: Any
    taps: Sequence[str] = ()
    layers: Sequence[Any] = ()
    needs_labels: bool = False

    @property
    def fingerprint(self) -> str:
        return checkpoint.fingerprint(self.teacher)

    def __call__(self, x: Any, y: Any, outputs: Any, taps: Any) -> Any:
        return keras.ops.mean((self.teacher(x[0], training=False) - outputs[0]) ** 2)


def test_a_checkpoint_of_another_teacher_is_not_used(tmp_path: Path) -> None:
    options, teacher = Training(epochs=3, batch_size=16), dense(12)
    with scratch.using(tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(dense(8), data(), options, Taught(teacher), prepare=_interrupted)
        other = dense(12)
        other.set_weights([w * 1.01 for w in other.get_weights()])
        _, record = train(dense(8), data(), options, Taught(other))
        assert "because it is of other objective: training began anew" in record["notes"][0]
        with pytest.raises(KeyboardInterrupt):
            train(dense(8), data(), replace(options, seed=1), Taught(teacher), prepare=_interrupted)
        same = dense(12)
        _, record = train(dense(8), data(), replace(options, seed=1), Taught(same))
        assert record["resumed_from"]["epoch"] == 2


@pytest.mark.parametrize(
    ("what", "change"), [("options", {"momentum": 0.8}), ("data", {}), ("network", {})], ids=lambda v: str(v)
)
def test_a_checkpoint_of_something_else_is_not_used(what: str, change: dict[str, float], tmp_path: Path) -> None:
    options = Training(epochs=3, batch_size=16)
    with scratch.using(tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(dense(8), data(), options, CLASSES, prepare=_interrupted)
        net = dense(8)
        if what == "network":
            net.set_weights([w + 1 for w in net.get_weights()])
        given = data(X + 1) if what == "data" else data()
        _, record = train(net, given, replace(options, **change), CLASSES)  # type: ignore[arg-type]
        assert f"because it is of other {what}" in record["notes"][0]
        assert "resumed_from" not in record
        done = next(tmp_path.glob("training-*.npz"))
        done.write_bytes(done.read_bytes()[:-100])
        _, record = train(net, given, replace(options, **change), CLASSES)  # type: ignore[arg-type]
        assert record["epochs_done"] == 3


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    with scratch.using(tmp_path):
        first, _ = train(dense(8), data(), Training(epochs=2), CLASSES)
        again, record = train(
            dense(8), data(), Training(epochs=2), CLASSES, prepare=lambda n, s: [Poison(0), Poison(1)]
        )
    assert record["resumed_from"]["step"] == 2
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_are_those_of_the_inputs_of_each_normalization() -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((5, 5, 2), name="x")
    inner = keras.Sequential([keras.Input((5, 5, 4)), keras.layers.BatchNormalization(name="second")], name="inner")
    first = keras.layers.BatchNormalization(name="first")(keras.layers.Conv2D(4, 3, padding="same", name="conv")(image))
    net = keras.Model(image, inner(keras.layers.Dropout(0.5)(keras.layers.ReLU()(first))))
    x = RNG.normal(2, 3, (300, 5, 5, 2)).astype(np.float32)
    assert reestimate(net, data(x, None), 300, batch_size=300) == 2
    seen = np.asarray(net.get_layer("conv")(x), np.float64)
    norm = net.get_layer("first")
    np.testing.assert_allclose(norm.moving_mean.numpy(), seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), seen.var((0, 1, 2)), rtol=1e-4)
    then = np.maximum((seen - seen.mean((0, 1, 2))) / np.sqrt(seen.var((0, 1, 2)) + 1e-3), 0)
    norm = net.get_layer("inner").get_layer("second")
    np.testing.assert_allclose(norm.moving_mean.numpy(), then.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), then.var((0, 1, 2)), rtol=1e-3)
    first_norm = net.get_layer("first")
    reestimate(net, data(x, None), 300, batch_size=70)  # in parts: mean and variance of the first are still exact
    np.testing.assert_allclose(first_norm.moving_variance.numpy(), seen.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_statistics_end_exact_on_what_training_saw(noise: float) -> None:
    """Moving averages that are far behind are replaced; of augmented inputs, where these were trained on."""
    keras.utils.set_random_seed(3)
    x = keras.Input((6,), name="x")
    net = keras.Model(x, keras.layers.Dense(3)(keras.layers.BatchNormalization(momentum=0.999, name="bn")(x)))
    many = RNG.normal(size=(4000, 6)).astype(np.float32)
    options = Training(epochs=1, augment=Augment(noise=noise), reestimate=4000)
    trained, record = train(net, data(many, RNG.integers(0, 3, 4000)), options, CLASSES)
    assert record["reestimated"] == 1
    expected = many.var(0) + noise**2 * many.std() ** 2
    np.testing.assert_allclose(trained.get_layer("bn").moving_variance, expected, rtol=0.1)
    left, record = train(net, data(many, RNG.integers(0, 3, 4000)), Training(epochs=1, reestimate=0), CLASSES)
    assert record["reestimated"] == 0
    assert np.abs(left.get_layer("bn").moving_mean).max() < np.abs(many.mean(0)).max() / 2 + 0.01
