"""Pooling: the mean or the largest value of windows."""

from __future__ import annotations

from ..call import Call, Features, Params, need, op, read, write
from ..graph import Op
from ..numerics import activation_limits
from ..overlap import lead_of_windows
from .convolution import geometry

REACH = 1 << 15  # rows or columns of a window, at most


@op("AVERAGE_POOL_2D", versions=3)
def average_pool_2d(one: Op, features: Features) -> Call:
    """The mean over what of each window lies within the input, rounded half away from zero."""
    return _pooled(one, "pool_average")


@op("MAX_POOL_2D", versions=3)
def max_pool_2d(one: Op, features: Features) -> Call:
    """The largest value of each window."""
    return _pooled(one, "pool_max")


def _pooled(one: Op, kernel: str) -> Call:
    x, y = one.input(0), one.outputs[0]
    need(x.dtype == y.dtype and x.dtype in ("int8", "int16"), f"it computes in {x.dtype} and {y.dtype}")
    need(bool(x.scale == y.scale) and x.zero_point == y.zero_point, "its input and output have other scales")
    window = int(one.option("filterHeight")), int(one.option("filterWidth"))
    need(all(0 < w <= REACH for w in window), f"its window is {window}")
    need(len(x.shape) == len(y.shape) == 4 and min(*x.shape, *y.shape) > 0, "its shapes are not of images")
    need(x.shape[3] == y.shape[3], "it changes the number of channels")
    found = geometry(one, x, y, window)
    need(found["stride_h"] <= REACH and found["stride_w"] <= REACH, "its strides are absurdly large")
    valid = int(one.option("padding")) == 1
    for side in "hw":
        size, stride, kernel_size = (found[f"{k}_{side}"] for k in ("in", "stride", "kernel"))
        expected = (size - kernel_size) // stride + 1 if valid else -(-size // stride)
        need(found[f"out_{side}"] == expected, "the shape of its output does not fit its input")
    least, largest = activation_limits(one, y)
    wide = x.dtype == "int16"
    need(window[0] * window[1] < 1 << (15 if wide else 23), "its sums do not fit into 32 bits")
    names = ("in_h", "in_w", "out_h", "out_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "pad_top", "pad_left")
    fields = {name: found[name] for name in names}
    fields |= {"channels": x.shape[3], "least": least, "largest": largest}
    size = 2 if wide else 1
    return Call(
        kernel=f"{kernel}_s16" if wide else kernel, function=f"ednn_{kernel}_{'s16' if wide else 's8'}",
        arguments=(Params("ednn_pool_t", fields), read(0), write(0)), overlap={0: lead_of_windows(found, 1, size, size)},
    )  # fmt: skip
