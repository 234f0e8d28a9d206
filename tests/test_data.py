"""Data: every kind of source, the splits, labels and metrics, generated inputs, and what is refused."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import wave
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.artifact import Array, TensorSpec
from edgedl.data import DataOptions, Dataset, Split, load
from edgedl.data.raw import stratified_order
from edgedl.errors import DataError
from edgedl.preprocess import Preprocessing, resize_bilinear

RNG = np.random.default_rng(0)
IMAGE = TensorSpec("image", (None, 8, 8, 3), "float32")
GREY = TensorSpec("image", (None, 8, 8, 1), "float32")
TOKENS = TensorSpec("tokens", (None, 12), "int32")
FLAT = TensorSpec("x_in", (None, 4), "float32")
TEN = TensorSpec("scores", (None, 10), "float32")
THREE = TensorSpec("scores", (None, 3), "float32")
ONE = TensorSpec("score", (None, 1), "float32")


def spec(*shape: int | None, name: str = "out", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, (None, *shape), dtype)


def get(source: Path | str, x: Any = FLAT, out: Any = TEN, *, seed: int = 0, **options: Any) -> Dataset:
    as_list = [x] if isinstance(x, TensorSpec) else x
    return load(
        DataOptions(source=str(source), **options), as_list, [out] if isinstance(out, TensorSpec) else out, seed=seed
    )


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def flat(n: int = 50) -> Array:
    """Rows that can be told apart: row i is i, i + 0.1 ..."""
    return (np.arange(n)[:, None] + np.arange(4) / 10).astype(np.float32)


def all_rows(data: Dataset) -> Array:
    return np.concatenate([s.x[FLAT.name][:, 0] for s in (data.calibration, data.validation)])


# --- splits


def test_one_source_is_cut_in_two_disjoint_parts(tmp_path: Path) -> None:
    y = np.arange(50) % 10
    data = get(npz(tmp_path, x=flat(), y=y))
    assert (len(data.calibration), len(data.validation), data.train) == (10, 40, None)
    np.testing.assert_array_equal(np.sort(all_rows(data)), np.arange(50))
    assert data.calibration.y is not None
    assert data.validation.y is not None
    assert np.bincount(data.calibration.y).tolist() == [1] * 10
    for split in (data.calibration, data.validation):
        np.testing.assert_array_equal(split.x[FLAT.name][:, 0] % 10, split.y)
    assert data.metric == "accuracy"


def test_the_same_seed_cuts_the_same(tmp_path: Path) -> None:
    path = npz(tmp_path, x=flat(), y=np.arange(50) % 10)
    first, again, other = get(path), get(path), get(path, seed=1)
    np.testing.assert_array_equal(all_rows(first), all_rows(again))
    assert not np.array_equal(all_rows(first), all_rows(other))


def test_at_most_calibration_samples_are_cut(tmp_path: Path) -> None:
    path = npz(tmp_path, x=flat(2000))
    assert len(get(path).calibration) == 200
    assert len(get(path, calibration_samples=30).calibration) == 30
    assert len(get(path, max_samples=100).validation) == 80


def test_a_separate_calibration_source_leaves_all_for_validation(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=flat(30) + 1000, y=np.sort(np.arange(30) % 10))
    data = get(npz(tmp_path, x=flat(), y=np.arange(50) % 10), calibration=str(tmp_path / "c.npz"))
    np.testing.assert_array_equal(data.validation.x[FLAT.name], flat())
    assert len(data.calibration) == 30
    assert sorted(set(np.asarray(data.calibration.y)[:10])) == list(range(10))  # sorted by class in the file, not here
    assert not data.notes
    assert "same data" in get(tmp_path / "c.npz", calibration=str(tmp_path / "c.npz")).notes[0]


def test_labels_of_a_calibration_source_need_not_be_the_models(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=flat(30), y=np.arange(30) + 100)
    data = get(npz(tmp_path, x=flat(), y=np.arange(50) % 10), calibration=str(tmp_path / "c.npz"))
    assert (len(data.calibration), data.calibration.y, data.metric) == (30, None, "accuracy")
    image_folders(tmp_path / "c", ("any",), each=4)
    image_folders(tmp_path / "v", ("a", "b", "c"))
    images = get(tmp_path / "v", IMAGE, THREE, calibration=str(tmp_path / "c"))
    assert (len(images.calibration), images.labels) == (4, ("a", "b", "c"))


def test_calibration_is_cut_from_a_training_source(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=flat(300) + 1000, y=np.arange(300) % 10)
    data = get(npz(tmp_path, x=flat(), y=np.arange(50) % 10), train=str(tmp_path / "t.npz"))
    assert data.train is not None
    assert (len(data.calibration), len(data.validation), len(data.train)) == (200, 50, 300)
    assert data.calibration.x[FLAT.name].min() >= 1000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 99))
def test_every_prefix_of_the_order_holds_the_classes_in_proportion(labels: list[int], seed: int) -> None:
    """A class of n among N has n m / N of the first m, within two: one for its own rounding, one for the others'."""
    y = np.array(labels)
    order = stratified_order(y, len(y), seed)
    assert sorted(order) == list(range(len(y)))
    for c in np.unique(y):
        have = np.cumsum(y[order] == c)
        want = np.mean(y == c) * np.arange(1, len(y) + 1)
        assert np.abs(have - want).max() <= max(2, len(np.unique(y)) / 2)


