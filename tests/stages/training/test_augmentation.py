"""Augmentation: each change against plain loops and what it must keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedl.data import Split
from edgedl.errors import UsageError
from edgedl.stages.training.augmentation import augmentation
from edgedl.stages.training.options import Augment

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (64, 6, 8, 3), np.uint8)


def change(options: Augment, x: Any, y: Any = None, seed: int = 1) -> Split:
    split = Split({"x": x}, y)
    ready = {"x": x.astype(np.float32)}
    made = augmentation(options, split, ready, {"x": x.ndim})
    assert made is not None
    return made.raw(split, np.random.default_rng(seed))


def test_nothing_asked_for_is_nothing_done() -> None:
    assert augmentation(Augment(), Split({"x": IMAGES}), {"x": IMAGES.astype(np.float32)}, {"x": 4}) is None


@pytest.mark.parametrize(("name", "turned"), [("flip", IMAGES[:, :, ::-1]), ("flip_vertical", IMAGES[:, ::-1])])
def test_about_half_of_the_images_are_mirrored_and_the_others_stay(name: str, turned: Any) -> None:
    found = change(Augment(**{name: True}), IMAGES).x["x"]
    mirrored = np.array([np.array_equal(a, b) for a, b in zip(found, turned, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(found, IMAGES, strict=True)])
    assert np.all(mirrored ^ same)
    assert 16 <= mirrored.sum() <= 48
    assert found.dtype == np.uint8


def test_shift_is_a_crop_of_the_image_padded_with_zeros() -> None:
    found = change(Augment(shift=2), IMAGES).x["x"]
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for image, wide in zip(found, padded, strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if np.array_equal(image, wide[i : i + 6, j : j + 8])]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 12, "of 25 places"


def test_shift_with_a_mirrored_border_brings_in_no_black() -> None:
    found = change(Augment(shift=2, border="reflect"), IMAGES).x["x"]
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for image, wide in zip(found, padded, strict=True):
        assert any(np.array_equal(image, wide[i : i + 6, j : j + 8]) for i in range(5) for j in range(5))
    assert found.min() > 0


def test_crop_of_a_ramp_is_a_part_of_the_ramp() -> None:
    """Bilinear interpolation of a linear picture is exact: each row is again a line of a smaller slope."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32)[None, :, None, None], (20, 32, 32, 1)).copy()
    found = change(Augment(crop=0.5), ramp).x["x"][:, 1:-1, 0, 0]  # the borders are clamped
    slopes = np.diff(found, axis=1)
    np.testing.assert_allclose(slopes[:, 3:-3], slopes[:, 15:16].repeat(slopes.shape[1] - 6, 1), atol=1e-4)
    assert slopes[:, 15].min() >= 0.5 - 1e-4
    assert slopes[:, 15].max() <= 1 + 1e-4
    assert np.std(slopes[:, 15]) > 0.05


@pytest.mark.parametrize("options", [Augment(flip=True, flip_vertical=True, shift=2), Augment(crop=0.4, flip=True)])
def test_masks_move_with_their_images(options: Augment) -> None:
    masks = np.kron((IMAGES[..., 0] > 128).astype(np.int64), np.ones((1, 8, 8), np.int64))
    images = np.where(masks, 200, 50).astype(np.uint8)[..., None]
    found = change(options, images, masks)
    assert found.y is not None
    assert found.y.shape == masks.shape
    moved = found.x["x"][..., 0]
    sure = (moved == 200) | (moved == 50)  # not between two pixels, and not from outside
    np.testing.assert_array_equal(found.y[sure] == 1, moved[sure] == 200)
    assert sure.mean() > 0.3


def test_cutout_hides_a_square_of_the_images_mean() -> None:
    found = change(Augment(cutout=3), IMAGES).x["x"]
    for image, before in zip(found, IMAGES, strict=True):
        different = np.any(image != before, -1)
        rows, columns = np.nonzero(different)
        assert 0 < len(rows) <= 9
        assert np.ptp(rows) < 3
        assert np.ptp(columns) < 3
        np.testing.assert_array_equal(
            image[different], np.rint(before.mean((0, 1), dtype=np.float32))[None].repeat(len(rows), 0)
        )


@pytest.mark.parametrize("shape", [(40, 10), (40, 10, 3)])
def test_time_shift_moves_each_series_and_fills_with_zeros(shape: tuple[int, ...]) -> None:
    x = RNG.normal(size=shape).astype(np.float32)
    found = change(Augment(time_shift=0.3), x).x["x"]
    seen = set()
    for series, before in zip(found, x, strict=True):
        wide = np.concatenate([np.zeros_like(before[:3]), before, np.zeros_like(before[:3])])
        places = [i for i in range(7) if np.array_equal(series, wide[i : i + 10])]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) >= 6, "of 7 places"


def test_noise_is_a_share_of_the_inputs_spread() -> None:
    x = (RNG.normal(size=(256, 50)) * 7 + 3).astype(np.float32)
    made = augmentation(Augment(noise=0.1), Split({"x": x}), {"x": x}, {"x": 2})
    assert made is not None
    found, _ = made.ready({"x": x.copy()}, None, np.random.default_rng(0))
    assert np.std(found["x"] - x) == pytest.approx(0.7, rel=0.05)  # 12800 draws
    assert found["x"].dtype == np.float32


def test_mixup_mixes_inputs_and_labels_alike() -> None:
    labels = np.eye(4, dtype=np.float32)[RNG.integers(0, 4, 32)]
    made = augmentation(Augment(mixup=0.4), Split({"x": labels}), {"x": labels}, {"x": 2})
    assert made is not None
    found, y = made.ready({"x": labels}, labels, np.random.default_rng(3))
    np.testing.assert_array_equal(found["x"], y)
    np.testing.assert_allclose(np.sum(found["x"], -1), 1, atol=1e-6)
    assert np.any((found["x"] > 0.01) & (found["x"] < 0.99))


@pytest.mark.parametrize(
    ("options", "x", "told"),
    [
        (Augment(flip=True), np.zeros((4, 10), np.float32), "augment.flip needs images"),
        (Augment(noise=0.1), np.zeros((4, 10), np.int32), "augment.noise needs inputs that are no integers"),
    ],
)
def test_a_change_that_the_inputs_cannot_have_is_refused(options: Augment, x: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        augmentation(options, Split({"x": x}), {"x": x}, {"x": x.ndim})


def test_labels_that_cannot_move_with_the_images_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot move"):
        change(Augment(shift=1), IMAGES, np.zeros((64, 3, 4), np.int64))
