"""The low_rank stage: exact at full rank, as far off as the discarded singular values say, and only where it saves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.engine import describe, predict
from edgedl.errors import UsageError
from edgedl.frameworks import keras
from edgedl.macs import layers_of
from edgedl.model import Model
from edgedl.registry import find
from edgedl.stages.factoring.decompose import Metric
from edgedl.stages.factoring.sites import metrics, sites
from edgedl.stages.factoring.split import apply, factored
from edgedl.stages.low_rank import LowRank

PLAIN = Metric()
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def model_of(net: Any, x: Any) -> tuple[Model, Dataset, list[Any]]:
    """A Model, its inputs as a Dataset without labels, and the arrays in the network's order."""
    feed = x if isinstance(x, dict) else {net.inputs[0].name: x}
    if isinstance(x, list):
        feed = dict(zip([t.name for t in net.inputs], x, strict=True))
    inputs = tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in net.inputs)
    outputs = tuple(TensorSpec(name, tuple(t.shape), t.dtype) for name, t in zip(net.output_names, net.outputs, strict=True))  # fmt: skip
    split = Split(feed)
    kinds = {s.name: s.dtype for s in inputs}
    return Model(net, inputs, outputs), Dataset(split, split, dtypes=kinds), [feed[s.name] for s in inputs]


def run(net: Any, arrays: list[Any], count: int = 64) -> list[Any]:
    found = net.predict([a[:count] for a in arrays] if len(arrays) > 1 else arrays[0][:count], verbose=0)
    return found if isinstance(found, list) else list(found.values()) if isinstance(found, dict) else [found]


def full(site: Any) -> tuple[int, ...]:
    ins, outs = site.kernel.shape[-2:]
    return (min(ins, outs),) if site.is_matrix else (ins, outs)


# --- networks


