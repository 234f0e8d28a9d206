"""Functions of one value, softmax and PReLU, against LiteRT's own kernels: every bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c.graph import read
from edgedl.converters.to_c.libm import expf
from edgedl.converters.to_c.program import program
from edgedl.errors import ConversionError

from .harness import Node, T, check, reference, write

EVERY = np.arange(-128, 128, dtype=np.int8)
EVERY_16 = np.arange(-32768, 32768, dtype=np.int16)
seeds = st.integers(0, (1 << 32) - 1).map(np.random.default_rng)
some = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
UNARY = ["RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ABS", "RSQRT", "EXP", "LOG", "ELU", "GELU", "GELU~", "LEAKY_RELU",
         "HARD_SWISH", "TANH", "LOGISTIC"]  # fmt: skip


def scale(rng: Any, low: float = -3.0, high: float = -0.5) -> float:
    return float(np.float32(10 ** rng.uniform(low, high)))


def unary(kind: str, at: int, alpha: float) -> Node:
    """One of UNARY, from tensor `at` to the next."""
    options: dict[str, dict[str, Any]] = {"LEAKY_RELU": {"alpha": alpha}, "GELU~": {"approximate": True}}
    table = {"LEAKY_RELU": "LeakyReluOptions", "GELU~": "GeluOptions", "GELU": "GeluOptions"}.get(kind, "")
    return Node(kind.rstrip("~"), [at], [at + 1], options.get(kind, {}), table)


def side_by_side(path: Path, tensors: list[T], nodes: list[Node]) -> Path:
    """A file of operators from each even tensor to the next, all of them inputs and outputs."""
    ends = range(0, len(tensors), 2)
    return write(path, tensors, nodes, list(ends), [i + 1 for i in ends])


@given(seeds, st.booleans())
@some
def test_all_256_values_of_every_function(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    """All functions, with three pairs of scales each, in one file: one compile."""
    tensors: list[T] = []
    nodes, feed = [], []
    for kind in UNARY * 3:
        zero, out_zero = rng.integers(-128, 128, 2)
        given, out = scale(rng), scale(rng)
        if kind == "LOGISTIC":
            out, out_zero = 1 / 256, -128
        if kind == "HARD_SWISH":  # LiteRT refuses outputs finer than 1/128 of the input
            out = max(out, given / 100)
        nodes.append(unary(kind, len(tensors), rng.uniform(0.001, 2)))
        tensors += [T([256], scale=given, zero=zero), T([256], scale=out, zero=out_zero)]
        feed.append(np.maximum(EVERY, zero).astype(np.int8) if kind == "RSQRT" else EVERY)
    made = check(side_by_side(tmp_path / "m.tflite", tensors, nodes), tmp_path / "c", [feed], sanitize=sanitize)
    assert made.program.plan.total == 256 * len(nodes)  # each in place


def test_tables_of_many_scales(tmp_path: Path) -> None:
    """The tables alone, without a compiler: 20 random pairs of scales for each function."""
    rng = np.random.default_rng(7)
    for kind in UNARY[:-1] * 12:
        given, zero, out_zero = scale(rng, -4, 0), rng.integers(-128, 128), rng.integers(-128, 128)
        tensors = [T([256], scale=given, zero=zero), T([256], scale=max(scale(rng, -4, 0), given / 100), zero=out_zero)]
        path = write(tmp_path / "m.tflite", tensors, [unary(kind, 0, rng.uniform(0.001, 2))], [0], [1])
        values = np.maximum(EVERY, zero).astype(np.int8) if kind == "RSQRT" else EVERY
        table: Any = program(read(path)).steps[0].call.arguments[0]
        np.testing.assert_array_equal(table.values[values.astype(int) + 128], reference(path, [[values]])[0][0], kind)


@given(seeds, st.booleans())
@some
def test_softmax_of_int8(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    tensors: list[T] = []
    nodes = []
    for i in range(10):
        shape = [int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 10, 12, 100, 700]))]
        wide = i % 3 == 0
        out = T(shape, "int16", 1 / 32768, 0) if wide else T(shape, "int8", 1 / 256, -128)
        nodes.append(
            Node("SOFTMAX", [len(tensors)], [len(tensors) + 1], {"beta": rng.choice([1.0, 0.7])}, "SoftmaxOptions")
        )
        tensors += [T(shape, scale=scale(rng, -4, 0), zero=rng.integers(-128, 128)), out]
    shapes = [t.shape for t in tensors[::2]]
    feeds: list[list[Any]] = [[rng.integers(-128, 128, s, np.int8) for s in shapes] for _ in range(10)]
    feeds += [[np.clip(rng.normal(m, w, s), -128, 127).astype(np.int8) for s in shapes] for m, w in [(0, 5), (120, 30)]]
    feeds.append([np.full(s, 127, np.int8) for s in shapes])
    check(side_by_side(tmp_path / "m.tflite", tensors, nodes), tmp_path / "c", feeds, sanitize=sanitize)


@given(seeds, st.booleans())
@some
def test_int16(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    tensors: list[T] = []
    nodes, feed = [], []
    for kind in ["RELU", "RELU6", "LEAKY_RELU", "ABS"] * 2:
        given = scale(rng, -4, -2)
        nodes.append(replace(unary(kind, len(tensors), rng.uniform(0.001, 2)), version=2))
        tensors += [T([65536], "int16", given), T([65536], "int16", given * scale(rng, -0.5, 0.5))]
        feed.append(EVERY_16)
    for kind in ["SOFTMAX", "LOGISTIC", "TANH"] * 4:
        shape = [65536] if kind != "SOFTMAX" else [[4, 1024], [256, 16], [300, 1], [512, 8]][(len(nodes) - 8) // 3]
        options = {"beta": 1.0} if kind == "SOFTMAX" else {}
        table = "SoftmaxOptions" if kind == "SOFTMAX" else ""
        nodes.append(Node(kind, [len(tensors)], [len(tensors) + 1], options, table))
        tensors += [T(shape, "int16", scale(rng, -4.5, -2.5)), T(shape, "int16", 1 / 32768)]
        feed.append(rng.permutation(EVERY_16)[: int(np.prod(shape))].reshape(shape))
    check(side_by_side(tmp_path / "m.tflite", tensors, nodes), tmp_path / "c", [feed], sanitize=sanitize)


@given(seeds, st.booleans())
@some
def test_prelu(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    tensors: list[T] = []
    nodes: list[Node] = []
    feed = []
    for alpha in [[1, 1, 5], [5], [3, 1, 5], [1, 4, 5], [1, 1, 1], [2, 3, 4, 5]]:
        slopes = T(alpha, scale=scale(rng), zero=rng.integers(-128, 128), data=rng.integers(-128, 128, alpha, np.int8))
        at = len(tensors)
        nodes.append(Node("PRELU", [at, at + 1], [at + 2]))
        out = T([2, 3, 4, 5], scale=scale(rng), zero=rng.integers(-128, 128))
        tensors += [T([2, 3, 4, 5], scale=scale(rng), zero=rng.integers(-128, 128)), slopes, out]
        feed.append(rng.integers(-128, 128, [2, 3, 4, 5], np.int8))
    ends = range(0, len(tensors), 3)
    path = write(tmp_path / "m.tflite", tensors, nodes, list(ends), [i + 2 for i in ends])
    check(path, tmp_path / "c", [feed], sanitize=sanitize)


@pytest.mark.parametrize(
    ("kind", "x", "y", "reason"),
    [
        ("RELU", T([4], scale=0.1), T([5], scale=0.1), "size"),
        ("RELU", T([4], "int32", 0.1), T([4], "int32", 0.1), "int32"),
        ("RELU", T([4]), T([4], scale=0.1), "scales"),
        ("RELU", T([4], scale=3e30), T([4], scale=1e-30), "rescaling factor"),
        ("RSQRT", T([4], scale=1e-30), T([4], scale=1e-30), "rescaling factor"),
        ("HARD_SWISH", T([4], scale=100.0), T([4], scale=0.001), "differ"),
        ("LOGISTIC", T([4], scale=0.1), T([4], scale=0.1), "1/256"),
        ("TANH", T([4], "int16", 0.1), T([4], "int16", 0.1), "1/32768"),
        ("TANH", T([4], "int16", 1 / 2048), T([4], "int16", 1 / 32768), "another method"),
        ("SOFTMAX", T([1, 4], scale=0.1), T([1, 4], scale=0.003), "power of 2"),
        ("SOFTMAX", T([4, 1], scale=0.1), T([1, 4], scale=1 / 256), "shapes"),
        ("SOFTMAX", T([1, 4], "int16", 100.0), T([1, 4], "int16", 1 / 32768), "coarse"),
    ],
)
def test_what_is_refused(tmp_path: Path, kind: str, x: T, y: T, reason: str) -> None:
    options = Node(kind, [0], [1], {"beta": 1.0}, "SoftmaxOptions") if kind == "SOFTMAX" else Node(kind, [0], [1])
    path = write(tmp_path / "m.tflite", [x, y], [options], [0], [1])
    with pytest.raises(ConversionError, match=reason):
        program(read(path))


def test_the_exponential_has_the_last_bit_of_the_c_library() -> None:
    """Values of glibc's expf, which exp of doubles, rounded, does not give."""
    found = expf(np.float32([-8.324999809265137, -5.127999782562256, 0.0, -200.0]))
    assert [v.hex() for v in found.tolist()] == [
        "0x1.fc4f4c0000000p-13", "0x1.84862a0000000p-8", "0x1.0000000000000p+0", "0x0.0p+0",
    ]  # fmt: skip
