"""Pruning where no data was given: it is said, and statistics stay as they were trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgedl.artifact import TensorSpec
from edgedl.data import DataOptions, Dataset, load
from edgedl.model import Model
from edgedl.stages.prune_channels import NOTE_GENERATED, PruneChannels


def wrapped(net: Any) -> tuple[Model, Dataset]:
    """A network and the inputs that a run generates for it."""
    inputs, outputs = (
        tuple(TensorSpec(t.name, tuple(t.shape), str(t.dtype)) for t in ts) for ts in (net.inputs, net.outputs)
    )
    data = load(DataOptions(), inputs, outputs, seed=0)
    assert data.generated
    return Model(net, inputs, outputs), data


def test_statistics_stay_as_trained_and_it_is_said(zoo: Any) -> None:
    """Kernels are not fitted here, and normalization is not measured anew on inputs that are not the model's."""
    net, _, _ = zoo("dscnn")
    model, data = wrapped(net)
    after = PruneChannels(criterion="l2", fit=False, reestimate=64)(model, data)
    assert NOTE_GENERATED in after.notes
    for layer in net.layers:
        if hasattr(layer, "moving_mean"):
            left = np.asarray(after.net.get_layer(layer.name).moving_mean)
            assert set(left.tolist()) <= set(np.asarray(layer.moving_mean).tolist())
