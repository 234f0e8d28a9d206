"""The cluster stage: at most so many values in each kernel, exactly; zeros kept; tfmot beside it; int8 afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset
from edgedl.errors import ModelError, UsageError
from edgedl.model import GraphFile, Model
from edgedl.stages.cluster import Cluster
from edgedl.stages.prune_weights import PruneWeights
from edgedl.stages.sparsity.kernels import kernels

Data = Callable[..., Dataset]


def values(model: Model) -> dict[str, Any]:
    return {k.name: k.value() for k in kernels(model.net)}


@pytest.mark.parametrize(
    ("init", "count", "epochs"), [("linear", 16, 0), ("density", 2, 0), ("kmeans++", 16, 0), ("linear", 16, 2)]
)
def test_at_most_so_many_values_in_each_kernel(
    small: Model, data_for: Data, init: Any, epochs: int, count: int
) -> None:
    clustered = Cluster(epochs=epochs, batch_size=16, clusters=count, init=init, ema=0.5)(small, data_for(small))
    record = clustered.records[-1]
    for name, value in values(clustered).items():
        assert 1 < len(np.unique(value)) <= count, name
    assert [row["distinct"] for row in record["layers"]] == [len(np.unique(v)) for v in values(clustered).values()]
    assert record["folded"] == 3


def test_training_moves_the_table_and_not_the_members(small: Model, data_for: Data) -> None:
    data = data_for(small)
    begun, trained = (Cluster(epochs=e, batch_size=16, clusters=8)(small, data) for e in (0, 3))
    for old, new in zip(values(begun).values(), values(trained).values(), strict=True):
        pairs = np.unique(np.stack([old.ravel(), new.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(old)), "members of a cluster stay together"
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("epochs", [0, 2])
def test_zeros_stay_and_count_as_one_of_the_values(small: Model, data_for: Data, epochs: int) -> None:
    data = data_for(small)
    pruned = PruneWeights(epochs=0, sparsity=0.8)(small, data)
    clustered = Cluster(epochs=epochs, batch_size=16, clusters=4)(pruned, data)
    for name in ("first/kernel", "point/kernel", "head/kernel"):
        before, after = values(pruned)[name], values(clustered)[name]
        assert (after[before == 0] == 0).all()
        assert len(np.unique(after)) <= 4
    assert clustered.records[-1]["after"]["zip_bytes"] < pruned.records[-1]["after"]["zip_bytes"]


def test_as_many_values_as_weights_change_only_what_folding_rounds(small: Model, data_for: Data) -> None:
    clustered = Cluster(epochs=0, clusters=4096, reestimate=0)(small, data_for(small))
    x = data_for(small).validation.x["image"]
    np.testing.assert_allclose(clustered.net.predict(x, verbose=0), small.net.predict(x, verbose=0), atol=1e-5)


POINTWISE = (32, 1, 1, 16)  # the kernel of "point" as a .tflite has it: output, height, width, input


def in_file(model: Model, data: Dataset, path: Path) -> Any:
    """The kernel of "point" in the .tflite of a model, as LiteRT reads it."""
    from ai_edge_litert.interpreter import Interpreter

    from edgedl.registry import find

    net = Interpreter(str(find("converter", "tflite")()(model, data, path).path))
    net.allocate_tensors()
    (found,) = [d["index"] for d in net.get_tensor_details() if tuple(d["shape"]) == POINTWISE]
    return net.get_tensor(found)


def test_the_file_has_the_table_because_normalization_was_folded(small: Model, data_for: Data, tmp_path: Path) -> None:
    """A float .tflite folds normalization into kernels, channel by channel: without `fold` no table survives that."""
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    data = data_for(small)
    counts = {
        fold: len(
            np.unique(in_file(Cluster(epochs=0, clusters=8, fold=fold)(small, data), data, tmp_path / f"{fold}.tflite"))
        )
        for fold in (True, False)
    }
    assert counts[True] <= 8
    assert counts[False] > 64


def test_int8_keeps_zeros_but_the_table_only_in_each_channel(small: Model, data_for: Data, tmp_path: Path) -> None:
    """Symmetric scales map zero to zero; a scale for each output channel makes more integers than the table has."""
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    from edgedl.stages.quantize import Quantize

    data = data_for(small)
    clustered = Cluster(epochs=0, clusters=8)(PruneWeights(epochs=0, sparsity=0.5)(small, data), data)
    kernel = values(clustered)["point/kernel"].transpose(3, 0, 1, 2)
    found = in_file(Quantize("int8")(clustered, data), data, tmp_path / "int8.tflite")
    assert found.dtype == np.int8
    assert (found[kernel == 0] == 0).all()
    assert all(len(np.unique(channel)) <= 8 for channel in found)
    assert len(np.unique(found)) > 8
    one_scale = np.round(kernel / (np.abs(kernel).max() / 127))
    assert len(np.unique(one_scale)) <= 8


def test_tfmot_gives_the_same_table_from_the_same_beginning(small: Model, data_for: Data) -> None:
    """Evenly spaced centroids, before any training: float32, one in TensorFlow, one in numpy."""
    pytest.importorskip("tensorflow_model_optimization", reason="needs pip install 'edgedl[tfmot]'")
    data = data_for(small)
    pruned = PruneWeights(epochs=0, sparsity=0.5)(small, data)
    for model in (small, pruned):
        ours = Cluster(epochs=0, iterations=0)(model, data)
        theirs = Cluster(epochs=0, engine="tfmot")(model, data)
        for name in ("first/kernel", "point/kernel", "head/kernel"):  # it leaves depthwise kernels as they are
            np.testing.assert_allclose(values(ours)[name], values(theirs)[name], atol=1e-6)


def test_tfmot_trains_a_table(small: Model, data_for: Data) -> None:
    pytest.importorskip("tensorflow_model_optimization", reason="needs pip install 'edgedl[tfmot]'")
    clustered = Cluster(epochs=2, batch_size=16, clusters=8, engine="tfmot")(small, data_for(small))
    found = values(clustered)
    assert all(len(np.unique(found[n])) <= 8 for n in ("first/kernel", "point/kernel", "head/kernel"))
    assert len(clustered.records[-1]["epochs"]) == 2


def test_recurrent_and_attention_kernels(as_model: Any, data_for: Data) -> None:
    from edgedl.frameworks import keras

    keras().utils.set_random_seed(0)
    L = keras().layers
    x = keras().Input((6, 5), name="x")
    y = L.GRU(7, return_sequences=True, name="gru")(x)
    y = L.MultiHeadAttention(2, 4, name="attention")(y, y)
    model = as_model(keras().Model(x, L.Dense(3, activation="softmax")(L.GlobalAveragePooling1D()(y))))
    clustered = Cluster(epochs=1, batch_size=16, clusters=8)(model, data_for(model))
    assert len(values(clustered)) == 7
    assert all(len(np.unique(v)) <= 8 for v in values(clustered).values())


@pytest.mark.parametrize("count", [1, 0, -3, 70_000])
def test_tables_that_cannot_be(count: int) -> None:
    with pytest.raises(UsageError, match=f"clusters is {count}, but a table has from 2"):
        Cluster(clusters=count)


def test_models_and_options_that_it_cannot_work_on(small: Model, as_model: Any, data_for: Data) -> None:
    from edgedl.frameworks import keras

    data, spec = data_for(small), (TensorSpec("x", (None, 4), "float32"),)
    with pytest.raises(UsageError, match=r"clustering needs a Keras model, and m\.onnx"):
        Cluster()(Model(GraphFile(Path("m.onnx"), "onnx"), spec, spec), data)
    with pytest.raises(UsageError, match="matches 'heed' of exclude: did you mean 'head'"):
        Cluster(exclude=("heed",))(small, data)
    with pytest.raises(UsageError, match="knows nothing of iterations"):
        Cluster(engine="tfmot", iterations=3)(small, data)
    x = keras().Input((4,), name="x")
    with pytest.raises(ModelError, match="has none"):
        Cluster()(as_model(keras().Model(x, keras().layers.Softmax()(x))), data)
    odd = keras().Model(x, keras().layers.Dense(3)(keras().ops.sin(x)))
    with pytest.raises(ModelError, match=r"no counterpart of 'sin' \(Sin\)"):
        Cluster(engine="tfmot", epochs=0)(as_model(odd), data)
