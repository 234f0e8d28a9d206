"""Patterns of zeros: single weights, N of M in a row, blocks; how weights are grouped and which groups go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...artifact import Array
from ...errors import UsageError

Ranking = Literal["layer", "global", "lamp"]
BLOCKS: dict[str, str] = {  # target -> the block its sparse kernels read
    "cpu": "1x4",  # FullyConnectedSparseWeight1x4 in the source of LiteRT: four inputs of one output at a time
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which weights become zero together. `rows` x `columns` outputs x inputs; or `keep` of each `columns` inputs."""

    text: str
    rows: int = 1
    columns: int = 1
    keep: int | None = None  # N of N:M

    @property
    def share(self) -> float | None:
        """The share of zeros that the pattern itself fixes: 1 - N/M, or None.

        >>> parse("2:4").share, parse("1x4").share
        (0.5, None)
        """
        return None if self.keep is None else 1 - self.keep / self.columns


def parse(text: str, target: str = "cpu") -> Pattern:
    """A pattern from its text: "unstructured", "N:M" (at most N of M consecutive inputs are not zero), "RxC", "target".

    >>> parse("2:4").keep, parse("4x1").rows, parse("unstructured").columns
    (2, 4, 1)
    """
    if text == "target":
        if target not in BLOCKS:
            raise UsageError(
                f"no block of sparse kernels is known for the target '{target}'",
                next=f'give the pattern, such as "1x4"; blocks are known for {", ".join(BLOCKS)}',
            )
        return parse(BLOCKS[target])
    if text == "unstructured":
        return Pattern(text)
    if found := re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", text):
        keep, of = map(int, found.groups())
        if not 0 < keep < of:
            raise UsageError(
                f"the pattern {text} keeps {keep} of {of} weights, which is none or all of them or more",
                next='write N:M with 0 < N < M, such as "2:4": at most 2 of 4 in a row are not zero',
            )
        return Pattern(text, columns=of, keep=keep)
    if found := re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text):
        rows, columns = map(int, found.groups())
        if rows and columns:
            return Pattern(text, rows, columns)
    raise UsageError(
        f"there is no pattern '{text}'",
        next='use "unstructured", "N:M" such as "2:4", a block such as "1x4", or "target"',
    )


def choose(scores: Sequence[Array], pattern: Pattern, sparsity: float, ranking: Ranking) -> list[Array]:
    """Which weights stay: one mask (bool, `[stack, output, input]`) for each kernel's scores of the same shape.

    Scores are of single weights, larger is better; a block counts as the mean of its own. `sparsity` is the share of
    groups that go: of every kernel (ranking "layer"), or of all together, in one order ("global") or with each group
    weighed by what its kernel would lose that is better ("lamp": Lee et al., "Layer-adaptive sparsity for the
    magnitude-based pruning", ICLR 2021). At least one group of each kernel stays. N:M ignores `ranking`, and
    `sparsity` beyond how far it is on the way to the pattern's own share.
    """
    if pattern.keep is not None:
        assert pattern.share is not None
        gone = round((pattern.columns - pattern.keep) * min(1.0, sparsity / pattern.share))
        return [_n_of_m(s, pattern.columns - gone, pattern.columns) for s in scores]
    grouped = [_blocks(s, pattern) for s in scores]
    flat = [g.ravel() for g in grouped]
    if ranking == "layer":
        kept = [best(g, max(round(len(g) * (1 - sparsity)), 1)) for g in flat]
    else:
        kept = _together([lamp(g) for g in flat] if ranking == "lamp" else flat, sparsity)
    return [_spread(k.reshape(g.shape), pattern, s.shape) for k, g, s in zip(kept, grouped, scores, strict=True)]


def best(scores: Array, count: int) -> Array:
    """A mask of the `count` largest of a flat array; among equals the first.

    >>> best(np.array([1.0, 3.0, 3.0, 2.0]), 2).tolist()
    [False, True, True, False]
    """
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def lamp(scores: Array) -> Array:
    """Each squared score over the sum of those that are not smaller; the largest of a kernel is 1.

    >>> lamp(np.array([1.0, 2.0, 2.0])).round(3).tolist()
    [0.111, 0.5, 1.0]
    """
    order = np.argsort(scores, kind="stable")
    squares = np.square(np.maximum(scores[order], 0).astype(np.float64))
    rest = np.cumsum(squares[::-1])[::-1]
    out = np.empty(len(scores))
    out[order] = squares / np.maximum(rest, np.finfo(np.float64).tiny)
    return out


def _together(flat: Sequence[Array], sparsity: float) -> list[Array]:
    """Masks of flat scores by one order over all kernels; the best group of each kernel stays."""
    everything = np.concatenate(flat).astype(np.float64)
    ends = np.cumsum([len(f) for f in flat])
    everything[[e - len(f) + int(np.argmax(f)) for e, f in zip(ends, flat, strict=True)]] = np.inf
    mask = best(everything, max(round(len(everything) * (1 - sparsity)), len(flat)))
    return np.split(mask, ends[:-1])


def _blocks(scores: Array, pattern: Pattern) -> Array:
    """The mean score of every block, `[stack, output blocks, input blocks]`; those at the edge are cut off."""
    if (pattern.rows, pattern.columns) == (1, 1):
        return scores
    padded = _padded(scores.astype(np.float64), pattern.rows, pattern.columns, np.nan)
    return np.asarray(np.nanmean(_tiled(padded, pattern.rows, pattern.columns), axis=(2, 4)))


def _tiled(array: Array, rows: int, columns: int) -> Array:
    stack, out, inside = array.shape
    return array.reshape(stack, out // rows, rows, inside // columns, columns)


def _padded(array: Array, rows: int, columns: int, value: float) -> Array:
    more = [(0, 0), (0, -array.shape[1] % rows), (0, -array.shape[2] % columns)]
    return np.pad(array, more, constant_values=value)


def _spread(groups: Array, pattern: Pattern, shape: tuple[int, ...]) -> Array:
    """A mask of groups as one of weights."""
    full = np.repeat(np.repeat(groups, pattern.rows, axis=1), pattern.columns, axis=2)
    return full[:, : shape[1], : shape[2]]


def _n_of_m(scores: Array, keep: int, of: int) -> Array:
    """The `keep` best of each `of` consecutive inputs; what is missing at the end of a row counts as worst."""
    tiles = _tiled(_padded(scores.astype(np.float64), 1, of, -np.inf), 1, of)
    rank = np.argsort(np.argsort(-tiles, axis=-1, kind="stable"), axis=-1, kind="stable")
    mask = (rank < keep).reshape(scores.shape[0], scores.shape[1], -1)
    return mask[:, :, : scores.shape[2]]


def holds(mask: Array, pattern: Pattern) -> bool:
    """Whether a mask `[stack, output, input]` has the pattern."""
    if pattern.keep is not None:
        return bool(
            (_tiled(_padded(mask, 1, pattern.columns, False), 1, pattern.columns).sum(-1) <= pattern.keep).all()
        )
    return bool((_spread(_blocks(mask.astype(float), pattern) > 0, pattern, mask.shape) == mask).all())


def schedule(step: int, steps: int, start: float, end: float) -> float:
    """The sparsity at a step of the rise: cubic, fast at first (Zhu and Gupta, "To prune, or not to prune", 2017).

    >>> [round(schedule(t, 4, 0.0, 0.8), 2) for t in range(6)]
    [0.0, 0.46, 0.7, 0.79, 0.8, 0.8]
    """
    left = max(0.0, 1 - step / steps) if steps else 0.0
    return end + (start - end) * left**3
