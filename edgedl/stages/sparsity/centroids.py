"""k-means in one dimension: the centroids of a kernel's weights, begun in three ways, moved by Lloyd's algorithm."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...artifact import Array

Init = Literal["linear", "density", "kmeans++"]


def centroids(values: Array, count: int, init: Init, *, keep_zeros: bool, iterations: int, seed: int) -> Array:
    """At most `count` values that stand for all of `values`, in rising order, float32.

    Zeros, where there are any and `keep_zeros`, have a centroid of their own that is exactly zero; the others are
    shared out between negative and positive weights by their numbers. Lloyd's algorithm then moves them for at most
    `iterations` (0: they stay as begun, as tensorflow-model-optimization begins). Han et al., "Deep Compression"
    (ICLR 2016) for the method and "linear" and "density"; Arthur and Vassilvitskii (SODA 2007) for "kmeans++".
    """
    flat = values.ravel().astype(np.float64)
    zeros = keep_zeros and bool((flat == 0).any())
    rng = np.random.default_rng(seed)
    if not zeros:
        return _moved(flat, _begin(flat, count, init, rng), iterations).astype(np.float32)
    others = flat[flat != 0]
    if not len(others) or count < 2:
        return np.zeros(1, np.float32)
    negative, positive = others[others < 0], others[others > 0]
    below = _shared(count - 1, len(negative), len(positive))
    begun = [_begin(negative, below, init, rng), np.zeros(1), _begin(positive, count - 1 - below, init, rng)]
    moved = _moved(others, np.concatenate(begun), iterations, pinned=True)
    return np.unique(moved.astype(np.float32))


def _shared(count: int, negative: int, positive: int) -> int:
    """How many of `count` centroids are negative: by the numbers of weights, and one at least for either sign.

    >>> _shared(15, 50, 50), _shared(2, 1, 99), _shared(1, 60, 40), _shared(5, 0, 9)
    (8, 1, 1, 0)
    """
    share = round(count * negative / (negative + positive))
    return min(max(share, int(negative > 0)), count - int(positive > 0)) if count > 1 else share


def nearest(values: Array, table: Array) -> Array:
    """The index of the centroid nearest to each value, in the shape of `values`; zero always finds the zero."""
    if len(table) == 1:
        return np.zeros(values.shape, np.int64)
    middle = (table[1:].astype(np.float64) + table[:-1]) / 2
    index = np.searchsorted(middle, values.astype(np.float64), side="left")
    exact = np.flatnonzero(table == 0)
    if len(exact):
        index = np.where(values == 0, exact[0], index)
    return np.asarray(index)


def _begin(values: Array, count: int, init: Init, rng: np.random.Generator) -> Array:
    unique = np.unique(values)
    if count <= 0 or not len(unique):
        return np.zeros(0)
    if len(unique) <= count:
        return unique
    if init == "linear":
        return np.linspace(unique[0], unique[-1], count)
    if init == "density":
        return np.unique(np.quantile(values, np.linspace(0.01, 0.99, count)))
    return _plus_plus(values, count, rng)


def _plus_plus(values: Array, count: int, rng: np.random.Generator) -> Array:
    """Each next centroid drawn with a chance that grows with the squared distance to those there are."""
    found = [float(rng.choice(values))]
    distance = np.square(values - found[0])
    for _ in range(count - 1):
        if not distance.sum() > 0:
            break
        found.append(float(rng.choice(values, p=distance / distance.sum())))
        distance = np.minimum(distance, np.square(values - found[-1]))
    return np.sort(np.array(found))


def _moved(values: Array, begun: Array, iterations: int, pinned: bool = False) -> Array:
    """Lloyd's algorithm on sorted values, whose clusters are runs; a centroid without members stays where it is.

    `pinned`: so does one at zero.
    """
    ordered, table = np.sort(values), np.sort(begun)
    for _ in range(iterations):
        borders = np.searchsorted(ordered, (table[1:] + table[:-1]) / 2, side="right")
        starts = np.concatenate([[0], borders])
        counts = np.diff(np.concatenate([starts, [len(ordered)]]))
        full = counts > 0
        means = table.copy()
        means[full] = np.add.reduceat(ordered, starts[full]) / counts[full]
        if pinned:
            means[table == 0] = 0
        if np.array_equal(means, table):
            break
        table = np.sort(means)
    return table
