"""TFLite operators that work element by element, activations and reductions."""

from __future__ import annotations

import numpy as np

from .step import RELU6, RELU_N1_TO_1, Step, Unsupported, op

SAME = {  # operators that ONNX has, with as many inputs
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "EXP": "Exp", "FLOOR": "Floor", "LOG": "Log", "LOGISTIC": "Sigmoid",
    "NEG": "Neg", "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin", "SQRT": "Sqrt", "TANH": "Tanh", "RELU": "Relu",
    "ELU": "Elu", "HARD_SWISH": "HardSwish", "MAXIMUM": "Max", "MINIMUM": "Min", "POW": "Pow", "ADD_N": "Sum",
    "LOGICAL_AND": "And", "LOGICAL_OR": "Or", "LOGICAL_NOT": "Not", "EQUAL": "Equal", "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual", "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual",
    "QUANTIZE": "Identity", "DEQUANTIZE": "Identity",
}  # fmt: skip
FUSED = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
REDUCE = {"MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
          "REDUCE_PROD": "ReduceProd"}  # fmt: skip


@op(*SAME)
def same(s: Step) -> None:
    """One node of ONNX."""
    s.last(SAME[s.kind], *s.values())


@op(*FUSED)
def fused(s: Step) -> None:
    """Arithmetic with a fused activation; integers divide towards zero in both."""
    options = f"{s.kind.capitalize()}Options"
    s.last(FUSED[s.kind], s.x(0), s.x(1), activation=s.option("fusedActivationFunction", options))


@op("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
def clipped(s: Step) -> None:
    """Clip between two constants."""
    if s.kind == "RELU_0_TO_1":
        s.last("Clip", s.x(), s.float(0), s.float(1))
    else:
        s.out(s.activated(s.x(), RELU6 if s.kind == "RELU6" else RELU_N1_TO_1))


@op("LEAKY_RELU")
def leaky_relu(s: Step) -> None:
    s.last("LeakyRelu", s.x(), alpha=float(s.option("alpha", "LeakyReluOptions")))


@op("PRELU")
def prelu(s: Step) -> None:
    s.last("PRelu", s.x(0), s.x(1))


@op("GELU")
def gelu(s: Step) -> None:
    s.last("Gelu", s.x(), approximate="tanh" if s.option("approximate", "GeluOptions") else "none")


@op("SQUARE")
def square(s: Step) -> None:
    s.last("Mul", s.x(), s.x())


@op("SQUARED_DIFFERENCE")
def squared_difference(s: Step) -> None:
    d = s("Sub", s.x(0), s.x(1))
    s.last("Mul", d, d)


@op("RSQRT")
def rsqrt(s: Step) -> None:
    s.last("Reciprocal", s("Sqrt", s.x()))


@op("NOT_EQUAL")
def not_equal(s: Step) -> None:
    s.last("Not", s("Equal", s.x(0), s.x(1)))


@op("ZEROS_LIKE")
def zeros_like(s: Step) -> None:
    s.last("Sub", s.x(), s.x())


@op("FLOOR_DIV")
def floor_div(s: Step) -> None:
    """Rounded down, where ONNX's integer Div rounds towards zero."""
    a, b = s.x(0), s.x(1)
    if s.emit.dtype(a).kind == "f":
        s.last("Floor", s("Div", a, b))
    else:
        s.last("Div", s("Sub", a, s("Mod", a, b)), b)


@op("FLOOR_MOD")
def floor_mod(s: Step) -> None:
    """The remainder with the sign of the divisor."""
    a, b = s.x(0), s.x(1)
    if s.emit.dtype(a).kind == "f":
        s.last("Sub", a, s("Mul", s("Floor", s("Div", a, b)), b))
    else:
        s.last("Mod", a, b)


@op("SOFTMAX")
def softmax(s: Step) -> None:
    beta = float(s.option("beta", "SoftmaxOptions")) or 1.0
    x = s.x() if beta == 1.0 else s("Mul", s.x(), s.float(beta))
    s.last("Softmax", x, axis=-1)


@op("LOG_SOFTMAX")
def log_softmax(s: Step) -> None:
    s.last("LogSoftmax", s.x(), axis=-1)


@op("L2_NORMALIZATION")
def l2_normalization(s: Step) -> None:
    """Over the last axis; the norm is at least 1e-6, as in LiteRT."""
    norm = s("ReduceL2", s.x(), s.longs([-1]), keepdims=1)
    s.last("Div", s.x(), s("Max", norm, s.float(1e-6)),
           activation=s.option("fusedActivationFunction", "L2NormOptions"))  # fmt: skip


@op(*REDUCE)
def reduce(s: Step) -> None:
    keep = int(bool(s.option("keepDims", "ReducerOptions")))
    s.last(REDUCE[s.kind], s.x(0), s.longs(s.ints(1)), keepdims=keep)


@op("REDUCE_ANY", "REDUCE_ALL")
def reduce_bool(s: Step) -> None:
    keep = int(bool(s.option("keepDims", "ReducerOptions")))
    kind = "ReduceMax" if s.kind == "REDUCE_ANY" else "ReduceMin"
    s.last(kind, s.x(0), s.longs(s.ints(1)), keepdims=keep)


@op("ARG_MAX", "ARG_MIN")
def arg(s: Step) -> None:
    (axis,) = s.ints(1)
    kind = "ArgMax" if s.kind == "ARG_MAX" else "ArgMin"
    wide = s.option("outputType", f"Arg{kind[3:]}Options") == 4  # TensorType.INT64
    s.out(s.cast(s(kind, s.x(0), axis=axis, keepdims=0), np.int64 if wide else np.int32))


@op("CUMSUM")
def cumsum(s: Step) -> None:
    flags = {k: int(bool(s.option(k, "CumsumOptions"))) for k in ("exclusive", "reverse")}
    s.last("CumSum", s.x(0), s.x(1), **flags)


@op("TOPK_V2")
def top_k(s: Step) -> None:
    values, where = s.emit.many("TopK", [s.x(0), s.longs(s.ints(1))], 2, name=s.graph.wish(s.op.outputs[0]), axis=-1)
    s.outs([values, s.cast(where, np.int32)])


@op("SELECT", "SELECT_V2")
def select(s: Step) -> None:
    """SELECT's condition of rank 1 chooses whole rows."""
    condition, rank = s.x(0), len(s.shape(1))
    if s.kind == "SELECT" and len(s.shape(0)) == 1 and rank > 1:
        condition = s("Reshape", condition, s.longs([-1] + [1] * (rank - 1)))
    s.last("Where", condition, s.x(1), s.x(2))


@op("LOCAL_RESPONSE_NORMALIZATION")
def local_response(s: Step) -> None:
    """ONNX divides alpha by the window, TFLite does not."""
    radius, bias, alpha, beta = (
        s.option(k, "LocalResponseNormalizationOptions") for k in ("radius", "bias", "alpha", "beta")
    )
    if len(s.shape()) != 4 or not 0 <= radius < 1 << 16:
        raise Unsupported("it is known for images only")
    size = 2 * int(radius) + 1
    x = s("Transpose", s.x(), perm=[0, 3, 1, 2])
    y = s("LRN", x, size=size, alpha=float(alpha) * size, beta=float(beta), bias=float(bias))
    s.last("Transpose", y, perm=[0, 2, 3, 1])
