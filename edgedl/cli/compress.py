"""`edgedl compress`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..outcome import check_limits
from ..pipeline import default_format, run
from ..recipe import MAX_SEED, Recipe, assemble
from ..report import render_terminal
from . import options
from .display import Display

# int16x8 comes last: neither interpreter has fast kernels for it on a CPU (benchmarks/schemes.py: 30 x float)
FALLBACK = ("dynamic", "int8-weight-only", "fp16", "int16x8")
STAGE_OPTIONS = ("prune", "budget", "low_rank", "sparsity", "cluster", "teacher", "student", "finetune", "epochs")


@click.command("compress")
@click.argument("model", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for artifacts, report.json and report.html.")
@options.loading
@options.data
@options.quantization
@options.smaller
@options.keep_layout
@click.option(
    "--format",
    "-f",
    "formats",
    type=options.Names(),
    multiple=True,
    callback=options.joined,
    help="tflite, onnx or both, comma-separated [what the model is, else tflite].",
)
@options.targets
@click.option(
    "--max-drop",
    type=options.Percent(),
    help="How much of the metric (without labels: of the agreement) may be lost, e.g. 1%. Without --quantize, finer schemes are tried until it holds.",
)
@click.option(
    "--max-class-drop",
    type=options.Percent(),
    help="How much of its accuracy (without labels: of the agreement) any one class may lose, e.g. 5%; a limit like --max-drop.",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="A recipe in TOML; other options win over it.")
@options.settings
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Seed of splits and generated inputs [0].")
@options.timeout
@options.allow_unsafe
@click.option("--dry-run", is_flag=True, help="Print the whole resolved recipe as TOML and do nothing.")
@options.as_json
def command(
    model: str | None,
    out: Path | None,
    formats: tuple[str, ...],
    targets: tuple[str, ...],
    recipe: Path | None,
    settings: tuple[tuple[str, Any], ...],
    seed: int | None,
    allow_unsafe: bool,
    dry_run: bool,
    as_json: bool,
    keep_layout: bool | None,
    **given: Any,
) -> None:
    """Compress MODEL, of any framework in docs/importers.md: quantize, convert, verify, measure, report.

    \b
    edgedl compress model.keras --data d.npz --max-drop 1% -o out
    edgedl compress model.keras --data d.npz --prune 2x --max-drop 2% -o out
    edgedl compress model.onnx --format tflite --quantize int8 --data d.npz -o out
    edgedl compress weights.pth --module net.py:build --input 1x3x32x32 --data d.npz -o out
    edgedl compress model.keras --data d.npz --dry-run > recipe.toml
    """
    stages = options.stages(**{name: given.pop(name) for name in STAGE_OPTIONS})
    if given["train"] and not stages and recipe is None:
        raise UsageError("--train has nothing to train", next="add --finetune, --teacher, --prune or --sparsity")
    tables = options.tables(**given)
    wanted = tables.pop("quantize")
    if not wanted and recipe is None:
        wanted = {"scheme": "int8"}
    if {"max_drop", "max_class_drop"} & set(tables["limits"]) and given["quantize"] is None and recipe is None:
        tables["limits"]["fallback"] = list(FALLBACK)
    if keep_layout is not None and not formats and recipe is None and model:
        formats = (default_format(model),)
    resolved = assemble(
        model or "",
        recipe=recipe,
        stages=stages,
        quantize=wanted,
        formats=formats,
        settings=settings,
        seed=seed,
        targets=targets or (() if recipe else ("cpu",)),
        keep_layout=keep_layout,
        **tables,
    )
    if dry_run:
        click.echo(resolved.to_toml(), nl=False)
        return
    if out is None:
        raise click.UsageError("Missing option '-o': the folder for the artifacts and the report.")
    document = _run(resolved, out, allow_unsafe, as_json)
    if as_json:
        options.print_json(document)
    else:
        click.echo(render_terminal(document))
        click.echo(f"\nreport  {out / 'report.html'}\nagain   edgedl compress --recipe {out / 'recipe.toml'} -o {out}")
    check_limits(document)


def _run(recipe: Recipe, out: Path, allow_unsafe: bool, quiet: bool) -> dict[str, Any]:
    display = Display(quiet=quiet)
    try:
        return run(recipe, out, allow_unsafe=allow_unsafe, listener=display)
    finally:
        display.close()
