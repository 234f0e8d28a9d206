"""Measurement, measure and compare: the same loop for every target, several artifacts in turns, raw samples kept.

Whatever opens a model file runs in a child process, by the functions of `measuring`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import Array
from .engine import format_of
from .errors import UsageError
from .measuring import artifact_from
from .options import build
from .registry import find
from .stats import Verdict, compare_blocks, summary
from .worker import Progress, Worker, default_memory_bytes

NO_SCORES: Mapping[str, Any] = {"metrics": {}, "samples": 0, "notes": []}  # where there is no data


@dataclass(frozen=True, slots=True)
class Measurement:
    """One artifact on one target.

    `latency_ns`: of single runs, in order; `blocks`: how many of them each uninterrupted stretch has. `session` is the
    same for artifacts that were measured in turns. `peak_bytes`: the most that loading and running added to the
    process; None where the system does not tell. `samples`: how many the metrics are of, `notes`: what there is to know
    of them. `extra`: what the target knows besides.
    """

    target: str
    artifact: Path
    format: str
    scheme: str
    size: int  # bytes of its files
    latency_ns: tuple[int, ...]
    blocks: tuple[int, ...]
    latency_us: Mapping[str, Any]
    load_ms: float
    peak_bytes: int | None
    metrics: Mapping[str, float]
    environment: Mapping[str, Any]
    session: str
    samples: int = 0
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, *, samples: bool = False) -> dict[str, Any]:
        """As plain JSON values; `samples` adds every latency in microseconds."""
        raw = {"samples": [ns / 1e3 for ns in self.latency_ns]} if samples else {}
        return {
            "artifact": str(self.artifact),
            "target": self.target,
            "format": self.format,
            "scheme": self.scheme,
            "bytes": self.size,
            "latency_us": {**self.latency_us, **raw},
            "load_ms": self.load_ms,
            "memory": {"peak_bytes": self.peak_bytes},
            "metrics": dict(self.metrics),
            "samples": self.samples,
            "notes": list(self.notes),
            "environment": dict(self.environment),
            **self.extra,
        }


def measure(
    paths: Sequence[Path],
    target_name: str,
    target_options: Mapping[str, Any] | None = None,
    *,
    data_folder: Path | Sequence[Path] | None = None,
    score: bool = True,
    min_seconds: float = 1.0,
    max_seconds: float = 10.0,
    progress: Progress | None = None,
    timeout_s: float = 900.0,
    memory_bytes: int | None = None,
) -> list[Measurement]:
    """Measure artifacts on a registered target, several of them in turns (A B, B A, A B ...), each in fresh memory.

    `data_folder`: what `Dataset.save` wrote, for all artifacts or for each its own; its validation samples are the inputs,
    by name, else by position, and with `score` the metric is evaluated on them. `min_seconds`, `max_seconds`: measuring time for each
    artifact; in between, it ends when the median is known to half a percent. `timeout_s`: most that a job in a child
    process may take, besides the time for measuring; `memory_bytes`: its limit of memory, not set: three quarters of the
    machine's. Raises ModelError, DataError, TargetError, UsageError, WorkerError.
    """
    options = dict(target_options or {})
    if not paths or not 0 <= min_seconds <= max_seconds or max_seconds <= 0:
        raise UsageError(
            f"cannot measure {len(paths)} artifacts for {min_seconds:g} to {max_seconds:g} s",
            next="give at least one artifact and 0 <= min_seconds <= max_seconds",
        )
    data = _folders(data_folder, len(paths))
    build(find("target", target_name), options, target_name)  # a wrong option is an error here, not in a child
    for path in paths:
        format_of(path)
    common: dict[str, Any] = {"target": target_name, "options": options}
    memory = memory_bytes or default_memory_bytes()
    with Worker(timeout_s + 2 * len(paths) * max_seconds, memory, on_progress=progress) as worker:
        names = [str(p) for p in paths]
        timed = worker.call(
            "edgedl.measuring:time_in_child", paths=names, data=data, seconds=[min_seconds, max_seconds], **common
        )
        worker.timeout_s = timeout_s
        scores = [
            worker.call("edgedl.measuring:evaluate_in_child", path=path, data=folder, **common)
            if folder and score
            else NO_SCORES
            for path, folder in zip(names, data or [""] * len(names), strict=True)
        ]
    footprints = []
    for name, found, folder in zip(names, timed, data or [""] * len(names), strict=True):
        with Worker(timeout_s, memory) as fresh:
            job = {"path": name, "artifact": found["artifact"], "data": folder or None, **common}
            footprints.append(fresh.call("edgedl.measuring:footprint_in_child", **job))
    session = os.urandom(8).hex()
    rows = zip(paths, timed, scores, footprints, strict=True)
    return [_measurement(target_name, session, *row) for row in rows]


def _folders(given: Path | Sequence[Path] | None, count: int) -> list[str] | None:
    """A folder of data for each artifact. Raises UsageError where there are more or fewer."""
    if given is None:
        return None
    folders = [str(given)] * count if isinstance(given, Path) else list(map(str, given))
    if len(folders) != count:
        raise UsageError(
            f"there are {len(folders)} folders of data for {count} artifacts",
            next="give one for each artifact, or one for all",
        )
    return folders


def _measurement(
    target: str,
    session: str,
    path: Path,
    timed: Mapping[str, Any],
    scores: Mapping[str, Any],
    footprint: Mapping[str, Any],
) -> Measurement:
    artifact = artifact_from(path, timed["artifact"])
    extra = dict(timed["figures"])
    return Measurement(
        target=target,
        artifact=path,
        format=artifact.format,
        scheme=artifact.scheme,
        size=artifact.size,
        latency_ns=tuple(timed["latency_ns"]),
        blocks=tuple(timed["blocks"]),
        latency_us={**summary(timed["latency_ns"], timed["blocks"]), "warmup": timed["warmup"]},
        load_ms=float(extra.pop("load_ms", footprint["load_ms"])),
        peak_bytes=extra.pop("peak_bytes", footprint["peak_bytes"]),
        metrics=scores["metrics"],
        samples=scores["samples"],
        notes=tuple(scores["notes"]),
        environment=timed["environment"],
        session=session,
        extra=extra,
    )


def compare(a: Measurement, b: Measurement, confidence: float = 0.95) -> Verdict:
    """Whether `a` is faster than `b`: in pairs of neighbouring blocks when they were measured in turns (see stats)."""
    parts = [_split(m) for m in (a, b)]
    return compare_blocks(*parts, paired=a.session == b.session, confidence=confidence)


def _split(m: Measurement) -> list[Array]:
    ends = np.cumsum(m.blocks)[:-1]
    return np.split(np.asarray(m.latency_ns, np.float64), ends)
