"""Fully connected layers."""

from __future__ import annotations

import numpy as np

from .. import pairs
from ..call import SCRATCH, Call, Constant, Features, Params, need, op, read, write
from ..graph import Op
from ..numerics import activation_limits
from .convolution import constants, pair_constants, wide_constants


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
    if x.dtype == y.dtype == "int16":
        fields = {**wide_constants(one, weights.values, as_dense=True), "rows": rows, "depth": depth, "out": out}
        params = Params("ednn_dense_s16_t", fields)
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


def _blocks(one: Op, rows: int) -> Call | None:
    """The kernel for Armv7E-M; None where a channel's rescaling cannot be done with one rounding."""
    weights, y = one.input(1), one.outputs[0]
    out, depth = weights.shape
    padded = pairs.ordered(weights.values, 1, depth)
    words = pair_constants(one, padded, as_dense=True)
    if words is None:
        return None
    least, largest = activation_limits(one, y)
    fields: dict[str, int | Constant | None] = {
        "weights": Constant(np.asarray(pairs.interleaved(padded))), "constants": Constant(words),
        "least": least, "largest": largest, "rows": rows, "depth": depth, "out": out,
    }  # fmt: skip
    return Call(
        kernel="dense_blocks", function="ednn_dense_blocks_s8",
        arguments=(Params("ednn_dense_blocks_t", fields), read(0), write(0), SCRATCH if depth % 4 else 0),
        scratch=padded.shape[1] if depth % 4 else 0, macs=y.elements * depth,
    )  # fmt: skip