def test_one_sample_serves_twice_and_says_so(tmp_path: Path) -> None:
    data = get(npz(tmp_path, x=flat(1)))
    assert len(data.calibration) == len(data.validation) == 1
    assert "one sample" in data.notes[0]


# --- arrays


def test_npy_alone_and_in_pairs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", flat())
    np.save(tmp_path / "y.npy", np.arange(50) % 10)
    alone = get(tmp_path / "x.npy")
    assert alone.validation.y is None
    assert alone.metric == "agreement"
    pair = get(f"{tmp_path}/x.npy,{tmp_path}/y.npy")
    np.testing.assert_array_equal(pair.validation.x[FLAT.name][:, 0] % 10, pair.validation.y)


@pytest.mark.parametrize(
    "names",
    [("x", "y"), ("X", "Y"), ("images", "labels"), ("data", "target"), ("x_in", "scores"), ("x_test", "y_test")],
)
def test_names_that_are_clear(tmp_path: Path, names: tuple[str, str]) -> None:
    data = get(npz(tmp_path, **{names[0]: flat(), names[1]: np.zeros(50, int)}))
    assert data.metric == "accuracy"
    assert len(data.calibration) + len(data.validation) == 50


def test_parts_of_an_archive(tmp_path: Path) -> None:
    arrays = {
        f"{a}_{part}": v
        for part, n in (("train", 30), ("test", 20))
        for a, v in (("x", flat(n)), ("y", np.zeros(n, int)))
    }
    data = get(npz(tmp_path, **arrays))
    assert data.train is not None
    assert (len(data.train), len(data.validation), len(data.calibration)) == (30, 20, 30)
    assert "'x_test' is the validation data" in data.notes[0]


@pytest.mark.parametrize("names", [("foo", "bar"), ("x", "images"), ("x", "y", "labels"), ("y",)])
def test_doubtful_names_are_listed(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as error:
        get(npz(tmp_path, **{name: flat() for name in names}))
    assert all(f"{name} [50, 4]" in str(error.value) for name in names)


def test_several_inputs_by_name(tmp_path: Path) -> None:
    inputs = [spec(1, name="user", dtype="int32"), spec(1, name="item", dtype="int64")]
    path = npz(tmp_path, user=np.arange(20), item=np.arange(20.0)[:, None], y=np.arange(20) % 2)
    data = get(path, inputs, ONE)
    fed = data.feed(data.validation)
    assert {k: (v.dtype.name, v.shape) for k, v in fed.items()} == {
        "user": ("int32", (16, 1)),
        "item": ("int64", (16, 1)),
    }
    np.testing.assert_array_equal(fed["user"], fed["item"])
    with pytest.raises(DataError, match="no array that is clearly the model's input other"):
        get(path, [inputs[0], spec(1, name="other")], ONE)


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((8, 8), (8, 8, 1)),
        ((8, 8, 1), (8, 8)),
        ((8, 8, 1), (64,)),
        ((64,), (8, 8, 1)),
        ((8, 8), (64,)),
        ((8, 8), (1, 8, 8)),
        ((64, 1), (64,)),
        ((5, 8), (None, 8)),
        ((1, 8, 8), (8, 8, 1)),
        ((), (1,)),
    ],
)
def test_axes_that_hold_nothing_are_added_or_dropped(
    tmp_path: Path, shape: tuple[int, ...], want: tuple[Any, ...]
) -> None:
    x = RNG.random((20, *shape), np.float32)
    data = get(npz(tmp_path, x=x), spec(*want))
    fed = data.feed(data.validation)["out"]
    assert fed.shape[1:] == tuple(5 if d is None else d for d in want)
    assert {row.tobytes() for row in fed} <= {row.tobytes() for row in x}


@pytest.mark.parametrize(
    ("shape", "want", "remedy"),
    [
        ((9, 9, 3), (8, 8, 3), r"set resize = \[8, 8\]"),
        ((3, 8, 8), (8, 8, 3), "moveaxis"),
        ((4, 16), (8, 8), "shape the model was trained on"),
        ((8, 8, 4), (8, 8, 3), "shape the model was trained on"),
        ((63,), (8, 8, 1), "shape the model was trained on"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...], want: tuple[int, ...], remedy: str) -> None:
    with pytest.raises(DataError, match=remedy) as error:
        get(npz(tmp_path, x=np.zeros((20, *shape))), spec(*want))
    assert str(list(shape)) in error.value.message
    assert str(list(want)) in error.value.message


def test_a_sample_without_its_batch_axis(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="add a first axis"):
        get(npz(tmp_path, x=np.zeros((8, 8, 3))), IMAGE)


def test_nhwc_images_for_an_nchw_model(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)
    data = get(npz(tmp_path, x=x), spec(3, 8, 8, name="image"), max_samples=20)
    assert data.preprocessing["image"] == Preprocessing(layout="NCHW")
    assert data.feed(data.validation)["image"].shape == (16, 3, 8, 8)


# --- preprocessing


def test_feed_applies_what_was_declared(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (20, 16, 12, 3), np.uint8)
    data = get(npz(tmp_path, x=x), IMAGE, resize=(8, 8), scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5,))
    np.testing.assert_array_equal(data.validation.x["image"].shape, (16, 16, 12, 3))
    first = data.validation.x["image"][2:5]
    want = (resize_bilinear(first, (8, 8)) * np.float32(1 / 255) - np.float32([0.1, 0.2, 0.3])) / np.float32(0.5)
    np.testing.assert_array_equal(data.feed(data.validation, 2, 5)["image"], want)
    assert not data.notes


