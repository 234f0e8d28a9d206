"""Keras layers that ONNX has one operator for, but that reach tf2onnx as loops or as dozens of small operators.

While the network is traced, LayerNormalization, LSTM, GRU and SimpleRNN become one TensorFlow operator of the right
output shape that is never run, in whose place a handler puts the ONNX operator with the layer's weights. A layer used
in a way ONNX has no operator for (masks, states handed in or out, other activations) is left as it is.
The network itself is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras, tensorflow
from .rewrites import Call, attention, rewrite

MARK = "edgedl_mark_"  # of an operator that stands for a layer
SCOPE = "edgedl_layer_"
ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
LAYER_NORMALIZATION_OPSET = 17


@dataclass(frozen=True, slots=True)
class Operator:
    """An ONNX operator with its constants: what stands for a marked layer."""

    op: str
    constants: Mapping[str, Array]
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class Marks:
    """What was marked while a network was traced."""

    layers: list[str] = field(default_factory=list)  # names of the layers whose scopes are numbered
    operators: list[Operator] = field(default_factory=list)

    @property
    def handlers(self) -> dict[str, Any]:
        """For tf2onnx: TensorFlow operator -> what puts the ONNX operator in its place."""
        return {"Ndtri": (_norm_handler, ["Ndtri", self]), "CudnnRNN": (_rnn_handler, ["CudnnRNN", self])}

    def clean(self, name: str) -> str:
        """A node or tensor name as a path of exact layer names; names outside any layer stay as they are.

        >>> Marks(["block", "conv"]).clean("net_1/block_1/edgedl_layer_0_/conv_1/edgedl_layer_1__1/Relu:0")
        'block/conv/Relu:0'
        """
        *_, rest = re.split(rf"{SCOPE}\d+_(?:_\d+)?/?", name)
        layer = self.layer(name)
        return re.sub(rf"{MARK}\d+_", "", "/".join(part for part in (layer, rest) if part)) if layer else name

    def layer(self, name: str) -> str:
        """The path of the layer that a node or tensor belongs to, or nothing."""
        return "/".join(self.layers[int(i)] for i in re.findall(rf"{SCOPE}(\d+)_", name))


@contextmanager
def marked(net: Any, version: int) -> Iterator[Marks]:
    """While open, `net` traces to marked operators in numbered layer scopes (Keras numbers its own scopes anew)."""
    marks = Marks()
    changed = []
    try:
        for layer in net._flatten_layers(include_self=False):
            call = _replacement(layer, version, marks.operators) or layer.call
            vars(layer)["call"] = _scoped(call, f"{SCOPE}{len(marks.layers)}_")
            changed.append(layer)
            attend = attention(layer)
            if attend is not None:
                vars(layer)["_compute_attention"] = attend
            marks.layers.append(layer.name)
        yield marks
    finally:
        for layer in changed:
            for name in ("call", "_compute_attention"):
                vars(layer).pop(name, None)


def _scoped(own: Call, scope: str) -> Call:
    tf = tensorflow()

    def call(*args: Any, **kwargs: Any) -> Any:
        with tf.name_scope(scope):
            return own(*args, **kwargs)

    return call


def _replacement(layer: Any, version: int, found: list[Operator]) -> Call | None:
    """What to call instead of a layer's own `call`, or None."""
    kinds = keras().layers
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False) or not layer.built:
        return None
    if layer.compute_dtype != "float32":
        return None
    if type(layer) is kinds.LayerNormalization and version >= LAYER_NORMALIZATION_OPSET:
        return _layer_normalization(layer, found)
    builders = {kinds.LSTM: _lstm, kinds.GRU: _gru, kinds.SimpleRNN: _simple_rnn}
    if type(layer) in builders and not (layer.stateful or layer.return_state):
        operator = builders[type(layer)](layer)
        return None if operator is None else _rnn(layer, operator, found)
    return rewrite(layer)


def _layer_normalization(layer: Any, found: list[Operator]) -> Call | None:
    tf, own = tensorflow(), layer.call
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if len(axes) != 1 or getattr(layer, "rms_scaling", False):
        return None
    weights = [None if w is None else np.asarray(w, np.float32) for w in (layer.gamma, layer.beta)]

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.shape.rank is None or axes[0] not in (-1, x.shape.rank - 1):
            return own(x, *args, **kwargs)
        n = int(x.shape[-1])
        gamma = np.ones(n, np.float32) if weights[0] is None else weights[0]
        beta = np.zeros(n, np.float32) if weights[1] is None else weights[1]
        mark = _mark(
            found, Operator("LayerNormalization", {"scale": gamma, "B": beta}, {"axis": -1, "epsilon": layer.epsilon})
        )
        return tf.raw_ops.Ndtri(x=x, name=mark)

    return call


def _mark(found: list[Operator], operator: Operator) -> str:
    """Remember an operator; returns the name that the TensorFlow node in its place must have."""
    found.append(operator)
    return f"{MARK}{len(found) - 1}_"


