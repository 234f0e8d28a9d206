"""Convolutions: parameters with the input's zero point folded into the bias, limits, geometry."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....artifact import Array
from ..call import SCRATCH, Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor, Unsupported
from ..numerics import activation_limits, convolution_multipliers, padding


@op("CONV_2D", versions=8)
def conv_2d(one: Op, features: Features) -> Call:
    """`out[n, y, x, o] = clamp(rescale(bias + sum of weights[o, i, j, c] * (in[...] - zero point)))`."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(x.dtype == y.dtype == "int8", f"it computes in {x.dtype} and {y.dtype}; int8 is what this kernel does")
    kernel = weights.shape[1:3]
    groups = x.shape[3] // weights.shape[3]
    need(
        groups * weights.shape[3] == x.shape[3] and weights.shape[0] % groups == 0, "its groups do not fit its channels"
    )
    need(one.epilogue is None, "an addition in the same kernel")
    depth = int(np.prod(weights.shape[1:]))
    fields = {
        **constants(one, weights.values.reshape(weights.shape[0], -1), weights.shape[0]),
        **geometry(one, x, y, kernel),
        "groups": groups,
    }
    return Call(
        kernel="conv", function="ednn_conv_s8", arguments=(Params("ednn_conv_t", fields), read(0), write(0), SCRATCH),
        scratch=depth, macs=y.elements * depth,
    )  # fmt: skip


def constants(one: Op, rows: Array, channels: int, as_dense: bool = False) -> dict[str, Any]:
    """Weights `[channels, k]`, bias (int32, with the zero point in it), multipliers, shifts, and limits of the result."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(not weights.zero_points.any(), "its weights have a zero point other than 0")
    multipliers, shifts = convolution_multipliers(x, weights, y, channels, as_dense)
    least, largest = activation_limits(one, y)
    return {
        "weights": Constant(rows.astype(np.int8)),
        "bias": Constant(folded_bias(one, rows, x)),
        "multipliers": Constant(multipliers),
        "shifts": Constant(shifts.astype(np.int8)),
        "zero": x.zero_point,
        "out_zero": y.zero_point,
        "least": least,
        "largest": largest,
    }


def folded_bias(one: Op, rows: Array, x: Tensor) -> Array:
    """bias - zero point x sum of weights, int32 `[channels]`. Raises Unsupported where a sum could overflow."""
    given = one.inputs[2] if len(one.inputs) > 2 else None
    bias = np.zeros(len(rows), np.int64) if given is None else given.values.astype(np.int64).ravel()
    if len(bias) != len(rows):
        raise Unsupported(f"its bias has {len(bias)} values for {len(rows)} channels")
    found = bias - x.zero_point * rows.astype(np.int64).sum(1)
    most = np.abs(found) + 128 * np.abs(rows.astype(np.int64)).sum(1)
    if (most >= 1 << 31).any():
        raise Unsupported("its sums do not fit into 32 bits")
    return np.asarray(found, np.int32)


def geometry(one: Op, x: Tensor, y: Tensor, kernel: tuple[int, ...]) -> dict[str, int]:
    """Sizes, strides, dilations and padding by the names of the fields. Raises Unsupported for what cannot be."""
    need(
        len(x.shape) == len(y.shape) == 4 and x.shape[0] == y.shape[0] == 1,
        f"its batch is {x.shape[:1]}; firmware takes 1",
    )
    strides = int(one.option("strideH", 1)), int(one.option("strideW", 1))
    dilations = int(one.option("dilationHFactor", 1)), int(one.option("dilationWFactor", 1))
    need(min(strides) > 0 and min(dilations) > 0, f"its strides are {strides} and its dilations {dilations}")
    explicit = one.option("explicit", None)
    top, left = explicit[:2] if explicit else padding(one, x.shape[1:3], y.shape[1:3], kernel)
    reach = [(o - 1) * s for o, s in zip(y.shape[1:3], strides, strict=True)]
    need(reach[0] - top < x.shape[1] and reach[1] - left < x.shape[2], "its output is larger than its input allows")
    return {
        "in_h": x.shape[1], "in_w": x.shape[2], "in_c": x.shape[3],
        "out_h": y.shape[1], "out_w": y.shape[2], "out_c": y.shape[3],
        "kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": strides[0], "stride_w": strides[1],
        "dilation_h": dilations[0], "dilation_w": dilations[1], "pad_top": top, "pad_left": left,
    }  # fmt: skip
