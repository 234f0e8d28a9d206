"""`edgedl firmware`: a quantized model as plain C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..firmware import write_firmware
from ..report import printable
from . import options
from .display import Display
from .inspect import table

FEATURES = {"any": (), "dsp": ("dsp",)}


@click.command("firmware")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder that is written.")
@click.option(
    "--core", type=click.Choice(list(FEATURES)), default="any", show_default=True,
    help="Kernels in plain C for any core, or for one with DSP instructions (Cortex-M4, M7, M33).",
)  # fmt: skip
@click.option("--name", default="", help="Prefix of its functions and files; else made of MODEL's name.")
@click.option("--force", is_flag=True, help="Write into a folder that is not empty.")
@options.timeout
@options.as_json
def command(model: Path, out: Path, core: str, name: str, force: bool, timeout: float | None, as_json: bool) -> None:
    """Write MODEL, an int8 .tflite of any origin, as C99 for a microcontroller: no interpreter, no heap, no libraries.

    \b
    edgedl firmware out/model_int8.tflite -o firmware --core dsp
    """
    display = Display(quiet=as_json)
    try:
        display.begin(f"firmware of {model.name}")
        made = write_firmware(model, out, features=FEATURES[core], name=name, force=force, timeout_s=timeout or 300.0)
    finally:
        display.close()
    if as_json:
        options.print_json(made)
        return
    click.echo(summary(printable(made)))


def summary(made: dict[str, Any]) -> str:
    """The layers, and where to go from there."""
    rows = [[layer["name"][-48:], layer["op"], layer["kernel"], f"{layer['macs']:,}"] for layer in made["layers"]]
    waste = made["arena_bytes"] / max(made["bound_bytes"], 1) - 1
    return "\n".join([
        table(["layer", "op", "kernel", "MACs"], rows, 3),
        f"\n{made['folder']}: {len(made['files'])} files; {made['name']}_invoke() needs an arena of {made['arena_bytes']:,} "
        f"bytes ({waste:.1%} above the least that is possible), {made['macs'] / 1e6:,.2f} MMAC",
        f"next: see {made['folder']}/README.md",
    ])  # fmt: skip
