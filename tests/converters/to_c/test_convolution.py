"""Convolutions in C against LiteRT's own kernels, every bit: shapes, strides, dilation, groups, scales, fused additions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c import pairs
from edgedl.converters.to_c.call import Features, lower
from edgedl.converters.to_c.graph import Unsupported, read

from .harness import Firmware, Node, T, check, write

SOME = settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
DSP: Features = frozenset({"dsp"})
SAME, VALID = 0, 1


@st.composite
def layers(draw: st.DrawFn, grouped: bool = True, dtype: str = "int8") -> dict[str, Any]:
    """One layer whose output has at least one pixel."""
    found: dict[str, Any] = {"dtype": dtype, "padding": draw(st.sampled_from([SAME, VALID]))}
    pointwise = draw(st.sampled_from([True, False, False]))
    for side in "hw":
        kernel, stride = 1 if pointwise else draw(st.integers(1, 5)), draw(st.sampled_from([1, 1, 2, 3]))
        dilation = draw(st.sampled_from([1, 1, 2]))
        least = (kernel - 1) * dilation + 1 if found["padding"] == VALID else 1
        found |= {f"kernel_{side}": kernel, f"stride_{side}": stride, f"dilation_{side}": dilation}
        found[side] = draw(st.integers(least, least + 6))
    if max(found["dilation_h"], found["dilation_w"]) > 1:
        found["stride_h"] = found["stride_w"] = 1
    groups = draw(st.sampled_from([1, 1, 1, 2, 3])) if grouped else 1
    found["groups"], found["depth"] = groups, draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12, 16, 20]))
    found["out_c"] = groups * draw(st.sampled_from([1, 2, 3, 4, 5, 8]))
    low = -128 if dtype == "int8" else 0
    found["in_zero"], found["out_zero"], found["other_zero"], found["sum_zero"] = (
        draw(st.sampled_from([low, 0, low // 10, 127 if low else 0])) for _ in range(4)
    )
    found["per_channel"] = draw(st.booleans())
    found["gain"] = draw(st.sampled_from([0.1, 1.0, 1.0, 4.0, 60.0]))
    found["activation"] = draw(st.sampled_from([0, 0, 1, 2, 3]))
    found["seed"] = draw(st.integers(0, 1 << 16))
    return found


def size(c: dict[str, Any], side: str) -> int:
    reach, stride = (c[f"kernel_{side}"] - 1) * c[f"dilation_{side}"] + 1, c[f"stride_{side}"]
    return -(-c[side] // stride) if c["padding"] == SAME else (c[side] - reach) // stride + 1


def layer(c: dict[str, Any], first: int) -> tuple[list[T], Node]:
    """Four tensors (input, weights, bias, output), the first of them with the index `first`, and the operator."""
    rng = np.random.default_rng(c["seed"])
    shape = (c["out_c"], c["kernel_h"], c["kernel_w"], c["depth"])
    weights = rng.integers(-127, 128, shape, dtype=np.int8)
    scales = rng.uniform(0.002, 0.02, c["out_c"] if c["per_channel"] else 1).astype(np.float32)
    wide = c["dtype"] == "int16"
    in_scale = np.float32(rng.uniform(0.01, 0.1) / (200 if wide else 1))
    out_scale = np.float32(in_scale * 0.5 * np.sqrt(weights[0].size) / c["gain"])
    bias = rng.integers(-20000, 20000, c["out_c"]).astype(np.int64 if wide else np.int32)
    tensors = [
        T((1, c["h"], c["w"], c["depth"] * c["groups"]), c["dtype"], in_scale, c["in_zero"]),
        T(shape, "int8", scales, 0, weights, axis=0),
        T((c["out_c"],), "int64" if wide else "int32", scales * in_scale, 0, bias),
        T((1, size(c, "h"), size(c, "w"), c["out_c"]), c["dtype"], out_scale, c["out_zero"]),
    ]
    options = {"padding": c["padding"], "strideH": c["stride_h"], "strideW": c["stride_w"],
               "dilationHFactor": c["dilation_h"], "dilationWFactor": c["dilation_w"],
               "fusedActivationFunction": c["activation"]}  # fmt: skip
    inputs = [first, first + 1, first + 2]  # LiteRT wants a bias
    return tensors, Node("CONV_2D", inputs, [first + 3], options, "Conv2DOptions", 3)


def model(path: Path, cases: list[dict[str, Any]], added: bool = False) -> Path:
    """Layers side by side, each with its own input and output; `added`: each followed by an addition."""
    tensors: list[T] = []
    nodes: list[Node] = []
    inputs, outputs = [], []
    for c in cases:
        first = len(tensors)
        made, node = layer(c, first)
        tensors += made
        nodes.append(node)
        inputs.append(first)
        if added:
            rng = np.random.default_rng(c["seed"] + 1)
            scale, y = float(made[3].scale), made[3]
            tensors.append(T(y.shape, "int8", np.float32(scale * rng.uniform(0.05, 3)), c["other_zero"]))
            tensors.append(T(y.shape, "int8", np.float32(scale * rng.uniform(0.3, 3)), c["sum_zero"]))
            pair = [first + 3, first + 4] if c["seed"] % 2 else [first + 4, first + 3]
            options = {"fusedActivationFunction": c["seed"] % 4}
            nodes.append(Node("ADD", pair, [first + 5], options, "AddOptions", 2))
            inputs.append(first + 4)
        outputs.append(len(tensors) - 1)
    return write(path, tensors, nodes, inputs, outputs)


def blocks(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers of which three of four have so many channels that their results are whole blocks of 16, as fusing needs."""
    wanted = [16 // math.gcd(size(c, "h") * size(c, "w") * c["out_c"], 16) if c["seed"] % 4 else 1 for c in cases]
    return [{**c, "out_c": c["out_c"] * times} for c, times in zip(cases, wanted, strict=True)]


def feeds(path_tensors: list[tuple[tuple[int, ...], str]], seed: int, count: int = 3) -> list[list[Any]]:
    rng = np.random.default_rng(seed)
    limits = {"int8": (-128, 128), "int16": (-32768, 32768)}
    made = [[rng.integers(*limits[d], s).astype(d) for s, d in path_tensors] for _ in range(count)]
    made.append([np.full(s, limits[d][0], d) for s, d in path_tensors])
    return made


def compare(folder: Path, path: Path, features: Features = frozenset(), **how: Any) -> Firmware:
    inputs = [(t.shape, t.dtype) for t in read(path).inputs]
    return check(path, folder / "c", feeds(inputs, 1), features, **how)


@SOME
@given(cases=st.lists(layers(), min_size=8, max_size=12))
def test_every_layer(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    compare(tmp_path, model(tmp_path / "m.tflite", cases))


@SOME
@given(cases=st.lists(layers(), min_size=8, max_size=12))
def test_every_layer_by_pairs_of_channels(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    compare(tmp_path, model(tmp_path / "m.tflite", cases), DSP)


@pytest.mark.parametrize("features", [frozenset(), DSP])
@FEW
@given(cases=st.lists(layers(), min_size=8, max_size=12))
def test_with_an_addition(tmp_path: Path, features: Features, cases: list[dict[str, Any]]) -> None:
    """Each sum is computed with its convolution, but for those with elements behind the last block of 16."""
    made = compare(tmp_path, model(tmp_path / "m.tflite", blocks(cases), added=True), features)
    for step in made.program.steps:
        assert (step.op.epilogue is not None) == (step.op.outputs[0].elements % 16 == 0)


@pytest.mark.parametrize("features", [frozenset(), DSP])
@pytest.mark.parametrize("channels", [16, 17])
def test_sums_of_scales_that_tell_blocks_from_the_rest(tmp_path: Path, features: Features, channels: int) -> None:
    """LiteRT rounds the operands of whole blocks of 16 once, and of what is left twice: some 2 % of these sums differ."""
    rng = np.random.default_rng(1)
    image = (1, 27, 37, channels)
    weights = (127 * np.eye(channels, dtype=np.int8)).reshape(channels, 1, 1, channels)
    tensors = [
        T(image, "int8", 0.2, 3), T(weights.shape, "int8", 1 / 127, 0, weights),
        T((channels,), "int32", 0.2 / 127, 0, rng.integers(-5, 6, channels).astype(np.int32)),
        T(image, "int8", 0.2, 3), T(image, "int8", 0.25, 3), T(image, "int8", 0.2, 3),
    ]  # fmt: skip
    nodes = [
        Node("CONV_2D", [0, 1, 2], [3], {"padding": VALID, "strideH": 1, "strideW": 1}, "Conv2DOptions", 3),
        Node("ADD", [3, 4], [5], {}, "AddOptions", 2),
    ]
    made = compare(tmp_path, write(tmp_path / "m.tflite", tensors, nodes, [0, 4], [5]), features)
    assert [s.op.kind for s in made.program.steps] == (["CONV_2D"] if channels == 16 else ["CONV_2D", "ADD"])


@pytest.mark.parametrize("features", [frozenset(), DSP])
@FEW
@given(cases=st.lists(layers(), min_size=8, max_size=12), added=st.booleans())
def test_nothing_is_read_or_written_outside(
    tmp_path: Path, features: Features, cases: list[dict[str, Any]], added: bool
) -> None:
    compare(tmp_path, model(tmp_path / "m.tflite", blocks(cases) if added else cases, added), features, sanitize=True)


@SOME
@given(cases=st.lists(layers(dtype="int16"), min_size=8, max_size=12))
def test_int16(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    compare(tmp_path, model(tmp_path / "m.tflite", cases))


@pytest.mark.parametrize("features", [frozenset(), DSP])
@pytest.mark.parametrize("per_channel", [False, True])
def test_int4_weights(tmp_path: Path, features: Features, per_channel: bool) -> None:
    rng = np.random.default_rng(3)
    weights = rng.integers(-7, 8, (6, 3, 3, 5)).astype(np.int8)
    nibbles = weights.ravel() & 15
    packed = (nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, 6 if per_channel else 1).astype(np.float32)
    tensors = [
        T((1, 9, 8, 5), "int8", 0.02, -5), T(weights.shape, "int4", scales, 0, packed),
        T((6,), "int32", scales * np.float32(0.02), 0, rng.integers(-3000, 3000, 6).astype(np.int32)),
        T((1, 7, 6, 6), "int8", 0.02, 3),
    ]  # fmt: skip
    options = {"padding": VALID, "strideH": 1, "strideW": 1}
    node = Node("CONV_2D", [0, 1, 2], [3], options, "Conv2DOptions", 7)
    compare(tmp_path, write(tmp_path / "m.tflite", tensors, [node], [0], [3]), features)


def chain(path: Path, cases: list[dict[str, Any]]) -> Path:
    """Layers one after another, the fourth's input added to the result of the fifth."""
    tensors: list[T] = []
    nodes: list[Node] = []
    last, kept = 0, 0
    for at, c in enumerate(cases):
        made, node = layer(c, len(tensors) - (1 if tensors else 0))
        if tensors:
            made[0] = tensors.pop()
            made[2] = replace(made[2], scale=np.asarray(made[1].scale) * np.float32(made[0].scale))
            made[3] = replace(made[3], scale=np.float32(made[0].scale * np.sqrt(made[1].data[0].size) * 0.5))
        tensors += made
        nodes.append(replace(node, inputs=[last, len(tensors) - 3, len(tensors) - 2], outputs=[len(tensors) - 1]))
        last = len(tensors) - 1
        kept = nodes[-1].inputs[0] if at == 3 else kept
    tensors.append(replace(tensors[last], zero=-7))
    nodes.append(Node("ADD", [last, kept], [last + 1], {}, "AddOptions", 2))
    return write(path, tensors, nodes, [0], [last + 1])


@pytest.mark.parametrize("features", [frozenset(), DSP])
@pytest.mark.parametrize(("h", "w"), [(6, 7), (8, 8), (1, 10)])
def test_results_lie_over_what_was_read(tmp_path: Path, features: Features, h: int, w: int) -> None:
    """Single pixels to more and to fewer channels and windows share memory with their inputs, a sum lies over its operand."""
    same = {**CASE, "h": h, "w": w, "activation": 0, "in_zero": 5, "out_zero": 5}
    one = {**same, "kernel_h": 1, "kernel_w": 1}
    cases = [{**one, "depth": 5, "out_c": 11}, {**same, "depth": 11, "out_c": 13}, {**one, "depth": 13, "out_c": 8},
             {**same, "depth": 8, "out_c": 12}, {**one, "depth": 12, "out_c": 8}]  # fmt: skip
    made = compare(tmp_path, chain(tmp_path / "m.tflite", cases), features)
    assert made.program.steps[-1].op.epilogue is not None
    apart = max(
        sum(t.nbytes for t in (*s.op.inputs, *s.op.outputs) if t is not None and t.data is None) + s.call.scratch
        for s in made.program.steps
    )
    assert made.program.plan.total < apart


CASE: dict[str, Any] = {
    "dtype": "int8", "padding": SAME, "kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 1, "dilation_h": 1,
    "dilation_w": 1, "h": 6, "w": 6, "groups": 1, "depth": 4, "out_c": 6, "in_zero": -3, "out_zero": -128, "other_zero": 0,
    "sum_zero": 0, "per_channel": True, "gain": 1.0, "activation": 1, "seed": 3,
}  # fmt: skip


def test_dsp_kernels_are_used(tmp_path: Path) -> None:
    op = read(model(tmp_path / "m.tflite", [CASE])).ops[0]
    assert lower(op, DSP).kernel == "conv_blocks"
    assert lower(op, frozenset()).kernel == "conv"


@pytest.mark.parametrize(
    "change",
    [{"out": (1, 7, 6, 6)}, {"out": (1, 6, 6, 5)}, {"in": (1, 6, 6, 6)}, {"in": (2, 6, 6, 4)}, {"in": (6, 6, 4)},
     {"strideW": 0}, {"strideH": 2}, {"dilationHFactor": 0}, {"dilationWFactor": 1 << 30}, {"zero": 1}],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    tensors, node = layer(CASE, 0)
    options = {**node.options, **{k: v for k, v in change.items() if k in node.options}}
    tensors[0] = replace(tensors[0], shape=change.get("in", tensors[0].shape))
    tensors[1] = replace(tensors[1], zero=change.get("zero", 0))
    tensors[3] = replace(tensors[3], shape=change.get("out", tensors[3].shape))
    path = write(tmp_path / "m.tflite", tensors, [replace(node, options=options)], [0], [3])
    for features in (frozenset(), DSP):
        with pytest.raises(Unsupported):
            lower(read(path).ops[0], features)


@pytest.mark.parametrize("shift", [-1, -5, -11, -12, -14, -18, -25, -31])
@pytest.mark.parametrize("away", [False, True])
def test_one_rounding_is_two(shift: int, away: bool) -> None:
    """Every sum of a range, or those around each change of the result, against the reference's own arithmetic."""
    rng = np.random.default_rng(-shift)
    done = 0
    for _ in range(6):
        span = min(int(200 * 2**-shift), 1 << 30)
        wanted = pairs.Reference(int(rng.integers(1 << 30, 1 << 31)), shift, int(rng.integers(-128, 128)), away=away)
        low, high = (int(v) for v in np.sort(rng.integers(-span, span, 2)))
        found = pairs.rescaling(wanted, low, high)
        if found is None:
            continue
        done += 1
        sums = {low, high, *(int(v) for v in rng.integers(low, high, 300)), *(x for x, _ in wanted.steps(low, high))}
        for x in sums:
            product = ((x - found.less) << found.shift) * found.multiplier
            assert -(1 << 31) <= (x - found.less) << found.shift < 1 << 31
            result = min(max(((product >> 32) + found.offset) >> pairs.FRACTION, -128), 127)
            assert result == wanted(x)
    assert done > 0 or away or shift < -12
