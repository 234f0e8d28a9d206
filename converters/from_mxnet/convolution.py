"""MXNet's convolutions, inner products, pooling and upsampling in ONNX."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._onnx_build import Unsupported, Window, pool, text
from .ops import MxGraph, Op, builds, scalar_op


@builds("Convolution", "Convolution_v1", inputs=(2, 3))
def convolution(g: MxGraph, op: Op) -> None:
    """Channels first, one to three spatial dimensions."""
    kernel, shared = _windows(g, op, op.whole("num_filter", None))
    group = op.whole("num_group", 1)
    channels = g.fixed(op.xs[0], 1)[0]
    filters = op.whole("num_filter", None)
    inputs = _weights(g, op, (filters, channels // max(group, 1), *kernel), filters)
    g.add("Conv", *inputs, name=op.name, out=op.outs[0], group=group, **shared)


@builds("Deconvolution", inputs=(2, 3))
def deconvolution(g: MxGraph, op: Op) -> None:
    """Transposed convolution; `target_shape` decides the padding where it is given (`DeconvolutionParam::InferPad`)."""
    filters = op.whole("num_filter", None)
    kernel, shared = _windows(g, op, filters)
    n = len(kernel)
    adjust = op.ints("adj", n, 0)
    if any(op.ints("target_shape", n, 0)):  # zeros, which old files write, stand for none
        target, sizes = op.ints("target_shape", n, None), g.fixed(op.xs[0], 2)
        full = [
            s * (i - 1) + d * (k - 1) + 1
            for s, i, d, k in zip(shared["strides"], sizes, shared["dilations"], kernel, strict=True)
        ]
        over = [f - t for f, t in zip(full, target, strict=True)]
        if any(o < 0 for o in over):
            raise Unsupported(f"its target_shape {target} is larger than {full}")
        adjust = tuple(o % 2 for o in over)
        pads = tuple((o + 1) // 2 for o in over)
        shared["pads"] = (*pads, *pads)
    group = op.whole("num_group", 1)
    channels = g.fixed(op.xs[0], 1)[0]
    inputs = _weights(g, op, (channels, filters // max(group, 1), *kernel), filters, no_bias=True)
    g.add("ConvTranspose", *inputs, name=op.name, out=op.outs[0], group=group, output_padding=adjust, **shared)


def _windows(g: MxGraph, op: Op, filters: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    n = g.rank(op.xs[0]) - 2
    if n not in (1, 2, 3) or not filters or filters < 1:
        raise Unsupported(f"its input {text(g.shape(op.xs[0]))} has no spatial dimensions")
    if op.whole("num_group", 1) < 1:
        raise Unsupported(f"it has {op.whole('num_group', 1)} groups")
    op.only("layout", "None", ("NCW", "NCHW", "NCDHW")[n - 1])
    kernel, pad = op.ints("kernel", n, None), op.ints("pad", n, 0)
    shared = {"strides": op.ints("stride", n, 1), "dilations": op.ints("dilate", n, 1), "pads": (*pad, *pad)}
    return kernel, {**shared, "kernel_shape": kernel}


def _weights(g: MxGraph, op: Op, shape: tuple[int, ...], outputs: int, *, no_bias: bool = False) -> list[str]:
    """Data, weight and, unless no_bias (whose default differs), bias; the shapes of both are checked."""
    wanted = [shape] if op.flag("no_bias", no_bias) else [shape, (outputs,)]
    if len(op.xs) <= len(wanted):
        raise Unsupported("its bias is missing")
    for x, needed in zip(op.xs[1:], wanted, strict=False):
        if g.shape(x) != needed:
            raise Unsupported(f"its parameter '{x}' is {text(g.shape(x))}, and {text(needed)} is needed")
    return list(op.xs[: len(wanted) + 1])


@builds("FullyConnected", inputs=(2, 3))
def fully_connected(g: MxGraph, op: Op) -> None:
    """All dimensions behind the first as one vector, or only the last with flatten=False."""
    x, hidden = op.xs[0], op.whole("num_hidden", None)
    if op.flag("flatten", True):
        if g.rank(x) != 2:
            x = g.add("Flatten", x, name=f"{op.name}/flatten", axis=1)
        inputs = _weights(g, op, (hidden, *g.fixed(x, 1)), hidden)
        g.add("Gemm", x, *inputs[1:], name=op.name, out=op.outs[0], transB=1)
        return
    _, weight, *bias = _weights(g, op, (hidden, *g.fixed(x, g.rank(x) - 1)), hidden)
    turned = g.constant(g.value(weight).T, f"{op.name}/weight")
    if not bias:
        g.add("MatMul", x, turned, name=op.name, out=op.outs[0])
    else:
        y = g.add("MatMul", x, turned, name=op.name)
        g.add("Add", y, *bias, name=f"{op.name}/add", out=op.outs[0])


@builds("dot", "batch_dot", "_linalg_gemm2", inputs=2)
def dot(g: MxGraph, op: Op) -> None:
    """Matrix products; `dot` of more than two dimensions only where the second is a matrix."""
    a, b = op.xs
    ranks = g.rank(a), g.rank(b)
    wrong = (op.node.op == "dot" and ranks[1] != 2) or (op.node.op == "batch_dot" and ranks != (3, 3))
    if wrong or min(ranks) < 2:
        raise Unsupported(f"a product of {text(g.shape(a))} and {text(g.shape(b))} is not imported")
    if op.flag("transpose_a", False):
        if op.node.op == "dot" and ranks[0] != 2:
            raise Unsupported("transpose_a of more than two dimensions")
        a = _turned(g, a, f"{op.name}/a")
    if op.flag("transpose_b", False):
        b = _turned(g, b, f"{op.name}/b")
    if op.get("alpha", 1.0) != 1:
        raise Unsupported("its parameter alpha is not 1")
    g.add("MatMul", a, b, name=op.name, out=op.outs[0])


def _turned(g: MxGraph, x: str, name: str) -> str:
    order = [*range(g.rank(x) - 2), g.rank(x) - 1, g.rank(x) - 2]
    return g.add("Transpose", x, name=name, perm=order)


@builds("Pooling", "Pooling_v1")
def pooling(g: MxGraph, op: Op) -> None:
    """`nn/pooling.cc`: "valid" rounds the size down, "full" up; the first version always divides by the whole window."""
    x, kind = op.xs[0], op.only("pool_type", "max", "avg", "sum")
    n = g.rank(x) - 2
    if n not in (1, 2, 3):
        raise Unsupported(f"its input {text(g.shape(x))} has no spatial dimensions")
    op.only("layout", "None", ("NCW", "NCHW", "NCDHW")[n - 1])
    if op.flag("global_pool", False):
        axes = tuple(range(2, n + 2))
        if kind == "sum":
            g.add("ReduceSum", x, g.ints(axes, f"{op.name}/axes"), name=op.name, out=op.outs[0], keepdims=1)
        else:
            g.add("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", x, name=op.name, out=op.outs[0])
        return
    kernel, stride, pads = op.ints("kernel", n, None), op.ints("stride", n, 1), op.ints("pad", n, 0)
    if 0 in kernel or 0 in stride or any(p >= k for p, k in zip(pads, kernel, strict=True)):
        raise Unsupported(f"a window of {text(kernel)} with stride {text(stride)} and padding {text(pads)}")
    up = op.only("pooling_convention", "valid", "full") == "full"
    free = [s + 2 * p - k for s, p, k in zip(g.fixed(x, 2), pads, kernel, strict=True)]
    out = tuple((-(-f // s) if up else f // s) + 1 for f, s in zip(free, stride, strict=True))
    if min(out) < 1:
        raise Unsupported(f"a window of {text(kernel)} does not fit {text(g.shape(x))}")
    window = Window(kernel, stride, pads, out)
    if op.node.op == "Pooling_v1" and kind == "avg":
        total = pool(g, x, "sum", window, f"{op.name}/sum")
        scalar_op(g, op, "Mul", total, 1 / math.prod(kernel))
    else:
        pool(g, x, kind, window, op.name, op.outs[0], padding_counts=op.flag("count_include_pad", True))


@builds("_contrib_AdaptiveAvgPooling2D")
def adaptive_pooling(g: MxGraph, op: Op) -> None:
    """Only to one pixel, which is its default."""
    if op.get("output_size", (1, 1), (tuple, int)) not in ((), (1,), (1, 1), 1):
        raise Unsupported("only output_size 1 is imported")
    g.add("GlobalAveragePool", op.xs[0], name=op.name, out=op.outs[0])


@builds("UpSampling", inputs=(1, 2))
def up_sampling(g: MxGraph, op: Op) -> None:
    """Each pixel repeated; bilinear is a deconvolution with stored weights there, and refused here."""
    op.only("sample_type", "nearest")
    if len(op.xs) != 1:
        raise Unsupported("several inputs are not imported")
    scale = op.whole("scale", None)
    if not scale or not 0 < scale < 256:
        raise Unsupported(f"its scale is {scale}")
    scales = g.constant(np.asarray([1, 1, scale, scale], np.float32), f"{op.name}/scales")
    how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    g.add("Resize", op.xs[0], "", scales, name=op.name, out=op.outs[0], **how)
