"""data.train_share: a source that stands alone, cut into what trains, what calibrates and what is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl.artifact import Array, TensorSpec
from edgedl.data import DataOptions, Dataset, load
from edgedl.errors import DataError

ROW = TensorSpec("row", (None, 1), "float32")
CLASSES = TensorSpec("scores", (None, 4), "float32")


def source(folder: Path, count: int, labels: bool = True, name: str = "d.npz") -> Path:
    """Rows that hold their own number; the classes 0, 0, 0, 1, 0, 0, 0, 1 ... 3 : 1."""
    rows = np.arange(count, dtype=np.float32)[:, None]
    np.savez(folder / name, x=rows, **({"y": (np.arange(count) % 4 == 3).astype(np.int64)} if labels else {}))
    return folder / name


def get(path: Path, seed: int = 0, **options: Any) -> Dataset:
    return load(DataOptions(source=str(path), **options), [ROW], [CLASSES], seed=seed)


def rows(split: Any) -> Array:
    return np.asarray(split.x["row"][:, 0], int)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(3, 120),
    share=st.floats(0.01, 0.99),
    labels=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_trains_is_never_scored(count: int, share: float, labels: bool, seed: int, tmp_path: Path) -> None:
    data = get(source(tmp_path, count, labels), seed, train_share=share)
    assert data.train is not None
    train, scored = set(rows(data.train)), set(rows(data.validation))
    assert not train & scored
    assert train | scored == set(range(count)), "no sample is lost"
    assert len(train) == len(data.train), "and none is there twice"
    assert len(train) == min(max(1, round(count * share)), count - 1)
    assert set(rows(data.calibration)) <= train
    for split in (data.train, data.validation):
        assert (np.diff(rows(split)) > 0).all(), "each in the order given"
        if labels:
            np.testing.assert_array_equal(split.y, rows(split) % 4 == 3)
        else:
            assert split.y is None


def test_both_parts_have_the_classes_in_proportion(tmp_path: Path) -> None:
    data = get(source(tmp_path, 200), train_share=0.6)
    assert data.train is not None
    assert np.bincount(data.train.y).tolist() == [90, 30]
    assert np.bincount(data.validation.y).tolist() == [60, 20]


def test_the_same_seed_cuts_the_same(tmp_path: Path) -> None:
    path = source(tmp_path, 100)
    first, again, other = (get(path, seed, train_share=0.5) for seed in (0, 0, 1))
    assert first.train is not None
    assert again.train is not None
    assert other.train is not None
    np.testing.assert_array_equal(rows(first.train), rows(again.train))
    assert rows(first.train).tolist() != rows(other.train).tolist()


def test_calibration_is_cut_from_the_training_part_alone(tmp_path: Path) -> None:
    data = get(source(tmp_path, 100), train_share=0.6, calibration_samples=10)
    assert data.train is not None
    assert (len(data.calibration), len(data.train), len(data.validation)) == (10, 60, 40)
    assert np.bincount(np.asarray(data.calibration.y)[:4]).tolist() == [3, 1], "a prefix is representative"


def test_a_share_of_nothing_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    path = source(tmp_path, 50)
    assert get(path, train_share=0.0).train is None
    assert len(get(path).calibration) + len(get(path).validation) == 50


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_samples_are_not_cut(count: int, tmp_path: Path) -> None:
    data = get(source(tmp_path, count), train_share=0.6)
    assert data.train is None
    assert len(data.validation) >= 1


def test_beside_training_data_it_takes_nothing_away(tmp_path: Path) -> None:
    data = get(source(tmp_path, 50), train_share=0.6, train=str(source(tmp_path, 20, name="more.npz")))
    assert rows(data.validation).tolist() == list(range(50)), "all of it is scored"
    assert data.train is not None
    assert len(data.train) == 20


def test_beside_calibration_data_training_still_has_its_share(tmp_path: Path) -> None:
    data = get(source(tmp_path, 50), train_share=0.6, calibration=str(source(tmp_path, 20, name="more.npz")))
    assert data.train is not None
    assert (len(data.train), len(data.validation), len(data.calibration)) == (30, 20, 20)
    assert not set(rows(data.train).tolist()) & set(rows(data.validation).tolist())


def test_max_samples_is_cut_first(tmp_path: Path) -> None:
    data = get(source(tmp_path, 100), train_share=0.5, max_samples=40)
    assert data.train is not None
    assert (len(data.train), len(data.validation)) == (20, 20)


def test_it_is_kept_with_the_data(tmp_path: Path) -> None:
    data = get(source(tmp_path, 50), train_share=0.6)
    folder = tmp_path / "kept"
    folder.mkdir()
    data.save(folder)
    back = Dataset.restore(folder)
    assert back.train is not None
    assert data.train is not None
    np.testing.assert_array_equal(rows(back.train), rows(data.train))
    np.testing.assert_array_equal(back.train.y, data.train.y)


@pytest.mark.parametrize("share", [-0.1, 1.0, 60.0])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(DataError, match=f"train_share is {share}") as caught:
        DataOptions(train_share=share)
    assert caught.value.next
