"""Distillation of networks of every kind at half their width: on inputs alone, all parts of the loss, a few batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.model import Model
from edgedl.stages.distill import Distill
from edgedl.stages.distilling.outputs import made

Zoo = Callable[[str], tuple[Any, Any, Any]]
NETWORKS = {  # name -> what is decided at each output
    "lstm": ["classes"],
    "gru": ["classes"],
    "transformer": ["classes"],
    "generator": ["values"],
    "twotower": ["values"],
    "unet": ["binary"],
    "multi_io": ["classes", "values"],
    "shared": ["binary"],
    "nested": ["classes"],
}


def as_model(net: Any, x: Any) -> tuple[Model, Dataset]:
    """A Keras network as a Model, and 256 of its inputs without labels."""
    inputs = tuple(TensorSpec(t.name, tuple(t.shape), str(t.dtype)) for t in net.inputs)
    outputs = tuple(
        TensorSpec(n, tuple(t.shape), str(t.dtype)) for n, t in zip(net.output_names, net.outputs, strict=True)
    )
    split = Split({s.name: (x[s.name] if isinstance(x, dict) else x)[:256] for s in inputs})
    data = Dataset(split, split.take(np.arange(32)), split, dtypes={s.name: s.dtype for s in inputs})
    return Model(net, inputs, outputs), data


@pytest.mark.parametrize("name", NETWORKS)
def test_half_the_width_comes_back(zoo: Zoo, name: str) -> None:
    net, x, _ = zoo(name)
    model, data = as_model(net, x)
    options = Distill(
        epochs=5, batch_size=32, width=0.5, features=0.5, relational=0.5, learning_rate=3e-3, reestimate=0
    )
    after = options(model, data)
    record = after.records[-1]
    assert after.net.count_params() < 0.8 * net.count_params()
    assert list(record["outputs"].values()) == NETWORKS[name]
    assert {"logits", "features", "relational"} <= set(record["parts"])
    assert record["parts"]["logits"][-1] < record["parts"]["logits"][0]
    assert record["epochs"][-1]["loss"] < record["epochs"][0]["loss"]
    assert [t.shape for t in after.net.outputs] == [t.shape for t in net.outputs]
    assert (after.inputs, after.outputs) == (model.inputs, model.outputs)


def test_what_makes_an_output_is_seen_through_what_passes_it_on() -> None:
    from edgedl.frameworks import keras

    k, L = keras(), keras().layers
    x = k.Input((4, 6))
    inner = k.Model(x, L.Dense(3, activation="softmax")(x))
    assert made(inner.outputs[0]).by == "softmax"
    assert made(L.Reshape((2, 2, 3))(L.Softmax()(L.Dense(3)(x)))).by == "softmax"
    assert made(L.Softmax(axis=1)(x)) == made(k.ops.softmax(x, axis=1))
    assert made(L.Softmax(axis=1)(x)).axis == 1
    assert made(inner(k.Input((4, 6)))).by == "softmax"
    assert made(L.Activation("sigmoid")(x)).by == "sigmoid"
    assert made(k.ops.sigmoid(x)).by == "sigmoid"
    assert made(L.Dense(3)(x)).by == ""
    assert made(L.Flatten()(L.Softmax()(x))).by == "", "the classes no longer lie on one axis"
