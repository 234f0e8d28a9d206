"""Convolutions: Conv and ConvTranspose of one to three dimensions, grouped, depthwise, dilated, with any padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..layout import Dims, flat, new_dims
from ..node import Node, Unsupported
from ..value import Value
from . import op
from .math import plus

MAX_WINDOW = 1 << 20
Pads = list[tuple[int, int]]


def windows(node: Node, x: Value, kernel: Sequence[int]) -> tuple[list[int], list[int], Pads]:
    """Strides, dilations and (begin, end) pads of a node with a sliding window, its auto_pad carried out."""
    n = len(kernel)
    _bounded(node, kernel)
    strides = node.integers("strides") or [1] * n
    dilations = node.integers("dilations") or [1] * n
    given = node.integers("pads") or [0] * 2 * n
    auto = node.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = [same(s, w, t, lower=auto == "SAME_LOWER") for s, w, t in zip(x.shape[2:], spans, strides, strict=True)]
        return strides, dilations, pads
    if auto == "VALID":
        given = [0] * 2 * n
    return strides, dilations, list(zip(given[:n], given[n:], strict=True))


def _bounded(node: Node, kernel: Sequence[int]) -> None:
    """Raises Unsupported for a window larger than any input, whose sizes TensorFlow would overflow on and abort."""
    for key in ("strides", "dilations", "pads", "output_padding", "output_shape"):
        if any(abs(v) > MAX_WINDOW for v in (*node.integers(key), *kernel)):
            raise Unsupported(f"{key} of {node.integers(key)} with a window of {list(kernel)}")


def same(length: int | None, span: int, stride: int, *, lower: bool = False) -> tuple[int, int]:
    """The pads of SAME (TensorFlow's and ONNX's SAME_UPPER: the odd one at the end)."""
    if length is None:
        if stride != 1:
            raise Unsupported("SAME padding of a dimension whose size is not known")
        total = span - 1
    else:
        total = max((-(-length // stride) - 1) * stride + span - length, 0)
    return (total - total // 2, total // 2) if lower else (total // 2, total - total // 2)


def is_same(x: Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Pads) -> bool:
    """Whether the pads are those of TensorFlow's SAME."""
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    lengths = x.shape[2:]
    if any(n is None and s != 1 for n, s in zip(lengths, strides, strict=True)):
        return False
    return all(same(n, w, s) == p for n, w, s, p in zip(lengths, spans, strides, pads, strict=True))


def padded(b: Builder, tensor: Any, pads: Pads) -> Any:
    """A channels-last tensor with zeros around its spatial axes (taken away where a pad is negative)."""
    if any(p < 0 for pair in pads for p in pair):
        crop = [(max(-a, 0), max(-z, 0)) for a, z in pads]
        tensor = cropped(b, tensor, crop)
        pads = [(max(a, 0), max(z, 0)) for a, z in pads]
    if not any(p for pair in pads for p in pair):
        return tensor
    n = len(pads)
    padding = tuple(pads[0]) if n == 1 else tuple(tuple(p) for p in pads)
    return b.layer(f"ZeroPadding{n}D", tensor, padding=padding, suffix="_pad")


def cropped(b: Builder, tensor: Any, crop: Pads) -> Any:
    """A channels-last tensor without the borders of its spatial axes."""
    if not any(c for pair in crop for c in pair):
        return tensor
    n = len(crop)
    amount = tuple(crop[0]) if n == 1 else tuple(tuple(c) for c in crop)
    return b.layer(f"Cropping{n}D", tensor, cropping=amount, suffix="_crop")


def spatial(x: Value, tensor: Any, *, channels: bool = True) -> Value:
    """A channels-last tensor as a Value; the batch, and where `channels` is false the channels, are those of `x`."""
    n = len(tensor.shape) - 2
    batch = x.dims[0]
    last = new_dims([tensor.shape[-1]])[0] if channels else x.dims[1]
    middle = new_dims(tensor.shape[1 : n + 1])
    dims: Dims = (batch, last, *middle)
    return Value(dims, (batch, *middle, last), tensor, None, tensor.dtype)


