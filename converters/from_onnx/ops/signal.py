"""Signals: DFT and STFT as products with constant matrices, Col2Im, CenterCropPad."""

from __future__ import annotations

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..layout import Batch, new_dim
from ..node import Node, Unsupported, axis_of
from ..value import Value
from . import op
from .conv import dilated
from .indexing import in_order, is_free, refuse_batch
from .shaping import padded, sliced

MAX_MATRIX = 1 << 24


def _waves(rows: int, columns: int, length: int) -> tuple[Array, Array]:
    """cos and sin of 2 pi r c / length."""
    if rows * columns > MAX_MATRIX:
        raise Unsupported(f"a transform of {length} entries")
    angle = 2 * np.pi * (np.outer(np.arange(rows), np.arange(columns)) % length) / length
    return np.cos(angle), np.sin(angle)


def _forward(entries: int, length: int, *, onesided: bool) -> Array:
    """[2 * entries, 2 * bins]: (real, imaginary) pairs of a signal to those of its spectrum."""
    bins = length // 2 + 1 if onesided else length
    used = min(entries, length)
    cos, sin = _waves(used, bins, length)
    matrix = np.zeros((entries, 2, bins, 2))
    matrix[:used, 0, :, 0], matrix[:used, 0, :, 1] = cos, -sin
    matrix[:used, 1, :, 0], matrix[:used, 1, :, 1] = sin, cos
    return matrix


