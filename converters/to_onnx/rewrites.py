"""Keras layers whose TensorFlow form reaches ONNX as dozens of small operators, traced in a plainer form instead.

Each function gives what to call instead of a layer's own `call` (or None); where the plainer form does not apply,
it calls the layer's own. Shapes that are known but for the batch stay known: nothing is computed from them at run time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ...frameworks import keras, tensorflow

Call = Callable[..., Any]


def rewrite(layer: Any) -> Call | None:
    """What to call instead of a layer's own `call`, or None."""
    kinds = keras().layers
    table: dict[Any, Callable[[Any], Call | None]] = {
        kinds.Dense: _dense,
        kinds.EinsumDense: _einsum_dense,
        kinds.Flatten: _reshape,
        kinds.Reshape: _reshape,
        kinds.Embedding: _embedding,
        kinds.UpSampling2D: _upsampling,
        kinds.Conv1D: _conv1d,
        kinds.Conv2D: _grouped,
    }
    return table[type(layer)](layer) if type(layer) in table else None


def _dense(layer: Any) -> Call:
    """x [..., n] @ kernel [n, m]: Keras flattens x to two dimensions and back."""
    tf, own = tensorflow(), layer.call

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.shape.rank is None or x.shape.rank < 3:
            return own(x, *args, **kwargs)
        y = tf.linalg.matmul(x, layer.kernel)
        if layer.bias is not None:
            y = tf.add(y, layer.bias)
        return y if layer.activation is None else layer.activation(y)

    return call


def _einsum_dense(layer: Any) -> Call | None:
    """The projections of MultiHeadAttention, whose contracted axes lie together, as Reshape and MatMul."""
    tf, own = tensorflow(), layer.call
    match = re.fullmatch(r"(\w+),(\w+)->(\w+)", layer.equation)
    if match is None:
        return None
    x_axes, kernel_axes, y_axes = match.groups()
    shared = [a for a in kernel_axes if a in x_axes]
    kept, made = x_axes[: -len(shared)], kernel_axes[len(shared) :]
    if not shared or x_axes[len(kept) :] != kernel_axes[: len(shared)] or y_axes != kept + made or len(kept) != 2:
        return None

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        kernel_shape = layer.kernel.shape
        rows, columns = (int(np.prod(n)) for n in (kernel_shape[: len(shared)], kernel_shape[len(shared) :]))
        whole = layer.bias is None or int(np.prod(layer.bias.shape)) == columns
        if x.shape.rank != len(x_axes) or None in x.shape[1:] or not whole:
            return own(x, *args, **kwargs)
        flat = x if len(shared) == 1 else tf.reshape(x, [-1, x.shape[1], rows])
        y = tf.linalg.matmul(flat, tf.reshape(layer.kernel, [rows, columns]))
        if layer.bias is not None:
            y = tf.add(y, tf.reshape(layer.bias, [columns]))
        if len(made) > 1:
            y = tf.reshape(y, [-1, x.shape[1], *kernel_shape[len(shared) :]])
        return y if layer.activation is None else layer.activation(y)

    return call


def _reshape(layer: Any) -> Call:
    """-1 stands for the batch."""
    tf, own = tensorflow(), layer.call

    def call(x: Any) -> Any:
        shape = list(layer.compute_output_shape(tuple(x.shape))[1:])
        return own(x) if None in shape or None in x.shape[1:] else tf.reshape(x, [-1, *shape])

    return call


def _embedding(layer: Any) -> Call:
    """ONNX's Gather takes negative indices as Keras does, without the arithmetic that TensorFlow needs for it."""
    tf = tensorflow()

    def call(x: Any) -> Any:
        return tf.gather(layer.embeddings, tf.cast(x, tf.int32))

    return call


def _upsampling(layer: Any) -> Call | None:
    """Nearest-neighbour upsampling as one Resize instead of Tile and Reshape."""
    tf, own = tensorflow(), layer.call
    if layer.interpolation != "nearest" or layer.data_format != "channels_last":
        return None

    def call(x: Any) -> Any:
        if None in x.shape[1:3]:
            return own(x)
        size = [n * factor for n, factor in zip(x.shape[1:3], layer.size, strict=True)]
        return tf.raw_ops.ResizeNearestNeighbor(images=x, size=size)

    return call


def _conv1d(layer: Any) -> Call | None:
    """As a Conv2D of height 1 with its bias, which then becomes part of the ONNX Conv."""
    tf = tensorflow()
    if layer.data_format != "channels_last" or layer.padding not in ("same", "valid") or layer.groups != 1:
        return None

    def call(x: Any) -> Any:
        y = tf.nn.conv2d(
            tf.expand_dims(x, 1),
            tf.expand_dims(layer.kernel, 0),
            strides=[1, layer.strides[0]],
            padding=layer.padding.upper(),
            dilations=[1, layer.dilation_rate[0]],
        )
        if layer.bias is not None:
            y = tf.nn.bias_add(y, layer.bias)
        y = tf.squeeze(y, [1])
        return y if layer.activation is None else layer.activation(y)

    return call


def _grouped(layer: Any) -> Call | None:
    """A grouped convolution, which Keras compiles into a function that tf2onnx cannot read."""
    tf = tensorflow()
    if layer.groups == 1 or layer.data_format != "channels_last":
        return None

    def call(x: Any) -> Any:
        y = tf.nn.conv2d(x, layer.kernel, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
        if layer.bias is not None:
            y = tf.nn.bias_add(y, layer.bias)
        return y if layer.activation is None else layer.activation(y)

    return call


def attention(layer: Any) -> Call | None:
    """softmax(q k' / sqrt(d)) v of MultiHeadAttention as two MatMul: instead of its `_compute_attention`.

    Keras goes through einsum, whose shapes are computed at run time.
    """
    if type(layer) is not keras().layers.MultiHeadAttention or not hasattr(layer, "_compute_attention"):
        return None
    tf, own = tensorflow(), layer._compute_attention

    def compute(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        rest = (*args, *(v for k, v in kwargs.items() if k != "training"))
        if query.shape.rank != 4 or any(v is not None and v is not False for v in rest):
            return own(query, key, value, *args, **kwargs)
        scaled = tf.transpose(query * (1.0 / float(query.shape[-1]) ** 0.5), [0, 2, 1, 3])
        scores = tf.nn.softmax(tf.linalg.matmul(scaled, tf.transpose(key, [0, 2, 3, 1])))
        mixed = tf.linalg.matmul(scores, tf.transpose(value, [0, 2, 1, 3]))
        return tf.transpose(mixed, [0, 2, 1, 3]), scores

    return compute