@op("Conv")
def conv(b: Builder, node: Node, x: Value, w: Value, bias: Value | None = None) -> Value:
    if not w.is_constant:
        return _conv_of_computed(b, node, x, w, bias)
    kernel = w.array
    n = kernel.ndim - 2
    if not 1 <= n <= 3:
        raise Unsupported(f"a convolution over {n} dimensions")
    strides, dilations, pads = windows(node, x, kernel.shape[2:])
    if any(s > 1 for s in strides) and any(d > 1 for d in dilations):
        kernel, dilations = dilated(kernel, dilations), [1] * n
    groups, channels = node.integer("group", 1), x.shape[1]
    if channels is None or channels != kernel.shape[1] * groups:
        raise Unsupported(f"weights for {kernel.shape[1] * groups} channels on an input with {channels}")
    if max(kernel.shape[2:]) == max(strides) == 1 and not any(p for pair in pads for p in pair):
        return _pointwise(b, x, kernel, bias, groups)
    tensor, padding = x.channels_last(), "valid"
    if any(p for pair in pads for p in pair):
        if is_same(x, kernel.shape[2:], strides, dilations, pads):
            padding = "same"
        else:
            tensor = padded(b, tensor, pads)
    if padding == "valid" and any(
        t is not None and t < (k - 1) * d + 1
        for t, k, d in zip(tensor.shape[1:-1], kernel.shape[2:], dilations, strict=True)
    ):
        raise Unsupported("a kernel larger than its padded input")
    out = _convolve(b, tensor, kernel, bias, groups, strides, dilations, padding)
    return spatial(x, out)


def lying(x: Value) -> list[int]:
    """The spatial dimensions in the order in which they lie."""
    order = flat(x.axes)
    return sorted(range(2, x.rank), key=lambda i: order.index(x.dims[i][0]) if x.dims[i] else -1)


def _pointwise(b: Builder, x: Value, kernel: Array, bias: Value | None, groups: int) -> Value:
    """A convolution of single entries, to which the order of the spatial dimensions is all the same."""
    order, ones = lying(x), [1] * (x.rank - 2)
    out = _convolve(b, x.permuted((0, *order, 1)), kernel, bias, groups, ones, ones, "valid")
    last = new_dims([kernel.shape[0]])[0]
    return Value((x.dims[0], last, *x.dims[2:]), (x.dims[0], *(x.dims[i] for i in order), last), out, None, out.dtype)


def _convolve(
    b: Builder, tensor: Any, kernel: Array, bias: Value | None, groups: int, strides: list[int], dilations: list[int],
    padding: str,
) -> Any:  # fmt: skip
    n = kernel.ndim - 2
    weights = [] if bias is None else [bias.array.reshape(-1)]
    options: dict[str, Any] = {
        "padding": padding,
        "strides": _few(strides),
        "dilation_rate": _few(dilations),
        "use_bias": bias is not None,
    }
    even = len(set(strides)) == 1 and (len(set(dilations)) == 1)
    if groups > 1 and kernel.shape[1] == 1 and n <= 2 and groups == tensor.shape[-1] and even:
        multiple = kernel.shape[0] // groups
        spread = np.moveaxis(kernel.reshape(groups, multiple, *kernel.shape[2:]), (0, 1), (-2, -1))
        return b.layer(
            f"DepthwiseConv{n}D", tensor, weights=[spread, *weights], kernel_size=kernel.shape[2:],
            depth_multiplier=multiple, **options,
        )  # fmt: skip
    spread = np.moveaxis(kernel, (1, 0), (-2, -1))
    return b.layer(
        f"Conv{n}D", tensor, weights=[spread, *weights], filters=kernel.shape[0], kernel_size=kernel.shape[2:],
        groups=groups, **options,
    )  # fmt: skip


def _few(values: list[int]) -> int | tuple[int, ...]:
    return values[0] if len(values) == 1 else tuple(values)