def test_preprocessing_by_input(tmp_path: Path) -> None:
    inputs = [IMAGE, TOKENS, FLAT]
    path = npz(tmp_path, image=np.full((10, 8, 8, 3), 255, np.uint8), tokens=np.ones((10, 12), int), x_in=flat(10))
    data = get(path, inputs, scale=1 / 255, inputs={"x_in": {"scale": 2.0}})
    fed = data.feed(data.calibration)
    assert fed["image"].max() == pytest.approx(1)
    assert fed["tokens"].dtype == np.int32
    np.testing.assert_allclose(fed["x_in"], 2 * data.calibration.x["x_in"])
    with pytest.raises(DataError, match=r"'imag'.*did you mean 'image'"):
        get(path, inputs, inputs={"imag": {}})
    with pytest.raises(DataError, match="unknown preprocessing key 'sclae'"):
        get(path, inputs, inputs={"image": {"sclae": 1}})


def test_bytes_without_preprocessing_are_noted(tmp_path: Path) -> None:
    path = npz(tmp_path, x=RNG.integers(0, 256, (20, 8, 8, 3), np.uint8))
    assert "0..255, as given; declare scale" in get(path, IMAGE).notes[0]
    assert not get(path, IMAGE, scale=1 / 255).notes


def test_quantized_inputs_are_fed_as_reals(tmp_path: Path) -> None:
    quantized = TensorSpec("x", (1, 4), "int8", 0.5, 3)
    data = get(npz(tmp_path, x=flat()), quantized)
    assert data.feed(data.validation)["x"].dtype == np.float32


# --- labels and metrics


@pytest.mark.parametrize(
    ("y", "out", "metric", "kept"),
    [
        (np.arange(20) % 3, THREE, "accuracy", np.arange(20) % 3),
        ((np.arange(20) % 3)[:, None], THREE, "accuracy", np.arange(20) % 3),
        (np.eye(3)[np.arange(20) % 3], THREE, "accuracy", np.arange(20) % 3),
        ((np.arange(20) % 3).astype(float), THREE, "accuracy", np.arange(20) % 3),
        (np.arange(20) % 2, ONE, "accuracy", np.arange(20) % 2),
        ((np.arange(20) % 2).astype(bool), ONE, "accuracy", np.arange(20) % 2),
        (np.arange(20) / 7, ONE, "mae", np.float32(np.arange(20) / 7)),
        (np.arange(20), ONE, "mae", np.float32(np.arange(20))),
        (flat(20)[:, :3], THREE, "mae", flat(20)[:, :3]),
        (np.ones((20, 3)), THREE, "mae", np.ones((20, 3))),  # multi-label
        (np.zeros((20, 8, 8), int), spec(8, 8, 5), "mean_iou", np.zeros((20, 8, 8))),
        (np.zeros((20, 8, 8, 1), int), spec(8, 8, 5), "mean_iou", np.zeros((20, 8, 8))),
        (np.zeros((20, 8, 8, 1), int), spec(8, 8, 1), "mean_iou", np.zeros((20, 8, 8))),
        (np.full((20, 8, 8, 1), 0.5), spec(8, 8, 1), "mae", np.full((20, 8, 8), 0.5)),
        (np.zeros((20, 7), int), spec(7, 5), "accuracy", np.zeros((20, 7))),
        (np.arange(20) % 3, spec(1, 1, 3), "accuracy", np.arange(20) % 3),
    ],
)
def test_labels_and_their_metric(tmp_path: Path, y: Array, out: TensorSpec, metric: str, kept: Array) -> None:
    data = get(npz(tmp_path, x=flat(20), y=y), out=out)
    assert data.metric == metric
    rows = data.validation.x[FLAT.name][:, 0].astype(int)
    np.testing.assert_array_equal(data.validation.y, kept[rows])


def test_metric_without_labels(tmp_path: Path) -> None:
    path = npz(tmp_path, x=flat())
    assert get(path).metric == "agreement"
    assert get(path, out=spec(4)).metric == "fidelity"  # an autoencoder
    with pytest.raises(DataError, match="'f1' needs labels"):
        get(path, metric="f1")


def test_the_metric_chooses_the_output(tmp_path: Path) -> None:
    outputs = [spec(4, name="boxes"), TEN]
    data = get(npz(tmp_path, x=flat(), y=np.arange(50) % 10), out=outputs, metric="scores:top3")
    assert data.metric == "scores:top3"
    assert get(npz(tmp_path, x=flat(), boxes=flat()), out=outputs).metric == "mae"
    assert (
        get(npz(tmp_path, x=flat(), y=np.arange(50) % 10), out=outputs, metric="scores:auto").metric
        == "scores:accuracy"
    )


