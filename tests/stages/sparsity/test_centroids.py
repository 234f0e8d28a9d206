"""k-means in one dimension: exactness of the table, the zero, scikit-learn and tensorflow-model-optimization as oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedl.stages.sparsity.centroids import centroids, nearest

INITS = ["linear", "density", "kmeans++"]
VALUES = arrays(np.float32, st.integers(1, 200), elements=st.floats(-4, 4, width=32))


def inertia(values: Any, table: Any) -> float:
    return float(np.square(values - table[nearest(values, table)]).sum())


@settings(deadline=None)
@given(VALUES, st.integers(2, 20), st.sampled_from(INITS), st.booleans(), st.sampled_from([0, 100]))
def test_a_table_is_sorted_small_and_keeps_zeros(values: Any, count: int, init: Any, keep: bool, steps: int) -> None:
    table = centroids(values, count, init, keep_zeros=keep, iterations=steps, seed=0)
    assert 1 <= len(table) <= count
    assert (np.diff(table) >= 0).all()
    index = nearest(values, table)
    assert index.shape == values.shape
    distance = np.abs(values[:, None].astype(np.float64) - table)
    np.testing.assert_allclose(distance[np.arange(len(values)), index], distance.min(1), rtol=1e-6, atol=1e-7)
    if keep:
        assert (table[index][values == 0] == 0).all()


def test_few_clusters_beside_the_zero_serve_either_sign() -> None:
    values = np.array([-3, -3.2, 0, 0, 0.1, 3, 3.1, 3.2, 3.3, 3.1], np.float32)
    np.testing.assert_allclose(centroids(values, 3, "linear", keep_zeros=True, iterations=9, seed=0), [-3.1, 0, 3.14])


@settings(deadline=None)
@given(VALUES)
def test_as_many_clusters_as_values_change_nothing(values: Any) -> None:
    table = centroids(values, len(values) + 1, "linear", keep_zeros=True, iterations=5, seed=0)
    np.testing.assert_array_equal(table[nearest(values, table)], values)


@pytest.mark.parametrize("init", INITS)
def test_lloyd_ends_where_scikit_learn_ends_from_the_same_beginning(init: Any) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    values = np.random.default_rng(1).normal(size=3000).astype(np.float32)
    begun = centroids(values, 8, init, keep_zeros=False, iterations=0, seed=3)
    ours = centroids(values, 8, init, keep_zeros=False, iterations=500, seed=3)
    theirs = cluster.KMeans(8, init=begun[:, None].astype(np.float64), n_init=1, max_iter=500, tol=0).fit(
        values[:, None]
    )
    np.testing.assert_allclose(ours, np.sort(theirs.cluster_centers_[:, 0]), atol=1e-4)
    assert inertia(values, ours) <= inertia(values, begun)


@pytest.mark.parametrize(("init", "name"), [("linear", "LINEAR"), ("density", "DENSITY_BASED")])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_beginning_is_tfmots(init: Any, name: str, sparse: bool) -> None:
    """linear: up to float32. density: within two steps of tfmot's grid of 30 points, but for its largest, which is the
    largest weight where ours is the 99th percentile."""
    core = pytest.importorskip("tensorflow_model_optimization.python.core.clustering.keras.clustering_centroids")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 50)).astype(np.float32)
    if sparse:
        values[rng.random(values.shape) < 0.8] = 0
    kind = getattr(core.CentroidInitialization, name)
    make = core.CentroidsInitializerFactory.get_centroid_initializer(kind)
    theirs = np.sort(np.asarray(make(values, 16, False, "channels_last", sparse).get_cluster_centroids()))
    ours = centroids(values, 16, init, keep_zeros=sparse, iterations=0, seed=0)
    assert len(ours) == len(theirs) == 16
    if init == "linear":
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    else:
        np.testing.assert_allclose(ours[:-1], theirs[:-1], atol=2 * np.ptp(values) / 29)


def test_kmeans_plus_plus_is_better_than_tfmots_beginning_and_seeded() -> None:
    core = pytest.importorskip("tensorflow_model_optimization.python.core.clustering.keras.clustering_centroids")
    values = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    make = core.CentroidsInitializerFactory.get_centroid_initializer(core.CentroidInitialization.KMEANS_PLUS_PLUS)
    theirs = np.sort(np.asarray(make(values, 16).get_cluster_centroids()))
    tables = [centroids(values, 16, "kmeans++", keep_zeros=True, iterations=100, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
    assert inertia(values, tables[0]) < inertia(values, theirs)
