"""Multiply-accumulates of Keras layers and operations from their weights and shapes, for one input.

Convolutions, dense layers, recurrent layers and attention count; bias, normalization, pooling, activations and
element-wise operations do not (the convention of MLPerf Tiny and of most papers). A size that is unknown (None)
counts as 1: the figure is then the one for each unit of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from .frameworks import keras
from .protocols import Layer

Shape = tuple[int | None, ...]
Count = Callable[[Any, Sequence[Shape], Sequence[Shape]], int]


def count(op: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Multiply-accumulates of one call of a layer or operation with these shapes, the batch counted as in them."""
    counter = COUNTERS.get(type(op).__name__)
    return counter(op, inputs, outputs) if counter and inputs and outputs else 0


def layers_of(net: Any) -> tuple[Layer, ...]:
    """The rows of a Keras 3 functional model; a layer called twice is one row with the work of both calls."""
    tensor = keras().KerasTensor
    rows: dict[str, Layer] = {}
    _trace(net, [tensor((1, *t.shape[1:]), t.dtype, name=t.name) for t in net.inputs], "", rows)
    return tuple(rows.values())


def inside(op: Any) -> Any:
    """The graph of a model that is used as a layer, or None."""
    if isinstance(op, keras().Sequential):
        return keras().Model(op.inputs, op.outputs)
    return op if hasattr(op, "operations") else None


