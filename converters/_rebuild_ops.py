"""TensorFlow functions inside a Keras 2 graph (TFOpLambda, SlicingOpLambda) as keras.ops.

`OPS` maps the name TensorFlow exports a function by to one here with the same parameters. Unknown sizes are None: a
`tf.shape` is a tuple of numbers and None, and a None in the target of a reshape is the dimension that is worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ModelError
from ._frameworks import keras

Op = Callable[..., Any]


def _ops() -> Any:
    return keras().ops


def _plain(name: str, *, module: str = "") -> Op:
    """keras.ops.<name>, called with the positional arguments alone (`name=`, `type=` ... do not change the value)."""

    def op(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *(v for k, v in kwargs.items() if k in ("x", "y", "a", "features", "logits", "input", "value"))]
        return getattr(getattr(_ops(), module) if module else _ops(), name)(*given)

    return op


def _reduce(name: str) -> Op:
    def op(input_tensor: Any, axis: Any = None, keepdims: bool = False, name: Any = None) -> Any:
        return function()(input_tensor, axis=axis, keepdims=bool(keepdims))

    def function() -> Any:
        return getattr(_ops(), name)

    return op


def _sizes(shape: Any) -> tuple[int, ...]:
    """A shape for keras.ops.reshape: at most one unknown size, as -1."""
    sizes = tuple(-1 if s is None else int(s) for s in shape)
    if sizes.count(-1) > 1:
        raise ValueError(f"the new shape {sizes} has more than one unknown size")
    return sizes


def get_item(tensor: Any, slice_spec: Any, var: Any = None) -> Any:
    """tensor[slice_spec]; slices are dicts with start, stop and step. Also of the tuple that `tf.shape` gives."""
    spec = slice_spec if isinstance(slice_spec, (list, tuple)) else (slice_spec,)
    keys = tuple(slice(s["start"], s["stop"], s["step"]) if isinstance(s, dict) else s for s in spec)
    return tensor[keys[0]] if isinstance(tensor, tuple) else tensor[keys]


def shape(input: Any, out_type: Any = None, name: Any = None) -> tuple[int | None, ...]:
    """The static shape; None where a size is unknown."""
    return tuple(input.shape)


def reshape(tensor: Any, shape: Any, name: Any = None) -> Any:
    """tf.reshape."""
    return _ops().reshape(tensor, _sizes(shape))


def transpose(a: Any, perm: Any = None, conjugate: bool = False, name: Any = None) -> Any:
    """tf.transpose."""
    return _ops().transpose(a, None if perm is None else [int(p) for p in perm])


def concat(values: Any, axis: Any, name: Any = None) -> Any:
    """tf.concat; of numbers (sizes) a tuple."""
    if all(isinstance(v, (tuple, list)) for v in values):
        return tuple(size for v in values for size in v)
    return _ops().concatenate(list(values), axis=int(axis))


def stack(values: Any, axis: int = 0, name: Any = None) -> Any:
    """tf.stack; of numbers (sizes) a tuple."""
    if all(v is None or isinstance(v, int) for v in values):
        return tuple(values)
    return _ops().stack(list(values), axis=axis)


def unstack(value: Any, num: Any = None, axis: int = 0, name: Any = None) -> Any:
    """tf.unstack."""
    return _ops().unstack(value, num, axis)


def split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None, name: Any = None) -> Any:
    """tf.split: a count of equal parts, or their sizes (of which keras.ops wants the running sum)."""
    if isinstance(num_or_size_splits, int):
        return _ops().split(value, num_or_size_splits, axis)
    ends = [sum(num_or_size_splits[: i + 1]) for i in range(len(num_or_size_splits) - 1)]
    return _ops().split(value, ends, axis)


def pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0, name: Any = None) -> Any:
    """tf.pad."""
    widths = tuple((int(a), int(b)) for a, b in paddings)
    value = constant_values if mode.lower() == "constant" else None
    return _ops().pad(tensor, widths, mode.lower(), value)


def cast(x: Any, dtype: Any, name: Any = None) -> Any:
    """tf.cast; of sizes they stay what they are."""
    if isinstance(x, (int, tuple)) or x is None:
        return x
    name = getattr(dtype, "name", dtype)
    return _ops().cast(x, "float32" if name in ("float16", "bfloat16", "float64") else name)


def clip(t: Any, clip_value_min: Any, clip_value_max: Any, name: Any = None) -> Any:
    """tf.clip_by_value."""
    return _ops().clip(t, clip_value_min, clip_value_max)


def squeeze(input: Any, axis: Any = None, name: Any = None) -> Any:
    """tf.squeeze; several axes from the last one on."""
    if isinstance(axis, int) or not axis:
        return _ops().squeeze(input, axis if isinstance(axis, int) else None)
    rank = len(input.shape)
    for a in sorted((a % rank for a in axis), reverse=True):
        input = _ops().squeeze(input, a)
    return input


def softmax(logits: Any, axis: Any = None, name: Any = None) -> Any:
    """tf.nn.softmax."""
    return _ops().softmax(logits, axis=-1 if axis is None else axis)


def log_softmax(logits: Any, axis: Any = None, name: Any = None) -> Any:
    """tf.nn.log_softmax."""
    return _ops().log_softmax(logits, axis=-1 if axis is None else axis)


def leaky_relu(features: Any, alpha: float = 0.2, name: Any = None) -> Any:
    """tf.nn.leaky_relu."""
    return _ops().leaky_relu(features, float(alpha))


def gelu(features: Any, approximate: bool = False, name: Any = None) -> Any:
    """tf.nn.gelu."""
    return _ops().gelu(features, bool(approximate))


def silu(features: Any, beta: float = 1.0) -> Any:
    """tf.nn.silu."""
    if beta == 1:
        return _ops().silu(features)
    return _ops().multiply(features, _ops().sigmoid(_ops().multiply(features, beta)))


def matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, name: Any = None, **other: Any) -> Any:
    """tf.matmul without the adjoint and sparse options."""
    if any(other.get(k) for k in ("adjoint_a", "adjoint_b", "a_is_sparse", "b_is_sparse")):
        raise ValueError("adjoint and sparse operands are not supported")
    a, b = (_ops().swapaxes(t, -1, -2) if flip else t for t, flip in ((a, transpose_a), (b, transpose_b)))
    return _ops().matmul(a, b)


def tensordot(a: Any, b: Any, axes: Any, name: Any = None) -> Any:
    """tf.tensordot."""
    return _ops().tensordot(a, b, axes)


def einsum(equation: str, *inputs: Any, **other: Any) -> Any:
    """tf.einsum."""
    return _ops().einsum(equation, *inputs)


def l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12, name: Any = None, dim: Any = None) -> Any:
    """tf.math.l2_normalize: x / sqrt(max(sum(x^2), epsilon))."""
    total = _ops().sum(_ops().square(x), axis=dim if axis is None else axis, keepdims=True)
    return _ops().multiply(x, _ops().rsqrt(_ops().maximum(total, epsilon)))


def norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: bool = False, name: Any = None) -> Any:
    """tf.norm of vectors."""
    return _ops().norm(tensor, ord=2 if ord == "euclidean" and axis is not None else ord, axis=axis, keepdims=keepdims)


def gather(params: Any, indices: Any, validate_indices: Any = None, axis: Any = 0, batch_dims: int = 0, name: Any = None) -> Any:  # fmt: skip
    """tf.gather without batch dimensions."""
    if batch_dims:
        raise ValueError("batch_dims is not supported")
    return _ops().take(params, indices, axis=int(axis or 0))


def one_hot(indices: Any, depth: int, on_value: Any = None, off_value: Any = None, axis: Any = None, dtype: Any = None, name: Any = None) -> Any:  # fmt: skip
    """tf.one_hot of ones and zeros."""
    if on_value not in (None, 1) or off_value not in (None, 0):
        raise ValueError("on_value and off_value are not supported")
    kind = getattr(dtype, "name", dtype) or "float32"
    return _ops().one_hot(indices, int(depth), axis=-1 if axis is None else axis, dtype=kind)


def argmax(input: Any, axis: Any = None, output_type: Any = None, name: Any = None) -> Any:
    """tf.math.argmax."""
    return _ops().argmax(input, axis=0 if axis is None else axis)


def argmin(input: Any, axis: Any = None, output_type: Any = None, name: Any = None) -> Any:
    """tf.math.argmin."""
    return _ops().argmin(input, axis=0 if axis is None else axis)


def cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False, name: Any = None) -> Any:
    """tf.cumsum, inclusive, forwards."""
    if exclusive or reverse:
        raise ValueError("exclusive and reverse sums are not supported")
    return _ops().cumsum(x, axis=axis)


def resize(images: Any, size: Any, method: Any = "bilinear", preserve_aspect_ratio: bool = False, antialias: bool = False, name: Any = None) -> Any:  # fmt: skip
    """tf.image.resize to a known size."""
    if preserve_aspect_ratio:
        raise ValueError("preserve_aspect_ratio is not supported")
    return _ops().image.resize(images, tuple(int(s) for s in size), interpolation=str(method), antialias=antialias)


def tile(input: Any, multiples: Any, name: Any = None) -> Any:
    """tf.tile."""
    return _ops().tile(input, tuple(int(m) for m in multiples))


def repeat(input: Any, repeats: Any, axis: Any = None, name: Any = None) -> Any:
    """tf.repeat."""
    return _ops().repeat(input, repeats, axis=axis)


def _pool(name: str, **more: Any) -> Op:
    def op(input: Any, ksize: Any, strides: Any, padding: str, data_format: Any = None, name: Any = None) -> Any:
        size, stride = (v if isinstance(v, int) else _spatial(v) for v in (ksize, strides))
        if data_format not in (None, "NHWC"):
            raise ValueError(f"data_format {data_format} is not supported")
        return pool()(input, size, stride, padding.lower(), "channels_last")

    def pool() -> Any:
        return getattr(_ops(), name)

    return op


def _spatial(values: Any) -> tuple[int, ...]:
    return tuple(values)[1:-1] if len(values) == 4 else tuple(values)


def depth_to_space(input: Any, block_size: int, data_format: str = "NHWC", name: Any = None) -> Any:
    """tf.nn.depth_to_space."""
    return _ops().depth_to_space(input, block_size, data_format=_channels_last(data_format))


def space_to_depth(input: Any, block_size: int, data_format: str = "NHWC", name: Any = None) -> Any:
    """tf.nn.space_to_depth."""
    return _ops().space_to_depth(input, block_size, data_format=_channels_last(data_format))


def _channels_last(data_format: str) -> str:
    if data_format != "NHWC":
        raise ValueError(f"data_format {data_format} is not supported")
    return "channels_last"


def where(condition: Any, x: Any = None, y: Any = None, name: Any = None) -> Any:
    """tf.where with both values."""
    if x is None or y is None:
        raise ValueError("tf.where without values has an output of unknown size")
    return _ops().where(condition, x, y)


def expand_dims(input: Any, axis: int, name: Any = None) -> Any:
    """tf.expand_dims."""
    return _ops().expand_dims(input, axis)


def identity(input: Any, name: Any = None) -> Any:
    """The tensor as it is: tf.identity, tf.convert_to_tensor, tf.stop_gradient."""
    return input


def reverse(tensor: Any, axis: Any, name: Any = None) -> Any:
    """tf.reverse."""
    return _ops().flip(tensor, axis=axis)


def broadcast_to(input: Any, shape: Any, name: Any = None) -> Any:
    """tf.broadcast_to a known shape."""
    return _ops().broadcast_to(input, tuple(int(s) for s in shape))


def _table() -> dict[str, Op]:
    binary = {
        "add": "add",
        "subtract": "subtract",
        "multiply": "multiply",
        "divide": "divide",
        "truediv": "divide",
        "floordiv": "floor_divide",
        "floormod": "mod",
        "pow": "power",
        "maximum": "maximum",
        "minimum": "minimum",
        "greater": "greater",
        "greater_equal": "greater_equal",
        "less": "less",
        "less_equal": "less_equal",
        "equal": "equal",
        "not_equal": "not_equal",
        "logical_and": "logical_and",
        "logical_or": "logical_or",
        "logical_not": "logical_not",
        "squared_difference": "squared_difference",
        "divide_no_nan": "divide_no_nan",
    }
    unary = "abs square sqrt rsqrt exp expm1 log log1p sin cos tan tanh sigmoid floor ceil round sign negative softplus softsign erf reciprocal"
    table: dict[str, Op] = {f"math.{n}": _plain(k) for n, k in binary.items()}
    table["math.squared_difference"] = lambda x, y, name=None: _ops().square(_ops().subtract(x, y))
    table |= {f"math.{n}": _plain(n) for n in unary.split()}
    table |= {f"nn.{n}": _plain(n) for n in ("relu", "relu6", "elu", "selu", "sigmoid", "tanh", "softplus", "softsign")}
    operators = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "div": "divide", "neg": "negative", "pow": "power", "abs": "abs", "floordiv": "floor_divide", "mod": "mod", "gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal", "eq": "equal", "ne": "not_equal", "rsub": ""}  # fmt: skip
    table |= {f"__operators__.{n}": _plain(k) for n, k in operators.items() if k}
    reductions = {"mean": "mean", "sum": "sum", "max": "max", "min": "min", "prod": "prod", "any": "any", "all": "all", "variance": "var", "std": "std", "logsumexp": "logsumexp"}  # fmt: skip
    table |= {f"math.reduce_{n}": _reduce(k) for n, k in reductions.items()}
    table |= {
        "__operators__.getitem": get_item,
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
        "nn.avg_pool": _pool("average_pool"),
        "nn.max_pool": _pool("max_pool"),
        "nn.depth_to_space": depth_to_space,
        "nn.space_to_depth": space_to_depth,
        "where": where,
        "identity": identity,
        "stop_gradient": identity,
        "convert_to_tensor": identity,
        "reverse": reverse,
        "broadcast_to": broadcast_to,
        "zeros_like": _plain("zeros_like"),
        "ones_like": _plain("ones_like"),
    }
    return table


OPS: dict[str, Op] = _table()
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
    "nn.max_pool_v2": "nn.max_pool",
    "nn.avg_pool_v2": "nn.avg_pool",
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
    return op(*args, **kwargs)
