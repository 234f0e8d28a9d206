"""scan(): how much of each group's channels can go, one group at a time, before the network suffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ... import metrics
from ...artifact import Array
from ...data import Dataset
from ...errors import UsageError
from ...frameworks import tensorflow
from ...model import Model, require_keras
from ...worker import progress
from .choose import Bounds, Scores
from .criteria import Criterion, score
from .gradients import Samples
from .graph import ChannelGraph, Group, channel_graph
from .masked import Masked

SHARES = tuple(round(0.1 * i, 1) for i in range(1, 10))
SAMPLES = 256
BATCH = 64


@dataclass(frozen=True, slots=True)
class Curve:
    """What one group's removal costs: for each share of its channels that goes, the drop of the metric."""

    group: str  # name; "NAME#2" for the second group of that layer
    channels: int
    points: tuple[tuple[float, float], ...]  # (share gone, drop), shares rising; the shares that are really met


@dataclass(frozen=True, slots=True)
class Scan:
    """The sensitivity of every prunable group, in the order of `graph.prunable`."""

    metric: str  # the data's, or "agreement" with the network's own outputs where there are no labels
    value: float  # of the whole network
    samples: int
    criterion: str
    curves: tuple[Curve, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `groups` is {name: [[share, drop], ...]}."""
        return {
            "metric": self.metric, "value": self.value, "samples": self.samples, "criterion": self.criterion,
            "groups": {c.group: [list(point) for point in c.points] for c in self.curves},
            "channels": {c.group: c.channels for c in self.curves},
        }  # fmt: skip


def scan(
    graph: ChannelGraph,
    scores: Scores,
    data: Dataset,
    *,
    criterion: str = "",
    shares: Sequence[float] = SHARES,
    samples: int = SAMPLES,
    batch: int = BATCH,
    seed: int = 0,
    outputs: Sequence[str] | None = None,
) -> Scan:
    """Take the channels of the lowest `scores` from one group after the other, and measure.

    No network is rebuilt and nothing fitted anew or trained: the channels are masked (see Masked), and statistics of
    BatchNormalization stay (Li et al., ICLR 2017, 3.2). On `samples` of the training data (the calibration data where there is
    none), so that what is concluded from it may be held to the validation data. `outputs`: names of the network's
    outputs in its order, by which a metric may ask for one. A drop is that of `metrics.drop`: absolute for metrics in
    0..1, relative for others. `criterion` is only noted. Raises UsageError for a share outside 0..1.
    """
    if not all(0 < s < 1 for s in shares):
        raise UsageError("a share of channels to take away must be above 0 and below 1", next="give others")
    masked = Masked(graph)
    judge = _Judge(masked, Samples(graph.net, data, samples, batch, seed), data.metric, outputs)
    ones = np.ones(len(masked), np.float32)
    value = judge(ones)
    groups = graph.prunable
    names = _names(groups)
    curves = []
    for i, group in enumerate(groups):
        curves.append(_curve(names[i], group, scores, sorted(shares), lambda gone: judge.drop(gone, value)))
        progress(i + 1, len(groups), names[i])
    return Scan(judge.metric, value, judge.samples, criterion, tuple(curves))


def of_model(model: Model, data: Dataset, criterion: Criterion, samples: int, seed: int) -> dict[str, Any]:
    """The scan of a model as plain JSON, with what stays and why ("frozen"). Raises UsageError where nothing can go."""
    graph = channel_graph(require_keras(model, "a sensitivity scan"))
    stay = {g.name: g.frozen for g in graph.groups if g.frozen}
    if not graph.prunable:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(stay.items())[:3])
        raise UsageError(
            f"no channel of this network can be removed ({why or 'it has none'})", next="use prune_weights"
        )
    scores = score(graph, criterion, data, samples=samples, seed=seed)
    names = [spec.name for spec in model.outputs]
    found = scan(graph, scores, data, criterion=criterion, samples=samples, seed=seed, outputs=names)
    return {**found.to_json(), "frozen": stay}


def bounds_from(scan: Scan, max_drop: float, bounds: Bounds | Sequence[Bounds] = Bounds()) -> list[Bounds]:  # noqa: B008 - frozen
    """Bounds for `choose`, one for each group: no more of its channels go than it can lose alone for at most `max_drop`.

    That is the largest measured share up to which no drop is above it. Other bounds given are kept; the stricter counts.
    """
    each = [bounds] * len(scan.curves) if isinstance(bounds, Bounds) else list(bounds)
    found = []
    for curve, bound in zip(scan.curves, each, strict=True):
        share = 0.0
        for gone, drop in curve.points:
            if drop > max_drop:
                break
            share = gone
        found.append(replace(bound, min_share=max(bound.min_share, 1 - share)))
    return found


def _curve(name: str, group: Group, scores: Scores, shares: Sequence[float], drop: Callable[[Array], float]) -> Curve:
    order = group.channels[np.argsort(scores[group.channels], kind="stable")]
    counts = sorted({min(len(group) - 1, max(1, round(s * len(group)))) for s in shares})
    return Curve(name, len(group), tuple((n / len(group), drop(order[:n])) for n in counts))


def _names(groups: Sequence[Group]) -> list[str]:
    """The groups' names, with a number where several have the same."""
    seen: dict[str, int] = {}
    found = []
    for group in groups:
        seen[group.name] = times = seen.get(group.name, 0) + 1
        found.append(group.name if times == 1 else f"{group.name}#{times}")
    return found


class _Judge:
    """The metric of a network under a mask, compiled once, its inputs kept between masks."""

    def __init__(self, masked: Masked, samples: Samples, metric: str, names: Sequence[str] | None) -> None:
        tf = tensorflow()
        self.masked, self.samples = masked, len(samples)
        self.batches = list(samples)
        self.names = list(masked.graph.net.output_names if names is None else names)
        self.run = tf.function(lambda x, factors: masked(x, factors[None])[0], autograph=False)
        asks_reference = metric.rpartition(":")[2] in metrics.REFERENCED
        labelled = samples.split.y is not None and not asks_reference
        wanted, colon, _ = metric.rpartition(":")
        self.metric = metric if labelled or asks_reference else f"{wanted}{colon}agreement"
        ones = np.ones(len(masked), np.float32)
        if labelled:
            self.y: Array = np.concatenate([np.asarray(y) for _, y in self.batches])
        else:
            found = self.outputs(ones)
            self.y = found[metrics.output_name(metric, found)]

    def __call__(self, factors: Array) -> float:
        return metrics.evaluate(self.metric, self.outputs(factors), self.y)

    def drop(self, gone: Array, value: float) -> float:
        """What is lost without these channels; a loss without bound is the largest float, which JSON can hold."""
        factors = np.ones(len(self.masked), np.float32)
        factors[self.masked.column[gone]] = 0
        lost = metrics.drop(self.metric, value, self(factors))
        return float(np.clip(lost, -np.finfo(np.float64).max, np.finfo(np.float64).max))

    def outputs(self, factors: Array) -> Mapping[str, Array]:
        """Outputs by name on all samples."""
        tf = tensorflow()
        parts = [[np.asarray(o) for o in self.run(x, tf.constant(factors))] for x, _ in self.batches]
        return {name: np.concatenate(each) for name, each in zip(self.names, zip(*parts, strict=True), strict=True)}
