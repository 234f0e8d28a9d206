"""What a run has made: measured, described as report.json, and delivered into the output folder."""

from __future__ import annotations

import datetime
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, bench, savings
from .artifact import Artifact, sidecar, write_atomic
from .environment import environment
from .errors import EdgedlError, LimitError, OutputError, TargetError, from_json
from .firmware import write_files
from .model import STATIC, LoadOptions
from .options import build, everything
from .protocols import Embedded
from .recipe import Recipe, Step
from .registry import find, names
from .report import write_html, write_json
from .sniffing import sniff
from .store import checkpoint_files, digest, writing

if TYPE_CHECKING:
    from .pipeline import Converted, Run

SAMPLES_IN_REPORT = 2000
Exported = tuple["Converted", "Converted", list[dict[str, Any]]]  # float file, best compressed file, all attempts


def measured(
    job: Run, pairs: Sequence[tuple[Converted, Converted]]
) -> tuple[dict[Path, dict[str, bench.Measurement]], list[dict[str, Any]]]:
    """Every artifact, its float file and those of the unchanged model on every target, interleaved; the comparisons."""
    every = {c.artifact.path: c.artifact for pair in (*pairs, *job.dense.values()) for c in pair}
    found: dict[Path, dict[str, bench.Measurement]] = {path: {} for path in every}
    comparisons: list[dict[str, Any]] = []
    seconds = job.recipe.limits.bench_seconds
    for target in job.recipe.targets if seconds else ():
        job.listener.begin(f"bench {target.name}")
        start = time.perf_counter()
        try:
            artifacts = runnable(target, every.values())
            here = bench.measure(
                artifacts,
                target.name,
                everything(target.options),
                data_folder=job.data.folder,
                score=False,
                min_seconds=seconds / 3,
                max_seconds=seconds,
                progress=job.listener.progress,
                timeout_s=job.light.timeout_s,
                memory_bytes=job.light.memory_bytes,
            )
        except EdgedlError as error:
            job.failures.append({"step": f"bench {target.name}", **error.to_json()})
            job.warn(f"not measured on {target.name}: {error.message}")
            continue
        took = time.perf_counter() - start
        job.steps.append({"name": f"bench {target.name}", "seconds": round(took, 3), "reused": False, "notes": []})
        job.listener.end(f"bench {target.name}", "", took, False)
        for path, measurement in zip(artifacts, here, strict=True):
            found[path][target.name] = measurement
        comparisons += [
            compared(found, base, best, target.name)
            for base, best in pairs
            if best is not base and {base.artifact.path, best.artifact.path} <= set(artifacts)
        ]
    return found, comparisons


def runnable(target: Step, artifacts: Iterable[Artifact]) -> list[Path]:
    """The artifacts that a target takes. Raises TargetError where it takes none."""
    opened = build(find("target", target.name), everything(target.options), target.name)
    if not isinstance(opened, Embedded):
        return [artifact.path for artifact in artifacts]
    reasons = {artifact.path: opened.refuses(artifact) for artifact in artifacts}
    if all(reasons.values()):
        raise TargetError("; ".join(dict.fromkeys(reasons.values())), next="add --format tflite --quantize int8")
    return [path for path, reason in reasons.items() if not reason]


def firmware(job: Run, pairs: Sequence[Exported]) -> list[dict[str, Any]]:
    """The firmware of each compressed .tflite for each target without an interpreter: plain JSON, `files` with their text."""
    made = []
    for target in job.recipe.targets:
        opened = build(find("target", target.name), everything(target.options), target.name)
        if not isinstance(opened, Embedded):
            continue
        for _, best, _ in pairs:
            if opened.refuses(best.artifact):
                continue
            arguments = {"path": str(best.artifact.path), "features": sorted(opened.features), "prefix": ""}
            try:
                found = job.step(job.light, f"firmware {target.name}", "generate", [dict(best.artifact.files), arguments],
                                 module="edgedl.firmware", **arguments)  # fmt: skip
            except EdgedlError as error:
                job.failures.append({"step": f"firmware {target.name}", **error.to_json()})
                job.warn(f"no firmware for {target.name}: {error.message}")
                continue
            made.append({**found.result, "target": target.name, "folder": f"firmware_{target.name}"})
    return made


def compared(
    found: Mapping[Path, Mapping[str, bench.Measurement]], base: Converted, best: Converted, target: str
) -> dict[str, Any]:
    """The verdict on a compressed file against its float file."""
    verdict = bench.compare(found[best.artifact.path][target], found[base.artifact.path][target])
    names = {"a": title(best), "b": title(base), "target": target}
    return {**names, **verdict.to_json()}


def title(converted: Converted) -> str:
    """How an artifact is called: NAME_SCHEME.FORMAT."""
    path = converted.artifact.path
    return f"{path.stem}_{converted.scheme}{path.suffix}"


