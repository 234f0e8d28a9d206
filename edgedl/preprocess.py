"""Declared preprocessing: the same numpy arithmetic at calibration, at evaluation and on the device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import DataError

Array = npt.NDArray[Any]
Layout = Literal["NHWC", "NCHW", ""]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to one raw input before the network sees it: resize, `(x * scale - mean) / std`, layout.

    `mean` and `std` have one value, or one a channel. `layout` is the layout the network wants;
    raw images are always given as NHWC (or NHW, to which a channel is added).
    """

    resize: tuple[int, int] | None = None  # height, width in pixels; bilinear, half-pixel centres
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = ""

    def __post_init__(self) -> None:
        if self.layout not in ("", "NHWC", "NCHW"):
            raise DataError(f"unknown layout '{self.layout}'", next="choose NHWC or NCHW")
        for name, values in (("scale", (self.scale,)), ("mean", self.mean), ("std", self.std)):
            if not values or not all(map(_is_float32, values)):
                raise DataError(
                    f"preprocessing has the {name} {getattr(self, name)!r}, which no float32 holds",
                    next="give finite numbers, one or one a channel",
                )
        if any(np.float32(s) == 0 for s in self.std):
            raise DataError("preprocessing divides by a std of 0", next="give a std above 0 for every channel")
        if np.float32(self.scale) == 0:
            raise DataError("preprocessing multiplies by a scale of 0", next="leave scale out, or give another")
        if self.resize is not None and not _is_size(self.resize):
            raise DataError(
                f"preprocessing resizes to {self.resize!r}, which is no image", next="give height and width in pixels"
            )

    @property
    def is_identity(self) -> bool:
        """Whether the input goes through unchanged (but for its dtype)."""
        return self == IDENTITY

    def __call__(self, x: Array) -> Array:
        """Raw values `[n, ...]` of any dtype -> what the network takes, float32 (integers stay integers if identity).

        `x` is left as it is. Raises DataError where there is a mean or std for another number of channels.
        """
        if self.is_identity:
            return x
        if self.resize is not None:
            x = resize_bilinear(x, self.resize)
        out = x.astype(np.float32, order="C")
        if self.layout == "NCHW" and out.ndim == 3:
            out = out[..., None]
        if self.scale != 1.0:
            out *= np.float32(self.scale)
        if self.mean != IDENTITY.mean:
            rows, mean = _per_channel(out, self.mean)
            rows -= mean
        if self.std != IDENTITY.std:
            rows, std = _per_channel(out, self.std)
            rows /= std
        if self.layout == "NCHW" and out.ndim == 4:
            out = np.ascontiguousarray(out.transpose(0, 3, 1, 2))
        return out

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the defaults."""
        return {k: v for k, v in asdict(self).items() if v != getattr(IDENTITY, k)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_json`. Raises DataError for an unknown key."""
        known = {f.name for f in fields(cls)}
        for key in data:
            if key not in known:
                raise DataError(f"unknown preprocessing key '{key}'", next=f"known keys: {', '.join(sorted(known))}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        for key in ("mean", "std"):
            if key in values and not isinstance(values[key], tuple):
                values[key] = (values[key],)
        return cls(**values)


def _is_number(value: Any, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_float32(value: Any) -> bool:
    return _is_number(value, int | float | np.number) and abs(value) <= float(np.finfo(np.float32).max)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, tuple) and len(value) == 2 and all(_is_number(v, int | np.integer) and v > 0 for v in value)
    )


IDENTITY = Preprocessing()


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], repeat: int) -> Array:
    return np.tile(np.asarray(values, np.float32), repeat)


def _per_channel(out: Array, values: tuple[float, ...]) -> tuple[Array, Array]:
    """A view of `out` and constants that broadcast over it: whole rows, because an inner loop of 3 channels is slow."""
    if len(values) == 1:
        return out, _constant(values, 1)
    if out.shape[-1] != len(values):
        raise DataError(
            f"preprocessing declares {len(values)} channels, and data of shape {out.shape} has {out.shape[-1]}",
            next="give mean and std one value, or one a channel",
        )
    if out.ndim < 3:
        return out, _constant(values, 1)
    rows = out.reshape(*out.shape[:-2], -1)
    return rows, _constant(values, out.shape[-2])


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Images `[n, h, w, c]` or `[n, h, w]` -> float32 `[n, *size, c]`, half-pixel centres, edges clamped.

    The arithmetic of tf.image.resize(method="bilinear", antialias=False).
    """
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise DataError(
            f"cannot resize data of shape {x.shape}: images are [n, height, width, channels]",
            next="drop 'resize' from the preprocessing",
        )
    out = x
    for axis, want in ((1, size[0]), (2, size[1])):
        have = out.shape[axis]
        if have != want:
            low, high, weight = _interpolation(have, want, axis)
            near = out.take(low, axis).astype(np.float32, copy=False)
            far = out.take(high, axis).astype(np.float32, copy=False)
            far -= near
            far *= weight
            far += near
            out = far
    return out.astype(np.float32)


@lru_cache(maxsize=64)
def _interpolation(have: int, want: int, axis: int) -> tuple[Array, Array, Array]:
    """Lower and upper source index `[want]`, and the weight of the upper one, shaped to broadcast along `axis` of 4."""
    at = (np.arange(want, dtype=np.float32) + np.float32(0.5)) * np.float32(have / want) - np.float32(0.5)
    at = np.clip(at, 0, have - 1)
    low = np.floor(at).astype(np.intp)
    weight = (at - low).astype(np.float32)
    return low, np.minimum(low + 1, have - 1), weight.reshape([-1 if a == axis else 1 for a in range(4)])