def dilated(kernel: Array, dilations: Sequence[int]) -> Array:
    """A kernel with its zeros written out, for where a framework cannot dilate."""
    spans = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilations, strict=True)]
    out = np.zeros((*kernel.shape[:2], *spans), kernel.dtype)
    out[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = kernel
    return out


def _conv_of_computed(b: Builder, node: Node, x: Value, w: Value, bias: Value | None) -> Value:
    """A convolution whose weights are computed, too."""
    n = w.rank - 2
    lengths = [int(d or 0) for d in w.shape]
    if node.integer("group", 1) != 1 or None in w.shape:
        raise Unsupported("a grouped convolution whose weights are computed")
    strides, dilations, pads = windows(node, x, lengths[2:])
    source = b.materialized(x) if x.is_constant else x
    tensor = padded(b, source.channels_last(), pads)
    kernel = w.permuted((*range(2, n + 2), 1, 0))
    out = b.named(
        keras().ops.conv(tensor, kernel, strides=_few(strides), padding="valid", dilation_rate=_few(dilations))
    )
    found = spatial(source, out)
    if bias is None:
        return found
    column = Value.of_constant(bias.array.reshape(-1, *[1] * n)) if bias.is_constant else None
    if column is None:
        raise Unsupported("a bias that is computed")
    return b.elementwise(plus, found, column)


@op("ConvTranspose")
def conv_transpose(b: Builder, node: Node, x: Value, w: Value, bias: Value | None = None) -> Value:
    kernel = w.array
    n = kernel.ndim - 2
    if not 1 <= n <= 3:
        raise Unsupported(f"a transposed convolution over {n} dimensions")
    _bounded(node, kernel.shape[2:])
    strides = node.integers("strides") or [1] * n
    dilations = node.integers("dilations") or [1] * n
    if any(d > 1 for d in dilations):
        kernel = dilated(kernel, dilations)
    groups = node.integer("group", 1)
    if groups > 1:
        kernel = _block_diagonal(kernel, groups)
    pads, extra = _transposed_pads(node, x, kernel.shape[2:], strides)
    given = kernel.shape[2:]
    kernel = np.pad(kernel, [(0, 0), (0, 0), *((0, max(s - k, 0)) for k, s in zip(given, strides, strict=True))])
    longer = [max(s - k, 0) for k, s in zip(given, strides, strict=True)]  # Keras makes `stride` outputs at least
    extra = [e - more for e, more in zip(extra, longer, strict=True)]
    crop = [(a, z - e) for (a, z), e in zip(pads, extra, strict=True)]
    weights = [np.moveaxis(kernel, (1, 0), (-2, -1))]
    options: dict[str, Any] = {"filters": kernel.shape[1], "kernel_size": kernel.shape[2:], "strides": _few(strides)}
    late = bias is not None and any(z < 0 for _, z in crop)
    if bias is not None and not late:
        weights.append(bias.array.reshape(-1))
    same_crop = all(
        a == (k - s) // 2 and a + z == k - s for (a, z), k, s in zip(crop, kernel.shape[2:], strides, strict=True)
    )
    out = b.layer(
        f"Conv{n}DTranspose", x.channels_last(), weights=weights, padding="same" if same_crop else "valid",
        use_bias=len(weights) == 2, **options,
    )  # fmt: skip
    if not same_crop:
        out = cropped(b, out, [(max(a, 0), max(z, 0)) for a, z in crop])
        out = padded(b, out, [(max(-a, 0), max(-z, 0)) for a, z in crop])
    found = spatial(x, out)
    if late and bias is not None:
        return b.elementwise(plus, found, Value.of_constant(bias.array.reshape(-1, *[1] * n)))
    return found


def _transposed_pads(node: Node, x: Value, kernel: Sequence[int], strides: Sequence[int]) -> tuple[Pads, list[int]]:
    n = len(kernel)
    extra = node.integers("output_padding") or [0] * n
    auto = node.text("auto_pad", "NOTSET")
    wanted = node.integers("output_shape")[-n:] if node.has("output_shape") else []
    if auto in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [int(d or 0) * s for d, s in zip(x.shape[2:], strides, strict=True)]
    if wanted:
        if None in x.shape[2:]:
            raise Unsupported("output_shape of an input whose size is not known")
        totals = [
            s * (int(d or 0) - 1) + e + k - t
            for s, d, e, k, t in zip(strides, x.shape[2:], extra, kernel, wanted, strict=True)
        ]
        upper = auto != "SAME_UPPER"  # ONNX: in all other cases the odd one is put at the beginning
        return [(t - t // 2, t // 2) if upper else (t // 2, t - t // 2) for t in totals], extra
    given = node.integers("pads") or [0] * 2 * n
    if auto == "VALID":
        given = [0] * 2 * n
    return list(zip(given[:n], given[n:], strict=True)), extra


def _block_diagonal(kernel: Array, groups: int) -> Array:
    """The weights of a grouped transposed convolution as those of a plain one: zeros between the groups."""
    per_in, per_out = kernel.shape[0] // groups, kernel.shape[1]
    out = np.zeros((kernel.shape[0], per_out * groups, *kernel.shape[2:]), kernel.dtype)
    for g in range(groups):
        rows = slice(g * per_in, (g + 1) * per_in)
        out[rows, g * per_out : (g + 1) * per_out] = kernel[rows]
    return out
