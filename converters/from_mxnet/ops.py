"""MXNet operators in ONNX: one function an operator, found in one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from .._onnx import array
from .._onnx_build import (
    Graph,
    Shape,
    Unsupported,
    Window,
    axis_of,
    pool,
    reshape,
    text,
)
from .files import Node, parse_value

AXES_MAX = 32


@dataclass(frozen=True, slots=True)
class Op:
    """A node with its inputs as ONNX tensors; `outs` are the names its outputs are to have."""

    node: Node
    xs: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    def get(self, key: str, default: Any, kind: type | tuple[type, ...] = (int, float)) -> Any:
        """A parameter, or `default` where it is not written. Raises Unsupported where it is not of this kind."""
        if key not in self.node.attrs:
            return default
        value = parse_value(self.node.attrs[key])
        if value is None and default is None:
            return None
        wrong = isinstance(value, bool) and kind is not bool
        if kind is bool and value in (0, 1):
            return bool(value)
        if kind is str:
            return str(value)
        if not isinstance(value, kind) or wrong or (isinstance(value, float) and math.isnan(value)):
            raise Unsupported(f"its parameter {key}={self.node.attrs[key][:60]} cannot be read")
        return value

    def whole(self, key: str, default: Any) -> Any:
        """A whole number."""
        return self.get(key, default, int)

    def needed(self, key: str) -> int:
        """A whole number that has to be written."""
        value = self.whole(key, None)
        if value is None:
            raise Unsupported(f"its parameter {key} is missing")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default it has to be written."""
        value = self.get(key, default)
        if value is None or not -1e38 < value < 1e38:
            raise Unsupported(f"its parameter {key} is missing or not a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        return bool(self.get(key, default, bool))

    def word(self, key: str, default: str) -> str:
        """A text."""
        return str(self.get(key, default, str))

    def ints(self, key: str, n: int, default: int | None) -> tuple[int, ...]:
        """A tuple of `n` whole numbers; one number stands for all of them."""
        value = self.get(key, (), (tuple, int))
        values = (value,) * n if isinstance(value, int) else value
        if not values and default is not None:
            return (default,) * n
        if len(values) != n or not all(isinstance(v, int) and 0 <= v < 1 << 16 for v in values):
            raise Unsupported(f"its parameter {key}={self.node.attrs.get(key)} does not fit {n} dimensions")
        return tuple(values)

    def only(self, key: str, *allowed: str) -> str:
        """A text that has to be one of these; the first is the default."""
        value = self.word(key, allowed[0])
        if value not in allowed:
            raise Unsupported(f"its parameter {key}={value} is not imported")
        return value


@dataclass(slots=True)
class MxGraph(Graph):
    """A Graph with the values of the parameter file, which become constants where they are used."""

    def value(self, x: str) -> Array:
        """A parameter's value. Raises Unsupported for what is computed."""

        if x not in self.constants:
            raise Unsupported(f"its input '{x}' is not a stored parameter")
        return array(self.constants[x])


Builder = Callable[[MxGraph, Op], None]
OPS: dict[str, Builder] = {}
ARITY: dict[str, tuple[int, int]] = {}
MANY = 1 << 16
LABELLED = frozenset(
    {
        "SoftmaxOutput",
        "Softmax",
        "LogisticRegressionOutput",
        "LinearRegressionOutput",
        "MAERegressionOutput",
        "SVMOutput",
    }
)  # operators whose second input is a label: only the first counts
REFUSED = {
    "_contrib_MultiBoxDetection": "non-maximum suppression is left to the application: end the model before it",
    "_contrib_box_nms": "non-maximum suppression is left to the application: end the model before it",
    "Custom": "it runs Python code that is not in the file",
    "_arange": "it makes a tensor of its own, without an input",
    "arange": "it makes a tensor of its own, without an input",
    "RNN": "fused recurrent layers are not imported; unfuse the cell before saving (FusedRNNCell.unfuse)",
    "ROIPooling": "regions of interest are not imported",
}


def builds(*names: str, inputs: int | tuple[int, int] = 1) -> Callable[[Builder], Builder]:
    """Register the builder of operators with this many inputs (or from, to)."""

    def register(builder: Builder) -> Builder:
        for name in names:
            OPS[name] = builder
            ARITY[name] = (inputs, inputs) if isinstance(inputs, int) else inputs
        return builder

    return register


# convolution, inner products


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


@builds("Embedding", inputs=2)
def embedding(g: MxGraph, op: Op) -> None:
    """Rows of a table; MXNet holds indices as floats."""
    index = g.add("Cast", op.xs[0], name=f"{op.name}/index", to=7)
    g.add("Gather", op.xs[1], index, name=op.name, out=op.outs[0], axis=0)


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


# pooling and normalization


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
        _scalar_op(g, op, "Mul", total, 1 / math.prod(kernel))
    else:
        pool(g, x, kind, window, op.name, op.outs[0], padding_counts=op.flag("count_include_pad", True))


@builds("_contrib_AdaptiveAvgPooling2D")
def adaptive_pooling(g: MxGraph, op: Op) -> None:
    """Only to one pixel, which is its default."""
    if op.get("output_size", (1, 1), (tuple, int)) not in ((), (1,), (1, 1), 1):
        raise Unsupported("only output_size 1 is imported")
    g.add("GlobalAveragePool", op.xs[0], name=op.name, out=op.outs[0])


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


# element by element

UNARY = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
    "negative": "Neg", "_np_negative": "Neg", "sin": "Sin", "cos": "Cos", "floor": "Floor", "ceil": "Ceil",
    "sign": "Sign", "erf": "Erf", "softsign": "Softsign", "reciprocal": "Reciprocal", "arctan": "Atan",
    "_copy": "Identity", "identity": "Identity", "BlockGrad": "Identity", "stop_gradient": "Identity",
    "MakeLoss": "Identity", "make_loss": "Identity", "LinearRegressionOutput": "Identity", "SVMOutput": "Identity",
    "MAERegressionOutput": "Identity", "LogisticRegressionOutput": "Sigmoid", "amp_cast": "Identity",
    "IdentityAttachKLSparseReg": "Identity", "_identity_with_attr_like_rhs": "Identity",
}  # fmt: skip


