"""`edgedl bench`: measure artifacts on targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..benching import bench_artifacts, check_settings
from ..errors import UsageError
from ..recipe import Recipe, assemble, step
from ..report import bench_table
from . import options
from .display import Display

MIN_SECONDS, MAX_SECONDS = 1.0, 10.0  # measuring time of one artifact on one target


@click.command("bench")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.targets
@options.data
@options.settings
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the interpreter [1].")
@click.option("--min-seconds", type=click.FloatRange(min=0), help="Least measuring time [1, or --max-seconds if less].")
@click.option(
    "--max-seconds", type=click.FloatRange(min=0.1), help="Most measuring time [10, or --min-seconds if more]."
)
@click.option("--samples", is_flag=True, help="With --json: every raw latency as well.")
@options.as_json
def command(
    artifacts: tuple[Path, ...],
    targets: tuple[str, ...],
    data: str | None,
    settings: tuple[tuple[str, Any], ...],
    threads: int | None,
    min_seconds: float | None,
    max_seconds: float | None,
    samples: bool,
    as_json: bool,
) -> None:
    """Measure ARTIFACTS (.tflite, .onnx) on targets: latency, load time, memory, and with --data the metric.

    Several artifacts are measured in turns (A B A B), so that they can be compared.

    \b
    edgedl bench model.tflite
    edgedl bench a.tflite b.tflite c.onnx --target cpu --threads 2 --data d.npz --json
    """
    if samples and not as_json:
        raise UsageError("--samples are in the JSON only", next="add --json, or leave --samples out")
    least, most = _seconds(min_seconds, max_seconds)
    recipe = _recipe(artifacts, targets or ("cpu",), data, settings, threads)
    display = Display(quiet=as_json)
    try:
        found = bench_artifacts(
            artifacts,
            recipe,
            min_seconds=least,
            max_seconds=most,
            listener=display,
        )
    finally:
        display.close()
    if as_json:
        options.print_json([m.to_json(samples=samples) for m in found])
    else:
        click.echo(bench_table([m.to_json(samples=True) for m in found]))


def _seconds(least: float | None, most: float | None) -> tuple[float, float]:
    """Measuring times; one that is not given gives way to the other. Raises UsageError where they contradict."""
    if least is not None and most is not None and most < least:
        raise UsageError(
            f"--max-seconds {most:g} is below --min-seconds {least:g}", next="raise the one or lower the other"
        )
    if most is None:
        most = max(MAX_SECONDS, least or 0)
    return min(MIN_SECONDS, most) if least is None else least, most


def _recipe(
    artifacts: tuple[Path, ...],
    targets: tuple[str, ...],
    data: str | None,
    settings: tuple[tuple[str, Any], ...],
    threads: int | None,
) -> Recipe:
    """What is to be measured on what. Raises UsageError for what would have no effect."""
    check_settings(settings, targets)
    if threads is not None:
        threaded = [name for name in targets if hasattr(step("target", name).options, "threads")]
        if not threaded:
            raise UsageError(f"--threads has no say in measuring {', '.join(targets)}", next="leave it out")
        settings = (*settings, *((f"{name}.threads", threads) for name in threaded))
    return assemble(str(artifacts[0]), data={"source": data} if data else {}, targets=targets, settings=settings)
