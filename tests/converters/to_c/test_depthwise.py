"""Depthwise convolutions in C against LiteRT's own kernels, every bit: shapes, padding, multipliers, scales, overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c.call import Features, lower
from edgedl.converters.to_c.graph import Graph, Unsupported, read

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


def one(**changes: Any) -> dict[str, Any]:
    """A layer of 3 x 3 with its usual neighbours: ReLU, one scale for each channel."""
    found = {
        "dtype": "int8", "padding": SAME, "kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 1, "dilation_h": 1,
        "dilation_w": 1, "h": 9, "w": 7, "in_c": 8, "multiplier": 1, "in_zero": -128, "out_zero": -128,
        "per_channel": True, "gain": 0.3, "activation": 1, "seed": 5,
    }  # fmt: skip
    return found | changes


FEATURES = [frozenset[str](), frozenset({"dsp"})]
SHAPES: list[dict[str, Any]] = [
    {}, {"stride_h": 2, "stride_w": 2}, {"padding": VALID}, {"kernel_h": 5, "kernel_w": 1, "padding": VALID},
    {"multiplier": 8}, {"in_c": 1, "multiplier": 8, "stride_h": 2, "stride_w": 2}, {"in_c": 2, "multiplier": 4},
    {"dilation_h": 2, "dilation_w": 2}, {"in_c": 24, "kernel_h": 4, "kernel_w": 2}, {"in_c": 16, "h": 1, "w": 1},
    {"in_c": 5, "multiplier": 3}, {"h": 12, "w": 12, "in_c": 32}, {"h": 25, "w": 5, "in_c": 16},
]  # fmt: skip


@pytest.mark.parametrize("features", FEATURES, ids=["portable", "dsp"])
def test_within_bounds(tmp_path: Path, features: Features) -> None:
    """Address and undefined-behaviour sanitizers over an arena of exactly its size."""
    compare(tmp_path, [one(**shape) for shape in SHAPES], features, sanitize=True)


@pytest.mark.parametrize("features", FEATURES, ids=["portable", "dsp"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_output_lies_over_the_input(tmp_path: Path, shape: dict[str, Any], features: Features) -> None:
    """Alone in the arena, so that the plan overlaps as far as the kernel allows; and every bit is right all the same."""
    made = compare(tmp_path, [one(**shape)], features)
    x, y = made.program.graph.inputs[0], made.program.graph.outputs[0]
    places = made.program.places
    apart = places[id(y)] + y.nbytes <= places[id(x)] or places[id(x)] + x.nbytes <= places[id(y)]
    assert not apart or shape.get("multiplier", 1) > 1 or x.nbytes < 64


def test_int16_lies_over_its_input(tmp_path: Path) -> None:
    for shape in ({}, {"stride_h": 2, "stride_w": 2}, {"multiplier": 3}):
        made = compare(tmp_path, [one(dtype="int16", in_zero=0, out_zero=0, **shape)], sanitize=not shape)
        if "multiplier" not in shape:
            assert made.program.plan.total < sum(
                t.nbytes for t in (*made.program.graph.inputs, *made.program.graph.outputs)
            )


DSP_CHANNELS = (8, 1, 2, 16, 24, 40)


@SOME
@given(st.lists(cases(channels=DSP_CHANNELS), min_size=10, max_size=10))
def test_dsp_kernels_are_bit_exact(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    drawn = [c | {"gain": min(c["gain"], 4.0), "multiplier": [1, 4, 8][c["multiplier"] % 3]} for c in drawn]
    compare(tmp_path, drawn, frozenset({"dsp"}))


def test_dsp_kernels_take_the_usual_layers(tmp_path: Path) -> None:
    shapes = [{}, {"stride_h": 2, "stride_w": 2}, {"kernel_h": 10, "kernel_w": 1, "h": 24, "w": 1, "padding": VALID}]
    made = compare(tmp_path, [one(**shape) for shape in shapes] + [one(in_c=1, multiplier=8)], frozenset({"dsp"}))
    assert {s.call.kernel for s in made.program.steps} == {"depthwise_words", "depthwise_spread"}


@pytest.mark.parametrize("up", [True, False])
def test_halves(tmp_path: Path, up: bool) -> None:
    """A 1 x 1 kernel of weight 1 that divides its input by 8, -4: of 12 channels the first 8 round halves up, the last 4 away from
    zero, as LiteRT's do; a kernel that does only one of both would fail."""
    shape = (1, 1, 2, 12)
    values = np.ones((1, 1, 1, 12), np.int8)
    tensors = [
        T(shape, "int8", 0.5, 0),
        T(values.shape, "int8", [1.0] * 12, 0, values, axis=3),
        T((12,), "int32", [0.5] * 12, 0, np.zeros(12, np.int32)),
        T(shape, "int8", 4.0, 0),
    ]
    options = {
        "padding": VALID,
        "strideH": 1,
        "strideW": 1,
        "depthMultiplier": 1,
        "dilationHFactor": 1,
        "dilationWFactor": 1,
    }
    node = Node("DEPTHWISE_CONV_2D", [0, 1, 2], [3], options, "DepthwiseConv2DOptions", 3)
    path = write(tmp_path / "model.tflite", tensors, [node], [0], [3])
    feed = np.full(shape, -4, np.int8)
    made = check(path, tmp_path / "c", [[feed]])
    found = made.run([[feed]])[0][0][0, 0, 0]
    assert (found[:8] == 0).all() if up else (found[8:] == -1).all()


