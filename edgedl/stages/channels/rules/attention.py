"""Rules of attention layers. Of multi-head attention whole heads go, or one entry of every head's query and key, or of
every head's value; the output's width goes with what it is added to."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np

from ..call import Call, Shape, Shrunk, Traced, place, volume
from ..units import Axis, Label
from . import rule


def _arguments(call: Call) -> tuple[Traced, Traced, Traced] | None:
    """Query, value and key as they were passed, or None where one of them is no tensor."""
    passed = dict(zip(("query", "value", "key"), call.args, strict=False))
    passed |= {name: call.kwargs[name] for name in ("query", "value", "key") if name in call.kwargs}
    query, value = passed.get("query"), passed.get("value")
    key = passed.get("key")
    key = value if key is None else key
    if isinstance(query, Traced) and isinstance(value, Traced) and isinstance(key, Traced):
        return query, value, key
    return None


def _project(call: Call, part: Any, read: Axis, heads: Axis, dims: Axis) -> None:
    call.variable(part.kernel, (read, heads, dims))
    call.variable(part.bias, (heads, dims))


def _rows(shape: Shape) -> int:
    return volume(shape[:-1])


def _last_only(call: Call, tensors: Sequence[Traced]) -> None:
    """Along all other axes than the last nothing may go, and of masks nothing at all."""
    for tensor in call.inputs:
        if any(tensor is t for t in tensors):
            call.freeze_all_but(tensor, -1)
        else:
            call.freeze_all([tensor])


def _labels(call: Call, out: Axis, heads: Axis = None) -> Sequence[Label]:
    """Labels of the output `[..., width]` and of the scores `[n, heads, queries, keys]`, if they are asked for."""
    rank = len(call.shapes[0])
    scores = [tuple(heads if i == 1 else None for i in range(len(shape))) for shape in call.shapes[1:]]
    return [(*(None,) * (rank - 1), out), *scores]


# --- multi-head attention (Vaswani et al., 2017)


def _heads(shrunk: Shrunk) -> Any:
    op = shrunk.op
    _, heads, key_dim = shrunk.variable(op._query_dense.kernel)
    value_dim, out = shrunk.variable(op._value_dense.kernel)[-1], shrunk.variable(op._output_dense.kernel)[-1]
    return shrunk.remade(num_heads=heads, key_dim=key_dim, value_dim=value_dim, output_shape=out)


def _rescaled(shrunk: Shrunk, arrays: list[Any]) -> list[Any]:
    """Scores are divided by the root of the width that is left: queries make up for it."""
    dense = shrunk.op._query_dense
    factor = sqrt(shrunk.variable(dense.kernel)[-1] / dense.kernel.shape[-1])
    for variable in (dense.kernel, dense.bias):
        index = place(shrunk.op, variable)
        if index is not None:
            arrays[index] = (arrays[index] * factor).astype(arrays[index].dtype)
    return arrays


@rule("MultiHeadAttention", resize=_heads, adjust=_rescaled)
def multi_head(call: Call) -> Sequence[Label]:
    """Heads, the width of queries and keys, that of values, and that of the output."""
    given, op = _arguments(call), call.op
    if given is None or len(op._output_dense.kernel.shape) != 3 or len(op._query_dense.kernel.shape) != 3:
        return call.leave_alone("its output has several axes")
    query, value, key = given
    _last_only(call, given)
    heads, dims, values = call.fresh(op.num_heads), call.fresh(op.key_dim), call.fresh(op.value_dim)
    width = int(call.shapes[0][-1] or 1)
    out = call.fresh(width)
    _project(call, op._query_dense, query.label[-1], heads, dims)
    _project(call, op._key_dense, key.label[-1], heads, dims)
    _project(call, op._value_dense, value.label[-1], heads, values)
    if getattr(op, "_use_gate", False):
        _project(call, op._gate_dense, query.label[-1], heads, values)
    call.variable(op._output_dense.kernel, (heads, values, out))
    call.variable(op._output_dense.bias, (out,))
    sizes = (op.num_heads, op.key_dim), (op.num_heads, op.value_dim)
    for tensor, (size, pair) in zip(
        (query, key, value), ((sizes[0], (heads, dims)),) * 2 + ((sizes[1], (heads, values)),), strict=True
    ):
        call.work(_rows(tensor.shape), (tensor.shape[-1:], tensor.label[-1:]), (size, pair))
    call.work(_rows(query.shape), (sizes[1], (heads, values)), ((width,), (out,)))
    pairs = _rows(query.shape) * (_rows(key.shape) // (key.shape[0] or 1))
    call.work(pairs, (sizes[0], (heads, dims)))
    call.work(pairs, (sizes[1], (heads, values)))
    return _labels(call, out, heads)


def _grouped(shrunk: Shrunk) -> Any:
    op = shrunk.op
    _, queries, width = shrunk.variable(op._query_dense.kernel)
    keys = shrunk.variable(op._key_dense.kernel)[1]
    return shrunk.remade(head_dim=width, num_query_heads=queries, num_key_value_heads=keys)


@rule("GroupedQueryAttention", resize=_grouped, adjust=_rescaled)
def grouped_query(call: Call) -> Sequence[Label]:
    """A head of keys and values goes with all queries that use it; the output is as wide as the query that comes in."""
    given, op = _arguments(call), call.op
    if given is None:
        return call.leave_alone("its arguments are not all tensors")
    query, value, key = given
    _last_only(call, given)
    keys, dims = call.fresh(op.num_key_value_heads), call.fresh(op.head_dim)
    queries = np.repeat(keys, op.num_query_heads // op.num_key_value_heads)
    read = query.label[-1]
    out = read
    _project(call, op._query_dense, read, queries, dims)
    _project(call, op._key_dense, key.label[-1], keys, dims)
    _project(call, op._value_dense, value.label[-1], keys, dims)
    if getattr(op, "use_gate", False):
        _project(call, op._gate_dense, read, queries, dims)
    call.variable(op._output_dense.kernel, (queries, dims, out))
    call.variable(op._output_dense.bias, (out,))
    many, few = (op.num_query_heads, op.head_dim), (op.num_key_value_heads, op.head_dim)
    call.work(_rows(query.shape), (query.shape[-1:], (read,)), (many, (queries, dims)))
    for tensor in (key, value):
        call.work(_rows(tensor.shape), (tensor.shape[-1:], tensor.label[-1:]), (few, (keys, dims)))
    call.work(_rows(query.shape), (query.shape[-1:], (out,)), (many, (queries, dims)))
    pairs = _rows(query.shape) * (_rows(key.shape) // (key.shape[0] or 1))
    call.work(2 * pairs, (many, (queries, dims)))
    return _labels(call, out, queries)


# --- attention without projections


@rule("Attention", "AdditiveAttention")
def attention(call: Call) -> Sequence[Label]:
    """Query and key are compared entry by entry (Luong et al., 2015; Bahdanau et al., 2015); the value comes out."""
    passed = call.args[0] if call.args else call.kwargs["inputs"]
    if not isinstance(passed, list | tuple) or not all(isinstance(t, Traced) for t in passed):
        return call.leave_alone("its arguments are not all tensors")
    query, value, key = passed[0], passed[1], passed[-1] if len(passed) > 2 else passed[1]
    _last_only(call, (query, value, key))
    united = call.unite(query.label[-1], key.label[-1])
    additive = type(call.op).__name__ == "AdditiveAttention"
    if additive:
        call.weight("scale", (united,))
    pairs = _rows(query.shape) * (value.shape[1] or 1)
    call.work(pairs * (1 if additive else 2), (value.shape[-1:], value.label[-1:]))
    return _labels(call, value.label[-1])


@rule("DotProductAttention")
def functional(call: Call) -> Sequence[Label]:
    """keras.ops.dot_product_attention: its scale depends on the width unless it is given, so that all stays."""
    return call.leave_alone("keras.ops.dot_product_attention scales by its own width")
