"""The finetune stage: the loss fits output and labels, the model gets better, and the record says what was done."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.artifact import TensorSpec  # noqa: E402
from edgedl.data import Dataset, Split  # noqa: E402
from edgedl.errors import DataError, UsageError  # noqa: E402
from edgedl.model import Model  # noqa: E402
from edgedl.stages.finetune import Finetune  # noqa: E402
from edgedl.stages.training.task import labelled  # noqa: E402

RNG = np.random.default_rng(0)


def model(*outputs: Any) -> Model:
    """A model whose outputs are layers on one dense layer."""
    node = keras.Input((6,), name="x")
    made = [layer(node) for layer in outputs]
    net = keras.Model(node, made)
    specs = tuple(TensorSpec(f"out{i}", tuple(t.shape), "float32") for i, t in enumerate(made))
    return Model(net, (TensorSpec("x", (None, 6), "float32"),), specs)


def dense(units: int, activation: str | None = None) -> Any:
    return keras.layers.Dense(units, activation=activation)


def softmax_behind(node: Any) -> Any:
    return keras.layers.Reshape((1, 3))(keras.ops.softmax(dense(3)(node)))


def data(y: Any, metric: str = "accuracy") -> Dataset:
    split = Split({"x": RNG.normal(size=(len(y), 6)).astype(np.float32)}, y)
    return Dataset(split, split, split, metric=metric)


INTS, BITS = RNG.integers(0, 3, 32), RNG.integers(0, 2, 32)
REAL = RNG.normal(size=(32, 1)).astype(np.float32)
K = keras.losses


@pytest.mark.parametrize(
    ("output", "y", "metric", "kind", "oracle"),
    [
        (dense(3, "softmax"), INTS, "accuracy", "probabilities", K.SparseCategoricalCrossentropy()),
        (softmax_behind, INTS, "accuracy", "probabilities", None),
        (dense(3), INTS, "accuracy", "logits", K.SparseCategoricalCrossentropy(from_logits=True)),
        (dense(1, "sigmoid"), BITS, "accuracy", "sigmoid", K.BinaryCrossentropy()),
        (dense(1), BITS, "accuracy", "binary-logit", K.BinaryCrossentropy(from_logits=True)),
        (dense(1), REAL, "mae", "values", K.MeanSquaredError()),
        (dense(3, "softmax"), np.eye(3, dtype=np.float32)[INTS], "accuracy", "probabilities", K.CategoricalCrossentropy()),
    ],
)  # fmt: skip
def test_the_loss_is_that_of_keras(output: Any, y: Any, metric: str, kind: str, oracle: Any) -> None:
    made, given = model(output), data(y, metric)
    loss = labelled(made, given)
    assert loss.kind == kind
    x = given.validation.x["x"]
    found = made.net(x)
    found = found[0] if isinstance(found, list) else found
    got = float(loss([x], keras.ops.convert_to_tensor(y), [found], {}))
    if oracle is None:
        oracle, found = K.SparseCategoricalCrossentropy(), found[:, 0]
    shaped = y.reshape(-1, 1) if found.shape[-1] == 1 else y
    assert got == pytest.approx(float(oracle(shaped, found)), rel=1e-4)


def test_labels_are_for_the_output_of_the_metric() -> None:
    assert labelled(model(dense(2), dense(3, "softmax")), data(INTS, "out1:accuracy")).at == 1


@pytest.mark.parametrize(
    ("output", "y", "told"),
    [
        (dense(3, "softmax"), INTS + 1, "classes 0 to 2"),
        (dense(3), REAL, "do not fit"),
        (dense(3), None, "needs labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(output: Any, y: Any, told: str) -> None:
    given = data(np.zeros(32)) if y is None else data(y, "mae" if y is REAL else "accuracy")
    if y is None:
        split = Split(given.validation.x)
        given = Dataset(split, split, split)
    with pytest.raises(DataError, match=told):
        labelled(model(output), given)


def test_fine_tuning_lowers_the_loss_and_says_so() -> None:
    made = model(dense(3, "softmax"))
    after = Finetune(epochs=8, learning_rate=0.05, label_smoothing=0.1)(made, data(INTS))
    (record,) = after.records
    assert record["stage"] == "finetune"
    assert record["epochs"][-1]["val_loss"] < record["epochs"][0]["val_loss"]
    assert after.history[-1].startswith("fine-tuned for 8 epochs: loss ")
    assert after.origin is made.net
    assert json.loads(json.dumps(record)) == record


def test_the_history_says_that_it_stopped_early() -> None:
    after = Finetune(epochs=80, batch_size=16, learning_rate=0.1, patience=2, schedule="constant")(
        model(dense(3, "softmax")), data(INTS)
    )
    (record,) = after.records
    assert record["ended"] == "early"
    assert after.history[-1].endswith(f", stopped early; the weights of epoch {record['best_epoch']} are kept")


def test_the_history_says_that_the_loss_was_no_longer_a_number() -> None:
    """Squared errors of ever larger outputs: at this rate they leave float32 after some epochs."""
    after = Finetune(epochs=60, batch_size=32, optimizer="sgd", learning_rate=60.0, schedule="constant", warmup=0.0)(
        model(dense(1)), data(REAL, "mae")
    )
    (record,) = after.records
    assert record["ended"] == "diverged"
    assert 0 < record["epochs_done"] < 60
    told = f"then the loss was no longer a number; the weights of epoch {record['epochs_done']} are kept"
    assert after.history[-1].endswith(told)
    assert np.all([np.isfinite(w).all() for w in after.net.get_weights()])


def test_smoothing_of_more_than_all_is_refused() -> None:
    with pytest.raises(UsageError, match="label_smoothing"):
        Finetune(label_smoothing=1.0)
