"""Operators of ONNX Runtime's own (com.microsoft), which its optimizer writes: fused products, GELUs, normalizations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....frameworks import keras
from ..builder import Builder
from ..node import Node, Unsupported
from ..value import Value
from . import OPS, op
from .conv import conv
from .linear import gemm, matmul, transposed
from .normalization import layer_normalization, rms_normalization

_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish", "Elu", "Softplus", "Gelu")


def _as(node: Node, **attributes: Any) -> Node:
    """The node with other attributes."""
    return Node(node.proto, node.opset, node.name, attributes)


def activated(b: Builder, node: Node, x: Value) -> Value:
    """The fused activation of a node, with its parameters."""
    name = node.text("activation")
    if not name:
        return x
    if name not in _ACTIVATIONS:
        raise Unsupported(f"the fused activation '{name}'")
    given = node.reals("activation_params")
    keys = {"LeakyRelu": ("alpha",), "Elu": ("alpha",), "Clip": ("min", "max"), "HardSigmoid": ("alpha", "beta")}
    if name == "LeakyRelu" and not given and node.has("activation_alpha"):
        given = [node.real("activation_alpha")]
    found: Value = OPS[name](b, _as(node, **dict(zip(keys.get(name, ()), given, strict=False))), x)
    return found


@op("com.microsoft::FusedConv")
def fused_conv(
    b: Builder, node: Node, x: Value, w: Value, bias: Value | None = None, added: Value | None = None
) -> Value:
    out = conv(b, node, x, w, bias)
    if added is not None:
        out = OPS["Add"](b, node, out, added)
    return activated(b, node, out)


@op("com.microsoft::FusedGemm")
def fused_gemm(b: Builder, node: Node, x: Value, w: Value, c: Value | None = None) -> Value:
    return activated(b, node, gemm(b, node, x, w, c))


@op("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul")
def fused_matmul(b: Builder, node: Node, x: Value, y: Value) -> Value:
    if node.integer("transBatchA") or node.integer("transBatchB"):
        raise Unsupported("transposed batches")
    left = _turned(x) if node.integer("transA") else x
    right = _turned(y) if node.integer("transB") else y
    alpha = node.real("alpha", 1.0)
    if right.is_constant and alpha != 1.0:
        right, alpha = Value.of_constant((right.array * alpha).astype(np.float32)), 1.0
    out = matmul(b, node, left, right)
    return out if alpha == 1.0 else b.unary(lambda t: keras().ops.multiply(t, alpha), out)


def _turned(x: Value) -> Value:
    """With the last two dimensions swapped; nothing moves."""
    if x.rank < 2:
        return x
    if x.constant is not None:
        return Value.of_constant(*(np.swapaxes(a, -1, -2) for a in x.constant.at))
    if x.rank == 2:
        return transposed(x)
    return x.with_axes((*x.dims[:-2], x.dims[-1], x.dims[-2]), x.axes, x.tensor)


@op("com.microsoft::Gelu", "com.microsoft::BiasGelu", "com.microsoft::FastGelu")
def gelu(b: Builder, node: Node, x: Value, bias: Value | None = None) -> Value:
    ops = keras().ops
    value = x if bias is None else b.elementwise(ops.add, x, bias)
    return b.unary(lambda t: ops.gelu(t, approximate=node.op == "FastGelu"), value)


@op("com.microsoft::QuickGelu")
def quick_gelu(b: Builder, node: Node, x: Value) -> Value:
    ops, alpha = keras().ops, node.real("alpha", 1.702)
    return b.unary(lambda t: ops.multiply(t, ops.sigmoid(ops.multiply(t, alpha))), x)


@op("SimplifiedLayerNormalization", "com.microsoft::SimplifiedLayerNormalization")
def simplified_layer_normalization(b: Builder, node: Node, x: Value, scale: Value) -> Value:
    out: Value = rms_normalization(b, node, x, scale)
    return out


@op("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
def skip_layer_normalization(b: Builder, node: Node, x: Value, skip: Value, scale: Value, *rest: Value | None) -> Any:
    """The normalized sum of two values (and a bias); the sum itself is the fourth output."""
    if any(node.wants(i) for i in (1, 2)):
        raise Unsupported("its outputs of mean and deviation")
    simple = node.op.startswith("SkipSimplified")
    shift, bias = (None, *rest, None)[:2] if simple else (*rest, None, None)[:2]
    total = OPS["Add"](b, node, x, skip)
    if bias is not None:
        total = OPS["Add"](b, node, total, bias)
    plain = Node(_single(node), node.opset, node.name, {"axis": -1, "epsilon": node.real("epsilon", 1e-12)})
    out = rms_normalization(b, plain, total, scale) if simple else layer_normalization(b, plain, total, scale, shift)
    nothing = Value.of_constant(np.zeros(0, np.float32))
    return out, nothing, nothing, total


def _single(node: Node) -> Any:
    """The NodeProto with its first output alone."""
    proto = type(node.proto).FromString(node.proto.SerializeToString())
    del proto.output[1:]
    return proto


@op("com.microsoft::EmbedLayerNormalization")
def embed_layer_normalization(
    b: Builder, node: Node, ids: Value, segments: Value | None, words: Value, places: Value,
    kinds: Value | None = None, scale: Value | None = None, shift: Value | None = None, *rest: Value | None,
) -> Any:  # fmt: skip
    """BERT's embeddings of words, positions and segments, summed and normalized."""
    if any(v is not None for v in rest) or (node.wants(1) and any(node.integer(k) for k in ("mask_index_type",))):
        raise Unsupported("a mask or given positions")
    length = ids.shape[1]
    if length is None or scale is None:
        raise Unsupported("a sequence whose length is not known")
    gather = OPS["Gather"]
    total = gather(b, _as(node, axis=0), words, ids)
    total = OPS["Add"](b, node, total, Value.of_constant(places.array[None, :length]))
    if segments is not None and kinds is not None:
        total = OPS["Add"](b, node, total, gather(b, _as(node, axis=0), kinds, segments))
    plain = Node(_single(node), node.opset, node.name, {"axis": -1, "epsilon": node.real("epsilon", 1e-12)})
    out = layer_normalization(b, plain, total, scale, shift)
    nothing = Value.of_constant(np.zeros(0, np.int32))
    return out, nothing, total


