"""What stages that change the network have bought: the result beside the unchanged model, converted the same way."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import bench
from .engine import format_of
from .errors import EdgedlError
from .registry import find, resolve
from .report.figures import times

if TYPE_CHECKING:
    from .pipeline import Converted, Run

SAME = 0.01  # relative differences of sizes and counts below this are no gain
NO_GAIN = "no gain here"
CHUNK = 1 << 20
SIZES = (  # what is compared, what is read of a file's figures, what more and less of it is called
    ("file", "bytes", "larger", "smaller"),
    ("zip", "zip", "larger", "smaller"),
    ("flash", "constants", "larger", "smaller"),
    ("activations", "activations", "larger", "smaller"),
    ("macs", "macs", "more", "fewer"),
    ("parameters", "parameters", "more", "fewer"),
)
Measured = Mapping[Path, Mapping[str, bench.Measurement]]


def weigh(path: str) -> dict[str, Any]:
    """Bytes of a file, of it deflated at level 9, of its constants and of its activations at most at once; its MACs and
    parameters. Runs in a child. Raises ModelError."""
    file, read = Path(path), resolve(resolve("edgedl.converters:FOOTPRINT"))
    found = asdict(read(file))
    layers = find("inspector", format_of(file))().layers(file)
    return {
        "bytes": file.stat().st_size,
        "zip": deflated(file),
        **found,
        "macs": sum(layer.macs for layer in layers),
        "parameters": sum(layer.parameters for layer in layers),
    }


def deflated(path: Path) -> int:
    """Bytes of a file after deflate at its highest level, as in a zip, without the zip's own headers."""
    packer, size = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())


def tables(job: Run, pairs: list[tuple[Converted, Converted]], measured: Measured) -> list[dict[str, Any]]:
    """For each format that has its dense twins: one table for the float files, one for the quantized ones.

    `pairs`: (float file, best file) of each format, as the run made them.
    """
    found = []
    for base, best in pairs:
        dense = job.dense.get(base.artifact.format)
        if dense is None:
            continue
        try:
            found.append(_table(job, dense[0], base, measured))
            if best is not base:
                found.append(_table(job, dense[1], best, measured))
        except EdgedlError as error:
            job.warn(f"no comparison with the unchanged model in {base.artifact.format}: {error.message}")
    return found


def _table(job: Run, dense: Converted, now: Converted, measured: Measured) -> dict[str, Any]:
    weights = [
        job.step(job.light, f"weigh {c.artifact.format} {c.scheme}", "weigh", [dict(c.artifact.files)],
                 module="edgedl.savings", path=str(c.artifact.path)).result
        for c in (dense, now)
    ]  # fmt: skip
    metric = job.data.result["metric"]
    return {
        "format": now.artifact.format,
        "scheme": now.scheme,
        "metric": [c.evaluation["metrics"].get(metric) for c in (dense, now)],
        "agreement": [c.evaluation["agreement"].get("top1_agreement") for c in (dense, now)],
        "rows": [*_sizes(now.artifact.format, *weights), *_latencies(dense, now, measured)],
    }


def _sizes(format: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for what, key, more, fewer in SIZES:
        if (what == "flash" and format != "tflite") or None in (before[key], after[key]):
            continue
        yield {"what": what, "before": before[key], "after": after[key], **sized(before[key], after[key], more, fewer)}


def sized(before: float, after: float, more: str, fewer: str) -> dict[str, Any]:
    """Ratio, whether something is gained, and the verdict in words, of a size or a count.

    >>> sized(200, 100, "larger", "smaller")
    {'ratio': 2.0, 'gain': True, 'verdict': '2.0× smaller'}
    >>> sized(100, 100.5, "larger", "smaller")["verdict"], sized(100, 150, "larger", "smaller")["verdict"]
    ('no gain here', 'no gain here: 1.50× larger')
    """
    if not before or not after:
        return {"ratio": None, "gain": bool(before), "verdict": NO_GAIN if not before else f"none left of {before:,}"}
    return _verdict(before / after, abs(before / after - 1) > SAME, fewer, more)


def _verdict(ratio: float, real: bool, better: str, worse: str) -> dict[str, Any]:
    text = NO_GAIN
    if real:
        text = f"{times(ratio)} {better}" if ratio > 1 else f"{NO_GAIN}: {times(1 / ratio)} {worse}"
    return {"ratio": ratio, "gain": real and ratio > 1, "verdict": text}


def _latencies(dense: Converted, now: Converted, measured: Measured) -> Iterator[dict[str, Any]]:
    """The medians in microseconds on each target, with the verdict on runs that were taken in turns."""
    was, here = (measured.get(c.artifact.path, {}) for c in (dense, now))
    for target, after in here.items():
        if (before := was.get(target)) is None:
            continue
        verdict = bench.compare(after, before)
        yield {
            "what": "latency",
            "target": target,
            "before": before.latency_us["p50"],
            "after": after.latency_us["p50"],
            "interval": [1 / max(v, 1e-9) for v in reversed(verdict.interval)],
            **_verdict(1 / max(verdict.ratio, 1e-9), verdict.verdict != "no difference found", "faster", "slower"),
        }
