"""Attention as one ONNX operator (opset 23 and later) and what goes with it: RotaryEmbedding, SwiGLU, CausalConvWithState."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..layout import new_dim
from ..node import Node, Unsupported
from ..value import Value
from . import op
from .indexing import in_order
from .math import plus

FAR = -1e9  # added to what is masked: its exponential is exactly 0, and a quantizer can hold it


@op("Attention")
def attention(
    b: Builder, node: Node, query: Value, key: Value, value: Value, mask: Value | None = None,
    past_key: Value | None = None, past_value: Value | None = None, lengths: Value | None = None,
) -> Any:  # fmt: skip
    """softmax(q k^T / sqrt(d) + bias) v (Vaswani et al., 2017), with grouped queries, caches, masks and a soft cap."""
    ops = keras().ops
    flat = query.rank == 3
    q, k, v = (
        _heads(b, x, node.integer(name, 1))
        for x, name in ((query, "q_num_heads"), (key, "kv_num_heads"), (value, "kv_num_heads"))
    )
    scale = node.real("scale") if node.has("scale") else 1.0 / math.sqrt(int(q.shape[-1]))
    if past_key is not None and past_value is not None:
        k = ops.concatenate([b.tensor(past_key), k], axis=2)
        v = ops.concatenate([b.tensor(past_value), v], axis=2)
    present = k, v
    before = 0 if past_key is None else int(past_key.shape[2] or 0)
    if q.shape[1] != k.shape[1]:
        times = int(q.shape[1]) // int(k.shape[1])
        k, v = ops.repeat(k, times, axis=1), ops.repeat(v, times, axis=1)
    scores = ops.matmul(
        ops.multiply(q, math.sqrt(scale)), ops.transpose(ops.multiply(k, math.sqrt(scale)), (0, 1, 3, 2))
    )
    cap, mode = node.real("softcap"), node.integer("qk_matmul_output_mode")
    if cap > 0:
        scores = ops.multiply(ops.tanh(ops.divide(scores, cap)), cap)
    shown = scores
    far = -math.inf if node.wants(3) and mode == 2 else FAR
    bias = _bias(b, node, mask, lengths, (int(q.shape[2]), int(k.shape[2])), before, far)
    if bias is not None:
        scores = plus(scores, bias)
    shown = scores if mode == 2 else shown
    shares = ops.softmax(scores, axis=-1)
    shares = shares if bias is None else _guarded(shares, bias)
    shown = shares if mode == 3 else shown
    out = b.named(ops.matmul(shares, v))
    return _outputs(node, query, out, flat, present, shown)


def _heads(b: Builder, x: Value, heads: int) -> Any:
    """[n, length, heads * size] or [n, heads, length, size] as the latter."""
    ops = keras().ops
    tensor = b.tensor(x)
    if x.rank == 4:
        return tensor
    if x.rank != 3 or heads < 1 or x.shape[1] is None or int(x.shape[2] or 0) % heads:
        raise Unsupported(f"{list(x.shape)} in {heads} heads")
    split = ops.reshape(tensor, (-1, int(x.shape[1]), heads, int(x.shape[2] or 0) // heads))
    return ops.transpose(split, (0, 2, 1, 3))


def _bias(
    b: Builder, node: Node, mask: Value | None, lengths: Value | None, size: tuple[int, int], before: int, far: float
) -> Any:
    """What is added to the scores: an array where all of it is constant, else a tensor; None: nothing."""
    ops = keras().ops
    rows, columns = size
    place, at = np.arange(rows)[:, None], np.arange(columns)[None, :]
    parts: list[Any] = []
    if mask is not None:
        parts.append(_mask(b, mask, columns, far))
    left, right = node.integer("left_window_size", -1), node.integer("right_window_size", -1)
    windows = (left >= 0, right >= 0)
    if lengths is None or not (node.integer("is_causal") or any(windows)):
        apart = place + before - at
        allowed = np.ones(size, bool)
        if node.integer("is_causal"):
            allowed &= apart >= 0
        allowed &= (apart <= left) if windows[0] else True
        allowed &= (-apart <= right) if windows[1] else True
        if not allowed.all():
            parts.append(np.where(allowed, 0, far).astype(np.float32))
    if lengths is not None:
        count = ops.cast(ops.reshape(b.tensor(lengths), (-1, 1, 1, 1)), "int64")
        apart = ops.add(ops.subtract(count, rows), place - at)
        tests = [ops.less(at[None, None], count)]
        tests += [ops.greater_equal(apart, 0)] if node.integer("is_causal") else []
        tests += [ops.less_equal(apart, left)] if windows[0] else []
        tests += [ops.less_equal(ops.negative(apart), right)] if windows[1] else []
        for test in tests:
            parts.append(ops.where(test, 0.0, far))
    total = None
    for part in parts:
        total = part if total is None else (total + part if _is_array(total, part) else ops.add(total, part))
    return total


def _is_array(*values: Any) -> bool:
    return all(isinstance(v, np.ndarray) for v in values)


def _mask(b: Builder, mask: Value, columns: int, far: float) -> Any:
    ops = keras().ops
    missing = columns - int(mask.shape[-1] or 0)
    if mask.is_constant:
        array: Array = mask.array
        array = np.where(array, 0, far).astype(np.float32) if array.dtype == bool else np.maximum(array, far)
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], constant_values=far).astype(np.float32)
    tensor = mask.canonical()
    if mask.dtype == "bool":
        tensor = ops.where(tensor, 0.0, far)
    if missing:
        tensor = ops.pad(tensor, [(0, 0)] * (mask.rank - 1) + [(0, missing)], constant_values=far)
    return tensor


def _guarded(shares: Any, bias: Any) -> Any:
    """Rows without a single allowed key are 0."""
    ops = keras().ops
    if isinstance(bias, np.ndarray):
        lost = bias.max(-1, keepdims=True) <= FAR / 2
        return ops.where(lost, 0.0, shares) if lost.any() else shares
    return ops.where(ops.less_equal(ops.max(bias, axis=-1, keepdims=True), FAR / 2), 0.0, shares)


def _outputs(node: Node, query: Value, out: Any, flat: bool, present: tuple[Any, Any], shown: Any) -> Any:
    ops = keras().ops
    batch, length = query.dims[0], query.dims[1] if flat else query.dims[2]
    if flat:
        heads, width = int(out.shape[1]), int(out.shape[3])
        made = new_dim(heads * width)
        out = ops.reshape(ops.transpose(out, (0, 2, 1, 3)), (-1, int(out.shape[2]), heads * width))
        first = in_order(out, (batch, length, made))
    else:
        first = in_order(out, (batch, query.dims[1], length, new_dim(out.shape[3])))
    rest = [in_order(t, (batch, *(new_dim(n) for n in t.shape[1:]))) for t in (*present, shown)]
    return (first, *rest)


@op("RotaryEmbedding")
def rotary_embedding(b: Builder, node: Node, x: Value, cos: Value, sin: Value, positions: Value | None = None) -> Value:
    """Rotary position embedding (Su et al., 2021)."""
    ops = keras().ops
    heads = node.integer("num_heads")
    tensor = b.tensor(x)
    if x.rank == 3:
        if heads < 1 or None in x.shape[1:]:
            raise Unsupported(f"{list(x.shape)} in {heads} heads")
        tensor = ops.reshape(tensor, (-1, int(x.shape[1] or 1), heads, int(x.shape[2] or 1) // heads))
    else:
        tensor = ops.transpose(tensor, (0, 2, 1, 3))
    width = int(tensor.shape[-1])
    part = node.integer("rotary_embedding_dim") or width
    turned, rest = tensor[..., :part], tensor[..., part:]
    caches = []
    for cache in (cos, sin):
        table = b.tensor(cache)
        if positions is not None:
            table = ops.take(table, b.tensor(positions), axis=0)
        caches.append(ops.expand_dims(table, 2))
    c, s = caches
    paired = bool(node.integer("interleaved"))
    one, two = (
        (turned[..., 0::2], turned[..., 1::2]) if paired else (turned[..., : part // 2], turned[..., part // 2 :])
    )
    real = ops.subtract(ops.multiply(c, one), ops.multiply(s, two))
    imaginary = ops.add(ops.multiply(s, one), ops.multiply(c, two))
    if paired:
        shape = (-1, *(int(n) for n in tensor.shape[1:3]), part)
        turned = ops.reshape(ops.stack([real, imaginary], axis=-1), shape)
    else:
        turned = ops.concatenate([real, imaginary], axis=-1)
    out = ops.concatenate([turned, rest], axis=-1) if part < width else turned
    if x.rank == 3:
        out = ops.reshape(out, (-1, int(x.shape[1] or 1), int(x.shape[2] or 1)))
    else:
        out = ops.transpose(out, (0, 2, 1, 3))
    return in_order(b.named(out), x.dims)


@op("SwiGLU")
def swiglu(b: Builder, node: Node, x: Value, gate: Value) -> Value:
    """x * sigmoid(alpha x) * gate (Shazeer, 2020)."""
    ops, alpha = keras().ops, node.real("alpha", 1.0)
    return b.elementwise(
        lambda t, g: ops.multiply(ops.multiply(t, ops.sigmoid(t if alpha == 1.0 else ops.multiply(t, alpha))), g),
        x,
        gate,
    )


@op("CausalConvWithState")
def causal_conv_with_state(
    b: Builder, node: Node, x: Value, weight: Value, bias: Value | None = None, past: Value | None = None
) -> Any:
    """A depthwise convolution over time that sees only what came before, with its last inputs as a state."""
    ops = keras().ops
    kernel = weight.array
    channels, span = kernel.shape[0], kernel.shape[2]
    length = x.shape[2]
    if length is None or kernel.shape[1] != 1:
        raise Unsupported(f"weights of shape {list(kernel.shape)}")
    tensor = x.channels_last()
    if past is None:
        tensor = b.layer("ZeroPadding1D", tensor, padding=(span - 1, 0), suffix="_pad") if span > 1 else tensor
    else:
        tensor = ops.concatenate([b.materialized(past).permuted((0, 2, 1)), tensor], axis=1)
    weights = [np.moveaxis(kernel, (0, 1), (1, 2)), *([] if bias is None else [bias.array.reshape(-1)])]
    out = b.layer("DepthwiseConv1D", tensor, weights=weights, kernel_size=span, use_bias=bias is not None)
    if node.text("activation", "none") in ("silu", "swish"):
        out = b.layer("Activation", out, activation="silu", suffix="_activation")
    state = tensor[:, length:, :]
    batch, channel = x.dims[0], x.dims[1]
    kept = new_dim(span - 1)
    time = new_dim(length)
    assert channels == x.shape[1]
    first = Value((batch, channel, time), (batch, time, channel), out, None, out.dtype)
    return first, Value((batch, channel, kept), (batch, kept, channel), state, None, state.dtype)
