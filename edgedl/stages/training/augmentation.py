"""Random changes to a batch of raw samples, all samples at once, in numpy: flip, shift, crop, cutout, mixup and others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...data import Split
from ...errors import UsageError
from .options import Augment

MOVES = ("flip", "flip_vertical", "shift", "crop")  # changes that move pixels, and labels that are pictures with them
OF_IMAGES = (*MOVES, "cutout")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The changes of `Augment` for data of one kind: which inputs are images, which are no integers."""

    options: Augment
    images: tuple[str, ...]  # raw `[n, height, width, ...]`
    real: tuple[str, ...]  # inputs that are no integers: raw `[n, time, ...]`
    std: Mapping[str, float]  # of what the network takes, by input name
    pictures: bool  # labels have the images' height and width

    def raw(self, split: Split, rng: np.random.Generator) -> Split:
        """Raw samples, changed; the dtype of each input stays unless `crop` interpolates."""
        x, y, given = dict(split.x), split.y, self.options
        if any(getattr(given, name) for name in MOVES):
            n, height, width = x[self.images[0]].shape[:3]
            moved = _Movement.draw(given, n, height, width, rng)
            x |= {name: moved(x[name], given) for name in self.images}
            if self.pictures and y is not None:
                y = moved(y, given, classes=y.dtype.kind in "iu")
        if given.cutout:
            _cutout(x, self.images, given.cutout, rng)
        if given.time_shift:
            _time_shift(x, self.real, given.time_shift, rng)
        return Split(x, y)

    def ready(
        self, x: dict[str, Array], y: Array | None, rng: np.random.Generator
    ) -> tuple[dict[str, Array], Array | None]:
        """Noise and mixup on what the network takes; for mixup the labels must be soft already."""
        for name in self.real if self.options.noise else ():
            scale = np.float32(self.options.noise * self.std[name])
            x[name] = x[name] + scale * rng.standard_normal(x[name].shape, np.float32)
        if self.options.mixup:
            n = len(next(iter(x.values())))
            share, other = rng.beta(self.options.mixup, self.options.mixup), rng.permutation(n)
            x |= {name: mixed(x[name], other, share) for name in self.real}
            y = None if y is None else mixed(y, other, share)
        return x, y


def mixed(x: Array, other: Array, share: float) -> Array:
    """`share` of each sample and the rest of another one, float32."""
    return np.asarray(np.float32(share) * x + np.float32(1 - share) * x[other], np.float32)


def augmentation(
    options: Augment, sample: Split, ready: Mapping[str, Array], ranks: Mapping[str, int]
) -> Augmentation | None:
    """How data like `sample` is changed, or None where nothing is. `ready`: the sample as the network takes it.

    `ranks`: of the network's inputs, by name. Raises UsageError for changes that this data cannot have.
    """
    wanted = [name for name in Augment.__dataclass_fields__ if name != "border" and getattr(options, name)]
    if not wanted:
        return None
    real = tuple(name for name, v in ready.items() if v.dtype.kind == "f")
    images = tuple(name for name in real if ranks[name] == 4 and sample.x[name].ndim in (3, 4))
    for name in wanted:
        if not (images if name in OF_IMAGES else real):
            need = "images (rank 4)" if name in OF_IMAGES else "inputs that are no integers"
            shapes = ", ".join(f"{k} {list(v.shape[1:])} {v.dtype}" for k, v in ready.items())
            raise UsageError(f"augment.{name} needs {need}, and the model takes {shapes}", next="leave it out")
    if options.mixup and len(real) < len(ready):
        raise UsageError("augment.mixup cannot mix integer inputs (token ids)", next="leave it out")
    pictures = False
    if any(name in MOVES for name in wanted):
        _same_size(sample, images)
        pictures = _are_pictures(sample, images[0])
    return Augmentation(options, images, real, {name: float(np.std(ready[name])) for name in real}, pictures)


def _same_size(sample: Split, images: tuple[str, ...]) -> None:
    sizes = {sample.x[name].shape[1:3] for name in images}
    if len(sizes) > 1:
        raise UsageError(
            f"flip, shift and crop move all images alike, and these have the sizes {sorted(sizes)}",
            next="leave flip, flip_vertical, shift and crop out",
        )


def _are_pictures(sample: Split, image: str) -> bool:
    """Whether the labels are pictures that must move with the images. Raises UsageError where they have another size."""
    y, size = sample.y, sample.x[image].shape[1:3]
    if y is None or y.ndim < 3:
        return False
    if y.shape[1:3] != size:
        raise UsageError(
            f"labels of shape {y.shape[1:]} cannot move with images of {size[0]}x{size[1]} pixels",
            next="give labels of the images' size, or leave flip, flip_vertical, shift and crop out",
        )
    return True


