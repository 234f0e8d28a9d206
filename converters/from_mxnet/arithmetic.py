"""MXNet's operators element by element in ONNX: of one tensor, of several, of a tensor and a number."""

from __future__ import annotations

from .._onnx_build import Unsupported, text
from .ops import LABELLED, MANY, Builder, MxGraph, Op, builds, scalar_op

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
        scalar_op(g, op, onnx_op, op.xs[0], op.number("scalar", 0.0), first=first)

    return build


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


@builds("Cast", "cast")
def cast(g: MxGraph, op: Op) -> None:
    """To another type; half precision stays float32 here."""
    codes = {"float32": 1, "float64": 1, "float16": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}
    g.add("Cast", op.xs[0], name=op.name, out=op.outs[0], to=codes[op.only("dtype", *codes)])