@st.composite
def convolutions(draw: Any) -> tuple[Any, Any]:
    """A network of one convolution of any kind with an activation, and inputs."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    k, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    dilation = draw(st.integers(1, 2)) if stride == 1 else 1
    padding = draw(st.sampled_from(["same", "valid", "causal"][: 3 if rank == 1 else 2]))
    ins, outs = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    kind = getattr(keras().layers, f"Conv{rank}D")
    layer = kind(
        outs, k, stride, padding=padding, dilation_rate=dilation, activation=draw(st.sampled_from([None, "relu", "tanh"])),
        use_bias=draw(st.booleans()), bias_initializer=keras().initializers.RandomNormal(seed=3), name="conv",
        kernel_initializer=keras().initializers.GlorotUniform(seed=4),
    )  # fmt: skip
    node = keras().Input((*(7, 8, 6)[:rank], ins), name="x")
    net = keras().Model(node, layer(node))
    return net, np.random.default_rng(1).normal(size=(6, *node.shape[1:])).astype(np.float32)


@given(convolutions(), st.booleans())
@settings(parent=QUICK, max_examples=12)
def test_a_convolution_of_any_kind_is_the_same_at_full_rank(case: tuple[Any, Any], aware: bool) -> None:
    net, x = case
    found, _ = sites(net)
    metric = metrics(net, found, [x])["conv"] if aware else PLAIN
    split = factored(found[0], full(found[0]), metric)
    new = apply(net, {"conv": split})
    np.testing.assert_allclose(run(new, [x])[0], run(net, [x])[0], rtol=1e-5, atol=2e-5)
    assert split.error < 1e-5
    if not found[0].is_matrix:  # one less on each side, so that all three layers are there
        ins, outs = found[0].kernel.shape[-2:]
        ranks = (max(ins - 1, 1), max(outs - 1, 1))
        split = factored(found[0], ranks, metric)
        new = apply(net, {"conv": split})
        rows = [row for row in layers_of(new) if row.name.startswith("conv_")]
        assert (sum(r.macs for r in rows), sum(r.parameters for r in rows) - (outs if found[0].layer.use_bias else 0)) == found[0].cost(ranks)  # fmt: skip


NAMES = ("resnet", "dscnn", "transformer", "unet", "multi_io", "shared", "nested")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_any_kind_is_the_same_at_full_rank(zoo: Any, name: str) -> None:
    net, x, _ = zoo(name)
    model, data, arrays = model_of(net, x)
    before = [w.copy() for w in net.get_weights()]
    found, _ = sites(net)
    seen = metrics(net, found, [data.feed(data.calibration, 0, 64)[s.name] for s in model.inputs])
    assert seen.keys() == {s.path for s in found}
    new = apply(net, {s.path: factored(s, full(s), seen[s.path]) for s in found})
    for a, b in zip(run(new, arrays), run(net, arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(b).max())))
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True))


def test_costs_are_those_of_the_new_network(zoo: Any) -> None:
    for name in ("resnet", "shared", "nested", "transformer"):
        net, x, _ = zoo(name)
        model, data, _ = model_of(net, x)
        after = LowRank(energy=0.5, reestimate=0)(model, data)
        record = after.records[-1]
        assert record["layers"], name
        saved = sum(e["macs"][0] - e["macs"][1] for e in record["layers"])
        assert record["macs"][0] - record["macs"][1] == saved > 0
        assert record["parameters"] == [net.count_params(), after.net.count_params()]
        assert net.count_params() - after.net.count_params() == sum(e["parameters"][0] - e["parameters"][1] for e in record["layers"])  # fmt: skip
        assert after.origin is net


def test_the_output_error_is_what_the_record_says() -> None:
    keras().utils.set_random_seed(1)
    node = keras().Input((10, 10, 8), name="x")
    net = keras().Model(node, keras().layers.Conv2D(16, 3, padding="same", name="conv")(node))
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(128, 10, 10, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(128, 10, 10, 8)) + 2).astype(np.float32)  # fmt: skip
    model, data, _ = model_of(net, x)
    for aware in (True, False):
        after = LowRank(energy=0.8, data_aware=aware)(model, data)
        entry = after.records[-1]["layers"][0]
        wanted, found = run(net, [x], 128)[0], run(after.net, [x], 128)[0]
        measured = np.linalg.norm(found - wanted) / np.linalg.norm(wanted - wanted.mean(axis=(0, 1, 2)))
        if aware:
            assert entry["of"] == "outputs"
            assert measured == pytest.approx(entry["error"], rel=0.05)


def errors_at(net: Any, feed: list[Any], x: list[Any], share: float) -> tuple[Any, Any, Any]:
    """Outputs of the network, and of it split at a share of the full ranks: in the metric of the data, and without."""
    found, _ = sites(net)
    seen = metrics(net, found, feed)
    ranks = {s.path: tuple(max(int(r * share), 1) for r in full(s)) for s in found}
    nets = (apply(net, {s.path: factored(s, ranks[s.path], m[s.path]) for s in found}) for m in (seen, dict.fromkeys(seen, PLAIN)))  # fmt: skip
    wanted, aware, plain = (run(n, x, len(x[0]))[0] for n in (net, *nets))
    return wanted, aware, plain


def test_data_makes_the_error_of_the_outputs_smaller_at_equal_ranks(zoo: Any) -> None:
    net, x, _ = zoo("cnn")
    wanted, aware, plain = errors_at(net, [x[:256]], [x[256:]], 0.75)
    assert np.mean((aware - wanted) ** 2) < 0.7 * np.mean((plain - wanted) ** 2)  # measured: 0.46


@pytest.mark.acceptance
def test_data_keeps_the_accuracy_of_resnet_8_where_weights_alone_lose_it(assets: Path) -> None:
    net = keras().models.load_model(assets / "models/mlperf_tiny/pretrainedResnet.h5", compile=False)
    with np.load(assets / "datasets/mlperf_tiny/ic01.npz", allow_pickle=False) as file:
        x, y = file["x"].astype(np.float32), file["y"].ravel()
    found = errors_at(net, [x[1::2]], [x[::2]], 0.7)
    _, aware, plain = (float(np.mean(f.argmax(-1) == y[::2])) for f in found)
    assert aware > plain + 0.2  # measured on another half: 0.62 and 0.17 of 0.85


def test_a_budget_is_met_by_all_layers_together(zoo: Any) -> None:
    net, x, _ = zoo("resnet")
    model, data, _ = model_of(net, x)
    for measure in ("macs", "parameters"):
        before, after = LowRank(rank="budget", budget=0.7, measure=measure, samples=64)(model, data).records[-1][
            measure
        ]
        assert 0.5 * before < after <= 0.7 * before
    with pytest.raises(UsageError, match="smallest share is 0\\.") as caught:
        LowRank(rank="budget", budget=0.01, samples=64)(model, data)
    assert "conv2d" in caught.value.message
    least = float(re.search(r"0\.\d+", caught.value.next)[0])
    assert LowRank(rank="budget", budget=least, samples=64)(model, data).records[-1]["layers"]


def test_ranks_are_multiples_and_a_layer_that_saves_nothing_stays(zoo: Any) -> None:
    net, x, _ = zoo("unet")
    model, data, _ = model_of(net, x)
    record = LowRank(energy=0.7, round_to=4)(model, data).records[-1]
    for entry in record["layers"]:
        full_ = entry["kernel"][-2:]
        assert all(r % 4 == 0 or r == f for r, f in zip(entry["ranks"], full_, strict=False))
    kept = LowRank(energy=1.0)(model, data)
    assert kept.net is net
    assert kept.records[-1]["layers"] == []
    named = {e["layer"]: e["why"] for e in kept.records[-1]["left"]}
    assert "transposed" in named["conv2d_transpose"]
    assert all(s.path in named for s in sites(net)[0])


def test_depthwise_and_grouped_are_named(zoo: Any) -> None:
    net, x, _ = zoo("dscnn")
    record = LowRank(energy=0.5)(*model_of(net, x)[:2]).records[-1]
    assert {e["op"] for e in record["left"] if "depthwise" in e["why"]} == {"DepthwiseConv2D"}
    node = keras().Input((6, 6, 4), name="x")
    grouped = keras().Model(node, keras().layers.Conv2D(8, 3, groups=2, name="g")(node))
    model, data, _ = model_of(grouped, np.ones((4, 6, 6, 4), np.float32))
    assert LowRank()(model, data).records[-1]["left"] == [{"layer": "g", "op": "Conv2D", "why": "grouped convolutions are not factored"}]  # fmt: skip


def test_patterns_choose_layers_and_unknown_ones_are_refused(zoo: Any) -> None:
    net, x, _ = zoo("nested")
    model, data, _ = model_of(net, x)
    record = LowRank(energy=0.3, include=("backbone/*",), exclude=("head",))(model, data).records[-1]
    assert [e["layer"] for e in record["layers"]] == ["backbone/conv2d_1"] or all(
        e["layer"].startswith("backbone/") for e in record["layers"]
    )
    assert record["layers"]
    with pytest.raises(UsageError, match="did you mean 'head'"):
        LowRank(exclude=("heat",))(model, data)


@pytest.mark.parametrize("options", [{"energy": 0.0}, {"energy": 1.5}, {"budget": -1.0}, {"rank": "svd"}, {"round_to": 0}, {"samples": 0}])  # fmt: skip
def test_silly_options_are_refused(options: Any) -> None:
    with pytest.raises(UsageError):
        LowRank(**options)


def test_generated_data_is_not_trusted_with_the_choice(zoo: Any) -> None:
    from dataclasses import replace

    net, x, _ = zoo("cnn")
    model, data, _ = model_of(net, x)
    after = LowRank(energy=0.6)(model, replace(data, generated=True))
    assert any("no data was given" in note for note in after.notes)
    assert {e["of"] for e in after.records[-1]["layers"]} == {"weights"}


def test_a_zero_kernel_and_dead_inputs_are_no_trouble() -> None:
    node = keras().Input((6, 6, 8), name="x")
    conv = keras().layers.Conv2D(8, 3, padding="same", name="conv", kernel_initializer="zeros")
    net = keras().Model(node, keras().layers.Conv2D(8, 1, name="next")(conv(node)))
    model, data, _ = model_of(net, np.zeros((4, 6, 6, 8), np.float32))
    after = LowRank()(model, data)
    assert np.isfinite(run(after.net, [np.ones((1, 6, 6, 8), np.float32)])[0]).all()


@pytest.mark.parametrize(
    ("name", "format"), [("cnn", "tflite"), ("resnet", "onnx"), ("nested", "tflite"), ("nested", "onnx")]
)
def test_both_formats_carry_the_factors(zoo: Any, tmp_path: Path, name: str, format: str) -> None:
    net, x, _ = zoo(name)
    model, data, arrays = model_of(net, x)
    after = LowRank(energy=0.7)(model, data)
    assert after.records[-1]["layers"]
    artifact = find("converter", format)()(after, data, tmp_path / f"m.{format}")
    found = predict(describe(artifact.path), data.feed(data.calibration, 0, 16))
    np.testing.assert_allclose(next(iter(found.values())), run(after.net, arrays, 16)[0], rtol=1e-3, atol=1e-4)
    assert list(found) == [s.name for s in after.outputs]
