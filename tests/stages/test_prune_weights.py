"""The prune_weights stage: the share and pattern of zeros, exactly; tfmot beside it; what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset
from edgedl.errors import DataError, EdgedlError, ModelError, UsageError
from edgedl.model import GraphFile, Model
from edgedl.stages.prune_weights import PruneWeights
from edgedl.stages.sparsity.kernels import kernels
from edgedl.stages.sparsity.patterns import holds, parse

Data = Callable[..., Dataset]


def masks(model: Model) -> dict[str, Any]:
    """Kernel name -> `[stack, output, input]`, true where a weight is not zero."""
    return {k.name: k.rows(k.value()) != 0 for k in kernels(model.net)}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.93])
def test_at_once_the_largest_stay_as_they_were(small: Model, data_for: Data, share: float) -> None:
    pruned = PruneWeights(epochs=0, sparsity=share)(small, data_for(small))
    record = pruned.records[-1]
    chosen = {row["kernel"] for row in record["layers"]}
    assert chosen == {"first/kernel", "point/kernel", "head/kernel"}
    assert record["left_alone"] == [{"kernel": "depth/kernel", "why": "depthwise"}]
    for before, after in zip(kernels(small.net), kernels(pruned.net), strict=True):
        old, new = before.value(), after.value()
        gone = new == 0
        np.testing.assert_array_equal(new[~gone], old[~gone])
        if before.name in chosen:
            assert gone.sum() == old.size - round(old.size * (1 - share))
            assert np.abs(old[gone]).max(initial=0) <= np.abs(old[~gone]).min()
        else:
            assert not gone.any()


@pytest.mark.parametrize(
    ("pattern", "epochs"), [("2:4", 0), ("1:4", 0), ("1x4", 0), ("4x2", 0), ("2:4", 2), ("1x4", 2)]
)
def test_patterns_lie_along_the_inputs_and_survive_training(
    small: Model, data_for: Data, pattern: str, epochs: int
) -> None:
    options = PruneWeights(epochs=epochs, batch_size=16, pattern=pattern, include=("point", "first"))
    pruned = options(small, data_for(small))
    found = masks(pruned)
    for name in ("point/kernel", "first/kernel"):
        assert holds(found[name], parse(pattern))
        assert found[name].any()
    assert np.mean(~found["point/kernel"]) == pytest.approx(parse(pattern).share or 0.8, abs=0.02)
    assert found["head/kernel"].all()


@pytest.mark.parametrize(("ranking", "method"), [("layer", "magnitude"), ("global", "magnitude"), ("lamp", "movement")])
def test_trained_to_the_share_exactly(small: Model, data_for: Data, ranking: Any, method: Any) -> None:
    stage = PruneWeights(epochs=3, batch_size=16, sparsity=0.75, method=method, ranking=ranking, ema=0.5)
    pruned = stage(small, data_for(small))
    record = pruned.records[-1]
    total = sum(row["weights"] for row in record["layers"])
    assert record["zeros"] == sum(row["zeros"] for row in record["layers"])
    assert record["zeros"] == pytest.approx(0.75 * total, abs=2)
    assert record["aim"] == "labels"
    assert record["epochs_done"] == 3
    found = {k.name: k.value() for k in kernels(pruned.net)}
    assert {row["kernel"]: row["zeros"] for row in record["layers"]} == {
        row["kernel"]: int((found[row["kernel"]] == 0).sum()) for row in record["layers"]
    }
    assert not any(np.signbit(v[v == 0]).any() for v in found.values()), "zeros are positive: they zip as one byte"
    assert all(np.isfinite(w).all() for w in pruned.net.get_weights())
    assert record["after"]["zip_bytes"] < record["before"]["zip_bytes"]


def test_movement_takes_other_weights_than_magnitude(small: Model, data_for: Data) -> None:
    data = data_for(small)
    kept = [
        masks(PruneWeights(epochs=3, batch_size=16, sparsity=0.5, method=method)(small, data))["point/kernel"]
        for method in ("magnitude", "movement")
    ]
    assert 0.2 < np.mean(kept[0] != kept[1]) < 0.8


def test_movement_keeps_what_training_makes_larger(as_model: Any, data_for: Data) -> None:
    """A weight that starts small and has to grow stays; one that starts large and has to go, goes (Sanh et al., 2020)."""
    from edgedl.frameworks import keras

    x = keras().Input((2,), name="x")
    net = keras().Model(x, keras().layers.Dense(1, use_bias=False, name="d")(x))
    net.layers[1].set_weights([np.array([[0.5], [1.0]], np.float32)])
    model = as_model(net)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 2)).astype(np.float32)
    data = data_for(model)
    split = dataclasses.replace(data.validation, x={"x": inputs}, y=(3 * inputs[:, :1]).astype(np.float32))
    data = dataclasses.replace(data, train=split, calibration=split, validation=split, metric="mse", labels=())
    common = {"epochs": 4, "batch_size": 8, "sparsity": 0.5, "optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.0}
    by_movement = PruneWeights(**common, method="movement")(model, data)
    by_magnitude = PruneWeights(**common, start=0.5)(model, data)
    assert masks(by_movement)["d/kernel"].ravel().tolist() == [True, False]
    assert masks(by_magnitude)["d/kernel"].ravel().tolist() == [False, True]


def test_without_labels_it_learns_from_the_origin(as_model: Any, data_for: Data) -> None:
    from edgedl.frameworks import keras

    keras().utils.set_random_seed(0)
    L, x = keras().layers, keras().Input((8,), name="x")
    model = as_model(keras().Model(x, L.Dense(4, activation="softmax")(L.Dense(32, activation="relu")(x))))
    data = data_for(model, 256, labels=False)
    inputs = data.validation.x["x"]
    expected = model.net.predict(inputs, verbose=0)
    error = {}
    for epochs in (0, 12):
        pruned = PruneWeights(epochs=epochs, batch_size=16, sparsity=0.5)(model, data)
        error[epochs] = float(np.abs(pruned.net.predict(inputs, verbose=0) - expected).mean())
    assert pruned.records[-1]["aim"] == "origin"
    assert error[12] < error[0]


@pytest.mark.parametrize("loss", ["labels", "origin"])
def test_without_any_sample_there_is_nothing_to_train_on(small: Model, data_for: Data, loss: Any) -> None:
    data = data_for(small)
    none = data.validation.take(np.arange(0))
    with pytest.raises(DataError, match="there is no training data"):
        PruneWeights(epochs=1, loss=loss)(small, dataclasses.replace(data, train=none))


def test_zeros_of_an_earlier_stage_stay(small: Model, data_for: Data) -> None:
    data = data_for(small)
    first = PruneWeights(epochs=0, sparsity=0.5)(small, data)
    second = PruneWeights(epochs=2, batch_size=16, sparsity=0.8)(first, data)
    for before, after in zip(masks(first).values(), masks(second).values(), strict=True):
        assert not (after & ~before).any()
    assert second.origin is small.net
    assert len(second.records) == 2


def test_what_it_was_given_stays_as_it_was(small: Model, data_for: Data) -> None:
    before = [w.copy() for w in small.net.get_weights()]
    PruneWeights(epochs=1, sparsity=0.9)(small, data_for(small))
    for old, new in zip(before, small.net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:4"])
def test_tfmot_takes_the_same_weights_at_once(small: Model, data_for: Data, pattern: str) -> None:
    pytest.importorskip("tensorflow_model_optimization", reason="needs pip install 'edgedl[tfmot]'")
    share = 0.7 if pattern == "unstructured" else None
    data, both = data_for(small), []
    for engine in ("edgedl", "tfmot"):
        stage = PruneWeights(epochs=0, pattern=pattern, sparsity=share, engine=engine, reestimate=1000)  # type: ignore[arg-type]
        both.append(stage(small, data))
    for ours, theirs in zip(*(kernels(m.net) for m in both), strict=True):
        np.testing.assert_array_equal(ours.value(), theirs.value())


def test_tfmot_takes_the_same_blocks_of_a_dense_layer(as_model: Any, data_for: Data) -> None:
    pytest.importorskip("tensorflow_model_optimization", reason="needs pip install 'edgedl[tfmot]'")
    from edgedl.frameworks import keras

    keras().utils.set_random_seed(0)
    x = keras().Input((16,), name="x")
    model = as_model(keras().Model(x, keras().layers.Dense(8, name="d")(x)))
    found = [
        PruneWeights(epochs=0, pattern="2x4", sparsity=0.5, engine=engine)(model, data_for(model, labels=False))
        for engine in ("edgedl", "tfmot")
    ]  # type: ignore[arg-type]
    np.testing.assert_array_equal(*(k[0].value() for k in (kernels(m.net) for m in found)))


def test_tfmot_trains_to_the_share(small: Model, data_for: Data) -> None:
    pytest.importorskip("tensorflow_model_optimization", reason="needs pip install 'edgedl[tfmot]'")
    pruned = PruneWeights(epochs=2, batch_size=16, sparsity=0.75, engine="tfmot")(small, data_for(small))
    record = pruned.records[-1]
    assert record["engine"] == "tfmot"
    assert record["zeros"] == pytest.approx(0.75 * record["weights"], abs=2)
    assert len(record["epochs"]) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"sparsity": 1.0}, "sparsity is 1, but it is a share"),
    ({"sparsity": -0.1}, "sparsity is -0.1"),
    ({"sparsity": float("nan")}, "sparsity is nan"),
    ({"start": 1.0}, "start is 1"),
    ({"pattern": "3:2"}, "the pattern 3:2 keeps 3 of 2"),
    ({"pattern": "2:4", "sparsity": 0.9}, "makes 0.5 of the weights zero, and sparsity is 0.9"),
    ({"rise": 0.0}, "rise is 0"),
    ({"every": -1}, "every is -1"),
    ({"pattern": "target", "target": "toaster"}, "no block of sparse kernels is known"),
    ({"epochs": -1}, "epochs is -1"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneWeights(**options)


WRONG: list[tuple[dict[str, Any], type[EdgedlError], str]] = [
    ({"method": "movement", "epochs": 0}, UsageError, "epochs is 0"),
    ({"patience": 2}, UsageError, "patience goes back"),
    ({"include": ("frist",)}, UsageError, "did you mean 'first'"),
    ({"loss": "labels"}, DataError, "needs labels"),
    ({"engine": "tfmot", "ranking": "global"}, UsageError, "knows nothing of ranking"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG)
def test_what_does_not_go_with_the_model_or_the_data(
    small: Model, data_for: Data, options: dict[str, Any], error: type[EdgedlError], message: str
) -> None:
    with pytest.raises(error, match=message):
        PruneWeights(**options)(small, data_for(small, labels=False))


def test_models_that_it_cannot_work_on(as_model: Any, data_for: Data) -> None:
    from edgedl.frameworks import keras

    spec = (TensorSpec("x", (None, 4), "float32"),)
    x = keras().Input((4,), name="x")
    plain = as_model(keras().Model(x, keras().layers.ReLU()(x), name="plain"))
    data = data_for(plain, labels=False)
    with pytest.raises(UsageError, match=r"pruning weights needs a Keras model, and m\.tflite"):
        PruneWeights()(Model(GraphFile(Path("m.tflite"), "tflite"), spec, spec), data)
    with pytest.raises(ModelError, match="'plain' has none"):
        PruneWeights()(plain, data)
    broken = as_model(
        keras().Model(x, keras().layers.Dense(3, kernel_initializer=lambda s, dtype: np.full(s, np.nan))(x))
    )
    with pytest.raises(ModelError, match="are NaN or infinite"):
        PruneWeights()(broken, data)
