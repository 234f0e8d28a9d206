"""Pooling in C against LiteRT's own kernels, every bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c.call import lower
from edgedl.converters.to_c.graph import Unsupported, read

from .harness import Firmware, Node, T, check, write

DRAWN = (Phase.explicit, Phase.reuse, Phase.generate)  # no shrinking: each step would be compiled
SOME = settings(max_examples=6, phases=DRAWN, suppress_health_check=[HealthCheck.function_scoped_fixture])
SAME, VALID = 0, 1
KINDS = ["AVERAGE_POOL_2D", "MAX_POOL_2D"]


@st.composite
def cases(draw: st.DrawFn, dtype: str = "int8") -> dict[str, Any]:
    found: dict[str, Any] = {"kind": draw(st.sampled_from(KINDS)), "padding": draw(st.sampled_from([SAME, VALID]))}
    for side in "hw":
        found[f"kernel_{side}"], found[f"stride_{side}"] = draw(st.integers(1, 6)), draw(st.integers(1, 4))
        found[side] = draw(st.integers(found[f"kernel_{side}"] if found["padding"] == VALID else 1, 14))
    return found | {
        "dtype": dtype,
        "channels": draw(st.sampled_from([1, 3, 4, 8, 17, 32])),
        "activation": draw(st.sampled_from([0, 1, 2, 3])),
        "zero": draw(st.integers(-128, 127)) if dtype == "int8" else 0,
        "scale": draw(st.sampled_from([0.05, 0.007, 0.3])) / (1 if dtype == "int8" else 250),
    }


def compare(folder: Path, drawn: Sequence[dict[str, Any]], **how: Any) -> Firmware:
    """One model of all these layers, side by side."""
    tensors, nodes = [], []
    for c in drawn:
        out = [-(-c[s] // c[f"stride_{s}"]) if c["padding"] == SAME
               else (c[s] - c[f"kernel_{s}"]) // c[f"stride_{s}"] + 1 for s in "hw"]  # fmt: skip
        options = {
            "padding": c["padding"], "strideH": c["stride_h"], "strideW": c["stride_w"],
            "filterHeight": c["kernel_h"], "filterWidth": c["kernel_w"], "fusedActivationFunction": c["activation"],
        }  # fmt: skip
        at = len(tensors)
        tensors += [
            T((1, c["h"], c["w"], c["channels"]), c["dtype"], c["scale"], c["zero"]),
            T((1, *out, c["channels"]), c["dtype"], c["scale"], c["zero"]),
        ]
        nodes.append(Node(c["kind"], [at], [at + 1], options, "Pool2DOptions", 2 if c["dtype"] == "int8" else 3))
    inputs = list(range(0, len(tensors), 2))
    folder = folder / f"f{len(list(folder.iterdir()))}"
    folder.mkdir()
    path = write(folder / "model.tflite", tensors, nodes, inputs, [i + 1 for i in inputs])
    rng = np.random.default_rng(1)
    info = np.iinfo(tensors[0].dtype)
    shapes = [tensors[i].shape for i in inputs]
    feeds = [[rng.integers(info.min, info.max + 1, s).astype(info.dtype) for s in shapes] for _ in range(3)]
    feeds += [[np.full(s, v, info.dtype) for s in shapes] for v in (info.min, info.max)]
    return check(path, folder, feeds, **how)


@SOME
@given(st.lists(cases(), min_size=8, max_size=8))
def test_int8_is_bit_exact(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    compare(tmp_path, drawn)


@SOME
@given(st.lists(cases("int16"), min_size=8, max_size=8))
def test_int16_is_bit_exact(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    compare(tmp_path, drawn)


def layer(**changes: Any) -> dict[str, Any]:
    found = {
        "kind": "AVERAGE_POOL_2D", "padding": SAME, "kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 1, "h": 9,
        "w": 7, "dtype": "int8", "channels": 8, "activation": 0, "zero": 3, "scale": 0.1,
    }  # fmt: skip
    return found | changes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_within_bounds_and_over_its_own_input(tmp_path: Path, kind: str, dtype: str) -> None:
    """Sanitizers see no byte too far; input and output share memory, and the output is right all the same."""
    zero = 3 if dtype == "int8" else 0
    for changes in ({}, {"padding": VALID, "stride_h": 2}, {"kernel_h": 9, "kernel_w": 7, "padding": VALID}):
        case = layer(kind=kind, dtype=dtype, zero=zero, **changes)
        made = compare(tmp_path, [case], sanitize=True)
        graph = made.program.graph
        assert made.program.plan.total < graph.inputs[0].nbytes + graph.outputs[0].nbytes


@pytest.mark.parametrize(
    "changes",
    [
        {"filterHeight": 0}, {"filterWidth": 1 << 20}, {"strideH": 0}, {"strideW": 1 << 30}, {"padding": 1},
        {"fusedActivationFunction": 4},
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    options = {"strideH": 1, "strideW": 1, "filterHeight": 3, "filterWidth": 3, "padding": 0} | changes
    tensors = [T((1, 6, 6, 4), "int8", 0.1, 0), T((1, 6, 6, 4), "int8", 0.1, 0)]
    node = Node("AVERAGE_POOL_2D", [0], [1], options, "Pool2DOptions", 2)
    graph = read(write(tmp_path / "m.tflite", tensors, [node], [0], [1]))
    with pytest.raises(Unsupported):
        lower(graph.ops[0], frozenset())


def test_other_scales_are_refused(tmp_path: Path) -> None:
    options = {"strideH": 1, "strideW": 1, "filterHeight": 3, "filterWidth": 3, "padding": 0}
    tensors = [T((1, 6, 6, 4), "int8", 0.1, 0), T((1, 6, 6, 4), "int8", 0.2, 0)]
    node = Node("MAX_POOL_2D", [0], [1], options, "Pool2DOptions", 2)
    graph = read(write(tmp_path / "m.tflite", tensors, [node], [0], [1]))
    with pytest.raises(Unsupported, match="scales"):
        lower(graph.ops[0], frozenset())
