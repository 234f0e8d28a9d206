"""Operators of the domain "edgedl", which patterns.py puts in the place of many small ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....frameworks import keras
from ..builder import Builder
from ..layout import Factor, new_dim, size
from ..node import Node, Unsupported
from ..value import Value
from . import op
from .conv import conv
from .linear import dense


@op("edgedl::Dense")
def dense_with_bias(b: Builder, node: Node, x: Value, w: Value, bias: Value) -> Value:
    """MatMul and Add."""
    return dense(b, x, w.array, bias.array)


@op("edgedl::Conv")
def conv_in_blocks(b: Builder, node: Node, x: Value, w: Value, bias: Value | None = None) -> Value:
    """A convolution whose channels (c, r, s), as ONNX sees them, lie as (r, s, c): a shuffle of pixels then moves none.

    That its channels lie otherwise is in the layout of the value, so that whatever reads it is right.
    """
    r, s = node.integers("block")
    c = w.array.shape[0] // (r * s)
    turned = [w.array, *([] if bias is None else [bias.array.reshape(-1)])]
    turned = [np.moveaxis(a.reshape(c, r * s, *a.shape[1:]), 0, 1).reshape(a.shape) for a in turned]
    out: Value = conv(b, node, x, *(Value.of_constant(np.ascontiguousarray(a)) for a in turned))
    depth, rows, columns = Factor(c), Factor(r), Factor(s)
    dims = (out.dims[0], (depth, rows, columns), *out.dims[2:])
    axes = tuple((rows, columns, depth) if axis == out.dims[1] else axis for axis in out.axes)
    return out.with_axes(dims, axes, out.tensor)


@op("edgedl::MultiHeadAttention")
def multi_head_attention(b: Builder, node: Node, query: Value, key: Value, *rest: Value) -> Value:
    """Attention from `query` [n, t, c] to `key` [n, s, c]; weights and biases of query, key, value and output, and where
    the keys are visible, [n, 1, t or 1, s] or what broadcasts to it, if they are not everywhere."""
    heads = node.integer("heads", 1)
    q, qb, k, kb, v, vb, o, ob = (w.array for w in rest[:8])
    if query.rank != 3 or key.rank != 3 or None in (*query.shape[1:], *key.shape[1:]):
        raise Unsupported("attention over other than sequences of a known length")
    widths = [w.shape[1] // heads for w in (q, v)]
    layer = keras().layers.MultiHeadAttention(heads, *widths, output_shape=o.shape[1], name=b.name())
    masks = {"attention_mask": _visible(rest[8])} if len(rest) > 8 else {}
    out = layer(query.canonical(), key.canonical(), use_causal_mask=bool(node.integer("causal")), **masks)
    split = [np.reshape(a, (*a.shape[:-1], heads, -1)) for a in (q, qb, k, kb, v, vb)]
    layer.set_weights([*split, o.reshape(heads, widths[1], -1), ob])
    made = query.dims[2] if size(query.dims[2]) == o.shape[1] else new_dim(o.shape[1])
    dims = (*query.dims[:2], made)
    return Value(dims, dims, out, None, out.dtype)


def _visible(mask: Value) -> Any:
    """A mask [n, 1, t, s] as the boolean [n, t, s] that Keras takes."""
    if mask.tensor is None or mask.rank != 4 or mask.shape[1] != 1:
        raise Unsupported("a mask of attention that is not the same for every head")
    ops = keras().ops
    tensor = mask.canonical()
    tensor = ops.reshape(tensor, [-1 if n is None else n for n in (tensor.shape[0], *tensor.shape[2:])])
    return tensor if mask.dtype == "bool" else ops.not_equal(tensor, 0)
