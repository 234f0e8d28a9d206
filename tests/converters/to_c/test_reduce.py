"""Reductions, L2 normalization, ARG_MAX and resizing, against LiteRT: every bit."""

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
from .harness import Node, T, write


def image(rng: Any, dtype: str = "int8", high: int = 7) -> T:
    zero = int(rng.integers(-128, 128)) if dtype == "int8" else 0
    return T([int(d) for d in rng.integers(1, high, 4)], dtype, scale(rng), zero)


def near(rng: Any, x: T) -> T:
    """A tensor with a scale of about that of `x`."""
    zero = int(rng.integers(-128, 128)) if x.dtype == "int8" else 0
    return T(x.shape, x.dtype, float(np.float32(x.scale * rng.uniform(0.2, 2))), zero)


def reduced(x: T, axes: Any, keep: bool) -> list[int]:
    return [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]


def some_axes(rng: Any) -> list[int]:
    return [int(a) for a in rng.choice(4, int(rng.integers(1, 5)), replace=False)]


def add_mean(b: Batch, rng: Any) -> None:
    """Over height and width with axes kept (a kernel of its own), and over anything."""
    x = image(rng, "int8", 7)
    x = T([*x.shape[:3], int(rng.integers(1, 60))], x.dtype, x.scale, x.zero)
    y = near(rng, x)
    b.add(
        "MEAN",
        [x, ints(1, 2)],
        [T([x.shape[0], 1, 1, x.shape[3]], y.dtype, y.scale, y.zero)],
        {"keepDims": True},
        "ReducerOptions",
    )
    x = image(rng, rng.choice(["int8", "int16"]), 9)
    y, axes, keep = near(rng, x), some_axes(rng), bool(rng.integers(0, 2))
    b.add(
        "MEAN",
        [x, ints(*axes)],
        [T(reduced(x, axes, keep), y.dtype, y.scale, y.zero)],
        {"keepDims": keep},
        "ReducerOptions",
    )


def add_sum(b: Batch, rng: Any) -> None:
    x = image(rng)
    y, axes, keep = near(rng, x), some_axes(rng), bool(rng.integers(0, 2))
    larger = float(np.float32(y.scale * rng.uniform(1, 30)))
    b.add(
        "SUM",
        [x, ints(*axes)],
        [T(reduced(x, axes, keep), y.dtype, larger, y.zero)],
        {"keepDims": keep},
        "ReducerOptions",
    )


def add_extreme(b: Batch, rng: Any) -> None:
    for kind in ("REDUCE_MAX", "REDUCE_MIN"):
        x = image(rng, rng.choice(["int8", "int16"]))
        axes, keep = some_axes(rng), bool(rng.integers(0, 2))
        b.add(
            kind,
            [x, ints(*axes)],
            [T(reduced(x, axes, keep), x.dtype, x.scale, x.zero)],
            {"keepDims": keep},
            "ReducerOptions",
            2,
        )


def add_place(b: Batch, rng: Any) -> None:
    for kind in ("ARG_MAX", "ARG_MIN"):
        x = image(rng)
        axis, wide = int(rng.integers(-4, 4)), bool(rng.integers(0, 2))
        out = T([d for i, d in enumerate(x.shape) if i != axis % 4], "int64" if wide else "int32")
        b.add(
            kind,
            [x, ints(axis, shape=[])],
            [out],
            {"outputType": 4 if wide else 2},
            f"{kind[0]}rg{kind[4:].title()}Options",
            2,
        )


def add_l2(b: Batch, rng: Any) -> None:
    x = T([2, int(rng.integers(1, 40))], "int8", scale(rng), int(rng.integers(-128, 128)))
    b.add("L2_NORMALIZATION", [x], [T(x.shape, "int8", 1 / 128, 0)], {}, "L2NormOptions", 2)


def add_resize(b: Batch, rng: Any) -> None:
    for kind in ("NEAREST_NEIGHBOR", "BILINEAR"):
        x = image(rng, rng.choice(["int8", "int16"]))
        size = [int(d) for d in rng.integers(1, 12, 2)]
        mode = int(rng.integers(0, 3))
        options = {"alignCorners": mode == 1, "halfPixelCenters": mode == 2}
        table = "ResizeBilinearOptions" if kind == "BILINEAR" else "ResizeNearestNeighborOptions"
        b.add(
            f"RESIZE_{kind}",
            [x, ints(*size)],
            [T([x.shape[0], *size, x.shape[3]], x.dtype, x.scale, x.zero)],
            options,
            table,
            3,
        )


KINDS: list[Callable[[Batch, Any], None]] = [add_mean, add_sum, add_extreme, add_place, add_l2, add_resize]


@given(seeds, st.booleans())
@some
def test_all_that_reduces_or_resizes(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    """Two random cases of each operator."""
    batch = Batch()
    for add in KINDS * 2:
        add(batch, rng)
    batch.check(tmp_path, rng, sanitize=sanitize)


@pytest.mark.parametrize(
    ("kind", "inputs", "y", "reason"),
    [
        ("MEAN", [T([2, 3], scale=0.1), ints(2)], T([2], scale=0.1), "axis 2"),
        ("MEAN", [T([2, 3], scale=0.1), ints(1)], T([3], scale=0.1), "its output"),
        ("MEAN", [T([2, 3], scale=0.1), T([1], "int32")], T([2], scale=0.1), "constant"),
        ("MEAN", [T([2, 3], scale=1e5), ints(1)], T([2], scale=1e-5), "differ|too large"),
        ("SUM", [T([2, 3], "int16", 0.1), ints(1)], T([2], "int16", 0.1), "int16"),
        ("REDUCE_MAX", [T([2, 3], scale=0.1), ints(1)], T([2], scale=0.2), "another scale"),
        ("REDUCE_MAX", [T([2, 3], scale=0.1), ints(1)], T([2, 3], scale=0.1), "its output"),
        ("L2_NORMALIZATION", [T([2, 3], scale=0.1)], T([2, 3], scale=0.1), "1/128"),
        ("ARG_MAX", [T([2, 3], scale=0.1), ints(5)], T([2], "int32"), "axis 5"),
        ("RESIZE_BILINEAR", [T([1, 2, 2, 1], scale=0.1), ints(3, 3)], T([1, 4, 3, 1], scale=0.1), "do not fit"),
        ("RESIZE_BILINEAR", [T([1, 2, 2, 1], scale=0.1), ints(3, 3)], T([1, 3, 3, 2], scale=0.1), "do not fit"),
        ("RESIZE_NEAREST_NEIGHBOR", [T([2, 2, 1], scale=0.1), ints(3, 3)], T([3, 3, 1], scale=0.1), "no images"),
    ],
)
def test_what_is_refused(tmp_path: Path, kind: str, inputs: list[T], y: T, reason: str) -> None:
    given = [i for i, t in enumerate(inputs) if t.data is None]
    node = Node(kind, list(range(len(inputs))), [len(inputs)])
    path = write(tmp_path / "m.tflite", [*inputs, y], [node], given, [len(inputs)])
    with pytest.raises(ConversionError, match=reason):
        program(read(path))