def test_class_names(tmp_path: Path) -> None:
    names = np.array(["cat", "ant", "bee"])
    path = npz(tmp_path, x=flat(30), y=names[np.arange(30) % 3])
    data = get(path, out=THREE)
    assert data.labels == ("ant", "bee", "cat")
    rows = data.validation.x[FLAT.name][:, 0].astype(int)
    np.testing.assert_array_equal(np.array(data.labels)[np.asarray(data.validation.y)], names[rows % 3])
    declared = get(path, out=THREE, labels=tuple(names))
    np.testing.assert_array_equal(declared.validation.y, declared.validation.x[FLAT.name][:, 0] % 3)
    (tmp_path / "labels.txt").write_text("cat\nant\nbee\n")
    assert get(path, out=THREE, labels=str(tmp_path / "labels.txt")).labels == tuple(names)


@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        (
            {"x": flat(), "y": np.arange(50) % 10 + 1},
            {},
            "label 10 in sample 9 is outside the 10 classes .*; 5 labels are",
        ),
        ({"x": flat(), "y": np.arange(50) % 10 + 1}, {}, "subtract 1"),
        ({"x": flat(), "y": np.arange(50) % 10 - 1}, {}, "label -1 in sample 0 is outside"),
        ({"x": flat(), "y": np.arange(50) / 7}, {}, "fractional labels"),
        ({"x": flat(), "y": np.zeros((50, 9), int)}, {}, r"labels of shape \[50, 9\].*\[any, 10\]"),
        ({"x": flat(), "y": np.zeros(49, int)}, {}, "50 samples and 49 labels"),
        ({"x": flat(), "y": np.full(50, np.nan)}, {}, "50 values that are NaN"),
        ({"x": np.where(flat() == 7, np.nan, flat())}, {}, "1 values that are NaN, .* the first in sample 7"),
        ({"x": np.where(flat() == 7, 1e300, flat().astype(float))}, {}, "too large for float32, the first in sample 7"),
        ({"x": flat(0)}, {}, "is empty"),
        ({"x": np.array(["a", "b"])}, {}, "holds text"),
        ({"x": flat() + 1j}, {}, "complex64"),
        ({"x": flat(), "y": np.arange(50) % 10}, {"labels": ("a", "b")}, "2 labels .* has 10 classes"),
        ({"x": flat(), "y": np.array(["a", "b"] * 25)}, {"labels": tuple("acdefghijk")}, "not declared: b"),
        ({"x": flat(), "y": np.arange(50) % 10}, {"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"x": flat(), "y": np.arange(50) % 10}, {"metric": "nope:f1"}, "output 'nope' that the model does not have"),
        ({"x": flat(), "y": flat(50) @ np.ones((4, 10))}, {"metric": "f1"}, "labels are real values"),
        ({"x": flat()}, {"mean": (1.0, 2.0)}, "data.mean has 2 values, .* 4 channels"),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        get(npz(tmp_path, **arrays), **options)
    assert error.value.next


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.full((9, 12), 0.5), "fractions"),
        (np.full((9, 12), 2**40), "does not fit .*int32"),
        (np.zeros((9, 13), int), r"\[13\].*\[12\]"),
    ],
)
def test_integer_inputs(tmp_path: Path, x: Array, says: str) -> None:
    with pytest.raises(DataError, match=says):
        get(npz(tmp_path, x=x), TOKENS)


