"""Criteria against their formulas written out in numpy, and Taylor against what removal really costs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest

from edgedl.data import Dataset, Split
from edgedl.errors import DataError, ModelError, UsageError
from edgedl.frameworks import keras, tensorflow
from edgedl.stages.channels import criteria
from edgedl.stages.channels.criteria import DATA, NORMALIZE, Criterion, Scorer, normalized, score
from edgedl.stages.channels.gradients import Samples, Slopes
from edgedl.stages.channels.graph import ChannelGraph, channel_graph
from edgedl.stages.channels.masked import Masked
from edgedl.stages.channels.reconstruct import activation_bytes
from edgedl.stages.rebuilding import clone
from edgedl.stages.training.task import Labelled, kinds

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Zoo = Callable[[str], tuple[Any, Any, Any]]
LABELS = Labelled(0, "probabilities", True)


def dataset(net: Any, x: Any, y: Any = None) -> Dataset:
    split = Split(x if isinstance(x, dict) else {net.inputs[0].name: x}, y)
    return Dataset(split, split, metric="accuracy" if y is not None else "agreement")


def small(seed: int = 0, samples: int = 64) -> tuple[Any, Any, Any]:
    """Dense 4 -> 3 (ReLU) -> 5 (softmax), random weights and labels."""
    layers, rng = keras().layers, np.random.default_rng(seed)
    node = keras().Input((4,), name="x")
    net = keras().Model(node, layers.Dense(5, activation="softmax")(layers.Dense(3, activation="relu")(node)))
    net.set_weights([rng.normal(size=w.shape) for w in net.get_weights()])
    return net, rng.normal(size=(samples, 4)).astype(np.float32), rng.integers(0, 5, samples)


def parts(net: Any, x: Any) -> tuple[Any, Any, Any]:
    """(activations of the hidden layer `[n, 3]`, probabilities `[n, 5]`, the kernel that reads it `[3, 5]`), float64."""
    w1, b1, w2, b2 = (w.astype(np.float64) for w in net.get_weights())
    hidden = np.maximum(x.astype(np.float64) @ w1 + b1, 0)
    raised = np.exp(hidden @ w2 + b2)
    return hidden, raised / raised.sum(axis=1, keepdims=True), w2


def of(graph: ChannelGraph, scores: Any, group: int = 0) -> Any:
    return scores[graph.prunable[group].channels]


def slopes(net: Any, x: Any, y: Any) -> Any:
    """`[n, 3]`: the derivative of each sample's cross-entropy by a factor on each hidden channel, on paper."""
    hidden, p, w2 = parts(net, x)
    return ((p - np.eye(5)[y]) @ w2.T) * hidden


def test_taylor_and_fisher_are_moments_of_the_slopes_of_samples() -> None:
    net, x, y = small()
    graph, expected = channel_graph(net), slopes(net, x, y)
    found = of(graph, score(graph, "taylor", dataset(net, x, y), LABELS, batch=16))
    np.testing.assert_allclose(found, np.abs(expected).mean(axis=0), rtol=1e-4)
    found = of(graph, score(graph, "fisher", dataset(net, x, y), LABELS, batch=16))
    np.testing.assert_allclose(found, (expected**2).mean(axis=0) / 2, rtol=1e-4)


