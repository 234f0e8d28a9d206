"""Rules of normalization over channels of one example: layer, RMS, group, unit; and of the functions in keras.ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..call import Call, Shrunk, Traced
from ..units import Axis, Label
from . import rule
from .reduction import axes_of


def _mixed(call: Call, axis: Any) -> list[int]:
    axes = sorted(axes_of(axis, len(call.x.label)))
    for a in axes:
        call.units.mix(call.x.label[a])
    return axes


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(call: Call) -> Sequence[Label]:
    """Mean and variance over axes: their units are mixed."""
    axes = _mixed(call, call.op.axis)
    label = tuple(call.x.label[a] for a in axes)
    for name in ("gamma", "beta", "scale"):
        call.weight(name, label)
    return [call.x.label]


@rule("UnitNormalization", "Normalize")
def unit_normalization(call: Call) -> Sequence[Label]:
    """Divided by the norm over axes."""
    _mixed(call, call.op.axis)
    return [call.x.label]


def _groups(shrunk: Shrunk) -> Any:
    before = int(shrunk.call.x.shape[shrunk.op.axis] or 0)
    alone = shrunk.op.groups == before
    return shrunk.remade(groups=int(shrunk.inputs[0][shrunk.op.axis] or 1) if alone else shrunk.op.groups)


@rule("GroupNormalization", resize=_groups)
def group_normalization(call: Call) -> Sequence[Label]:
    """Groups keep equal sizes, so that one channel goes from each; a channel that is a group itself goes alone."""
    ids = call.x.label[call.op.axis]
    if ids is not None and call.op.groups < len(ids):
        rows = ids.reshape(call.op.groups, -1)
        call.units.unite(np.broadcast_to(rows[0], rows.shape), rows)
        call.units.mix(ids)
    for name in ("gamma", "beta"):
        call.weight(name, (ids,))
    return [call.x.label]


@rule("LayerNorm", "RMSNorm")
def functional_layer(call: Call) -> Sequence[Label]:
    """keras.ops.layer_normalization and rms_normalization: scale and offset are tensors over the axes."""
    axes = _mixed(call, call.op.axis)
    return [_with(call, [call.x.label[a] for a in axes], axes)]


@rule("BatchNorm")
def functional_batch(call: Call) -> Sequence[Label]:
    """keras.ops.batch_normalization: statistics, scale and offset are tensors `[channels]`."""
    axes = sorted(axes_of(call.op.axis, len(call.x.label)))
    return [_with(call, [call.x.label[a] for a in axes], axes)]


def _with(call: Call, along: Sequence[Axis], axes: Sequence[int]) -> Label:
    """The tensor's label, its axes united with those of the other arguments, or fixed where these are arrays."""
    label = list(call.x.label)
    for argument in (*call.args[1:], *call.kwargs.values()):
        if isinstance(argument, Traced):
            for ids, other in zip(reversed(along), reversed(argument.label), strict=False):
                call.unite(ids, other)
        elif np.ndim(argument) > 0:
            for ids in along:
                call.freeze(ids, f"{call.path} has constants along them")
    return tuple(label)
