"""Integers that stand for real numbers, exactly: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, ConvInteger.

A quantized model is freed of most of these before it is rebuilt (see quantized.py); what is left computes as ONNX says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..layout import NotFree, flat
from ..node import Node, Unsupported, axis_of
from ..value import Value
from . import op
from .conv import conv
from .math import dtype_of

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")


def _along(node: Node, x: Value, v: Value) -> Value:
    """A scale or zero point so that it broadcasts against `x`: for the whole, along an axis, or in blocks of one."""
    if not v.is_constant or v.array.size == 1:
        return v if not v.is_constant else Value.of_constant(v.array.reshape(()))
    array, axis = v.array, axis_of(node.integer("axis", 1), x.rank)
    block = node.integer("block_size")
    if array.ndim == x.rank and block > 0:
        length = x.shape[axis]
        if length is None:
            raise Unsupported("blocks along the batch")
        return Value.of_constant(np.repeat(array, block, axis)[(slice(None),) * axis + (slice(0, length),)])
    if array.ndim != 1 or array.size != x.shape[axis]:
        raise Unsupported(f"scales of shape {list(array.shape)} for {list(x.shape)}")
    return Value.of_constant(array.reshape([-1 if i == axis else 1 for i in range(x.rank)]))


@op("QuantizeLinear", "com.microsoft::QuantizeLinear")
def quantize_linear(b: Builder, node: Node, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """saturate(round(x / scale) + zero), halves to even."""
    ops = keras().ops
    kind = zero.dtype if zero is not None else "uint8"
    if zero is None and node.integer("output_dtype"):
        kind = dtype_of(node.integer("output_dtype"))
    if kind not in INTEGERS:
        raise Unsupported(f"quantizing to {kind}")
    info = np.iinfo(kind)
    rounded = b.elementwise(lambda t, s: ops.round(ops.divide(t, s)), _real(b, x), _along(node, x, scale))
    if zero is not None:
        rounded = b.elementwise(ops.add, rounded, _real(b, _along(node, x, zero)))
    return b.unary(lambda t: ops.cast(ops.clip(t, float(info.min), float(info.max)), kind), rounded)


@op("DequantizeLinear", "com.microsoft::DequantizeLinear")
def dequantize_linear(b: Builder, node: Node, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """(x - zero) * scale."""
    ops = keras().ops
    out = _real(b, x)
    if zero is not None and not (zero.is_constant and not np.any(zero.array)):
        out = b.elementwise(ops.subtract, out, _real(b, _along(node, x, zero)))
    return b.elementwise(ops.multiply, out, _along(node, x, scale))


def _real(b: Builder, v: Value) -> Value:
    if v.dtype == "float32":
        return v
    if v.constant is not None:
        return Value.of_constant(*(np.asarray(a, np.float32) for a in v.constant.at))
    return b.unary(lambda t: keras().ops.cast(t, "float32"), v)


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(b: Builder, node: Node, x: Value) -> Any:
    """uint8 with the scale of the values themselves, over the whole tensor."""
    ops = keras().ops
    if b.freed and any(f.free for f in flat(x.dims)):
        raise NotFree
    low, high = ops.minimum(ops.min(x.tensor), 0.0), ops.maximum(ops.max(x.tensor), 0.0)
    scale = ops.divide(ops.subtract(high, low), 255.0)
    safe = ops.where(ops.equal(scale, 0.0), ops.ones_like(scale), scale)
    zero = ops.round(ops.clip(ops.divide(ops.negative(low), safe), 0.0, 255.0))
    found = ops.clip(ops.add(ops.round(ops.divide(x.tensor, safe)), zero), 0.0, 255.0)
    parts = [ops.cast(found, "uint8"), scale, ops.cast(zero, "uint8")]
    return x.like(b.named(parts[0])), b.wrap(parts[1]), b.wrap(parts[2])


@op("ConvInteger")
def conv_integer(b: Builder, node: Node, x: Value, w: Value, xz: Value | None = None, wz: Value | None = None) -> Value:
    """A convolution of integers, in floats (exact up to 2^24)."""
    ops = keras().ops
    kernel: Array = w.array.astype(np.float32)
    if wz is not None:
        kernel = kernel - wz.array.astype(np.float32).reshape(-1, *[1] * (kernel.ndim - 1))
    left = _real(b, x)
    if xz is not None:
        left = b.elementwise(ops.subtract, left, _real(b, Value.of_constant(xz.array.reshape(()))))
    out = conv(b, node, left, Value.of_constant(kernel))
    return b.unary(lambda t: ops.cast(ops.round(t), "int32"), out)
