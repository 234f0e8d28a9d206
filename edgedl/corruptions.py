"""Corrupted inputs at three strengths, seeded, made of raw values: noise, blur, brightness, shift, gain. numpy only.

The families are those of Hendrycks and Dietterich (Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019); every strength is relative to the data's own range, spread or length, so that bytes, images in
0..1 and features are all served. The same seed draws the same pattern at each strength, only stronger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .artifact import Array
from .preprocess import IDENTITY, Preprocessing

Kind = Literal["image", "series", "features", "none"]
STRENGTHS = (1, 2, 3)
BLUR_PIXELS = (0.4, 0.6, 1.0)  # sigma of the blur in pixels, at least: small images would not change
AMOUNTS: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "image": {
        "noise": (0.02, 0.04, 0.08),  # standard deviation, as a share of the range of the values
        "blur": (0.0125, 0.025, 0.05),  # sigma of a Gaussian, as a share of the shorter side
        "brightness": (0.1, 0.2, 0.3),  # added, as a share of the range
        "shift": (0.05, 0.1, 0.2),  # along both sides, as a share of each; edges repeated
    },
    "series": {
        "noise": (0.1, 0.2, 0.4),  # standard deviation, as a share of that of each feature
        "gain": (1.1, 1.25, 1.5),  # factor
        "time shift": (0.02, 0.05, 0.1),  # as a share of the length, edges repeated
    },
    "features": {"noise": (0.1, 0.2, 0.4), "gain": (1.1, 1.25, 1.5)},
}
UNITS: Mapping[tuple[str, str], str] = {
    ("image", "noise"): "of the range", ("image", "blur"): "of the shorter side", ("image", "brightness"): "of the range",
    ("image", "shift"): "of each side", ("series", "noise"): "of the standard deviation", ("series", "gain"): "times",
    ("series", "time shift"): "of the length", ("features", "noise"): "of the standard deviation", ("features", "gain"): "times",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """What the samples of one input are, and what strengths are measured by."""

    kind: Kind
    axes: tuple[int, ...] = ()  # height and width, or time
    low: float = 0.0  # range of the values of an image
    high: float = 1.0
    std: Array | float = 1.0  # of each feature, along the last axis
    why: str = ""  # nothing applies


@dataclass(frozen=True, slots=True)
class Corruption:
    """One family at one strength (1, 2, 3), for every input it applies to."""

    name: str
    strength: int
    amount: float
    unit: str


def form_of(
    x: Array, dtype: str, rank: int, preprocessing: Preprocessing = IDENTITY, channels_last: bool = True
) -> Form:
    """What raw samples `[n, ...]` are, for an input of so many axes (`rank`) and this dtype.

    Images have height and width, series time and features, anything else is features. `channels_last`: False where the
    order of the axes is the file's own, and not known.
    """
    if np.dtype(dtype).kind in "iub":
        return Form("none", why="it takes integers")
    if x.ndim == 4 or (x.ndim == 3 and (rank == 4 or preprocessing.layout == "NCHW")):
        low, high = (0.0, 255.0) if x.dtype == np.uint8 else (float(x.min()), float(x.max()))
        return Form("image", _sides(x, channels_last or preprocessing != IDENTITY), low, high)
    if preprocessing.is_identity and bool(np.all(x == np.floor(x))):
        return Form("none", why="its values are whole numbers: ids or counts")
    spread = x.astype(np.float64).std(axis=tuple(range(x.ndim - 1))) if x.ndim > 1 else float(x.std())
    if x.ndim != 3:
        return Form("features", std=spread)
    time = 1 if channels_last or x.shape[1] >= x.shape[2] else 2
    return Form("series", (time,), std=spread if time == 1 else float(x.std()))


def _sides(x: Array, channels_last: bool) -> tuple[int, int]:
    """The axes of height and width: those that are not the few channels."""
    channels_first = not channels_last and x.ndim == 4 and x.shape[1] <= 4 < x.shape[-1]
    return (2, 3) if channels_first else (1, 2)


def every(forms: Mapping[str, Form]) -> list[Corruption]:
    """All corruptions that apply to any of the inputs, by family, then strength."""
    found: dict[tuple[str, int], Corruption] = {}
    for form in forms.values():
        for name, amounts in AMOUNTS.get(form.kind, {}).items():
            for strength, amount in zip(STRENGTHS, amounts, strict=True):
                found.setdefault((name, strength), Corruption(name, strength, amount, UNITS[form.kind, name]))
    return list(found.values())


def corrupted(x: Mapping[str, Array], forms: Mapping[str, Form], which: Corruption, seed: int) -> dict[str, Array]:
    """Raw samples by input name with one corruption on each input that it applies to; shapes and dtypes stay."""
    return {
        name: _one(values, forms[name], which, np.random.default_rng([seed, i]))
        if which.name in AMOUNTS.get(forms[name].kind, {})
        else values
        for i, (name, values) in enumerate(x.items())
    }


def _one(x: Array, form: Form, which: Corruption, rng: np.random.Generator) -> Array:
    amount = AMOUNTS[form.kind][which.name][which.strength - 1]
    out = _FUNCTIONS[which.name](x.astype(np.float32), form, amount, rng)
    if form.kind == "image":
        out = np.clip(out, form.low, form.high)
    if x.dtype.kind in "iub":
        info = np.iinfo(x.dtype) if x.dtype.kind != "b" else None
        out = np.clip(np.rint(out), info.min, info.max) if info else out > 0.5
    return np.asarray(out, x.dtype)


def _noise(x: Array, form: Form, amount: float, rng: np.random.Generator) -> Array:
    scale = np.asarray(form.high - form.low if form.kind == "image" else form.std, np.float32)
    return np.asarray(x + rng.standard_normal(x.shape, np.float32) * (np.float32(amount) * scale))


def _brightness(x: Array, form: Form, amount: float, rng: np.random.Generator) -> Array:
    return x + np.float32(amount * (form.high - form.low))


def _gain(x: Array, form: Form, amount: float, rng: np.random.Generator) -> Array:
    return x * np.float32(amount)


def _blur(x: Array, form: Form, amount: float, rng: np.random.Generator) -> Array:
    at = AMOUNTS["image"]["blur"].index(amount)
    sigma = max(BLUR_PIXELS[at], amount * min(x.shape[a] for a in form.axes))
    for axis in form.axes:
        x = np.moveaxis(np.tensordot(x, gaussian(x.shape[axis], sigma), (axis, 1)), -1, axis)
    return x


def gaussian(length: int, sigma: float) -> Array:
    """The matrix `[length, length]` of a Gaussian blur along an axis whose edges are repeated; rows sum to one."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    rows = np.arange(length)[:, None]
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.broadcast_to(rows, (length, len(offsets))), np.clip(rows + offsets, 0, length - 1)), weights)
    return np.asarray(matrix / weights.sum(), np.float32)


def _shift(x: Array, form: Form, amount: float, rng: np.random.Generator) -> Array:
    """Each sample to one side or the other, along every axis of the form by its own draw."""
    for axis in form.axes:
        length = x.shape[axis]
        steps = min(length - 1, max(1, round(amount * length))) if length > 1 else 0
        there, back = (np.take(x, np.clip(np.arange(length) - s, 0, length - 1), axis=axis) for s in (steps, -steps))
        forward = rng.random(len(x)) < 0.5
        x = np.where(forward.reshape(-1, *[1] * (x.ndim - 1)), there, back)
    return x


_FUNCTIONS: Mapping[str, Callable[[Array, Form, float, np.random.Generator], Array]] = {
    "noise": _noise, "blur": _blur, "brightness": _brightness, "shift": _shift, "gain": _gain, "time shift": _shift,
}  # fmt: skip


def reasons(forms: Mapping[str, Form]) -> Iterator[str]:
    """Why an input is never corrupted, one sentence each."""
    yield from (f"the input {name} stays as it is: {form.why}" for name, form in forms.items() if form.why)
