"""Generated inputs for a model that came without data: plausible enough to run it, no substitute for real samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..artifact import Array, TensorSpec
from ..preprocess import Preprocessing, resize_bilinear
from .dataset import Split
from .fit import is_integer
from .images import MODES, image_shape
from .options import DataOptions

SAMPLES = 64  # in each of calibration and validation
MAX_BYTES = 256 << 20  # of one split; fewer samples where they are large
MIN_SAMPLES = 8
FREE = 64  # stands for an axis of any length


def generate(
    inputs: Sequence[TensorSpec], preprocessing: dict[str, Preprocessing], options: DataOptions, seed: int
) -> tuple[Split, Split]:
    """Calibration and validation inputs by name, raw (before preprocessing).

    - integer inputs: uniform 0..`options.generated_max`, bool: 0 or 1;
    - images (`[n, h, w, c]` with 1, 3 or 4 channels, also NCHW): bilinear noise of 2, 4 or 16 cells a side, each of its
      own contrast, over the range that the declared preprocessing implies: 0..255 if it scales down or subtracts
      or divides by more than 1, else 0..1;
    - inputs that quantized integers stand for: uniform over what these can hold;
    - everything else: standard normal, smoothed along the first axis where there are two.
    """
    shapes = {s.name: tuple(FREE if d is None else d for d in s.shape[1:]) for s in inputs}
    bytes_each = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    count = int(np.clip(MAX_BYTES // max(bytes_each, 1), MIN_SAMPLES, SAMPLES))
    rng = np.random.default_rng(seed)
    splits = [
        Split({s.name: _samples(s, (count, *shapes[s.name]), preprocessing[s.name], options, rng) for s in inputs})
        for _ in range(2)
    ]
    return splits[0], splits[1]


def describe(spec: TensorSpec, prep: Preprocessing, options: DataOptions) -> str:
    """What is generated for an input, in words."""
    if is_integer(spec):
        return "0 or 1" if spec.dtype == "bool" else f"integers 0..{options.generated_max}"
    if image_shape(spec.shape) and len(spec.shape) == 4:
        return f"smoothed noise, 0..{_peak(prep):g}"
    return "uniform noise" if spec.is_quantized else "normal noise"


def _peak(prep: Preprocessing) -> float:
    large = prep.scale < 0.1 or any(abs(m) > 1 for m in prep.mean) or any(s > 1 for s in prep.std)
    return 255.0 if large else 1.0


def _samples(
    spec: TensorSpec, shape: tuple[int, ...], prep: Preprocessing, options: DataOptions, rng: np.random.Generator
) -> Array:
    if is_integer(spec):
        top = 1 if spec.dtype == "bool" else min(options.generated_max, np.iinfo(spec.dtype).max)
        return rng.integers(0, top + 1, shape).astype(spec.dtype)
    if image_shape(spec.shape) and len(spec.shape) == 4:
        first = spec.shape[3] not in MODES
        images = _images((shape[0], *shape[2:], shape[1]) if first else shape, rng) * np.float32(_peak(prep))
        return images.transpose(0, 3, 1, 2) if first and prep.layout != "NCHW" else images
    if spec.is_quantized:
        info = np.iinfo(spec.dtype)
        return spec.dequantize(rng.integers(info.min, info.max + 1, shape).astype(spec.dtype))
    noise = rng.standard_normal(shape, np.float32)
    return _smooth(noise, 1, 5) if len(shape) == 3 else noise


def _images(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Images 0..1 of the given NHWC shape."""
    out = np.empty(shape, np.float32)
    for image in out:
        cells = rng.choice([2, 4, 16], 2)
        noise = rng.random((1, *np.minimum(cells, shape[1:3]), shape[3]), np.float32)
        noise = (noise - noise.min()) / max(float(np.ptp(noise)), 1e-6)
        contrast = rng.uniform(0.4, 1.0)
        image[...] = resize_bilinear(noise, (shape[1], shape[2]))[0] * contrast + rng.uniform(0, 1 - contrast)
    return out


def _smooth(x: Array, axis: int, width: int) -> Array:
    """Moving average over `width` samples of a circular axis, scaled to keep the variance of white noise."""
    if width <= 1:
        return x
    width = min(width, x.shape[axis])
    total = np.cumsum(np.concatenate([x, x.take(range(width), axis)], axis), axis, dtype=np.float64)
    size = x.shape[axis]
    window = total.take(range(width, width + size), axis) - total.take(range(size), axis)
    smooth: Array = (window / np.sqrt(width)).astype(np.float32)
    return smooth
