"""Operators that move values, against LiteRT: every bit, in place where the plan says so."""

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

from .batch import Batch, drawn, ints, scale, seeds, some
from .harness import Node, T, check, write


def like(x: T, shape: Any) -> T:
    """A tensor of another shape and the same type and scale."""
    return T([int(d) for d in shape], x.dtype, x.scale, x.zero)


def tensor(rng: Any, shape: Any) -> T:
    dtype = rng.choice(["int8", "int8", "int16", "int32"])
    if dtype == "int32":
        return T([int(d) for d in shape], "int32")
    return T([int(d) for d in shape], dtype, scale(rng), int(rng.integers(-128, 128)) if dtype == "int8" else 0)


def any_shape(rng: Any, low: int = 1, high: int = 5) -> list[int]:
    return [int(d) for d in rng.integers(1, 6, int(rng.integers(low, high)))]


def add_slice(b: Batch, rng: Any) -> None:
    x = tensor(rng, any_shape(rng))
    begin = [int(rng.integers(0, d)) for d in x.shape]
    size = [int(rng.integers(1, d - a + 1)) for d, a in zip(x.shape, begin, strict=True)]
    asked = [-1 if a + s == d and rng.random() < 0.5 else s for a, s, d in zip(begin, size, x.shape, strict=True)]
    b.add("SLICE", [x, ints(*begin), ints(*asked)], [like(x, size)])


def add_strided_slice(b: Batch, rng: Any) -> None:
    x = tensor(rng, any_shape(rng))
    rank = len(x.shape)
    while True:
        begin, end = rng.integers(-6, 7, rank), rng.integers(-6, 7, rank)
        step = rng.choice([-3, -2, -1, 1, 1, 2, 3], rank)
        masks = [int(rng.integers(0, 1 << rank)) for _ in range(2)]
        shrink = int(rng.integers(0, 1 << rank)) if rng.random() < 0.3 else 0
        shape = []
        for i, d in enumerate(x.shape):
            if shrink >> i & 1:
                step[i] = 1
                begin[i] = int(rng.integers(-d, d))
                masks[0] &= ~(1 << i)
                continue
            first = None if masks[0] >> i & 1 else int(begin[i])
            last = None if masks[1] >> i & 1 else int(end[i])
            shape.append(len(range(*slice(first, last, int(step[i])).indices(d))))
        if all(shape):
            break
    options = {"beginMask": masks[0], "endMask": masks[1], "shrinkAxisMask": shrink}
    b.add(
        "STRIDED_SLICE", [x, ints(*begin), ints(*end), ints(*step)], [like(x, shape)], options, "StridedSliceOptions", 4
    )


def add_transpose(b: Batch, rng: Any) -> None:
    x = tensor(rng, any_shape(rng, 2, 6))
    order = rng.permutation(len(x.shape))
    b.add("TRANSPOSE", [x, ints(*order)], [like(x, [x.shape[i] for i in order])])


def add_reverse(b: Batch, rng: Any) -> None:
    x = T(any_shape(rng), "int8", scale(rng))
    b.add("REVERSE_V2", [x, ints(int(rng.integers(0, len(x.shape))))], [like(x, x.shape)])


def add_tile(b: Batch, rng: Any) -> None:
    x = T(any_shape(rng), "int8", scale(rng))
    times = rng.integers(1, 4, len(x.shape))
    b.add("TILE", [x, ints(*times)], [like(x, np.array(x.shape) * times)])


def add_broadcast(b: Batch, rng: Any) -> None:
    shape = any_shape(rng, 2)
    x = T([d if rng.random() < 0.5 else 1 for d in shape], "int8", scale(rng))
    b.add("BROADCAST_TO", [x, ints(*shape)], [like(x, shape)], version=2)