def _rnn(layer: Any, operator: Operator, found: list[Operator]) -> Call:
    tf, own, units = tensorflow(), layer.call, int(layer.units)

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        rest = (*args, *(v for k, v in kwargs.items() if k != "training"))
        if any(v is not None and v is not False for v in rest):  # a mask, or a state handed in
            return own(x, *args, **kwargs)
        steps = tf.transpose(x, [1, 0, 2])  # ONNX's layout: [time, batch, features]
        start = tf.zeros([1, tf.shape(x)[0], units], x.dtype)
        y, last, _, _ = tf.raw_ops.CudnnRNN(
            input=steps, input_h=start, input_c=start, params=tf.zeros([1]), name=_mark(found, operator)
        )
        if not layer.return_sequences:
            return tf.ensure_shape(tf.squeeze(last, [0]), [x.shape[0], units])
        if layer.go_backwards:  # Keras gives the steps in the order it took them
            y = tf.reverse(y, [0])
        return tf.transpose(y, [1, 0, 2])

    return call


def _attributes(layer: Any, activations: list[Any]) -> dict[str, Any] | None:
    names = [ACTIVATIONS.get(getattr(a, "__name__", "")) for a in activations]
    if None in names:
        return None
    return {
        "hidden_size": int(layer.units),
        "direction": "reverse" if layer.go_backwards else "forward",
        "activations": names,
    }


def _lstm(layer: Any) -> Operator | None:
    """Keras orders the gates i, f, c, o; ONNX i, o, f, c."""
    attributes = _attributes(layer, [layer.recurrent_activation, layer.activation, layer.activation])
    return None if attributes is None else Operator("LSTM", _gates(layer.cell, [0, 3, 1, 2]), attributes)


def _gru(layer: Any) -> Operator | None:
    """Both order the gates z, r, h."""
    attributes = _attributes(layer, [layer.recurrent_activation, layer.activation])
    if attributes is None:
        return None
    return Operator(
        "GRU", _gates(layer.cell, [0, 1, 2]), {**attributes, "linear_before_reset": int(layer.cell.reset_after)}
    )


def _simple_rnn(layer: Any) -> Operator | None:
    attributes = _attributes(layer, [layer.activation])
    return None if attributes is None else Operator("RNN", _gates(layer.cell, [0]), attributes)


def _gates(cell: Any, order: list[int]) -> dict[str, Array]:
    """W [1, gates * units, features], R [1, gates * units, units], B [1, 2 * gates * units] with the gates in `order`."""

    def reorder(a: Array) -> Array:
        return np.concatenate([np.split(a, len(order), axis=-1)[g] for g in order], axis=-1)

    kernel, recurrent = (reorder(np.asarray(w)) for w in (cell.kernel, cell.recurrent_kernel))
    bias = np.zeros((2, kernel.shape[1]), np.float32)
    if cell.bias is not None:
        given = np.asarray(cell.bias)
        bias[: 1 if given.ndim == 1 else 2] = reorder(given)
    return {"W": kernel.T[None], "R": recurrent.T[None], "B": bias.reshape(1, -1)}


# --- the handlers, called by tf2onnx


def _marked(node: Any, tf_op: str, arguments: Any) -> Operator:
    match = re.search(MARK + r"(\d+)_", node.name)
    if match is None:
        raise ValueError(f"ONNX has no operator for TensorFlow's {tf_op}")
    marks: Marks = arguments[0]
    return marks.operators[int(match[1])]


def _constants(ctx: Any, operator: Operator, name: str) -> list[str]:
    return [ctx.make_const(f"{name}/{k}", np.asarray(v, np.float32)).output[0] for k, v in operator.constants.items()]


def _norm_handler(ctx: Any, node: Any, name: str, arguments: Any) -> None:
    operator = _marked(node, "Ndtri", arguments)
    source, output = node.input[0], node.output[0]
    shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
    ctx.remove_node(node.name)
    ctx.make_node(
        operator.op,
        [source, *_constants(ctx, operator, name)],
        attr=dict(operator.attributes),
        outputs=[output],
        shapes=[shape],
        dtypes=[dtype],
        name=f"{name}{operator.op}",
    )


def _rnn_handler(ctx: Any, node: Any, name: str, arguments: Any) -> None:
    operator = _marked(node, "CudnnRNN", arguments)
    source, y, last = node.input[0], node.output[0], node.output[1]
    shapes, dtype = [ctx.get_shape(y), ctx.get_shape(last)], ctx.get_dtype(y)
    ctx.remove_node(node.name)
    wide = None if shapes[0] is None else [shapes[0][0], 1, *shapes[0][1:]]
    rnn = ctx.make_node(
        operator.op,
        [source, *_constants(ctx, operator, name)],
        attr=dict(operator.attributes),
        outputs=[f"{name}Y", last],
        shapes=[wide, shapes[1]],
        dtypes=[dtype, dtype],
        name=f"{name}{operator.op}",
    )
    axes = ctx.make_const(f"{name}axes", np.array([1], np.int64)).output[0]
    ctx.make_node(
        "Squeeze", [rnn.output[0], axes], outputs=[y], shapes=[shapes[0]], dtypes=[dtype], name=f"{name}Squeeze"
    )
