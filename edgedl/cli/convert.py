"""`edgedl convert`: one model, one file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from ..artifact import sidecar
from ..errors import OutputError, UsageError
from ..outcome import check_limits, deliver_to
from ..pipeline import run
from ..recipe import assemble
from ..registry import names
from . import options
from .display import Display


@click.command("convert")
@click.argument("model")
@click.option("-o", "--out", required=True, help="FILE.tflite, FILE.onnx, or FOLDER/ for one of each.")
@options.loading
@options.data
@options.quantization
@options.keep_layout
@options.settings
@options.timeout
@options.allow_unsafe
@click.option("--dry-run", is_flag=True, help="Print the whole resolved recipe as TOML and do nothing.")
@click.option("--force", is_flag=True, help="Write over files that exist.")
@options.as_json
def command(
    model: str,
    out: str,
    settings: tuple[tuple[str, Any], ...],
    allow_unsafe: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
    keep_layout: bool | None,
    **given: Any,
) -> None:
    """Convert MODEL, of any framework in docs/importers.md, to .tflite or .onnx and verify the result.

    \b
    edgedl convert model.keras -o model.tflite
    edgedl convert model.keras -o model_int8.onnx --quantize int8 --data d.npz
    edgedl convert model.onnx -o model.tflite --input x=1x3x224x224
    edgedl convert saved_model/ -o out/
    """
    folder = out.endswith("/") or Path(out).is_dir()
    formats = names("converter") if folder else (Path(out).suffix[1:],)
    if not folder and formats[0] not in names("converter"):
        known = ", ".join(f".{n}" for n in names("converter"))
        raise UsageError(
            f"cannot tell the format of {out}", next=f"end its name with one of {known}, or with / for a folder"
        )
    places = {} if folder else {formats[0]: Path(out)}
    taken = [p for place in places.values() for p in (place, sidecar(place)) if p.exists()]
    if taken and not force:
        raise OutputError(f"{taken[0]} exists", next="choose another name, or pass --force")
    for path in places.values():
        if not path.parent.is_dir():
            raise OutputError(f"there is no folder {path.parent}", next=f"mkdir -p {path.parent}")
    recipe = assemble(
        model,
        formats=formats,
        settings=(*settings, ("limits.bench_seconds", 0.0)),
        keep_layout=keep_layout,
        **options.tables(**given),
    )
    if dry_run:
        click.echo(recipe.to_toml(), nl=False)
        return
    display = Display(quiet=as_json)
    try:
        with tempfile.TemporaryDirectory(prefix="edgedl-") as work:
            document = run(recipe, work, allow_unsafe=allow_unsafe, listener=display)
            written = deliver_to(document, Path(work), places or Path(out), force=force)
    finally:
        display.close()
    if as_json:
        options.print_json([{**a, "path": str(written[a["name"]])} for a in document["artifacts"]])
    else:
        for artifact in document["artifacts"]:
            click.echo(f"{written[artifact['name']]}  {artifact['bytes']:,} bytes  {_agreement(artifact)}")
    check_limits(document)


def _agreement(artifact: dict[str, Any]) -> str:
    found = artifact["agreement"]
    top1 = f", same class for {found['top1_agreement']:.1%}" if "top1_agreement" in found else ""
    sqnr = found["sqnr_db"]
    return f"relative error {found['max_relative_error']:.1e}{'' if sqnr is None else f', SQNR {sqnr:.1f} dB'}{top1}"
