"""Rules of dense layers, batch normalization, element-wise operations, merges and fixed preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ....frameworks import keras
from ..call import Call, Shrunk, Traced
from ..units import Axis, Label
from . import rule

UNARY = (
    "ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization",
    "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "StochasticDepth", "Rescaling", "Identity", "Activation",
    "Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Tanh", "Silu", "Gelu", "HardSigmoid", "HardSilu", "HardTanh",
    "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Softsign", "SparsePlus", "Squareplus", "LogSigmoid", "TanhShrink",
    "SoftShrink", "HardShrink", "Threshold", "Negative", "Absolute", "Fabs", "Exp", "Exp2", "Expm1", "Log", "Log10",
    "Log1p", "Log2", "Sqrt", "Rsqrt", "Cbrt", "Square", "Reciprocal", "Erf", "Erfc", "Erfinv", "Sin", "Cos", "Tan",
    "Sinh", "Cosh", "Arcsin", "Arccos", "Arctan", "Arcsinh", "Arccosh", "Arctanh", "Floor", "Ceil", "Round", "Trunc",
    "Sign", "Cast", "SaturateCast", "Clip", "StopGradient", "Copy", "ConvertToTensor", "NanToNum", "Isnan", "Isinf", "Isfinite",
    "LogicalNot", "BitwiseNot", "BitwiseInvert", "ZerosLike", "OnesLike",
)  # fmt: skip
BINARY = (
    "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "DivideNoNan", "Average", "Maximum", "Minimum", "Fmax", "Fmin",
    "Power", "Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "LogicalAnd", "LogicalOr", "LogicalXor",
    "Where", "Mod", "Fmod", "FloorDivide", "Arctan2", "Hypot", "Logaddexp", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
    "BitwiseLeftShift", "BitwiseRightShift", "LeftShift", "RightShift", "FullLike",
)  # fmt: skip


@rule(*UNARY)
def unary(call: Call) -> Sequence[Label]:
    """Each entry for itself."""
    for bound in (getattr(call.op, "x_min", 0), getattr(call.op, "x_max", 0)):
        if np.ndim(bound) > 0:
            return call.leave_alone("its bounds are arrays")
    return [call.x.label]


def _units(shrunk: Shrunk) -> Any:
    return shrunk.remade(units=shrunk.weight("kernel")[-1])


@rule("Dense", resize=_units)
def dense(call: Call) -> Sequence[Label]:
    """Every output reads every input along the last axis."""
    out = call.fresh(call.op.units)
    read = call.x.label[-1]
    call.weight("kernel", (read, out))
    call.weight("bias", (out,))
    call.work(1, (call.x.shape, call.x.label), ((call.op.units,), (out,)))
    return [(*call.x.label[:-1], out)]


@rule("BatchNormalization")
def batch_normalization(call: Call) -> Sequence[Label]:
    """A scale and an offset for each channel."""
    axis = call.op.axis[0] if isinstance(call.op.axis, list | tuple) else call.op.axis
    ids = call.x.label[axis]
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        call.weight(name, (ids,))
    return [call.x.label]


@rule("LayerScale", resize=lambda shrunk: shrunk.remade(projection_dim=shrunk.weight("gamma")[0]))
def layer_scale(call: Call) -> Sequence[Label]:
    """A factor for each channel (keras.applications' ConvNeXt)."""
    call.weight("gamma", (call.x.label[-1],))
    return [call.x.label]


@rule("PReLU")
def prelu(call: Call) -> Sequence[Label]:
    """A slope for each entry, except along shared axes."""
    shared = set(call.op.shared_axes or ())
    call.weight("alpha", tuple(None if i in shared else ids for i, ids in enumerate(call.x.label) if i))
    return [call.x.label]


@rule("Normalization", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast",
      "RandomBrightness", "RandomCrop", "CenterCrop", "CategoryEncoding", "OneHot", "Masking")  # fmt: skip
def fixed(call: Call) -> Sequence[Label]:
    """What prepares the data: as it is."""
    call.freeze_all()
    return [(None,) * len(shape) for shape in call.shapes]


# --- operands that meet


def _cut(shrunk: Shrunk) -> Any:
    """The same operation on the entries that are left of the arrays among its arguments."""
    op, label = type(shrunk.op).from_config(shrunk.op.get_config()), shrunk.call.outputs[0]

    def smaller(value: Any) -> Any:
        array = np.asarray(value)
        for i in range(1, array.ndim + 1):
            ids = label[-i]
            if ids is not None and array.shape[-i] > 1:
                array = np.compress(shrunk.kept(ids), array, axis=-i)
        return array

    def called(*args: Any, **kwargs: Any) -> Any:
        return op(*(_replaced(a, smaller) for a in args), **{k: _replaced(v, smaller) for k, v in kwargs.items()})

    return called


def _replaced(argument: Any, change: Callable[[Any], Any]) -> Any:
    """An argument with `change` of each array in it."""
    if _is_array(argument):
        return change(argument)
    if isinstance(argument, list | tuple):
        return type(argument)(_replaced(v, change) for v in argument)
    return argument


def _is_array(value: Any) -> bool:
    """Whether an argument is an array of numbers, also as a list of them."""
    if isinstance(value, Traced | keras().KerasTensor | str | bool) or value is None:
        return False
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(v, int | float) or _is_array(v) for v in value)
    return np.ndim(value) > 0