@op("com.microsoft::Attention")
def attention(b: Builder, node: Node, x: Value, w: Value, bias: Value | None = None, *rest: Value | None) -> Any:
    """Self-attention with the weights of query, key and value packed side by side; no mask, no past."""
    if any(v is not None for v in rest) or node.integer("unidirectional") or node.has("qkv_hidden_sizes"):
        raise Unsupported("a mask, a past, or parts of several sizes")
    if node.wants(1) or node.integer("do_rotary"):
        raise Unsupported("its output of keys and values, or rotary embeddings")
    heads, width = node.integer("num_heads"), int(w.array.shape[1]) // 3
    if x.rank != 3 or heads < 1 or width % heads:
        raise Unsupported(f"{width} features in {heads} heads")
    from .shaping import split

    packed = matmul(b, node, x, w)
    packed = packed if bias is None else OPS["Add"](b, node, packed, bias)
    sizes = Value.of_constant(np.array([width] * 3, np.int64))
    q, k, v = (_headed(b, part, heads) for part in split(b, _as(node, axis=2), packed, sizes))
    scale = node.real("scale") or 1.0 / math.sqrt(width // heads)
    q = b.unary(lambda t: keras().ops.multiply(t, scale), q)
    scores = OPS["Softmax"](b, Node(node.proto, 13, node.name, {"axis": -1}), matmul(b, node, q, _turned(k)))
    out = matmul(b, node, scores, v)
    return out.with_axes((out.dims[0], out.dims[2], out.dims[1] + out.dims[3]), out.axes, out.tensor)


def _headed(b: Builder, x: Value, heads: int) -> Value:
    """[batch, steps, features] as [batch, heads, steps, features of a head]."""
    from .shaping import reshaped, total

    made = reshaped(b, x, [total((x.dims[0],)), total((x.dims[1],)), heads, int(x.shape[2] or 0) // heads])
    d = made.dims
    return made.with_axes((d[0], d[2], d[1], d[3]), made.axes, made.tensor)
