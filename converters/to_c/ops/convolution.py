"""Convolutions: parameters with the input's zero point folded into the bias, limits, geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ....artifact import Array
from .. import pairs
from ..call import SCRATCH, Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor, Unsupported
from ..numerics import BLOCK, activation_limits, addition, convolution_multipliers, padding
from ..overlap import lead_of_windows

LANES = 4  # pixels that the kernel of conv_blocks.c computes at a time
FARTHEST = 1 << 24  # a window may not reach farther; no image is so large


@op("CONV_2D", versions=8)
def conv_2d(one: Op, features: Features) -> Call:
    """`out[n, y, x, o] = clamp(rescale(bias + sum of weights[o, i, j, c] * (in[...] - zero point)))`.

    With an ADD as the epilogue that is then added to input 3. On cores with DSP four pixels at a time, unless a channel's
    rescaling cannot be done with one rounding.
    """
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(len(x.shape) == len(weights.shape) == len(y.shape) == 4, "its shapes are not those of images")
    need(weights.dtype in ("int8", "int4"), f"its weights are {weights.dtype}")
    groups = x.shape[3] // max(weights.shape[3], 1)
    fits = groups > 0 and groups * weights.shape[3] == x.shape[3] and weights.shape[0] % groups == 0
    need(fits and weights.shape[0] == y.shape[3], "its groups do not fit its channels")
    made = {**geometry(one, x, y, weights.shape[1:3]), "groups": groups}
    need(y.shape[1:3] == _size(one, made), f"its output is {y.shape[1:3]}, not {_size(one, made)} as it should be")
    if x.dtype == y.dtype == "int16":
        return _wide(one, made)
    need(x.dtype == y.dtype == "int8", f"it computes in {x.dtype} and {y.dtype}; int8 and int16 are what is known")
    alone = one if one.epilogue is None else replace(one, outputs=(one.epilogue.input(0),), epilogue=None)
    found = _blocks(alone, _flat(made)) if "dsp" in features else None
    return _added(one, found or _plain(alone, made))


def _plain(one: Op, made: dict[str, int]) -> Call:
    """The portable kernel."""
    weights, y = one.input(1), one.outputs[0]
    rows = weights.values.reshape(weights.shape[0], -1)
    fields = {**constants(one, rows, len(rows)), **made}
    return Call(
        kernel="conv", function="ednn_conv_s8", arguments=(Params("ednn_conv_t", fields), read(0), write(0), SCRATCH),
        scratch=_whole(rows.shape[1]), overlap={0: _lead(made, 1)} if made["groups"] == 1 else {},
        macs=y.elements * rows.shape[1],
    )  # fmt: skip


def _blocks(one: Op, made: dict[str, int]) -> Call | None:
    """The kernel for Armv7E-M; None where a channel's rescaling cannot be done with one rounding."""
    weights, y, groups = one.input(1), one.outputs[0], made["groups"]
    run = weights.shape[2] * weights.shape[3]
    rows = pairs.ordered(weights.values.reshape(weights.shape[0], -1), weights.shape[1], run)
    words = pair_constants(one, rows, groups)
    if words is None:
        return None
    depth, left = rows.shape[1], weights.shape[1] * (run % 4)
    fields: dict[str, int | Constant | None] = {
        "weights": Constant(pairs.even(np.concatenate([pairs.interleaved(r) for r in np.split(rows, groups)]))),
        "constants": Constant(pairs.even(words)),
        "depth": depth,
        "zero": one.input(0).zero_point,
        **dict(zip(("least", "largest"), activation_limits(one, y), strict=True)),
        **made,
    }
    lanes = LANES if y.shape[1] * y.shape[2] % LANES == 0 else 1
    return Call(
        kernel="conv_blocks", function="ednn_conv_blocks_s8",
        arguments=(Params("ednn_conv_blocks_t", fields), read(0), write(0), SCRATCH),
        scratch=2 * LANES * depth + _whole(run) + LANES * _whole(left),
        overlap={0: _lead(made, lanes)} if groups == 1 else {}, macs=y.elements * run * weights.shape[1],
    )  # fmt: skip


def _added(one: Op, call: Call) -> Call:
    """The call of the kernel that also adds input 3, if the operator has that as its epilogue."""
    add = one.epilogue
    if add is None:
        return call
    need(add.kind == "ADD", f"{add.kind} in the same kernel")
    other, params = one.input(3), call.arguments[0]
    need(other.shape == one.outputs[0].shape and other.dtype == "int8", "what is added to it has another shape")
    need(other.elements % BLOCK == 0, "an addition that does not consist of whole blocks")
    assert isinstance(params, Params)
    sums = addition(add, add.input(0), other, one.outputs[0])
    fields: dict[str, int | Constant | None] = {
        **{f"conv.{k}": v for k, v in params.fields.items()},
        **{f"add.{k}": v for k, v in sums.items()},
    }
    pixels = 1
    if call.kernel == "conv_blocks":
        pixels, found = LANES, pairs.addition_at_once(sums) or (0, 0, 0, 0)
        fields |= {f"quick.{k}": v for k, v in zip(("a", "b", "offset", "shift"), found, strict=True)}
    return replace(
        call, function=call.function.replace("_s8", "_add_s8"), scratch=call.scratch + _whole(pixels * other.shape[3]),
        arguments=(Params(params.type.replace("_t", "_add_t"), fields), read(0), read(3), write(0), SCRATCH),
        overlap={**call.overlap, 3: 0},
    )  # fmt: skip