def add_pad(b: Batch, rng: Any) -> None:
    x = T(any_shape(rng, 2, 5), rng.choice(["int8", "int16"]), scale(rng), 0)
    x = T(x.shape, x.dtype, x.scale, int(rng.integers(-128, 128)) if x.dtype == "int8" else 0)
    amounts = rng.integers(0, 3, (len(x.shape), 2))
    shape = np.array(x.shape) + amounts.sum(1)
    if rng.random() < 0.5 and x.dtype == "int8":
        value = T([1], x.dtype, x.scale, x.zero, data=rng.integers(-128, 128, 1, np.int8))
        b.add("PADV2", [x, ints(*amounts), value], [like(x, shape)])
    else:
        b.add("PAD", [x, ints(*amounts)], [like(x, shape)])


def add_mirror_pad(b: Batch, rng: Any) -> None:
    x = T([int(d) for d in rng.integers(2, 6, int(rng.integers(1, 5)))], "int8", scale(rng), 3)
    mode = int(rng.integers(0, 2))
    amounts = np.array([rng.integers(0, d + mode, 2) for d in x.shape])
    b.add(
        "MIRROR_PAD",
        [x, ints(*amounts)],
        [like(x, np.array(x.shape) + amounts.sum(1))],
        {"mode": mode},
        "MirrorPadOptions",
    )


def add_space_to_depth(b: Batch, rng: Any) -> None:
    n, h, w, c = (int(d) for d in rng.integers(1, 4, 4))
    size = int(rng.integers(1, 4))
    x = T([n, h * size, w * size, c], "int8", scale(rng), 5)
    b.add("SPACE_TO_DEPTH", [x], [like(x, [n, h, w, c * size * size])], {"blockSize": size}, "SpaceToDepthOptions")
    x = T([n, h, w, c * size * size], "int8", scale(rng), 5)
    b.add("DEPTH_TO_SPACE", [x], [like(x, [n, h * size, w * size, c])], {"blockSize": size}, "DepthToSpaceOptions")


