"""Corrupted inputs: stronger is farther, shapes and types stay, the arithmetic is scipy's, and what does not apply is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.corruptions import AMOUNTS, STRENGTHS, Corruption, corrupted, every, form_of, gaussian, reasons
from edgedl.preprocess import Preprocessing

RNG = np.random.default_rng(0)
WALK = RNG.normal(size=(20, 24, 32, 3)).cumsum(axis=1).cumsum(axis=2)  # smooth, as pictures are
PICTURES = ((WALK - WALK.min()) / np.ptp(WALK) * 255).round().astype(np.uint8)
SERIES = RNG.normal(size=(20, 50, 4)).cumsum(axis=1).astype(np.float32) * np.float32([1, 10, 100, 0.01])
FEATURES = RNG.normal(size=(200, 6)).astype(np.float32) * np.float32([1, 1, 1, 5, 5, 1e3])


def all_of(x: Any, name: str, dtype: str = "float32") -> list[Any]:
    """The samples under every strength of one corruption."""
    form = form_of(x, dtype, x.ndim)
    made = [c for c in every({"x": form}) if c.name == name]
    assert [c.strength for c in made] == list(STRENGTHS)
    return [corrupted({"x": x}, {"x": form}, c, seed=3)["x"] for c in made]


@pytest.mark.parametrize(
    ("x", "name"),
    [(x, name) for x, kind in ((PICTURES, "image"), (PICTURES / np.float32(255), "image"), (SERIES, "series"), (FEATURES, "features"))
     for name in AMOUNTS[kind]],
)  # fmt: skip
def test_stronger_is_farther_and_shape_and_type_stay(x: Any, name: str) -> None:
    made = all_of(x, name)
    assert {(m.shape, m.dtype) for m in made} == {(x.shape, x.dtype)}
    far = [float(np.abs(m.astype(np.float64) - x).mean()) for m in made]
    assert 0 < far[0] < far[1] < far[2]
    again = all_of(x, name)
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))


def test_bytes_and_their_share_of_one_are_corrupted_alike() -> None:
    """Within half a grey level (rounding), and single precision."""
    for name in AMOUNTS["image"]:
        for whole, share in zip(all_of(PICTURES, name), all_of(PICTURES / np.float32(255), name), strict=True):
            np.testing.assert_allclose(whole, share * 255, atol=0.51)


def test_an_image_stays_within_its_range() -> None:
    x = RNG.uniform(-1, 1, (10, 16, 16, 1)).astype(np.float32)
    for name in AMOUNTS["image"]:
        for made in all_of(x, name):
            assert made.min() >= x.min() - 1e-6
            assert made.max() <= x.max() + 1e-6


def test_noise_has_the_spread_it_says() -> None:
    """Standard deviation of 24,000 draws: within 3 %."""
    grey = np.full((20, 24, 50, 1), 128, np.uint8)
    assert [round(float((m.astype(float) - 128).std() / 255), 3) for m in all_of(grey, "noise")] == pytest.approx(
        AMOUNTS["image"]["noise"], rel=0.03
    )
    for made, amount in zip(all_of(FEATURES, "noise"), AMOUNTS["features"]["noise"], strict=True):
        np.testing.assert_allclose(
            (made - FEATURES).std(0) / FEATURES.std(0), amount, rtol=0.2
        )  # of each, by 200 draws


def test_brightness_and_gain_are_what_they_say() -> None:
    x = RNG.uniform(0, 0.5, (4, 8, 8, 3)).astype(np.float32)
    x[0, 0, 0, 0] = 0
    x[0, 0, 0, 1] = 1
    for made, amount in zip(all_of(x, "brightness"), AMOUNTS["image"]["brightness"], strict=True):
        np.testing.assert_allclose(made, np.minimum(x + amount, 1), atol=1e-6)
    for made, amount in zip(all_of(SERIES, "gain"), AMOUNTS["series"]["gain"], strict=True):
        np.testing.assert_allclose(made, SERIES * amount, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.floats(0.3, 6.0))
def test_blur_is_that_of_scipy(length: int, sigma: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="the oracle is scipy")
    x = np.random.default_rng(length).normal(size=length)
    reach = int(np.ceil(3 * sigma))
    want = ndimage.gaussian_filter1d(x, sigma, mode="nearest", truncate=(reach + 0.49) / sigma)
    np.testing.assert_allclose(gaussian(length, sigma) @ x, want, atol=1e-5)


def test_blur_is_along_height_and_width_only() -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="the oracle is scipy")
    x = RNG.random((3, 40, 60, 3)).astype(np.float32)
    x[0, 0, 0, :2] = 0, 1
    for made, share in zip(all_of(x, "blur"), AMOUNTS["image"]["blur"], strict=True):
        sigma = max({0.0125: 0.4, 0.025: 0.6, 0.05: 1.0}[share], share * 40)
        radius = int(np.ceil(3 * sigma))
        want = ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest", radius=(0, radius, radius, 0))
        np.testing.assert_allclose(made, want, atol=1e-5)


def test_shift_moves_whole_samples_and_repeats_the_edge() -> None:
    for made, share in zip(all_of(SERIES, "time shift"), AMOUNTS["series"]["time shift"], strict=True):
        steps = round(share * 50)
        for before, after in zip(SERIES, made, strict=True):
            there, back = (np.roll(before, s, axis=0) for s in (steps, -steps))
            there[:steps], back[-steps:] = before[0], before[-1]
            assert np.array_equal(after, there) or np.array_equal(after, back)
    forward = [np.array_equal(a[1:], b[:-1]) for a, b in zip(all_of(SERIES, "time shift")[0], SERIES, strict=True)]
    assert 0 < sum(forward) < len(forward), "some to one side, some to the other"


@pytest.mark.parametrize(
    ("x", "dtype", "rank", "prep", "last", "kind", "axes"),
    [
        (PICTURES, "float32", 4, Preprocessing(), True, "image", (1, 2)),
        (PICTURES[..., 0], "float32", 4, Preprocessing(), True, "image", (1, 2)),
        (PICTURES.transpose(0, 3, 1, 2), "float32", 4, Preprocessing(), False, "image", (2, 3)),
        (PICTURES, "float32", 4, Preprocessing(layout="NCHW"), False, "image", (1, 2)),
        (SERIES, "float32", 3, Preprocessing(), True, "series", (1,)),
        (SERIES.transpose(0, 2, 1), "float32", 3, Preprocessing(), False, "series", (2,)),
        (FEATURES, "float32", 2, Preprocessing(), True, "features", ()),
        (np.zeros((5, 9), np.int32), "int32", 2, Preprocessing(), True, "none", ()),
        (np.arange(20.0, dtype=np.float32).reshape(2, 10), "float32", 2, Preprocessing(), True, "none", ()),
        (np.arange(40, dtype=np.int16).reshape(2, 20), "float32", 2, Preprocessing(scale=1 / 32768), True, "features", ()),
        (np.zeros((2, 4, 5, 6, 3), np.float32) + 0.5, "float32", 5, Preprocessing(), True, "features", ()),
    ],
    ids=["image", "grey", "NCHW file", "NCHW model", "series", "series of a file", "features", "ids", "ids as reals", "waveform", "video"],
)  # fmt: skip
def test_what_inputs_are_told_to_be(
    x: Any, dtype: str, rank: int, prep: Preprocessing, last: bool, kind: str, axes: tuple[int, ...]
) -> None:
    form = form_of(x, dtype, rank, prep, last)
    assert (form.kind, form.axes) == (kind, axes)
    assert bool(list(reasons({"x": form}))) == (kind == "none")


def test_each_input_gets_what_applies_to_it() -> None:
    x = {"image": PICTURES, "ids": np.zeros((20, 3), np.int64), "vector": FEATURES[:20]}
    forms = {n: form_of(a, "int64" if n == "ids" else "float32", a.ndim) for n, a in x.items()}
    for which in every(forms):
        made = corrupted(x, forms, which, seed=0)
        changed = {n for n in x if not np.array_equal(made[n], x[n])}
        assert changed == {"noise": {"image", "vector"}, "gain": {"vector"}}.get(which.name, {"image"})


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 3), (3, 1, 2), (1, 1)])
def test_the_smallest_inputs(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 0.5, np.float32)
    form = form_of(x, "float32", len(shape))
    for which in every({"x": form}):
        assert np.isfinite(corrupted({"x": x}, {"x": form}, which, seed=0)["x"]).all(), which


def test_nothing_applies_to_integers_alone() -> None:
    forms = {"ids": form_of(np.zeros((4, 2), np.int32), "int32", 2)}
    assert every(forms) == []
    assert corrupted({"ids": np.ones((4, 2))}, forms, Corruption("noise", 1, 0.1, ""), 0)["ids"].sum() == 8
