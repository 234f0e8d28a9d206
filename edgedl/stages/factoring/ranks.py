"""How many singular values to keep: by their energy, by variational Bayes, or for all layers together by a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np

from ...artifact import Array

GOLDEN = (5**0.5 - 1) / 2


def by_energy(values: Array, energy: float) -> int:
    """The fewest of the singular values whose squares hold a share `energy` of the sum of all.

    >>> by_energy(np.array([3.0, 1.0, 0.0]), 0.9), by_energy(np.array([3.0, 1.0, 0.0]), 0.95)
    (1, 2)
    """
    shares = np.cumsum(values**2)
    if not shares[-1] > 0:
        return 1
    return min(int(np.searchsorted(shares / shares[-1], energy * (1 - 1e-12))) + 1, len(values))


def discarded(values: Array, rank: int) -> float:
    """The share of the energy that is lost beyond `rank`."""
    total = float(np.sum(values**2))
    return float(np.sum(values[rank:] ** 2)) / total if total else 0.0


def rounded(rank: int, to: int, most: int) -> int:
    """Up to the next multiple, at most `most`.

    >>> rounded(9, 8, 64), rounded(9, 8, 12)
    (16, 12)
    """
    return min(-(-rank // to) * to, most)


def by_evidence(values: Array, rows: int, columns: int) -> int:
    """The rank by empirical variational Bayes matrix factorization, its noise estimated with it; at least 1.

    The global analytic solution of Nakajima, Sugiyama, Babacan and Tomioka (JMLR 14, 2013). `values`: all
    min(rows, columns) singular values of the matrix.
    """
    less, more = sorted((rows, columns))
    squares = np.sort(np.maximum(np.asarray(values, np.float64), 1e-12 * (float(np.max(values)) or 1.0)))[::-1] ** 2
    if not squares[0] > 0:
        return 1
    alpha = less / more
    tau = 2.5129 * alpha**0.5
    edge = (1 + tau) * (1 + alpha / tau)
    most = max(int(np.ceil(less / (1 + alpha))) - 1, 1)
    high = float(squares.sum()) / (less * more)
    tail = squares[min(most, less - 1) :]
    low = max(float(tail[0]) / (more * edge), float(tail.mean()) / more)
    noise = _smallest(lambda s: _free_energy(squares / (more * s), alpha, edge), min(low, high), high)
    return max(1, int(np.sum(squares > more * noise * edge)))


def _free_energy(x: Array, alpha: float, edge: float) -> float:
    """Of a noise variance, up to constants (Nakajima et al., 2013, equation 39), for x = squares / (columns x variance)."""
    signal, rest = x[x > edge], x[x <= edge]
    half = signal - (1 + alpha)
    tau = (half + np.sqrt(np.maximum(half**2 - 4 * alpha, 0))) / 2
    found = np.sum(rest - np.log(rest)) + np.sum(signal - tau) + np.sum(np.log((tau + 1) / signal))
    return float(found + alpha * np.sum(np.log(tau / alpha + 1)))


def _smallest(call: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of a positive number is smallest: a coarse scan of the logarithm, then golden sections."""
    if not low < high:
        return high
    grid = np.exp(np.linspace(log(low), log(high), 64))
    at = int(np.argmin([call(float(v)) for v in grid]))
    a, b = log(grid[max(at - 1, 0)]), log(grid[min(at + 1, 63)])
    for _ in range(40):
        left, right = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
        if call(float(np.exp(left))) < call(float(np.exp(right))):
            b = right
        else:
            a = left
    return float(np.exp((a + b) / 2))


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to write a layer: its ranks (none: as it is), what it costs, and the share of its energy that is lost."""

    ranks: tuple[int, ...]
    cost: int
    error: float


def within(choices: Mapping[str, Sequence[Choice]], budget: float) -> dict[str, Choice]:
    """One choice for each layer so that the costs are at most `budget` and the errors' sum is small.

    Layers start as they are; the step with the least error per cost saved is taken next, along each layer's lower
    convex hull, until the budget holds: the greedy of the fractional multiple-choice knapsack. What the last step left
    over is spent again. The result may cost more where no choice is left.
    """
    steps: list[tuple[float, int, str, Choice]] = []
    chosen: dict[str, Choice] = {}
    for name, options in choices.items():
        line = hull(options)
        chosen[name] = line[0]
        for i, (before, after) in enumerate(pairwise(line)):
            steps.append(((after.error - before.error) / (before.cost - after.cost), i, name, after))
    total = sum(c.cost for c in chosen.values())
    for _, _, name, after in sorted(steps, key=lambda s: s[:3]):
        if total <= budget:
            break
        total += after.cost - chosen[name].cost
        chosen[name] = after
    return _filled(chosen, choices, budget - total)


def _filled(chosen: dict[str, Choice], choices: Mapping[str, Sequence[Choice]], slack: float) -> dict[str, Choice]:
    """What the last step left over, spent on the options that lessen the error most for their cost, while any fits."""
    while True:
        better = [
            ((chosen[name].error - option.error) / max(option.cost - chosen[name].cost, 1), name, option)
            for name, options in choices.items()
            for option in options
            if option.error < chosen[name].error and option.cost - chosen[name].cost <= slack
        ]
        if not better:
            return chosen
        _, name, option = max(better, key=lambda b: b[:2])
        slack -= option.cost - chosen[name].cost
        chosen[name] = option


def hull(options: Sequence[Choice]) -> list[Choice]:
    """The options on the lower convex hull of error over cost: the most expensive first."""
    best: list[Choice] = []
    for option in sorted(options, key=lambda c: (-c.cost, c.error)):
        while best and option.error <= best[-1].error:
            best.pop()
        if best and option.cost == best[-1].cost:
            continue
        while len(best) > 1 and _slope(best[-2], best[-1]) >= _slope(best[-1], option):
            best.pop()
        best.append(option)
    return best


def _slope(a: Choice, b: Choice) -> float:
    """Error for each unit of cost saved, from `a` to the cheaper `b`."""
    return (b.error - a.error) / (a.cost - b.cost)
