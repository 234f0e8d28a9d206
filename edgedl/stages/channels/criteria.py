"""score(): how much each channel matters, by weights or by data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...data import Dataset
from ...errors import ModelError, UsageError
from ...frameworks import tensorflow
from ..rebuilding import weighted
from ..training.loop import Objective
from .choose import Scores
from .gradients import Samples, Slopes, Values
from .graph import ChannelGraph, Group, Site
from .masked import Masked, everything
from .reconstruct import activation_bytes
from .shrink import Mask

Criterion = Literal["l1", "l2", "bn-scale", "fpgm", "taylor", "fisher", "hessian", "activation", "random"]
Normalize = Literal["none", "mean", "max"]
DATA: frozenset[str] = frozenset({"taylor", "fisher", "hessian", "activation"})  # criteria that run the network
NORMALIZE: dict[str, Normalize] = {  # of each criterion, unless another is asked for
    "l1": "mean", "l2": "mean", "bn-scale": "mean", "fpgm": "mean", "activation": "mean",
    "taylor": "none", "fisher": "none", "hessian": "none", "random": "none",
}  # fmt: skip
MOST_BYTES = 2 << 30  # of the activations of a batch, which are all kept for its gradients
DRAWS = 2  # random directions a batch for the diagonal of the Hessian


class Scorer:
    """A criterion ready to score the channels of a network again and again, under different masks.

    - l1, l2: norm of the kernel entries that make or read a channel (Li et al., ICLR 2017; over a group: DepGraph, 2023);
    - bn-scale: mean |gamma| of the BatchNormalization layers on a channel (Network Slimming, Liu et al., ICCV 2017); groups
      without one have the L2 norm, which only a normalization by group makes comparable;
    - fpgm: sum of the distances of the filters that make a channel to those of all others of its group (He et al., CVPR 2019);
    - taylor: mean over samples of |slope|, the slope of a sample's loss by a factor on the channel, which is the sum of gradient
      times weight over what reads it (Molchanov et al., ICLR 2017 and CVPR 2019);
    - fisher: half the mean square of these slopes, the second-order change of the loss (Theis et al., 2018; Group Fisher,
      Liu et al., ICML 2021);
    - hessian: half the second derivative itself, at most zero where it is negative (Optimal Brain Damage, LeCun et al.,
      1990), its diagonal estimated by Hutchinson's method;
    - activation: mean |activation| where the channel is read (Molchanov et al., ICLR 2017; Hu et al., "Network Trimming", 2016);
    - random: uniform, by the seed.

    Criteria in DATA use `samples` of the training data, or of the calibration data. Raises UsageError where none
    is given, DataError where it is empty; scoring raises ModelError where the network gives values that are no numbers.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        criterion: Criterion,
        data: Dataset | None = None,
        loss: Objective | None = None,
        *,
        samples: int = 512,
        batch: int = 64,
        seed: int = 0,
    ) -> None:
        self.graph, self.criterion, self.seed = graph, criterion, seed
        if criterion not in NORMALIZE:
            raise UsageError(f"there is no criterion '{criterion}'", next=f"one of {', '.join(NORMALIZE)}")
        if criterion not in DATA:
            return
        if data is None or min(samples, batch) < 1:
            raise UsageError(f"{criterion} needs data to run the network on", next="give some, or use l2")
        self.masked = Masked(graph)
        room = max(1, int(MOST_BYTES // max(activation_bytes(graph), 1)))
        self.samples = Samples(graph.net, data, samples, min(batch, room), seed)
        if criterion != "activation":
            self.slopes = Slopes(self.masked, loss, seed)

    def __call__(self, keep: Mask | None = None) -> Scores:
        """Scores by unit, float64; those of the channels of prunable groups mean something, all others are 0.

        `keep`: the channels that are left; data criteria score the network without the others.
        """
        if self.criterion in ("l1", "l2"):
            return magnitude(self.graph, 1 if self.criterion == "l1" else 2)
        if self.criterion == "bn-scale":
            return batch_norm_scale(self.graph)
        if self.criterion == "fpgm":
            return geometric_median(self.graph)
        if self.criterion == "random":
            return np.random.default_rng(self.seed).random(len(self.graph.units.parent))
        found = np.zeros(len(self.graph.units.parent))
        if len(self.masked):
            found[self.masked.units] = self._measured(keep)
        if not np.isfinite(found).all():
            raise ModelError(
                f"the network gives values that are no numbers on this data: {self.criterion} cannot score its channels",
                next="look for NaN in the data and the weights, or use l2",
            )
        return found

    def _measured(self, keep: Mask | None) -> Values:
        """`[channels]` in the order of the factors."""
        if self.criterion == "activation":
            return activation(self.masked, self.samples, keep)
        if self.criterion == "hessian":
            found = [h for _, h in self.slopes.curvatures(self.samples, keep, self.seed, DRAWS)]
            second: Values = np.maximum(np.mean(found, axis=0), 0) / 2
            return second
        parts = list(self.slopes.each(self.samples, keep))
        return taylor(parts) if self.criterion == "taylor" else fisher(parts)


def score(
    graph: ChannelGraph,
    criterion: Criterion,
    data: Dataset | None = None,
    loss: Objective | None = None,
    *,
    samples: int = 512,
    batch: int = 64,
    seed: int = 0,
    keep: Mask | None = None,
) -> Scores:
    """The scores of a Scorer, once: float64 by unit; the lower, the less a channel matters."""
    return Scorer(graph, criterion, data, loss, samples=samples, batch=batch, seed=seed)(keep)


def normalized(graph: ChannelGraph, scores: Scores, how: Normalize) -> Scores:
    """Scores divided by the mean or the largest of their group.

    "none" is for criteria that estimate the change of the loss, which is the same scale everywhere. Norms of weights and of
    activations are not comparable between layers: divided by the mean (as Torch-Pruning does) a channel is judged against its
    peers, divided by the largest ("max") every group keeps its best channels for longest.

    A group whose scores are all zero stays as it is.
    """
    found = scores.copy()
    if how == "none":
        return found
    for group in graph.prunable:
        values = scores[group.channels]
        size = float(np.abs(values).mean() if how == "mean" else np.abs(values).max())
        if size > 0:
            found[group.channels] = values / size
    return found


def taylor(parts: list[tuple[Values, Values]]) -> Values:
    """Mean over samples of the absolute slope; what is read inside layers by the mean slope of each batch."""
    found: Values = np.mean([np.abs(each + inner).mean(axis=0) for each, inner in parts], axis=0)
    return found


def fisher(parts: list[tuple[Values, Values]]) -> Values:
    """Half the mean over samples of the squared slope."""
    found: Values = np.mean([np.square(each + inner).mean(axis=0) for each, inner in parts], axis=0) / 2
    return found


def activation(masked: Masked, samples: Samples, keep: Mask | None) -> Values:
    """Mean |activation| of each channel over samples, positions and the layers that read it. What is only read inside layers
    has no activation to see: 0."""
    tf = tensorflow()
    factors = tf.constant(everything(masked, keep))[None]

    @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
    def sums(x: list[Any]) -> Any:
        total, times = tf.zeros(len(masked) + 1), tf.zeros(len(masked) + 1)

        def seen(value: Any, axis: int, columns: Any) -> None:
            nonlocal total, times
            others = [i for i in range(len(value.shape)) if i != axis]
            means = tf.reduce_mean(tf.abs(tf.cast(value, tf.float32)), others)
            total += tf.math.unsorted_segment_sum(means, columns, len(masked) + 1)
            times += tf.math.unsorted_segment_sum(tf.ones_like(means), columns, len(masked) + 1)

        masked(x, factors, seen=seen)
        return tf.math.divide_no_nan(total, times)[:-1]

    found: Values = np.mean([np.asarray(sums(x), np.float64) for x, _ in samples], axis=0)
    return found


def magnitude(graph: ChannelGraph, power: int) -> Scores:
    """The L1 (`power` 1) or L2 (2) norm of all kernel entries of a channel, where it is made and where it is read.

    Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), over all sites of a group as in DepGraph.
    """
    scores = np.zeros(len(graph.units.parent))
    layers = weighted(graph.net)
    for site in kernel_sites(graph):
        kernel = np.abs(weights_of(layers, site)) ** power
        add(scores, graph, site, kernel)
    return scores ** (1 / power)


def batch_norm_scale(graph: ChannelGraph) -> Scores:
    """Mean |gamma| over the BatchNormalization layers on each channel; the L2 norm for a group without one."""
    scores = np.zeros(len(graph.units.parent))
    norms = magnitude(graph, 2)
    layers = weighted(graph.net)
    for group in graph.prunable:
        scales = list(_scales(graph, group, layers))
        if not scales:
            scores[group.channels] = norms[group.channels]
            continue
        for site in scales:
            add(scores, graph, site, np.abs(weights_of(layers, site)))
        times = np.zeros(len(scores))
        for site in scales:
            add(times, graph, site, np.ones(len(site.ids)))
        scores[group.channels] /= times[group.channels]
    return scores


def _scales(graph: ChannelGraph, group: Group, layers: dict[str, Any]) -> Iterator[Site]:
    for site in group.sites:
        op = graph.calls[site.path].op
        if type(op).__name__ == "BatchNormalization" and op.weights[site.index] is op.gamma:
            yield site


def geometric_median(graph: ChannelGraph) -> Scores:
    """How far the filters that make a channel are from those of the other channels of its group, summed: the least are
    nearest to the geometric median, which the others can stand in for.

    Summed over the kernels that make the channels; a group that no kernel makes (of an embedding, say) is judged by what reads it.
    """
    scores = np.zeros(len(graph.units.parent))
    layers = weighted(graph.net)
    for group in graph.prunable:
        kernels = [s for s in group.sites if len(graph.calls[s.path].op.weights[s.index].shape) > 1]
        makers = [s for s in kernels if s.axis == _made_along(graph, s)] or kernels
        for site in makers:
            scores[group.channels] += _distances(filters_of(graph, group, layers, site))
    return scores


def _made_along(graph: ChannelGraph, site: Site) -> int:
    """The axis of a kernel along which it makes channels: the last with units that the layer puts out."""
    call = graph.calls[site.path]
    out = [graph.units.roots(ids) for label in call.outputs for ids in label if ids is not None]
    made = np.unique(np.concatenate(out)) if out else np.zeros(0, np.int64)
    label = call.weights[site.index]
    axes = [i for i, ids in enumerate(label) if ids is not None and np.isin(graph.units.roots(ids), made).any()]
    return axes[-1] if axes else len(label)


def filters_of(graph: ChannelGraph, group: Group, layers: dict[str, Any], site: Site) -> NDArray[np.float64]:
    """`[channels of the group, entries]`: what a weight has of each channel, in the order of the group."""
    roots = graph.units.roots(site.ids)
    rows = np.moveaxis(weights_of(layers, site), site.axis, 0).reshape(len(roots), -1)
    mine = np.flatnonzero(np.isin(roots, group.channels))
    order = mine[np.argsort(roots[mine], kind="stable")]
    by_unit = rows[order].reshape(len(group), -1)
    found: NDArray[np.float64] = by_unit[np.argsort(np.argsort(group.channels))]
    return found


def _distances(filters: NDArray[np.float64]) -> Values:
    """`[n]`: the sum of each row's distances to all rows."""
    squares = np.square(filters).sum(axis=1)
    gram = squares[:, None] + squares[None] - 2 * filters @ filters.T
    np.fill_diagonal(gram, 0)
    found: Values = np.sqrt(np.maximum(gram, 0)).sum(axis=1)
    return found


def kernel_sites(graph: ChannelGraph) -> list[Site]:
    """Sites in weights with at least two axes, each once."""
    found = {}
    for group in graph.groups:
        for site in group.sites:
            if len(graph.calls[site.path].op.weights[site.index].shape) > 1:
                found[(site.path, site.index, site.axis)] = site
    return list(found.values())


def weights_of(layers: dict[str, Any], site: Site) -> Any:
    """The weight of a site, float64."""
    return np.asarray(layers[site.path].weights[site.index], np.float64)


def add(scores: Scores, graph: ChannelGraph, site: Site, values: Any) -> None:
    """Add values of a weight's entries (its shape) to the channels they belong to."""
    others = tuple(i for i in range(values.ndim) if i != site.axis)
    np.add.at(scores, graph.units.roots(site.ids), values.sum(axis=others))
