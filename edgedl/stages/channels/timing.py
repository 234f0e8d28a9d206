"""time_in_turns(): many small files on a target, interleaved; runs in a child process, so that a crash is an error message."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ...artifact import Array, Artifact
from ...engine import describe
from ...environment import environment
from ...options import build
from ...protocols import Session, Target
from ...registry import find
from ...worker import progress

OPEN = 48  # files open at once
BLOCK_RUNS = 1000  # most in one block
LEAST_RUNS = 9  # in one block, unless they take LONG times as long as it should: on a busy machine runs are interrupted
LONG = 20


def time_in_turns(
    paths: Sequence[str], target: str, options: Mapping[str, Any], rounds: int, block_ms: float, budget_s: float
) -> list[list[float]]:
    """For each file the medians of its blocks in nanoseconds, one block a round, the files of a batch in turns.

    A round after the first is left out where the time is over. Raises TargetError, ModelError.
    """
    opened: Target = build(find("target", target), options, target)
    end, found = time.monotonic() + budget_s, list[list[float]]()
    for start in range(0, len(paths), OPEN):
        batch = paths[start : start + OPEN]
        share = (end - time.monotonic()) / max(1, -(-(len(paths) - start) // OPEN))
        found += _batch(batch, opened, rounds, block_ms / 1e3, time.monotonic() + share)
        progress(start + len(batch), len(paths), f"timing operators on {target}")
    return found


def identity_in_child(target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a time to be used again: the machine, the versions, the target's options."""
    build(find("target", target), options, target)
    here = environment()
    versions = {k: v for k, v in here["versions"].items() if k in ("ai-edge-litert", "tflite-runtime", "onnxruntime")}
    return {
        "target": target,
        "options": dict(options),
        "cpu": here["cpu"],
        "cores": here["cores"],
        "versions": versions,
    }


def _batch(paths: Sequence[str], target: Target, rounds: int, seconds: float, end: float) -> list[list[float]]:
    with ExitStack() as stack:
        sessions = [(stack.enter_context(target.open()), describe(path)) for path in paths]
        feeds = []
        for session, artifact in sessions:
            session.load(artifact)
            feeds.append(random_inputs(artifact))
            _block(session, feeds[-1], seconds / 2)
        times: list[list[float]] = [[] for _ in paths]
        for turn in range(rounds):
            if turn and time.monotonic() > end:
                break
            order = range(len(paths)) if turn % 2 == 0 else reversed(range(len(paths)))
            for i in order:
                times[i].append(_block(sessions[i][0], feeds[i], seconds))
        return times


def _block(session: Session, inputs: Mapping[str, Array], seconds: float) -> float:
    """The median of runs without a pause, in nanoseconds: for so long, at least one."""
    found: list[int] = []
    start = time.perf_counter()
    while len(found) < BLOCK_RUNS:
        found.append(session.run(inputs)[1])
        took = time.perf_counter() - start
        if took >= (seconds if len(found) >= LEAST_RUNS else LONG * seconds):
            break
    return statistics.median(found)


def random_inputs(artifact: Artifact) -> dict[str, Array]:
    """An input of each of an artifact's tensors: normal floats, bytes of the whole range, zeros for indices."""
    rng = np.random.default_rng(0)
    found = {}
    for spec in artifact.inputs:
        shape = [d or 1 for d in spec.shape]
        if spec.dtype.startswith("float"):
            found[spec.name] = rng.normal(size=shape).astype(spec.dtype)
        elif spec.dtype in ("int8", "uint8", "int16"):
            info = np.iinfo(spec.dtype)
            found[spec.name] = rng.integers(info.min, info.max, shape, endpoint=True).astype(spec.dtype)
        else:
            found[spec.name] = np.zeros(shape, spec.dtype)
    return found


def lowest(blocks: Sequence[Sequence[float]]) -> list[float]:
    """The least median of each file's blocks, in milliseconds: what it takes while nothing disturbs."""
    return [min(found) / 1e6 for found in blocks]