@dataclass(frozen=True, slots=True)
class _Movement:
    """From which row and column of the picture, padded at its border, each pixel of the result is taken."""

    rows: Array  # [n, height], fractions where a crop is resized
    columns: Array  # [n, width]

    @classmethod
    def draw(cls, options: Augment, n: int, height: int, width: int, rng: np.random.Generator) -> _Movement:
        pair: list[Array] = [np.broadcast_to(np.arange(size), (n, size)) for size in (height, width)]
        if options.crop:
            share = 1 - options.crop * rng.random((n, 1))
            pair = [_cropped(at, share, rng.random((n, 1))) for at in pair]
        for axis, flips in ((1, options.flip), (0, options.flip_vertical)):
            if flips:
                turned = rng.random((n, 1)) < 0.5
                pair[axis] = np.where(turned, pair[axis][:, ::-1], pair[axis])
        if options.shift:
            by = rng.integers(0, 2 * options.shift, (2, n, 1), endpoint=True)
            pair = [at + by[axis] for axis, at in enumerate(pair)]
        return cls(*pair)

    def __call__(self, x: Array, options: Augment, classes: bool = False) -> Array:
        """Pictures `[n, height, width, ...]`, moved; `classes` by the nearest pixel."""
        if options.shift:
            sides = ((0, 0), *((options.shift, options.shift),) * 2, *((0, 0),) * (x.ndim - 3))
            x = np.pad(x, sides, mode="reflect" if options.border == "reflect" else "constant")
        if self.rows.dtype.kind in "iu":
            return _gathered(x, self.rows, self.columns)
        if classes:
            return _gathered(x, np.rint(self.rows).astype(np.intp), np.rint(self.columns).astype(np.intp))
        return _interpolated(x, self.rows, self.columns)


def _cropped(at: Array, share: Array, place: Array) -> Array:
    """Source coordinates `[n, size]` of a window of `share` of the size at `place` (0..1), half-pixel centres."""
    size = at.shape[1]
    start = (1 - share) * size * place
    return np.asarray(np.clip((at + 0.5) * share + start - 0.5, 0, size - 1))


def _gathered(x: Array, rows: Array, columns: Array) -> Array:
    n = np.arange(len(x))[:, None, None]
    return np.asarray(x[n, rows[:, :, None], columns[:, None, :]])


def _interpolated(x: Array, rows: Array, columns: Array) -> Array:
    """Bilinear, float32."""
    tail = (1,) * (x.ndim - 3)
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    bottom, right = np.minimum(top + 1, x.shape[1] - 1), np.minimum(left + 1, x.shape[2] - 1)
    down = (rows - top).astype(np.float32).reshape(*rows.shape, 1, *tail)
    across = (columns - left).astype(np.float32).reshape(len(x), 1, columns.shape[1], *tail)
    x = x.astype(np.float32)
    upper = _gathered(x, top, left) * (1 - across) + _gathered(x, top, right) * across
    lower = _gathered(x, bottom, left) * (1 - across) + _gathered(x, bottom, right) * across
    return np.asarray(upper * (1 - down) + lower * down)


def _cutout(x: dict[str, Array], images: tuple[str, ...], side: int, rng: np.random.Generator) -> None:
    """A square around a random pixel, in part outside at the border, takes the image's mean colour."""
    for name in images:
        pixels = x[name]
        n, height, width = pixels.shape[:3]
        hidden = _span(height, side, n, rng)[:, :, None] & _span(width, side, n, rng)[:, None, :]
        mean = pixels.mean((1, 2), keepdims=True, dtype=np.float32)
        if pixels.dtype.kind in "iu":
            mean = np.rint(mean)
        hidden = hidden.reshape(*hidden.shape, *(1,) * (pixels.ndim - 3))
        x[name] = np.where(hidden, mean.astype(pixels.dtype), pixels)


def _span(size: int, side: int, n: int, rng: np.random.Generator) -> Array:
    """`[n, size]`: whether a place lies in a random interval of `side`."""
    start = rng.integers(0, size, (n, 1)) - side // 2
    at = np.arange(size)
    return np.asarray((at >= start) & (at < start + side))


def _time_shift(x: dict[str, Array], names: tuple[str, ...], share: float, rng: np.random.Generator) -> None:
    """Each series is moved along its first axis; what comes in is zero."""
    for name in names:
        series: Any = x[name]
        n, length = series.shape[:2]
        most = int(share * length)
        source = np.arange(length) - rng.integers(-most, most, (n, 1), endpoint=True)
        within = (source >= 0) & (source < length)
        taken = series[np.arange(n)[:, None], np.clip(source, 0, length - 1)]
        x[name] = np.where(within.reshape(*within.shape, *(1,) * (series.ndim - 2)), taken, np.zeros((), series.dtype))
