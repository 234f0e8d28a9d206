"""Arithmetic and activations, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ....frameworks import keras
from ..builder import Builder, refuse_mixing
from ..layout import flat
from ..node import Node, Unsupported, axis_of
from ..value import Value
from . import op


def dtype_of(code: int) -> str:
    """The numpy name of an ONNX element type."""
    from ... import _onnx

    return _onnx.dtype_name(code)


# --- two operands and more

_MERGE = {"Add": "Add", "Mul": "Multiply", "Max": "Maximum", "Min": "Minimum", "Sub": "Subtract"}


def _merged(b: Builder, layer: str, plain: Callable[..., Any], x: Value, y: Value) -> Value:
    """Two operands through a Keras merging layer where both are computed and of one rank, else through `keras.ops`."""
    if x.is_constant or y.is_constant or x.dtype != y.dtype or not x.dtype.startswith("float"):
        return b.elementwise(plain, x, y)

    def apply(left: Any, right: Any) -> Any:
        if len(left.shape) == len(right.shape) >= 2 and left.shape == right.shape:
            return b.layer(layer, left, right)
        return plain(left, right)

    return b.elementwise(apply, x, y)


def plus(left: Any, right: Any) -> Any:
    """left + right. Keras takes every operand with one axis longer than 1 for a bias of the channels, also [1, 6, 1] on
    [n, 6, 6] (`keras.src.backend.tensorflow.numpy.add`), and TensorFlow's optimizer [1, c, 1, 1] for that of an NCHW
    convolution, and transposes all of it: both are subtracted instead. A sum with [batch, 1] has that one first."""
    ops = keras().ops
    if _is_false_bias(right):
        if right.shape[0] is None and len(right.shape) == len(getattr(left, "shape", ())):
            return ops.add(right, left)
        return ops.subtract(left, ops.negative(right) if hasattr(right, "_keras_history") else -right)
    if _is_false_bias(left):
        return plus(right, left)
    return ops.add(left, right)


def _is_false_bias(value: Any) -> bool:
    long = [i for i, n in enumerate(getattr(value, "shape", ())) if n != 1]
    return len(long) == 1 and long[0] != len(value.shape) - 1


@op("Add")
def add(b: Builder, node: Node, x: Value, y: Value) -> Value:
    out = _merged(b, "Add", plus, x, y)
    out.positive = x.positive and y.positive
    return out


@op("Mul")
def mul(b: Builder, node: Node, x: Value, y: Value) -> Value:
    out = _merged(b, "Multiply", keras().ops.multiply, x, y)
    out.positive = x.positive and y.positive
    return out


@op("Sub")
def sub(b: Builder, node: Node, x: Value, y: Value) -> Value:
    return _merged(b, "Subtract", keras().ops.subtract, x, y)


@op("Div")
def div(b: Builder, node: Node, x: Value, y: Value) -> Value:
    ops = keras().ops
    if x.dtype.startswith("float"):
        return b.elementwise(ops.divide, x, y)

    def truncated(left: Any, right: Any) -> Any:
        quotient = ops.floor_divide(ops.abs(left), ops.abs(right))
        sign = ops.multiply(ops.sign(left), ops.sign(right))
        return ops.cast(ops.multiply(quotient, sign), x.dtype)

    if x.dtype.startswith("uint"):
        return b.elementwise(lambda left, right: ops.cast(ops.floor_divide(left, right), x.dtype), x, y)
    return b.elementwise(truncated, x, y)


@op("Pow")
def power(b: Builder, node: Node, x: Value, y: Value) -> Value:
    ops = keras().ops
    if y.is_constant and y.array.size == 1 and x.dtype.startswith("float"):
        exponent = float(y.array.reshape(-1)[0])
        if exponent == 2.0:
            return b.unary(ops.square, x, positive=True)
        if exponent == 0.5:
            return b.unary(ops.sqrt, x, positive=True)
        return b.unary(lambda t: ops.power(t, exponent), x)

    def apply(left: Any, right: Any) -> Any:
        if x.dtype == y.dtype:
            return ops.power(left, right)
        wide = "float64" if not x.dtype.startswith("float") else x.dtype
        return ops.cast(ops.power(ops.cast(left, wide), ops.cast(right, wide)), x.dtype)

    return b.elementwise(apply, x, y)


@op("Mod")
def mod(b: Builder, node: Node, x: Value, y: Value) -> Value:
    ops = keras().ops
    if node.integer("fmod"):
        if x.dtype.startswith("uint"):  # without signs both kinds are one
            return b.elementwise(lambda left, right: ops.cast(ops.mod(left, right), x.dtype), x, y)

        def apply(left: Any, right: Any) -> Any:  # of the magnitudes, which is exact; with the dividend's sign
            rest = ops.mod(ops.abs(left), ops.abs(right))
            return ops.cast(ops.where(ops.less(left, 0), ops.negative(rest), rest), x.dtype)

        return b.elementwise(apply, x, y)
    return b.elementwise(lambda left, right: ops.cast(ops.mod(left, right), x.dtype), x, y)


def _fold(apply: Callable[..., Any]) -> Callable[..., Value]:
    def build(b: Builder, node: Node, *values: Value) -> Value:
        out = values[0]
        for more in values[1:]:
            out = apply(b, out, more)
        return out

    return build


op("Max")(_fold(lambda b, x, y: _merged(b, "Maximum", keras().ops.maximum, x, y)))
op("Min")(_fold(lambda b, x, y: _merged(b, "Minimum", keras().ops.minimum, x, y)))
op("Sum")(_fold(lambda b, x, y: _merged(b, "Add", plus, x, y)))


@op("Mean")
def mean(b: Builder, node: Node, *values: Value) -> Value:
    total = _fold(lambda b, x, y: _merged(b, "Add", plus, x, y))(b, node, *values)
    return b.unary(lambda t: keras().ops.multiply(t, 1.0 / len(values)), total)


@op("PRelu")
def prelu(b: Builder, node: Node, x: Value, slope: Value) -> Value:
    ops = keras().ops
    if slope.is_constant and x.rank >= 2 and x.dtype.startswith("float"):
        shape = (1,) * (x.rank - slope.rank) + slope.array.shape
        value, axis = x.apart(1)
        per_channel = all(n == 1 for i, n in enumerate(shape) if i != 1)
        if per_channel and axis == len(value.axes) - 1 and len(value.axes) == x.rank:
            n = int(x.shape[1] or 0)
            alpha = np.broadcast_to(slope.array.reshape(-1), (n,)).reshape((1,) * (x.rank - 2) + (n,))
            shared = list(range(1, x.rank - 1))
            return value.like(b.layer("PReLU", value.tensor, weights=[alpha], shared_axes=shared or None))
    return b.elementwise(lambda t, a: ops.where(ops.less(t, 0), ops.multiply(t, a), t), x, slope)


# --- one operand

_UNARY: dict[str, str] = {
    "Abs": "abs", "Neg": "negative", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Floor": "floor", "Ceil": "ceil",
    "Round": "round", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "arcsin", "Acos": "arccos", "Atan": "arctan",
    "Sinh": "sinh", "Cosh": "cosh", "Asinh": "arcsinh", "Acosh": "arccosh", "Atanh": "arctanh", "Erf": "erf",
    "Sign": "sign", "IsNaN": "isnan",
}  # fmt: skip
_POSITIVE = {"Abs", "Exp", "Sqrt", "Relu", "Sigmoid", "HardSigmoid", "Softplus"}


def _unary(name: str, function: str) -> None:
    @op(name)
    def build(b: Builder, node: Node, x: Value) -> Value:
        return b.unary(getattr(keras().ops, function), x, positive=name in _POSITIVE)


for _name, _function in _UNARY.items():
    _unary(_name, _function)


def _activation(name: str, activation: str) -> None:
    @op(name)
    def build(b: Builder, node: Node, x: Value) -> Value:
        return x.like(b.layer("Activation", x.tensor, activation=activation), positive=name in _POSITIVE)


for _name, _function in {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Mish": "mish",
}.items():
    _activation(_name, _function)


@op("Relu")
def relu(b: Builder, node: Node, x: Value) -> Value:
    if not x.dtype.startswith("float"):
        return b.unary(lambda t: keras().ops.maximum(t, 0), x, positive=True)
    maker = x.tensor._keras_history.operation
    if type(maker).__name__ == "Gelu":  # the same in the other order, which TensorFlow Lite has an operator for
        positive = b.layer("ReLU", maker.input)
        return x.like(b.named(keras().ops.gelu(positive, approximate=maker.approximate)), positive=True)
    return x.like(b.layer("ReLU", x.tensor), positive=True)


@op("Clip")
def clip(b: Builder, node: Node, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    ops, x = keras().ops, b.materialized(x)
    bounds = [
        float(node.real(key, default)) if v is None else v
        for key, v, default in (("min", low, -math.inf), ("max", high, math.inf))
    ]
    if any(isinstance(v, Value) and not v.is_constant for v in bounds):
        out = x if bounds[0] == -math.inf else b.elementwise(ops.maximum, x, _value(bounds[0], x))
        return out if bounds[1] == math.inf else b.elementwise(ops.minimum, out, _value(bounds[1], x))
    least, most = (v.array.reshape(-1)[0].item() if isinstance(v, Value) else v for v in bounds)
    if x.dtype.startswith("float"):
        least, most = (v if abs(v) < 3.4e38 else math.copysign(math.inf, v) for v in (least, most))
        if least == 0.0 and most > 0:
            return x.like(b.layer("ReLU", x.tensor, max_value=None if most == math.inf else most), positive=True)
    if least == -math.inf and most == math.inf:
        return x
    number = float if x.dtype.startswith("float") else lambda v: np.asarray(v, x.dtype)
    if most == math.inf:
        return b.unary(lambda t: ops.maximum(t, number(least)), x, positive=least >= 0)
    if least == -math.inf:
        return b.unary(lambda t: ops.minimum(t, number(most)), x)
    if not x.dtype.startswith("float"):
        return b.unary(lambda t: ops.minimum(ops.maximum(t, number(least)), number(most)), x)
    if least > most:
        return b.unary(lambda t: ops.minimum(ops.maximum(t, least), most), x)
    return b.unary(lambda t: ops.clip(t, least, most), x, positive=least >= 0)


def _value(bound: Any, x: Value) -> Value:
    return bound if isinstance(bound, Value) else Value.of_constant(np.asarray(bound, x.dtype))


@op("LeakyRelu")
def leaky_relu(b: Builder, node: Node, x: Value) -> Value:
    return x.like(b.layer("LeakyReLU", x.tensor, negative_slope=node.real("alpha", 0.01)))


@op("Elu")
def elu(b: Builder, node: Node, x: Value) -> Value:
    return x.like(b.layer("ELU", x.tensor, alpha=node.real("alpha", 1.0)))


@op("Selu")
def selu(b: Builder, node: Node, x: Value) -> Value:
    ops = keras().ops
    alpha, gamma = node.real("alpha", 1.6732632423543772), node.real("gamma", 1.0507009873554805)
    return b.unary(lambda t: ops.multiply(ops.elu(t, alpha), gamma), x)


@op("Celu")
def celu(b: Builder, node: Node, x: Value) -> Value:
    ops, alpha = keras().ops, node.real("alpha", 1.0)
    return b.unary(lambda t: ops.multiply(ops.elu(ops.divide(t, alpha)), alpha), x)


@op("ThresholdedRelu")
def thresholded_relu(b: Builder, node: Node, x: Value) -> Value:
    ops, alpha = keras().ops, node.real("alpha", 1.0)
    return b.unary(lambda t: ops.where(ops.greater(t, alpha), t, 0.0), x)


@op("HardSigmoid")
def hard_sigmoid(b: Builder, node: Node, x: Value) -> Value:
    ops, alpha, beta = keras().ops, node.real("alpha", 0.2), node.real("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return x.like(b.layer("Activation", x.tensor, activation="hard_sigmoid"), positive=True)
    return b.unary(lambda t: ops.clip(ops.add(ops.multiply(t, alpha), beta), 0.0, 1.0), x, positive=True)


@op("HardSwish")
def hard_swish(b: Builder, node: Node, x: Value) -> Value:
    return x.like(b.layer("Activation", x.tensor, activation="hard_swish"))


@op("Gelu")
def gelu(b: Builder, node: Node, x: Value) -> Value:
    approximate = node.text("approximate", "none") == "tanh"
    return b.unary(lambda t: keras().ops.gelu(t, approximate=approximate), x)


@op("Swish")
def swish(b: Builder, node: Node, x: Value) -> Value:
    ops, alpha = keras().ops, node.real("alpha", 1.0)
    if alpha == 1.0:
        return x.like(b.layer("Activation", x.tensor, activation="silu"))
    return b.unary(lambda t: ops.multiply(t, ops.sigmoid(ops.multiply(t, alpha))), x)


@op("Shrink")
def shrink(b: Builder, node: Node, x: Value) -> Value:
    ops, bias, lambd = keras().ops, node.real("bias"), node.real("lambd", 0.5)

    def apply(t: Any) -> Any:
        low = ops.where(ops.less(t, -lambd), ops.add(t, bias), ops.multiply(t, 0))
        return ops.where(ops.greater(t, lambd), ops.subtract(t, bias), low)

    return b.unary(apply, x)


@op("Reciprocal")
def reciprocal(b: Builder, node: Node, x: Value) -> Value:
    return b.unary(keras().ops.reciprocal, x)


@op("IsInf")
def is_inf(b: Builder, node: Node, x: Value) -> Value:
    ops = keras().ops
    up, down = node.integer("detect_positive", 1), node.integer("detect_negative", 1)
    if up and down:
        return b.unary(ops.isinf, x)
    if not up and not down:
        return b.unary(lambda t: ops.not_equal(t, t), b.unary(ops.zeros_like, x))
    return b.unary(lambda t: ops.logical_and(ops.isinf(t), ops.greater(t, 0) if up else ops.less(t, 0)), x)


@op("Identity", "Dropout")
def identity(b: Builder, node: Node, x: Value, *rest: Any) -> Any:
    if node.op == "Dropout" and len(rest) > 1 and not (rest[1].is_constant and not rest[1].array.any()):
        rate = rest[0].array.reshape(-1)[0] if rest[0] is not None and rest[0].is_constant else 1
        if rate:
            raise Unsupported("Dropout in training mode: export the model in evaluation mode")
    if node.op == "Dropout" and node.wants(1):
        mask = b.unary(lambda t: keras().ops.equal(keras().ops.zeros_like(t), 0), x)
        return x, mask
    return x


@op("Cast")
def cast(b: Builder, node: Node, x: Value) -> Value:
    return _cast(b, x, dtype_of(node.integer("to")))


@op("CastLike")
def cast_like(b: Builder, node: Node, x: Value, y: Value) -> Value:
    return _cast(b, x, y.dtype)


def _cast(b: Builder, x: Value, dtype: str) -> Value:
    if dtype in ("float16", "bfloat16", "float64") and x.dtype.startswith("float"):
        return x  # real numbers are float32 throughout
    wanted = "float32" if dtype in ("float16", "bfloat16", "float64") else dtype
    if wanted == x.dtype:
        return x
    if (
        wanted in ("string", "unknown")
        or wanted.startswith(("float8", "float4", "complex"))
        or "int4" in wanted
        or "int2" in wanted
    ):
        raise Unsupported(f"a cast to {wanted}")
    if x.is_constant:  # and only the type is computed
        first, second = (np.asarray(a).astype(wanted) for a in x.constant.at)  # type: ignore[union-attr]
        return Value.of_constant(first, second)
    ops = keras().ops
    if x.dtype.startswith("float") and wanted != "bool" and not wanted.startswith("float"):
        return b.unary(lambda t: ops.cast(ops.trunc(t), wanted), x)
    if wanted == "bool":
        return b.unary(lambda t: ops.not_equal(t, 0), x)
    return b.unary(lambda t: ops.cast(t, wanted), x, positive=x.positive)


# --- along an axis


def _softmax_like(b: Builder, node: Node, x: Value, build: Callable[[Any, int], Any]) -> Value:
    axis = node.integer("axis", -1 if node.opset >= 13 else 1)
    axis = axis + x.rank if axis < 0 else axis
    if node.opset < 13 and axis != x.rank - 1 and any(n != 1 for n in x.shape[axis + 1 :]):
        return _softmax_of_rows(b, x, axis, build)
    if x.rank == 0:
        raise Unsupported("a scalar input")
    refuse_mixing(b, x, [axis])
    value, at = x.apart(axis)
    if len(value.axes) > 5:  # more than TensorFlow's kernels take
        rows = (flat((*value.axes[:at], *value.axes[at + 1 :])), value.axes[at])
        out = build(value.lay(rows), 1)
        return Value(value.dims, rows, out, None, out.dtype)
    return value.like(build(value.tensor, at))


def _softmax_of_rows(b: Builder, x: Value, axis: int, build: Callable[[Any, int], Any]) -> Value:
    """Before opset 13, everything from `axis` on was one row."""
    refuse_mixing(b, x, range(axis, x.rank))
    rows = (flat(x.dims[:axis]), flat(x.dims[axis:]))
    out = build(x.lay(rows), 1)
    return Value(x.dims, rows, out, None, out.dtype)


@op("Softmax")
def softmax(b: Builder, node: Node, x: Value) -> Value:
    out = _softmax_like(b, node, x, lambda t, at: b.layer("Softmax", t, axis=at if at != len(t.shape) - 1 else -1))
    out.positive = True
    return out


@op("LogSoftmax")
def log_softmax(b: Builder, node: Node, x: Value) -> Value:
    return _softmax_like(b, node, x, lambda t, at: b.named(keras().ops.log_softmax(t, axis=at)))


@op("Hardmax")
def hardmax(b: Builder, node: Node, x: Value) -> Value:
    ops = keras().ops

    def build(t: Any, at: int) -> Any:
        shape = [1] * len(t.shape)
        shape[at] = int(t.shape[at])
        first = ops.cast(ops.argmax(t, axis=at, keepdims=True), "int32")
        return b.named(ops.cast(ops.equal(first, np.arange(shape[at], dtype=np.int32).reshape(shape)), x.dtype))

    return _softmax_like(b, node, x, build)


@op("CumSum", "CumProd")
def cumulative(b: Builder, node: Node, x: Value, axis: Value) -> Value:
    ops = keras().ops
    index = axis_of(int(axis.array.reshape(-1)[0]), x.rank)
    if x.shape[index] is None:
        raise Unsupported("a running total over the batch")
    value, at = x.apart(index)
    t, length = value.tensor, int(x.shape[index] or 1)
    if node.integer("reverse"):
        t = ops.flip(t, axis=at)
    if node.integer("exclusive"):
        pads = [(0, 0)] * len(t.shape)
        pads[at] = (1, 0)
        first = 0 if node.op == "CumSum" else 1
        shifted = ops.pad(t, pads, constant_values=float(first) if x.dtype.startswith("float") else first)
        t = shifted[tuple(slice(0, length) if i == at else slice(None) for i in range(len(pads)))]
    total = ops.cumsum(t, axis=at) if node.op == "CumSum" else ops.cumprod(t, axis=at)
    if node.integer("reverse"):
        total = ops.flip(total, axis=at)
    return value.like(b.named(ops.cast(total, x.dtype)))


__all__ = ["dtype_of", "plus"]
