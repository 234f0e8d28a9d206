"""Products of matrices that are both computed, and transposed convolutions."""

from __future__ import annotations

import math

import numpy as np

from ..call import Call, Constant, Features, Params, need, op, read, write
from ..graph import Op
from ..numerics import LIMITS, activation_limits, convolution_multipliers, quantize_multiplier, same_padding
from ..strided import strides

VECTOR = 8  # channels that LiteRT's transposed convolution rescales at once, with another rounding than the rest
Fields = dict[str, int | Constant | None]


@op("BATCH_MATMUL", versions=4)
def batch_matmul(one: Op, features: Features) -> Call:
    """`out[..., i, j] = rescale(sum of (a[..., i, k] - zero) * (b[..., k, j] - zero))`, axes before them broadcast."""
    a, b, y = one.input(0), one.input(1), one.outputs[0]
    need(
        a.dtype == b.dtype == y.dtype and a.dtype in ("int8", "int16"),
        f"it computes in {a.dtype}, {b.dtype} and {y.dtype}",
    )
    need(min(len(t.shape) for t in (a, b, y)) >= 2 and min(t.elements for t in (a, b, y)) > 0, "its shapes do not fit")
    need(a.dtype == "int8" or a.zero_point == b.zero_point == y.zero_point == 0, "an int16 tensor has a zero point")
    turned_a, turned_b = bool(one.option("adjX", False)), bool(one.option("adjY", False))
    rows, depth = a.shape[-2:][::-1] if turned_a else a.shape[-2:]
    other, columns = b.shape[-2:][::-1] if turned_b else b.shape[-2:]
    rank = max(len(a.shape), len(b.shape)) - 2
    shapes = [(1,) * (rank + 2 - len(t.shape)) + t.shape[:-2] for t in (a, b)]
    fits = all(p == q or 1 in (p, q) for p, q in zip(*shapes, strict=True))
    need(fits and depth == other, f"its shapes {list(a.shape)} and {list(b.shape)} do not fit")
    batch = tuple(max(p, q) for p, q in zip(*shapes, strict=True))
    need(y.shape == (*batch, rows, columns), f"its output is {list(y.shape)}")
    need(depth < 1 << 15 and max(t.elements for t in (a, b, y)) < 1 << 26, "its matrices are too large")
    at = [np.broadcast_to(np.arange(math.prod(s)).reshape(s), batch).ravel() for s in shapes]
    multiplier, shift = quantize_multiplier(float(a.scale * b.scale) / float(y.scale))
    need(shift <= 0, "its output's scale is too small")
    least, largest = LIMITS[y.dtype]
    steps_a, steps_b = strides(a.shape)[-2:], strides(b.shape)[-2:]
    fields: Fields = {
        "a_at": Constant((at[0] * rows * depth).astype(np.int32)), "b_at": Constant((at[1] * depth * columns).astype(np.int32)),
        "batches": math.prod(batch), "rows": rows, "columns": columns, "depth": depth,
        "a_row": steps_a[1 if turned_a else 0], "a_step": steps_a[0 if turned_a else 1],
        "b_column": steps_b[0 if turned_b else 1], "b_step": steps_b[1 if turned_b else 0],
        "a_zero": a.zero_point, "b_zero": b.zero_point, "out_zero": y.zero_point,
        "multiplier": multiplier, "shift": shift, "least": least, "largest": largest,
    }  # fmt: skip
    return Call(
        "matmul", f"ednn_matmul_{'s8' if y.dtype == 'int8' else 's16'}",
        (Params("ednn_matmul_t", fields), read(0), read(1), write()), macs=y.elements * depth,
    )  # fmt: skip


@op("TRANSPOSE_CONV", versions=6)
def transpose_conv(one: Op, features: Features) -> Call:
    """Each input value adds its product with the kernel to a window of the output."""
    weights, x, y = one.input(1), one.input(2), one.outputs[0]
    need(x.dtype == y.dtype and x.dtype in ("int8", "int16") and weights.dtype == "int8", f"it computes in {x.dtype}")
    need(len(x.shape) == len(y.shape) == len(weights.shape) == 4 and x.shape[0] == y.shape[0], "its shapes do not fit")
    need(min(x.elements, y.elements, weights.elements) > 0, "a tensor is empty")
    out, kernel_h, kernel_w, depth = weights.shape
    need(out == y.shape[3] and depth == x.shape[3], "its channels do not fit its weights")
    need(not weights.zero_points.any(), "its weights have a zero point other than 0")
    need(x.dtype == "int8" or x.zero_point == y.zero_point == 0, "an int16 tensor has a zero point")
    stride_h, stride_w = int(one.option("strideH")), int(one.option("strideW"))
    need(0 < stride_h < 1 << 10 and 0 < stride_w < 1 << 10, f"its strides are {stride_h} and {stride_w}")
    same = int(one.option("padding")) == 0
    for size, result, k, s in zip(x.shape[1:3], y.shape[1:3], (kernel_h, kernel_w), (stride_h, stride_w), strict=True):
        need(size == (-(-result // s) if same else (result - k) // s + 1), "its output does not fit its strides")
    top = same_padding(y.shape[1], x.shape[1], kernel_h, stride_h, 1) if same else 0
    left = same_padding(y.shape[2], x.shape[2], kernel_w, stride_w, 1) if same else 0
    given = one.inputs[3] if len(one.inputs) > 3 else None
    bias = np.zeros(out, np.int64) if given is None else given.values.astype(np.int64).ravel()
    need(len(bias) == out, "its bias does not fit its channels")
    if x.dtype == "int8":
        most = np.abs(bias).max(initial=0) + 255 * 128 * int(np.prod(weights.shape[1:]))
        need(int(most) < 1 << 31, "its sums do not fit into 32 bits")
        bias = bias.astype(np.int32)
    else:
        need(given is None or given.dtype == "int64", "its bias is not int64")
        need(int(np.abs(bias).max(initial=0)) < 1 << 46, "its sums do not fit into 47 bits")
    multipliers, shifts = convolution_multipliers(x, weights, y, out)
    need(int(shifts.max(initial=-31)) <= 0, "its output's scale is too small")
    least, largest = activation_limits(one, y)
    fields: Fields = {
        "weights": Constant(weights.values.astype(np.int8)), "bias": Constant(bias), "multipliers": Constant(multipliers),
        "shifts": Constant(shifts.astype(np.int8)), "zero": x.zero_point, "out_zero": y.zero_point,
        "least": least, "largest": largest, "batch": x.shape[0],
        "in_h": x.shape[1], "in_w": x.shape[2], "in_c": depth, "out_h": y.shape[1], "out_w": y.shape[2], "out_c": out,
        "kernel_h": kernel_h, "kernel_w": kernel_w, "stride_h": stride_h, "stride_w": stride_w,
        "pad_top": top, "pad_left": left, "upward": out // VECTOR * VECTOR,
    }  # fmt: skip
    return Call(
        "transpose_conv", f"ednn_transpose_conv_{'s8' if y.dtype == 'int8' else 's16'}",
        (Params("ednn_transpose_conv_t", fields), read(2), write()), macs=x.elements * kernel_h * kernel_w * out,
    )  # fmt: skip
