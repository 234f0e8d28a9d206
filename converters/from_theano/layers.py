"""Layers of Keras 1 and 2 as ONNX nodes, in the layout of the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from .._emit import Emit

BIG = (1 << 31) - 1


class Unsupported(Exception):
    """Why a layer cannot be taken over; collected and reported with all the others."""


RENAMED = {  # Keras 1 -> Keras 2
    "Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "AtrousConvolution1D": "Conv1D", "AtrousConvolution2D": "Conv2D",
    "Deconvolution2D": "Conv2DTranspose", "SeparableConvolution2D": "SeparableConv2D",
}  # fmt: skip
KEYS = {
    "nb_filter": "filters", "border_mode": "padding", "subsample": "strides", "subsample_length": "strides",
    "filter_length": "kernel_size", "dim_ordering": "data_format", "bias": "use_bias", "output_dim": "units",
    "inner_activation": "recurrent_activation", "pool_length": "pool_size", "stride": "strides", "length": "size",
    "atrous_rate": "dilation_rate", "p": "rate",
}  # fmt: skip
ORDERS = {"th": "channels_first", "tf": "channels_last", "default": "channels_first"}
MERGES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum", "concat": "Concatenate"}


def modern(kind: str, config: Any) -> tuple[str, dict[str, Any]]:
    """A layer of Keras 1 in the words of Keras 2.

    >>> modern("Convolution2D", {"nb_filter": 8, "nb_row": 3, "nb_col": 5, "dim_ordering": "th"})
    ('Conv2D', {'filters': 8, 'data_format': 'channels_first', 'kernel_size': [3, 5]})
    """
    given = dict(config) if isinstance(config, dict) else {}
    if kind == "Merge":
        kind = MERGES.get(str(given.get("mode")), "Merge")
        given["axis"] = given.get("concat_axis", -1)
    if kind == "Embedding":
        return kind, given
    found = {KEYS.get(k, k): v for k, v in given.items() if k not in ("nb_row", "nb_col")}
    if "nb_row" in given:
        found["kernel_size"] = [given["nb_row"], given["nb_col"]]
    if found.get("data_format") in ORDERS:
        found["data_format"] = ORDERS[found["data_format"]]
    return RENAMED.get(kind, kind), found


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as its handler sees it."""

    emit: Emit
    name: str
    kind: str
    config: dict[str, Any]
    weights: list[Array]
    old: bool  # Keras 1
    theano: bool  # written with the Theano backend
    notes: list[str]

    def __call__(self, op: str, *x: str, **attributes: Any) -> str:
        """A node."""
        return self.emit(op, *x, name=f"{self.name}/{op}", **attributes)

    def constant(self, array: Any, what: str = "weights") -> str:
        """A constant of float32."""
        return self.emit.constant(np.asarray(array, np.float32), name=f"{self.name}/{what}")

    def longs(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.emit.constant(list(values), np.int64)

    def shape(self, x: str) -> list[int | None]:
        """The sizes of a value. Raises Unsupported."""
        found = self.emit.shape(x)
        if found is None:
            raise Unsupported("the rank of its input is not known")
        return list(found)

    def weight(self, i: int, rank: int) -> Array:
        """Weights number i. Raises Unsupported where they are missing or of another rank."""
        if i >= len(self.weights) or self.weights[i].ndim != rank:
            raise Unsupported("its weights are missing from the file, or of another shape")
        return self.weights[i]

    def pair(self, key: str, default: Any = None, count: int = 2) -> list[int]:
        """A setting of one number for each spatial axis. Raises Unsupported."""
        value = self.config.get(key)
        value = default if value is None else value
        found = [value] * count if isinstance(value, int) else list(value)
        if len(found) != count or not all(isinstance(v, int) and 0 < v < 1 << 16 for v in found):
            raise Unsupported(f"its {key} is {value}")
        return found

    @property
    def first(self) -> bool:
        """Whether channels come before rows and columns."""
        return self.config.get("data_format") == "channels_first"

    def to_first(self, x: str) -> str:
        """A value with its channels first."""
        rank = len(self.shape(x))
        return x if self.first or rank < 3 else self("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])

    def back(self, x: str) -> str:
        """A value with channels first, in the layout of the layer."""
        rank = len(self.shape(x))
        return x if self.first or rank < 3 else self("Transpose", x, perm=[0, *range(2, rank), 1])

    def activated(self, x: str, key: str = "activation") -> str:
        """A value behind the layer's activation. Raises Unsupported."""
        return activation(self, x, self.config.get(key) or "linear")


Handler = Callable[..., str]
HANDLERS: dict[str, Handler] = {}


def layer(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for layer classes of Keras 2."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus", "softsign": "Softsign", "elu": "Elu",
         "exponential": "Exp", "linear": "Identity"}  # fmt: skip


def activation(s: Layer, x: str, name: Any) -> str:
    """An activation by its name. Raises Unsupported."""
    if name == "linear":
        return x
    if name in PLAIN:
        return s(PLAIN[str(name)], x)
    if name == "hard_sigmoid":
        return s("HardSigmoid", x, alpha=0.2, beta=0.5)
    if name == "softmax":
        return s("Softmax", x, axis=-1)
    if name == "selu":
        return s("Selu", x, alpha=1.6732632423543772, gamma=1.0507009873554805)
    raise Unsupported(f"its activation {name!r} is not known")


@layer("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
       "ActivityRegularization")  # fmt: skip
def nothing(s: Layer, x: str) -> str:
    """Does nothing when a model is used."""
    return x


@layer("Activation")
def activation_layer(s: Layer, x: str) -> str:
    return s.activated(x)


@layer("Dense")
def dense(s: Layer, x: str) -> str:
    """Weights [in, out], on the last axis."""
    w = s.constant(s.weight(0, 2))
    bias = [s.constant(s.weight(1, 1), "bias")] if s.config.get("use_bias", True) else []
    if len(s.shape(x)) == 2:
        return s.activated(s("Gemm", x, w, *bias))
    y = s("MatMul", x, w)
    return s.activated(s("Add", y, *bias) if bias else y)


def theano_same(
    s: Layer, x: str, kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """(pads, sizes to cut to) of Theano's border_mode "half": half the kernel on both sides, and what is too much cut off."""
    sizes = s.shape(x)[2:]
    pads = [((k - 1) * d + 1) // 2 for k, d in zip(kernel, dilations, strict=True)]
    wanted = []
    for size, stride in zip(sizes, strides, strict=True):
        if size is None:
            raise Unsupported('its padding is "same" and the size of its input open: give it with --input NAME=SHAPE')
        wanted.append(-(-size // stride))
    return pads * 2, wanted


def convolve(s: Layer, x: str, kernel: Array, groups: int = 1, *, turn: bool = True) -> str:
    """A convolution with kernel [out, in, ...] on a value with channels first, without bias and activation."""
    spatial = kernel.ndim - 2
    if s.theano and turn:
        kernel = np.flip(kernel, axis=tuple(range(2, kernel.ndim)))
    strides, dilations = s.pair("strides", 1, spatial), s.pair("dilation_rate", 1, spatial)
    padding, size = s.config.get("padding", "valid"), list(kernel.shape[2:])
    more: dict[str, Any] = {}
    wanted: list[int] = []
    if padding == "causal" and spatial == 1:
        more["pads"] = [(size[0] - 1) * dilations[0], 0]
    elif padding == "same" and s.theano:
        more["pads"], wanted = theano_same(s, x, size, strides, dilations)
    elif padding == "same" and max(dilations) == 1:
        more["auto_pad"] = "SAME_UPPER"
    elif padding == "same":
        total = [(k - 1) * d for k, d in zip(size, dilations, strict=True)]
        if max(strides) > 1:
            raise Unsupported("it has strides, dilations and same padding at once")
        more["pads"] = [t // 2 for t in total] + [t - t // 2 for t in total]
    elif padding != "valid":
        raise Unsupported(f"its padding is {padding!r}")
    y = s("Conv", x, s.constant(kernel, "kernel"), group=groups, strides=strides, dilations=dilations,
          kernel_shape=size, **more)  # fmt: skip
    return trimmed(s, y, wanted)


def trimmed(s: Layer, x: str, wanted: list[int]) -> str:
    """The first `wanted` positions of each spatial axis."""
    if not wanted or s.shape(x)[2:] == wanted:
        return x
    axes = list(range(2, 2 + len(wanted)))
    return s("Slice", x, s.longs(*[0] * len(axes)), s.longs(*wanted), s.longs(*axes))


def finished(s: Layer, y: str, bias: int) -> str:
    """Bias (weights number `bias`), layout and activation behind a convolution."""
    if s.config.get("use_bias", True):
        values = s.weight(bias, 1)
        y = s("Add", y, s.constant(values.reshape(-1, *[1] * (len(s.shape(y)) - 2)), "bias"))
    return s.activated(s.back(y))


@layer("Conv2D")
def conv_2d(s: Layer, x: str) -> str:
    """Kernels of Keras 1 with channels first are [out, in, rows, columns]; all others [rows, columns, in, out]."""
    w = s.weight(0, 4)
    kernel = w if s.old and s.first else w.transpose(3, 2, 0, 1)
    return finished(s, convolve(s, s.to_first(x), kernel), 1)


@layer("Conv1D")
def conv_1d(s: Layer, x: str) -> str:
    """Kernels of Keras 1 are [length, 1, in, out], before 1.2 [out, in, length, 1]; of Keras 2 [length, in, out]."""
    (length,) = s.pair("kernel_size", None, 1)
    if s.old:
        w = s.weight(0, 4)
        if w.shape[:2] != (length, 1) or w.shape[3] != s.config.get("filters"):
            w = w.transpose(2, 3, 1, 0)
        w = w[:, 0]
    else:
        w = s.weight(0, 3)
    return finished(s, convolve(s, s.to_first(x), w.transpose(2, 1, 0)), 1)


@layer("Conv2DTranspose")
def conv_2d_transpose(s: Layer, x: str) -> str:
    """Kernels of Keras 2 are [rows, columns, out, in]; of Keras 1 those of a convolution, [out, in, rows, columns] with
    channels first (`preprocess_weights_for_loading` of Keras 2)."""
    w = s.weight(0, 4)
    kernel = (
        w.transpose(1, 0, 2, 3) if s.old and s.first else w.transpose(2, 3, 0, 1) if s.old else w.transpose(3, 2, 0, 1)
    )
    if s.theano:
        kernel = kernel[:, :, ::-1, ::-1]
    strides, size = s.pair("strides", 1), list(kernel.shape[2:])
    padding = s.config.get("padding", "valid")
    if s.config.get("output_padding") or max(s.pair("dilation_rate", 1)) > 1 or padding not in ("valid", "same"):
        raise Unsupported("output_padding, dilations and padding other than valid and same are not known here")
    if s.theano and padding == "same":
        raise Unsupported("same padding of a transposed convolution with Theano is not known here")
    value = s.to_first(x)
    surplus = [max(k - t, 0) if padding == "same" else 0 for k, t in zip(size, strides, strict=True)]
    extra = [max(t - k, 0) for k, t in zip(size, strides, strict=True)]
    if s.old and padding == "valid":
        extra = stated(s, s.shape(value)[2:], size, strides) or extra
    y = s("ConvTranspose", value, s.constant(kernel, "kernel"), strides=strides, kernel_shape=size,
          pads=[p // 2 for p in surplus] + [p - p // 2 for p in surplus], output_padding=extra)  # fmt: skip
    wanted = written(s)
    if wanted and s.shape(y)[2:] != wanted:
        raise Unsupported(f"its output_shape {wanted} is not that of its input, kernel and stride, {s.shape(y)[2:]}")
    return finished(s, y, 1)


def written(s: Layer) -> list[Any]:
    """Rows and columns of a result whose shape Keras 1 wrote into the file; nothing where it did not."""
    shape = s.config.get("output_shape") if s.old else None
    if not isinstance(shape, list) or len(shape) != 4 or None in shape[1:]:
        return []
    return shape[2:] if s.first else shape[1:3]


def stated(s: Layer, sizes: list[int | None], kernel: list[int], strides: list[int]) -> list[int]:
    """How much longer than the smallest the result of a transposed convolution is said to be, by its shape in the file."""
    whole = zip(written(s), sizes, kernel, strides, strict=False)
    found = [n - ((size - 1) * t + k) for n, size, k, t in whole if size is not None]
    return found if len(found) == 2 and all(0 <= f < t for f, t in zip(found, strides, strict=True)) else []


def depthwise_kernel(w: Array) -> Array:
    """[rows, columns, in, multiplier] -> [in * multiplier, 1, rows, columns]."""
    rows, columns, channels, multiplier = w.shape
    return w.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, rows, columns)


@layer("DepthwiseConv2D")
def depthwise(s: Layer, x: str) -> str:
    """Keras turns these kernels itself on Theano: they are stored as everyone's."""
    w = s.weight(0, 4)
    return finished(s, convolve(s, s.to_first(x), depthwise_kernel(w), w.shape[2], turn=False), 1)


@layer("SeparableConv2D")
def separable(s: Layer, x: str) -> str:
    """A depthwise and a 1x1 convolution."""
    if s.old:
        raise Unsupported("Keras 1 had it on TensorFlow only, with channels last")
    depth, point = s.weight(0, 4), s.weight(1, 4)
    y = convolve(s, s.to_first(x), depthwise_kernel(depth), depth.shape[2], turn=False)
    y = s("Conv", y, s.constant(point.transpose(3, 2, 0, 1), "pointwise"))
    return finished(s, y, 2)


@layer("MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D")
def pool(s: Layer, x: str) -> str:
    """Theano pads "same" by its own rule, and cuts off what is too much."""
    spatial = 1 if s.kind.endswith("1D") else 2
    size = s.pair("pool_size", 2, spatial)
    strides = s.pair("strides", size if spatial == 2 else size[0], spatial)
    padding, value = s.config.get("padding", "valid"), s.to_first(x)
    more: dict[str, Any] = {}
    wanted: list[int] = []
    if padding == "same" and s.theano:
        _, wanted = theano_same(s, value, size, strides, [1] * spatial)
        more["pads"] = [k - 2 if k > 2 and k % 2 else k - 1 for k in size] * 2
    elif padding == "same":
        more["auto_pad"] = "SAME_UPPER"
    elif padding != "valid":
        raise Unsupported(f"its padding is {padding!r}")
    y = s("MaxPool" if s.kind.startswith("Max") else "AveragePool", value, kernel_shape=size, strides=strides, **more)
    return s.back(trimmed(s, y, wanted))


@layer("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D")
def global_pool(s: Layer, x: str) -> str:
    rank = len(s.shape(x))
    axes = list(range(2, rank)) if s.first else list(range(1, rank - 1))
    return s("ReduceMax" if "Max" in s.kind else "ReduceMean", x, s.longs(*axes), keepdims=0)


def borders(s: Layer, key: str, rank: int) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis, in any of the ways Keras wrote them."""
    value, spatial = s.config.get(key), rank - 2
    if isinstance(value, dict):
        value = [
            [value.get(f"{a}_pad", 0), value.get(f"{b}_pad", 0)] for a, b in (("top", "bottom"), ("left", "right"))
        ]
    if isinstance(value, int):
        value = [value] * spatial
    if spatial == 1 and isinstance(value, list) and len(value) == 2:
        value = [value]
    if isinstance(value, list) and spatial == 2 and len(value) == 4:
        value = [value[:2], value[2:]]
    pairs = [tuple(v) if isinstance(v, list) else (v, v) for v in value or []]
    if len(pairs) != spatial or not all(isinstance(n, int) and 0 <= n < 1 << 16 for p in pairs for n in p):
        raise Unsupported(f"its {key} is {s.config.get(key)}")
    return [(int(a), int(b)) for a, b in pairs]


@layer("ZeroPadding1D", "ZeroPadding2D")
def zero_padding(s: Layer, x: str) -> str:
    value = s.to_first(x)
    pairs = [(0, 0), (0, 0), *borders(s, "padding", len(s.shape(value)))]
    return s.back(s("Pad", value, s.longs(*(p[0] for p in pairs), *(p[1] for p in pairs))))


@layer("Cropping1D", "Cropping2D")
def cropping(s: Layer, x: str) -> str:
    value = s.to_first(x)
    pairs = borders(s, "cropping", len(s.shape(value)))
    axes = range(2, 2 + len(pairs))
    ends = [-b if b else BIG for _, b in pairs]
    return s.back(s("Slice", value, s.longs(*(a for a, _ in pairs)), s.longs(*ends), s.longs(*axes)))


@layer("UpSampling1D", "UpSampling2D")
def upsampling(s: Layer, x: str) -> str:
    value = s.to_first(x)
    size = s.pair("size", 2, len(s.shape(value)) - 2)
    kind = s.config.get("interpolation", "nearest")
    if kind != "nearest":
        raise Unsupported(f"its interpolation is {kind!r}")
    scales = s.emit.constant([1.0, 1.0, *map(float, size)], np.float32)
    return s.back(s("Resize", value, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor"))  # fmt: skip


@layer("BatchNormalization")
def batch_normalization(s: Layer, x: str) -> str:
    """Weights gamma, beta, mean, variance (which Keras 1 calls running_std)."""
    if s.config.get("mode", 0) != 0:
        raise Unsupported(f"mode {s.config['mode']} normalizes each sample or each batch")
    rank, axis = len(s.shape(x)), s.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) else axis
    if not isinstance(axis, int) or not -rank <= axis < rank or axis % rank == 0:
        raise Unsupported(f"its axis is {axis}")
    axis %= rank
    rest = list(s.weights)
    if not rest:
        raise Unsupported("its weights are missing from the file")
    ones = np.ones_like(rest[0])
    gamma = rest.pop(0) if s.config.get("scale", True) else ones
    beta = rest.pop(0) if s.config.get("center", True) else 0 * ones
    if len(rest) != 2:
        raise Unsupported("its weights are missing from the file, or of another shape")
    order = [0, axis, *(a for a in range(1, rank) if a != axis)]
    value = x if axis == 1 else s("Transpose", x, perm=order)
    y = s(
        "BatchNormalization",
        value,
        *map(s.constant, (gamma, beta, *rest)),
        epsilon=float(s.config.get("epsilon", 1e-3)),
    )
    return y if axis == 1 else s("Transpose", y, perm=[int(a) for a in np.argsort(order)])


@layer("LeakyReLU")
def leaky_relu(s: Layer, x: str) -> str:
    return s("LeakyRelu", x, alpha=float(s.config.get("alpha", 0.3)))


@layer("ELU")
def elu(s: Layer, x: str) -> str:
    return s("Elu", x, alpha=float(s.config.get("alpha", 1.0)))


@layer("ThresholdedReLU")
def thresholded(s: Layer, x: str) -> str:
    return s("ThresholdedRelu", x, alpha=float(s.config.get("theta", 1.0)))


@layer("PReLU")
def prelu(s: Layer, x: str) -> str:
    if not s.weights:
        raise Unsupported("its weights are missing from the file")
    return s("PRelu", x, s.constant(s.weights[0]))


@layer("ReLU")
def relu(s: Layer, x: str) -> str:
    if s.config.get("negative_slope") or s.config.get("threshold"):
        raise Unsupported("it has a slope or a threshold")
    top = s.config.get("max_value")
    return (
        s("Relu", x) if top is None else s("Clip", x, s.emit.constant(np.float32(0)), s.emit.constant(np.float32(top)))
    )


@layer("Softmax")
def softmax(s: Layer, x: str) -> str:
    return s("Softmax", x, axis=int(s.config.get("axis", -1)))


@layer("Flatten")
def flatten(s: Layer, x: str) -> str:
    """In the order of the file; Keras from 2.2 on moves channels last before it flattens them if told data_format."""
    rank = len(s.shape(x))
    if s.first and rank > 2:
        x = s("Transpose", x, perm=[0, *range(2, rank), 1])
    return s("Flatten", x, axis=1)


@layer("Reshape")
def reshape(s: Layer, x: str) -> str:
    target = [int(v) for v in s.config["target_shape"]]
    sizes = s.shape(x)[1:]
    if -1 in target and None not in sizes:
        target[target.index(-1)] = math.prod(n or 1 for n in sizes) // max(math.prod(v for v in target if v > 0), 1)
    batch = s.shape(x)[0]
    return s("Reshape", x, s.longs(-1 if -1 not in target else batch if batch is not None else 0, *target))


@layer("Permute")
def permute(s: Layer, x: str) -> str:
    return s("Transpose", x, perm=[0, *(int(d) for d in s.config["dims"])])


@layer("RepeatVector")
def repeat_vector(s: Layer, x: str) -> str:
    return s("Tile", s("Unsqueeze", x, s.longs(1)), s.longs(1, int(s.config["n"]), 1))


@layer("Add", "Multiply", "Maximum", "Minimum", "Average", "Subtract")
def merged(s: Layer, *x: str) -> str:
    if s.kind == "Subtract":
        return s("Sub", *x)
    if s.kind == "Multiply":
        y = x[0]
        for other in x[1:]:
            y = s("Mul", y, other)
        return y
    return s({"Add": "Sum", "Maximum": "Max", "Minimum": "Min", "Average": "Mean"}[s.kind], *x)


@layer("Concatenate")
def concatenate(s: Layer, *x: str) -> str:
    return s("Concat", *x, axis=int(s.config.get("axis", -1)))


@layer("Embedding")
def embedding(s: Layer, x: str) -> str:
    if s.config.get("mask_zero"):
        raise Unsupported("it masks the zeros of its input")
    return s("Gather", s.constant(s.weight(0, 2)), s("Cast", x, to=7), axis=0)


@layer("TimeDistributed")
def time_distributed(s: Layer, x: str) -> str:
    """The steps of all sequences as one batch for the layer within."""
    inner = s.config.get("layer") or {}
    kind, config = modern(str(inner.get("class_name")), inner.get("config"))
    shape = s.shape(x)
    if kind not in HANDLERS or kind in RECURRENT or None in shape[1:] or len(shape) < 3:
        raise Unsupported(f"a {kind} at each step, or open sizes, are not known here")
    within = Layer(s.emit, f"{s.name}/{kind}", kind, config, s.weights, s.old, s.theano, s.notes)
    y = HANDLERS[kind](within, s("Reshape", x, s.longs(-1, *(n or 0 for n in shape[2:]))))
    return s("Reshape", y, s.longs(-1, shape[1] or 0, *(n or 0 for n in s.shape(y)[1:])))


RECURRENT = ("LSTM", "GRU", "SimpleRNN", "Bidirectional")
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
IN_ONNX = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "SimpleRNN": (0,)}  # i f c o -> i o f c
RNN_ACTIVATIONS = {"tanh": "Tanh", "sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid", "relu": "Relu", "softsign": "Softsign",
                   "softplus": "Softplus", "linear": "Affine"}  # fmt: skip


def recurrent_weights(s: Layer) -> tuple[Array, Array, Array]:
    """(kernel [in, gates * units], recurrent kernel, bias) in the order of Keras 2."""
    n = GATES[s.kind]
    if s.old and len(s.weights) == 3 * n and n > 1:  # LSTM: i, c, f, o; GRU: z, r, h; three arrays each
        order = (0, 2, 1, 3) if s.kind == "LSTM" else (0, 1, 2)
        w, r, b = (np.concatenate([s.weights[3 * g + i] for g in order], axis=-1) for i in range(3))
        return w, r, b
    bias = s.weights[2] if s.config.get("use_bias", True) and len(s.weights) > 2 else None
    w, r = s.weight(0, 2), s.weight(1, 2)
    return w, r, np.zeros(w.shape[1], np.float32) if bias is None else bias


@layer("LSTM", "GRU", "SimpleRNN")
def recurrent(s: Layer, x: str) -> str:
    """One node of ONNX; a backward one gets its input reversed."""
    w, r, b = recurrent_weights(s)
    n, units = GATES[s.kind], r.shape[0]
    if w.shape[1] != n * units or r.shape[1] != n * units or b.shape[-1] != n * units:
        raise Unsupported("its weights do not fit one another")
    if s.config.get("stateful"):
        s.notes.append(f"the stateful layer '{s.name}' starts at zero at every call")
    after = b.ndim == 2

    def gates(a: Array) -> Array:
        parts = np.split(a, n, axis=-1)
        return np.concatenate([parts[g] for g in IN_ONNX[s.kind]], axis=-1)

    biases = np.concatenate([gates(b[0]), gates(b[1])] if after else [gates(b), np.zeros_like(b)])
    names = [s.config.get("activation", "tanh")]
    if s.kind != "SimpleRNN":
        names = [s.config.get("recurrent_activation", "hard_sigmoid"), *names] + (names if s.kind == "LSTM" else [])
    if any(a not in RNN_ACTIVATIONS or a == "linear" for a in names):
        raise Unsupported(f"its activations {names} are not known")
    sizes = s.shape(x)
    if s.config.get("go_backwards"):
        x = s("Slice", x, s.longs(-1), s.longs(-BIG), s.longs(1), s.longs(-1))
    more: dict[str, Any] = {"linear_before_reset": int(after)} if s.kind == "GRU" else {}
    weights = [s.constant(a[None]) for a in (gates(w).T, gates(r).T, biases)]
    whole, last = s.emit.many(
        "RNN" if s.kind == "SimpleRNN" else s.kind, [s("Transpose", x, perm=[1, 0, 2]), *weights], 2,
        name=f"{s.name}/{s.kind}", hidden_size=units, activations=[RNN_ACTIVATIONS[a] for a in names], **more,
    )  # fmt: skip
    if len(sizes) != 3:
        raise Unsupported("its input is not a sequence")
    if s.config.get("return_sequences"):
        return s("Transpose", s("Squeeze", whole, s.longs(1)), perm=[1, 0, 2])
    return s("Squeeze", last, s.longs(0))


@layer("Bidirectional")
def bidirectional(s: Layer, x: str) -> str:
    """The layer and its mirror image; sequences of the latter are turned back."""
    inner = s.config.get("layer") or {}
    kind, config = modern(str(inner.get("class_name")), inner.get("config"))
    if kind not in GATES:
        raise Unsupported(f"a {kind} in both directions is not known here")
    half = len(s.weights) // 2
    made = []
    for i, backwards in enumerate((False, True)):
        own = s.weights[i * half : (i + 1) * half]
        settings = {**config, "go_backwards": backwards}
        y = recurrent(Layer(s.emit, f"{s.name}/{i}", kind, settings, own, s.old, s.theano, s.notes), x)
        if backwards and config.get("return_sequences"):
            y = s("Slice", y, s.longs(-1), s.longs(-BIG), s.longs(1), s.longs(-1))
        made.append(y)
    mode = s.config.get("merge_mode", "concat")
    if mode == "concat":
        return s("Concat", *made, axis=-1)
    if mode not in ("sum", "mul", "ave"):
        raise Unsupported(f"its merge_mode is {mode!r}")
    return s({"sum": "Add", "mul": "Mul", "ave": "Mean"}[mode], *made)
