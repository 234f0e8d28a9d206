"""Activations of Caffe in ONNX: functions of one input, softmax and dropout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .layers import Builder, CaffeGraph, affine_power, builds, scaled
from .net import Layer


@builds("ReLU")
def relu(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """With a slope for negative values where one is given."""
    slope = layer.spec.relu_param.negative_slope
    if slope:
        g.add("LeakyRelu", xs[0], name=layer.name, out=layer.tops[0], alpha=slope)
    else:
        g.add("Relu", xs[0], name=layer.name, out=layer.tops[0])


@builds("PReLU")
def prelu(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """One slope for each channel, or one for all."""
    channels, *sizes = g.fixed(xs[0], 1)
    n = 1 if layer.spec.prelu_param.channel_shared else channels
    slope = layer.weight(0, (n,)).reshape(n, *(1 for _ in sizes))
    g.add("PRelu", xs[0], g.constant(slope, f"{layer.name}/slope"), name=layer.name, out=layer.tops[0])


@builds("ReLU6")
def relu6(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """ReLU up to 6."""
    _clip(g, layer, xs[0], 0.0, 6.0)


@builds("Clip")
def clip(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Limited to [min, max]."""
    _clip(g, layer, xs[0], layer.spec.clip_param.min, layer.spec.clip_param.max)


def _clip(g: CaffeGraph, layer: Layer, x: str, low: float, high: float) -> None:
    limits = (g.scalar(low, x, f"{layer.name}/min"), g.scalar(high, x, f"{layer.name}/max"))
    g.add("Clip", x, *limits, name=layer.name, out=layer.tops[0])


def _same_name(op: str) -> Builder:
    def build(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
        g.add(op, xs[0], name=layer.name, out=layer.tops[0])

    return build


for _type, _op in {"Sigmoid": "Sigmoid", "TanH": "Tanh", "AbsVal": "Abs", "BNLL": "Softplus"}.items():
    builds(_type)(_same_name(_op))


@builds("ELU")
def elu(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Exponential linear unit."""
    g.add("Elu", xs[0], name=layer.name, out=layer.tops[0], alpha=layer.spec.elu_param.alpha)


@builds("Swish")
def swish(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """x * sigmoid(beta * x)."""
    inner = scaled(g, xs[0], layer.spec.swish_param.beta, f"{layer.name}/scale")
    gate = g.add("Sigmoid", inner, name=f"{layer.name}/sigmoid")
    g.add("Mul", xs[0], gate, name=layer.name, out=layer.tops[0])


@builds("Dropout")
def dropout(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Nothing at inference; kept as an operator, so that the model can be trained on."""
    p = layer.spec.dropout_param
    if not p.scale_train:
        affine_power(g, xs[0], 1 - p.dropout_ratio, 0.0, 1.0, layer.name, layer.tops[0])
        return
    ratio = g.constant(np.float32(p.dropout_ratio), f"{layer.name}/ratio")
    g.add_many("Dropout", xs[0], ratio, name=layer.name, outs=(layer.tops[0],))


@builds("Softmax")
def softmax(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Over the channels, unless told otherwise."""
    axis = g.inner_axis(xs[0], layer.spec.softmax_param.axis)
    g.add("Softmax", xs[0], name=layer.name, out=layer.tops[0], axis=axis)