def _trace(net: Any, inputs: Any, prefix: str, rows: dict[str, Layer]) -> Any:
    """Shapes through the graph, as Functional.compute_output_spec infers them, noting every operation on the way."""

    def operation(op: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if model := inside(op):
                return _trace(model, args[0], f"{prefix}{op.name}/", rows)
            result = op.compute_output_spec(*args, **kwargs)
            _note(op, f"{prefix}{op.name}", (args, kwargs), result, rows)
            return result

        return call

    return net._run_through_graph(inputs, operation_fn=operation)


def _note(op: Any, name: str, arguments: Any, result: Any, rows: dict[str, Layer]) -> None:
    given, outputs = _tensors(arguments), _tensors(result)
    macs = count(op, [_shape(t) for t in given], [_shape(t) for t in outputs])
    if name in rows:
        rows[name] = replace(rows[name], macs=rows[name].macs + macs)
        return
    weights = getattr(op, "weights", [])
    rows[name] = Layer(
        name=name,
        op=type(op).__name__,
        output=_shape(outputs[0]) if outputs else (),
        dtype=str(outputs[0].dtype) if outputs else "",
        parameters=sum(volume(tuple(w.shape)) for w in weights),
        bytes=sum(volume(tuple(w.shape)) * _itemsize(w.dtype) for w in weights),
        macs=macs,
        activation_bytes=sum(volume(_shape(t)) * _itemsize(t.dtype) for t in outputs),
    )


def _tensors(structure: Any) -> list[Any]:
    return [t for t in keras().tree.flatten(structure) if isinstance(t, keras().KerasTensor)]


def _shape(tensor: Any) -> Shape:
    return tuple(tensor.shape)


def _itemsize(dtype: str) -> int:
    return {"bfloat16": 2}.get(str(dtype)) or np.dtype(str(dtype)).itemsize


def volume(shape: Shape) -> int:
    """Elements of a shape, unknown sizes as 1."""
    return prod(1 if s is None else s for s in shape)


def _size(weight: Any) -> int:
    return prod(weight.shape)


def _positions(layer: Any, shape: Shape) -> int:
    """Elements of a feature map per channel."""
    channels = 1 if layer.data_format == "channels_first" else -1
    return volume(shape) // (shape[channels] or 1)


def _convolution(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return _size(layer.kernel) * _positions(layer, outputs[0])


def _transposed(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return _size(layer.kernel) * _positions(layer, inputs[0])


def _separable(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return (_size(layer.depthwise_kernel) + _size(layer.pointwise_kernel)) * _positions(layer, outputs[0])


def _dense(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return _size(layer.kernel) * volume(inputs[0][:-1])


def _einsum_dense(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return einsum(layer.equation, [inputs[0], tuple(layer.kernel.shape)])


def einsum(equation: str, shapes: Sequence[Shape]) -> int:
    """The product of the sizes of all indices; those under an ellipsis are counted once.

    >>> einsum("abc,cde->abde", [(1, 5, 8), (8, 2, 4)])
    320
    >>> einsum("...x,xy->...y", [(1, 3, 8), (8, 2)])
    48
    """
    terms = re.sub(r"\s", "", equation).split("->")[0].split(",")
    sizes: dict[str, int] = {}
    hidden = 1
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        named = [*zip(before, shape, strict=False), *zip(reversed(after), reversed(shape), strict=False)]
        if dots:
            hidden = max(hidden, volume(shape[len(before) : len(shape) - len(after)]))
        sizes |= {label: size or 1 for label, size in named}
    return hidden * prod(sizes.values())


def _recurrent(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    batch, steps = (1 if s is None else s for s in inputs[0][:2])
    return batch * steps * _cell(layer.cell)


def _cell(cell: Any) -> int:
    if hasattr(cell, "cells"):
        return sum(map(_cell, cell.cells))
    return sum(_size(getattr(cell, n)) for n in ("kernel", "recurrent_kernel") if hasattr(cell, n))


def _conv_recurrent(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    kept = tuple(outputs[0])
    spatial = kept[2:] if layer.return_sequences else kept[1:]
    return _recurrent(layer, inputs, outputs) * (volume(spatial) // int(layer.cell.filters))


def _bidirectional(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return sum(count(half, inputs, outputs) for half in (layer.forward_layer, layer.backward_layer))


def _time_distributed(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    def one(shapes: Sequence[Shape]) -> list[Shape]:
        return [(s[0], *s[2:]) for s in shapes]

    return (inputs[0][1] or 1) * count(layer.layer, one(inputs), one(outputs))


def _multi_head(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Projections of query, key, value and output, and the two products of every head (Vaswani et al., 2017)."""
    query, value = inputs[0], inputs[1]
    wide = layer._key_dense.kernel.shape[0]
    key = next((s for s in inputs[2:3] if len(s) == len(value) and s[-1] == wide), value)  # else it is a mask
    from_q, from_v, from_k = (volume(s[:-1]) for s in (query, value, key))
    parts = [
        (layer._query_dense, from_q),
        (layer._key_dense, from_k),
        (layer._value_dense, from_v),
        (layer._output_dense, from_q),
    ]
    pairs = from_q * (from_k // (key[0] or 1))
    heads = int(getattr(layer, "num_heads", None) or layer.num_query_heads)
    width = int(getattr(layer, "key_dim", None) or layer.head_dim)
    deep = int(getattr(layer, "value_dim", None) or width)
    return sum(_size(part.kernel) * rows for part, rows in parts) + heads * pairs * (width + deep)


def _attention(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    query, value = inputs[0], inputs[1]
    pairs = volume(query[:-1]) * (value[1] or 1)
    products = 1 if type(layer).__name__ == "AdditiveAttention" else 2
    return pairs * (value[-1] or 1) * products


def _contraction(op: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Matmul and dot: every element of the output sums over what the output no longer has."""
    if len(inputs) < 2:
        return 0
    axes = getattr(op, "axes", None)
    axis = axes[0] if isinstance(axes, (list, tuple)) else axes
    index = axis if isinstance(axis, int) else -1
    return volume(outputs[0]) * (inputs[0][index] or 1)


def _einsum(op: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return einsum(op.subscripts, inputs)


COUNTERS: dict[str, Count] = {
    **{f"Conv{n}D": _convolution for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": _convolution for n in (1, 2)},
    **{f"SeparableConv{n}D": _separable for n in (1, 2)},
    **{f"Conv{n}DTranspose": _transposed for n in (1, 2, 3)},
    **{f"ConvLSTM{n}D": _conv_recurrent for n in (1, 2, 3)},
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "RNN"), _recurrent),
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"), _multi_head),
    **dict.fromkeys(("Attention", "AdditiveAttention"), _attention),
    **dict.fromkeys(("Matmul", "Dot"), _contraction),
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    "Einsum": _einsum,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
}