def _unary(onnx_op: str) -> Builder:
    def build(g: MxGraph, op: Op) -> None:
        g.add(onnx_op, op.xs[0], name=op.name, out=op.outs[0])

    return build


for _name, _onnx_op in UNARY.items():
    builds(_name, inputs=(1, 2) if _name in LABELLED else 1)(_unary(_onnx_op))

BINARY = {
    "Add": ("elemwise_add", "_plus", "_Plus", "_add", "broadcast_add", "broadcast_plus", "_grad_add"),
    "Sub": ("elemwise_sub", "_minus", "_Minus", "_sub", "broadcast_sub", "broadcast_minus"),
    "Mul": ("elemwise_mul", "_mul", "_Mul", "broadcast_mul"),
    "Div": ("elemwise_div", "_div", "_Div", "broadcast_div"),
    "Pow": ("_power", "_Power", "broadcast_power"),
    "Max": ("_maximum", "_Maximum", "broadcast_maximum"),
    "Min": ("_minimum", "_Minimum", "broadcast_minimum"),
}


def _binary(onnx_op: str) -> Builder:
    def build(g: MxGraph, op: Op) -> None:
        a, b = op.xs
        if not op.node.op.startswith("broadcast") and g.rank(a) != g.rank(b):
            raise Unsupported(f"its inputs {text(g.shape(a))} and {text(g.shape(b))} differ in shape")
        g.add(onnx_op, a, b, name=op.name, out=op.outs[0])

    return build


for _onnx_op, _names in BINARY.items():
    builds(*_names, inputs=2)(_binary(_onnx_op))

SCALAR = {  # operator -> ONNX's, and whether the scalar comes first
    "_plus_scalar": ("Add", False), "_PlusScalar": ("Add", False), "_minus_scalar": ("Sub", False),
    "_MinusScalar": ("Sub", False), "_rminus_scalar": ("Sub", True), "_RMinusScalar": ("Sub", True),
    "_mul_scalar": ("Mul", False), "_MulScalar": ("Mul", False), "_div_scalar": ("Div", False),
    "_DivScalar": ("Div", False), "_rdiv_scalar": ("Div", True), "_RDivScalar": ("Div", True),
    "_power_scalar": ("Pow", False), "_PowerScalar": ("Pow", False), "_rpower_scalar": ("Pow", True),
    "_RPowerScalar": ("Pow", True), "_maximum_scalar": ("Max", False), "_MaximumScalar": ("Max", False),
    "_minimum_scalar": ("Min", False), "_MinimumScalar": ("Min", False),
}  # fmt: skip


