"""surgeon(): what it costs to remove a channel when the kernels that read it are fitted to make up for it.

Optimal Brain Surgeon (Hassibi and Stork, 1993) for whole channels, as in Optimal Brain Compression (Frantar and Alistarh,
NeurIPS 2022): for a layer that computes `X W`, with Gram matrix `G = X'X`, removing the rows `R` of W and fitting the
others by least squares costs `tr(W_R' [(G^-1)_RR]^-1 W_R)`. Output channels are weighed by the diagonal of the Fisher
information of the network's own predictions, so that costs of different layers are all in units of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras, tensorflow
from ..rebuilding import inside
from .choose import Scores
from .graph import ChannelGraph, Group, Site
from .reconstruct import FITTED, RIDGE, fitting_feed, gram_rows, kernel_index, run

LARGEST = 2304  # entries that an output reads: 3x3 windows of 256 channels; the groups that larger layers read have NaN
ROUNDS = 256  # of a group, at most: in larger ones several channels are taken at once
Layer = tuple[Array, Array, Array]  # Gram matrix, kernel as a matrix, how much each output channel matters


def surgeon(graph: ChannelGraph, inputs: Sequence[Array], *, seed: int = 0) -> Scores:
    """The increase of the loss for each channel of a group, in the order in which they are best removed.

    `inputs`: of the network, in its order, `[n, ...]`; no labels are needed. Groups that no fitted layer reads have NaN.
    """
    feed = fitting_feed(graph, inputs)
    weights = _fisher(graph, feed, seed)
    layers = _measured(graph, feed, weights)
    scores = np.full(len(graph.units.parent), np.nan)
    for group in graph.prunable:
        readers = [s for s in group.sites if s.path in layers and _reads(graph, s)]
        if readers:
            scores[group.channels] = _ordered(graph, group, readers, layers)
    return scores


def _reads(graph: ChannelGraph, site: Site) -> bool:
    op = graph.calls[site.path].op
    return site.index == kernel_index(op) and site.axis == len(op.kernel.shape) - 2


def _ordered(graph: ChannelGraph, group: Group, readers: Sequence[Site], layers: dict[str, Layer]) -> Array:
    """Costs by channel of a group, removed greedily one after the other; a later one never costs less."""
    state = [_Reader(graph, site, *layers[site.path], group.channels) for site in readers]
    left = np.arange(len(group))
    costs = np.zeros(len(group))
    last = 0.0
    step = -(-len(group) // ROUNDS)
    while len(left):
        now = np.sum([r.costs(left) for r in state], axis=0)
        best = np.argsort(now, kind="stable")[:step]
        costs[left[best]] = np.maximum(now[best], last)
        last = float(costs[left[best]].max())
        for channel in left[best].tolist():
            for reader in state:
                reader.remove(channel)
        left = np.delete(left, best)
    return costs


class _Reader:
    """A layer that reads a group: the inverse of its Gram matrix and its kernel, as channels go."""

    def __init__(
        self, graph: ChannelGraph, site: Site, gram: Array, kernel: Array, worth: Array, channels: Array
    ) -> None:
        roots = graph.units.roots(site.ids)
        taps = len(kernel) // len(roots)  # places of the window; the channels are the inner axis of the matrix
        self.rows = np.array([
            (np.arange(taps)[:, None] * len(roots) + np.flatnonzero(roots == unit)).reshape(-1) for unit in channels
        ])  # fmt: skip
        self.inverse = np.linalg.inv(gram + RIDGE * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram)))
        self.kernel = kernel.copy()
        self.worth = worth

    def costs(self, channels: Array) -> Array:
        """What the removal of each of these channels costs now."""
        rows = self.rows[channels]
        block = self.kernel[rows]
        inner = self.inverse[rows[:, :, None], rows[:, None, :]]
        found: Array = (block * np.linalg.solve(inner, block)).sum(axis=1) @ self.worth
        return found

    def remove(self, channel: int) -> None:
        """Take the channel out and fit the others."""
        rows = self.rows[channel]
        across = self.inverse[:, rows]
        change = np.linalg.solve(
            self.inverse[np.ix_(rows, rows)], np.concatenate([self.kernel[rows], across.T], axis=1)
        )
        width = self.kernel.shape[1]
        self.kernel -= across @ change[:, :width]
        self.inverse -= across @ change[:, width:]
        self.kernel[rows] = 0
        self.inverse[rows] = 0
        self.inverse[:, rows] = 0
        self.inverse[rows, rows] = 1e-12


def _measured(graph: ChannelGraph, feed: Sequence[Any], weights: dict[str, Array]) -> dict[str, Layer]:
    """What is needed of each layer that can be fitted; a bias makes up for the mean of what it reads."""
    found: dict[str, Layer] = {}

    def see(op: Any, path: str, x: Any) -> None:
        if path in weights and path not in found and np.prod(op.kernel.shape[:-1]) <= LARGEST:
            rows = gram_rows(op, x).astype(np.float64)
            if op.bias is not None:
                rows -= rows.mean(0)
            kernel = np.asarray(op.kernel, np.float64)
            found[path] = (rows.T @ rows / len(rows), kernel.reshape(-1, kernel.shape[-1]), weights[path])

    run(graph.net, feed, see)
    return found


def _fisher(graph: ChannelGraph, feed: Sequence[Any], seed: int) -> dict[str, Array]:
    """For each layer that can be fitted, how much the loss bends with each output channel, summed over its places.

    The loss is that of labels drawn from what the network itself predicts (class scores), or the sum of squared changes of
    its outputs (anything else): the Fisher information of its predictions, which needs no labels.
    """
    tf, tree = tensorflow(), keras().tree
    seen: dict[str, Any] = {}
    with tf.GradientTape() as tape:

        def see(op: Any, path: str, x: Any, result: Any) -> Any:
            if type(op).__name__ in FITTED and getattr(op, "groups", 1) == 1 and path not in seen:
                probe = tf.zeros_like(result)
                tape.watch(probe)
                seen[path] = probe
                return result + probe
            return result

        outputs = tree.flatten(run(graph.net, feed, None, see))
        loss = sum((_drawn_loss(t, out, seed) for t, out in zip(inside(graph.net).outputs, outputs, strict=True)), 0.0)
    gradients = tape.gradient(loss, seen)
    return {
        path: np.square(g.numpy().astype(np.float64)).reshape(-1, g.shape[-1]).sum(0) / int(feed[0].shape[0])
        for path, g in gradients.items()
        if g is not None
    }


def _drawn_loss(tensor: Any, output: Any, seed: int) -> Any:
    """Summed over the samples, so that each gradient is one sample's own."""
    tf = tensorflow()
    op = tensor._keras_history.operation
    name = getattr(getattr(op, "activation", None), "__name__", type(op).__name__.lower())
    classes = output.shape[-1]
    rows = tf.reshape(output, (-1, classes))
    if classes > 1 and output.shape.rank == 2:
        scores = tf.math.log(tf.maximum(rows, 1e-7)) if name == "softmax" else rows
        drawn = tf.random.stateless_categorical(scores, 1, (seed, 1))[:, 0]
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(drawn, scores))
    noise = tf.random.stateless_normal(tf.shape(output), (seed, 1))
    return tf.reduce_sum(output * noise)
