"""The Keras callback that trains kernels as tables of centroids: members of a cluster move together, zeros stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import tensorflow
from .centroids import Init, centroids, nearest
from .kernels import Kernel
from .state import hold

Rule = Callable[[Any], Any]  # weights after an update -> weights with one value for each cluster


@dataclass(frozen=True, slots=True)
class Tables:
    """How the table of a kernel is begun."""

    clusters: int
    init: Init
    iterations: int
    keep_zeros: bool
    seed: int

    def of(self, value: Array) -> tuple[Array, Array]:
        """(centroids, index of each weight's centroid) of a kernel."""
        table = centroids(
            value, self.clusters, self.init, keep_zeros=self.keep_zeros, iterations=self.iterations, seed=self.seed
        )
        return table, nearest(value, table)


def one_shot(targets: Sequence[Kernel], tables: Tables) -> None:
    """Replace every weight by its centroid."""
    for kernel in targets:
        table, index = tables.of(kernel.value())
        kernel.assign(table[index])


class Clusterer:
    """Kernels with one value for each cluster, in training.

    After each update of the optimizer every member takes the mean of its cluster: with gradient descent that is the
    mean of the gradients of all members, as the table itself would be trained (Han et al., "Deep Compression", ICLR
    2016, sum them, which is the same at a rate divided by the members). Who belongs to which cluster stays as begun.
    """

    def __init__(self, targets: Sequence[Kernel], tables: Tables, state: Any) -> None:
        self.rules: list[tuple[Kernel, Rule]] = []
        for kernel in targets:
            table, index = tables.of(kernel.value())
            kernel.assign(table[index])
            moving = (table != 0) if tables.keep_zeros else np.ones(len(table), bool)
            kept = hold(state, f"{kernel.name}.cluster", index.astype(np.int32))
            kernel.variable.constraint = _means(kept, moving.astype(np.float32))
            self.rules.append((kernel, kernel.variable.constraint))

    def finish(self) -> None:
        """One value for each cluster in weights that an average may have put back."""
        for kernel, rule in self.rules:
            kernel.variable.assign(rule(kernel.variable))


def _means(index: Any, moving: Array) -> Rule:
    """A constraint: the mean of its cluster for every weight; 0 for the cluster that does not move."""

    def mean(weights: Any) -> Any:
        tf = tensorflow()
        members = tf.reshape(tf.convert_to_tensor(index), [-1])
        values = tf.reshape(tf.convert_to_tensor(weights), [-1])
        table = tf.math.unsorted_segment_mean(values, members, len(moving)) * moving
        return tf.reshape(tf.gather(table, members), index.shape)

    return mean
