"""Convolutions in C against LiteRT's own kernels, every bit: shapes, strides, dilation, groups, scales, fused additions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c.call import Features
from edgedl.converters.to_c.graph import read

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
    made = compare(tmp_path, model(tmp_path / "m.tflite", cases, added=True), features)
    assert all(step.op.epilogue is not None for step in made.program.steps)


@pytest.mark.parametrize("features", [frozenset(), DSP])
@FEW
@given(cases=st.lists(layers(), min_size=8, max_size=12), added=st.booleans())
def test_nothing_is_read_or_written_outside(
    tmp_path: Path, features: Features, cases: list[dict[str, Any]], added: bool
) -> None:
    compare(tmp_path, model(tmp_path / "m.tflite", cases, added), features, sanitize=True)