def graph_of(path: Path, **changes: Any) -> Graph:
    tensors, node = layer(one(**{k: v for k, v in changes.items() if k in one()}), 0)
    options = {**node.options, **{k: v for k, v in changes.items() if k not in one()}}
    return read(write(path / "m.tflite", tensors, [replace(node, options=options)], [0], [3]))


@pytest.mark.parametrize("features", FEATURES, ids=["portable", "dsp"])
@pytest.mark.parametrize(
    "options",
    [
        {"strideH": 0}, {"strideW": -1}, {"strideH": 1 << 30}, {"dilationHFactor": 1 << 30}, {"dilationWFactor": 0},
        {"strideH": 3}, {"fusedActivationFunction": 4},
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, options: dict[str, Any], features: Features) -> None:
    with pytest.raises(Unsupported):
        lower(graph_of(tmp_path, **options).ops[0], features)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("features", FEATURES, ids=["portable", "dsp"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, which: int, features: Features) -> None:
    op = graph_of(tmp_path).ops[0]
    tensors = [*op.inputs, *op.outputs]
    for shape in [(1, 9, 7, 7), (1, 9, 7), (2, 9, 7, 8), (1, 9, 0, 8), (1, 3, 3, 9), (9,)]:
        changed = [*tensors]
        old = tensors[which]
        assert old is not None
        data = None if old.data is None else np.zeros(shape, old.data.dtype)
        changed[which] = replace(old, shape=shape, data=data)
        with pytest.raises(Unsupported):
            lower(replace(op, inputs=tuple(changed[:3]), outputs=(changed[3],)), features)  # type: ignore[arg-type]


def test_results_that_wait_take_the_place_of_the_input(tmp_path: Path) -> None:
    """A stride of 1 keeps its input needed for a row more; with two rows of results in scratch nothing lies before it."""
    made = compare(tmp_path, [one(h=25, w=5, in_c=64)], frozenset({"dsp"}), sanitize=True)
    call, graph = made.program.steps[0].call, made.program.graph
    assert call.overlap == {0: 0}
    assert made.program.places[id(graph.outputs[0])] == made.program.places[id(graph.inputs[0])]
    assert made.program.plan.total == graph.inputs[0].nbytes + call.scratch == 8000 + 36 + 64 + 640


@pytest.mark.parametrize("features", FEATURES, ids=["portable", "dsp"])
@pytest.mark.parametrize("pads", [(0, 1, 0, 1), (1, 0, 2, 1), (1, 1, 1, 1)])
def test_a_pad_before_it_becomes_its_own(tmp_path: Path, pads: tuple[int, ...], features: Features) -> None:
    """Rows and columns of zero points above, below, left and right of the image, other than SAME would have them."""
    top, bottom, left, right = pads
    padded = one(h=9 + top + bottom, w=7 + left + right, padding=VALID, stride_h=2, stride_w=2, in_zero=-7)
    (x, *rest), node = layer(padded, 0)
    amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    tensors = [x, *rest, replace(x, shape=(1, 9, 7, 8)), T((4, 2), "int32", data=amounts)]
    nodes = [Node("PAD", [4, 5], [0], {}, "PadOptions", 2), node]
    path = write(tmp_path / "model.tflite", tensors, nodes, [4], [3])
    feeds = [[np.random.default_rng(i).integers(-128, 128, (1, 9, 7, 8)).astype(np.int8)] for i in range(3)]
    made = check(path, tmp_path / "c", feeds, features)
    assert len(made.program.steps) == 1


@pytest.mark.parametrize("features", FEATURES, ids=["portable", "dsp"])
def test_weights_of_int4(tmp_path: Path, features: Features) -> None:
    (x, weights, bias, y), node = layer(one(), 0)
    values = np.random.default_rng(0).integers(-7, 8, weights.shape).astype(np.int8)
    nibbles = values.ravel().view(np.uint8) & 15
    packed = nibbles[0::2] | nibbles[1::2] << 4
    tensors = [x, replace(weights, dtype="int4", data=packed, scale=np.asarray(weights.scale) * 16), bias, y]
    path = write(tmp_path / "model.tflite", tensors, [node], [0], [3])
    check(path, tmp_path / "c", [[np.random.default_rng(1).integers(-128, 128, x.shape).astype(np.int8)]], features)
