"""What is in a model file, and which targets can run it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .engine import describe
from .errors import EdgedlError, ModelError, TargetError
from .model import GRAPH_FORMATS, LoadOptions, refuse_unused
from .options import everything
from .outcome import weight
from .recipe import step
from .registry import find, names
from .sniffing import sniff
from .worker import Worker, default_memory_bytes


def inspect_model(
    path: Path,
    options: LoadOptions | None = None,
    *,
    allow_unsafe: bool = False,
    timeout_s: float = 900.0,
    memory_bytes: int | None = None,
) -> dict[str, Any]:
    """Layers, totals, inputs, outputs and what each target says, read in a child process.

    A .tflite or .onnx is shown as it is unless `options` ask for the Keras form or a part of it. `timeout_s`, `memory_bytes`: limits of that process; no memory given: three quarters of the machine's.
    Raises EdgedlError.
    """
    kind = sniff(path)
    options = replace(options or LoadOptions(), allow_unsafe=allow_unsafe)
    refuse_unused(path, kind, options)
    direct = kind in GRAPH_FORMATS and not any((options.form == "keras", options.inputs, options.start, options.end))
    if not direct:
        options = replace(options, form="keras")
    with Worker(timeout_s, memory_bytes or default_memory_bytes()) as worker:
        if direct:
            found = worker.call("edgedl.inspection:graph_file", path=str(path), format=kind)
        else:
            with tempfile.TemporaryDirectory(prefix="edgedl-") as folder:
                found = worker.call(
                    "edgedl.inspection:trainable", path=str(path), folder=folder, options=everything(options)
                )
        layers = found["layers"]
        return {
            "path": str(path),
            "format": kind,
            "bytes": weight(path, options),
            "parameters": sum(layer["parameters"] for layer in layers),
            "macs": sum(layer["macs"] for layer in layers),
            "largest_activation_bytes": max((layer["activation_bytes"] for layer in layers), default=0),
            **found,
            "targets": [
                {"target": name, "verdict": _verdict(worker, path, direct, name)}
                for name in names("target")
                if name != "fake"
            ],
        }


def graph_file(path: str, format: str) -> dict[str, Any]:
    """Layers, inputs and outputs of a .tflite or .onnx; a file no interpreter opens still shows its layers."""
    layers = [asdict(layer) for layer in find("inspector", format)().layers(Path(path))]
    try:
        found = describe(Path(path))
    except (ModelError, TargetError) as error:
        return {"layers": layers, "inputs": [], "outputs": [], "notes": [error.message]}
    return {"layers": layers, "inputs": _specs(found.inputs), "outputs": _specs(found.outputs), "notes": []}


def trainable(path: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """The same of a model in the trainable form."""
    from . import steps

    found = steps.load_model(path, folder, folder, options)
    layers = steps.inspect(str(Path(folder) / found["file"]), found["form"], bool(options.get("allow_unsafe")))
    return {"layers": layers, **{k: found[k] for k in ("inputs", "outputs", "notes", "layouts", "proof")}}


def _specs(specs: Any) -> list[dict[str, Any]]:
    return [asdict(s) for s in specs]


def _verdict(worker: Worker, path: Path, direct: bool, target: str) -> str:
    if not direct:
        return "after conversion: `edgedl convert` or `edgedl compress`"
    try:
        worker.call(
            "edgedl.inspection:runs", path=str(path), target=target, options=everything(step("target", target).options)
        )
    except EdgedlError as error:
        return f"no: {error.message}"
    return "runs"


def runs(path: str, target: str, options: dict[str, Any]) -> None:
    """Open a target and load the file on it. Raises what the target raises."""
    with step("target", target, options).options.open() as session:
        session.load(describe(Path(path)))
