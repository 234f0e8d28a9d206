"""Holds what was read to the model: shapes, dtypes, finite numbers, labels that are classes, one metric for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..artifact import Array, TensorSpec
from ..errors import DataError
from ..layouts import Layouts, inverse
from ..metrics import REFERENCED
from ..preprocess import IDENTITY, Preprocessing
from .raw import Raw

Shape = tuple[int | None, ...]
Task = Literal["classes", "binary", "targets"]


def fit_inputs(
    raw: Raw, inputs: Sequence[TensorSpec], preprocessing: dict[str, Preprocessing], layouts: Layouts
) -> dict[str, Array]:
    """The raw arrays in the shapes that, preprocessed, the model takes; images given for an NCHW model get that layout.

    Adds a missing channel axis, flattens or unflattens where the counts agree. `preprocessing` is updated. `layouts`:
    of the original where its axes were others; arrays made for the original are taken too, and transposed.
    Raises DataError naming both shapes, the dtype, or the first value that is no number.
    """
    out = {}
    for spec in inputs:
        x = _numeric(raw.x[spec.name], f"{raw.name}: the input {spec.name}")
        prep = preprocessing[spec.name]
        fitted = _from_original(x, spec, prep, layouts)
        fitted = _reshape(x, _raw_shape(spec, prep)) if fitted is None else fitted
        if fitted is None and prep.layout == "" and len(spec.shape) == 4:
            as_nchw = Preprocessing(prep.resize, prep.scale, prep.mean, prep.std, "NCHW")
            fitted = _reshape(x, _raw_shape(spec, as_nchw)) if x.ndim == 4 or spec.shape[1] == 1 else None
            if fitted is not None:
                preprocessing[spec.name] = as_nchw
        if fitted is None:
            raise DataError(
                f"{raw.name} has samples of shape {list(x.shape[1:])}, and the model's input {spec.name} takes "
                f"{_text(spec.shape[1:])}",
                next=_shape_remedy(x, spec),
            )
        _check_finite(fitted, f"{raw.name}: the input {spec.name}")
        out[spec.name] = _integers(fitted, spec, raw.name) if is_integer(spec) else _single(fitted)
    _same_length(out, raw)
    return out


def _from_original(x: Array, spec: TensorSpec, prep: Preprocessing, layouts: Layouts) -> Array | None:
    """Samples with the original's axes, or flat ones, as the trainable form has them; None for what is neither.

    Samples that fit the trainable form as they are stay as they are.
    """
    perm = layouts.get(spec.name)
    want = _raw_shape(spec, prep)
    if perm is None or perm[0] != 0 or len(perm) != len(spec.shape) or _matches(x.shape[1:], want):
        return None
    before = tuple((None, *want)[axis] for axis in inverse(perm))[1:]
    if not _matches(x.shape[1:], before):
        sizes = [d for d in before if d is not None]
        if x.ndim != 2 or len(sizes) < len(before) or math.prod(sizes) != x.shape[1]:
            return None
        x = x.reshape(len(x), *sizes)
    return x.transpose(perm)


def is_integer(spec: TensorSpec) -> bool:
    """Whether an input takes integers (token numbers ...), not integers that stand for reals."""
    return not spec.is_quantized and np.dtype(spec.dtype).kind in "iub"


def _numeric(x: Array, where: str) -> Array:
    if x.dtype.kind not in "fiub":
        kind = "text" if x.dtype.kind in "US" else "Python objects" if x.dtype.kind == "O" else f"dtype {x.dtype}"
        raise DataError(
            f"{where} holds {kind}, and a model takes numbers", next="give one array of numbers of one shape"
        )
    if x.ndim == 0 or len(x) == 0:
        raise DataError(
            f"{where} is empty (shape {list(x.shape)})", next="give at least one sample, along the first axis"
        )
    return x


def _single(x: Array) -> Array:
    """Doubles as singles; every other dtype as it is."""
    return x.astype(np.float32) if x.dtype == np.float64 else x


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if d is None else str(d) for d in shape) + "]"


def _raw_shape(spec: TensorSpec, prep: Preprocessing) -> Shape:
    """The shape of one raw sample that becomes the model's input when preprocessed."""
    shape = tuple(spec.shape[1:])
    if prep.layout == "NCHW" and len(shape) == 3:
        shape = (shape[1], shape[2], shape[0])
    return (None, None, *shape[2:]) if prep.resize is not None and len(shape) >= 2 else shape


