"""Depthwise convolutions in C against LiteRT's own kernels, every bit: shapes, padding, multipliers, scales, overlap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c.call import Features

from .harness import Firmware, Node, T, check, write

DRAWN = (Phase.explicit, Phase.reuse, Phase.generate)  # no shrinking: each step would be compiled
SOME = settings(max_examples=5, phases=DRAWN, suppress_health_check=[HealthCheck.function_scoped_fixture])
SAME, VALID = 0, 1


def size(n: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    reach = (kernel - 1) * dilation + 1
    return -(-n // stride) if padding == SAME else (n - reach) // stride + 1


@st.composite
def cases(draw: st.DrawFn, dtype: str = "int8", channels: Sequence[int] = (1, 2, 3, 4, 5, 8, 12)) -> dict[str, Any]:
    """A layer whose output has at least one pixel."""
    found: dict[str, Any] = {"dtype": dtype, "padding": draw(st.sampled_from([SAME, VALID]))}
    for side in "hw":
        kernel, stride = draw(st.sampled_from([3, 1, 2, 4, 5, 10])), draw(st.integers(1, 3))
        dilation = draw(st.sampled_from([1, 1, 2, 3])) if stride == 1 else 1
        least = (kernel - 1) * dilation + 1 if found["padding"] == VALID else 1
        found[f"kernel_{side}"], found[f"stride_{side}"], found[f"dilation_{side}"] = kernel, stride, dilation
        found[side] = draw(st.integers(least, least + 9))
    if max(found["dilation_h"], found["dilation_w"]) > 1:  # LiteRT wants strides of 1 then
        found["stride_h"] = found["stride_w"] = 1
    found["in_c"] = draw(st.sampled_from(channels))
    found["multiplier"] = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    return found | draw(numbers(dtype))


@st.composite
def numbers(draw: st.DrawFn, dtype: str = "int8") -> dict[str, Any]:
    """Scales, zero points, activation."""
    return {
        "in_zero": draw(st.integers(-128, 127)) if dtype == "int8" else 0,
        "out_zero": draw(st.integers(-128, 127)) if dtype == "int8" else 0,
        "per_channel": draw(st.booleans()),
        "gain": draw(st.sampled_from([1.0, 0.3, 4.0, 60.0])),
        "activation": draw(st.sampled_from([0, 1, 2, 3])),
        "seed": draw(st.integers(0, 1 << 16)),
    }


def layer(c: dict[str, Any], first: int) -> tuple[list[T], Node]:
    """Four tensors (input, weights, bias, output), the first of them with the index `first`, and the operator."""
    rng = np.random.default_rng(c["seed"])
    in_c, out_c = c["in_c"], c["in_c"] * c["multiplier"]
    taps = c["kernel_h"] * c["kernel_w"]
    weights = rng.integers(-127, 128, (1, c["kernel_h"], c["kernel_w"], out_c), dtype=np.int8)
    scales = rng.uniform(0.002, 0.02, out_c if c["per_channel"] else 1).astype(np.float32)
    in_scale = np.float32(rng.uniform(0.01, 0.1) / (1 if c["dtype"] == "int8" else 200))
    out_scale = np.float32(in_scale * 0.5 * np.sqrt(taps) / c["gain"])
    wide = c["dtype"] == "int16"
    bias = rng.integers(-20000, 20000, out_c).astype(np.int64 if wide else np.int32)
    out = [size(c[s], c[f"kernel_{s}"], c[f"stride_{s}"], c[f"dilation_{s}"], c["padding"]) for s in "hw"]
    tensors = [
        T((1, c["h"], c["w"], in_c), c["dtype"], in_scale, c["in_zero"]),
        T(weights.shape, "int8", scales, 0, weights, axis=3),
        T((out_c,), "int64" if wide else "int32", in_scale * scales, 0, bias, axis=0),
        T((1, *out, out_c), c["dtype"], out_scale, c["out_zero"]),
    ]
    options = {
        "padding": c["padding"], "strideH": c["stride_h"], "strideW": c["stride_w"], "depthMultiplier": c["multiplier"],
        "dilationHFactor": c["dilation_h"], "dilationWFactor": c["dilation_w"],
        "fusedActivationFunction": c["activation"],
    }  # fmt: skip
    inputs = [first, first + 1, first + 2]
    return tensors, Node("DEPTHWISE_CONV_2D", inputs, [first + 3], options, "DepthwiseConv2DOptions", 7 if wide else 3)


def compare(folder: Path, cases: Sequence[dict[str, Any]], features: Features = frozenset(), **how: Any) -> Firmware:
    """One model of all these layers, side by side, on random inputs and on the extremes."""
    tensors: list[T] = []
    nodes = []
    for c in cases:
        more, node = layer(c, len(tensors))
        tensors += more
        nodes.append(node)
    inputs, outputs = list(range(0, len(tensors), 4)), list(range(3, len(tensors), 4))
    folder = folder / f"f{len(list(folder.iterdir()))}"
    folder.mkdir()
    path = write(folder / "model.tflite", tensors, nodes, inputs, outputs)
    rng = np.random.default_rng(0)
    info = np.iinfo(tensors[0].dtype)
    shapes = [tensors[i].shape for i in inputs]
    feeds = [[rng.integers(info.min, info.max + 1, s).astype(info.dtype) for s in shapes] for _ in range(3)]
    feeds += [[np.full(s, v, info.dtype) for s in shapes] for v in (info.min, info.max)]
    return check(path, folder, feeds, features, **how)


@SOME
@given(st.lists(cases(), min_size=8, max_size=8))
def test_int8_is_bit_exact(tmp_path: Path, c: list[dict[str, Any]]) -> None:
    compare(tmp_path, c)


@SOME
@given(st.lists(cases("int16"), min_size=8, max_size=8))
def test_int16_is_bit_exact(tmp_path: Path, c: list[dict[str, Any]]) -> None:
    compare(tmp_path, c)
