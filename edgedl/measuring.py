"""The child's side of `bench`: functions of plain JSON that open model files, run in a child process."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from . import metrics as scoring
from .artifact import Array, Artifact, TensorSpec, spec_from_json
from .data import Dataset
from .engine import describe, preload, show_shape
from .environment import environment
from .errors import DataError
from .layouts import from_file, layouts_of, to_file
from .options import build
from .protocols import Session, Target
from .registry import find
from .stats import is_stationary
from .worker import progress

BLOCK_SHARE = 20  # a block lasts this part of min_seconds, within the next two
MIN_BLOCK_S, MAX_BLOCK_S = 0.005, 0.1
MAX_BLOCK_RUNS = 1000
MAX_RUNS = 100_000  # of one artifact; then it ends, even before min_seconds
PRECISE = 0.005  # it ends before max_seconds when the interval of the median is narrower than this on either side
MIN_BLOCKS = 10
WARMUP_SHARE = 0.2  # of max_seconds, at most
WINDOW_S, WINDOW_RUNS = 0.01, 500  # a window of the warm-up: at least that long or that many runs
INPUTS = 8  # different inputs, in turns
LOADS = 5
BATCH = 64


@runtime_checkable
class Figures(Protocol):
    """A session that knows more than latency: `figures()` is merged into the result (instructions, flash, ram ...)."""

    def figures(self) -> Mapping[str, Any]: ...


def time_in_child(
    paths: Sequence[str], target: str, options: Mapping[str, Any], data: Sequence[str] | None, seconds: Sequence[float]
) -> list[dict[str, Any]]:
    """Latencies of artifacts measured in turns; for each its latencies, blocks, warm-up, environment and figures.

    `data`: a folder for each artifact.
    """
    opened: Target = build(find("target", target), options, target)
    here = environment()
    datasets = [None] * len(paths) if data is None else [Dataset.restore(Path(folder)) for folder in data]
    with ExitStack() as stack:
        runners = [
            _Runner(stack.enter_context(opened.open()), describe(path), dataset)
            for path, dataset in zip(paths, datasets, strict=True)
        ]
        for runner in runners:
            runner.warm_up(seconds[1] * WARMUP_SHARE)
        _take_turns(runners, *seconds)
        return [runner.result(here) for runner in runners]


class _Runner:
    """One artifact in its session: its inputs, and what was measured so far."""

    def __init__(self, session: Session, artifact: Artifact, dataset: Dataset | None) -> None:
        self.session, self.artifact = session, artifact
        session.load(artifact)
        self.inputs = real_inputs(dataset, artifact)
        self.turn = 0
        self.samples: list[int] = []
        self.blocks: list[int] = []
        self.medians: list[float] = []
        self.seconds = 0.0
        self.warmup: dict[str, Any] = {}

    def stretch(self, seconds: float, runs: int) -> list[int]:
        """Latencies of runs without a pause: for so long or so many, at least one."""
        out: list[int] = []
        session, inputs = self.session, self.inputs
        end = time.perf_counter() + seconds
        while len(out) < runs:
            out.append(session.run(inputs[self.turn % len(inputs)])[1])
            self.turn += 1
            if time.perf_counter() >= end:
                break
        return out

    def warm_up(self, seconds: float) -> None:
        """Run until the latency is stationary (`stats.is_stationary`) or the time is over."""
        start, runs, windows = time.perf_counter(), 0, list[float]()
        while not is_stationary(windows) and (left := start + seconds - time.perf_counter()) > 0:
            window = self.stretch(min(WINDOW_S, left), WINDOW_RUNS)
            windows.append(statistics.median(window))
            runs += len(window)
        took = time.perf_counter() - start
        self.warmup = {"runs": runs, "seconds": round(took, 4), "stationary": is_stationary(windows)}

    def block(self, seconds: float) -> None:
        """Measure one block."""
        start = time.perf_counter()
        found = self.stretch(seconds, MAX_BLOCK_RUNS)
        self.seconds += time.perf_counter() - start
        self.samples += found
        self.blocks.append(len(found))
        self.medians.append(statistics.median(found))

    def is_precise(self) -> bool:
        """Whether the medians of the blocks settle their centre: 2 standard errors (from the MAD) within half a percent."""
        if len(self.medians) < MIN_BLOCKS:
            return False
        medians = np.asarray(self.medians)
        centre = float(np.median(medians))
        spread = 1.4826 * float(np.median(np.abs(medians - centre)))
        return bool(2 * 1.2533 * spread / len(medians) ** 0.5 <= PRECISE * centre)

    def result(self, here: Mapping[str, Any]) -> dict[str, Any]:
        """As JSON."""
        figures = dict(self.session.figures()) if isinstance(self.session, Figures) else {}
        return {
            "artifact": self.artifact.to_json(),
            "latency_ns": self.samples,
            "blocks": self.blocks,
            "warmup": self.warmup,
            "environment": {**here, **self.session.environment()},
            "figures": figures,
        }


def _take_turns(runners: Sequence[_Runner], min_seconds: float, max_seconds: float) -> None:
    """Blocks of each in turns, every other round backwards, so that a steady drift falls on all alike."""
    length = min(max(min_seconds / BLOCK_SHARE, MIN_BLOCK_S), MAX_BLOCK_S, max_seconds)
    turn, text = 0, f"measuring {len(runners)} artifact{'s' if len(runners) > 1 else ''}"
    while True:
        for runner in runners if turn % 2 == 0 else reversed(runners):
            runner.block(length)
        turn += 1
        least, most = min(r.seconds for r in runners), max(r.seconds for r in runners)
        progress(round(most * 1e3), round(max_seconds * 1e3), text)
        enough = least >= min_seconds and all(r.is_precise() for r in runners)
        if enough or most >= max_seconds or max(len(r.samples) for r in runners) >= MAX_RUNS:
            return


def footprint_in_child(
    path: str, artifact: Mapping[str, Any], target: str, options: Mapping[str, Any], data: str | None = None
) -> dict[str, Any]:
    """Load time (median of five, the file cached) and the peak of memory that loading and running it adds, in a fresh process.

    It is loaded and run once before, so that the pages of the interpreter's own code and tables are not counted.
    """
    found = artifact_from(Path(path), artifact)
    opened: Target = build(find("target", target), options, target)
    preload(found.format)
    inputs = real_inputs(None if data is None else Dataset.restore(Path(data)), found)[0]
    load_once(opened, found, inputs)
    with suppress(OSError, AttributeError):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    before = reset_peak()
    load_once(opened, found, inputs)
    peak = None if before is None else max(0, (memory("VmHWM") or before) - before)
    times = [load_once(opened, found, inputs) for _ in range(LOADS)]
    return {"load_ms": statistics.median(times) * 1e3, "peak_bytes": peak}


def load_once(target: Target, artifact: Artifact, inputs: Mapping[str, Array]) -> float:
    """Load and run an artifact in a session of its own; returns the seconds that loading took."""
    with target.open() as session:
        start = time.perf_counter()
        session.load(artifact)
        took = time.perf_counter() - start
        session.run(inputs)
        return took


def reset_peak() -> int | None:
    """Make this process's peak of resident memory start anew (proc(5), clear_refs); returns the bytes resident now.

    None where the system does not let us.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return memory("VmRSS")


