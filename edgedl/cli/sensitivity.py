"""`edgedl sensitivity`: which layers can lose channels, and how many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..model import LoadOptions
from ..options import build
from ..recipe import assemble
from ..report import printable
from ..report.sensitivity import sensitivity_table
from ..sensitivity import check, sensitivity, write
from . import options
from .display import Display

CRITERIA = ("taylor", "fisher", "hessian", "activation", "l1", "l2", "bn-scale", "fpgm", "random")


@click.command("sensitivity")
@click.argument("model", type=click.Path(path_type=Path))
@options.data
@click.option(
    "--criterion", type=click.Choice(CRITERIA), default="taylor", help="What tells which channels go first [taylor]."
)
@click.option("--samples", type=click.IntRange(1), default=256, help="Inputs to measure on, at most [256].")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="FILE.html with a chart a layer, or FILE.json.")
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@options.loading
@options.settings
@options.timeout
@options.allow_unsafe
@options.as_json
def command(
    model: Path,
    data: str | None,
    criterion: str,
    samples: int,
    out: Path | None,
    force: bool,
    settings: tuple[tuple[str, Any], ...],
    timeout: float | None,
    allow_unsafe: bool,
    as_json: bool,
    **loading: Any,
) -> None:
    """Take channels from one layer of MODEL at a time, and show how the metric falls.

    Layers whose channels must go together (those of a residual stream, say) are one row. Nothing is trained: this tells which layers to
    leave alone, not what pruning costs in the end.

    \b
    edgedl sensitivity model.keras --data d.npz
    edgedl sensitivity model.keras --data d.npz --criterion l2 -o scan.html
    """
    if out is not None:
        check(out, force=force)
    wanted = replace(build(LoadOptions, options.load_table(**loading), "load"), allow_unsafe=allow_unsafe)
    recipe = assemble(str(model), data={"source": data} if data else None, settings=settings)
    display = Display(quiet=as_json)
    try:
        display.begin(f"sensitivity of {model.name}")
        found = sensitivity(
            model, wanted, recipe.data, criterion=criterion, samples=samples, seed=recipe.seed,
            timeout_s=timeout or 900.0, progress=display.progress,
        )  # fmt: skip
    finally:
        display.close()
    if out is not None:
        write(found, out, force=force)
    options.print_json(found) if as_json else click.echo(_told(printable(found), out))


def _told(found: dict[str, Any], out: Path | None) -> str:
    lines = [sensitivity_table(found)]
    lines += [f"  stays   {name}: {why}" for name, why in found["frozen"].items()]
    lines += [f"  note    {note}" for note in found["notes"]]
    return "\n".join([*lines, *([f"  wrote   {out}"] if out else [])])
