"""Statistics of latencies: when they are stationary, their percentiles with intervals, and whether two differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from .artifact import Array

RESAMPLES = 2000
MAX_BOOTSTRAP = 20_000  # samples that enter a bootstrap; of more, every k-th of each block
MIN_PAIRS = 5  # blocks of each without which no difference is claimed
MIN_CLUSTERS = 10  # fewer blocks than that, and single samples are resampled instead
WINDOWS = 4
STATIONARY = 0.02
SAME_RUN, OTHER_RUN = 0.01, 0.05  # relative differences below these are never called a difference, see `compare_blocks`
Direction = Literal["faster", "slower", "no difference found"]


def is_stationary(windows: Sequence[float]) -> bool:
    """Whether the medians of the last four windows lie within 2 % of each other.

    The steady state of Georges, Buytaert and Eeckhout (Statistically Rigorous Java Performance Evaluation, OOPSLA
    2007): the coefficient of variation over the last k windows below a threshold. Here it is the range of medians
    instead, because on a shared machine single interruptions keep the coefficient of variation of means high for ever.

    >>> is_stationary([9.0, 5.0, 5.02, 4.99, 5.01]), is_stationary([9.0, 5.0, 5.02, 4.99])
    (True, False)
    """
    if len(windows) < WINDOWS:
        return False
    last = np.asarray(windows[-WINDOWS:])
    return bool(last.max() - last.min() <= STATIONARY * np.median(last))


def summary(latency_ns: Sequence[int] | Array, blocks: Sequence[int], confidence: float = 0.95) -> dict[str, Any]:
    """Percentiles (linear interpolation), mean, spread and the interval of the median, in microseconds.

    `blocks`: how many samples each uninterrupted stretch of measuring has, in order.
    """
    us = np.asarray(latency_ns, np.float64) / 1e3
    p50, p90, p99 = np.percentile(us, (50, 90, 99))
    low, high = median_interval(us, blocks, confidence)
    low, high = min(low, float(p50)), max(high, float(p50))  # of many samples, the interval is of every n-th
    return {
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "mean": float(us.mean()),
        "min": float(us.min()),
        "max": float(us.max()),
        "std": float(us.std(ddof=1)) if len(us) > 1 else 0.0,
        "ci95": [low, high],
        "runs": len(us),
    }


def median_interval(
    values: Array, blocks: Sequence[int], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap percentile interval of the median (Efron and Tibshirani 1993, ch. 13).

    Whole blocks are resampled (the cluster bootstrap of Davison and Hinkley 1997, 3.8), since samples taken together
    resemble each other; with fewer than ten blocks, single samples are. Raises ValueError for no values.
    """
    clusters = np.repeat(np.arange(len(blocks)), blocks)
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"{len(values)} values in blocks of {sum(blocks)}")
    step = -(-len(values) // MAX_BOOTSTRAP)
    values, clusters = values[::step], clusters[::step]
    if len(blocks) < MIN_CLUSTERS:
        clusters = np.arange(len(values))
    medians = _resampled_medians(values, clusters, np.random.default_rng(seed))
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(medians, (tail, 100 - tail))
    return float(low), float(high)


def _resampled_medians(values: Array, clusters: Array, rng: np.random.Generator) -> Array:
    """Medians of RESAMPLES draws of whole clusters: values sorted once, each draw a weight for every cluster."""
    order = np.argsort(values, kind="stable")
    ordered, member = values[order], clusters[order]
    count = int(clusters.max()) + 1
    medians = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        weight = np.bincount(rng.integers(0, count, count), minlength=count)
        reached = np.cumsum(weight[member])
        medians[i] = ordered[np.searchsorted(reached, reached[-1] / 2)]
    return medians


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a is faster than b: the ratio of their latencies a / b with its interval.

    `paired`: they were measured in turns, so that what happened to the machine happened to both. `blocks`: how many
    pairs of blocks, or the blocks of the one with fewer. `noise`: the difference below which none is claimed.
    """

    verdict: Direction
    ratio: float
    interval: tuple[float, float]
    paired: bool
    blocks: int
    noise: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "interval": list(self.interval)}


def compare_blocks(
    a: Sequence[Array], b: Sequence[Array], *, paired: bool, confidence: float = 0.95, seed: int = 0
) -> Verdict:
    """Compare latencies given as blocks of samples.

    Paired: the logarithms of the ratios of the blocks' medians, block i of a with block i of b, which were neighbours
    in time; drift of the machine cancels within a pair. Their mean, with a bootstrap interval over the pairs. Not
    paired: medians of resampled blocks of each. A difference is claimed where the interval excludes 1 and the ratio is
    further from 1 than 1 % (5 % when not measured in turns): where code and data happen to lie in memory alone makes
    such differences (Mytkowicz et al., Producing Wrong Data Without Doing Anything Obviously Wrong!, ASPLOS 2009).
    """
    rng = np.random.default_rng(seed)
    logs_a, logs_b = (np.log([float(np.median(block)) for block in blocks]) for blocks in (a, b))
    if paired:
        count = min(len(a), len(b))
        differences = logs_a[:count] - logs_b[:count]
        drawn = _trimmed_means(differences[rng.integers(0, count, (RESAMPLES, count))])
        centre = float(_trimmed_means(differences[None])[0])
    else:
        count = min(len(a), len(b))
        draws = [
            np.median(logs[rng.integers(0, len(logs), (RESAMPLES, len(logs)))], axis=1) for logs in (logs_a, logs_b)
        ]
        drawn, centre = draws[0] - draws[1], float(np.median(logs_a) - np.median(logs_b))
    tail = (1 - confidence) / 2 * 100
    low, high = (float(v) for v in np.exp(np.percentile(drawn, (tail, 100 - tail))))
    noise = SAME_RUN if paired else OTHER_RUN
    verdict: Direction = "no difference found"
    if count >= MIN_PAIRS and (low > 1 or high < 1) and abs(centre) > np.log1p(noise):
        verdict = "slower" if centre > 0 else "faster"
    return Verdict(verdict, float(np.exp(centre)), (low, high), paired, count, noise)


def _trimmed_means(rows: Array) -> Array:
    """The mean of the middle four fifths of each row `[m, n]`: one disturbed block cannot decide."""
    cut = rows.shape[1] // 10
    ordered = np.sort(rows, axis=1)
    middle: Array = ordered[:, cut : rows.shape[1] - cut].mean(axis=1)
    return middle
