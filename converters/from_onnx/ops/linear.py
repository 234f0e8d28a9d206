"""Products of matrices: MatMul, Gemm, Einsum; with constant weights they become Dense layers, whatever the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder, refuse_mixing
from ..layout import Dim, Dims, flat, new_dim, size
from ..node import Node, Unsupported
from ..value import Value, of_tensor
from . import op
from .math import plus


def dense(b: Builder, x: Value, kernel: Array, bias: Array | None = None) -> Value:
    """x [..., k] @ kernel [k, n] + bias [n] as a Dense layer; the k features stay in the order in which they lie."""
    features = x.dims[-1]
    if size(features) != kernel.shape[0]:
        raise Unsupported(f"weights for {kernel.shape[0]} features on an input with {size(features)}")
    order = flat(x.axes)
    lying: Dim = tuple(f for f in order if f in set(features))
    rest = _rest(x, set(features))
    tensor = x.lay((*rest, lying))
    weights = [_rows(kernel, features, lying)] if bias is None else [_rows(kernel, features, lying), bias]
    out = b.layer("Dense", tensor, weights=weights, units=kernel.shape[1], use_bias=bias is not None)
    made = new_dim(kernel.shape[1])
    return Value((*x.dims[:-1], made), (*rest, made), out, None, out.dtype)


def _rest(x: Value, features: set[Any]) -> Dims:
    """The axes without the features: one for each dimension where they are whole, in the order in which they lie."""
    axes = [tuple(f for f in axis if f not in features) for axis in x.axes]
    kept: list[Dim] = [a for a in axes if a]
    free = [i for i, a in enumerate(kept) if any(f.free for f in a)]
    if not kept:
        return ((),)
    if free and free[0] != 0:
        kept.insert(0, kept.pop(free[0]))
    return tuple(kept)


def _rows(kernel: Array, features: Dim, lying: Dim) -> Array:
    """The rows of the weights in the order in which the features lie."""
    if features == lying:
        return kernel
    sizes = [f.size for f in features]
    order = [features.index(f) for f in lying]
    return kernel.reshape(*sizes, -1).transpose(*order, len(sizes)).reshape(kernel.shape)


@op("Gemm")
def gemm(b: Builder, node: Node, x: Value, w: Value, c: Value | None = None) -> Value:
    ops = keras().ops
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if w.is_constant and not x.is_constant and not (node.integer("transA") and x.rank != 2):
        kernel = w.array.T if node.integer("transB") else w.array
        left = transposed(x) if node.integer("transA") else x
        simple = c is None or (
            c.is_constant
            and c.array.size in (1, kernel.shape[1])
            and c.array.ndim <= 2
            and (c.array.shape[:1] in ((1,), ()) or c.array.ndim < 2)
        )
        if simple:
            bias = None if c is None else np.broadcast_to(beta * c.array.reshape(-1), (kernel.shape[1],))
            return dense(
                b, left, (alpha * kernel).astype(kernel.dtype), None if bias is None else bias.astype(kernel.dtype)
            )
        out = dense(b, left, (alpha * kernel).astype(kernel.dtype))
    else:
        left, right = (b.materialized(v) for v in (x, w))
        left = transposed(left) if node.integer("transA") else left
        right = transposed(right) if node.integer("transB") else right
        out = product(b, left, right)
        if alpha != 1.0:
            out = b.unary(lambda t: ops.multiply(t, alpha), out)
    if c is None:
        return out
    added = c if beta == 1.0 or not c.is_constant else Value.of_constant((beta * c.array).astype(c.array.dtype))
    if beta != 1.0 and not c.is_constant:
        added = b.unary(lambda t: ops.multiply(t, beta), c)
    return b.elementwise(plus, out, added)


def transposed(x: Value) -> Value:
    """A matrix with its two dimensions swapped; nothing moves."""
    return x.with_axes((x.dims[1], x.dims[0]), x.axes, x.tensor)


@op("MatMul")
def matmul(b: Builder, node: Node, x: Value, y: Value) -> Value:
    layer = y.is_constant and not x.is_constant and x.dtype.startswith("float")
    if layer and y.rank == 2:
        return dense(b, x, y.array)
    if layer and y.rank == 1:
        out = dense(b, x, y.array[:, None])
        return out.with_axes(out.dims[:-1], out.axes, out.tensor)
    return product(b, b.materialized(x), b.materialized(y))


def product(b: Builder, x: Value, y: Value) -> Value:
    """x @ y as numpy does, of two computed values."""
    if x.rank == 0 or y.rank == 0:
        raise Unsupported("a product with a scalar")
    refuse_mixing(b, x, [x.rank - 1])
    left = x if x.rank > 1 else x.with_axes(((), x.dims[0]), x.axes, x.tensor)
    right = y if y.rank > 1 else y.with_axes((y.dims[0], ()), y.axes, y.tensor)
    out = b.named(keras().ops.matmul(left.canonical(), right.canonical()))
    found = _batched(left, right, out)
    dims = list(found.dims)
    if y.rank == 1:
        dims.pop()
    if x.rank == 1:
        dims.pop(-1 if y.rank == 1 else -2)
    return found.with_axes(tuple(dims), found.axes, out)


def _batched(x: Value, y: Value, out: Any) -> Value:
    """The product's dimensions: those of its operands, so that a layout they share is known to be the same."""
    rank = max(x.rank, y.rank)
    lead: list[Dim] = []
    for d in range(rank - 2):
        parts = [v.dims[d - (rank - v.rank)] for v in (x, y) if d - (rank - v.rank) >= 0]
        lead.append(next((p for p in parts if p), ()))
    dims = (*lead, x.dims[-2], y.dims[-1] if y.dims[-1] is not x.dims[-2] else x.dims[-2])
    if len(set(flat(dims))) != len(flat(dims)):
        dims = (*lead, x.dims[-2], tuple(new_dim(size(y.dims[-1]))))
    if len(set(flat(dims))) != len(flat(dims)):
        return of_tensor(out)
    return Value(dims, dims, out, None, out.dtype)


@op("Einsum")
def einsum(b: Builder, node: Node, *inputs: Value) -> Value:
    equation = node.text("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    for term, v in zip(left.split(","), inputs, strict=True):
        if arrow and "." not in equation:
            refuse_mixing(b, v, [i for i, label in enumerate(term) if label not in right])
    tensors = [b.tensor(v) for v in inputs]
    return of_tensor(b.named(keras().ops.einsum(equation, *tensors)))


@op("MatMulInteger")
def matmul_integer(
    b: Builder, node: Node, x: Value, y: Value, xz: Value | None = None, yz: Value | None = None
) -> Value:
    ops = keras().ops
    left, right = (b.elementwise(lambda t: ops.cast(t, "int32"), b.materialized(v)) for v in (x, y))
    if xz is not None:
        left = b.elementwise(ops.subtract, left, Value.of_constant(xz.array.astype(np.int32)))
    if yz is not None:
        right = b.elementwise(ops.subtract, right, Value.of_constant(yz.array.astype(np.int32)))
    return product(b, left, right)