def assemble_document(
    job: Run,
    pairs: Sequence[Exported],
    measurements: Mapping[Path, Mapping[str, bench.Measurement]],
    comparisons: list[dict[str, Any]],
    started: datetime.datetime,
) -> dict[str, Any]:
    """The content of report.json (docs/schema/report.schema.json)."""
    recipe, found, data = job.recipe, job.model.result, job.data.result
    model = Path(recipe.model)
    size = weight(model, recipe.load)
    artifacts = []
    for base, best, attempts in pairs:
        entry = described(job, best, measurements[best.artifact.path])
        entry["layers"] = job.layers(best, base)
        if best is not base and entry["bytes"] >= base.artifact.path.stat().st_size:
            entry["warnings"].append(grown(best, entry["bytes"] - base.artifact.path.stat().st_size))
            job.listener.warn(entry["warnings"][-1])
        entry["attempts"] = attempts
        entry["faithfulness"] = job.faithfulness(best)
        if len(attempts) > 1:
            entry["warnings"].append(
                f"chosen among {len(attempts)} attempts by the validation samples that its figures are of"
            )
        artifacts.append(entry)
    for entry in artifacts:
        if not entry["within_limits"]:
            job.warn(f"{entry['name']} {broken(entry, everything(recipe.limits))}")
    return {
        "edgedl": __version__,
        "created": started.isoformat(timespec="seconds"),
        "model": {
            "path": str(model),
            "format": sniff(model),
            "sha256": digest(model),
            "bytes": size,
            **{k: found[k] for k in ("parameters", "macs", "layers", "inputs", "outputs", "layouts")},
            "proof": [*found["proof"], *job.proof],
        },
        "data": data,
        "original": {"metrics": job.original.result, "bytes": size},
        "artifacts": artifacts,
        "baselines": [
            described(job, base, measurements[base.artifact.path]) for base, best, _ in pairs if best is not base
        ],
        "comparisons": comparisons,
        "stages": [{k: v for k, v in stage.items() if k != "key"} for stage in job.stages],
        "savings": savings.tables(job, [pair[:2] for pair in pairs], measurements),
        "recipe": recipe.to_toml(),
        "limits": everything(recipe.limits),
        "steps": job.steps,
        "failures": job.failures,
        "warnings": job.warnings,
        "environment": environment(),
    }


def weight(path: Path, load: LoadOptions) -> int:
    """Bytes of a model: of its file and those of its weights, or of its folder."""
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    beside = (
        [Path(load.weights)]
        if load.weights
        else [path.with_suffix(".caffemodel")]
        if path.suffix == ".prototxt"
        else []
    )
    prefix = path.name.removesuffix("-symbol.json")
    if prefix != path.name and not load.weights:
        beside = sorted(path.parent.glob(f"{prefix}-*.params"))[-1:]
    if not path.exists() or path.suffix in (".meta", ".index") or path.suffix.startswith(".data-"):
        beside = checkpoint_files(path)
    return sum(p.stat().st_size for p in dict.fromkeys((path, *beside)) if p.is_file())


