"""Running an original whose batch is fixed at 1 on more than one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..artifact import Array
from ._source import Runner


def one_by_one(run: Runner, shapes: Sequence[Sequence[int | str | None] | None]) -> Runner:
    """`run`, called for each member of a batch where an input (their `shapes`) has a first size of exactly 1.

    >>> double = one_by_one(lambda feed: {"y": 2 * feed["x"]}, [(1, 3)])
    >>> double({"x": np.ones((4, 3))})["y"].shape
    (4, 3)
    """
    if not any(s and s[0] == 1 for s in shapes):
        return run

    def each(inputs: Mapping[str, Array]) -> dict[str, Array]:
        count = max((len(a) for a in inputs.values() if np.ndim(a)), default=1)
        if count == 1:
            return run(inputs)
        parts = [run({k: a[n : n + 1] if np.ndim(a) else a for k, a in inputs.items()}) for n in range(count)]
        return {name: np.concatenate([np.atleast_1d(p[name]) for p in parts]) for name in parts[0]}

    return each
