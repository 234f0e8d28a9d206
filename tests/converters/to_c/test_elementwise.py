"""Operators on two tensors in C against LiteRT's own kernels, every bit: broadcasting, scales, constants, in place."""

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
SOME = settings(max_examples=6, phases=DRAWN, suppress_health_check=[HealthCheck.function_scoped_fixture])
TABLES = {
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "MINIMUM": "MaximumMinimumOptions",
    "MAXIMUM": "MaximumMinimumOptions", "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
}  # fmt: skip
ACTIVATED = ("ADD", "SUB", "MUL")
SCALES = st.one_of(st.sampled_from([0.5, 0.25, 0.125, 0.0625, 1.0]), st.floats(0.015625, 1.0, width=32))


@st.composite
def cases(draw: st.DrawFn, dtype: str = "int8", kinds: Sequence[str] = tuple(TABLES)) -> dict[str, Any]:
    kind = draw(st.sampled_from(list(kinds)))
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    a, b = list(shape), list(shape)
    how = draw(st.sampled_from(["same", "same", "scalar", "mixed", "shorter"]))
    if how == "scalar":
        b = [1]
    elif how == "mixed":
        for i in range(len(shape)):
            which = draw(st.integers(0, 2))
            a[i], b[i] = (1 if which == 1 else a[i]), (1 if which == 2 else b[i])
    elif how == "shorter":
        b = b[draw(st.integers(0, len(b) - 1)) :]
    if draw(st.booleans()):
        a, b = b, a
    same = kind in ("MINIMUM", "MAXIMUM")
    zero = st.integers(-128, 127) if dtype == "int8" else st.just(0)
    first = (draw(SCALES), draw(zero))
    return {
        "kind": kind, "dtype": dtype, "a": a, "b": b, "scale_a": first[0], "zero_a": first[1],
        "scale_b": first[0] if same else draw(SCALES), "zero_b": first[1] if same else draw(zero),
        "zero_y": first[1] if same else draw(zero), "activation": draw(st.sampled_from([0, 0, 1, 2, 3])),
        "constant": draw(st.sampled_from([None, None, 0, 1])), "seed": draw(st.integers(0, 1 << 16)),
        "power": draw(st.sampled_from([0.5, 1.0, 2.0, 4.0, 0.7, 1.3])),
    }  # fmt: skip


def output_scale(c: dict[str, Any]) -> float:
    """A scale at which the result neither vanishes nor saturates everywhere."""
    a, b = c["scale_a"], c["scale_b"]
    if c["kind"] in ("MINIMUM", "MAXIMUM"):
        return float(a)
    if c["kind"] in ("ADD", "SUB"):
        return float(max(a, b) * c["power"])
    wide = c["dtype"] == "int16"
    return float((a * b if c["kind"] == "MUL" else max(a, b) ** 2) * c["power"] * (8000 if wide else 32))


def layer(c: dict[str, Any], first: int) -> tuple[list[T], Node]:
    """Three tensors and an operator."""
    rng = np.random.default_rng(c["seed"])
    info = np.iinfo(c["dtype"])
    out = np.broadcast_shapes(tuple(c["a"]), tuple(c["b"]))
    data = [rng.integers(info.min, info.max + 1, s).astype(c["dtype"]) if c["constant"] == i else None
            for i, s in enumerate((c["a"], c["b"]))]  # fmt: skip
    tensors = [
        T(c["a"], c["dtype"], c["scale_a"], c["zero_a"], data[0]),
        T(c["b"], c["dtype"], c["scale_b"], c["zero_b"], data[1]),
        T(out, c["dtype"], output_scale(c), c["zero_y"]),
    ]
    options = {"fusedActivationFunction": c["activation"]} if c["kind"] in ACTIVATED else {}
    if "pot" in c and c["kind"] in ("ADD", "SUB"):
        options["potScaleInt16"] = c["pot"]
    return tensors, Node(c["kind"], [first, first + 1], [first + 2], options, TABLES[c["kind"]], 2)


