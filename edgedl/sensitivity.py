"""`edgedl sensitivity`: how much of each layer's channels can go before a model suffers, measured in a child process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .data import DataOptions, Dataset
from .data.sources import require
from .errors import OutputError
from .layouts import plain
from .model import LoadOptions, load, refuse_unused
from .options import build, everything
from .registry import resolve
from .report import write_json
from .report.sensitivity import write_sensitivity
from .sniffing import sniff
from .worker import Progress, Worker, default_memory_bytes

SUFFIXES = (".html", ".json")


def sensitivity(
    model: Path | str,
    options: LoadOptions | None = None,
    data: DataOptions | None = None,
    *,
    criterion: str = "taylor",
    samples: int = 256,
    seed: int = 0,
    timeout_s: float = 900.0,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The drop of the metric when 10 % ... 90 % of the channels of one group of layers alone are gone, as plain JSON.

    "groups": {name: [[share gone, drop], ...]}, "channels": {name: count}, "metric" and its "value" of the whole network (agreement
    with its own outputs where there are no labels), "samples", "criterion", "frozen": {name: why its channels stay}, "notes".
    Without data, inputs are generated. `timeout_s`, `memory_bytes`: limits of the child; no memory given: three quarters
    of the machine's. Raises EdgedlError.
    """
    kind = sniff(Path(model))
    wanted = replace(options or LoadOptions(), form="keras")
    refuse_unused(Path(model), kind, wanted)
    given = data or DataOptions()
    require(given.source)
    with (
        tempfile.TemporaryDirectory(prefix="edgedl-") as folder,
        Worker(timeout_s, memory_bytes or default_memory_bytes(), on_progress=progress) as worker,
    ):
        found: dict[str, Any] = worker.call(
            "edgedl.sensitivity:measure", path=str(model), folder=folder, options=everything(wanted),
            data=everything(given), criterion=criterion, samples=samples, seed=seed,
        )  # fmt: skip
    return {"path": str(model), "format": kind, **found}


def measure(
    path: str,
    folder: str,
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    criterion: str,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """The child's part of `sensitivity`."""
    from . import steps

    model = load(path, build(LoadOptions, options, "load"))
    inputs, outputs = ([asdict(s) for s in group] for group in (model.inputs, model.outputs))
    told = steps.load_data(data, inputs, outputs, folder, seed, layouts=plain(model.layouts))
    scan = resolve("edgedl.stages.channels.sensitivity:of_model")
    found: dict[str, Any] = scan(model, Dataset.restore(Path(folder)), criterion, samples, seed)
    return {**found, "notes": [*model.notes, *told["notes"]]}


def write(found: Mapping[str, Any], out: Path, *, force: bool = False) -> None:
    """Write a scan as a page (.html) or as JSON (.json). Raises OutputError: another name, a file that exists."""
    check(out, force=force)
    write_json(found, out) if out.suffix == ".json" else write_sensitivity(found, out)


def check(out: Path, *, force: bool = False) -> None:
    """Raise OutputError for a place that cannot be written to."""
    if out.suffix not in SUFFIXES:
        raise OutputError(f"{out} is named neither .html nor .json", next=f"write -o {out.with_suffix('.html').name}")
    if out.exists() and not force:
        raise OutputError(f"{out} exists", next="choose another name, or pass --force")
    if not out.parent.is_dir():
        raise OutputError(f"there is no folder {out.parent}", next=f"mkdir -p {out.parent}")
