"""keep_structure(): zeros and clusters that earlier stages put into kernels stay through training, as constraints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras, tensorflow
from ..rebuilding import weighted

SPARSE = 0.1  # a kernel in which at least this share of the weights is exactly zero keeps them
CLUSTERS = 256  # a kernel of at most so many values ...
CLUSTERED = 1024  # ... over at least so many weights keeps its clusters

Rule = Callable[[Any], Any]  # weights after an update -> weights with the structure


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one kernel."""

    path: str
    zeros: float  # share of the weights that stay zero
    clusters: int  # distinct values that stay as many; 0: any


def is_kernel(variable: Any) -> bool:
    """Whether a variable is what a layer multiplies its input by, rather than a bias, a scale or a statistic."""
    return bool(variable.name.endswith("kernel"))


def keep_structure(net: Any) -> list[Kept]:
    """Put constraints on the kernels of `net`, in place, which Keras applies after each update; says which.

    A kernel of which a tenth is zero keeps its zeros. One of at most 256 distinct values over 1024 weights or more
    keeps its clusters: each moves as one, to the mean of its members after an update (Han et al., "Deep Compression",
    ICLR 2016, shares the gradient; members that start alike and move by the mean of their updates are the same).
    A constraint that a kernel has already is applied first.
    """
    return impose(structure(net))


def structure(net: Any) -> list[tuple[Any, Rule, Kept]]:
    """The kernels of `net` that have a structure now, what would keep it, and in words."""
    found = []
    for path, layer in weighted(net).items():
        for variable in layer.trainable_variables:
            values = variable.value.numpy() if is_kernel(variable) else np.zeros(0)
            rule = constraint(values)
            if rule is not None:
                share = float(np.mean(values == 0))
                count = len(np.unique(values)) if _is_clustered(values) else 0
                kept = Kept(f"{path}/{variable.name}", round(share if share >= SPARSE else 0.0, 6), count)
                found.append((variable, rule, kept))
    return found


def impose(found: Sequence[tuple[Any, Rule, Kept]]) -> list[Kept]:
    """Put these rules on their variables, after constraints that are there already."""
    for variable, rule, _ in found:
        variable.constraint = rule if variable.constraint is None else _both(variable.constraint, rule)
    return [kept for _, _, kept in found]


def constraint(values: Array) -> Rule | None:
    """What keeps the structure of these weights, or None where they have none."""
    if _is_clustered(values):
        return clusters(values)
    return zeros(values) if values.size and np.mean(values == 0) >= SPARSE else None


def zeros(values: Array) -> Rule:
    """A constraint that keeps the zeros of `values`."""
    mask = (values != 0).astype(np.float32)

    def keep(weights: Any) -> Any:
        ops = keras().ops
        return ops.convert_to_tensor(weights) * ops.cast(mask, weights.dtype)

    return keep


def clusters(values: Array) -> Rule:
    """A constraint that keeps weights equal which are equal in `values`, and zeros zero where there are many."""
    distinct, member, count = np.unique(values, return_inverse=True, return_counts=True)
    sparse = float(np.mean(values == 0)) >= SPARSE
    share = np.where((distinct == 0) & sparse, 0, 1 / count).astype(np.float32)
    index = member.reshape(-1).astype(np.int32)

    def keep(weights: Any) -> Any:
        tf = tensorflow()
        flat = tf.reshape(tf.convert_to_tensor(weights), [-1])
        means = tf.math.unsorted_segment_sum(flat, index, len(distinct)) * tf.cast(share, flat.dtype)
        return tf.reshape(tf.gather(means, index), values.shape)

    return keep


def _is_clustered(values: Array) -> bool:
    return bool(values.size >= CLUSTERED and len(np.unique(values)) <= CLUSTERS)


def _both(first: Rule, second: Rule) -> Rule:
    return lambda weights: second(first(weights))