def test_a_slope_is_the_sum_of_gradient_times_weight_over_what_reads_the_channel(zoo: Zoo) -> None:
    """Molchanov et al.'s form on a residual network: the gradient of every reading kernel by TensorFlow itself."""
    tf = tensorflow()
    net, x, y = zoo("resnet")
    graph, masked = channel_graph(net), Masked(channel_graph(net))
    data = dataset(net, x[:32], y[:32])
    (each, inner), *_ = Slopes(masked, LABELS, 0).each(Samples(net, data, 32, 32, 0), None)
    kernels = [layer.kernel for layer in net.layers if hasattr(layer, "kernel")]
    with tf.GradientTape() as tape:
        loss = LABELS([], tf.constant(y[:32]), [net(x[:32], training=False)], {})
    found = dict(zip([k.path for k in kernels], tape.gradient(loss, [k.value for k in kernels]), strict=True))
    total = np.zeros(len(graph.units.parent))
    for path, call in graph.calls.items():
        if hasattr(call.op, "kernel") and len(call.inputs[0].label) and call.inputs[0].label[-1] is not None:
            product_ = np.asarray(found[call.op.kernel.path] * call.op.kernel)
            axes = tuple(i for i in range(product_.ndim) if i != product_.ndim - 2)
            np.add.at(total, graph.units.roots(call.inputs[0].label[-1]), product_.sum(axis=axes))
        assert path
    np.testing.assert_allclose(each.mean(axis=0) + inner, total[masked.units], atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_what_reads_inside_a_recurrent_layer_counts(zoo: Zoo, name: str) -> None:
    """Against finite differences of the kernels that read a unit: the layer's own and the one after it."""
    net, x, y = zoo(name)
    graph, masked = channel_graph(net), Masked(channel_graph(net))
    assert len(masked) == 16
    assert len(masked.inner) == 1
    data = dataset(net, x[:32], y[:32])
    (each, inner), *_ = Slopes(masked, LABELS, 0).each(Samples(net, data, 32, 32, 0), None)
    found = each.mean(axis=0) + inner
    copy, tf = clone(net), tensorflow()

    def loss(unit: int, factor: float) -> float:
        copy.set_weights(net.get_weights())
        recurrent, dense = copy.layers[1].cell.recurrent_kernel, copy.layers[2].kernel
        for kernel in (recurrent, dense):
            values = kernel.numpy()
            values[unit] *= factor
            kernel.assign(values)
        return float(LABELS([], tf.constant(y[:32]), [copy(x[:32], training=False)], {}))

    places = masked.of(graph.calls[net.layers[1].name].weights[1][0])
    for unit in range(0, 16, 5):
        numeric = (loss(unit, 1.01) - loss(unit, 0.99)) / 0.02
        assert found[places[unit]] == pytest.approx(numeric, abs=2e-4)


def test_the_hessian_is_exact_over_all_signs() -> None:
    """The mean of v * Hv over all eight v of signs is the diagonal: hidden^2 * (E[w^2] - E[w]^2 under p), averaged."""
    tf = tensorflow()
    net, x, y = small()
    hidden, p, w2 = parts(net, x)
    expected = (hidden**2 * (p @ (w2**2).T - (p @ w2.T) ** 2)).mean(axis=0)
    masked = Masked(channel_graph(net))
    of_all = Slopes(masked, LABELS, 0)
    signs = [np.float32(v) for v in product([-1, 1], repeat=3)]
    ones = tf.ones(3)
    found = [np.asarray(of_all.curvature([tf.constant(x)], tf.constant(y), ones, tf.constant(v))[1]) * v for v in signs]
    np.testing.assert_allclose(np.mean(found, axis=0), expected, rtol=1e-4)
    graph = channel_graph(net)
    estimate = of(graph, score(graph, "hessian", dataset(net, x, y), LABELS, batch=2))
    np.testing.assert_allclose(estimate, expected / 2, rtol=0.5)  # 64 draws of 3 correlated channels


def test_without_labels_fisher_is_that_of_the_outputs() -> None:
    """The expectation over classes drawn from the network's own probabilities, to four standard errors of the draws."""
    net, x, _ = small(samples=8192)
    hidden, p, w2 = parts(net, x)
    drawn = [((p - np.eye(5)[k]) @ w2.T * hidden) ** 2 / 2 for k in range(5)]
    mean, square = (sum(p[:, k : k + 1] * drawn[k] ** power for k in range(5)) for power in (1, 2))
    error = np.sqrt((square - mean**2).mean(axis=0) / len(x))
    graph = channel_graph(net)
    found = of(graph, score(graph, "fisher", dataset(net, x), samples=8192, batch=1024))
    assert (np.abs(found - mean.mean(axis=0)) < 4 * error).all()
    assert (error < 0.2 * found).all(), "else this would not tell anything"


def test_activation_is_the_mean_of_what_is_read() -> None:
    net, x, _ = small()
    graph = channel_graph(net)
    found = of(graph, score(graph, "activation", dataset(net, x), batch=16))
    np.testing.assert_allclose(found, np.abs(parts(net, x)[0]).mean(axis=0), rtol=1e-5)


def test_norms_are_over_what_makes_and_what_reads() -> None:
    net, _, _ = small()
    graph = channel_graph(net)
    w1, _, w2, _ = net.get_weights()
    np.testing.assert_allclose(of(graph, score(graph, "l1")), np.abs(w1).sum(0) + np.abs(w2).sum(1), rtol=1e-6)
    np.testing.assert_allclose(of(graph, score(graph, "l2")), np.sqrt((w1**2).sum(0) + (w2**2).sum(1)), rtol=1e-6)


def test_batch_norm_scales_are_averaged_over_a_residual_group(zoo: Zoo) -> None:
    net = clone(zoo("resnet")[0])
    graph = channel_graph(net)
    group = max(graph.prunable, key=lambda g: len(g.sites))
    layers = {s.path: graph.calls[s.path].op for s in group.sites}
    norms = [op for op in layers.values() if type(op).__name__ == "BatchNormalization"]
    assert len(norms) > 1, "a group with several"
    for i, op in enumerate(norms):
        op.gamma.assign(np.linspace(-1, 1, len(op.gamma.numpy())) * (i + 1))
    expected = np.abs(np.linspace(-1, 1, len(group))) * np.mean(np.arange(len(norms)) + 1)
    np.testing.assert_allclose(score(graph, "bn-scale")[group.channels], expected, rtol=1e-6)


def test_a_group_without_batch_norm_has_its_norm() -> None:
    net, _, _ = small()
    graph = channel_graph(net)
    np.testing.assert_array_equal(of(graph, score(graph, "bn-scale")), of(graph, score(graph, "l2")))


def test_fpgm_finds_the_filter_that_others_can_stand_in_for() -> None:
    """Filters at 0, 1, 2 and 10 on a line (all entries equal): 1 and 2 are nearest to all, 10 farthest; sums by hand."""
    layers = keras().layers
    node = keras().Input((8, 8, 2))
    x = layers.Conv2D(4, 3, use_bias=False)(node)
    net = keras().Model(node, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    kernel = np.ones((3, 3, 2, 1)) * np.array([0.0, 1.0, 2.0, 10.0])
    net.layers[1].kernel.assign(kernel)
    graph = channel_graph(net)
    sums = np.array([13, 11, 11, 27]) * np.sqrt(18)
    np.testing.assert_allclose(of(graph, score(graph, "fpgm")), sums, rtol=1e-6)


def test_fpgm_of_a_trained_convolution_is_all_distances_added(zoo: Zoo) -> None:
    net, _, _ = zoo("cnn")
    graph = channel_graph(net)
    kernel = net.layers[1].kernel.numpy().astype(np.float64)
    rows = kernel.reshape(-1, kernel.shape[-1]).T
    sums = [sum(np.linalg.norm(a - b) for b in rows) for a in rows]
    np.testing.assert_allclose(of(graph, score(graph, "fpgm")), sums, rtol=1e-5)


def spearman(a: Any, b: Any) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


@pytest.mark.parametrize("name", ["resnet", "dscnn", "cnn"])
@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_scores_rank_channels_as_their_removal_does(zoo: Zoo, name: str, criterion: Criterion) -> None:
    """The truth: each channel alone taken away and the KL divergence to the whole network's outputs, on the same 256
    samples, without labels. Rank correlation over all channels of the network."""
    net, x, _ = zoo(name)
    graph = channel_graph(net)
    found = score(graph, criterion, dataset(net, x[:256]), samples=256)
    assert spearman(found[Masked(graph).units], removal(graph, x[:256])) > 0.7


def removal(graph: ChannelGraph, x: Any) -> Any:
    """`[channels]`: mean KL divergence of the outputs without each."""
    tf, masked = tensorflow(), Masked(graph)
    run = tf.function(lambda factors: masked([tf.constant(x)], factors[None])[0][0], autograph=False)
    ones = np.ones(len(masked), np.float32)
    p = np.asarray(run(tf.constant(ones)), np.float64) + 1e-9
    truth = []
    for i in range(len(masked)):
        without = ones.copy()
        without[i] = 0
        q = np.asarray(run(tf.constant(without)), np.float64) + 1e-9
        truth.append((p * np.log(p / q)).sum(axis=1).mean())
    return np.array(truth)


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        *(("multi_io", c) for c in get_args(Criterion)),
        *(("transformer", c) for c in ("l1", "fpgm", "fisher")),
        *(("lstm", c) for c in ("l2", "hessian")),
        *(("twotower", c) for c in ("fpgm", "taylor", "activation")),
        ("generator", "hessian"),
    ],
)
def test_every_criterion_scores_every_network(zoo: Zoo, name: str, criterion: Criterion) -> None:
    """Finite, none below zero, and not all alike in any group; the same for the same seed."""
    net, x, _ = zoo(name)
    x = {k: v[:32] for k, v in x.items()} if isinstance(x, dict) else x[:32]
    graph = channel_graph(net)
    found = score(graph, criterion, dataset(net, x), samples=32, batch=16)
    assert found.shape == graph.units.parent.shape
    assert found.dtype == np.float64
    units = np.concatenate([g.channels for g in graph.prunable])
    assert np.isfinite(found[units]).all()
    assert (found[units] >= 0).all()
    assert np.ptp(found[units]) > 0
    np.testing.assert_array_equal(found, score(graph, criterion, dataset(net, x), samples=32, batch=16))