def add_space_to_batch(b: Batch, rng: Any) -> None:
    n, h, w, c = (int(d) for d in rng.integers(1, 5, 4))
    block, edges = rng.integers(1, 4, 2), rng.integers(0, 3, (2, 2))
    size = np.maximum(block * [h, w] - edges.sum(1), 1)
    edges[:, 1] = block * -(-(size + edges.sum(1)) // block) - size - edges[:, 0]
    x = T([n, *(int(s) for s in size), c], "int8", scale(rng), int(rng.integers(-128, 128)))
    shape = [n * int(block.prod()), *((size + edges.sum(1)) // block), c]
    b.add("SPACE_TO_BATCH_ND", [x, ints(*block), ints(*edges)], [like(x, shape)])
    back = T([int(d) for d in shape], "int8", scale(rng), 4)
    b.add("BATCH_TO_SPACE_ND", [back, ints(*block), ints(*edges)], [like(back, x.shape)])


def add_concatenation(b: Batch, rng: Any) -> None:
    shape = any_shape(rng, 1, 5)
    along = int(rng.integers(0, len(shape)))
    first = tensor(rng, shape)
    parts = [
        like(first, [int(rng.integers(1, 5)) if i == along else d for i, d in enumerate(shape)])
        for _ in range(int(rng.integers(1, 5)))
    ]
    if len(parts) > 1:
        parts[0] = T(parts[0].shape, first.dtype, first.scale, first.zero, data=drawn(rng, parts[0]))
    total = sum(p.shape[along] for p in parts)
    axis = along - len(shape) if rng.random() < 0.5 else along
    out = like(first, [total if i == along else d for i, d in enumerate(shape)])
    b.add("CONCATENATION", parts, [out], {"axis": axis}, "ConcatenationOptions")


def add_pack(b: Batch, rng: Any) -> None:
    shape = any_shape(rng, 1, 4)
    count, along = int(rng.integers(1, 4)), int(rng.integers(0, len(shape) + 1))
    x = tensor(rng, shape)
    whole = [*shape[:along], count, *shape[along:]]
    b.add("PACK", [x] * count, [like(x, whole)], {"axis": along, "valuesCount": count}, "PackOptions")
    b.add("UNPACK", [like(x, whole)], [like(x, shape)] * count, {"axis": along, "num": count}, "UnpackOptions")


def add_split(b: Batch, rng: Any) -> None:
    shape = any_shape(rng)
    along, count = int(rng.integers(0, len(shape))), int(rng.integers(1, 4))
    x = tensor(rng, [d * count if i == along else d for i, d in enumerate(shape)])
    b.add("SPLIT", [ints(along, shape=[]), x], [like(x, shape)] * count, {"numSplits": count}, "SplitOptions")
    sizes = [int(s) for s in rng.integers(1, 4, count)]
    x = tensor(rng, [sum(sizes) if i == along else d for i, d in enumerate(shape)])
    outs = [like(x, [s if i == along else d for i, d in enumerate(shape)]) for s in sizes]
    b.add("SPLIT_V", [x, ints(*sizes), ints(along, shape=[])], outs, {"numSplits": count}, "SplitVOptions")


def add_gather(b: Batch, rng: Any) -> None:
    x = T(any_shape(rng, 1, 4), "int8", scale(rng), 1)
    along = int(rng.integers(0, len(x.shape)))
    chosen = rng.integers(0, x.shape[along], any_shape(rng, 1, 3)).astype(np.int32)
    shape = [*x.shape[:along], *chosen.shape, *x.shape[along + 1 :]]
    b.add("GATHER", [x, T(chosen.shape, "int32", data=chosen)], [like(x, shape)], {"axis": along}, "GatherOptions", 2)


KINDS: list[Callable[[Batch, Any], None]] = [
    add_slice, add_strided_slice, add_transpose, add_reverse, add_tile, add_broadcast, add_pad, add_mirror_pad,
    add_space_to_depth, add_space_to_batch, add_concatenation, add_pack, add_split, add_gather,
]  # fmt: skip


@given(seeds, st.booleans())
@some
def test_all_that_moves_values(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    """Two random cases of each operator."""
    batch = Batch()
    for add in KINDS * 2:
        add(batch, rng)
    batch.check(tmp_path, rng, sanitize=sanitize)


@given(seeds, st.booleans())
@some
def test_rows_by_computed_indices(tmp_path: Path, rng: Any, sanitize: bool) -> None:
    """GATHER along any axis, GATHER_ND, EMBEDDING_LOOKUP with indices that are inputs."""
    tensors: list[T] = []
    nodes, feed = [], []
    for _ in range(4):
        x = T(any_shape(rng, 2, 5), "int8", scale(rng), 1)
        along, at = int(rng.integers(0, len(x.shape))), len(tensors)
        shape = any_shape(rng, 1, 3)
        out = like(x, [*x.shape[:along], *shape, *x.shape[along + 1 :]])
        tensors += [x, T(shape, "int32"), out]
        nodes.append(Node("GATHER", [at, at + 1], [at + 2], {"axis": along}, "GatherOptions", 2))
        feed += [drawn(rng, x), rng.integers(0, x.shape[along], shape).astype(np.int32)]
        depth = int(rng.integers(1, len(x.shape) + 1))
        tensors += [x, T([3, depth], "int32"), like(x, [3, *x.shape[depth:]])]
        nodes.append(Node("GATHER_ND", [at + 3, at + 4], [at + 5], version=2))
        feed += [drawn(rng, x), np.stack([rng.integers(0, d, 3) for d in x.shape[:depth]], -1).astype(np.int32)]
        table = T(x.shape, "int8", x.scale, 1, data=drawn(rng, x))
        tensors += [T([2], "int32"), table, like(x, [2, *x.shape[1:]])]
        nodes.append(Node("EMBEDDING_LOOKUP", [at + 6, at + 7], [at + 8], version=4))
        feed += [rng.integers(0, x.shape[0], 2).astype(np.int32)]
    inputs = [i for i in range(len(tensors)) if i % 3 != 2 and tensors[i].data is None]
    path = write(tmp_path / "m.tflite", tensors, nodes, inputs, list(range(2, len(tensors), 3)))
    made = check(path, tmp_path / "c", [feed], sanitize=sanitize)
    wild = [np.full_like(v, 100000) if v.dtype == np.int32 else v for v in feed]
    made.run(
        [wild, [-v if v.dtype == np.int32 else v for v in wild]]
    )  # LiteRT refuses these; here nothing outside is read


def test_slices_and_transposed_rows_lie_over_their_input(tmp_path: Path) -> None:
    """The arena of a slice is that of its input alone, and results are right though they overlap."""
    x = T([10, 40], scale=0.1)
    tensors = [x, ints(2, 5), ints(6, 30), T([6, 30], scale=0.1)]
    path = write(tmp_path / "m.tflite", tensors, [Node("SLICE", [0, 1, 2], [3])], [0], [3])
    values = np.arange(400).astype(np.int8).reshape(10, 40)
    assert check(path, tmp_path / "c", [[values]]).program.plan.total == 400


@pytest.mark.parametrize(
    ("kind", "inputs", "y", "reason"),
    [
        ("SLICE", [T([4, 4], scale=0.1), ints(0, 3), ints(4, 2)], [4, 2], "from 3 to 5 along an axis of 4"),
        ("SLICE", [T([4, 4], scale=0.1), ints(-1, 0), ints(4, 4)], [4, 4], "from -1"),
        ("SLICE", [T([4, 4], scale=0.1), ints(0, 0), ints(4, 3)], [4, 4], "its output"),
        ("SLICE", [T([4, 4], scale=0.1), T([2], "int32"), ints(4, 3)], [4, 3], "constant"),
        ("STRIDED_SLICE", [T([4], scale=0.1), ints(0), ints(4), ints(0)], [4], "stride is 0"),
        ("TRANSPOSE", [T([4, 3], scale=0.1), ints(0, 0)], [4, 4], "order of axes"),
        ("TRANSPOSE", [T([4, 3], scale=0.1), ints(0, 2)], [4, 3], "order of axes"),
        ("PAD", [T([4], scale=0.1), ints([-1, 1])], [4], "absurd"),
        ("PAD", [T([4], scale=0.1), ints([0, 1 << 30])], [4], "absurd"),
        ("TILE", [T([4], scale=0.1), ints(0)], [4], "repeated"),
        ("MIRROR_PAD", [T([2], scale=0.1), ints([5, 0])], [7], "mirrors more"),
        ("CONCATENATION", [T([2], scale=0.1), T([2], scale=0.2)], [4], "another scale"),
        ("CONCATENATION", [T([2], scale=0.1), T([2], scale=0.1)], [5], "do not fit"),
        ("GATHER", [T([4], scale=0.1), ints(0, 4)], [2], "outside"),
        ("SPLIT", [ints(3, shape=[]), T([4], scale=0.1)], [4], "axis 3"),
        ("DEPTH_TO_SPACE", [T([1, 2, 2, 3], scale=0.1)], [1, 2, 2, 3], "blocks"),
        ("SPACE_TO_BATCH_ND", [T([1, 3, 3, 1], scale=0.1), ints(2, 2), ints([0, 0], [0, 0])], [4, 1, 1, 1], "divided"),
        ("BROADCAST_TO", [T([2], scale=0.1), ints(3)], [3], "do not fit"),
    ],
)
def test_what_is_refused(tmp_path: Path, kind: str, inputs: list[T], y: list[int], reason: str) -> None:
    given = [i for i, t in enumerate(inputs) if t.data is None]
    tensors = [*inputs, T(y, scale=0.1)]
    node = Node(kind, list(range(len(inputs))), [len(inputs)])
    with pytest.raises(ConversionError, match=reason):
        program(read(write(tmp_path / "m.tflite", tensors, [node], given, [len(inputs)])))


def test_a_map_that_is_too_irregular_is_refused(tmp_path: Path) -> None:
    chosen = np.random.default_rng(0).integers(0, 100, 20000).astype(np.int32)
    tensors = [T([100], scale=0.1), T([20000], "int32", data=chosen), T([20000], scale=0.1)]
    path = write(tmp_path / "m.tflite", tensors, [Node("GATHER", [0, 1], [2], {"axis": 0}, "GatherOptions")], [0], [2])
    with pytest.raises(ConversionError, match="irregular"):
        program(read(path))
