"""MXNet's normalization and dropout in ONNX."""

from __future__ import annotations

import numpy as np

from .._onnx_build import Unsupported, axis_of, text
from .ops import MxGraph, Op, builds


@builds("BatchNorm", "BatchNorm_v1", "CuDNNBatchNorm", "_contrib_SyncBatchNorm", inputs=5)
def batch_norm(g: MxGraph, op: Op) -> None:
    """With the stored statistics; fix_gamma (the default) means a gain of 1 whatever is stored."""
    x, gamma, beta, mean, var = op.xs
    if op.whole("axis", 1) not in (1, 1 - g.rank(x)):
        raise Unsupported("only axis 1 is imported")
    if op.flag("fix_gamma", True):
        gamma = g.constant(np.ones_like(g.value(gamma)), f"{op.name}/ones")
    for part in (gamma, beta, mean, var):
        if g.shape(part) != g.fixed(x, 1)[:1]:
            raise Unsupported(f"'{part}' is {text(g.shape(part))}, and the input has {g.fixed(x, 1)[0]} channels")
    eps = op.number("eps", 1e-3)
    g.add("BatchNormalization", x, gamma, beta, mean, var, name=op.name, out=op.outs[0], epsilon=eps)


@builds("InstanceNorm", inputs=3)
def instance_norm(g: MxGraph, op: Op) -> None:
    """Statistics of every image and channel."""
    g.add("InstanceNormalization", *op.xs, name=op.name, out=op.outs[0], epsilon=op.number("eps", 1e-3))


@builds("LayerNorm", inputs=3)
def layer_norm(g: MxGraph, op: Op) -> None:
    """Over the last dimension."""
    axis = axis_of(op.whole("axis", -1), g.rank(op.xs[0]))
    if axis != g.rank(op.xs[0]) - 1:
        raise Unsupported("only the last axis is imported")
    g.add("LayerNormalization", *op.xs, name=op.name, out=op.outs[0], axis=-1, epsilon=op.number("eps", 1e-5))


@builds("LRN")
def lrn(g: MxGraph, op: Op) -> None:
    """Across channels."""
    size = op.whole("nsize", None)
    if not size or size % 2 == 0:
        raise Unsupported(f"its nsize {size} is not odd")
    alpha, beta, k = (op.number(key, v) for key, v in (("alpha", 1e-4), ("beta", 0.75), ("knorm", 2.0)))
    g.add("LRN", op.xs[0], name=op.name, out=op.outs[0], size=size, alpha=alpha, beta=beta, bias=k)


@builds("L2Normalization")
def l2_normalization(g: MxGraph, op: Op) -> None:
    """Over each sample ("instance"), over the channels of each pixel, or over the pixels of each channel."""
    x, mode = op.xs[0], op.only("mode", "instance", "channel", "spatial")
    axes = {"instance": range(1, g.rank(x)), "channel": (1,), "spatial": range(2, g.rank(x))}[mode]
    square = g.add("Mul", x, x, name=f"{op.name}/square")
    total = g.add("ReduceSum", square, g.ints(tuple(axes), f"{op.name}/axes"), name=f"{op.name}/sum", keepdims=1)
    safe = g.add("Add", total, g.scalar(op.number("eps", 1e-10), x, f"{op.name}/eps"), name=f"{op.name}/safe")
    g.add("Div", x, g.add("Sqrt", safe, name=f"{op.name}/norm"), name=op.name, out=op.outs[0])


@builds("Dropout")
def dropout(g: MxGraph, op: Op) -> None:
    """Nothing at inference; kept as an operator, so that the model can be trained on."""
    ratio = g.constant(np.float32(op.number("p", 0.5)), f"{op.name}/ratio")
    g.add("Dropout", op.xs[0], ratio, name=op.name, out=op.outs[0])
