"""Latency: what a network takes on a target as a function of its widths, from its operators timed there one by one.

The cost of a channel is the target's, not its multiply-accumulates: every operator of the converted file is timed alone
on the target over the widths it can have (Yang et al., "NetAdapt", ECCV 2018, and Cai et al., "ProxylessNAS", ICLR 2019,
use such tables), their sum is scaled to the measured whole, and what is chosen is measured as a whole again.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import scratch
from ...artifact import TensorSpec, write_atomic
from ...data import Dataset, Split
from ...errors import ConversionError, UsageError
from ...model import Model, QuantizationPlan
from ...options import build
from ...protocols import Stepped
from ...registry import find
from ...stats import compare_blocks
from ...worker import Worker, progress
from .choose import Bounds, Ranking, Scores, choose, mask_of
from .cost import Cost, Counts, Values, saving
from .graph import ChannelGraph
from .shrink import Mask, shrink
from .template import Template, template
from .timing import lowest

Scheme = Literal["int8", "float32"]
TIMER = "edgedl.stages.channels.timing:time_in_turns"
SMALL = 1 << 18  # bytes; a segment whose tensors take no more is timed in several copies, so that a call costs little
COPIES = 8
POINTS = (16, 12, 8, 6, 4, 3)  # widths of a table along one axis, at most; the most for which the time suffices
LINEAR = 5  # widths of an operator without a kernel
POINT_S = 0.06  # one point takes about so long: writing, loading and timing it
ROUNDS, BLOCK_MS = 5, 4.0  # of a point
WHOLE_ROUNDS, WHOLE_BLOCK_MS = 40, 10.0  # of a network
MOVES, REACH, CHECKED = 200, 3, 20  # of a local search: rounds, widths to either side, best ones looked at exactly
CALIBRATION = 8  # random samples for the ranges of an int8 file that is only timed
LIMIT_S = 1800.0  # of a job in the child, besides its time for measuring


@dataclass(frozen=True, slots=True)
class Part:
    """A segment of the file and what it takes: a table over the lengths of the axes it depends on."""

    layer: str  # path of the Keras layer, or the converter's name
    operator: str
    rows: tuple[tuple[int, ...], ...]  # axes of the template by coordinate: those that change together
    grids: tuple[tuple[float, ...], ...]  # lengths (their sum) by coordinate, ascending
    stepped: bool  # it has a kernel: widths in between multiples cost what the next one costs; else they are linear
    values: NDArray[np.float64]  # ms, `[len(grid) ...]`

    def at(self, lengths: NDArray[np.float64]) -> float:
        """The ms for these lengths of the axes, linear between the widths that were timed, constant beyond."""
        value = self.values
        for rows, grid in zip(self.rows, self.grids, strict=True):
            value = _between(value, grid, sum(lengths[row] for row in rows))
        return float(value)


def _between(values: NDArray[np.float64], grid: tuple[float, ...], x: float) -> Any:
    """Interpolate along the first axis.

    >>> float(_between(np.array([1.0, 3.0]), (8.0, 16.0), 10.0)), float(_between(np.array([1.0, 3.0]), (8.0, 16.0), 99.0))
    (1.5, 3.0)
    """
    high = bisect.bisect_left(grid, x)
    if high == 0 or high == len(grid):
        return values[min(high, len(grid) - 1)]
    share = (x - grid[high - 1]) / (grid[high] - grid[high - 1])
    return values[high - 1] * (1 - share) + values[high] * share


class Latency:
    """A Cost in ms: one run of the network, converted to .tflite with `scheme`, on a target.

    `options` are the target's. `round_to`: channels a kernel of the target works on at once (not set: what the target
    says); widths in between cost what the next multiple costs. `seconds`: about what timing the operators may take.
    `cache`: a folder for what was timed, by machine, target, interpreter and operator; not set: the stage's scratch folder,
    if there is one.
    Raises UsageError (no such target, a wrong option), ConversionError (no .tflite, or none whose widths can be followed),
    TargetError.
    """

    unit = "ms"

    def __init__(
        self,
        graph: ChannelGraph,
        target: str = "cpu",
        *,
        options: Mapping[str, Any] | None = None,
        scheme: Scheme = "int8",
        round_to: int | None = None,
        seconds: float = 60.0,
        cache: Path | None = None,
    ) -> None:
        self.graph, self.target, self.options, self.scheme = graph, target, dict(options or {}), scheme
        opened = build(find("target", target), self.options, target)
        self.round_to = round_to or (opened.round_to if isinstance(opened, Stepped) else 1)
        self.cache = scratch.folder() if cache is None else cache
        self.full: Counts = np.array([len(g) for g in graph.prunable], np.int64)
        self.template: Template = template(graph, lambda counts: self.converted(self.shrunk(counts)))
        self.timed, self.reused = 0, 0  # points of the tables
        self.scale = 1.0
        self.table = self._tables(seconds)
        self.touched = self._touched()
        self.dense_ms = self.networks([self.full])[0].ms
        self.scale = self.dense_ms / max(self.parts(self.full).sum(), 1e-9)

    def parts(self, counts: Counts, which: NDArray[np.int64] | None = None) -> Values:
        """ms of each part (segments of the file, in its order)."""
        exact, stepped = self.template.lengths(counts), self.template.lengths(self._rounded(counts))
        chosen = self.table if which is None else [self.table[i] for i in which]
        return self.scale * np.array([part.at(stepped if part.stepped else exact) for part in chosen], np.float64)

    def networks(self, counts: Sequence[Counts]) -> list[Whole]:
        """The whole network measured with so many channels of each group, in turns with the dense one."""
        return self._measured([self.template.whole(c) for c in counts], self.template.whole(self.full))

    def measured(self, nets: Sequence[Any]) -> list[Whole]:
        """Keras networks converted as they are and measured, in turns with the dense one (that of the graph)."""
        return self._measured([self.converted(net) for net in nets], self.template.whole(self.full))

    def shrunk(self, counts: Counts) -> Any:
        """A network with so many channels of each group (any)."""
        return shrink(self.graph, mask_of(self.graph, np.zeros(len(self.graph.units.parent)), counts))

    def converted(self, net: Any) -> bytes:
        """The .tflite of a network, its activations' ranges from random numbers. Raises ConversionError."""
        return converted(net, self.scheme)

    def _rounded(self, counts: Counts) -> Counts:
        """The widths that the target's kernels work with."""
        step = self.round_to
        return np.minimum(self.full, -(-counts // step) * step)

    def _touched(self) -> list[NDArray[np.int64]]:
        times = self.template.times
        rows = [[row for coordinate in part.rows for row in coordinate] for part in self.table]
        return [
            np.array([i for i, mine in enumerate(rows) if times[mine, group].any()], np.int64)
            for group in range(len(self.full))
        ]

    def _tables(self, seconds: float) -> list[Part]:
        """Every segment of the file with its table, timed on the target but for what the cache knows."""
        segments = self.template.segments()
        most = next((p for p in POINTS if len(self._points(segments, p)[1]) * POINT_S <= seconds), POINTS[-1])
        plans, todo = self._points(segments, most)
        times = self._timed(todo, seconds)
        names = _layers(self.graph)
        return [
            replace(part, layer=_layer(part.layer, names), values=np.vectorize(times.__getitem__, otypes=[float])(keys))
            for part, keys in plans
        ]

    def _points(
        self, segments: Sequence[tuple[int, ...]], most: int
    ) -> tuple[list[tuple[Part, NDArray[Any]]], dict[str, tuple[tuple[int, ...], NDArray[np.float64]]]]:
        """The parts with the keys of their points, and for each key once a segment and its lengths."""
        found: dict[str, tuple[tuple[int, ...], NDArray[np.float64]]] = {}
        plans = []
        dense = self.template.lengths(self.full)
        for segment in segments:
            coordinates = self._coordinates(self.template.rows(segment))
            stepped = self.template.has_kernel(segment)
            finest = (most, self.round_to) if stepped else (min(most, LINEAR), 1)
            axes = [self._grid(rows, *finest) for rows in coordinates]
            keys = np.empty([len(axis) for axis in axes], object)
            for place in itertools.product(*(range(len(axis)) for axis in axes)):
                lengths = dense.copy()
                for i, rows, axis in zip(place, coordinates, axes, strict=True):
                    lengths[list(rows)] = axis[i][1][list(rows)]
                keys[place] = self.template.identity(segment, lengths)
                found.setdefault(keys[place], (segment, lengths))
            grids = tuple(tuple(x for x, _ in axis) for axis in axes)
            name, operator = self.template.label(segment), self.template.names[segment[-1]]
            plans.append((Part(name, operator, tuple(coordinates), grids, stepped, np.zeros(0)), keys))
        return plans, found

    def _coordinates(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Axes in sets that change together, two at most: those that share a group, or all where there are more."""
        sets: list[tuple[set[int], set[int]]] = []  # (rows, groups)
        for row in rows:
            mine = ({row}, set(np.flatnonzero(self.template.times[row]).tolist()))
            for other in [s for s in sets if s[1] & mine[1]]:
                sets.remove(other)
                mine = (mine[0] | other[0], mine[1] | other[1])
            sets.append(mine)
        if len(sets) > 2:
            return [tuple(rows)]
        return [tuple(sorted(s)) for s, _ in sets]

    def _grid(self, rows: tuple[int, ...], most: int, step: int) -> list[tuple[float, NDArray[np.float64]]]:
        """(sum of the lengths of `rows`, all lengths) for widths from the narrowest to the whole, without repetition."""
        groups = np.flatnonzero(self.template.times[list(rows)].any(axis=0))
        size = int(self.full[groups].max())
        found = {}
        for count in widths(size, step, most):
            counts = self.full.copy()
            counts[groups] = np.maximum(1, -(-self.full[groups] * count // size))
            lengths = self.template.lengths(self._rounded(counts) if step > 1 else counts)
            found[float(lengths[list(rows)].sum())] = lengths
        return sorted(found.items(), key=lambda item: item[0])

    def _timed(
        self, todo: Mapping[str, tuple[tuple[int, ...], NDArray[np.float64]]], seconds: float
    ) -> dict[str, float]:
        """ms of one copy of each segment; what the cache has is not timed again."""
        with Worker(LIMIT_S, on_progress=progress) as worker:
            here = worker.call(
                "edgedl.stages.channels.timing:identity_in_child", target=self.target, options=self.options
            )
            known = Known(self.cache, here)
            missing = [key for key in todo if key not in known.times]
            self.timed, self.reused = len(missing), len(todo) - len(missing)
            for start in range(0, len(missing), 200):
                batch = missing[start : start + 200]
                copies = [COPIES if self.template.bytes_of(*todo[key]) <= SMALL else 1 for key in batch]
                files = [self.template.single(*todo[key], n) for key, n in zip(batch, copies, strict=True)]
                blocks = self._run(worker, files, ROUNDS, BLOCK_MS, seconds * len(batch) / len(missing))
                known.add({k: ms / n for k, ms, n in zip(batch, lowest(blocks), copies, strict=True)})
                progress(start + len(batch), len(missing), f"timing operators on {self.target}")
            return {key: known.times[key] for key in todo}

    def _measured(self, files: Sequence[bytes], dense: bytes) -> list[Whole]:
        with Worker(LIMIT_S) as worker:
            blocks = self._run(worker, [dense, *files], WHOLE_ROUNDS, WHOLE_BLOCK_MS, 10.0 * (len(files) + 1))
        dense_ms, *each = lowest(blocks)
        base, *others = ([np.array([b]) for b in found] for found in blocks)
        found = []
        for ms, other in zip(each, others, strict=True):
            ratio, (low, high) = ms / dense_ms, compare_blocks(other, base, paired=True).interval
            found.append(Whole(getattr(self, "dense_ms", dense_ms) * ratio, ratio, (min(low, ratio), max(high, ratio))))
        return found

    def _run(
        self, worker: Worker, files: Sequence[bytes], rounds: int, block_ms: float, budget_s: float
    ) -> list[list[float]]:
        with tempfile.TemporaryDirectory(prefix="edgedl-latency-") as folder:
            paths = [Path(folder) / f"{i}.tflite" for i in range(len(files))]
            for path, content in zip(paths, files, strict=True):
                path.write_bytes(content)
            found: list[list[float]] = worker.call(
                TIMER, paths=[str(p) for p in paths], target=self.target, options=self.options, rounds=rounds,
                block_ms=block_ms, budget_s=budget_s,
            )  # fmt: skip
        return found


def converted(net: Any, scheme: Scheme) -> bytes:
    """The .tflite of a network, its activations' ranges from random numbers. Raises ConversionError."""
    rng = np.random.default_rng(0)
    x = {t.name: _random(rng, (CALIBRATION, *(d or 1 for d in t.shape[1:])), t.dtype) for t in net.inputs}
    outputs = tuple(TensorSpec(f"output{i}", tuple(t.shape), t.dtype) for i, t in enumerate(net.outputs))
    inputs = tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in net.inputs)
    model = Model(net, inputs, outputs, QuantizationPlan(scheme=scheme, samples=CALIBRATION))
    with tempfile.TemporaryDirectory(prefix="edgedl-latency-") as folder:
        path = Path(folder) / "net.tflite"
        try:
            find("converter", "tflite")()(model, Dataset(Split(x), Split(x)), path)
        except ConversionError as error:
            other = ", or time it as float32" if scheme == "int8" else ""
            raise ConversionError(
                f"the latency cannot be told, since there is no {scheme} .tflite of the network: {error.message}",
                next=f"give the budget in MACs{other}",
            ) from error
        return path.read_bytes()


@dataclass(frozen=True, slots=True)
class Whole:
    """A network measured on the target: `ms`, and its `ratio` to the dense one, of the least medians of their blocks.

    `interval`: of 95 %, from all pairs of blocks; wide where other work disturbed the measurement.
    """

    ms: float
    ratio: float
    interval: tuple[float, float]


def widths(size: int, step: int, most: int) -> list[int]:
    """Multiples of `step` up to `size`, and `size` itself: all of them, or `most` that lie closer where they are small.

    >>> widths(20, 8, 9), widths(6, 8, 9), widths(512, 8, 6)
    ([8, 16, 20], [6], [8, 16, 40, 96, 224, 512])
    """
    every = [*range(step, size, step), size]
    if len(every) <= most:
        return every
    wanted = np.geomspace(min(step, size), size, most)
    return sorted({min(every, key=lambda n: abs(n - w)) for w in wanted.tolist()} | {size})


class Known:
    """Times by key, kept in a file of the cache for this machine, target and interpreter."""

    def __init__(self, folder: Path | None, here: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:16]
        self.path = None if folder is None else folder / f"latency-{digest}.json"
        self.times: dict[str, float] = {}
        if self.path is not None and self.path.is_file():
            try:
                self.times = {str(k): float(v) for k, v in json.loads(self.path.read_text()).items()}
            except (OSError, ValueError, TypeError, AttributeError):
                self.times = {}  # damaged: timed again

    def add(self, times: Mapping[str, float]) -> None:
        """Keep more of them."""
        self.times |= times
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps(self.times).encode())


def choose_by_latency(
    graph: ChannelGraph,
    scores: Scores,
    latency: Latency,
    *,
    ms: float | None = None,
    speedup: float | None = None,
    ranking: Ranking = "per-cost",
    bounds: Bounds | Sequence[Bounds] | None = None,
    tolerance: float = 0.02,
    rounds: int = 8,
) -> tuple[Mask, dict[str, Any]]:
    """The mask that keeps the best channels of a network that takes `ms`, or 1 / `speedup` of the dense one's time.

    What is chosen for a budget in predicted ms is measured as a whole, and the budget moved until the measured network is
    within it and by no more than `tolerance` below, in at most `rounds` rounds. `bounds`: not set, multiples of the
    target's `round_to`. Also returns a record in plain JSON: dense, predicted and measured ms, the rounds, the channels
    of each group, and the predicted ms of each layer before and after.
    Raises UsageError for a budget that is none, or that the narrowest network does not meet.
    """
    goal = _goal(latency, ms, speedup)
    limits = Bounds(round_to=latency.round_to) if bounds is None else bounds
    each = [limits] * len(latency.full) if isinstance(limits, Bounds) else list(limits)
    least: Counts = np.array([b.least(int(n)) for b, n in zip(each, latency.full, strict=True)], np.int64)
    narrowest = latency.networks([least])[0]
    if narrowest.ms > goal * (1 + tolerance):
        raise _too_slow(latency, least, narrowest, goal)
    tried: dict[bytes, dict[str, Any]] = {}
    best, found = least, narrowest
    low, high = float(latency.parts(least).sum()), float(latency.parts(latency.full).sum())
    budget = min(goal, high)
    for _ in range(rounds):
        counts = _chosen(graph, scores, latency, budget, ranking, each)
        if counts.tobytes() in tried:
            break
        whole = latency.networks([counts])[0]
        predicted = float(latency.parts(counts).sum())
        tried[counts.tobytes()] = {"budget_ms": budget, "predicted_ms": predicted, "measured_ms": whole.ms}
        progress(len(tried), rounds, f"{whole.ms:.3f} ms measured, {goal:.3f} wanted")
        if whole.ms <= goal:
            low, best, found = max(low, budget), counts, whole
        else:
            high = min(high, budget)
        if goal * (1 - tolerance) <= whole.ms <= goal or high - low < tolerance / 4 * goal:
            break
        budget = float(np.clip(budget * goal / whole.ms, low + (high - low) / 8, high - (high - low) / 8))
    mask = mask_of(graph, scores, best)
    return mask, _record(graph, latency, best, found, goal, list(tried.values()))


def _goal(latency: Latency, ms: float | None, speedup: float | None) -> float:
    """The budget in ms. Raises UsageError."""
    if (ms is None) == (speedup is None):
        raise UsageError("a budget in latency is either milliseconds or a speed-up", next="give one of the two")
    if ms is not None and ms <= 0:
        raise UsageError(
            f"a budget of {ms:g} ms cannot be met", next=f"the dense network takes {latency.dense_ms:.4g} ms"
        )
    if speedup is not None and speedup <= 1:
        raise UsageError(f"a speed-up of {speedup:g} removes nothing", next="give one above 1, as 1.5")
    goal = ms if ms is not None else latency.dense_ms / (speedup or 1.0)
    if goal >= latency.dense_ms:
        raise UsageError(
            f"the network takes {latency.dense_ms:.4g} ms as it is, within the budget of {goal:.4g} ms",
            next="leave the stage out, or give a smaller budget",
        )
    return goal


def _too_slow(latency: Latency, least: Counts, narrowest: Whole, goal: float) -> UsageError:
    parts = latency.parts(least)
    most = sorted(zip(parts.tolist(), latency.table, strict=True), key=lambda pair: -pair[0])[:4]
    names = ", ".join(f"{part.layer} ({part.operator}) {ms:.3g} ms" for ms, part in most)
    return UsageError(
        f"{goal:.4g} ms on {latency.target} cannot be reached ({latency.dense_ms / goal:.3g}x faster): the narrowest network "
        f"that the bounds allow takes {narrowest.ms:.4g} ms ({1 / narrowest.ratio:.3g}x); most of it: {names}",
        next=f"ask for at most {1 / narrowest.ratio:.3g}x, or lower round_to, min_channels and min_share",
    )


def _chosen(
    graph: ChannelGraph, scores: Scores, latency: Latency, budget: float, ranking: Ranking, bounds: Sequence[Bounds]
) -> Counts:
    """The channels that each group keeps within a budget in predicted ms."""
    mask = choose(graph, scores, latency, budget, ranking=ranking, bounds=bounds)
    counts: Counts = np.array([int(mask[g.channels].sum()) for g in graph.prunable], np.int64)
    return improved(graph, scores, latency, budget, counts, bounds) if ranking == "per-cost" else counts


def improved(
    graph: ChannelGraph, scores: Scores, cost: Cost, budget: float, counts: Counts, bounds: Sequence[Bounds]
) -> Counts:
    """Other counts within the budget that keep a higher sum of scores, by widening a group, or one for another.

    Where a kernel works on 16 channels at once, removing 8 saves nothing and removing 16 does: a choice step by step
    cannot see it, and leaves behind channels that cost nothing.
    """
    groups, counts = graph.prunable, counts.copy()
    kept = [np.concatenate([[0.0], np.cumsum(np.sort(scores[g.channels])[::-1])]) for g in groups]
    allowed = [_allowed(len(g), b) for g, b in zip(groups, bounds, strict=True)]
    total = float(cost.parts(counts).sum())
    for _ in range(MOVES):
        wider, narrower = (_moves(cost, counts, kept, allowed, side) for side in (1, -1))
        pairs = [([up], up.gain, up.ms) for up in wider]
        pairs += [
            ([up, down], up.gain + down.gain, up.ms + down.ms)
            for up in wider
            for down in narrower
            if up.group != down.group
        ]
        fitting = sorted((p for p in pairs if p[1] > 1e-12 and total + p[2] <= budget), key=lambda p: -p[1])
        for moves, _, _ in fitting[:CHECKED]:
            after = counts.copy()
            for move in moves:
                after[move.group] = move.to
            if (now := float(cost.parts(after).sum())) <= budget:
                counts, total = after, now
                break
        else:
            return counts
    return counts


@dataclass(frozen=True, slots=True)
class _Move:
    group: int
    to: int
    gain: float  # of scores
    ms: float  # more


def _allowed(size: int, bounds: Bounds) -> list[int]:
    """The widths a group may have, ascending."""
    found, count = [size], size
    while (count := bounds.below(count)) >= bounds.least(size):
        found.append(count)
    return found[::-1]


def _moves(
    cost: Cost, counts: Counts, kept: Sequence[Values], allowed: Sequence[Sequence[int]], side: int
) -> list[_Move]:
    """The next few widths of each group on one side (1: wider, -1: narrower)."""
    found = []
    for i, count in enumerate(counts.tolist()):
        at = allowed[i].index(count)
        for place in range(at + side, at + side * (REACH + 1), side):
            if 0 <= place < len(allowed[i]):
                to = allowed[i][place]
                found.append(_Move(i, to, float(kept[i][to] - kept[i][count]), -saving(cost, counts, i, count - to)))
    return found


def _record(
    graph: ChannelGraph, latency: Latency, counts: Counts, whole: Whole, goal: float, rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    before, after = latency.parts(latency.full), latency.parts(counts)
    return {
        "target": latency.target,
        "options": dict(latency.options),
        "scheme": latency.scheme,
        "round_to": latency.round_to,
        "dense_ms": latency.dense_ms,
        "goal_ms": goal,
        "predicted_ms": float(after.sum()),
        "measured_ms": whole.ms,
        "speedup": 1 / whole.ratio,
        "interval": [1 / whole.interval[1], 1 / whole.interval[0]],
        "points": {"timed": latency.timed, "reused": latency.reused},
        "rounds": rounds,
        "groups": [
            {"layer": g.name, "before": len(g), "after": int(n)} for g, n in zip(graph.prunable, counts, strict=True)
        ],
        "layers": [
            {"layer": part.layer, "operator": part.operator, "before_ms": float(b), "after_ms": float(a)}
            for part, b, a in zip(latency.table, before, after, strict=True)
        ],
    }


def _layers(graph: ChannelGraph) -> list[str]:
    """Paths of the operations, those with a kernel first, then the longest: the first that a name contains is meant."""

    def order(path: str) -> tuple[bool, int]:
        kernels = any(len(w.shape) > 1 for w in getattr(graph.calls[path].op, "weights", ()))
        return not kernels, -len(path)

    return sorted(graph.calls, key=order)


def _layer(name: str, known: Sequence[str]) -> str:
    """The layer that a converter's name of a tensor ("net/conv_1/convolution;net/relu/Relu") speaks of."""
    inside = f"/{name}/".replace(";", "/;/")
    return next((path for path in known if f"/{path}/" in inside or f"/{path}_1/" in inside), name.split(";")[0])


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    kind = np.dtype(dtype)
    return rng.normal(size=shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)
