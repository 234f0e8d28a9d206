"""Operators of the domain "edgedl", which patterns.py puts in the place of many small ones."""

from __future__ import annotations

import numpy as np

from ..._frameworks import keras
from ..builder import Builder
from ..layout import new_dim, size
from ..node import Node, Unsupported
from ..value import Value
from . import op
from .linear import dense


@op("edgedl::Dense")
def dense_with_bias(b: Builder, node: Node, x: Value, w: Value, bias: Value) -> Value:
    """MatMul and Add."""
    return dense(b, x, w.array, bias.array)


@op("edgedl::MultiHeadAttention")
def multi_head_attention(b: Builder, node: Node, query: Value, key: Value, *weights: Value) -> Value:
    """Attention from `query` [n, t, c] to `key` [n, s, c]; weights and biases of query, key, value and output."""
    heads = node.integer("heads", 1)
    q, qb, k, kb, v, vb, o, ob = (w.array for w in weights)
    if query.rank != 3 or key.rank != 3 or None in (*query.shape[1:], *key.shape[1:]):
        raise Unsupported("attention over other than sequences of a known length")
    width = q.shape[1] // heads
    layer = keras().layers.MultiHeadAttention(heads, width, output_shape=o.shape[1], name=b.name())
    out = layer(query.canonical(), key.canonical())
    split = [np.reshape(a, (*a.shape[:-1], heads, width)) for a in (q, qb, k, kb, v, vb)]
    layer.set_weights([*split, o.reshape(heads, width, -1), ob])
    made = query.dims[2] if size(query.dims[2]) == o.shape[1] else new_dim(o.shape[1])
    dims = (*query.dims[:2], made)
    return Value(dims, dims, out, None, out.dtype)
