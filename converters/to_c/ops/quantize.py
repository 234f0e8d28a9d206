"""Numbers of another type or scale: QUANTIZE, DEQUANTIZE, CAST. Floats only where they enter and leave a model."""

from __future__ import annotations

import numpy as np

from ..call import Call, Constant, Features, Params, need, op, read, write
from ..fixed_point import rescale, rescale_up
from ..graph import Op, Tensor
from ..numerics import quantize_multiplier

Fields = dict[str, int | Constant | None]
KINDS = {"int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 5, "bool": 6}  # of requantize.h
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (-(1 << 31), (1 << 31) - 1)}
VECTOR = 16  # values of 8 bits that LiteRT's QUANTIZE does at once, with another rounding than the rest
FLOATS = 8  # floats that LiteRT makes or reads at once, with other roundings than the rest
PAIRS = {("int8", "int8"), ("int8", "uint8"), ("uint8", "int8"), ("uint8", "uint8"), ("int16", "int8"), ("int16", "int16"),
         ("int16", "int32"), ("int32", "int8"), ("int32", "int16")}  # fmt: skip


def _ends(one: Op) -> tuple[Tensor, Tensor]:
    x, y = one.input(0), one.outputs[0]
    need(x.elements == y.elements and max(x.nbytes, y.nbytes) < 1 << 31, "its shapes do not fit")
    return x, y


@op("QUANTIZE", versions=4)
def quantize(one: Op, features: Features) -> Call:
    """From float32, or from other integers: `round((x - zero) * scale / new scale) + new zero`; of 8 bits by a table,
    or by two where the last values, fewer than LiteRT takes at once, are rounded otherwise."""
    x, y = _ends(one)
    need(y.dtype in LIMITS and float(y.scale) > 0, f"its output is {y.dtype}")
    if x.dtype == "float32":
        need(y.dtype != "int32", "its output is int32")
        return Call("requantize", "ednn_from_float", (_float(y), read(), write()))
    need((x.dtype, y.dtype) in PAIRS, f"from {x.dtype} to {y.dtype}")
    need(x.dtype != "int32" or x.zero_point == 0, "its input has a zero point")
    multiplier, shift = quantize_multiplier(float(x.scale) / float(y.scale))
    need(shift <= (0 if x.dtype == "int32" else 14), "its scales differ too much")
    least, largest = LIMITS[y.dtype]
    if x.dtype in ("int8", "uint8"):  # int8 patterns in the order of the table's index
        values = np.arange(-128, 128) if x.dtype == "int8" else np.arange(-128, 128) % 256
        tables = [
            [how(int(v) - x.zero_point, multiplier, shift) + y.zero_point for v in values]
            for how in (rescale_up, rescale)
        ]
        vectors, rest = (np.clip(t, least, largest).astype(np.uint8).view(np.int8) for t in tables)
        whole = y.elements // VECTOR * VECTOR
        if whole in (0, y.elements) or (vectors == rest).all():
            arguments = (Constant(vectors if whole else rest, align=1), read(), write(), y.elements)
            return Call("lut", "ednn_lut_s8", arguments, overlap={0: 0})
        both = (Constant(np.stack([vectors, rest]), align=1), read(), write(), y.elements, whole)
        return Call("lut", "ednn_lut_pair_s8", both, overlap={0: 0})
    fields: Fields = {
        "count": y.elements, "in_kind": KINDS[x.dtype], "out_kind": KINDS[y.dtype], "zero": x.zero_point,
        "out_zero": y.zero_point, "multiplier": multiplier, "shift": shift, "least": least, "largest": largest,
    }  # fmt: skip
    arguments_ = (Params("ednn_requantize_t", fields), read(), write())
    return Call("requantize", "ednn_requantize", arguments_, overlap={0: 0} if y.nbytes <= x.nbytes else {})


@op("DEQUANTIZE", versions=6)
def dequantize(one: Op, features: Features) -> Call:
    """`scale * (x - zero)` in float32."""
    x, y = _ends(one)
    need(y.dtype == "float32" and x.dtype in ("int8", "uint8", "int16"), f"from {x.dtype} to {y.dtype}")
    return Call("requantize", "ednn_to_float", (_float(x), read(), write()))


def _float(t: Tensor) -> Params:
    """The parameters of integers that are made from floats or become some."""
    need(float(t.scale) > 0 and (t.dtype != "int16" or t.zero_point == 0), "its scale is 0, or int16 has a zero point")
    least, largest = LIMITS[t.dtype]
    with np.errstate(over="ignore"):
        numbers = np.array([t.scale, np.float32(1) / t.scale, np.float32(-t.zero_point) * t.scale], np.float32)
    need(bool(np.isfinite(numbers).all()), f"its scale is {t.scale:g}")
    scale, inverse, offset = (int(bits) for bits in numbers.view(np.uint32))
    fields: Fields = {
        "count": t.elements, "head": t.elements // FLOATS * FLOATS, "kind": KINDS[t.dtype], "scale": scale,
        "inverse": inverse, "offset": offset, "zero": t.zero_point, "least": least, "largest": largest,
    }  # fmt: skip
    return Params("ednn_float_t", fields)


@op("CAST", versions=7)
def cast(one: Op, features: Features) -> Call:
    """The numbers as they are in another type; what does not fit is cut off."""
    x, y = _ends(one)
    need(x.dtype in KINDS and y.dtype in KINDS, f"from {x.dtype} to {y.dtype}")
    fields: Fields = {"count": y.elements, "in_kind": KINDS[x.dtype], "out_kind": KINDS[y.dtype]}
    overlap = {0: 0} if y.nbytes <= x.nbytes else {}
    return Call("requantize", "ednn_cast", (Params("ednn_cast_t", fields), read(), write()), overlap=overlap)