def memory(name: str) -> int | None:
    """A line of /proc/self/status in bytes ("VmRSS": resident now, "VmHWM": its peak)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def evaluate_in_child(
    path: str, data: str, target: str, options: Mapping[str, Any], out: str | None = None
) -> dict[str, Any]:
    """Run the validation samples on the target; returns the metric, on how many samples, and what there is to know of them.

    Writes the real-valued outputs to `out` (.npz).
    """
    artifact, dataset = describe(path), Dataset.restore(Path(data))
    opened: Target = build(find("target", target), options, target)
    total, parts = len(dataset.validation), []
    with opened.open() as session:
        session.load(artifact)
        for start in range(0, total, BATCH):
            feed = dataset.feed(dataset.validation, start, min(start + BATCH, total))
            parts.append(_real_run(session, artifact, feed))
            progress(min(start + BATCH, total), total, f"{artifact.path.name} on the validation data")
    if not parts:
        raise DataError(f"the data in {data} has no validation samples", next="give data with more samples")
    outputs = {s.name: np.concatenate([p[s.name] for p in parts]) for s in artifact.outputs}
    if out is not None:
        np.savez(
            out,
            allow_pickle=False,
            names=np.array(list(outputs)),
            **{f"a{i}": a for i, a in enumerate(outputs.values())},
        )
    y = dataset.validation.y
    found = {} if y is None else {dataset.metric: scoring.evaluate(dataset.metric, outputs, y)}
    return {"metrics": found, "samples": total, "notes": list(dataset.notes)}


def _real_run(session: Session, artifact: Artifact, feed: Mapping[str, Array]) -> dict[str, Array]:
    outputs, _ = session.run(_quantized(artifact, feed))
    real = {s.name: s.dequantize(outputs[s.name]) for s in artifact.outputs}
    return from_file(real, layouts_of(artifact))


def _quantized(artifact: Artifact, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Real values of the trainable form as the file takes them: in its layout, by its own names, else by position where
    there are as many inputs.
    """
    specs = {s.name: s for s in artifact.inputs}
    if feed.keys() != specs.keys() and len(feed) == len(specs):
        feed = dict(zip(specs, feed.values(), strict=True))
    feed = to_file(feed, layouts_of(artifact))
    return {k: specs[k].quantize(x) if k in specs else x for k, x in feed.items()}


