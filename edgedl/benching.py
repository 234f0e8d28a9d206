"""`bench` as a whole: artifacts that came from anywhere, data, and several targets."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .artifact import TensorSpec, spec_from_json
from .bench import Measurement, measure
from .errors import UsageError
from .layouts import preprocessing_from_file, specs_from_file
from .options import everything
from .pipeline import Listener, Silent
from .recipe import Recipe
from .worker import GIB, Worker, default_memory_bytes

SETTINGS = ("limits.timeout_s", "limits.memory_gib")  # what measuring heeds, besides [data] and the targets


def check_settings(settings: Sequence[tuple[str, Any]], targets: Sequence[str]) -> None:
    """Raises UsageError for a setting (PLACE.OPTION, value) that would have no effect on measuring these targets."""
    for place, _ in settings:
        name, dot, _ = place.partition(".")
        if dot and place not in SETTINGS and name not in ("data", *targets):
            known = ", ".join(("data.*", *SETTINGS, *(f"{t}.*" for t in targets)))
            raise UsageError(f"{place} has no say in measuring {', '.join(targets)}", next=f"bench heeds {known}")


def bench_artifacts(
    artifacts: Sequence[Path],
    recipe: Recipe,
    *,
    min_seconds: float = 1.0,
    max_seconds: float = 10.0,
    listener: Listener | None = None,
) -> list[Measurement]:
    """Measure artifacts on every target of the recipe, in turns; with data, their metric on the same target as well.

    Data without declared preprocessing goes into each artifact by its own. Raises EdgedlError.
    """
    listener = listener or Silent()
    limits = recipe.limits
    memory = int(limits.memory_gib * GIB) if limits.memory_gib else default_memory_bytes()
    with tempfile.TemporaryDirectory(prefix="edgedl-") as name:
        folders = None
        if recipe.data.source:
            with Worker(limits.timeout_s, memory, on_progress=listener.progress) as worker:
                folders = read_data(worker, artifacts, recipe, Path(name), listener)
        found: list[Measurement] = []
        for target in recipe.targets:
            listener.begin(f"bench {target.name}")
            found += measure(
                artifacts,
                target.name,
                everything(target.options),
                data_folder=folders,
                min_seconds=min_seconds,
                max_seconds=max_seconds,
                progress=listener.progress,
                timeout_s=limits.timeout_s,
                memory_bytes=memory,
            )
    return found


def read_data(worker: Worker, artifacts: Sequence[Path], recipe: Recipe, root: Path, listener: Listener) -> list[Path]:
    """The folder of each artifact's data below `root`: all of it is for validation unless a part is set aside.

    It is read once for all artifacts of the same preprocessing, inputs and outputs. Inputs are called as the first
    artifact's are, where there are as many: its names are those in the data and in `recipe.data.inputs`.
    """
    listener.begin("data")
    start, folders = time.perf_counter(), dict[str, Path]()
    out, notes, counts = [], list[str](), set[int]()
    names: list[str] = []
    for path in artifacts:
        file = worker.call("edgedl.steps:describe_file", path=str(path))
        names = names or [s["name"] for s in file["inputs"]]
        wanted = _wanted(file, names, recipe)
        key = json.dumps(wanted, sort_keys=True)
        if key not in folders:
            folders[key] = root / str(len(folders))
            folders[key].mkdir()
            data = worker.call(
                "edgedl.steps:load_data", **wanted, folder=str(folders[key]), seed=recipe.seed, whole=True
            )
            counts.add(data["validation_samples"])
            notes += [note for note in data["notes"] if note not in notes]
        out.append(folders[key])
    scored = " or ".join(f"{count:,}" for count in sorted(counts))
    listener.end("data", f"{scored} samples, which all count in the metric", time.perf_counter() - start, False)
    for note in notes:
        listener.warn(note)
    return out


def _wanted(file: Mapping[str, Any], names: Sequence[str], recipe: Recipe) -> dict[str, Any]:
    """What to read for a file: the options with its own preprocessing, and its inputs and outputs, in plain JSON."""
    axes = {name: tuple(perm) for name, perm in file["layouts"].items()}
    inputs, outputs = (
        specs_from_file([_real(spec_from_json(s)) for s in file[key]], axes) for key in ("inputs", "outputs")
    )
    declared = preprocessing_from_file(file["preprocessing"], axes)
    call = {s.name: s.name for s in inputs}
    if len(names) == len(inputs) and call.keys() != set(names):
        call = dict(zip(call, names, strict=True))
    options = recipe.data.or_preprocessing({call[k]: p for k, p in declared.items()})
    return {
        "options": everything(options),
        "inputs": [asdict(replace(s, name=call[s.name])) for s in inputs],
        "outputs": [asdict(s) for s in outputs],
        "layouts": {call.get(name, name): perm for name, perm in file["original_layouts"].items()},
    }


def _real(spec: TensorSpec) -> TensorSpec:
    """What the data has to be for an input or output: how the file stores it and its fixed batch do not matter."""
    dtype = "float32" if spec.is_quantized else spec.dtype
    return TensorSpec(spec.name, (None, *spec.shape[1:]) if spec.shape else (), dtype)