def compare(folder: Path, drawn: Sequence[dict[str, Any]], features: Features = frozenset(), **how: Any) -> Firmware:
    """One model of all these operators, side by side."""
    tensors: list[T] = []
    nodes = []
    for c in drawn:
        more, node = layer(c, len(tensors))
        tensors += more
        nodes.append(node)
    outputs = list(range(2, len(tensors), 3))
    inputs = [i for i in range(len(tensors)) if i % 3 < 2 and tensors[i].data is None]
    folder = folder / f"f{len(list(folder.iterdir()))}"
    folder.mkdir()
    path = write(folder / "model.tflite", tensors, nodes, inputs, outputs)
    rng = np.random.default_rng(2)
    info = np.iinfo(tensors[0].dtype)
    shapes = [tensors[i].shape for i in inputs]
    feeds = [[rng.integers(info.min, info.max + 1, s).astype(info.dtype) for s in shapes] for _ in range(4)]
    feeds += [[np.full(s, v, info.dtype) for s in shapes] for v in (info.min, info.max)]
    return check(path, folder, feeds, features, **how)


@SOME
@given(st.lists(cases(), min_size=10, max_size=10))
def test_int8_is_bit_exact(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    compare(tmp_path, drawn)


WIDE = ("ADD", "SUB", "MUL", "MINIMUM", "MAXIMUM")


@SOME
@given(st.lists(cases("int16", WIDE), min_size=10, max_size=10))
def test_int16_is_bit_exact(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    """Sums in the flavour of any scales; of powers of two: below."""
    compare(tmp_path, [c | {"pot": False} for c in drawn])


def layer_of(**changes: Any) -> dict[str, Any]:
    found = {
        "kind": "ADD", "dtype": "int8", "a": [6, 5, 8], "b": [6, 5, 8], "scale_a": 0.3, "zero_a": 5, "scale_b": 0.7,
        "zero_b": -9, "zero_y": 3, "activation": 0, "constant": None, "seed": 1, "power": 1.3,
    }  # fmt: skip
    return found | changes


@pytest.mark.parametrize("kind", ["ADD", "SUB"])
def test_int16_with_scales_that_are_powers_of_two(tmp_path: Path, kind: str) -> None:
    """One operand has the scale of the result, the other one is shifted down to it."""
    zeros = {"zero_a": 0, "zero_b": 0, "zero_y": 0, "dtype": "int16", "kind": kind}
    shifts = [(0.25, 0.25), (0.125, 0.25), (0.25, 0.0625), (2**-12, 0.25)]
    drawn = [layer_of(**zeros, scale_a=a, scale_b=b, power=1.0, activation=n) for n, (a, b) in enumerate(shifts)]
    made = compare(tmp_path, drawn)
    assert {s.call.kernel for s in made.program.steps} == {"add_pot"}


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_within_bounds_and_in_place(tmp_path: Path, kind: str) -> None:
    """The result lies over an operand of its own shape, and sanitizers see no byte too far."""
    same = {"scale_b": 0.3, "zero_b": 5, "zero_y": 5} if kind in ("MINIMUM", "MAXIMUM") else {}
    for b in ([6, 5, 8], [5, 1], [1]):
        made = compare(tmp_path, [layer_of(kind=kind, b=b, **same)], sanitize=True)
        graph = made.program.graph
        assert made.program.plan.total <= sum(t.nbytes + 4 for t in graph.inputs)
        assert made.program.places[id(graph.outputs[0])] in [made.program.places[id(t)] for t in graph.inputs]


def test_five_dimensions(tmp_path: Path) -> None:
    compare(
        tmp_path, [layer_of(a=[2, 1, 3, 1, 5], b=[1, 4, 1, 2, 1]), layer_of(kind="MUL", a=[2, 4, 3, 2, 5], b=[3, 1, 1])]
    )


def graph_of(path: Path, **changes: Any) -> Graph:
    tensors, node = layer(layer_of(**changes), 0)
    return read(write(path / "m.tflite", tensors, [node], [0, 1], [2]))


@pytest.mark.parametrize(
    "changes",
    [
        {"power": 1e-7},  # a sum's rescaling factor above 1
        {"power": 0.005},  # a sum beyond int16
        {"scale_a": 1e-7},  # beside one of 0.7
        {"kind": "MUL", "power": 0.01},  # a product beyond int16
        {"dtype": "int16"},  # with zero points
        {"kind": "MUL", "power": 1e-9},
        {"kind": "SQUARED_DIFFERENCE", "power": 1e-9},
        {"kind": "MAXIMUM"},  # of different scales
        {"activation": 4},
        {"scale_a": 0.0},
        {"kind": "SQUARED_DIFFERENCE", "dtype": "int16", "zero_a": 0, "zero_b": 0, "zero_y": 0},
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        lower(graph_of(tmp_path, **changes).ops[0], frozenset())


@pytest.mark.parametrize("shape", [[6, 5, 7], [6, 5, 8, 1], [6, 1, 9], [5, 5, 8]])
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, shape: list[int]) -> None:
    one = graph_of(tmp_path).ops[0]
    for i in range(2):
        inputs = [*one.inputs]
        inputs[i] = replace(one.input(i), shape=tuple(shape))
        with pytest.raises(Unsupported):
            lower(replace(one, inputs=tuple(inputs)), frozenset())


def test_division_of_int8_is_not_known(tmp_path: Path) -> None:
    """LiteRT has none either: it divides float32, int32 and uint8."""
    one = graph_of(tmp_path).ops[0]
    with pytest.raises(Unsupported, match="not known"):
        lower(replace(one, kind="DIV"), frozenset())


@SOME
@given(st.lists(cases(kinds=("ADD", "MUL", "SUB")), min_size=10, max_size=10))
def test_dsp_kernels_are_bit_exact(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    compare(tmp_path, drawn, frozenset({"dsp"}))


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
@pytest.mark.parametrize("count", [1, 3, 4, 30])
def test_dsp_kernels_in_place(tmp_path: Path, kind: str, count: int) -> None:
    made = compare(tmp_path, [layer_of(kind=kind, a=[count], b=[count])], frozenset({"dsp"}), sanitize=True)
    assert made.program.steps[0].call.kernel == f"{kind.lower()}_words"
    assert made.program.plan.total <= 2 * (count + 3)


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
def test_dsp_kernels_on_all_pairs_of_values(tmp_path: Path, kind: str) -> None:
    """Every int8 with every other one, scales that are powers of two and others."""
    every = np.arange(-128, 128).astype(np.int8)
    feed = [np.repeat(every, 256).reshape(256, 256), np.tile(every, 256).reshape(256, 256)]
    for scales in ({}, {"scale_a": 0.25, "scale_b": 0.5, "power": 1.0}, {"zero_a": -128, "zero_b": 127, "zero_y": 0}):
        tensors, node = layer(layer_of(kind=kind, a=[256, 256], b=[256, 256], **scales), 0)
        folder = tmp_path / f"f{len(list(tmp_path.iterdir()))}"
        path = write(tmp_path / "model.tflite", tensors, [node], [0, 1], [2])
        check(path, folder, [feed], frozenset({"dsp"}))


EVERY = np.arange(-128, 128).astype(np.int8)
PAIRS = np.stack([np.repeat(EVERY, 256), np.tile(EVERY, 256)])[:, np.random.default_rng(3).permutation(1 << 16)]
SCALED = [  # of 65,536 sums with these 1,333, 0, 43, 5 differ between blocks of LiteRT's vector code and its scalar code
    {"scale_a": 0.2, "zero_a": 3, "scale_b": 0.25, "zero_b": 3, "power": 0.8, "zero_y": 3},
    {"scale_a": 0.25, "zero_a": 1, "scale_b": 0.5, "zero_b": 2, "power": 1.0, "zero_y": 3},
    {"scale_a": 0.11, "zero_a": 0, "scale_b": 0.037, "zero_b": 0, "power": 0.05 / 0.11, "zero_y": -4},
    {"scale_a": 0.0078, "zero_a": 127, "scale_b": 0.0081, "zero_b": -128, "power": 0.013 / 0.0081, "zero_y": 5},
]


@pytest.mark.parametrize("features", [frozenset(), frozenset({"dsp"})])
@pytest.mark.parametrize("kind", sorted(TABLES))
@pytest.mark.parametrize("size", [65536, 65531])
def test_all_pairs_of_values(tmp_path: Path, kind: str, size: int, features: Features) -> None:
    """Every int8 with every other one, without and with elements behind the last block of LiteRT's vector code."""
    tensors: list[T] = []
    nodes = []
    for scales in SCALED:
        same = {"scale_b": scales["scale_a"], "zero_b": scales["zero_a"], "zero_y": scales["zero_a"]}
        extreme = same if kind in ("MINIMUM", "MAXIMUM") else {}
        more, node = layer(layer_of(kind=kind, a=[1, size], b=[1, size], **{**scales, **extreme}), len(tensors))
        tensors += more
        nodes.append(node)
    inputs = [i for i in range(len(tensors)) if i % 3 < 2]
    path = write(tmp_path / "model.tflite", tensors, nodes, inputs, list(range(2, len(tensors), 3)))
    check(path, tmp_path / "c", [[PAIRS[i % 3, :size].reshape(1, size) for i in inputs]], features)


@pytest.mark.parametrize("features", [frozenset(), frozenset({"dsp"})])
@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
def test_elements_behind_the_last_block_and_repeated_operands(tmp_path: Path, kind: str, features: Features) -> None:
    """Rows as LiteRT walks them: of both operands (blocks of 16), of one value (of 8), and shapes it does one by one."""
    shapes = [
        ([37], [37]), ([16], [1]), ([1, 1], [9001]), ([9001], [1]), ([1000, 1], [1, 37]), ([3, 50, 37], [50, 37]),
        ([3, 50, 37], [3, 1, 37]), ([3, 50, 1], [3, 50, 37]), ([3, 1, 37], [1, 50, 1]), ([9, 1, 3, 35], [1, 12, 3, 1]),
        ([6, 1, 5, 35], [1, 7, 5, 1]), ([2, 5, 1, 3, 1], [1, 1, 7, 1, 21]), ([6, 1, 5, 1, 35], [6, 7, 5, 2, 35]),
    ]  # fmt: skip
    compare(tmp_path, [layer_of(kind=kind, a=a, b=b, **SCALED[0]) for a, b in shapes], features)


@pytest.mark.parametrize("features", [frozenset(), frozenset({"dsp"})])
@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
def test_all_pairs_of_values_behind_the_last_block(tmp_path: Path, kind: str, features: Features) -> None:
    """Of 31 elements the last 15, which meet all pairs in some 4,400 runs."""
    tensors, node = layer(layer_of(kind=kind, a=[31], b=[31], **SCALED[0]), 0)
    path = write(tmp_path / "model.tflite", tensors, [node], [0, 1], [2])
    rows = PAIRS[:, np.arange(4370 * 15) % (1 << 16)].reshape(2, 4370, 15)
    feeds = [[np.concatenate([values[:1].repeat(16), values]) for values in rows[:, i]] for i in range(4370)]
    check(path, tmp_path / "c", feeds, features)


@pytest.mark.parametrize("kind", ["ADD", "SUB"])
@pytest.mark.parametrize("scales", [(0.2, 0.25, 0.8), (0.11, 0.037, 0.4545), (1.0, 0.5 * (1 + 2**-20), 1.0)])
def test_a_million_pairs_of_int16(tmp_path: Path, kind: str, scales: tuple[float, float, float]) -> None:
    wide = {"dtype": "int16", "zero_a": 0, "zero_b": 0, "zero_y": 0, "pot": False}
    a, b, power = scales
    case = layer_of(kind=kind, a=[166667], b=[166667], scale_a=a, scale_b=b, power=power, **wide)
    compare(tmp_path, [case])