def _matches(have: Sequence[int], want: Shape) -> bool:
    return len(have) == len(want) and all(w is None or h == w for h, w in zip(have, want, strict=True))


def _reshape(x: Array, want: Shape) -> Array | None:
    """`x` `[n, ...]` with samples of shape `want`, or None where that would be a guess."""
    have = x.shape[1:]
    if _matches(have, want):
        return x
    if want and want[-1] == 1 and _matches(have, want[:-1]):
        return x[..., None]
    if have and have[-1] == 1 and _matches(have[:-1], want):
        return x[..., 0]
    if want and want[0] == 1 and _matches(have, want[1:]):
        return x[:, None]
    sizes = [d for d in want if d is not None]
    flat = len(have) <= 1 or len(want) == 1 or [d for d in have if d != 1] == [d for d in sizes if d != 1]
    if flat and len(sizes) == len(want) and math.prod(have) == math.prod(sizes):
        return x.reshape(len(x), *sizes)
    return None


def _shape_remedy(x: Array, spec: TensorSpec) -> str:
    want = tuple(spec.shape[1:])
    if _matches(x.shape, want):
        return "add a first axis: one sample is [1, ...]"
    if len(want) == 3 and x.ndim in (3, 4) and want[2] in (1, 3, 4) and None not in want[:2]:
        if x.ndim == 4 and _matches(x.shape[1:], (want[2], want[0], want[1])):
            return "give images as [n, height, width, channels]: numpy.moveaxis(x, 1, -1)"
        if (x.shape[3] if x.ndim == 4 else 1) == want[2]:
            return f"resize the images, or set resize = [{want[0]}, {want[1]}] in [data] to have the runtime do it"
    return "give data in the shape the model was trained on, one sample along the first axis"


def _check_finite(x: Array, where: str) -> None:
    if x.dtype.kind != "f":
        return
    step = max(1, (1 << 24) // max(1, x[0].size))
    count, first = 0, -1
    for start in range(0, len(x), step):
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(
                x[start : start + step].astype(np.float32, copy=False).reshape(len(x[start : start + step]), -1)
            )
        rows = np.flatnonzero(bad.any(1))
        if len(rows) and first < 0:
            first = start + int(rows[0])
        count += int(bad.sum())
    if count:
        raise DataError(
            f"{where} has {count:,} values that are NaN, infinite or too large for float32, the first in sample {first}",
            next="remove or fill these samples",
        )


def _integers(x: Array, spec: TensorSpec, where: str) -> Array:
    info = np.iinfo(spec.dtype) if spec.dtype != "bool" else None
    low, high = (info.min, info.max) if info else (0, 1)
    if x.dtype.kind == "f" and np.any(x != np.floor(x)):
        raise DataError(
            f"{where} holds fractions, and the model's input {spec.name} takes {spec.dtype}", next="give whole numbers"
        )
    if int(x.min()) < low or int(x.max()) > high:
        raise DataError(
            f"{where} holds {x.min()}..{x.max()}, which does not fit the model's input {spec.name} ({spec.dtype})",
            next="give values within its range",
        )
    return x.astype(spec.dtype, copy=False)


def _same_length(x: dict[str, Array], raw: Raw) -> None:
    counts = {name: len(a) for name, a in x.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{n} {c}" for n, c in counts.items())
        raise DataError(f"{raw.name}: the inputs have different numbers of samples ({listed})", next="pair them up")
    count = next(iter(counts.values()))
    if raw.y is not None and (raw.y.ndim == 0 or len(raw.y) != count):
        labels = len(raw.y) if raw.y.ndim else 1
        raise DataError(f"{raw.name} has {count} samples and {labels} labels", next="give one label for each sample")


def fit_labels(raw: Raw, y: Array, output: TensorSpec, labels: tuple[str, ...], layouts: Layouts) -> tuple[Array, Task]:
    """Labels as the metrics take them, and the task: int64 classes `[n]` or per position, or float32 targets.

    One-hot labels become classes, `[n, 1]` becomes `[n]`, class names become their numbers; targets with the axes of the
    original's output (`layouts`) are transposed.
    Raises DataError for what fits neither the classes nor the shape of the output, and for labels outside the classes.
    """
    y = _named(y, labels, raw.name) if y.dtype.kind in "US" else _numeric(y, f"{raw.name}: the labels")
    _check_finite(y, f"{raw.name}: the labels")
    moved = _from_original(y, output, IDENTITY, layouts) if y.ndim == len(output.shape) else None
    y = y if moved is None else moved
    inner: Shape = tuple(d for d in output.shape[1:-1] if d != 1)
    classes = output.shape[-1] if len(output.shape) > 1 else 1
    positions = _reshape(y, inner)
    whole = y.dtype.kind in "iub" or bool(np.all(y == np.floor(y)))
    if classes == 1:
        return _one_score(raw, y, positions, output, whole)
    each = _reshape(y, (*inner, classes)) if classes is not None else None
    if each is not None:
        hot = whole and bool(np.all((each == 0) | (each == 1))) and bool(np.all(each.sum(-1) == 1))
        return (each.argmax(-1), "classes") if hot else (each.astype(np.float32), "targets")
    if positions is not None:
        if not whole:
            raise DataError(
                f"{raw.name} has fractional labels, and the output {output.name} {_text(output.shape)} has {classes} values",
                next="give class numbers, or targets of the output's shape",
            )
        return _in_classes(positions.astype(np.int64), classes, raw.name, output), "classes"
    raise DataError(
        f"{raw.name} has labels of shape {list(y.shape)}, which do not fit the output {output.name} {_text(output.shape)}",
        next="give one class number a sample, or targets of the output's shape",
    )


def _one_score(raw: Raw, y: Array, positions: Array | None, output: TensorSpec, whole: bool) -> tuple[Array, Task]:
    if positions is None:
        raise DataError(
            f"{raw.name} has labels of shape {list(y.shape)}, which do not fit the output {output.name} {_text(output.shape)}",
            next="give one label a score",
        )
    if whole and bool(np.all((positions == 0) | (positions == 1))):
        return positions.astype(np.int64), "binary"
    return positions.astype(np.float32), "targets"


def _named(y: Array, labels: tuple[str, ...], where: str) -> Array:
    names = labels or tuple(map(str, np.unique(y)))
    unknown = [str(v) for v in np.unique(y) if str(v) not in names]
    if unknown:
        raise DataError(
            f"{where} has labels that are not declared: {', '.join(unknown[:5])}", next="correct labels in [data]"
        )
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[str(v)] for v in y.reshape(-1)], np.int64).reshape(y.shape)