def test_a_scorer_can_look_at_a_network_that_lost_channels(zoo: Zoo) -> None:
    """Channels whose only reader is gone matter no more."""
    net, x, y = zoo("cnn")
    graph = channel_graph(net)
    scorer = Scorer(graph, "taylor", dataset(net, x[:64], y[:64]), LABELS, samples=64)
    keep = graph.everything()
    keep[graph.prunable[-1].channels] = False
    assert scorer()[graph.prunable[0].channels].max() > 0
    assert scorer(keep)[graph.prunable[0].channels].max() == 0


def test_normalization_is_by_group() -> None:
    layers = keras().layers
    node = keras().Input((4,))
    graph = channel_graph(keras().Model(node, layers.Dense(2)(layers.Dense(3)(layers.Dense(2)(node)))))
    scores = np.zeros(len(graph.units.parent))
    first, second = graph.prunable
    scores[first.channels], scores[second.channels] = [1, 3], [0, 0, 0]
    assert normalized(graph, scores, "none")[first.channels].tolist() == [1, 3]
    assert normalized(graph, scores, "mean")[first.channels].tolist() == [0.5, 1.5]
    assert normalized(graph, scores, "max")[first.channels].tolist() == pytest.approx([1 / 3, 1])
    assert normalized(graph, scores, "mean")[second.channels].tolist() == [0, 0, 0]
    assert set(NORMALIZE) == set(get_args(Criterion)) >= DATA