def test_inputs_of_different_length(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a 4, b 5"):
        get(npz(tmp_path, a=flat(4), b=flat(5)), [spec(4, name="a"), spec(4, name="b")])


# --- files that are broken or hostile


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def npy_header(shape: str, descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def zipped(**members: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return whole.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    return file.getvalue()


def saved(array: Array) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npz", b"", "is empty"),
        ("a.npz", b"no zip at all", "cannot be read"),
        ("a.npz", saved(flat(500))[:5000], "cannot be read"),
        ("a.npz", zipped(x=pickled()), "'x' in .* pickled Python objects"),
        ("a.npz", zipped(x=npy_header("(1000000000000,)")), "declares 8,000,000,000,000 bytes and holds 128"),
        ("a.npz", zipped(x=npy_header("(1 << 20,)")), "cannot be read"),
        ("a.npz", zipped(x=b"\x93NUMPY\x09\x00garbage"), "cannot be read"),
        ("a.npz", zipped(), "holds nothing"),
        ("a.npy", npy_header("(1000000,)"), "cannot be read"),
        ("a.npy", npy_header("(1000000000000,)"), "the limit is 4 GiB"),
        ("a.npy", pickled(), "pickled Python objects"),
        ("a.csv", b"\xff\xfe\x00\x01", "cannot be read"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,b,c,d\n", "no rows below its header"),
        ("a.csv", b"1,2,3,4\n1,2,3\n", "row 2 has 3 columns"),
        ("a.csv", b'1,"2,3,4\n', "cannot be read"),
        ("a.csv", b"a,b,c,d,y\n1,,3,4,0\n", "column 'b' is empty in row 2"),
        ("a.csv", b"a,b,c,d,y\n1,2,3,4,\n", "label 'y' is empty in row 2"),
        ("a.pkl", b"x", "is a pickle"),
        ("a.mat", b"x", r"end in '.mat' are not read"),
    ],
)
def test_broken_and_hostile_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        get(write(tmp_path / name, content))
    assert error.value.next


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """30 MB of zeros in 30 kB, with a limit of 10 MiB; nothing of it is read."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1_000_000, 4), np.float64))
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"the limit is 0\.01 GiB"):
        get(path, memory_gib=0.01)
    assert len(get(path).validation) == 999_800


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_damaged_archive_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(saved(flat(20)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp() / "damaged.npz", bytes(content))
    with contextlib.suppress(DataError):
        assert len(get(path).validation) > 0  # what was hit did not matter


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere.npz", "no data at"),
        ("a.npy,b.npy", "no data at"),
        ("nomodule_of_this_name:f", "No module named"),
    ],
)
def test_sources_that_are_not_there(source: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        get(source)


def test_a_misspelt_file_is_guessed(tmp_path: Path) -> None:
    npz(tmp_path, x=flat())
    with pytest.raises(DataError, match=r"did you mean 'data.npz'"):
        get(tmp_path / "dta.npz")


# --- tables


TABLE = "a,b,c,d,{label}\n" + "".join(f"{i},{i}.5,{i},{i},{i % 10}\n" for i in range(30))


@pytest.mark.parametrize("label", ["label", "target", "y", "Class", "whatever"])
def test_the_label_column(tmp_path: Path, label: str) -> None:
    data = get(write(tmp_path / "t.csv", TABLE.format(label=label).encode()))
    np.testing.assert_array_equal(data.validation.x[FLAT.name][:, 0] % 10, data.validation.y)
    np.testing.assert_array_equal(data.validation.x[FLAT.name][:, 1] % 1, 0.5)


def test_a_label_column_first_or_chosen(tmp_path: Path) -> None:
    rows = "".join(f"{i % 10};{i};1;2;3\n" for i in range(30))
    data = get(write(tmp_path / "t.csv", ("label;a;b;c;d\n" + rows).encode()))
    np.testing.assert_array_equal(data.validation.x[FLAT.name][:, 0] % 10, data.validation.y)
    chosen = get(write(tmp_path / "u.csv", ("kind;a;b;c;d\n" + rows).encode()), label_column="kind")
    np.testing.assert_array_equal(chosen.validation.y, data.validation.y)
    with pytest.raises(DataError, match="no column 'kid': did you mean 'kind'"):
        get(tmp_path / "u.csv", label_column="kid")


def test_tables_without_header_or_labels(tmp_path: Path) -> None:
    rows = "".join(f"{i}\t{i}\t{i}\t{i}\n" for i in range(30)).encode()
    assert get(write(tmp_path / "t.tsv", rows)).validation.y is None
    five = get(write(tmp_path / "t.csv", b"".join(b"%d,1,2,3,%d\n" % (i, i % 10) for i in range(30))))
    assert len(five.validation) + len(five.calibration) == 30
    np.testing.assert_array_equal(five.validation.x[FLAT.name][:, 0] % 10, five.validation.y)


def test_quoted_cells_and_class_names(tmp_path: Path) -> None:
    text = '"a","b, too","c","d","class"\n' + "".join(f'"{i}",1,2,3,"{"yes" if i % 2 else "no"}"\n' for i in range(20))
    data = get(write(tmp_path / "t.csv", text.encode("utf-8-sig")), out=ONE)
    assert data.labels == ("no", "yes")
    np.testing.assert_array_equal(data.validation.x[FLAT.name][:, 0] % 2, data.validation.y)


def test_columns_that_are_inputs(tmp_path: Path) -> None:
    text = "user,item,y\n" + "".join(f"{i},{i + 1},{i % 2}\n" for i in range(20))
    inputs = [spec(1, name="item", dtype="int32"), spec(1, name="user", dtype="int32")]
    data = get(write(tmp_path / "t.csv", text.encode()), inputs, ONE)
    fed = data.feed(data.validation)
    np.testing.assert_array_equal(fed["item"], fed["user"] + 1)
    assert fed["user"].dtype == np.int32


def test_text_is_refused_clearly(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", b'label\ttext\n1\tgood "film\n0\tbad film\n')
    with pytest.raises(DataError, match="column 'text' is 'good \"film' in row 2") as error:
        get(path, TOKENS, ONE)
    assert "token numbers" in error.value.next


# --- images


def picture(path: Path, value: int | tuple[int, ...], size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new(mode, (size[1], size[0]), value).save(path)
    return path


def image_folders(folder: Path, names: tuple[str, ...], each: int = 5, size: tuple[int, int] = (8, 8)) -> Path:
    for n, name in enumerate(names):
        for i in range(each):
            picture(folder / name / f"{i}.png", (n * 10, i, 7), size)
    return folder


def test_class_folders(tmp_path: Path) -> None:
    data = get(image_folders(tmp_path, ("bee", "ant", "cat")), IMAGE, THREE)
    assert data.labels == ("ant", "bee", "cat")
    assert data.validation.x["image"].dtype == np.uint8
    shown = {"bee": 0, "ant": 10, "cat": 20}
    for x, y in zip(data.validation.x["image"], np.asarray(data.validation.y), strict=True):
        assert x[0, 0, 0] == shown[data.labels[y]]
        assert x[0, 0, 2] == 7
    np.testing.assert_array_equal(
        np.asarray(get(tmp_path, IMAGE, THREE, labels=("cat", "bee", "ant")).validation.y),
        2 - np.asarray(data.validation.y),
    )


def test_numbered_class_folders_are_numbers(tmp_path: Path) -> None:
    names = tuple(map(str, range(11)))
    data = get(image_folders(tmp_path, names, each=2), IMAGE, spec(11))
    np.testing.assert_array_equal(data.validation.x["image"][:, 0, 0, 0], np.asarray(data.validation.y) * 10)


def test_grey_images_nchw_and_flat_folders(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / f"{i}.png", i * 10, mode="L")
    grey = get(tmp_path, GREY)
    assert grey.validation.y is None
    assert sorted(np.concatenate([s.x["image"][:, 0, 0, 0] for s in (grey.validation, grey.calibration)])) == [
        0,
        10,
        20,
        30,
        40,
        50,
    ]
    nchw = get(tmp_path, spec(3, 8, 8, name="image"))
    assert nchw.feed(nchw.validation)["image"].shape == (5, 3, 8, 8)


def test_images_of_another_size(tmp_path: Path) -> None:
    image_folders(tmp_path, ("a", "b", "c"), size=(16, 20))
    picture(tmp_path / "a" / "small.png", 0, (4, 4))
    by_pillow = get(tmp_path, IMAGE, THREE)
    assert by_pillow.validation.x["image"].shape == (13, 8, 8, 3)
    assert "16 of 16 images were resized to 8x8 by Pillow" in by_pillow.notes[0]
    declared = get(tmp_path, IMAGE, THREE, resize=(8, 8))
    assert declared.preprocessing["image"].resize == (8, 8)
    assert not declared.notes


def test_a_declared_resize_of_files_is_the_runtimes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    x = RNG.integers(0, 256, (16, 12, 3), np.uint8)
    for i in range(2):
        image.fromarray(x).save(tmp_path / f"{i}.png")
    data = get(tmp_path, IMAGE, resize=(8, 8), scale=1 / 255)
    np.testing.assert_array_equal(data.feed(data.validation)["image"], data.preprocessing["image"](x[None]))


def test_parts_of_an_image_folder(tmp_path: Path) -> None:
    image_folders(tmp_path / "train", ("a", "b", "c"), each=4)
    image_folders(tmp_path / "val", ("a", "b", "c"), each=2)
    data = get(tmp_path, IMAGE, THREE)
    assert data.train is not None
    assert (len(data.train), len(data.validation)) == (12, 6)
    assert data.labels == ("a", "b", "c")


def test_at_most_max_samples_are_decoded(tmp_path: Path) -> None:
    image_folders(tmp_path, ("a", "b", "c"))
    data = get(tmp_path, IMAGE, THREE, max_samples=6)
    assert np.bincount(np.concatenate([np.asarray(s.y) for s in (data.calibration, data.validation)])).tolist() == [
        2,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("prepare", "options", "says"),
    [
        (lambda p: (p / "a" / "0.png").write_bytes(b"\x89PNG no"), {}, r"the image .*0\.png cannot be read"),
        (lambda p: picture(p / "a" / "wide.png", 9, mode="I;16"), {}, r"wide\.png has more than 8 bits"),
        (lambda p: picture(p / "loose.png", 0), {}, r"both class folders \(a \.\.\.\) and files \(loose\.png"),
        (lambda p: picture(p / "d" / "0.png", 0), {}, "4 class folders .* 3 classes"),
        (lambda p: (p / "a" / "0.wav").write_bytes(b""), {}, "both images and WAVs"),
        (lambda p: None, {"labels": ("a", "bb", "c")}, "none of the declared labels: did you mean 'bb'"),
        (lambda p: None, {"memory_gib": 1e-6}, "15 images takes .* the limit is 1e-06 GiB"),
    ],
)
def test_bad_image_folders(tmp_path: Path, prepare: Callable[[Path], Any], options: dict[str, Any], says: str) -> None:
    prepare(image_folders(tmp_path, ("a", "b", "c")))
    with pytest.raises(DataError, match=says):
        get(tmp_path, IMAGE, THREE, **options)


def test_folders_without_media_and_models_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image and no WAV"):
        get(tmp_path / "empty", IMAGE)
    with pytest.raises(DataError, match="not an image"):
        get(image_folders(tmp_path / "full", ("a", "b", "c")), FLAT, THREE)


# --- sound


def sound(path: Path, values: Any, *, width: int = 2, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        if width == 1:
            file.writeframes(bytes(int(v) + 128 for v in values))
        else:
            file.writeframes(b"".join(int(v).to_bytes(width, "little", signed=True) for v in values))
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_of_every_width(tmp_path: Path, width: int) -> None:
    top = 1 << (8 * width - 1)
    values = [-top, -top // 2, 0, top // 4, top - 1]
    for i in range(2):
        sound(tmp_path / f"{i}.wav", values, width=width)
    data = get(tmp_path, spec(5))
    want = np.array([-1, -0.5, 0, 0.25, 1 - 1 / top], np.float32)
    np.testing.assert_array_equal(data.feed(data.validation)["out"][0], want)


def test_clips_are_padded_and_cut(tmp_path: Path) -> None:
    for i in range(6):
        sound(tmp_path / "yes" / f"{i}.wav", [1 << 14] * (3 + i))
        sound(tmp_path / "no" / f"{i}.wav", [-(1 << 14)] * 5)
    data = get(tmp_path, spec(5, 1), spec(2))
    assert data.labels == ("no", "yes")
    assert data.feed(data.validation)["out"].shape == (10, 5, 1)
    assert "3 of 12 clips are longer" in data.notes[0]
    assert "2 of 12 clips are shorter" in data.notes[1]
    for x, y in zip(data.validation.x["out"], np.asarray(data.validation.y), strict=True):
        assert x[0] == (0.5 if y == 1 else -0.5)


def test_stereo_is_averaged(tmp_path: Path) -> None:
    for i in range(2):
        sound(tmp_path / f"{i}.wav", [1 << 14, 0] * 5, channels=2)
    data = get(tmp_path, spec(5))
    np.testing.assert_array_equal(data.validation.x["out"], np.full((1, 5), 0.25))


def test_rates_are_not_mixed(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", [0] * 5)
    sound(tmp_path / "b.wav", [0] * 5, rate=44100)
    with pytest.raises(DataError, match=r"b\.wav has 44,100 Hz, and .*a\.wav has 16,000 Hz"):
        get(tmp_path, spec(5))
    with pytest.raises(DataError, match=r"a\.wav has 16,000 Hz, and sample_rate is 8,000 Hz"):
        get(tmp_path, spec(5), sample_rate=8000)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x03\x00"])
def test_broken_wavs(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.wav cannot be read"):
        get(write(tmp_path / "a.wav", content).parent, spec(5))


def test_models_that_take_features_of_sound(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", [0] * 5)
    with pytest.raises(DataError, match="takes features, not samples"):
        get(tmp_path, spec(49, 10, 1))


# --- functions, digits, nothing


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of its own name in the current folder."""
    name = f"loader_{abs(hash(request.node.name))}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np\n"
        "x = np.arange(80).reshape(20, 4)\n"
        "def only_x(): return x\n"
        "def pair(): return x, np.arange(20) % 10\n"
        "def named(): return {'x_in': x, 'scores': list(range(10)) * 2}\n"
        "def nothing(): return None\n"
        "def fails(): raise ValueError('the disk is on fire')\n"
        "def stops(): raise SystemExit(3)\n"
        "def asserts(): assert len(x) == 3, 'three are needed'\n"
        "class Odd(Exception): pass\n"
        "def odd(): raise Odd\n"
    )
    return name


def test_functions(module: str) -> None:
    assert get(f"{module}:only_x").validation.y is None
    for name in ("pair", "named"):
        data = get(f"{module}:{name}")
        np.testing.assert_array_equal(data.validation.x[FLAT.name][:, 0] / 4 % 10, data.validation.y)
    assert str(Path.cwd()) not in sys.path


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("nothing", "holds nothing"),
        ("fails", "ValueError: the disk is on fire"),
        ("missing", "no attribute 'missing'"),
        ("stops", "SystemExit: 3"),
        ("asserts", "AssertionError: three are needed"),
        ("odd", "Odd"),
    ],
)
def test_functions_that_fail(module: str, function: str, says: str) -> None:
    with pytest.raises(DataError, match=f"{module}:{function}.*{says}"):
        get(f"{module}:{function}")


