"""`edgedl import`: a model of any framework as one trainable .keras file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..importing import import_model
from ..model import LoadOptions
from ..options import build
from ..recipe import assemble
from ..report import printable, proof_table, tensor_lines
from . import options
from .display import Display


@click.command("import")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="FILE.keras to write.")
@options.loading
@options.data
@options.settings
@options.timeout
@options.allow_unsafe
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@options.as_json
def command(
    model: Path,
    out: Path,
    data: str | None,
    settings: tuple[tuple[str, Any], ...],
    timeout: float | None,
    allow_unsafe: bool,
    force: bool,
    as_json: bool,
    **loading: Any,
) -> None:
    """Read MODEL, of any framework in docs/importers.md, as one Keras 3 model, and prove that it computes the same.

    With --data, that is proven on these inputs too. What the file does not say (open shapes, where to begin and end, the code of a network) is said by options.

    \b
    edgedl import model.onnx -o model.keras
    edgedl import weights.pth --module net.py:build --input 1x3x32x32 -o model.keras
    edgedl import frozen.pb --from Reshape --to labels_softmax -o model.keras
    """
    wanted = replace(build(LoadOptions, options.load_table(**loading), "load"), allow_unsafe=allow_unsafe)
    real = assemble(str(model), data={"source": data} if data else None, settings=settings).data
    display = Display(quiet=as_json)
    try:
        display.begin(f"import {model.name}")
        found = import_model(
            model, out, wanted, force=force, timeout_s=timeout or 900.0, progress=display.progress, data=real
        )
    finally:
        display.close()
    if as_json:
        options.print_json(found)
    else:
        click.echo(_summary(printable(found)))


def _summary(found: dict[str, Any]) -> str:
    lines = [
        f"{found['out']}: {found['bytes']:,} bytes, {found['parameters']:,} parameters, {found['macs'] / 1e6:,.2f} MMAC, "
        f"{found['layers']} layers, from {found['format']}",
        *tensor_lines(found),
        *(f"  note    {note}" for note in found["notes"]),
    ]
    return "\n".join([*lines, "", proof_table(found["proof"])])
