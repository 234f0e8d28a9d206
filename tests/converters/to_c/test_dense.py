"""Fully connected layers in C against LiteRT's own kernels, every bit: rows, depths, scales, no bias, int16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c.call import Features, lower
from edgedl.converters.to_c.graph import Unsupported, read

from .harness import Node, T, check, write

SOME = settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
DSP: Features = frozenset({"dsp"})


@st.composite
def layers(draw: st.DrawFn, dtype: str = "int8") -> dict[str, Any]:
    low = -128 if dtype == "int8" else 0
    return {
        "dtype": dtype,
        "shape": draw(st.sampled_from([(1,), (1,), (2,), (3,), (2, 2), (1, 2, 3)])),
        "depth": draw(st.one_of(st.integers(1, 9), st.integers(10, 80))),
        "out": draw(st.integers(1, 21)),
        "in_zero": draw(st.sampled_from([low, 0, low // 10, 127 if low else 0])),
        "out_zero": draw(st.sampled_from([low, 0, low // 10, 127 if low else 0])),
        "per_channel": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "keep": draw(st.booleans()),
        "gain": draw(st.sampled_from([0.1, 1.0, 1.0, 4.0, 20.0])),
        "activation": draw(st.sampled_from([0, 0, 1, 2, 3])),
        "seed": draw(st.integers(0, 1 << 16)),
    }


def model(path: Path, cases: list[dict[str, Any]]) -> Path:
    """Layers side by side, each with its own input and output."""
    tensors: list[T] = []
    nodes = []
    for c in cases:
        first, rng = len(tensors), np.random.default_rng(c["seed"])
        weights = rng.integers(-127, 128, (c["out"], c["depth"]), dtype=np.int8)
        scales = rng.uniform(0.002, 0.02, c["out"] if c["per_channel"] else 1).astype(np.float32)
        wide = c["dtype"] == "int16"
        in_scale = np.float32(rng.uniform(0.01, 0.1) / (200 if wide else 1))
        out_scale = np.float32(in_scale * 0.5 * np.sqrt(c["depth"]) / c["gain"])
        bias = rng.integers(-20000, 20000, c["out"]).astype(np.int64 if wide else np.int32)
        keep = c["keep"] or c["shape"] == (1,)
        shape = (*c["shape"], c["out"]) if keep else (int(np.prod(c["shape"])), c["out"])
        tensors += [
            T((*c["shape"], c["depth"]), c["dtype"], in_scale, c["in_zero"]),
            T(weights.shape, "int8", scales, 0, weights, axis=0),
            T((c["out"],), "int64" if wide else "int32", scales * in_scale, 0, bias),
            T(shape, c["dtype"], out_scale, c["out_zero"]),
        ]
        options = {"keepNumDims": c["keep"], "fusedActivationFunction": c["activation"]}
        inputs = [first, first + 1, first + 2 if c["bias"] else -1]
        nodes.append(Node("FULLY_CONNECTED", inputs, [first + 3], options, "FullyConnectedOptions", 9))
    ends = range(0, len(tensors), 4)
    return write(path, tensors, nodes, list(ends), [e + 3 for e in ends])


def feeds(path: Path, seed: int = 1, count: int = 3) -> list[list[Any]]:
    rng = np.random.default_rng(seed)
    limits = {"int8": (-128, 128), "int16": (-32768, 32768)}
    inputs = [(t.shape, t.dtype) for t in read(path).inputs]
    made = [[rng.integers(*limits[d], s).astype(d) for s, d in inputs] for _ in range(count)]
    return [*made, [np.full(s, limits[d][0], d) for s, d in inputs]]


@pytest.mark.parametrize("features", [frozenset(), DSP])
@SOME
@given(cases=st.lists(layers(), min_size=10, max_size=16))
def test_every_layer(tmp_path: Path, features: Features, cases: list[dict[str, Any]]) -> None:
    path = model(tmp_path / "m.tflite", cases)
    check(path, tmp_path / "c", feeds(path), features)


@SOME
@given(cases=st.lists(layers("int16"), min_size=10, max_size=16))
def test_int16(tmp_path: Path, cases: list[dict[str, Any]]) -> None:
    path = model(tmp_path / "m.tflite", cases)
    check(path, tmp_path / "c", feeds(path))


@pytest.mark.parametrize("features", [frozenset(), DSP])
@FEW
@given(cases=st.lists(st.one_of(layers(), layers("int16")), min_size=10, max_size=16))
def test_nothing_is_read_or_written_outside(tmp_path: Path, features: Features, cases: list[dict[str, Any]]) -> None:
    path = model(tmp_path / "m.tflite", cases)
    check(path, tmp_path / "c", feeds(path), features, sanitize=True)


def test_dsp_kernels_are_used(tmp_path: Path) -> None:
    case = {"dtype": "int8", "shape": (1,), "depth": 40, "out": 12, "in_zero": -3, "out_zero": -128, "per_channel": True,
            "bias": True, "keep": False, "gain": 1.0, "activation": 1, "seed": 3}  # fmt: skip
    op = read(model(tmp_path / "m.tflite", [case])).ops[0]
    assert lower(op, DSP).kernel == "matrix"
    assert lower(op, frozenset()).kernel == "dense"


@pytest.mark.parametrize("change", ["depth", "rows", "bias"])
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, change: str) -> None:
    weights, bias = (
        np.ones((4, 6 if change == "depth" else 5), np.int8),
        np.ones(3 if change == "bias" else 4, np.int32),
    )
    tensors = [
        T((1, 10), "int8", 0.1), T(weights.shape, "int8", 0.1, 0, weights), T(bias.shape, "int32", 0.01, 0, bias),
        T((3 if change == "rows" else 2, 4), "int8", 0.1),
    ]  # fmt: skip
    node = Node("FULLY_CONNECTED", [0, 1, 2], [3], {}, "FullyConnectedOptions", 4)
    op = read(write(tmp_path / "m.tflite", tensors, [node], [0], [3])).ops[0]
    with pytest.raises(Unsupported):
        lower(op, DSP)