def artifact_from(path: Path, data: Mapping[str, Any]) -> Artifact:
    """The artifact that `Artifact.to_json` wrote, without opening its file."""
    inputs, outputs = (tuple(map(spec_from_json, data[k])) for k in ("inputs", "outputs"))
    files = {path.name if k == data["file"] else k: v for k, v in data["files"].items()}
    return Artifact(path, data["format"], inputs, outputs, files, data["metadata"])


def real_inputs(dataset: Dataset | None, artifact: Artifact) -> list[dict[str, Array]]:
    """Inputs from the data, else made up."""
    found = [] if dataset is None else _dataset_inputs(dataset, artifact)
    return found or [_generated_input(artifact.inputs)]


def _dataset_inputs(dataset: Dataset, artifact: Artifact) -> list[dict[str, Array]]:
    """Single validation samples as the file takes them, or as many at once as its fixed batch; none where there are fewer."""
    size = next((s.shape[0] for s in artifact.inputs if s.shape and s.shape[0]), None) or 1
    count = min(INPUTS, len(dataset.validation) // size)
    feeds = (dataset.feed(dataset.validation, i * size, (i + 1) * size) for i in range(count))
    return [_quantized(artifact, feed) for feed in feeds]


def _generated_input(specs: Sequence[TensorSpec]) -> dict[str, Array]:
    return {s.name: x for s, x in zip(specs, generated(specs), strict=True)}


def generated(specs: Sequence[TensorSpec], seed: int = 0) -> list[Array]:
    """Inputs where no data was given, each in its own dtype: one batch of uniform values in 0..1, or all integers that a
    quantized input holds. Raises DataError where an inner dimension is open.
    """
    rng = np.random.default_rng(seed)
    return [_generated(s, rng) for s in specs]


def _generated(spec: TensorSpec, rng: np.random.Generator) -> Array:
    if None in spec.shape[1:]:
        raise DataError(
            f"input '{spec.name}' has the open shape {show_shape(spec.shape)}, for which no input can be made up",
            next="give data with --data",
        )
    shape = [d or 1 for d in spec.shape]
    dtype = np.dtype(spec.dtype)
    if spec.is_quantized:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    if dtype.kind == "f":
        return rng.uniform(0.0, 1.0, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