def _with_scalar(onnx_op: str, *, first: bool) -> Builder:
    def build(g: MxGraph, op: Op) -> None:
        _scalar_op(g, op, onnx_op, op.xs[0], op.number("scalar", 0.0), first=first)

    return build


def _scalar_op(g: MxGraph, op: Op, onnx_op: str, x: str, value: float, *, first: bool = False) -> None:
    other = g.scalar(value, x, f"{op.name}/scalar")
    g.add(onnx_op, *((other, x) if first else (x, other)), name=op.name, out=op.outs[0])


for _name, (_onnx_op, _first) in SCALAR.items():
    builds(_name)(_with_scalar(_onnx_op, first=_first))


@builds("add_n", "ElementWiseSum", "_sum", inputs=(1, MANY))
def add_n(g: MxGraph, op: Op) -> None:
    """The sum of all inputs."""
    if len({g.shape(x) for x in op.xs}) > 1:
        raise Unsupported("its inputs differ in shape")
    g.add("Sum", *op.xs, name=op.name, out=op.outs[0])


@builds("square")
def square(g: MxGraph, op: Op) -> None:
    """x * x."""
    g.add("Mul", op.xs[0], op.xs[0], name=op.name, out=op.outs[0])


@builds("rint")
def rint(g: MxGraph, op: Op) -> None:
    """To the nearest whole number; a half goes down (`mshadow_op.h`), where ONNX's Round goes to the even one."""
    half = g.scalar(0.5, op.xs[0], f"{op.name}/half")
    g.add("Ceil", g.add("Sub", op.xs[0], half, name=f"{op.name}/shift"), name=op.name, out=op.outs[0])


@builds("rsqrt")
def rsqrt(g: MxGraph, op: Op) -> None:
    """1 / sqrt(x)."""
    g.add("Reciprocal", g.add("Sqrt", op.xs[0], name=f"{op.name}/sqrt"), name=op.name, out=op.outs[0])


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
    _scalar_op(g, op, "Mul", twice, 0.5)


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


@builds("Cast", "cast")
def cast(g: MxGraph, op: Op) -> None:
    """To another type; half precision stays float32 here."""
    codes = {"float32": 1, "float64": 1, "float16": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}
    g.add("Cast", op.xs[0], name=op.name, out=op.outs[0], to=codes[op.only("dtype", *codes)])


@builds("Dropout")
def dropout(g: MxGraph, op: Op) -> None:
    """Nothing at inference; kept as an operator, so that the model can be trained on."""
    ratio = g.constant(np.float32(op.number("p", 0.5)), f"{op.name}/ratio")
    g.add("Dropout", op.xs[0], ratio, name=op.name, out=op.outs[0])


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


@builds("where", inputs=3)
def where(g: MxGraph, op: Op) -> None:
    """The second input where the first is not zero, else the third."""
    condition = g.add("Cast", op.xs[0], name=f"{op.name}/condition", to=9)
    g.add("Where", condition, *op.xs[1:], name=op.name, out=op.outs[0])


# shapes


@builds("Flatten", "flatten")
def flatten(g: MxGraph, op: Op) -> None:
    """All dimensions behind the first as one."""
    g.add("Flatten", op.xs[0], name=op.name, out=op.outs[0], axis=1)


@builds("Reshape", "reshape")
def reshape_op(g: MxGraph, op: Op) -> None:
    """With the special codes 0, -1, -2, -3 and -4 of `matrix_op.cc`."""
    codes = op.get("shape", (), (tuple, int))
    codes = (codes,) if isinstance(codes, int) else codes
    if not codes:
        codes = tuple(op.get("target_shape", (), tuple))  # before 0.7; 0 stood for what is left
        codes = tuple(-1 if c == 0 else c for c in codes)
        if op.flag("keep_highest", False):
            codes = (0, *codes[1:])
    if op.flag("reverse", False):
        raise Unsupported("reverse=True is not imported")
    target = reshaped(g.shape(op.xs[0]), codes)
    reshape(g, op.xs[0], target, op.name, op.outs[0])


