"""Depthwise convolutions: which kernel takes which shapes, and what each needs of weights, scratch and overlap."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....artifact import Array
from ..call import SCRATCH, Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor
from ..numerics import activation_limits, convolution_multipliers
from ..overlap import lead_of_windows
from .convolution import geometry, given_bias

TAPS = 1024  # of a kernel, at most, for kernels with a table of them
WAITING = 4  # at most one row of so many of an output waits in scratch
LANES = 8  # channels that LiteRT rescales at a time
REACH = 1 << 15  # pixels that a dilated kernel may span


@op("DEPTHWISE_CONV_2D", versions=7)
def depthwise_conv_2d(one: Op, features: Features) -> Call:
    """`out[y, x, c * m + k] = clamp(rescale(bias + sum of weights[i, j, c * m + k] * (in[..., c] - zero point)))`.

    LiteRT's optimized kernel (found by experiment) rescales eight channels at a time, rounding halves up as ruy does, and
    the last `out_c % 8` one by one, rounding halves away from zero. Results of int16 are rounded once, from sums of 64 bits
    with multipliers of 16 bits.
    """
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(
        x.dtype == y.dtype and x.dtype in ("int8", "int16"),
        f"it computes in {x.dtype} and {y.dtype}; int8 and int16 are what this kernel does",
    )
    need(one.epilogue is None, "an addition in the same kernel")
    shapes = _shapes(one, x, weights, y)
    if "dsp" in features and x.dtype == "int8":
        found = _words(one, shapes)
        if found is not None:
            return found
    fields = {**_constants(one), **shapes}
    wide = x.dtype == "int16"
    size = 2 if wide else 1
    suffix = "_s16" if wide else ""
    return Call(
        kernel=f"depthwise{suffix}", function=f"ednn_depthwise{suffix or '_s8'}",
        arguments=(Params("ednn_depthwise_t", fields), read(0), write(0)),
        overlap={0: lead(shapes, size)}, macs=_macs(shapes),
    )  # fmt: skip


def _words(one: Op, shapes: dict[str, int]) -> Call | None:
    """The kernels of depthwise_words.h; None where they do not fit: channels, or a rescaling that they cannot do."""
    each = shapes["out_c"] // shapes["in_c"]
    if shapes["out_c"] % LANES or not (each == 1 or each % 4 == 0):
        return None
    taps = shapes["kernel_h"] * shapes["kernel_w"]
    fields = _constants(one)
    words = scaled_words(one, fields) if taps <= TAPS else None
    if words is None:
        return None
    limits = fields["least"], fields["largest"]
    kernel = "words" if each == 1 else "spread"
    params = {
        "words": Constant(words), "zero": fields["zero"], "least": limits[0], "largest": limits[1],
        "clamped": int(limits != (-128, 127)), **flat(shapes), "each": each,
    }  # fmt: skip
    late = rows_late(params, lead(shapes, 1))
    params["late"] = late
    waiting = (late + 1) * params["out_w"] * params["out_c"] if late else 0
    return Call(
        kernel=f"depthwise_{kernel}", function=f"ednn_depthwise_{kernel}_s8",
        arguments=(Params("ednn_depthwise_words_t", params), read(0), write(0), SCRATCH),
        scratch=4 * taps + -(-shapes["in_c"] // 4) * 4 + waiting, overlap={0: 0 if late else lead(shapes, 1)}, macs=_macs(shapes),
    )  # fmt: skip


def rows_late(shapes: dict[str, Any], ahead: int) -> int:
    """How many rows of results wait in scratch so that the output can take the input's place: a row is written when no later
    one reads the input's row there, so nothing has to lie before the input; 0 where `ahead` bytes before it cost less.

    >>> kws = dict(in_w=5, out_h=25, out_w=5, out_c=64, stride_h=1, pad_top=1, each=1)
    >>> rows_late(kws, 384), rows_late({**kws, "out_h": 5}, 384), rows_late({**kws, "stride_h": 2}, 384)
    (1, 0, 0)
    """
    late = int(shapes["pad_top"])
    fits = shapes["stride_h"] == shapes["each"] == 1 and shapes["out_w"] <= shapes["in_w"]
    return late if ahead > 0 and fits and (late + 1) * WAITING <= shapes["out_h"] else 0


def flat(shapes: dict[str, int]) -> dict[str, int]:
    """A convolution along one column as the same along one row, where more pixels follow each other."""
    if any(shapes[f"{name}_w"] != 1 for name in ("in", "out", "kernel")) or shapes["pad_left"]:
        return shapes
    turned = {"_h": "_w", "_w": "_h", "pad_top": "pad_left", "pad_left": "pad_top"}
    swapped = {key: turned.get(key, key[:-2] + turned.get(key[-2:], key[-2:])) for key in shapes}
    return {swapped[key]: value for key, value in shapes.items()}


def scaled_words(one: Op, fields: dict[str, Any]) -> Array | None:
    """The words of depthwise_words.h, int32 `[out_c / 4, 16 + 2 * taps]`; None where a channel cannot be rescaled so."""
    weights = fields["weights"].values.astype(np.int64)
    biases = folded(one, weights)
    found = [rescaled(weights[:, c], int(bias), m, s, fields["out_zero"]) for c, (bias, m, s) in enumerate(
        zip(biases, fields["multipliers"].values.tolist(), fields["shifts"].values.tolist(), strict=True))]  # fmt: skip
    if any(f is None for f in found):
        return None
    factors = np.array([f[0] for f in found if f is not None], np.int64)
    last = np.array([f[1:] for f in found if f is not None], np.int64)
    quads = (weights * factors & 0xFFFF).reshape(len(weights), -1, 4).transpose(1, 0, 2)  # block, tap, channel
    halves = np.stack([quads[:, :, 0] | quads[:, :, 2] << 16, quads[:, :, 1] | quads[:, :, 3] << 16], 2)
    parts = [(biases * factors).reshape(-1, 4), halves.reshape(len(halves), -1), last.reshape(-1, 12)]
    return np.concatenate(parts, 1).astype(np.uint32).view(np.int32)


def rescaled(weights: Array, bias: int, multiplier: int, shift: int, zero: int) -> tuple[int, int, int, int] | None:
    """(factor of weights and bias, multiplier, addend, shift) of one channel; None where 16 or 32 bits do not hold it.

    `(sum * factor * multiplier + 2^31 >> 32) + addend >> shift` is then what two roundings upward give: with sums doubled
    the first is SMMLAR's own, and the addend holds the half of the second and the zero point.

    >>> rescaled(np.array([-127, 3]), 5, 1 << 30, -7, -128)
    (2, 1073741824, -16320, 7)
    """
    right, factor = max(-shift, 0), 2 << max(shift, 0)
    most = abs(bias) + 128 * int(np.abs(weights).sum())
    if multiplier == 0 or (most < 1 << 30 and right > 30):
        return 2, 0, zero, 0
    if most * factor >= 1 << 31 or int(np.abs(weights).max()) * factor > 32767 or right > 22:
        return None
    return factor, multiplier, (1 << right >> 1) + zero * (1 << right), right


def _macs(fields: dict[str, Any]) -> int:
    return int(fields["out_h"] * fields["out_w"] * fields["out_c"] * fields["kernel_h"] * fields["kernel_w"])


def lead(fields: dict[str, Any], size: int) -> int:
    """Bytes before the input at which the output of a kernel may begin that goes pixel by pixel, channel by channel.

    With as many channels out as in, a channel is written at its own place in the pixel; with more of them the last
    channels of a pixel lie up to a whole pixel further, and the input's channels are still read then.
    """
    more = int(fields["out_c"] - fields["in_c"]) * size
    return lead_of_windows(fields, 1, size, size) + more


def _shapes(one: Op, x: Tensor, weights: Tensor, y: Tensor) -> dict[str, int]:
    """The geometry, checked: sizes that belong together, and kernels that 32 bits can count."""
    need(len(x.shape) == len(y.shape) == len(weights.shape) == 4, "its tensors have not four dimensions")
    need(min(*x.shape, *y.shape, *weights.shape) > 0, "one of its sizes is 0")
    found = geometry(one, x, y, weights.shape[1:3])
    need(
        weights.shape[0] == 1 and weights.shape[3] == y.shape[3] and y.shape[3] % x.shape[3] == 0,
        f"its weights {weights.shape} do not fit {x.shape[3]} channels in and {y.shape[3]} out",
    )
    for side in "hw":
        reach = (found[f"kernel_{side}"] - 1) * found[f"dilation_{side}"] + 1
        need(reach <= REACH and found[f"stride_{side}"] <= REACH, "its kernel or its strides are absurdly large")
        need(found[f"out_{side}"] == _size(one, side, found, reach), "the shape of its output does not fit its input")
    return found


def _size(one: Op, side: str, found: dict[str, int], reach: int) -> int:
    """Rows or columns of the output, as `ComputeOutSize`."""
    size, stride = found[f"in_{side}"], found[f"stride_{side}"]
    explicit = one.option("explicit", None)
    if explicit:
        top, left, bottom, right = explicit
        return int((size + (top + bottom if side == "h" else left + right) - reach) // stride + 1)
    return (size - reach) // stride + 1 if int(one.option("padding")) == 1 else -(-size // stride)


def _constants(one: Op) -> dict[str, Any]:
    """Weights, bias (as it is), multipliers, shifts, limits. Raises Unsupported where a sum could overflow."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    channels = weights.shape[-1]
    need(not weights.zero_points.any(), "its weights have a zero point other than 0")
    need(weights.dtype in ("int8", "int4"), f"its weights are {weights.dtype}")
    need(len(weights.scales) == 1 or weights.axis == len(weights.shape) - 1, "its scales do not follow its channels")
    values = weights.values.astype(np.int64).reshape(-1, channels)
    bias = given_bias(one, channels)
    multipliers, shifts = convolution_multipliers(x, weights, y, channels)
    wide = x.dtype == "int16"
    most = np.abs(bias) + (32768 if wide else 255) * np.abs(values).sum(0)
    need(bool((most < (1 << 47 if wide else 1 << 31)).all()), "its sums do not fit")
    need(not wide or (x.zero_point == y.zero_point == 0 and int(shifts.max()) < 8), "its scales are of no int16 kernel")
    least, largest = activation_limits(one, y)
    return {
        "upward": channels - channels % LANES,
        "weights": Constant(values.astype(np.int8)),
        "bias": None if wide else Constant(np.asarray(bias, np.int32)),
        "wide_bias": Constant(np.asarray(bias, np.int64), 8) if wide else None,
        "multipliers": Constant(multipliers), "shifts": Constant(shifts.astype(np.int8)),
        "zero": x.zero_point, "out_zero": y.zero_point, "least": least, "largest": largest,
    }  # fmt: skip


def folded(one: Op, values: Array) -> Array:
    """bias - zero point x sum of weights, for kernels that read padding as the zero point; `values` [taps, channels]."""
    return np.asarray(given_bias(one, values.shape[1]) - one.input(0).zero_point * values.astype(np.int64).sum(0))
