"""PruneChannels: budgets are met, the network is plain and smaller, the given one stays, and bad wishes are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.errors import UsageError
from edgedl.frameworks import keras
from edgedl.macs import layers_of
from edgedl.model import Model
from edgedl.stages.prune_channels import PruneChannels, _inputs


def wrapped(net: Any, x: Any, y: Any) -> tuple[Model, Dataset]:
    """A zoo model and its data as stages take them."""
    arrays = x if isinstance(x, dict) else {net.inputs[0].name: x}
    inputs = tuple(TensorSpec(t.name, tuple(t.shape), str(t.dtype)) for t in net.inputs)
    outputs = tuple(TensorSpec(t.name, tuple(t.shape), str(t.dtype)) for t in net.outputs)
    split = Split(arrays, None if isinstance(y, dict) else y)
    data = Dataset(
        split.take(np.arange(200)), split.take(np.arange(200, 400)), split, metric="accuracy",
        dtypes={s.name: s.dtype for s in inputs},
    )  # fmt: skip
    return Model(net, inputs, outputs), data


def accuracy(net: Any, data: Dataset) -> float:
    feed = data.feed(data.validation)
    found = net.predict(list(feed.values()), verbose=0)
    return float((found.argmax(-1) == data.validation.y).mean())


def macs(net: Any) -> int:
    return sum(row.macs for row in layers_of(net))


@pytest.mark.parametrize("name", ["cnn", "resnet", "dscnn", "unet", "nested", "shared", "lstm", "transformer"])
def test_half_the_work_is_gone_and_nothing_else_has_changed(zoo: Any, name: str) -> None:
    net, x, y = zoo(name)
    model, data = wrapped(net, x, y)
    before = [w.copy() for w in net.get_weights()]
    after = PruneChannels(ratio=0.5, samples=64)(model, data)
    assert 0.3 * macs(net) <= macs(after.net) <= 0.5 * macs(net)
    assert [t.shape for t in after.net.outputs] == [t.shape for t in net.outputs]
    assert after.origin is net
    for was, now in zip(before, net.get_weights(), strict=True):
        assert_array_equal(was, now)
    assert keras().models.model_from_json(after.net.to_json()).count_params() == after.net.count_params()
    record = after.records[-1]
    assert record["macs"] == [macs(net), macs(after.net)]
    assert all(small < large for large, small in record["widths"].values())


@pytest.mark.parametrize("criterion", ["surgeon", "taylor", "l2", "bn-scale", "fpgm", "activation"])
def test_every_criterion_beats_the_worst_choice(zoo: Any, criterion: Any) -> None:
    model, data = wrapped(*zoo("resnet"))
    kept = accuracy(PruneChannels(criterion=criterion, ranking="per-layer", samples=128, seed=1)(model, data).net, data)
    assert kept >= 0.6, "of five classes; the dense network is above 0.95"


@pytest.mark.parametrize("name", ["resnet", "cnn", "dscnn"])
def test_fitting_makes_up_for_what_is_gone(zoo: Any, name: str) -> None:
    """KL divergence from the dense network's predictions, one random-like choice of channels for both."""
    model, data = wrapped(*zoo(name))
    feed = list(data.feed(data.validation).values())
    wanted = model.net.predict(feed, verbose=0)
    found = []
    for fit in (True, False):
        scores = PruneChannels(ratio=0.4, criterion="l2", ranking="per-layer", fit=fit)(model, data).net.predict(
            feed, verbose=0
        )
        found.append(float((wanted * (np.log(wanted + 1e-7) - np.log(scores + 1e-7))).sum(1).mean()))
    assert found[0] < found[1] / 4


@pytest.mark.parametrize("budget", ["params", "memory"])
def test_other_budgets(zoo: Any, budget: Any) -> None:
    model, data = wrapped(*zoo("resnet"))
    record = PruneChannels(ratio=0.4, budget=budget, criterion="l2")(model, data).records[-1]
    was, now = record[budget]
    assert now <= (0.6 if budget == "params" else 0.62) * was, "what a group's size is rounded to"


