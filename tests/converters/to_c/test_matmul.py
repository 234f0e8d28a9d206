"""BATCH_MATMUL, TRANSPOSE_CONV and changes of type, against LiteRT: every bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.converters.to_c.graph import read
from edgedl.converters.to_c.program import program
from edgedl.errors import ConversionError

from .batch import Batch, ints, scale, seeds, some
from .harness import Node, T, check, write


def quantized(rng: Any, shape: Any, dtype: str, low: float = -3.0, high: float = -0.5) -> T:
    zero = int(rng.integers(-128, 128)) if dtype == "int8" else 0
    return T([int(d) for d in shape], dtype, scale(rng, low, high), zero)


def result(rng: Any, shape: Any, a: T, b_scale: float, depth: int) -> T:
    """An output whose scale lets about all values be used."""
    size = a.scale * b_scale * (5000 if a.dtype == "int8" else 1e6) * depth**0.5
    wide = float(np.float32(size * rng.uniform(0.3, 3) / (128 if a.dtype == "int8" else 32768)))
    return T([int(d) for d in shape], a.dtype, wide, int(rng.integers(-128, 128)) if a.dtype == "int8" else 0)


def add_matmul(b: Batch, rng: Any) -> None:
    dtype = rng.choice(["int8", "int16"])
    rows, columns, depth = (int(d) for d in rng.integers(1, 9, 3))
    batch = [int(d) for d in rng.integers(1, 4, int(rng.integers(0, 3)))]
    left = [1 if rng.random() < 0.2 else d for d in batch]
    right = [d if m == 1 or rng.random() < 0.7 else 1 for d, m in zip(batch, left, strict=True)]
    turned_a, turned_b = bool(rng.integers(0, 2)), bool(rng.integers(0, 2))
    x = quantized(rng, [*left, *([depth, rows] if turned_a else [rows, depth])], dtype)
    y = quantized(rng, [*right, *([columns, depth] if turned_b else [depth, columns])], dtype)
    out = result(rng, [*batch, rows, columns], x, y.scale, depth)
    b.add("BATCH_MATMUL", [x, y], [out], {"adjX": turned_a, "adjY": turned_b}, "BatchMatMulOptions", 2)


def add_transpose_conv(b: Batch, rng: Any) -> None:
    dtype = rng.choice(["int8", "int16"])
    n, c, kh, kw, sh, sw = (int(d) for d in rng.integers(1, 4, 6))
    o = int(rng.integers(1, 40)) if rng.random() < 0.5 else int(rng.integers(1, 4))
    h, w = (int(d) for d in rng.integers(1, 6, 2))
    same = bool(rng.integers(0, 2))
    size = [h * sh, w * sw] if same else [(h - 1) * sh + kh, (w - 1) * sw + kw]
    x = quantized(rng, [n, h, w, c], dtype)
    each = rng.random() < 0.7
    scales = [scale(rng) for _ in range(o if each else 1)]
    weights = T([o, kh, kw, c], "int8", scales, 0, rng.integers(-127, 128, [o, kh, kw, c]).astype(np.int8))
    out = result(rng, [n, *size, o], x, max(scales), kh * kw * c)
    inputs: list[T | None] = [ints(n, *size, o), weights, x]
    if rng.random() < 0.6:
        kind = np.int32 if dtype == "int8" else np.int64
        values = rng.integers(-5000, 5000, o).astype(kind)
        inputs.append(T([o], np.dtype(kind).name, [x.scale * s for s in scales], 0, values))
    b.add(
        "TRANSPOSE_CONV",
        inputs,
        [out],
        {"padding": 0 if same else 1, "strideH": sh, "strideW": sw},
        "TransposeConvOptions",
        3,
    )


def add_requantize(b: Batch, rng: Any) -> None:
    pairs = [("int8", "int8"), ("int8", "uint8"), ("uint8", "int8"), ("int16", "int8"), ("int16", "int16"), ("int32", "int8"),
             ("int32", "int16"), ("int16", "int32")]  # fmt: skip
    for kind, made in pairs:
        x, y = quantized(rng, [7, 37], kind), quantized(rng, [7, 37], made)
        if kind == "int32":
            y = T(y.shape, made, max(y.scale, x.scale * 1.5), y.zero)
        if made == kind == "int16":
            y = T(y.shape, made, float(np.float32(x.scale * rng.uniform(0.1, 10))), 0)
        b.add("QUANTIZE", [x], [y])


def add_cast(b: Batch, rng: Any) -> None:
    kinds = ["int8", "uint8", "int16", "int32", "bool"]
    x, y = rng.choice(kinds), rng.choice([*kinds, "int64"])
    b.add("CAST", [T([33], x)], [T([33], y)])


KINDS: list[Callable[[Batch, Any], None]] = [add_matmul, add_transpose_conv, add_requantize, add_cast]


@given(seeds, st.booleans())
@some
def test_products_and_types(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    """Two random cases of each operator."""
    batch = Batch()
    for add in KINDS * 2:
        add(batch, rng)
    batch.check(tmp_path, rng, sanitize=sanitize)


@given(seeds)
@some
def test_floats_at_the_border(tmp_path: Path, rng: Any) -> None:
    """QUANTIZE first, DEQUANTIZE last; halves, infinities and huge values among the inputs."""
    tensors, nodes = [], []
    for dtype in ("int8", "uint8", "int16"):
        inner = quantized(rng, [261], dtype if dtype != "uint8" else "int16")
        inner = T([261], dtype, inner.scale, int(rng.integers(0, 256)) if dtype == "uint8" else inner.zero)
        at = len(tensors)
        tensors += [T([261], "float32"), inner, T([261], "float32")]
        nodes += [Node("QUANTIZE", [at], [at + 1]), Node("DEQUANTIZE", [at + 1], [at + 2], version=2)]
    path = write(tmp_path / "m.tflite", tensors, nodes, [0, 3, 6], [2, 5, 8])
    steps = [np.float32(t.scale) for t in tensors[1::3]]
    feed = [np.concatenate([rng.normal(0, 100, 133), np.arange(-64, 64) + 0.5]).astype(np.float32) * s for s in steps]
    made = check(path, tmp_path / "c", [feed])
    beyond = [np.full(261, v, np.float32) for v in (np.inf, -np.inf, 3e38)]
    found = made.run([beyond])[0]
    for out, t, most in zip(found, tensors[1::3], (127, 0, 32767), strict=True):
        np.testing.assert_allclose(
            out, np.float32(t.scale) * np.float32(most - t.zero), rtol=1e-6
        )  # the limit, not more


@pytest.mark.parametrize(
    ("kind", "inputs", "y", "options", "reason"),
    [
        ("BATCH_MATMUL", [T([2, 3], scale=0.1), T([4, 2], scale=0.1)], T([2, 2], scale=0.1), {}, "do not fit"),
        ("BATCH_MATMUL", [T([2, 3], scale=0.1), T([3, 2], scale=0.1)], T([2, 3], scale=0.1), {}, "its output"),
        ("BATCH_MATMUL", [T([2, 3], scale=10.0), T([3, 2], scale=10.0)], T([2, 2], scale=0.1), {}, "too small"),
        ("BATCH_MATMUL", [T([2, 3], scale=0.1), T([3, 2], "int16", 0.1)], T([2, 2], scale=0.1), {}, "int16"),
        ("QUANTIZE", [T([4], scale=0.1)], T([4], "int16", 0.1), {}, "from int8 to int16"),
        ("QUANTIZE", [T([4], scale=0.1)], T([5], scale=0.1), {}, "do not fit"),
        ("DEQUANTIZE", [T([4], scale=0.1)], T([4], "int32"), {}, "to int32"),
        ("CAST", [T([4], "int32")], T([4], "float32"), {}, "float32"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, kind: str, inputs: list[T], y: T, options: dict[str, Any], reason: str
) -> None:
    node = Node(kind, list(range(len(inputs))), [len(inputs)], options, "BatchMatMulOptions" if "MAT" in kind else "")
    path = write(tmp_path / "m.tflite", [*inputs, y], [node], list(range(len(inputs))), [len(inputs)])
    with pytest.raises(ConversionError, match=reason):
        program(read(path))


@pytest.mark.parametrize(
    ("change", "reason"), [("weights", "channels"), ("stride", "strides"), ("size", "its output does not fit")]
)
def test_transposed_convolutions_that_cannot_be(tmp_path: Path, change: str, reason: str) -> None:
    kernel = np.ones((3, 2, 2, 5 if change == "weights" else 4), np.int8)
    out = T([1, 8 if change == "size" else 6, 6, 3], scale=0.1)
    tensors = [ints(*out.shape), T(kernel.shape, scale=0.01, data=kernel), T([1, 3, 3, 4], scale=0.1), out]
    options = {"padding": 1, "strideH": 0 if change == "stride" else 2, "strideW": 2}
    path = write(
        tmp_path / "m.tflite",
        tensors,
        [Node("TRANSPOSE_CONV", [0, 1, 2], [3], options, "TransposeConvOptions")],
        [2],
        [3],
    )
    with pytest.raises(ConversionError, match=reason):
        program(read(path))
