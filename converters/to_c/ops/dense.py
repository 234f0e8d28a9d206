"""Fully connected layers."""

from __future__ import annotations

from ..call import Call, Features, Params, need, op, read, write
from ..graph import Op
from .convolution import constants


@op("FULLY_CONNECTED", versions=14)
def fully_connected(one: Op, features: Features) -> Call:
    """`out[n, o] = clamp(rescale(bias + sum of weights[o, k] * (in[n, k] - zero point)))`."""
    x, weights, y = one.input(0), one.input(1), one.outputs[0]
    need(x.dtype == y.dtype == "int8", f"it computes in {x.dtype} and {y.dtype}; int8 is what this kernel does")
    need(int(one.option("weightsFormat")) == 0, "its weights are shuffled")
    out, depth = weights.shape
    need(x.elements % depth == 0 and x.elements // depth * out == y.elements, "its shapes do not fit")
    fields = {
        **constants(one, weights.values, out, as_dense=True),
        "rows": x.elements // depth,
        "depth": depth,
        "out": out,
    }
    return Call(
        kernel="dense", function="ednn_dense_s8", arguments=(Params("ednn_dense_t", fields), read(0), write(0)),
        macs=y.elements * depth,
    )  # fmt: skip
