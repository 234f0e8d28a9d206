"""SVDF and LSTM over several runs, whose state is kept, against LiteRT: every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.converters.to_c.graph import read
from edgedl.converters.to_c.program import program
from edgedl.errors import ConversionError

from .batch import scale, seeds, some
from .harness import Firmware, Node, T, reference, write

RUNS = 6


def constant(rng: Any, shape: list[int], spread: float = 0.02, dtype: str = "int8") -> T:
    """Random weights of about this size, in int8 or int16 with scale; int32 biases without."""
    if dtype == "int32":
        return T(shape, "int32", data=rng.integers(-2000, 2000, shape).astype(np.int32))
    most = 127 if dtype == "int8" else 600
    return T(
        shape,
        dtype,
        float(np.float32(spread * rng.uniform(0.5, 2))),
        data=rng.integers(-most, most + 1, shape).astype(dtype),
    )


def svdf(path: Path, rng: Any) -> tuple[Path, list[int]]:
    batch, inputs, units, rank, memory = (int(d) for d in rng.integers(1, [3, 12, 9, 4, 10]))
    filters = units * rank
    x = T([batch, inputs], scale=scale(rng, -2, -1), zero=int(rng.integers(-128, 128)))
    y = T([batch, units], scale=scale(rng, -2, -0.5), zero=int(rng.integers(-128, 128)))
    bias = [T([units], "int32", data=rng.integers(-20000, 20000, units).astype(np.int32))] if rng.random() < 0.7 else []
    state = T(
        [batch, filters * memory], "int16", float(np.float32(x.scale * rng.uniform(0.01, 0.05))), 0, variable=True
    )
    tensors = [x, constant(rng, [filters, inputs]), constant(rng, [filters, memory], 0.001, "int16"), state, y, *bias]
    node = Node(
        "SVDF", [0, 1, 2, 5 if bias else -1, 3], [4], {"rank": rank, "fusedActivationFunction": 1}, "SVDFOptions", 3
    )
    return write(path, tensors, [node], [0], [4]), list(x.shape)


def lstm(path: Path, rng: Any, change: str = "") -> tuple[Path, list[int]]:
    batch, steps, inputs, cells = (int(d) for d in rng.integers(1, [3, 6, 24, 24]))
    major = bool(rng.integers(0, 2))
    shape = [steps, batch] if major else [batch, steps]
    x = T([*shape, inputs], scale=scale(rng, -2, -1), zero=int(rng.integers(-128, 128)))
    out = T([*shape, cells], scale=1 / 128, zero=int(rng.integers(-40, 40)))
    weights = [constant(rng, [cells, inputs]) for _ in range(4)] + [constant(rng, [cells, cells]) for _ in range(4)]
    biases = [constant(rng, [cells], dtype="int32") for _ in range(4)]
    bits = 10 if change == "cell" else int(rng.integers(11, 16))
    states = [
        T([batch, cells], "int8", out.scale, out.zero, variable=change != "state"),
        T([batch, cells], "int16", 2.0**-bits, 0, variable=True),
    ]
    between = [T([], "int16", 2.0**-12)] * 4 + [T([], "int8", out.scale, out.zero)]
    tensors = [x, *weights, *biases, *states, *between, out]
    places = [0, *range(1, 9), -1, -1, -1, *range(9, 13), -1, -1, 13, 14, -1, -1, -1, -1]
    if change == "peephole":
        places[9] = 9
    options = {
        "fusedActivationFunction": 4, "cellClip": float(rng.choice([0.0, 10.0, 0.3])), "timeMajor": major,
        "projClip": 1.0 if change == "clip" else 0.0,
    }  # fmt: skip
    node = Node(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        places,
        [20],
        options,
        "UnidirectionalSequenceLSTMOptions",
        3,
        [15, 16, 17, 18, 19],
    )
    ends = [0, 13] if change == "state" else [0]
    return write(path, tensors, [node], ends, [20]), list(x.shape)


@pytest.mark.parametrize("make", [svdf, lstm])
@given(seeds, st.booleans())
@some
def test_state_is_kept_from_run_to_run(make: Any, tmp_path: Path, rng: Any, sanitize: bool) -> None:
    path, shape = make(tmp_path / "m.tflite", rng)
    feeds = [[rng.integers(-128, 128, shape).astype(np.int8)] for _ in range(RUNS)]
    made = Firmware(path, tmp_path / "c", sanitize=sanitize)
    expected = reference(path, feeds)
    found = made.run(feeds[:1]) if sanitize else made.sequence(feeds)
    for a, b in zip(found, expected, strict=False):
        np.testing.assert_array_equal(a[0], b[0])
    if not sanitize:
        assert len({outputs[0].tobytes() for outputs in made.sequence([feeds[0]] * 4)}) > 1 or shape[-1] < 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [("cell", "cell has the scale"), ("peephole", "peepholes"), ("clip", "clips"), ("state", "keep its values")],
)
def test_what_is_refused(tmp_path: Path, change: str, reason: str) -> None:
    path, _ = lstm(tmp_path / "m.tflite", np.random.default_rng(0), change)
    with pytest.raises(ConversionError, match=reason):
        program(read(path))