def test_a_module_that_ends_the_process(module: str) -> None:
    Path(f"{module}.py").write_text("import sys; sys.exit(3)")
    with pytest.raises(DataError, match=f"{module}:x.*SystemExit: 3"):
        get(f"{module}:x")


@pytest.mark.parametrize("x", [spec(8, 8, 1), spec(64), spec(8, 8), spec(1, 8, 8)])
def test_digits(x: TensorSpec) -> None:
    data = get("digits", x)
    fed = data.feed(data.validation)["out"]
    assert fed.shape == (600, *x.shape[1:])
    assert data.train is not None
    assert len(data.train) == 1197
    assert (fed.min(), fed.max()) == (0, 16)
    assert np.bincount(np.asarray(data.calibration.y)).min() >= 19


def test_nothing_at_all() -> None:
    inputs = [spec(16, 16, 3, name="image"), TOKENS, spec(None, 5, name="series"), spec(2, name="flag", dtype="bool")]
    data = get("", inputs)
    assert data.generated
    assert data.metric == "agreement"
    assert "NO DATA WAS GIVEN" in data.notes[0]
    assert "image: smoothed noise, 0..1; tokens: integers 0..9" in data.notes[0]
    fed = data.feed(data.calibration)
    assert {k: v.dtype.name for k, v in fed.items()} == {
        "image": "float32",
        "tokens": "int32",
        "series": "float32",
        "flag": "bool",
    }
    assert fed["image"].min() >= 0
    assert fed["image"].max() <= 1
    assert (fed["tokens"].min(), fed["tokens"].max()) == (0, 9)
    assert 0.9 < fed["series"].std() < 1.1
    assert len({row.tobytes() for row in fed["image"]}) == len(data.calibration) == 64
    assert all(row.std() > 0.01 for row in fed["image"])
    assert not np.array_equal(fed["image"], data.feed(data.validation)["image"])
    np.testing.assert_array_equal(fed["image"], get("", inputs).feed(data.calibration)["image"])


