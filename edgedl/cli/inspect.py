"""`edgedl inspect`: what is in a model, and where it can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..comparing import compare_models
from ..inspection import inspect_model
from ..model import LoadOptions
from ..options import build
from ..report import printable, proof_table, relative, tensor_lines
from . import options
from .display import Display


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="ORIGINAL",
    type=click.Path(path_type=Path),
    help="Hold MODEL to the file it was made from: outputs, and the first node that differs.",
)
@options.loading
@options.timeout
@options.allow_unsafe
@options.as_json
def command(
    model: Path, against: Path | None, timeout: float | None, allow_unsafe: bool, as_json: bool, **loading: Any
) -> None:
    """Show the layers of MODEL, its operators, parameters, multiply-accumulates (MACs) and activation memory.

    \b
    edgedl inspect model.keras
    edgedl inspect out/model_int8.tflite --json
    edgedl inspect model.keras --against model.onnx
    """
    display = Display(quiet=as_json)
    try:
        display.begin(f"inspect {model.name}")
        wanted = build(LoadOptions, options.load_table(**loading), "load")
        if against is not None:
            wanted = replace(wanted, allow_unsafe=allow_unsafe)
            told = compare_models(model, against, wanted, timeout_s=timeout or 900.0)
            display.close()
            options.print_json(told) if as_json else click.echo(_comparison(printable(told)))
            return
        found = inspect_model(model, wanted, allow_unsafe=allow_unsafe, timeout_s=timeout or 900.0)
    finally:
        display.close()
    if as_json:
        options.print_json(found)
        return
    found = printable(found)
    click.echo(_layers(found["layers"]))
    click.echo(_summary(found))


def _comparison(found: dict[str, Any]) -> str:
    first = found["first"]
    lines = [proof_table(found["outputs"]), ""]
    if found["same"]:
        lines.append(f"{found['path']} computes what {found['original']} computes")
    elif found["scheme"] not in ("", "float32", "unknown"):
        lines.append(
            f"{found['path']} is quantized ({found['scheme']}): {_noise(found['outputs'])} against {found['original']}"
        )
    elif first is None:
        lines.append(f"{found['path']} differs from {found['original']}")
    else:
        shapes = [f"[{', '.join(map(str, first[k]))}]" for k in ("original_shape", "rebuilt_shape")]
        lines.append(
            f"the first node whose output differs is '{first['node']}' ({first['op']}), output '{first['output']}': "
            f"{shapes[0]} in the original, {shapes[1]} here, relative difference {relative(first['max_relative'])}"
        )
    return "\n".join([*lines, *(f"  note    {n}" for n in found["notes"])])


def _noise(outputs: list[dict[str, Any]]) -> str:
    known = [entry["sqnr_db"] for entry in outputs if entry.get("sqnr_db") is not None]
    return f"signal to quantization noise {min(known):.1f} dB" if known else "outputs that cannot be compared"


def table(header: list[str], rows: list[list[str]], text: int) -> str:
    """Columns, the first `text` of them to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < text else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, ["-" * w for w in widths], *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


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
    return table(["layer", "op", "output", "type", "parameters", "MACs", "activation bytes"], rows, 4)


def _summary(found: dict[str, Any]) -> str:
    lines = [
        f"\n{found['path']}: {found['format']}, {found['bytes']:,} bytes, {found['parameters']:,} parameters, "
        f"{found['macs'] / 1e6:,.2f} MMAC, largest activation {found['largest_activation_bytes']:,} bytes"
    ]
    lines += tensor_lines(found)
    lines += [f"  target  {t['target']}: {t['verdict']}" for t in found["targets"]]
    return "\n".join([*lines, *(f"  note    {n}" for n in found["notes"])])