def reshaped(shape: Shape, codes: Sequence[Any]) -> tuple[int, ...]:
    """The shape that MXNet's codes make of `shape`, as ONNX's Reshape reads it.

    >>> reshaped(("N", 6, 4, 5), (0, -4, 2, -1, -3)), reshaped((2, 3, 4), (-2, 1)), reshaped(("N", 8), (-1, 4))
    ((0, 2, 3, 20), (2, 3, 4, 1), (-1, 4))
    """
    if len(codes) > AXES_MAX or not all(isinstance(c, int) and -4 <= c < 1 << 31 for c in codes) or not codes:
        raise Unsupported(f"its shape {codes} cannot be read")
    found: list[int | str | None] = []
    left, todo = list(shape), list(codes)
    try:
        while todo:
            code = todo.pop(0)
            if code == 0:
                found.append(left.pop(0))
            elif code == -1:
                found.append(-1)
                del left[:1]
            elif code == -2:
                found += left
                left = []
            elif code == -3:
                found.append(_merged(left.pop(0), left.pop(0)))
            elif code == -4:
                found += _divided(left.pop(0), todo.pop(0), todo.pop(0))
            else:
                found.append(code)
                del left[:1]
    except IndexError:
        raise Unsupported(f"its shape {codes} does not fit an input of {text(shape)}") from None
    return _readable(found, shape, codes)


def _merged(a: Any, b: Any) -> int:
    return a * b if isinstance(a, int) and isinstance(b, int) else -1