def test_generated_images_fill_the_declared_range() -> None:
    data = get("", spec(3, 16, 16, name="image"), scale=1 / 255, layout="NCHW")
    assert data.validation.x["image"].shape == (64, 16, 16, 3)
    assert data.validation.x["image"].max() > 200
    fed = data.feed(data.validation)["image"]
    assert fed.shape == (64, 3, 16, 16)
    assert 0 <= fed.min() < 0.2 < 0.8 < fed.max() <= 1.0001
    quantized = TensorSpec("x", (1, 4), "int8", 0.5, 3)
    values = get("", quantized).validation.x["x"]
    assert -65.5 <= values.min() < values.max() <= 62


def test_large_inputs_are_generated_in_smaller_numbers() -> None:
    assert len(get("", spec(1024, 1024, 3)).validation) == 21


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ([TensorSpec("s", (), "float32")], {}, "no batch axis"),
        ([TensorSpec("s", (None,), "str")], {}, "not numbers"),
        ([FLAT], {"calibration": "digits"}, "no validation data"),
    ],
)
def test_models_that_data_cannot_serve(inputs: list[TensorSpec], options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        get("", inputs, **options)


@pytest.mark.parametrize(
    "options",
    [{"calibration_samples": 0}, {"max_samples": -1}, {"memory_gib": 0}, {"resize": (0, 8)}, {"metric": "best"}],
)
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        DataOptions(**options)


# --- saving


def test_save_and_restore(tmp_path: Path) -> None:
    path = npz(tmp_path, x=RNG.integers(0, 256, (30, 8, 8, 3), np.uint8), y=np.arange(30) % 3)
    data = get(path, IMAGE, THREE, scale=1 / 255, mean=(0.1, 0.2, 0.3), train=str(path), labels=("a", "b", "c"))
    folder = tmp_path / "kept"
    folder.mkdir()
    data.save(folder)
    again = Dataset.restore(folder)
    assert isinstance(again.validation.x["image"], np.memmap)
    for name in ("calibration", "validation", "train"):
        before, after = getattr(data, name), getattr(again, name)
        np.testing.assert_array_equal(before.x["image"], after.x["image"])
        np.testing.assert_array_equal(before.y, after.y)
        np.testing.assert_array_equal(data.feed(before, 1, 4)["image"], again.feed(after, 1, 4)["image"])
    empty = Split({})
    assert replace(again, calibration=empty, validation=empty, train=None) == replace(
        data, calibration=empty, validation=empty, train=None
    )


def test_save_and_restore_without_labels(tmp_path: Path) -> None:
    data = get("", [IMAGE, TOKENS])
    data.save(tmp_path)
    again = Dataset.restore(tmp_path)
    assert again.validation.y is None
    assert again.train is None
    assert again.generated
    assert again.feed(again.validation)["tokens"].dtype == np.int32


def test_what_was_kept_and_damaged(tmp_path: Path) -> None:
    get("", IMAGE).save(tmp_path)
    (tmp_path / "validation.x0.npy").write_bytes(b"")
    with pytest.raises(DataError, match="is damaged"):
        Dataset.restore(tmp_path)
    with pytest.raises(DataError, match="is damaged"):
        Dataset.restore(tmp_path / "nowhere")


def test_needs_numpy_alone() -> None:
    code = "import sys, edgedl.data, edgedl.metrics; print(*sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'keras', 'PIL', 'click', 'onnx', 'sklearn'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


# --- real data


@pytest.mark.acceptance
@pytest.mark.skipif("EDGEDL_ASSETS" not in os.environ, reason="EDGEDL_ASSETS is not set")
@pytest.mark.parametrize(
    ("file", "x", "out", "options", "counts"),
    [
        (
            "mlperf_tiny/ic01.npz",
            spec(32, 32, 3),
            spec(10),
            {"calibration": "cifar10_jpeg/train_6000.npz"},
            (6000, 200),
        ),
        ("mlperf_tiny/kws01.npz", spec(49, 10, 1), spec(12), {"scale": 0.5847029, "mean": (48.53,)}, (200, 800)),
        ("mnist_t10k/first_7000.npz", spec(28, 28, 1), spec(10), {"scale": 1 / 255}, (200, 6800)),
        ("gtsrb_32/train.npz", spec(3, 32, 32), spec(43), {}, (200, 3885)),
        ("heart_cleveland/train.csv", spec(13), spec(1), {}, (46, 184)),
        ("speech_commands_1s/clips_a.npz", spec(16000), spec(12), {"scale": 1 / 32768}, (99, 399)),
        ("pneumoniamnist/train_val.npz", spec(28, 28, 1), spec(1), {}, (200, 524)),
    ],
)
def test_real_data_sets(
    file: str, x: TensorSpec, out: TensorSpec, options: dict[str, Any], counts: tuple[int, int]
) -> None:
    folder = Path(os.environ["EDGEDL_ASSETS"]) / "datasets"
    options = {k: str(folder / v) if k == "calibration" else v for k, v in options.items()}
    data = get(folder / file, x, out, **options)
    assert (len(data.calibration), len(data.validation)) == counts
    assert data.metric == "accuracy"
    assert data.feed(data.validation, 0, 3)["out"].shape == (3, *x.shape[1:])


@pytest.mark.acceptance
@pytest.mark.skipif("EDGEDL_ASSETS" not in os.environ, reason="EDGEDL_ASSETS is not set")
@pytest.mark.parametrize(
    ("file", "x", "out", "says"),
    [
        ("ecg5000_500/train_350.npz", spec(140), spec(5), "subtract 1"),
        ("rt_polarity/train.tsv", spec(60, dtype="int32"), spec(2), "column 'text' is"),
        ("mnist_t10k/first_7000.npz", spec(32, 32, 1), spec(10), r"\[28, 28\].*\[32, 32, 1\]"),
    ],
)
def test_real_data_for_another_model(file: str, x: TensorSpec, out: TensorSpec, says: str) -> None:
    with pytest.raises(DataError, match=says):
        get(Path(os.environ["EDGEDL_ASSETS"]) / "datasets" / file, x, out)
