"""`import` as a whole: a model of any framework becomes one trainable `.keras` file, with proof that it is the same."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .artifact import write_atomic
from .data import DataOptions
from .data.sources import require
from .errors import OutputError
from .layouts import plain
from .model import LoadOptions, Model, load, save_keras
from .options import build, everything
from .sniffing import sniff
from .store import writing
from .worker import Progress, Worker, default_memory_bytes

KEPT = "imported.keras"


def import_model(
    model: Path | str,
    out: Path | str,
    options: LoadOptions | None = None,
    *,
    force: bool = False,
    timeout_s: float = 900.0,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
    data: DataOptions | None = None,
) -> dict[str, Any]:
    """Read a model in a child process and write it as the `.keras` file `out`, whole or not at all; returns what it is.

    The file keeps the names and the layouts of the original's inputs and outputs, and the proof, which `data` has made
    on real inputs besides the generated ones. `timeout_s`,
    `memory_bytes`: limits of the child; no memory given: three quarters of the machine's. Raises EdgedlError.
    """
    model, out = Path(model), Path(out)
    if out.suffix != ".keras":
        raise OutputError(f"{out} is not named as a .keras file", next=f"write -o {out.with_suffix('.keras').name}")
    if out.exists() and not force:
        raise OutputError(f"{out} exists", next="choose another name, or pass --force")
    if not out.parent.is_dir():
        raise OutputError(f"there is no folder {out.parent}", next=f"mkdir -p {out.parent}")
    kind = sniff(model)
    require("" if data is None else data.source)
    wanted = replace(options or LoadOptions(), form="keras")
    with (
        tempfile.TemporaryDirectory(prefix="edgedl-") as folder,
        Worker(timeout_s, memory_bytes or default_memory_bytes(), on_progress=progress) as worker,
    ):
        found: dict[str, Any] = worker.call(
            "edgedl.importing:read", path=str(model), folder=folder, options=everything(wanted),
            data=everything(data) if data is not None and data.source else None,
        )  # fmt: skip
        with writing(out):
            write_atomic(out, (Path(folder) / KEPT).read_bytes())
    return {"path": str(model), "format": kind, "out": str(out), "bytes": out.stat().st_size, **found}


def read(path: str, folder: str, options: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The child's part: the model as `folder/imported.keras`, and what is in it as JSON."""
    from . import steps

    wanted = build(LoadOptions, options, "load")
    model = load(path, wanted)
    if data is not None and model.proof:
        model = replace(model, proof=(*model.proof, *proven_on(model, path, options, data, folder)))
    file = Path(folder) / KEPT
    save_keras(model, file)
    layers = steps.inspect(str(file), "keras", wanted.allow_unsafe)
    return {
        "parameters": sum(layer["parameters"] for layer in layers),
        "macs": sum(layer["macs"] for layer in layers),
        "layers": len(layers),
        "inputs": [asdict(s) for s in model.inputs],
        "outputs": [asdict(s) for s in model.outputs],
        "layouts": plain(model.layouts),
        "ranges": 0 if model.plan is None else len(model.plan.ranges),
        "proof": [dict(entry) for entry in model.proof],
        "history": list(model.history),
        "notes": list(model.notes),
    }


def proven_on(
    model: Model, path: str, options: Mapping[str, Any], data: Mapping[str, Any], folder: str
) -> list[dict[str, Any]]:
    """The proof on real inputs. Raises VerificationError, DataError."""
    from . import steps

    place = Path(folder) / "data"
    place.mkdir()
    inputs, outputs = ([asdict(s) for s in group] for group in (model.inputs, model.outputs))
    steps.load_data(data, inputs, outputs, str(place), 0, layouts=plain(model.layouts))
    steps.remember(folder, model)
    return steps.prove(folder, str(place), path, options)