def _in_classes(y: Array, classes: int | None, where: str, output: TensorSpec) -> Array:
    bad = np.argwhere((y < 0) | (y >= (classes or np.iinfo(np.int64).max)))
    if len(bad):
        first = tuple(int(i) for i in bad[0])
        shifted = y.min() >= 1 and y.max() == classes
        raise DataError(
            f"{where}: label {int(y[first])} in sample {first[0]} is outside the {classes} classes (0..{(classes or 1) - 1}) "
            f"of the output {output.name}; {len(bad):,} labels are",
            next="the labels seem to count from 1: subtract 1"
            if shifted
            else "correct the labels, or pass the data of this model",
        )
    return y


def choose_metric(asked: str, task: Task | None, output: TensorSpec, inputs: Sequence[TensorSpec]) -> str:
    """The metric for the labels there are; "auto" by the task. Raises DataError where the one asked for cannot be had.

    classes or binary: accuracy, per pixel mean_iou; targets: mae; no labels: agreement, or fidelity where the output has
    the shape of an input (autoencoders, filters).
    """
    prefix, colon, name = asked.rpartition(":")
    if name != "auto":
        if task is None and name not in REFERENCED:
            raise DataError(
                f"the metric '{name}' needs labels, and the data has none", next="add y, or use the metric agreement"
            )
        if task == "targets" and name not in ("mae", "mse", "psnr", *REFERENCED):
            raise DataError(
                f"the metric '{name}' needs classes, and the labels are real values", next="use mae, mse or psnr"
            )
        return asked
    if task is None:
        inner = [tuple(d for d in s.shape[1:] if d != 1) for s in (output, *inputs)]
        name = "fidelity" if inner[0] in inner[1:] else "agreement"
    elif task == "targets":
        name = "mae"
    else:
        name = "mean_iou" if len(output.shape) == 4 and any(d != 1 for d in output.shape[1:3]) else "accuracy"
    return f"{prefix}{colon}{name}"
