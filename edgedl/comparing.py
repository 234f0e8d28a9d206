"""`inspect --against`: a model held to the original it was made from, on generated inputs, and where the two part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Array, Artifact, TensorSpec
from .data import DataOptions
from .data import load as load_data
from .engine import describe
from .errors import ModelError
from .layouts import inverse, layouts_of
from .metrics import sqnr_db
from .model import LoadOptions, Model, load, refuse_unused
from .options import build, everything
from .registry import find, names, resolve
from .sniffing import sniff
from .steps import outputs_of
from .worker import Worker, default_memory_bytes

SAMPLES = 8
SAME = 1e-3  # of an output's largest value: more than rounding


def compare_models(
    model: Path,
    original: Path,
    options: LoadOptions | None = None,
    *,
    timeout_s: float = 900.0,
    memory_bytes: int | None = None,
) -> dict[str, Any]:
    """`model` (a .keras that was imported, or a .tflite or .onnx) against a fresh import of `original`, in a child process.

    Returns "outputs" (entries as in Model.proof; a difference that cannot be told is None; "sqnr_db" of a .tflite or
    .onnx), "same" (all within 1e-3 of their largest value), "first" (the first node of the original that computes
    something else, of a .keras), "scheme" (of an artifact that edgedl wrote, else "") and notes.
    `options` say how the original is loaded. Raises EdgedlError.
    """
    wanted = replace(options or LoadOptions(), form="keras")
    kind, held = sniff(model), sniff(original)
    refuse_unused(original, held, wanted)
    with Worker(timeout_s, memory_bytes or default_memory_bytes()) as worker:
        found: dict[str, Any] = worker.call(
            "edgedl.comparing:compare", path=str(model), original=str(original), options=everything(wanted)
        )
    return {"path": str(model), "format": kind, "original": str(original), "original_format": held, **found}


def compare(path: str, original: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The child's part of `compare_models`."""
    wanted, kind = build(LoadOptions, options, "load"), sniff(Path(original))
    model = load(path, allow_unsafe=wanted.allow_unsafe)
    first, notes, scheme = None, [], ""
    source = find("source", kind)(Path(original), wanted) if model.is_keras and kind in names("source") else None
    if source is not None:
        held = resolve(resolve("edgedl.converters:COMPARE"))
        entries, first = held(source, Path(original), wanted, model.net)
    else:
        entries = held_to(model, load(original, wanted), Path(original).name)
        if not model.is_keras:
            artifact = Artifact.load(Path(path))
            scheme = artifact.scheme if artifact is not None else ""
    same = all(entry["max_relative"] <= SAME for entry in entries)
    if not same and not model.is_keras and scheme in ("", "float32", "unknown"):
        notes.append("the first node that differs can be told of a .keras file only")
    return {
        "outputs": [{k: _finite(v) for k, v in entry.items()} for entry in entries],
        "same": same,
        "scheme": scheme,
        "first": None if first is None else {k: _finite(v) for k, v in asdict(first).items()},
        "notes": notes,
    }


def _finite(value: Any) -> Any:
    """JSON knows no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def held_to(model: Model, original: Model, name: str) -> list[dict[str, Any]]:
    """One entry for each output: `model`, whatever its layouts and the names of its tensors, against a Keras model.

    Raises ModelError where inputs or outputs are not as many, or of another shape.
    """
    data = load_data(DataOptions(), original.inputs, original.outputs)
    feed = data.feed(data.calibration, 0, SAMPLES)
    want, here = outputs_of(original, feed), outputs_of(model, _for(model, original, feed))
    layouts = {} if model.is_keras else layouts_of(describe(model.net.path))
    entries = []
    for spec in original.outputs:
        wanted = want[spec.name]
        other = _counterpart(spec.name, wanted, here, want)
        found, perm = here[other], layouts.get(other) or original.layouts.get(spec.name)
        if found.shape != wanted.shape and perm and found.ndim == len(perm):
            found = found.transpose(perm)
        largest, mean = difference(found, wanted)
        entries.append(
            {
                "output": spec.name, "against": f"{name}, imported", "inputs": len(next(iter(feed.values()))),
                "max_relative": largest, "mean_relative": mean,
                "sqnr_db": sqnr_db(wanted, found) if math.isfinite(largest) else None,
            }
        )  # fmt: skip
    return entries


def _counterpart(name: str, wanted: Array, here: Mapping[str, Array], want: Mapping[str, Array]) -> str:
    """The model's name of an output: the same; else that of the only one of its shape; else by position."""
    if len(here) != len(want):
        raise ModelError(
            f"the model has the outputs {', '.join(here)}, and the original {', '.join(want)}",
            next="compare a model with the one it was made from",
        )
    if here.keys() == want.keys():
        return name
    alike = [other for other, array in here.items() if array.shape == wanted.shape]
    return alike[0] if len(alike) == 1 else list(here)[list(want).index(name)]


def _for(model: Model, original: Model, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The original's inputs as `model` takes them: by name, else by position; transposed where only that fits."""
    have = [s.name for s in model.inputs]
    if len(have) != len(original.inputs):
        raise ModelError(
            f"the model takes {len(have)} inputs ({', '.join(have)}), and the original {len(original.inputs)}",
            next="compare a model with the one it was made from",
        )
    named = {s.name for s in original.inputs} == set(have)
    pairs = [(s, next(t for t in model.inputs if t.name == s.name)) for s in original.inputs] if named else zip(original.inputs, model.inputs, strict=True)  # fmt: skip
    out = {}
    for spec, there in pairs:
        x, perm = feed[spec.name], original.layouts.get(spec.name)
        if not _fits(x, there) and perm and _fits(moved := x.transpose(inverse(perm)), there):
            x = np.ascontiguousarray(moved)
        out[there.name] = x
    return out


def _fits(x: Array, spec: TensorSpec) -> bool:
    sizes: Sequence[int | None] = spec.shape
    return x.ndim == len(sizes) and all(w in (None, h) for w, h in zip(sizes[1:], x.shape[1:], strict=True))


def difference(a: Array, b: Array) -> tuple[float, float]:
    """Largest and mean of |a - b| as shares of max |b|; infinite where shapes differ or one is not a number.

    >>> difference(np.ones(2), np.array([1.0, 2.0]))
    (0.5, 0.25)
    """
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf, math.inf
    if not b.size:
        return 0.0, 0.0
    gap, most = np.abs(a.astype(np.float64) - b), max(float(np.abs(b).max()), 1e-9)
    return float(gap.max()) / most, float(gap.mean()) / most