@pytest.mark.parametrize("ranking", ["global", "per-cost", "per-layer"])
def test_counts_are_multiples(zoo: Any, ranking: Any) -> None:
    model, data = wrapped(*zoo("resnet"))
    after = PruneChannels(ratio=0.4, round_to=4, ranking=ranking, criterion="l2")(model, data)
    assert all(small % 4 == 0 for _, small in after.records[-1]["widths"].values())


def test_several_rounds_train_in_between(zoo: Any) -> None:
    model, data = wrapped(*zoo("resnet"))
    after = PruneChannels(ratio=0.6, rounds=2, epochs=2, criterion="taylor", batch_size=64)(model, data)
    assert [len(done["training"]["epochs"]) for done in after.records[-1]["rounds"]] == [1, 1]
    assert macs(after.net) <= 0.4 * macs(model.net)
    assert accuracy(after.net, data) >= 0.8


def test_what_fades_before_the_cut_costs_nothing(zoo: Any) -> None:
    model, data = wrapped(*zoo("resnet"))
    stage = PruneChannels(ratio=0.6, epochs=3, progressive=True, optimizer="sgd", criterion="l2", fit=False)
    after = stage(model, data)
    assert macs(after.net) <= 0.4 * macs(model.net)
    assert accuracy(after.net, data) >= 0.8
    assert len(after.records[-1]["rounds"][0]["training"]["epochs"]) == 3


def test_a_limit_on_each_group_and_its_curves(zoo: Any) -> None:
    model, data = wrapped(*zoo("cnn"))
    record = PruneChannels(ratio=0.2, max_layer_drop=0.3, criterion="l2", samples=64)(model, data).records[-1]
    assert set(record["sensitivity"]) == {"conv2d", "conv2d_1", "dense"}
    assert all(0 < share < 1 for curve in record["sensitivity"].values() for share, _ in curve)


def test_excluded_layers_keep_their_channels(zoo: Any) -> None:
    model, data = wrapped(*zoo("cnn"))
    after = PruneChannels(ratio=0.3, exclude=("conv2d",), criterion="l2")(model, data)
    assert "conv2d" not in after.records[-1]["widths"]
    with pytest.raises(UsageError, match=r"no layer matches the pattern 'conv9\*'"):
        PruneChannels(exclude=("conv9*",))(model, data)


def test_a_budget_that_cannot_be_met_says_what_can(zoo: Any) -> None:
    model, data = wrapped(*zoo("resnet"))
    with pytest.raises(UsageError, match="the smallest this network can be has"):
        PruneChannels(ratio=0.99, min_share=0.5, criterion="l2")(model, data)


def test_a_network_with_nothing_to_prune() -> None:
    x = keras().Input((4,), name="x")
    net = keras().Model(x, keras().layers.Dense(3)(x))
    model, data = wrapped(net, np.zeros((400, 4), np.float32), np.zeros(400, np.int64))
    with pytest.raises(UsageError, match="no channels that can be removed"):
        PruneChannels()(model, data)


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"ratio": 1.0}, {"rounds": 2}, {"min_share": 1.5}, {"samples": 0}])
def test_silly_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PruneChannels(**wrong)


def test_data_that_lies_class_by_class_is_seen_whole() -> None:
    split = Split({"x": np.arange(1000, dtype=np.float32)[:, None]})
    (found,) = _inputs(Dataset(split, split, split), 100, 0)
    assert len(found) == len(np.unique(found)) == 100
    assert abs(found.mean() - 499.5) < 4 * np.std(np.arange(1000)) / 10  # four standard errors of the mean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 3, "epochs": 2}, "several rounds need training between them: rounds is 3"),
        ({"rounds": 2}, "several rounds need training between them"),
        ({"progressive": True, "epochs": 2, "patience": 1}, "channels have not faded yet"),
    ],
)
def test_training_that_could_not_do_its_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneChannels(**options)
