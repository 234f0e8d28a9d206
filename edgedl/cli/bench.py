"""`edgedl bench`: measure artifacts on targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..benching import bench_artifacts
from ..recipe import assemble
from ..report import bench_table
from . import options
from .display import Display


@click.command("bench")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.targets
@options.data
@options.settings
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the interpreter [1].")
@click.option(
    "--min-seconds", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Least measuring time."
)
@click.option(
    "--max-seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Most measuring time."
)
@click.option("--samples", is_flag=True, help="With --json: every raw latency as well.")
@options.as_json
def command(
    artifacts: tuple[Path, ...],
    targets: tuple[str, ...],
    data: str | None,
    settings: tuple[tuple[str, Any], ...],
    threads: int | None,
    min_seconds: float,
    max_seconds: float,
    samples: bool,
    as_json: bool,
) -> None:
    """Measure ARTIFACTS (.tflite, .onnx) on targets: latency, load time, memory, and with --data the metric.

    Several artifacts are measured in turns (A B A B), so that they can be compared.

    \b
    edgedl bench model.tflite
    edgedl bench a.tflite b.tflite c.onnx --target cpu --threads 2 --data d.npz --json
    """
    if threads is not None:
        settings = (*settings, ("cpu.threads", threads))
    recipe = assemble(
        str(artifacts[0]), data={"source": data} if data else {}, targets=targets or ("cpu",), settings=settings
    )
    display = Display(quiet=as_json)
    try:
        found = bench_artifacts(
            artifacts,
            recipe,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            listener=display,
        )
    finally:
        display.close()
    if as_json:
        options.print_json([m.to_json(samples=samples) for m in found])
    else:
        click.echo(bench_table([m.to_json(samples=True) for m in found]))
