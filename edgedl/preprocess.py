"""Declared preprocessing: the same numpy arithmetic at calibration, at evaluation and on the device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
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
        if any(s == 0 for s in self.std):
            raise DataError("preprocessing divides by a std of 0", next="give a std above 0 for every channel")

    @property
    def is_identity(self) -> bool:
        """Whether the input goes through unchanged (but for its dtype)."""
        return self == Preprocessing()

    def __call__(self, x: Array) -> Array:
        """Raw values `[n, ...]` of any dtype -> what the network takes, float32 (integers stay integers if identity)."""
        if self.is_identity:
            return x
        if self.resize is not None:
            x = resize_bilinear(x, self.resize)
        out = x.astype(np.float32)
        if self.scale != 1.0:
            out *= np.float32(self.scale)
        if any(self.mean):
            out -= np.asarray(self.mean, np.float32)
        if any(s != 1.0 for s in self.std):
            out /= np.asarray(self.std, np.float32)
        if self.layout == "NCHW" and out.ndim == 4:
            out = np.ascontiguousarray(out.transpose(0, 3, 1, 2))
        return out

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the defaults."""
        default = Preprocessing()
        return {k: v for k, v in asdict(self).items() if v != getattr(default, k)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_json`. Raises DataError for an unknown key."""
        known = {f.name for f in fields(cls)}
        for key in data:
            if key not in known:
                raise DataError(f"unknown preprocessing key '{key}'", next=f"known keys: {', '.join(sorted(known))}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


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
    out = x.astype(np.float32)
    for axis, want in ((1, size[0]), (2, size[1])):
        have = out.shape[axis]
        if have == want:
            continue
        at = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, have - 1)
        weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
        out = out.take(low, axis) * (1 - weight) + out.take(high, axis) * weight
    return out
