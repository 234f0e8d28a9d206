"""Operators that index, sample or transform, with a batch of any size: held to ONNX Runtime at a batch of 3."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")
pytest.importorskip("onnxruntime")
pytest.importorskip("hypothesis")

from onnx import TensorProto, helper, numpy_helper


def _load() -> ModuleType:
    name = "edgedl_onnx_chains"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("test_hypothesis.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chains = _load()
RNG = np.random.default_rng(0)


def model(nodes: list[Any], inputs: dict[str, tuple[int, ...]], constants: dict[str, Any], opset: int = 18) -> Any:
    """A model whose inputs have the batch before these shapes, and whose output is y."""
    made = [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["N", *s]) for k, s in inputs.items()]
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    ends = [o for n in nodes for o in n.output if o.startswith("y")]
    out = [helper.make_empty_tensor_value_info(o) for o in ends]
    graph = helper.make_graph(nodes, "g", made, out, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def real(*shape: int) -> Any:
    """Random reals."""
    return RNG.normal(0, 1, shape).astype(np.float32)


N = helper.make_node
INDEX = [  # x as whole numbers from -4 to 3
    N("Mul", ["x", "half"], ["scaled"]),
    N("Clip", ["scaled", "low", "high"], ["clipped"]),
    N("Cast", ["clipped"], ["i"], to=TensorProto.INT64),
]
BOUNDS = {"half": np.float32(1.7), "low": np.float32(-4), "high": np.float32(3)}
EACH = [  # pairs (n, 1), (n, 3) for each member n of the batch
    N("Shape", ["x"], ["all"]),
    N("Gather", ["all", "zero"], ["count"], axis=0),
    N("Range", ["zero", "count", "one"], ["members"]),
    N("Reshape", ["members", "column"], ["rows"]),
    N("Concat", ["count_1", "tail"], ["target"], axis=0),
    N("Expand", ["rows", "target"], ["spread"]),
    N("Expand", ["picks", "target"], ["picked"]),
    N("Concat", ["spread", "picked"], ["where"], axis=2),
]
EACH.insert(2, N("Unsqueeze", ["count", "zeros"], ["count_1"]))
PAIRS = {
    "zero": np.int64(0), "one": np.int64(1), "zeros": np.array([0]), "column": np.array([-1, 1, 1]),
    "tail": np.array([2, 1]), "picks": np.array([[[1], [3]]]),
}  # fmt: skip
QKV = {"q": (4, 5, 8), "k": (2, 6, 8), "v": (2, 6, 3)}

CASES: dict[str, tuple[list[Any], dict[str, tuple[int, ...]], dict[str, Any], int]] = {
    "embedding": ([*INDEX, N("Gather", ["table", "i"], ["y"])], {"x": (5,)}, {**BOUNDS, "table": real(4, 6)}, 18),
    "gather a table of whole numbers": (
        [*INDEX, N("Gather", ["t", "i"], ["g"]), N("Cast", ["g"], ["y"], to=1)], {"x": (5,)},
        {**BOUNDS, "t": np.arange(4) * 3}, 18,
    ),
    "gather elements": (
        [*INDEX, N("GatherElements", ["z", "i"], ["y"], axis=1)], {"x": (5, 3), "z": (4, 3)}, BOUNDS, 18,
    ),
    "gather rows of every member": (
        [*EACH, N("GatherND", ["x", "where"], ["y"])], {"x": (4, 3)}, PAIRS, 18,
    ),
    "scatter into every member": (
        [*EACH, N("ScatterND", ["x", "where", "z"], ["y"])], {"x": (4, 3), "z": (2, 3)}, PAIRS, 18,
    ),
    "one hot": (
        [*INDEX, N("OneHot", ["i", "depth", "values"], ["y"], axis=1)], {"x": (3, 2)},
        {**BOUNDS, "depth": np.int64(4), "values": np.array([0.5, 2.0], np.float32)}, 18,
    ),
    "pooled with indices": (
        [
            N("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2], strides=[2, 2]), N("Relu", ["p"], ["r"]),
            N("MaxUnpool", ["r", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        {"x": (3, 6, 4)}, {}, 18,
    ),
    "sampled": ([N("GridSample", ["x", "g"], ["y"])], {"x": (3, 5, 6), "g": (4, 2, 2)}, {}, 16),
    "sampled by an affine map": (
        [N("AffineGrid", ["t", "size"], ["g"]), N("GridSample", ["x", "g"], ["y"], padding_mode="border")],
        {"x": (3, 5, 6), "t": (2, 3)}, {"size": np.array([3, 3, 4, 5])}, 20,
    ),
    "attention": (
        [N("Attention", ["q", "k", "v"], ["y"], is_causal=1)], QKV, {}, 23,
    ),
    "spectrum": ([N("DFT", ["x", "", "axis"], ["y"], onesided=1)], {"x": (10, 3, 1)}, {"axis": np.int64(1)}, 20),
    "short-time spectrum": (
        [N("STFT", ["x", "hop", "window"], ["y"])], {"x": (40, 1)},
        {"hop": np.int64(8), "window": np.hanning(16).astype(np.float32)}, 17,
    ),
    "columns to an image": (
        [N("Col2Im", ["x", "size", "block"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])], {"x": (18, 9)},
        {"size": np.array([5, 5]), "block": np.array([3, 3])}, 18,
    ),
    "a sum with one number for each member": (
        [N("ReduceMean", ["x", "last"], ["m"]), N("Add", ["x", "m"], ["y"])], {"x": (3, 3)},
        {"last": np.array([1, 2])}, 18,
    ),
    "a column that is as long as the channels": (
        [N("Add", ["x", "c"], ["y"])], {"x": (4, 6, 6)}, {"c": real(1, 6, 1)}, 18,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_operator_with_a_batch_of_any_size(name: str) -> None:
    why, gap = chains.compared(model(*CASES[name]))
    assert not why
    assert gap <= chains.BOUND
