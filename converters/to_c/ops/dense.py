"""Fully connected layers."""

from __future__ import annotations

import math

import numpy as np

from .. import pairs
from ..call import SCRATCH, Call, Constant, Features, Params, need, op, read, write
from ..graph import Op
from ..numerics import activation_limits
from .convolution import constants, given_bias, pair_constants, wide_constants

REST = 22  # bits of the scale of int16 with a bias behind those of the multiplier: together the 53 of a double


@op("FULLY_CONNECTED", versions=14)
def fully_connected(one: Op, features: Features) -> Call:
    """`out[n, o] = clamp(rescale(bias + sum of weights[o, k] * (in[n, k] - zero point)))`."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(int(one.option("weightsFormat")) == 0, "its weights are shuffled")
    need(len(weights.shape) == 2 and min(weights.shape) > 0, f"its weights have the shape {weights.shape}")
    need(weights.dtype in ("int8", "int4"), f"its weights are {weights.dtype}")
    out, depth = weights.shape
    rows = x.elements // depth
    need(rows > 0 and rows * depth == x.elements and rows * out == y.elements, "its shapes do not fit")
    _check_bias_scale(one)
    if x.dtype == y.dtype == "int16":
        params = Params("ednn_dense_s16_t", {**_wide(one), "rows": rows, "depth": depth, "out": out})
        return Call("dense_s16", "ednn_dense_s16", (params, read(0), write(0)), macs=y.elements * depth)
    need(x.dtype == y.dtype == "int8", f"it computes in {x.dtype} and {y.dtype}; int8 and int16 are what is known")
    found = _blocks(one, rows) if "dsp" in features else None
    if found is not None:
        return found
    fields = {**constants(one, weights.values, out, as_dense=True), "rows": rows, "depth": depth, "out": out}
    return Call(
        kernel="dense", function="ednn_dense_s8", arguments=(Params("ednn_dense_t", fields), read(0), write(0)),
        macs=y.elements * depth,
    )  # fmt: skip


def _check_bias_scale(one: Op) -> None:
    """Raise Unsupported for a bias of another scale than the products', as `GetQuantizedConvolutionMultipler` does."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    given = one.inputs[2] if len(one.inputs) > 2 else None
    if given is not None and len(given.scales) == len(weights.scales) == 1:
        off = abs(float(x.scale) * float(weights.scale) - float(given.scale)) / float(y.scale)
        need(off <= 0.02, "the scale of its bias is not that of its products")


def _blocks(one: Op, rows: int) -> Call | None:
    """The kernel for Armv7E-M; None where a channel's rescaling cannot be done with one rounding."""
    weights, y = one.input(1), one.outputs[0]
    out, depth = weights.shape
    padded = pairs.ordered(weights.values, 1, depth)
    words = pair_constants(one, padded, as_dense=True)
    if words is None:
        return None
    first, second = Constant(pairs.even(pairs.interleaved(padded))), Constant(pairs.even(words))
    least, largest = activation_limits(one, y)
    if rows == 1 and depth % 4 == 0 and (least, largest) == pairs.INT8:
        arguments = (read(0), first, second, write(0), out, depth)
        return Call("matrix", "ednn_matrix_row", arguments, macs=y.elements * depth)
    fields: dict[str, int | Constant | None] = {
        "weights": first, "constants": second, "least": least, "largest": largest, "rows": rows, "depth": depth, "out": out,
    }  # fmt: skip
    return Call(
        kernel="dense_blocks", function="ednn_dense_blocks_s8",
        arguments=(Params("ednn_dense_blocks_t", fields), read(0), write(0), SCRATCH if depth % 4 else 0),
        scratch=padded.shape[1] if depth % 4 else 0, macs=y.elements * depth,
    )  # fmt: skip


def _wide(one: Op) -> dict[str, int | Constant | None]:
    """int16: LiteRT multiplies the sum by a double and rounds it once if there is a bias, else it computes as for int8."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    rows = weights.values.astype(np.int64)
    given = one.inputs[2] if len(one.inputs) > 2 else None
    fields = {**wide_constants(one, rows, as_dense=True), "rests": None}
    most = 32768.0 * np.abs(rows).sum(1) + np.abs(given_bias(one, len(rows)).astype(np.float64))
    need(bool((most < 1 << 31).all()), "its sums do not fit into 32 bits")
    if given is None:
        return {**fields, "bias": None}
    parts = [math.frexp(float(x.scale) * float(s) / float(y.scale)) for s in np.resize(weights.scales, len(rows))]
    need(all(f > 0 and -31 < e < 8 for f, e in parts), "a rescaling factor is too small or too large")
    whole = [int(f * (1 << 53)) for f, _ in parts]
    return {
        **fields,
        "multipliers": Constant(np.array([w >> REST for w in whole], np.int32)),
        "rests": Constant(np.array([w % (1 << REST) for w in whole], np.int32)),
        "shifts": Constant(np.array([e for _, e in parts], np.int8)),
    }
