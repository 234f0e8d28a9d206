"""TensorFlow functions inside a Keras 2 graph (TFOpLambda, SlicingOpLambda) as keras.ops.

`OPS` maps the name TensorFlow exports a function by to one here with the same parameters. Unknown sizes are None: a
`tf.shape` is a tuple of numbers and None, and a None in the target of a reshape is the dimension that is worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ModelError
from ..frameworks import keras

Op = Callable[..., Any]


def _ops() -> Any:
    return keras().ops


OPERANDS = frozenset({"x", "y", "a", "features", "logits", "input", "value"})  # what TensorFlow calls them


def _plain(name: str) -> Op:
    """keras.ops.<name> of the operands alone (`name=`, `type=` ... do not change the value)."""

    def op(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *(v for k, v in kwargs.items() if k in OPERANDS)]
        dtype = next((v.dtype for v in given if hasattr(v, "dtype")), None)
        return getattr(_ops(), name)(*(np.asarray(v, dtype) if isinstance(v, list) else v for v in given))

    return op


def _reduce(name: str) -> Op:
    def op(input_tensor: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return getattr(_ops(), name)(input_tensor, axis=axis, keepdims=bool(keepdims))

    return op


def _pool(name: str) -> Op:
    def op(input: Any, ksize: Any, strides: Any, padding: str, data_format: str = "NHWC") -> Any:
        _channels_last(data_format)
        size, stride = (v if isinstance(v, int) else _spatial(v) for v in (ksize, strides))
        return getattr(_ops(), name)(input, size, stride, padding.lower(), "channels_last")

    return op


def _spatial(values: Any) -> tuple[int, ...]:
    return tuple(values)[1:-1] if len(values) == 4 else tuple(values)


def _channels_last(data_format: str) -> str:
    if data_format != "NHWC":
        raise ValueError(f"data_format {data_format} is not supported")
    return "channels_last"


def _sizes(shape: Any) -> tuple[int, ...]:
    """A shape for keras.ops.reshape: at most one unknown size, as -1."""
    sizes = tuple(-1 if s is None else int(s) for s in shape)
    if sizes.count(-1) > 1:
        raise ValueError(f"the new shape {sizes} has more than one unknown size")
    return sizes


def get_item(tensor: Any, slice_spec: Any) -> Any:
    """tensor[slice_spec]; slices are dicts with start, stop and step. Also of the tuple that `tf.shape` gives."""
    spec = slice_spec if isinstance(slice_spec, (list, tuple)) else (slice_spec,)
    keys = tuple(slice(s["start"], s["stop"], s["step"]) if isinstance(s, dict) else s for s in spec)
    return tensor[keys[0]] if isinstance(tensor, tuple) else tensor[keys]


def shape(input: Any, out_type: Any = None) -> tuple[int | None, ...]:
    """The static shape; None where a size is unknown."""
    return tuple(input.shape)


def reshape(tensor: Any, shape: Any) -> Any:
    """tf.reshape."""
    return _ops().reshape(tensor, _sizes(shape))


def transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    """tf.transpose."""
    return _ops().transpose(a, None if perm is None else [int(p) for p in perm])


def concat(values: Any, axis: Any) -> Any:
    """tf.concat; of numbers (sizes) a tuple."""
    if all(isinstance(v, (tuple, list)) for v in values):
        return tuple(size for v in values for size in v)
    return _ops().concatenate(list(values), axis=int(axis))


def stack(values: Any, axis: int = 0) -> Any:
    """tf.stack; of numbers (sizes) a tuple."""
    if all(v is None or isinstance(v, int) for v in values):
        return tuple(values)
    return _ops().stack(list(values), axis=axis)


def unstack(value: Any, num: Any = None, axis: int = 0) -> Any:
    """tf.unstack."""
    return _ops().unstack(value, num, axis)


def split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None) -> Any:
    """tf.split: a count of equal parts, or their sizes (of which keras.ops wants the running sum)."""
    if isinstance(num_or_size_splits, int):
        return _ops().split(value, num_or_size_splits, axis)
    ends = [sum(num_or_size_splits[: i + 1]) for i in range(len(num_or_size_splits) - 1)]
    return _ops().split(value, ends, axis)


def pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    """tf.pad."""
    widths = tuple((int(a), int(b)) for a, b in paddings)
    value = constant_values if mode.lower() == "constant" else None
    return _ops().pad(tensor, widths, mode.lower(), value)


def cast(x: Any, dtype: Any) -> Any:
    """tf.cast; of sizes they stay what they are."""
    if isinstance(x, (int, tuple)) or x is None:
        return x
    name = getattr(dtype, "name", dtype)
    return _ops().cast(x, "float32" if name in ("float16", "bfloat16", "float64") else name)


def clip(t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    """tf.clip_by_value."""
    return _ops().clip(t, clip_value_min, clip_value_max)


def squeeze(input: Any, axis: Any = None) -> Any:
    """tf.squeeze; several axes from the last one on."""
    if isinstance(axis, int) or not axis:
        return _ops().squeeze(input, axis if isinstance(axis, int) else None)
    rank = len(input.shape)
    for a in sorted((a % rank for a in axis), reverse=True):
        input = _ops().squeeze(input, a)
    return input


def softmax(logits: Any, axis: Any = None) -> Any:
    """tf.nn.softmax."""
    return _ops().softmax(logits, axis=-1 if axis is None else axis)


def log_softmax(logits: Any, axis: Any = None) -> Any:
    """tf.nn.log_softmax."""
    return _ops().log_softmax(logits, axis=-1 if axis is None else axis)


def leaky_relu(features: Any, alpha: float = 0.2) -> Any:
    """tf.nn.leaky_relu."""
    return _ops().leaky_relu(features, float(alpha))


def gelu(features: Any, approximate: bool = False) -> Any:
    """tf.nn.gelu."""
    return _ops().gelu(features, bool(approximate))


def silu(features: Any, beta: float = 1.0) -> Any:
    """tf.nn.silu."""
    if beta == 1:
        return _ops().silu(features)
    return _ops().multiply(features, _ops().sigmoid(_ops().multiply(features, beta)))


def matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, **other: Any) -> Any:
    """tf.matmul without the adjoint and sparse options."""
    if any(other.get(k) for k in ("adjoint_a", "adjoint_b", "a_is_sparse", "b_is_sparse")):
        raise ValueError("adjoint and sparse operands are not supported")
    a, b = (_ops().swapaxes(t, -1, -2) if flip else t for t, flip in ((a, transpose_a), (b, transpose_b)))
    return _ops().matmul(a, b)


def tensordot(a: Any, b: Any, axes: Any) -> Any:
    """tf.tensordot."""
    return _ops().tensordot(a, b, axes)


def einsum(equation: str, *inputs: Any, **other: Any) -> Any:
    """tf.einsum."""
    return _ops().einsum(equation, *inputs)


def l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12, dim: Any = None) -> Any:
    """tf.math.l2_normalize: x / sqrt(max(sum(x^2), epsilon))."""
    total = _ops().sum(_ops().square(x), axis=dim if axis is None else axis, keepdims=True)
    return _ops().multiply(x, _ops().rsqrt(_ops().maximum(total, epsilon)))


def norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: bool = False) -> Any:
    """tf.norm of vectors."""
    return _ops().norm(tensor, ord=2 if ord == "euclidean" and axis is not None else ord, axis=axis, keepdims=keepdims)


def gather(params: Any, indices: Any, validate_indices: Any = None, axis: Any = 0, batch_dims: int = 0) -> Any:  # fmt: skip
    """tf.gather without batch dimensions."""
    if batch_dims:
        raise ValueError("batch_dims is not supported")
    return _ops().take(params, indices, axis=int(axis or 0))


def one_hot(indices: Any, depth: int, on_value: Any = None, off_value: Any = None, axis: Any = None, dtype: Any = None) -> Any:  # fmt: skip
    """tf.one_hot of ones and zeros."""
    if on_value not in (None, 1) or off_value not in (None, 0):
        raise ValueError("on_value and off_value are not supported")
    kind = getattr(dtype, "name", dtype) or "float32"
    return _ops().one_hot(indices, int(depth), axis=-1 if axis is None else axis, dtype=kind)


def argmax(input: Any, axis: Any = None, output_type: Any = None) -> Any:
    """tf.math.argmax."""
    return _ops().argmax(input, axis=0 if axis is None else axis)


def argmin(input: Any, axis: Any = None, output_type: Any = None) -> Any:
    """tf.math.argmin."""
    return _ops().argmin(input, axis=0 if axis is None else axis)


def cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Any:
    """tf.cumsum, inclusive, forwards."""
    if exclusive or reverse:
        raise ValueError("exclusive and reverse sums are not supported")
    return _ops().cumsum(x, axis=axis)


def resize(images: Any, size: Any, method: Any = "bilinear", preserve_aspect_ratio: bool = False, antialias: bool = False) -> Any:  # fmt: skip
    """tf.image.resize to a known size."""
    if preserve_aspect_ratio:
        raise ValueError("preserve_aspect_ratio is not supported")
    return _ops().image.resize(images, tuple(int(s) for s in size), interpolation=str(method), antialias=antialias)


def tile(input: Any, multiples: Any) -> Any:
    """tf.tile."""
    return _ops().tile(input, tuple(int(m) for m in multiples))


def repeat(input: Any, repeats: Any, axis: Any = None) -> Any:
    """tf.repeat."""
    return _ops().repeat(input, repeats, axis=axis)


def depth_to_space(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    """tf.nn.depth_to_space."""
    return _ops().depth_to_space(input, block_size, data_format=_channels_last(data_format))


def space_to_depth(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    """tf.nn.space_to_depth."""
    return _ops().space_to_depth(input, block_size, data_format=_channels_last(data_format))


def squared_difference(x: Any, y: Any) -> Any:
    """tf.math.squared_difference."""
    return _ops().square(_ops().subtract(x, y))


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """tf.where with both values."""
    if x is None or y is None:
        raise ValueError("tf.where without values has an output of unknown size")
    return _ops().where(condition, x, y)


def expand_dims(input: Any, axis: int) -> Any:
    """tf.expand_dims."""
    return _ops().expand_dims(input, axis)


def identity(input: Any, **dtype: Any) -> Any:
    """The tensor as it is: tf.identity, tf.convert_to_tensor, tf.stop_gradient."""
    return input


def reverse(tensor: Any, axis: Any) -> Any:
    """tf.reverse."""
    return _ops().flip(tensor, axis=axis)


def broadcast_to(input: Any, shape: Any) -> Any:
    """tf.broadcast_to a known shape."""
    return _ops().broadcast_to(input, tuple(int(s) for s in shape))


SAME_NAME = (
    *(
        "math.add",
        "math.subtract",
        "math.multiply",
        "math.divide",
        "math.maximum",
        "math.minimum",
        "math.divide_no_nan",
    ),
    *("math.greater", "math.greater_equal", "math.less", "math.less_equal", "math.equal", "math.not_equal"),
    *("math.logical_and", "math.logical_or", "math.logical_not", "math.abs", "math.square", "math.sqrt", "math.rsqrt"),
    *("math.exp", "math.expm1", "math.log", "math.log1p", "math.sin", "math.cos", "math.tan", "math.tanh"),
    *("math.sigmoid", "math.floor", "math.ceil", "math.round", "math.sign", "math.negative", "math.reciprocal"),
    *("math.softplus", "math.erf", "nn.softsign", "nn.relu", "nn.relu6", "nn.elu", "nn.selu"),
    *("zeros_like", "ones_like"),
)
OTHER_NAME = {
    "math.truediv": "divide",
    "math.floordiv": "floor_divide",
    "math.floormod": "mod",
    "math.pow": "power",
    "__operators__.add": "add",
    "__operators__.sub": "subtract",
    "__operators__.mul": "multiply",
    "__operators__.truediv": "divide",
    "__operators__.floordiv": "floor_divide",
    "__operators__.mod": "mod",
    "__operators__.pow": "power",
    "__operators__.neg": "negative",
    "__operators__.abs": "abs",
    "__operators__.gt": "greater",
    "__operators__.ge": "greater_equal",
    "__operators__.lt": "less",
    "__operators__.le": "less_equal",
    "__operators__.eq": "equal",
    "__operators__.ne": "not_equal",
}
REDUCTIONS = {
    **{f"math.reduce_{n}": n for n in ("mean", "sum", "max", "min", "prod", "any", "all", "std", "logsumexp")},
    "math.reduce_variance": "var",
}
OPS: dict[str, Op] = {
    **{n: _plain(n.rpartition(".")[2]) for n in SAME_NAME},
    **{n: _plain(k) for n, k in OTHER_NAME.items()},
    **{n: _reduce(k) for n, k in REDUCTIONS.items()},
    "__operators__.getitem": get_item,
    "math.squared_difference": squared_difference,
    "linalg.matmul": matmul,
    "tensordot": tensordot,
    "einsum": einsum,
    "shape": shape,
    "reshape": reshape,
    "transpose": transpose,
    "concat": concat,
    "stack": stack,
    "unstack": unstack,
    "split": split,
    "pad": pad,
    "cast": cast,
    "clip_by_value": clip,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "nn.softmax": softmax,
    "nn.log_softmax": log_softmax,
    "nn.leaky_relu": leaky_relu,
    "nn.gelu": gelu,
    "nn.silu": silu,
    "math.l2_normalize": l2_normalize,
    "norm": norm,
    "gather": gather,
    "one_hot": one_hot,
    "math.argmax": argmax,
    "math.argmin": argmin,
    "math.cumsum": cumsum,
    "image.resize": resize,
    "tile": tile,
    "repeat": repeat,
    "nn.avg_pool2d": _pool("average_pool"),
    "nn.max_pool2d": _pool("max_pool"),
    "nn.depth_to_space": depth_to_space,
    "nn.space_to_depth": space_to_depth,
    "where": where,
    "identity": identity,
    "stop_gradient": identity,
    "convert_to_tensor": identity,
    "reverse": reverse,
    "broadcast_to": broadcast_to,
}
ALIASES = {
    "math.softmax": "nn.softmax",
    "math.log_softmax": "nn.log_softmax",
    "nn.swish": "nn.silu",
    "nn.l2_normalize": "math.l2_normalize",
    "linalg.l2_normalize": "math.l2_normalize",
    "linalg.norm": "norm",
    "linalg.einsum": "einsum",
    "linalg.tensordot": "tensordot",
    "matmul": "linalg.matmul",
    "linalg.transpose": "transpose",
    "nn.max_pool": "nn.max_pool2d",
    "nn.avg_pool": "nn.avg_pool2d",
    "image.resize_v2": "image.resize",
}


def find_op(function: str) -> Op | None:
    """The op for the exported name of a TensorFlow function ("math.multiply", "compat.v1.shape"), or None."""
    short = function.removeprefix("compat.v1.").removeprefix("compat.v2.")
    short = ALIASES.get(short, short)
    for name in (short, f"math.{short}", f"nn.{short}"):
        if name in OPS:
            return OPS[name]
    return None


def call_op(function: str, *args: Any, **kwargs: Any) -> Any:
    """Run the op for a TensorFlow function. Raises ModelError where there is none."""
    op = find_op(function)
    if op is None:
        raise ModelError(f"there is no keras.ops counterpart of tf.{function}", next="use keras.ops instead")
    return op(*args, **{k: v for k, v in kwargs.items() if k not in ("name", "var")})
