"""MXNet's activation functions and softmaxes in ONNX."""

from __future__ import annotations

import math

from .._onnx_build import Unsupported, axis_of, reshape
from .ops import MxGraph, Op, builds, scalar_op


@builds("Activation")
def activation(g: MxGraph, op: Op) -> None:
    """By name."""
    known = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
    kind = op.only("act_type", *known)
    g.add(known[kind], op.xs[0], name=op.name, out=op.outs[0])


@builds("LeakyReLU", inputs=(1, 2))
def leaky_relu(g: MxGraph, op: Op) -> None:
    """And its relatives; `rrelu` at inference has the mean of its slopes."""
    x, kind = op.xs[0], op.only("act_type", "leaky", "prelu", "elu", "selu", "gelu", "rrelu")
    slope = op.number("slope", 0.25)
    if kind == "rrelu":
        kind, slope = "leaky", (op.number("lower_bound", 0.125) + op.number("upper_bound", 0.334)) / 2
    if kind == "leaky":
        g.add("LeakyRelu", x, name=op.name, out=op.outs[0], alpha=slope)
    elif kind == "elu":
        g.add("Elu", x, name=op.name, out=op.outs[0], alpha=slope)
    elif kind == "selu":
        g.add("Selu", x, name=op.name, out=op.outs[0])
    elif kind == "gelu":
        _gelu(g, op, x)
    else:
        _prelu(g, op, x)


def _gelu(g: MxGraph, op: Op, x: str) -> None:
    """x * (1 + erf(x / sqrt 2)) / 2."""
    inner = g.add("Mul", x, g.scalar(math.sqrt(0.5), x, f"{op.name}/root"), name=f"{op.name}/inner")
    erf = g.add("Erf", inner, name=f"{op.name}/erf")
    plus = g.add("Add", erf, g.scalar(1.0, x, f"{op.name}/one"), name=f"{op.name}/plus")
    twice = g.add("Mul", x, plus, name=f"{op.name}/twice")
    scalar_op(g, op, "Mul", twice, 0.5)


def _prelu(g: MxGraph, op: Op, x: str) -> None:
    if len(op.xs) < 2:
        raise Unsupported("its slopes are missing")
    slope = g.value(op.xs[1]).reshape(-1)
    channels, *sizes = g.fixed(x, 1)
    if slope.size not in (1, channels):
        raise Unsupported(f"{slope.size} slopes do not fit {channels} channels")
    shaped = slope.reshape(-1, *(1 for _ in sizes))
    g.add("PRelu", x, g.constant(shaped, f"{op.name}/slope"), name=op.name, out=op.outs[0])


@builds("hard_sigmoid")
def hard_sigmoid(g: MxGraph, op: Op) -> None:
    """clip(alpha * x + beta, 0, 1)."""
    alpha, beta = op.number("alpha", 0.2), op.number("beta", 0.5)
    g.add("HardSigmoid", op.xs[0], name=op.name, out=op.outs[0], alpha=alpha, beta=beta)


@builds("clip")
def clip(g: MxGraph, op: Op) -> None:
    """Limited to [a_min, a_max]."""
    x = op.xs[0]
    limits = [g.scalar(op.number(key), x, f"{op.name}/{key}") for key in ("a_min", "a_max")]
    g.add("Clip", x, *limits, name=op.name, out=op.outs[0])


@builds("softmax", "log_softmax")
def softmax(g: MxGraph, op: Op) -> None:
    """Over the last dimension, unless told otherwise."""
    x, temperature = op.xs[0], op.get("temperature", None)
    axis = axis_of(op.whole("axis", -1), g.rank(x))
    if op.flag("use_length", False):
        raise Unsupported("use_length is not imported")
    if temperature not in (None, 1, 1.0):
        x = g.add("Div", x, g.scalar(float(temperature), x, f"{op.name}/temperature"), name=f"{op.name}/scale")
    kind = "LogSoftmax" if op.node.op == "log_softmax" else "Softmax"
    g.add(kind, x, name=op.name, out=op.outs[0], axis=axis)


@builds("SoftmaxActivation")
def softmax_activation(g: MxGraph, op: Op) -> None:
    """Over the channels, or (mode=instance, the default) the last dimension."""
    axis = 1 if op.only("mode", "instance", "channel") == "channel" else -1
    g.add("Softmax", op.xs[0], name=op.name, out=op.outs[0], axis=axis)


@builds("SoftmaxOutput", "Softmax", inputs=(1, 2))
def softmax_output(g: MxGraph, op: Op) -> None:
    """Over the channels (multi_output), the last dimension (preserve_shape), or all but the batch."""
    x = op.xs[0]
    channel = op.flag("multi_output", False)
    if channel or g.rank(x) == 2 or op.flag("preserve_shape", False):
        g.add("Softmax", x, name=op.name, out=op.outs[0], axis=1 if channel else -1)
        return
    flat = g.add("Flatten", x, name=f"{op.name}/flatten", axis=1)
    soft = g.add("Softmax", flat, name=f"{op.name}/softmax", axis=-1)
    reshape(g, soft, (0, *g.fixed(x, 1)), op.name, op.outs[0])