def test_what_cannot_be_scored_is_told() -> None:
    net, x, y = small()
    graph = channel_graph(net)
    with pytest.raises(UsageError, match="taylor needs data"):
        score(graph, "taylor")
    with pytest.raises(UsageError, match="no criterion 'best'"):
        score(graph, "best")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no samples"):
        score(graph, "fisher", dataset(net, x[:0]))
    net.layers[-1].bias.assign(np.full(5, np.nan))
    with pytest.raises(ModelError, match="no numbers on this data"):
        score(graph, "taylor", dataset(net, x, y), LABELS)


def test_inputs_may_have_other_names_than_the_tensors_of_the_network() -> None:
    net, x, y = small()
    own, other = (dataset(net, {name: x}, y) for name in ("x", "as/the:user knows it"))
    graph = channel_graph(net)
    np.testing.assert_array_equal(*(score(graph, "fisher", d, LABELS) for d in (own, other)))


def test_batches_are_as_small_as_memory_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = small()
    graph = channel_graph(net)
    whole = score(graph, "fisher", dataset(net, x, y), LABELS)
    monkeypatch.setattr(criteria, "MOST_BYTES", 16 * activation_bytes(graph))
    scorer = Scorer(graph, "fisher", dataset(net, x, y), LABELS)
    assert {len(labels) for _, labels in scorer.samples} == {16}
    np.testing.assert_allclose(scorer(), whole, rtol=1e-5)  # the order of float32 sums


def test_kinds_of_outputs_have_a_loss_of_their_own(zoo: Zoo) -> None:
    """Probabilities, sigmoid and plain values, one network each."""
    assert [kinds(zoo(n)[0])[0] for n in ("cnn", "unet", "twotower")] == ["probabilities", "sigmoid", "values"]
    for name in ("unet", "twotower"):
        net, x, _ = zoo(name)
        x = {k: v[:32] for k, v in x.items()} if isinstance(x, dict) else x[:32]
        graph = channel_graph(net)
        found = score(graph, "taylor", dataset(net, x))
        assert all(np.ptp(found[g.channels]) > 0 for g in graph.prunable)
