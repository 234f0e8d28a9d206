"""Passes over the graph: each alone keeps every output, and does what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.converters.to_c import passes
from edgedl.converters.to_c.graph import read
from edgedl.converters.to_c.program import program
from edgedl.errors import ConversionError

from .batch import ints
from .harness import Firmware, Node, T, reference, write

CONV = {"padding": 1, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}


def image(channels: int = 4, size: int = 6, scale: float = 0.1, zero: int = 3) -> T:
    return T([1, size, size, channels], scale=scale, zero=zero)


def network(path: Path) -> Path:
    """Something for each pass: a PAD before a VALID convolution, an addition behind one, a branch that nobody reads, a
    shape computed from constants, and two branches of unequal hunger in the wrong order."""
    rng = np.random.default_rng(0)

    def kernel(out: int, size: int, depth: int) -> T:
        return T(
            [out, size, size, depth], scale=0.01, data=rng.integers(-127, 128, (out, size, size, depth)).astype(np.int8)
        )

    tensors = [
        image(), ints([0, 0], [1, 1], [1, 1], [0, 0]), image(4, 8), kernel(4, 3, 4),  # 0..3
        T([4], "int32", 0.001, data=np.arange(4, dtype=np.int32)), image(4, 6, 0.2), image(4, 6, 0.25),  # 4..6
        image(4, 6, 0.3),  # 7: nobody reads it
        kernel(16, 1, 4), T([16], "int32", 0.001, data=np.arange(16, dtype=np.int32)), image(16, 6, 0.2), kernel(4, 1, 16),
        image(4, 6, 0.21), image(4, 6, 0.37),  # 10: wide, 12: narrow again, 13: the end
        ints(1, shape=[]), ints(144, shape=[]), T([2], "int32"), T([1, 144], scale=0.37, zero=3),  # 14..17
    ]  # fmt: skip
    nodes = [
        Node("PAD", [0, 1], [2]),
        Node("CONV_2D", [2, 3, 4], [5], CONV, "Conv2DOptions"),
        Node("ADD", [0, 5], [6], {}, "AddOptions", 2),
        Node("RELU", [6], [7]),
        Node("CONV_2D", [6, 8, 9], [10], CONV, "Conv2DOptions"),
        Node("CONV_2D", [10, 11, 4], [12], CONV, "Conv2DOptions"),
        Node("ADD", [12, 6], [13], {}, "AddOptions", 2),
        Node("PACK", [14, 15], [16], {"valuesCount": 2, "axis": 0}, "PackOptions"),
        Node("RESHAPE", [13, 16], [17]),
    ]
    return write(path, tensors, nodes, [0], [17])


def run(path: Path, folder: Path, feeds: list[list[Any]], which: tuple[passes.Pass, ...]) -> tuple[Firmware, list[Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "PASSES", which)
        made = Firmware(path, folder)
    return made, [outputs[0] for outputs in made.run(feeds)]


def test_each_pass_alone_and_all_together_keep_the_outputs(tmp_path: Path) -> None:
    path = network(tmp_path / "m.tflite")
    rng = np.random.default_rng(1)
    feeds = [[rng.integers(-128, 128, (1, 6, 6, 4)).astype(np.int8)] for _ in range(5)]
    expected = [outputs[0] for outputs in reference(path, feeds)]
    needed = (passes.fold_constants,)  # without it the shape would be computed in C, which knows no reshape by one
    done = {
        "none": run(path, tmp_path / "none", feeds, needed),
        "all": run(path, tmp_path / "all", feeds, passes.PASSES),
    }
    for step in passes.PASSES:
        if step is not passes.fold_constants:
            done[step.__name__] = run(path, tmp_path / step.__name__, feeds, (*needed, step))
    for name, (_, found) in done.items():
        np.testing.assert_array_equal(found, expected, name)
    kinds = {name: [s.op.kind for s in made.program.steps] for name, (made, _) in done.items()}
    assert kinds["none"] == ["PAD", "CONV_2D", "ADD", "RELU", "CONV_2D", "CONV_2D", "ADD"]
    assert "RELU" not in kinds["drop_unused"]
    assert "PAD" not in kinds["fold_pads"]
    assert kinds["fuse_additions"].count("ADD") == 0
    totals = {name: made.program.plan.total for name, (made, _) in done.items()}
    assert totals["drop_unused"] <= totals["none"]
    assert totals["least_memory"] <= totals["none"]


def branches(path: Path) -> Path:
    """Two small results that an order of the file's keeps alive while a large tensor comes and goes."""
    large, small = T([1, 1000], scale=0.1), T([1, 10], scale=0.1)
    times, begin, size = ints(1, 100), ints(0, 0), ints(1, 10)
    tensors = [small, times, large, large, begin, size, small, small, large, small, small]
    nodes = [
        Node("TILE", [0, 1], [2]), Node("TILE", [0, 1], [8]), Node("SLICE", [2, 4, 5], [6]), Node("SLICE", [8, 4, 5], [9]),
        Node("CONCATENATION", [6, 9], [10], {"axis": 0}, "ConcatenationOptions", 2),
    ]  # fmt: skip
    tensors[10] = T([2, 10], scale=0.1)
    return write(path, tensors, nodes, [0], [10])


def test_the_order_of_least_memory(tmp_path: Path) -> None:
    path = branches(tmp_path / "m.tflite")
    graph = read(path)
    better = passes.least_memory(graph)
    assert [op.kind for op in better.ops] == ["TILE", "SLICE", "TILE", "SLICE", "CONCATENATION"]
    feeds = [[np.arange(10, dtype=np.int8).reshape(1, 10)]]
    made = Firmware(path, tmp_path / "c")
    np.testing.assert_array_equal(made.run(feeds)[0][0], reference(path, feeds)[0][0])
    assert made.program.plan.total < 1100


def test_shapes_are_constants(tmp_path: Path) -> None:
    """SHAPE, STRIDED_SLICE of it and PACK, as exporters write a Flatten, leave only the reshape."""
    x = T([1, 4, 5], scale=0.1)
    tensors = [
        x,
        T([3], "int32"),
        ints(0),
        ints(1),
        ints(1),
        T([], "int32"),
        ints(20, shape=[]),
        T([2], "int32"),
        T([1, 20], scale=0.1),
    ]
    nodes = [
        Node("SHAPE", [0], [1], {"outType": 2}, "ShapeOptions"),
        Node("STRIDED_SLICE", [1, 2, 3, 4], [5], {"shrinkAxisMask": 1}, "StridedSliceOptions"),
        Node("PACK", [5, 6], [7], {"valuesCount": 2}, "PackOptions"),
        Node("RESHAPE", [0, 7], [8]),
    ]
    made = program(read(write(tmp_path / "m.tflite", tensors, nodes, [0], [8])))
    assert made.steps == ()
    assert [op.kind for op in made.graph.ops] == ["RESHAPE"]
    assert made.graph.ops[0].input(1).values.tolist() == [1, 20]


def test_a_constant_output_is_refused(tmp_path: Path) -> None:
    tensors = [T([1, 4], scale=0.1), T([4], scale=0.1, data=np.arange(4, dtype=np.int8)), T([2, 2], scale=0.1)]
    path = write(tmp_path / "m.tflite", tensors, [Node("RESHAPE", [1], [2])], [0], [2])
    with pytest.raises(ConversionError, match="constant"):
        program(read(path))
