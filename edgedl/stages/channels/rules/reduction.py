"""Rules of what computes something over whole axes: means, sums, extremes, softmax, gated halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..call import Call
from ..units import Label
from . import rule


def axes_of(axis: Any, rank: int) -> set[int]:
    """Indices of axes; None: all.

    >>> sorted(axes_of((-1, 1), 4)), sorted(axes_of(None, 2))
    ([1, 3], [0, 1])
    """
    return set(range(rank)) if axis is None else {int(a) % rank for a in np.atleast_1d(axis)}


@rule("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Var", "Std", "Logsumexp", "Norm", "Median", "Moments")
def reduced(call: Call) -> Sequence[Label]:
    """A statistic over axes: without one of the entries it is another, so that they are mixed."""
    return _reduced(call, frozen=False)


@rule("Prod", "Argmax", "Argmin", "All", "Any", "CountNonzero", "Ptp", "Quantile")
def counted(call: Call) -> Sequence[Label]:
    """A result that means something else without one of the entries."""
    return _reduced(call, frozen=True)


def _reduced(call: Call, *, frozen: bool) -> Sequence[Label]:
    rank = len(call.x.label)
    axes = axes_of(getattr(call.op, "axis", getattr(call.op, "axes", None)), rank)
    for a in axes:
        if frozen:
            call.freeze(call.x.label[a], f"{call.path} ({type(call.op).__name__}) is computed over all of them")
        else:
            call.units.mix(call.x.label[a])
    if not call.op.keepdims:
        return [tuple(ids for i, ids in enumerate(call.x.label) if i not in axes)] * len(call.shapes)
    return [tuple(None if i in axes else ids for i, ids in enumerate(call.x.label))] * len(call.shapes)


@rule("Softmax", "LogSoftmax", "Sparsemax")
def softmax(call: Call) -> Sequence[Label]:
    """Shares of a whole: none of the entries may go."""
    for a in axes_of(call.op.axis, len(call.x.label)):
        call.freeze(call.x.label[a], f"{call.path} is a softmax over all of them")
    for tensor in call.inputs[1:]:  # a mask
        call.freeze_all([tensor])
    return [call.x.label]


@rule("Glu")
def gated(call: Call) -> Sequence[Label]:
    """One half times the sigmoid of the other."""
    axis = call.op.axis % len(call.x.label)
    ids = call.x.label[axis]
    if ids is None:
        return [call.x.label]
    one, other = np.split(ids, 2)
    call.units.unite(one, other)
    return [(*call.x.label[:axis], one, *call.x.label[axis + 1 :])]
