"""Comparisons and choices, against LiteRT: every bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.converters.to_c.graph import read
from edgedl.converters.to_c.program import program
from edgedl.errors import ConversionError

from .batch import Batch, scale, seeds, some
from .harness import Node, T, write

RELATIONS = ["EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"]


def broadcast(rng: Any, count: int) -> tuple[list[list[int]], list[int]]:
    """Shapes of `count` operands, and what they are broadcast to."""
    shape = [int(d) for d in rng.integers(1, 5, int(rng.integers(1, 5)))]
    shapes = [[d if rng.random() < 0.7 else 1 for d in shape] for _ in range(count)]
    return shapes, [max(column) for column in zip(*shapes, strict=True)]


def add_comparison(b: Batch, rng: Any) -> None:
    for kind in RELATIONS:
        shapes, out = broadcast(rng, 2)
        dtype = str(rng.choice(["int8", "int16", "int32"]))
        first = scale(rng)
        scales = [first, first if rng.random() < 0.5 else scale(rng)]
        if dtype == "int32":
            b.add(kind, [T(s, "int32") for s in shapes], [T(out, "bool")])
        else:
            zeros = rng.integers(-128, 128, 2) if dtype == "int8" else [0, 0]
            b.add(
                kind,
                [T(s, dtype, k, int(z)) for s, k, z in zip(shapes, scales, zeros, strict=True)],
                [T(out, "bool")],
                version=2,
            )


def add_choice(b: Batch, rng: Any) -> None:
    shapes, out = broadcast(rng, 3)
    dtype = str(rng.choice(["int8", "int16", "int32"]))
    numbers = {} if dtype == "int32" else {"scale": scale(rng), "zero": 0}
    b.add(
        "SELECT_V2", [T(shapes[0], "bool"), *(T(s, dtype, **numbers) for s in shapes[1:])], [T(out, dtype, **numbers)]
    )
    b.add("SELECT", [T(out, "bool"), T(out, dtype, **numbers), T(out, dtype, **numbers)], [T(out, dtype, **numbers)])


KINDS: list[Callable[[Batch, Any], None]] = [add_comparison, add_choice]


@given(seeds, st.booleans())
@some
def test_comparisons_and_choices(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    batch = Batch()
    for add in KINDS * 2:
        add(batch, rng)
    batch.check(tmp_path, rng, sanitize=sanitize)


@pytest.mark.parametrize(
    ("kind", "inputs", "y", "reason"),
    [
        ("EQUAL", [T([2, 3], scale=0.1), T([2], scale=0.1)], T([2, 3], "bool"), "broadcast"),
        ("EQUAL", [T([2, 3], scale=0.1), T([2, 3], "int16", 0.1)], T([2, 3], "bool"), "compares int8 with int16"),
        ("LESS", [T([2, 3], scale=0.1), T([2, 3], scale=1e9)], T([2, 3], "bool"), "too large"),
        ("SELECT_V2", [T([2], "bool"), T([2], scale=0.1), T([2], scale=0.2)], T([2], scale=0.1), "another scale"),
        ("SELECT", [T([1], "bool"), T([2], scale=0.1), T([2], scale=0.1)], T([2], scale=0.1), "shapes differ"),
    ],
)
def test_what_is_refused(tmp_path: Path, kind: str, inputs: list[T], y: T, reason: str) -> None:
    node = Node(kind, list(range(len(inputs))), [len(inputs)])
    path = write(tmp_path / "m.tflite", [*inputs, y], [node], list(range(len(inputs))), [len(inputs)])
    with pytest.raises(ConversionError, match=reason):
        program(read(path))
