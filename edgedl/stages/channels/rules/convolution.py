"""Rules of convolutions (plain, grouped, depthwise, separable, transposed), pooling, padding and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..call import Call, Shrunk, Traced, volume
from ..units import Axis, Label
from . import rule


def _placed(call: Call, ids: Axis) -> Label:
    """The label of a feature map with these channels."""
    rank = len(call.shapes[0])
    axis = call.channels_axis(rank)
    return tuple(ids if i == axis else None for i in range(rank))


def _read(call: Call) -> Axis:
    """The channels that come in; nothing may be removed along the other axes."""
    axis = call.channels_axis(len(call.x.shape))
    call.freeze_all_but(call.x, axis)
    return call.x.label[axis]


def _positions(call: Call, shape: Sequence[int | None]) -> int:
    """Elements of a feature map per channel."""
    return volume([s for i, s in enumerate(shape) if i != call.channels_axis(len(shape))])


def _count_in(call: Call) -> int:
    return int(call.x.shape[call.channels_axis(len(call.x.shape))] or 1)


def _filters(shrunk: Shrunk) -> Any:
    filters = shrunk.weight("kernel")[-1]
    groups = shrunk.op.groups
    if 1 < groups == _count_in(shrunk.call):
        groups = _channels(shrunk)
    return shrunk.remade(filters=filters, groups=groups)


def _channels(shrunk: Shrunk) -> int:
    shape = shrunk.inputs[0]
    return int(shape[shrunk.call.channels_axis(len(shape))] or 1)


@rule("Conv1D", "Conv2D", "Conv3D", resize=_filters)
def convolution(call: Call) -> Sequence[Label]:
    """Every filter reads every channel of its group; groups keep equal sizes; one channel a group is depthwise."""
    read, groups, filters = _read(call), call.op.groups, call.op.filters
    spatial = (None,) * (len(call.op.kernel.shape) - 2)
    work = prod(call.op.kernel.shape[:-2]) * _positions(call, call.shapes[0])
    if groups > 1 and groups == _count_in(call):
        out: Axis = None if read is None else np.repeat(read, filters // groups)
        call.weight("kernel", (*spatial, None, out))
        call.macs(work * (filters if out is None else 1), out)
    else:
        if groups > 1 and read is not None:
            rows = read.reshape(groups, -1)
            call.units.unite(np.broadcast_to(rows[0], rows.shape), rows)
            read = rows[0]
        out = np.tile(call.fresh(filters // groups), groups)
        call.weight("kernel", (*spatial, read, out))
        call.macs(work * (call.op.kernel.shape[-2] if read is None else 1), read, out)
    call.weight("bias", (out,))
    return [_placed(call, out)]


@rule("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(call: Call) -> Sequence[Label]:
    """Each channel for itself, `depth_multiplier` times."""
    read, times = _read(call), call.op.depth_multiplier
    out = None if read is None else np.repeat(read, times)
    spatial = (None,) * (len(call.op.kernel.shape) - 2)
    call.weight("kernel", (*spatial, read, None))
    call.weight("bias", (out,))
    work = prod(call.op.kernel.shape[:-2]) * times * _positions(call, call.shapes[0])
    call.macs(work * (_count_in(call) if read is None else 1), read)
    return [_placed(call, out)]


@rule(
    "SeparableConv1D",
    "SeparableConv2D",
    resize=lambda shrunk: shrunk.remade(filters=shrunk.weight("pointwise_kernel")[-1]),
)
def separable(call: Call) -> Sequence[Label]:
    """A depthwise convolution, then a 1x1."""
    read, times = _read(call), call.op.depth_multiplier
    between = None if read is None else np.repeat(read, times)
    out = call.fresh(call.op.filters)
    spatial = (None,) * (len(call.op.depthwise_kernel.shape) - 2)
    call.weight("depthwise_kernel", (*spatial, read, None))
    call.weight("pointwise_kernel", (*spatial, between, out))
    call.weight("bias", (out,))
    positions, count = _positions(call, call.shapes[0]), _count_in(call) * times
    call.macs(prod(call.op.depthwise_kernel.shape[:-2]) * positions * (times if read is not None else count), read)
    call.macs(positions * (1 if between is not None else count), between, out)
    return [_placed(call, out)]


@rule(
    "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
    resize=lambda shrunk: shrunk.remade(filters=shrunk.weight("kernel")[-2]),
)  # fmt: skip
def transposed(call: Call) -> Sequence[Label]:
    """Every channel is spread over every filter."""
    read, out = _read(call), call.fresh(call.op.filters)
    spatial = (None,) * (len(call.op.kernel.shape) - 2)
    call.weight("kernel", (*spatial, out, read))
    call.weight("bias", (out,))
    work = prod(call.op.kernel.shape[:-2]) * _positions(call, call.x.shape)
    call.macs(work * (_count_in(call) if read is None else 1), read, out)
    return [_placed(call, out)]


@rule(
    *(f"{kind}Pooling{n}D" for kind in ("Max", "Average", "AdaptiveMax", "AdaptiveAverage") for n in (1, 2, 3)),
    *(f"ZeroPadding{n}D" for n in (1, 2, 3)),
    *(f"UpSampling{n}D" for n in (1, 2, 3)),
    *(f"Cropping{n}D" for n in (1, 2, 3)),
    "Resizing", "Resize", "MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool", "PadImages", "CropImages",
)  # fmt: skip
def spatial(call: Call) -> Sequence[Label]:
    """Each channel for itself; the map changes its size."""
    return [_placed(call, _read(call))]


@rule(*(f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)))
def global_pooling(call: Call) -> Sequence[Label]:
    """One number a channel."""
    ids = _read(call)
    return [_placed(call, ids) if len(call.shapes[0]) > 2 else (None, ids)]


# --- convolutions whose kernel is computed or a constant


@rule("Conv", "DepthwiseConv")
def computed(call: Call) -> Sequence[Label]:
    """keras.ops: the kernel is a tensor as well, and what its axes hold goes with the channels."""
    read = _read(call)
    kernel = call.args[1] if len(call.args) > 1 else call.kwargs["kernel"]
    given: Label = kernel.label if isinstance(kernel, Traced) else (None,) * np.ndim(kernel)
    shape = tuple(kernel.shape)
    for axis in given[:-2]:
        call.freeze(axis)
    first, last = given[-2:]
    if type(call.op).__name__ == "DepthwiseConv":
        call.freeze(last)
        both = call.unite(read, first)
        return [_placed(call, None if read is None or first is None else np.repeat(both, shape[-1]))]  # type: ignore[arg-type]
    if shape[-2] != _count_in(call):
        call.freeze(read, f"{call.path} is a grouped convolution whose kernel is computed")
        call.freeze(first)
        call.freeze(last)
        return [_placed(call, None)]
    call.unite(read, first)
    return [_placed(call, last)]
