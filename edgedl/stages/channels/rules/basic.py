"""Rules of dense layers, normalization per channel, element-wise operations and merges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....frameworks import keras
from ..call import Call, Shrunk, Traced, volume
from ..units import Axis, Label
from . import rule

UNARY = (
    "ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization",
    "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Rescaling", "Identity",
    "Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "Gelu", "HardSigmoid", "HardSilu", "HardSwish", "HardTanh", "LeakyRelu",
    "Elu", "Selu", "Softplus", "Softsign", "Mish", "LogSigmoid", "Celu", "Negative", "Absolute", "Abs", "Exp", "Expm1", "Log", "Log1p",
    "Sqrt", "Rsqrt", "Square", "Reciprocal", "Erf", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign", "Cast", "Clip", "StopGradient",
)  # fmt: skip
BINARY = (
    "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Average", "Maximum", "Minimum", "Power", "SquaredDifference",
    "Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "LogicalAnd", "LogicalOr", "Where", "Mod", "FloorDivide",
)  # fmt: skip


@rule(*UNARY)
def unary(call: Call) -> Sequence[Label]:
    """Each entry for itself."""
    return [call.x.label]


@rule("Activation")
def activation(call: Call) -> Sequence[Label]:
    """An activation by name; a softmax over the channels needs all of them."""
    soften(call, -1)
    return [call.x.label]


def soften(call: Call, axis: int) -> None:
    """Freeze the axis where the layer's activation is computed over all its entries."""
    name = getattr(getattr(call.op, "activation", None), "__name__", "")
    if name in ("softmax", "log_softmax", "sparsemax", "glu", "squareplus_softmax"):
        call.freeze(call.x.label[axis])


def _units(shrunk: Shrunk) -> Any:
    return shrunk.remade(units=shrunk.weight("kernel")[-1])


@rule("Dense", resize=_units)
def dense(call: Call) -> Sequence[Label]:
    """Every output reads every input along the last axis."""
    out = call.fresh(call.op.units)
    read = call.x.label[-1]
    call.weight("kernel", (read, out))
    call.weight("bias", (out,))
    fixed = 1 if read is not None else int(call.x.shape[-1] or 1)
    call.macs(fixed * volume(call.x.shape[:-1]), read, out)
    if getattr(call.op.activation, "__name__", "") in ("softmax", "log_softmax", "sparsemax"):
        call.freeze(out)
    return [(*call.x.label[:-1], out)]


@rule("BatchNormalization")
def batch_normalization(call: Call) -> Sequence[Label]:
    """A scale and an offset for each channel."""
    axis = call.op.axis[0] if isinstance(call.op.axis, list | tuple) else call.op.axis
    ids = call.x.label[axis]
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        call.weight(name, (ids,))
    return [call.x.label]


@rule("PReLU")
def prelu(call: Call) -> Sequence[Label]:
    """A slope for each entry, except along shared axes."""
    shared = set(call.op.shared_axes or ())
    call.weight("alpha", tuple(None if i in shared else ids for i, ids in enumerate(call.x.label) if i))
    return [call.x.label]


@rule(*BINARY)
def elementwise(call: Call) -> Sequence[Label]:
    """Operands broadcast from the right: what meets at one place lives or dies together."""
    return [broadcast(call, call.inputs, len(call.shapes[0]))]


def broadcast(call: Call, tensors: Sequence[Traced], rank: int) -> Label:
    """The label of the result of an element-wise operation, constants among the arguments looked at too."""
    label: list[Axis] = [None] * rank
    known = [False] * rank
    operands = [(t.shape, t.label) for t in tensors]
    operands += [(shape, (None,) * len(shape)) for shape in _constants(call)]
    for shape, axes in operands:
        for i in range(1, len(shape) + 1):
            if shape[-i] == 1:
                call.freeze(axes[-i])  # it is spread over the others
                continue
            label[-i] = call.unite(label[-i], axes[-i]) if known[-i] else axes[-i]
            known[-i] = True
    return tuple(label)


def _constants(call: Call) -> list[tuple[int, ...]]:
    """Shapes of arrays among the arguments, which cannot be cut."""
    flat = keras().tree.flatten([call.args, dict(call.kwargs)])
    return [tuple(np.shape(v)) for v in flat if not isinstance(v, Traced | str | bool) and np.ndim(v) > 0]


@rule("Concatenate")
def concatenate(call: Call) -> Sequence[Label]:
    """Axes one after the other; along the other axes like an element-wise operation."""
    rank = len(call.x.shape)
    axis = call.op.axis % rank
    label = list(call.x.label)
    for tensor in call.inputs[1:]:
        for i in range(rank):
            if i != axis:
                label[i] = call.unite(label[i], tensor.label[i])
    if any(t.label[axis] is not None for t in call.inputs) and all(t.shape[axis] is not None for t in call.inputs):
        label[axis] = np.concatenate([call.ids(t.label[axis], int(t.shape[axis] or 0)) for t in call.inputs])
    return [tuple(label)]
