"""Normalization: BatchNormalization (trainable), LayerNormalization, InstanceNormalization, GroupNormalization, LRN, Lp."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder, refuse_mixing
from ..layout import flat
from ..node import Node, Unsupported, axis_of
from ..value import Value
from . import op
from .conv import spatial
from .math import plus


@op("BatchNormalization")
def batch_normalization(
    b: Builder, node: Node, x: Value, scale: Value, bias: Value, mean: Value, variance: Value
) -> Value:
    if node.integer("training_mode") or any(node.wants(i) for i in range(1, 5)):
        raise Unsupported("BatchNormalization in training mode")
    value, axis = x.apart(1)
    weights = [v.array.reshape(-1).astype(np.float32) for v in (scale, bias, mean, variance)]
    if not node.integer("spatial", 1):
        raise Unsupported("statistics for each position (spatial = 0)")
    if x.rank < 2 or len(value.axes) < 2:
        raise Unsupported("an input without channels")
    out = b.layer(
        "BatchNormalization", value.tensor, weights=weights, axis=axis, epsilon=node.real("epsilon", 1e-5),
        momentum=node.real("momentum", 0.9),
    )  # fmt: skip
    return value.like(out)


@op("LayerNormalization")
def layer_normalization(b: Builder, node: Node, x: Value, scale: Value, bias: Value | None = None) -> Any:
    axis = axis_of(node.integer("axis", -1), x.rank)
    epsilon = node.real("epsilon", 1e-5)
    lengths = x.shape[axis:]
    if None in lengths:
        raise Unsupported("normalizing over the batch")
    shown = node.wants(1) or node.wants(2)
    if not shown and axis == x.rank - 1 and scale.is_constant and (bias is None or bias.is_constant):
        value, at = x.apart(axis)
        n = int(lengths[0] or 1)
        weights = [_vector(scale, n)] + ([_vector(bias, n)] if bias is not None else [])
        if at == 0:
            raise Unsupported("normalizing over the batch")
        out = b.layer(
            "LayerNormalization", value.tensor, weights=weights, axis=at, epsilon=epsilon, center=bias is not None
        )
        return value.like(out)
    ops = keras().ops
    axes = list(range(axis, x.rank))
    tensor = x.canonical()
    mean = ops.mean(tensor, axis=axes, keepdims=True)
    spread = ops.subtract(tensor, mean)
    deviation = ops.sqrt(ops.add(ops.mean(ops.square(spread), axis=axes, keepdims=True), epsilon))
    found = of_like(x, ops.divide(spread, deviation))
    found = b.elementwise(ops.multiply, found, scale)
    found = found if bias is None else b.elementwise(plus, found, bias)
    if not shown:
        return found
    kept = (*x.dims[:axis], *((),) * len(axes))
    rest = (mean, ops.reciprocal(deviation))
    return (found, *(Value(kept, kept, t, None, t.dtype) for t in rest))


def _vector(v: Value, n: int) -> Array:
    return np.broadcast_to(v.array.reshape(-1), (n,))


def of_like(x: Value, tensor: Any) -> Value:
    """A tensor in ONNX's order, of the dimensions of `x`."""
    return Value(x.dims, x.dims, tensor, None, tensor.dtype)


@op("InstanceNormalization")
def instance_normalization(b: Builder, node: Node, x: Value, scale: Value, bias: Value) -> Value:
    return _grouped(b, x, int(x.shape[1] or 0), scale.array, bias.array, node.real("epsilon", 1e-5))


def _grouped(b: Builder, x: Value, groups: int, scale: Array, bias: Array, epsilon: float) -> Value:
    channels = x.shape[1]
    if channels is None or groups < 1 or channels % groups:
        raise Unsupported(f"{channels} channels in {groups} groups")
    out = b.layer(
        "GroupNormalization", x.channels_last(), weights=[scale.reshape(-1), bias.reshape(-1)], groups=groups,
        epsilon=epsilon, axis=-1,
    )  # fmt: skip
    last = (x.dims[0], *x.dims[2:], x.dims[1])
    return Value(x.dims, last, out, None, out.dtype)


@op("GroupNormalization")
def group_normalization(b: Builder, node: Node, x: Value, scale: Value, bias: Value) -> Value:
    groups, channels = node.integer("num_groups", 1), int(x.shape[1] or 0)
    gamma, beta = scale.array, bias.array
    if gamma.size == groups != channels:  # before opset 21: one for each group
        gamma, beta = (np.repeat(v, channels // groups) for v in (gamma, beta))
    return _grouped(b, x, groups, gamma, beta, node.real("epsilon", 1e-5))


@op("RMSNormalization")
def rms_normalization(b: Builder, node: Node, x: Value, scale: Value) -> Value:
    ops = keras().ops
    axes = list(range(axis_of(node.integer("axis", -1), x.rank), x.rank))
    refuse_mixing(b, x, axes)
    tensor = x.canonical()
    power = ops.mean(ops.square(tensor), axis=axes, keepdims=True)
    found = of_like(x, ops.multiply(tensor, ops.rsqrt(ops.add(power, node.real("epsilon", 1e-5)))))
    return b.elementwise(ops.multiply, found, scale)


@op("LRN")
def lrn(b: Builder, node: Node, x: Value) -> Value:
    """Local response normalization (Krizhevsky et al., 2012) as an average over neighbouring channels."""
    ops, n = keras().ops, node.integer("size", 1)
    alpha, beta, bias = node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0)
    tensor = x.channels_last()
    before, behind = (n - 1) // 2, n - 1 - (n - 1) // 2
    pads = [(0, 0)] * (x.rank - 1) + [(before, behind)]
    squares = ops.pad(ops.square(tensor), pads)
    count = int(x.shape[1] or 0)
    total = squares[..., 0:count]
    for i in range(1, n):
        total = ops.add(total, squares[..., i : i + count])
    scale = ops.power(ops.add(ops.multiply(total, alpha / n), bias), -beta)
    return spatial(x, b.named(ops.multiply(tensor, scale)), channels=False)


@op("LpNormalization")
def lp_normalization(b: Builder, node: Node, x: Value) -> Value:
    ops = keras().ops
    refuse_mixing(b, x, [axis_of(node.integer("axis", -1), x.rank)])
    value, axis = x.apart(axis_of(node.integer("axis", -1), x.rank))
    p = node.integer("p", 2)
    total = ops.sum(ops.abs(value.tensor) if p == 1 else ops.square(value.tensor), axis=axis, keepdims=True)
    norm = total if p == 1 else ops.sqrt(total)
    return value.like(b.named(ops.divide(value.tensor, ops.maximum(norm, 1e-30))))


@op("MeanVarianceNormalization")
def mean_variance_normalization(b: Builder, node: Node, x: Value) -> Value:
    ops = keras().ops
    axes = node.integers("axes", (0, 2, 3))
    if 0 in axes and any(f.free for f in flat(x.dims[:1])):
        raise Unsupported("normalizing over the batch")
    tensor = x.canonical()
    spread = ops.subtract(tensor, ops.mean(tensor, axis=axes, keepdims=True))
    deviation = ops.sqrt(ops.add(ops.mean(ops.square(spread), axis=axes, keepdims=True), 1e-9))
    return of_like(x, b.named(ops.divide(spread, deviation)))