def _wide(one: Op, made: dict[str, int]) -> Call:
    """int16 activations, int8 weights, sums of 64 bits."""
    need(one.epilogue is None, "an addition in the same kernel")
    weights, y = one.input(1), one.outputs[0]
    rows = weights.values.reshape(weights.shape[0], -1)
    fields = {**wide_constants(one, rows), **made}
    params = Params("ednn_conv_s16_t", fields)
    return Call(
        kernel="conv_s16", function="ednn_conv_s16", arguments=(params, read(0), write(0)), macs=y.elements * rows.shape[1]
    )  # fmt: skip


def _whole(count: int) -> int:
    """Bytes up to a multiple of 4."""
    return -(-count // 4) * 4


def _flat(made: dict[str, int]) -> dict[str, int]:
    """A convolution of single pixels with one row of all of them, which keeps its overlap."""
    steps = {made[k] for k in ("kernel_h", "kernel_w", "stride_h", "stride_w")}
    if steps != {1} or made["pad_top"] or made["pad_left"]:
        return made
    pixels = made["out_h"] * made["out_w"]
    return {**made, "in_h": 1, "in_w": pixels, "out_h": 1, "out_w": pixels}


def _lead(made: dict[str, int], at_once: int) -> int:
    return lead_of_windows(made, at_once)


def _size(one: Op, made: dict[str, int]) -> tuple[int, int]:
    """(height, width) of the output that padding, strides and dilations give."""
    found = []
    explicit = one.option("explicit", None)
    for at, axis in enumerate("hw"):
        size, stride = made[f"in_{axis}"], made[f"stride_{axis}"]
        reach = (made[f"kernel_{axis}"] - 1) * made[f"dilation_{axis}"] + 1
        if explicit:
            size += explicit[at] + explicit[at + 2]
        same = not explicit and int(one.option("padding")) == 0
        found.append(-(-size // stride) if same else (size - reach) // stride + 1)
    return found[0], found[1]


def pair_constants(one: Op, rows: Array, groups: int = 1, as_dense: bool = False) -> Array | None:
    """The words of kernels/dsp/matrix.h, int32 `[pairs, 7]`, of weights `[channels, k]`: for each of `groups` apart. None where
    a channel's rescaling cannot be done with one rounding. (LiteRT rounds halves away from zero in grouped convolutions.)"""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(not weights.zero_points.any(), "its weights have a zero point other than 0")
    multipliers, shifts = convolution_multipliers(x, weights, y, len(rows), as_dense)
    limits = activation_limits(one, y)
    bias, wide = folded_bias(one, rows, x).astype(np.int64), rows.astype(np.int64)
    low = bias + np.minimum(127 * wide, -128 * wide).sum(1)
    high = bias + np.maximum(127 * wide, -128 * wide).sum(1)
    found = [
        pairs.rescaling(pairs.Reference(int(m), int(s), y.zero_point, limits, groups > 1), int(a), int(b))
        for m, s, a, b in zip(multipliers, shifts, low, high, strict=True)
    ]
    known = [f for f in found if f is not None]
    if len(known) < len(found):
        return None
    each = len(rows) // groups
    return np.concatenate([pairs.constants(bias[i : i + each], known[i : i + each]) for i in range(0, len(rows), each)])


def wide_constants(one: Op, rows: Array, as_dense: bool = False) -> dict[str, Any]:
    """What `constants` gives, for int16: symmetric, with sums of 64 bits (below 2^47, as the rescaling needs)."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(not (weights.zero_points.any() or x.zero_point or y.zero_point), "it has a zero point other than 0")
    multipliers, shifts = convolution_multipliers(x, weights, y, len(rows), as_dense)
    need(bool((shifts < 8).all()), "a rescaling factor is 128 or more")
    least, largest = activation_limits(one, y)
    bias = given_bias(one, len(rows))
    most = np.abs(bias.astype(np.float64)) + 32768 * np.abs(rows.astype(np.int64)).sum(1)
    need(bool((most < 1 << 47).all()), "its sums do not fit into 48 bits")
    return {
        "weights": Constant(rows.astype(np.int8)),
        "bias": Constant(bias, align=8),
        "multipliers": Constant(multipliers),
        "shifts": Constant(shifts.astype(np.int8)),
        "least": least,
        "largest": largest,
    }


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


def given_bias(one: Op, channels: int) -> Array:
    """The bias as int64 `[channels]`, zeros if there is none. Raises Unsupported for another number or type of values."""
    given = one.inputs[2] if len(one.inputs) > 2 else None
    if given is not None and given.dtype not in ("int32", "int64"):
        raise Unsupported(f"its bias is {given.dtype}, which is no sum of products")
    bias = np.zeros(channels, np.int64) if given is None else given.values.astype(np.int64).ravel()
    if len(bias) != channels:
        raise Unsupported(f"its bias has {len(bias)} values for {channels} channels")
    return np.asarray(bias)


def folded_bias(one: Op, rows: Array, x: Tensor) -> Array:
    """bias - zero point x sum of weights, int32 `[channels]`. Raises Unsupported where a sum could overflow."""
    found = given_bias(one, len(rows)) - x.zero_point * rows.astype(np.int64).sum(1)
    most = np.abs(found.astype(np.float64)) + 128.0 * np.abs(rows.astype(np.int64)).sum(1)
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
    need(min((*x.shape, *y.shape, *kernel)) > 0, "it has a dimension of 0")
    far = max(k * d for k, d in zip(kernel, dilations, strict=True))
    need(far < FARTHEST, f"its dilations are {dilations}")
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