def _inverse(entries: int, length: int, *, onesided: bool) -> Array:
    cos, sin = _waves(min(entries, length), length, length)
    used = len(cos)
    parts = 1 if onesided else 2
    matrix = np.zeros((entries, 2, length, parts))
    share = np.full(used, 1.0 / length)
    if onesided:
        used = min(used, length // 2 + 1)
        share = np.where((np.arange(used) == 0) | (2 * np.arange(used) == length), 1.0, 2.0) / length
        cos, sin = cos[:used], sin[:used]
    matrix[:used, 0, :, 0], matrix[:used, 1, :, 0] = cos * share[:, None], -sin * share[:, None]
    if not onesided:
        matrix[:used, 0, :, 1], matrix[:used, 1, :, 1] = sin * share[:, None], cos * share[:, None]
    return matrix


@op("DFT")
def dft(b: Builder, node: Node, x: Value, length: Value | None = None, axis: Value | None = None) -> Value:
    """The discrete Fourier transform along an axis of [..., 1 or 2] (real, or real and imaginary)."""
    ops = keras().ops
    along = node.integer("axis", 1) if node.opset < 20 else -2 if axis is None else int(axis.array.reshape(-1)[0])
    at = axis_of(along, x.rank)
    n = x.shape[at]
    if n is None or at == x.rank - 1:
        raise refuse_batch(b, "a transform along the batch")
    onesided, inverse = bool(node.integer("onesided")), bool(node.integer("inverse"))
    count = 2 * (n - 1) if inverse and onesided else n
    if length is not None:
        count = int(length.array.reshape(-1)[0])
    if count < 1:
        raise Unsupported(f"a transform of {count} entries")
    matrix = (_inverse if inverse else _forward)(n, count, onesided=onesided)
    matrix = matrix[:, : int(x.shape[-1] or 1)]
    bins, parts = matrix.shape[2:]
    order = [i for i in range(x.rank) if i not in (at, x.rank - 1)] + [at, x.rank - 1]
    rows = x.lay((*(x.dims[i] for i in order[:-2]), x.dims[at] + x.dims[-1]))
    out = ops.matmul(rows, b.weight(matrix.reshape(matrix.shape[0] * matrix.shape[1], -1).astype(np.float32)))
    found, part = new_dim(bins), new_dim(parts)
    out = ops.reshape(out, [-1 if k is None else k for k in [x.shape[i] for i in order[:-2]]] + [bins, parts])
    dims = (*(found if i == at else d for i, d in enumerate(x.dims[:-1])), part)
    return Value(dims, (*(x.dims[i] for i in order[:-2]), found, part), b.named(out), None, out.dtype)


@op("STFT")
def stft(
    b: Builder, node: Node, x: Value, step: Value, window: Value | None = None, frame: Value | None = None
) -> Value:
    """The short-time Fourier transform of [n, length, 1 or 2]: a convolution whose kernels are the windowed waves."""
    hop = int(step.array.reshape(-1)[0])
    if window is None and frame is None:
        raise Unsupported("neither a window nor a frame length")
    shape = np.ones(int(frame.array.reshape(-1)[0])) if window is None and frame is not None else None
    weights = shape if shape is not None or window is None else window.array.reshape(-1)
    assert weights is not None
    length = len(weights) if frame is None else int(frame.array.reshape(-1)[0])
    parts = int(x.shape[2] or 1) if x.rank == 3 else 1
    n = x.shape[1]
    if n is None or hop < 1 or length > n or length != len(weights):
        raise Unsupported(f"frames of {length} from {n} entries")
    matrix = (
        _forward(length, length, onesided=bool(node.integer("onesided", 1)))[:, :parts] * weights[:, None, None, None]
    )
    bins = matrix.shape[2]
    tensor = x.canonical() if x.rank == 3 else keras().ops.expand_dims(x.canonical(), -1)
    kernel = matrix.reshape(length, parts, bins * 2).astype(np.float32)
    out = b.layer("Conv1D", tensor, weights=[kernel], filters=bins * 2, kernel_size=length, strides=hop, use_bias=False)
    frames = int(out.shape[1])
    made = new_dim(frames), new_dim(bins), new_dim(2)
    return in_order(keras().ops.reshape(out, (-1, frames, bins, 2)), (x.dims[0], *made))


@op("Col2Im")
def col2im(b: Builder, node: Node, x: Value, image: Value, block: Value) -> Value:
    """Columns added up at their places in an image: a transposed convolution with a kernel of ones."""
    ops = keras().ops
    size, kernel = ([int(v) for v in c.array.reshape(-1)] for c in (image, block))
    n, count = len(size), int(np.prod(kernel))
    if not 1 <= n <= 3 or x.rank != 3 or None in x.shape[1:] or int(x.shape[1] or 0) % count:
        raise Unsupported(f"columns of {list(x.shape)} over {n} dimensions")
    strides, dilations = node.integers("strides") or [1] * n, node.integers("dilations") or [1] * n
    pads = node.integers("pads") or [0] * 2 * n
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    blocks = [(s + p + q - w) // t + 1 for s, p, q, w, t in zip(size, pads[:n], pads[n:], spans, strides, strict=True)]
    channels = int(x.shape[1] or 0) // count
    tensor = ops.reshape(x.canonical(), (-1, count, int(np.prod(blocks))))
    tensor = ops.reshape(ops.transpose(tensor, (0, 2, 1)), (-1, *blocks, count))
    ones = dilated(np.eye(count, dtype=np.float32).reshape(count, 1, *kernel), dilations)
    ones = np.pad(ones, [(0, 0), (0, 0), *((0, max(s - w, 0)) for w, s in zip(spans, strides, strict=True))])
    weights = np.moveaxis(ones, (1, 0), (-2, -1))
    out = b.layer(
        f"Conv{n}DTranspose", tensor, weights=[weights], filters=1, kernel_size=ones.shape[2:],
        strides=strides[0] if n == 1 else tuple(strides), use_bias=False,
    )  # fmt: skip
    reach = [max(p + s - int(m), 0) for p, s, m in zip(pads[:n], size, out.shape[1:-1], strict=True)]
    if any(reach):
        out = ops.pad(out, [(0, 0), *((0, r) for r in reach), (0, 0)])
    out = out[(slice(None), *(slice(p, p + s) for p, s in zip(pads[:n], size, strict=True)), 0)]
    made = [new_dim(s) for s in size]
    return in_order(b.named(ops.reshape(out, (-1, channels, *size))), (x.dims[0], new_dim(channels), *made))


@op("CenterCropPad")
def center_crop_pad(b: Builder, node: Node, x: Value, wanted: Value) -> Value:
    axes = [axis_of(a, x.rank) for a in node.integers("axes")] or list(range(x.rank))
    value, borders = x, {}
    for a, target in zip(axes, wanted.sizes(), strict=True):
        have = x.shape[a]
        if have is None or isinstance(target, Batch):
            if not (isinstance(target, Batch) and is_free(x.dims[a])):
                raise refuse_batch(b, "cropping the batch")
            continue
        if target < have:
            low = (have - target) // 2
            value = sliced(b, value, a, low, low + target, 1)
        elif target > have:
            low = (target - have) // 2
            borders[a] = (low, target - have - low)
    return padded(b, value, borders, "constant", 0.0) if borders else value