def thinned(latency_ns: Sequence[int]) -> list[float]:
    """Every k-th latency in microseconds, as many as a report keeps."""
    every = -(-len(latency_ns) // SAMPLES_IN_REPORT)
    return [round(ns / 1e3, 3) for ns in latency_ns[::every]]


def broken(entry: Mapping[str, Any], limits: Mapping[str, Any]) -> str:
    """Which limits an artifact passes and how far, in words."""
    most, each, worst = limits.get("max_drop"), limits.get("max_class_drop"), entry.get("class_drop")
    drop = math.inf if entry["drop"] is None else entry["drop"]
    found = [outside(drop, most)] if most is not None and drop > most + 1e-9 else []
    if each is not None and worst and worst["drop"] > each + 1e-9:
        found.append(f"loses its class {worst['label']} ({worst['count']} samples) by {100 * worst['drop']:.3g} points of {100 * each:.3g} allowed")  # fmt: skip
    return " and ".join(found)


def outside(drop: float | None, most: float) -> str:
    """How far a result is outside the limit, in words."""
    if drop is None or math.isinf(drop):
        return "cannot be held to --max-drop: the original's own error is zero, of which any change is infinitely more"
    return f"drops by {100 * drop:.3g} %, more than the {100 * most:.3g} % allowed"


def grown(converted: Converted, more: int) -> str:
    """What to say of a compressed file that is no smaller than its float file."""
    instead = "dynamic" if converted.scheme in STATIC else "float32"
    size = f"{more:,} bytes larger than" if more else "no smaller than"
    return f"{size} its float file; --quantize {instead} may serve better"


def described(job: Run, converted: Converted, measured: Mapping[str, bench.Measurement]) -> dict[str, Any]:
    """One artifact in the report."""
    artifact, evaluation = converted.artifact, converted.evaluation
    return {
        "name": title(converted),
        "path": title(converted),
        "format": artifact.format,
        "scheme": converted.scheme,
        "io": ", ".join(dict.fromkeys(s.dtype for s in artifact.inputs)),
        "bytes": artifact.path.stat().st_size,
        "metrics": evaluation["metrics"],
        "original_metrics": job.original.result,
        "agreement": evaluation["agreement"],
        "drop": converted.drop,
        "class_drop": converted.class_drop,
        "within_limits": job.within(converted),
        "per_class": evaluation["per_class"],
        "left_float": list(artifact.metadata.get("left_float", [])),
        "transposes": artifact.metadata.get("transposes"),
        "layouts": dict(artifact.metadata.get("layouts", {})),
        "verification": converted.verification,
        "latency_us": {target: {**m.latency_us, "samples": thinned(m.latency_ns)} for target, m in measured.items()},
        "devices": {target: dict(m.extra) for target, m in measured.items() if m.extra},
        "load_ms": next((m.load_ms for m in measured.values()), None),
        "peak_bytes": next((m.peak_bytes for m in measured.values()), None),
        "layers": [],
        "warnings": [*artifact.metadata.get("warnings", ()), *artifact.metadata.get("notes", ())],
    }


def left_behind(document: Mapping[str, Any], out: Path) -> list[str]:
    """Artifacts of earlier runs in the output folder, which this report is not about."""
    mine = {entry["path"] for entry in document["artifacts"]}
    found = (p.name for p in out.iterdir() if p.suffix[1:] in names("converter"))
    return sorted(set(found) - mine)


def deliver(
    document: dict[str, Any],
    pairs: Sequence[Exported],
    out: Path,
    recipe: Recipe,
    made: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Put artifacts, float files, firmware, report and recipe into the output folder, each file whole or not at all."""
    if stale := left_behind(document, out):
        document["warnings"].append(f"of an earlier run, and not in this report: {', '.join(stale)}")
    for base, best, _ in pairs:
        copy(best.artifact, out / title(best))
        if best is not base:
            (out / "baseline").mkdir(exist_ok=True)
            copy(base.artifact, out / "baseline" / title(base))
    for entry in document["baselines"]:
        entry["path"] = f"baseline/{entry['path']}"
    for found in made:
        write_files(out / found["folder"], found["files"])
    write_atomic(out / "recipe.toml", recipe.to_toml().encode())
    write_json(document, out / "report.json")
    write_html(document, out / "report.html")


def copy(artifact: Artifact, path: Path) -> None:
    """Copy an artifact and its metadata to another place under another name, the digest unchanged."""
    write_atomic(path, artifact.path.read_bytes())
    there = replace(artifact, path=path, files={path.name: next(iter(artifact.files.values()))})
    write_atomic(sidecar(path), (json.dumps(there.to_json(), indent=1) + "\n").encode())


def check_limits(document: Mapping[str, Any]) -> None:
    """Raises LimitError when an artifact is outside a limit, ConversionError or TargetError when a part failed."""
    failing = [a for a in document["artifacts"] if not a["within_limits"]]
    if failing:
        worst = max(failing, key=lambda a: math.inf if a["drop"] is None else float(a["drop"]))
        told = broken(worst, document["limits"])
        limit = "--max-class-drop" if "loses its class" in told else "--max-drop"
        tried = {attempt["scheme"] for attempt in worst["attempts"]}
        others = " or ".join(s for s in ("dynamic", "fp16") if s not in tried)
        less = "to prune less or train longer (--epochs), " if document.get("stages") else ""
        raise LimitError(
            f"{worst['name']} {told}",
            next=f"look at the layers in the report; try {less}{f'--quantize {others}, ' if others else ''}more calibration data, or a larger {limit}",
        )
    if document["failures"]:
        raise from_json(document["failures"][0])


def deliver_to(
    document: Mapping[str, Any], work: Path, places: Mapping[str, Path] | Path, *, force: bool = False
) -> dict[str, Path]:
    """Copy a run's artifacts from its folder `work` to a file for each format, or into a folder; name -> path.

    The metadata goes along, beside and inside the file. Raises OutputError, before anything is written, when a file
    is in the way and not `force`.
    """
    pairs = {
        entry["name"]: (
            work / entry["path"],
            places / entry["name"] if isinstance(places, Path) else places[entry["format"]],
        )
        for entry in document["artifacts"]
    }
    taken = [p for _, path in pairs.values() for p in (path, sidecar(path)) if p.exists()]
    if taken and not force:
        raise OutputError(f"{taken[0]} exists", next="choose another place, or pass --force")
    for source, path in pairs.values():
        artifact = Artifact.load(source)
        if artifact is None:
            raise OutputError(f"{source.name} has lost its metadata", next="run again")
        if isinstance(places, Path):
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
        copy(artifact, path)
    return {name: path for name, (_, path) in pairs.items()}
