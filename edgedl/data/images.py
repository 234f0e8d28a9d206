"""Reads image files with Pillow into one array, at the size the model takes or the runtime will resize to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import DataError, MissingDependencyError
from ..preprocess import resize_bilinear
from .options import unreadable
from .raw import Wanted, bounded

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
WIDE = ("I", "F")  # Pillow modes of more than 8 bits, which it would clip


def image_shape(shape: tuple[int | None, ...]) -> tuple[int | None, int | None, int] | None:
    """Height, width, channels of a model's input `[n, h, w, c]`, `[n, c, h, w]` or `[n, h, w]`; None: not an image.

    >>> image_shape((None, 32, 24, 3)), image_shape((1, 3, 32, 24)), image_shape((None, 40))
    ((32, 24, 3), (32, 24, 3), None)
    """
    if len(shape) == 3:
        return shape[1], shape[2], 1
    if len(shape) != 4:
        return None
    if shape[3] in MODES:
        return shape[1], shape[2], shape[3] or 1
    return (shape[2], shape[3], shape[1]) if shape[1] in MODES else None


def read_images(files: Sequence[Path], wanted: Wanted, where: str) -> tuple[Array, tuple[str, ...]]:
    """Images `[n, h, w, c]` 0..255 and notes: uint8; float32 where the declared resize was already applied.

    Without a declared resize they are resized here to the model's input (Pillow, bilinear with antialiasing).
    """
    spec = wanted.inputs[0]
    found = image_shape(spec.shape)
    if found is None:
        raise DataError(
            f"{where} holds images, and the model's input {spec.name} {list(spec.shape)} is not an image",
            next="pass an .npz with what the model takes",
        )
    height, width, channels = found
    declared = wanted.options.inputs.get(spec.name, {}).get("resize", wanted.options.resize)
    size = tuple(declared) if declared else None if height is None or width is None else (height, width)
    if size is None:
        size = _pixels(_open(files[0], channels)).shape[:2]
    room = len(files) * size[0] * size[1] * channels * (4 if declared else 1)
    bounded(room, wanted, f"{where}: {len(files):,} images")
    out = np.empty((len(files), *size, channels), np.float32 if declared else np.uint8)
    resized = 0
    for row, file in zip(out, files, strict=True):
        picture = _open(file, channels)
        if declared:
            row[...] = resize_bilinear(_pixels(picture)[None], (size[0], size[1]))[0]
            continue
        if picture.size != (size[1], size[0]):
            picture = picture.resize((size[1], size[0]), resample=2)  # PIL.Image.Resampling.BILINEAR
            resized += 1
        row[...] = _pixels(picture)
    note = f"{where}: {resized} of {len(files)} images were resized to {size[0]}x{size[1]} by Pillow, which a device has to do too"
    return out, (f"{note}; declare resize in [data] to have the runtime do it",) if resized else ()


def _open(file: Path, channels: int) -> Any:
    """A decoded PIL.Image with these channels. Raises DataError naming the file."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("reading images needs Pillow", next="pip install Pillow") from error
    try:
        with Image.open(file) as image:
            if image.mode.split(";")[0] in WIDE:
                raise DataError(
                    f"the image {file} has more than 8 bits a channel ({image.mode})",
                    next="save it with 8 bits, or pass an .npz with its values",
                )
            return image.convert(MODES[channels])
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise unreadable(f"the image {file}", error) from error


def _pixels(picture: Any) -> Array:
    array: Array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array
