"""Raw: what a reader found in a source, and the help its readers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..artifact import Array, TensorSpec
from ..errors import DataError
from ..layouts import Layouts
from ..metrics import output_name
from .options import DataOptions


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader has to find: for which inputs and outputs, with which options."""

    options: DataOptions
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    seed: int = 0
    layouts: Layouts = field(default_factory=dict)  # of the original, where its axes were others
    calibrating: bool = False  # labels only serve to choose a representative part, and need not be the model's

    @property
    def output(self) -> TensorSpec:
        """The output that the metric is about."""
        names = [s.name for s in self.outputs]
        return self.outputs[names.index(output_name(self.options.metric, names))]

    def single_input(self, where: str, kind: str) -> TensorSpec:
        """The model's only input. Raises DataError for a model with several, which `kind` of source cannot serve."""
        if len(self.inputs) == 1:
            return self.inputs[0]
        names = ", ".join(s.name for s in self.inputs)
        raise DataError(
            f"{where} is {kind}, which serves one input, and the model has {len(self.inputs)} ({names})",
            next="pass an .npz with one array for each input, named after it",
        )


@dataclass(frozen=True, slots=True)
class Raw:
    """Samples by model input name, as found; labels not yet checked. `train`: the source keeps a training part apart."""

    name: str
    x: Mapping[str, Array]
    y: Array | None = None
    labels: tuple[str, ...] = ()  # class names in the order of the integers in `y`
    notes: tuple[str, ...] = ()
    train: Raw | None = None

    def noting(self, *notes: str) -> Raw:
        """A copy with further notes."""
        return replace(self, notes=(*self.notes, *notes))


X_NAMES = ("x", "data", "images", "inputs", "features")  # what an archive may call its only input
Y_NAMES = ("y", "labels", "label", "targets", "target")
TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")


def assign(arrays: Mapping[str, Any], wanted: Wanted, where: str) -> Raw:
    """Arrays under any names -> inputs and labels.

    Taken are: arrays named after the model's inputs; else, for one input, `x` (or data, images ...), with labels `y`
    (or labels ...), or pairs such as `x_train`, `y_train`, `x_test`, `y_test`, of which the training part is kept apart
    and the validation part (else the test part) is the source. Raises DataError, which lists what is there.
    """
    found = {str(k): np.asarray(v) for k, v in arrays.items()}
    listing = ", ".join(f"{k} {list(a.shape)}" for k, a in found.items()) or "nothing"
    labels = (*Y_NAMES, wanted.output.name)
    names = [s.name for s in wanted.inputs]
    if all(name in found for name in names):
        y = _one([k for k in found if k.lower() in labels and k not in names], listing, where)
        return _raw(where, {n: found[n] for n in names}, found, None if y is None else found[y])
    if len(names) == 1:
        x = _one([k for k in found if k.lower() in X_NAMES], listing, where)
        if x is None and len(found) == 1:
            x = next(iter(found))
        if x is not None and not (len(found) == 1 and x.lower() in labels):
            y = _one([k for k in found if k.lower() in labels and k != x], listing, where)
            return _raw(where, {names[0]: found[x]}, found, None if y is None else found[y])
        pairs = {part: _part(found, of, listing, where) for part, of in _PARTS.items()}
        parts = {part: pair for part, pair in pairs.items() if pair is not None}
        if parts:
            return _from_parts(parts, names[0], found, where)
    missing = ", ".join(n for n in names if n not in found)
    raise DataError(
        f"{where} holds {listing}, and no array that is clearly the model's input {missing}",
        next="name the inputs 'x' and the labels 'y'"
        if len(names) == 1
        else "name the arrays after the model's inputs, the labels 'y'",
    )


_PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def _one(names: list[str], listing: str, where: str) -> str | None:
    if len(names) > 1:
        raise DataError(
            f"{where} is ambiguous: {' and '.join(names)} could each be meant (it holds {listing})",
            next="name the inputs 'x' and the labels 'y'",
        )
    return names[0] if names else None


def _part(found: Mapping[str, Array], part: tuple[str, ...], listing: str, where: str) -> tuple[str, str | None] | None:
    """The names of the x and y of one part, such as ("x_train", "y_train") or ("train_images", "train_labels")."""

    def matching(kinds: tuple[str, ...]) -> str | None:
        both = {f"{a}_{b}" for p in part for k in kinds for a, b in ((p, k), (k, p))}
        return _one([k for k in found if k.lower() in both], listing, where)

    x = matching(X_NAMES)
    return None if x is None else (x, matching(Y_NAMES))


def _from_parts(parts: Mapping[str, tuple[str, str | None]], name: str, found: Mapping[str, Array], where: str) -> Raw:
    use = next(part for part in ("validation", "test", "train") if part in parts)
    raws = {part: _raw(where, {name: found[x]}, {}, None if y is None else found[y]) for part, (x, y) in parts.items()}
    if len(parts) == 1:
        return raws[use]
    raw = raws[use].noting(f"{where} has several parts: '{parts[use][0]}' is the validation data")
    return replace(raw, train=raws["train"]) if "train" in raws else raw


def _raw(where: str, x: dict[str, Array], others: Mapping[str, Array], y: Array | None) -> Raw:
    used = {id(a) for a in (*x.values(), y)}
    left = [k for k, a in others.items() if id(a) not in used and a.dtype.kind != "U"]
    return Raw(where, x, y, notes=(f"{where}: the arrays {', '.join(left)} are not used",) if left else ())


def bounded(size: int, wanted: Wanted, where: str) -> None:
    """Refuse a source of more than the declared memory. Raises DataError."""
    if size > wanted.options.max_bytes:
        raise DataError(
            f"{where} takes {size / (1 << 30):,.1f} GiB, and the limit is {wanted.options.memory_gib:g} GiB",
            next="pass fewer samples, or raise memory_gib in [data]",
        )


def stratified_order(y: Array | None, count: int, seed: int) -> Array:
    """A random order of `count` samples of which every prefix holds the classes of `y` in their proportions (within one).

    The i-th of the n samples of a class, shuffled, takes the place (i + u) / n, u in 0..1 drawn once a class.
    Without class labels it is a plain shuffle.
    """
    rng = np.random.default_rng(seed)
    if y is None or y.ndim != 1 or y.dtype.kind == "f":
        return rng.permutation(count)
    place = np.empty(count)
    for value in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == value))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")
