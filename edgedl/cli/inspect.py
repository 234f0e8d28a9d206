"""`edgedl inspect`: what is in a model, and where it can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..inspection import inspect_model
from ..report.terminal import table
from . import options
from .display import Display


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@options.timeout
@options.allow_unsafe
@options.as_json
def command(model: Path, timeout: float | None, allow_unsafe: bool, as_json: bool) -> None:
    """Show the layers of MODEL, its operators, parameters, multiply-accumulates (MACs) and activation memory.

    \b
    edgedl inspect model.keras
    edgedl inspect out/model_int8.tflite --json
    """
    display = Display(quiet=as_json)
    try:
        display.begin(f"inspect {model.name}")
        found = inspect_model(model, allow_unsafe=allow_unsafe, timeout_s=timeout or 900.0)
    finally:
        display.close()
    if as_json:
        options.print_json(found)
        return
    click.echo(_layers(found["layers"]))
    click.echo(_summary(found))


def _layers(layers: list[dict[str, Any]]) -> str:
    rows = [
        [
            r["name"][-48:],
            r["op"],
            "x".join("?" if d is None else str(d) for d in r["output"]),
            r["dtype"],
            f"{r['parameters']:,}",
            f"{r['macs']:,}",
            f"{r['activation_bytes']:,}",
        ]
        for r in layers
    ]
    return table(["layer", "op", "output", "type", "parameters", "MACs", "activation bytes"], rows)


def _summary(found: dict[str, Any]) -> str:
    lines = [
        f"\n{found['path']}: {found['format']}, {found['bytes']:,} bytes, {found['parameters']:,} parameters, "
        f"{found['macs'] / 1e6:,.2f} MMAC, largest activation {found['largest_activation_bytes']:,} bytes"
    ]
    lines += [f"  input   {s['name']} {s['shape']} {s['dtype']}" for s in found["inputs"]]
    lines += [f"  output  {s['name']} {s['shape']} {s['dtype']}" for s in found["outputs"]]
    lines += [f"  target  {t['target']}: {t['verdict']}" for t in found["targets"]]
    return "\n".join([*lines, *(f"  note    {n}" for n in found["notes"])])