def _divided(size: Any, a: int, b: int) -> list[int]:
    if not isinstance(size, int) or a == b == -1:
        raise Unsupported("it splits a dimension whose size is not fixed")
    a, b = (size // b if a == -1 and b else a), (size // a if b == -1 and a else b)
    if a * b != size:
        raise Unsupported(f"it splits {size} into {a} and {b}")
    return [a, b]


def _readable(found: Sequence[Any], shape: Shape, codes: Sequence[int]) -> tuple[int, ...]:
    """Open dimensions as 0 where they stay in place, else one of them as -1."""
    target = [0 if not isinstance(d, int) and i < len(shape) and shape[i] == d else d for i, d in enumerate(found)]
    target = [d if isinstance(d, int) else -1 for d in target]
    if target.count(-1) > 1:
        raise Unsupported(f"its shape {tuple(codes)} leaves more than one dimension of {text(shape)} open")
    return tuple(target)


@builds("transpose")
def transpose(g: MxGraph, op: Op) -> None:
    """By the given order, or reversed."""
    order = _axes(g, op, "axes") or tuple(reversed(range(g.rank(op.xs[0]))))
    if sorted(order) != list(range(g.rank(op.xs[0]))):
        raise Unsupported(f"its axes {order} do not fit an input of {text(g.shape(op.xs[0]))}")
    g.add("Transpose", op.xs[0], name=op.name, out=op.outs[0], perm=order)


@builds("SwapAxis", "swapaxes")
def swap_axes(g: MxGraph, op: Op) -> None:
    """Two dimensions changed places."""
    n = g.rank(op.xs[0])
    a, b = axis_of(op.whole("dim1", 0), n), axis_of(op.whole("dim2", 0), n)
    order = list(range(n))
    order[a], order[b] = order[b], order[a]
    g.add("Transpose", op.xs[0], name=op.name, out=op.outs[0], perm=order)


@builds("expand_dims")
def expand_dims(g: MxGraph, op: Op) -> None:
    """A new dimension of size 1."""
    axis = axis_of(op.whole("axis", 0), g.rank(op.xs[0]) + 1)
    g.add("Unsqueeze", op.xs[0], g.ints((axis,), f"{op.name}/axes"), name=op.name, out=op.outs[0])


@builds("squeeze")
def squeeze(g: MxGraph, op: Op) -> None:
    """Without the dimensions of size 1 that are named, or without any."""
    shape = g.shape(op.xs[0])
    axes = _axes(g, op, "axis") or tuple(i for i, d in enumerate(shape) if d == 1)
    if any(shape[a] != 1 for a in axes):
        raise Unsupported(f"dimensions {axes} of {text(shape)} are not all 1")
    g.add("Squeeze", op.xs[0], g.ints(axes, f"{op.name}/axes"), name=op.name, out=op.outs[0])


def _axes(g: MxGraph, op: Op, key: str) -> tuple[int, ...]:
    value = op.get(key, None, (tuple, int))
    values = () if value is None else (value,) if isinstance(value, int) else value
    if len(values) > AXES_MAX or not all(isinstance(v, int) for v in values):
        raise Unsupported(f"its parameter {key}={value} cannot be read")
    return tuple(axis_of(v, g.rank(op.xs[0])) for v in values)


@builds("Concat", "concat", inputs=(1, MANY))
def concat(g: MxGraph, op: Op) -> None:
    """Along the channels, unless told otherwise."""
    axis = axis_of(op.whole("dim", 1), g.rank(op.xs[0]))
    g.add("Concat", *op.xs, name=op.name, out=op.outs[0], axis=axis)


@builds("stack", inputs=(1, MANY))
def stack(g: MxGraph, op: Op) -> None:
    """Along a new dimension."""
    axis = axis_of(op.whole("axis", 0), g.rank(op.xs[0]) + 1)
    axes = g.ints((axis,), f"{op.name}/axes")
    parts = [g.add("Unsqueeze", x, axes, name=f"{op.name}/part") for x in op.xs]
    g.add("Concat", *parts, name=op.name, out=op.outs[0], axis=axis)


@builds("SliceChannel", "split")
def split(g: MxGraph, op: Op) -> None:
    """Equal parts."""
    x = op.xs[0]
    axis, n = axis_of(op.whole("axis", 1), g.rank(x)), op.whole("num_outputs", 0)
    size = g.fixed(x, axis)[0]
    if not 0 < n <= size or size % n or n != len(op.outs):
        raise Unsupported(f"{size} cannot be cut into {n} equal parts")
    squeezed = op.flag("squeeze_axis", False)
    names = [g.fresh(f"{op.name}/part{i}") for i in range(n)] if squeezed else op.outs
    g.add_many("Split", x, g.ints((size // n,) * n, f"{op.name}/split"), name=op.name, outs=names, axis=axis)
    if squeezed:
        axes = g.ints((axis,), f"{op.name}/axes")
        for name, out in zip(names, op.outs, strict=True):
            g.add("Squeeze", name, axes, name=f"{op.name}/squeeze", out=out)


@builds("slice_axis")
def slice_axis(g: MxGraph, op: Op) -> None:
    """From `begin` to `end` (None: to the end) along one dimension."""
    axis = axis_of(op.needed("axis"), g.rank(op.xs[0]))
    _slice(g, op, {axis: (op.whole("begin", 0), op.whole("end", None), 1)})


@builds("slice", "crop")
def slice_op(g: MxGraph, op: Op) -> None:
    """From `begin` to `end` with a step, for the first dimensions."""
    keys = {key: op.get(key, (), (tuple, int)) for key in ("begin", "end", "step")}
    parts = {k: (v,) if isinstance(v, int) else v for k, v in keys.items()}
    n = len(parts["begin"])
    steps = parts["step"] or (1,) * n
    if not len(parts["end"]) == len(steps) == n <= g.rank(op.xs[0]):
        raise Unsupported(f"its begin {parts['begin']} and end {parts['end']} do not fit")
    _slice(g, op, dict(enumerate(zip(parts["begin"], parts["end"], steps, strict=True))))


def _slice(g: MxGraph, op: Op, cuts: Mapping[int, tuple[Any, Any, Any]]) -> None:
    """A Slice of the dimensions that are cut at all; only forwards."""
    rows = {a: (b or 0, (1 << 31) if e is None else e, s or 1) for a, (b, e, s) in cuts.items()}
    if not all(isinstance(v, int) and abs(v) <= 1 << 31 for row in rows.values() for v in row) or any(
        r[2] < 1 for r in rows.values()
    ):
        raise Unsupported(f"its bounds {rows} cannot be read, or run backwards")
    rows = {a: row for a, row in rows.items() if row != (0, 1 << 31, 1)}
    if not rows:
        g.add("Identity", op.xs[0], name=op.name, out=op.outs[0])
        return
    columns = [*zip(*rows.values(), strict=True)]
    values = (columns[0], columns[1], tuple(rows), columns[2])
    bounds = [g.ints(v, f"{op.name}/{k}") for k, v in zip(("starts", "ends", "axes", "steps"), values, strict=True)]
    g.add("Slice", op.xs[0], *bounds, name=op.name, out=op.outs[0])


@builds("slice_like", inputs=2)
def slice_like(g: MxGraph, op: Op) -> None:
    """Cut to the size of the second input, in all dimensions or in those named."""
    axes = _axes(g, op, "axes") or tuple(range(g.rank(op.xs[0])))
    ours, theirs = g.shape(op.xs[0]), g.shape(op.xs[1])
    cuts = {a: (0, theirs[a], 1) for a in axes if ours[a] != theirs[a]}
    _slice(g, op, cuts)


@builds("Crop", inputs=(1, 2))
def crop(g: MxGraph, op: Op) -> None:
    """To the height and width of the second input, or to `h_w`, at an offset or in the middle."""
    sizes = g.fixed(op.xs[0], 2)
    target = g.fixed(op.xs[1], 2) if len(op.xs) == 2 else op.ints("h_w", 2, None)
    free = [s - t for s, t in zip(sizes, target, strict=True)]
    start = [f // 2 for f in free] if op.flag("center_crop", False) else op.ints("offset", 2, 0)
    if any(not 0 <= a <= f for a, f in zip(start, free, strict=True)):
        raise Unsupported(f"{text(target)} does not lie in {text(sizes)}")
    _slice(g, op, {i + 2: (a, a + t, 1) for i, (a, t) in enumerate(zip(start, target, strict=True))})


@builds("tile")
def tile(g: MxGraph, op: Op) -> None:
    """Copies along every dimension."""
    reps = op.get("reps", (), (tuple, int))
    reps = (reps,) if isinstance(reps, int) else reps
    n = g.rank(op.xs[0])
    if len(reps) > n or not all(isinstance(r, int) and 0 < r < 1 << 16 for r in reps):
        raise Unsupported(f"its reps {reps} do not fit an input of {text(g.shape(op.xs[0]))}")
    g.add(
        "Tile", op.xs[0], g.ints((1,) * (n - len(reps)) + tuple(reps), f"{op.name}/reps"), name=op.name, out=op.outs[0]
    )


@builds("Pad", "pad")
def pad_op(g: MxGraph, op: Op) -> None:
    """pad_width holds (before, after) for every dimension."""
    x, mode = op.xs[0], op.only("mode", "constant", "edge", "reflect")
    widths = op.ints("pad_width", 2 * g.rank(x), None)
    pads = g.ints((*widths[::2], *widths[1::2]), f"{op.name}/pads")
    value = g.scalar(op.number("constant_value", 0.0), x, f"{op.name}/value")
    g.add("Pad", x, pads, value, name=op.name, out=op.outs[0], mode=mode)


REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "sum_axis": "ReduceSum", "max": "ReduceMax", "max_axis": "ReduceMax", "min": "ReduceMin", "min_axis": "ReduceMin", "prod": "ReduceProd", "norm": "ReduceL2"}  # fmt: skip


@builds(*REDUCTIONS)
def reduce(g: MxGraph, op: Op) -> None:
    """Over the named dimensions, over all others (exclude), or over all; then the result has one element."""
    kind, x = REDUCTIONS[op.node.op], op.xs[0]
    axes = _axes(g, op, "axis")
    if op.node.op == "norm" and op.whole("ord", 2) != 2:
        raise Unsupported("only ord=2 is imported")
    everything = not axes
    axes = axes or tuple(range(g.rank(x)))
    if op.flag("exclude", False) and not everything:
        axes = tuple(i for i in range(g.rank(x)) if i not in axes)
    keep = op.flag("keepdims", False)
    whole = len(axes) == g.rank(x) and not keep
    name = f"{op.name}/all" if whole else op.name
    out = "" if whole else op.outs[0]
    if kind == "ReduceSum":
        y = g.add(kind, x, g.ints(axes, f"{op.name}/axes"), name=name, out=out, keepdims=int(keep))
    else:
        y = g.add(kind, x, name=name, out=out, axes=axes, keepdims=int(keep))
    if whole:  # MXNet has no tensors without dimensions
        reshape(g, y, (1,), op.name, op.outs[0])


@builds("argmax", "argmin", "argmax_channel")
def arg_max(g: MxGraph, op: Op) -> None:
    """Positions, as floats."""
    axis = 1 if op.node.op == "argmax_channel" else op.whole("axis", None)
    if axis is None:
        raise Unsupported("without an axis it is not imported")
    kind = "ArgMin" if op.node.op == "argmin" else "ArgMax"
    keep = int(op.flag("keepdims", False))
    index = g.add(kind, op.xs[0], name=f"{op.name}/index", axis=axis_of(axis, g.rank(op.xs[0])), keepdims=keep)
    g.add("Cast", index, name=op.name, out=op.outs[0], to=1)


# sizes of images


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


@builds("depth_to_space", "space_to_depth")
def depth_to_space(g: MxGraph, op: Op) -> None:
    """Blocks of pixels to channels and back, in ONNX's DCR order."""
    kind = "DepthToSpace" if op.node.op == "depth_to_space" else "SpaceToDepth"
    g.add(kind, op.xs[0], name=op.name, out=op.outs[0], blocksize=op.needed("block_size"))