def arrays(call: Call) -> Iterator[tuple[int, ...]]:
    """Shapes of the arrays among the arguments of a call."""
    for argument in (*call.args, *call.kwargs.values()):
        found: list[tuple[int, ...]] = []
        _replaced(argument, lambda value, found=found: found.append(tuple(np.shape(value))))  # type: ignore[misc]
        yield from found


@rule(*BINARY, resize=_cut)
def elementwise(call: Call) -> Sequence[Label]:
    """Operands broadcast from the right: what meets at one place lives or dies together; arrays are cut along with them."""
    if type(call.op).__name__ == "Average" and hasattr(call.op, "axis"):
        return call.leave_alone("it is a weighted mean")
    call.free = not list(arrays(call))
    return [broadcast(call, call.inputs, len(call.shapes[0]))]


def broadcast(call: Call, tensors: Sequence[Traced], rank: int) -> Label:
    """The label of the result of an element-wise operation, arrays among the arguments looked at too."""
    label: list[Axis] = [None] * rank
    known = [False] * rank
    longer = [any(s[-i] != 1 for s in arrays(call) if len(s) >= i) for i in range(1, rank + 1)]
    for tensor in tensors:
        for i in range(1, len(tensor.shape) + 1):
            ids, alone = tensor.label[-i], tensor.shape[-i] == 1
            if alone and (longer[i - 1] or any(len(t.shape) >= i and t.shape[-i] != 1 for t in tensors)):
                call.freeze(ids, f"at {call.path} it is spread over others")
                continue
            label[-i] = call.unite(label[-i], ids) if known[-i] else ids
            known[-i] = True
    return tuple(label)


@rule("Concatenate")
def concatenate(call: Call) -> Sequence[Label]:
    """Axes one after the other; along the other axes like an element-wise operation."""
    rank = len(call.shapes[0])
    axis = call.op.axis % rank
    if list(arrays(call)):
        return call.leave_alone("it joins tensors and constants")
    label = list(call.x.label)
    for tensor in call.inputs[1:]:
        for i in range(rank):
            if i != axis:
                label[i] = call.unite(label[i], tensor.label[i])
    label[axis] = None
    if any(t.label[axis] is not None for t in call.inputs):
        if any(t.shape[axis] is None for t in call.inputs):
            return call.leave_alone("it joins tensors of unknown sizes")
        label[axis] = np.concatenate([call.ids(t.label[axis], int(t.shape[axis] or 0)) for t in call.inputs])
    return [tuple(label)]
