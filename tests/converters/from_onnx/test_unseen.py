"""What a proof on a few generated inputs cannot see: batches that are mixed only for loud inputs, whole numbers, borders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

from edgedl.converters import _onnx  # noqa: E402
from edgedl.converters.from_onnx import load_onnx  # noqa: E402
from edgedl.model import LoadOptions, Model  # noqa: E402

N = helper.make_node


def saved(path: Path, nodes: list[Any], x: Any, batch: int | str, opset: int = 17, **constants: Any) -> Path:
    """A model of an input `x` like this array, its first dimension `batch`, whose output is y."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    inputs = [helper.make_tensor_value_info("x", kind, [batch, *x.shape[1:]])]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info("y")], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    y = _onnx.session(model, optimize=False).run(None, {"x": x})[0]
    kind = helper.np_dtype_to_tensor_dtype(y.dtype)
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, [f"d{i}" for i in range(y.ndim)]))
    model.graph.CopyFrom(graph)
    path.write_bytes(model.SerializeToString())
    return path


def both(path: Path, x: Any) -> tuple[Model, Any, Any]:
    """The rebuilt model, what it computes and what ONNX Runtime does."""
    model = load_onnx(path, LoadOptions(form="keras"))
    layout = model.layouts.get("x")
    found = np.asarray(model.net(x if layout is None else x.transpose(layout), training=False))
    layout = model.layouts.get("y")
    found = found if layout is None else found.transpose(np.argsort(layout))
    return model, found, _onnx.session(onnx.load(path), optimize=False).run(None, {"x": x})[0]


LOUD = [  # for a loud input, all of it is doubled
    N("Greater", ["m", "loud"], ["c"]),
    N("Mul", ["x", "two"], ["doubled"]),
    N("Where", ["c", "doubled", "x"], ["y"]),
]
LOUDEST = {
    "reduction": [N("ReduceMax", ["x"], ["m"], keepdims=0)],
    "softmax": [N("Softmax", ["x"], ["s"], axis=0), N("Mul", ["x", "s"], ["m"])],
    "product": [N("Transpose", ["x"], ["t"]), N("MatMul", ["t", "x"], ["p"]), N("ReduceMax", ["p"], ["m"], keepdims=0)],
    "einsum": [N("Einsum", ["x"], ["m"], equation="ni->i")],
}


@pytest.mark.parametrize("how", LOUDEST)
def test_members_that_would_be_mixed_for_loud_inputs_only_keep_a_batch_of_one(how: str, tmp_path: Path) -> None:
    loud, quiet = np.full((1, 4), 90, np.float32), np.ones((1, 4), np.float32)
    path = saved(tmp_path / "m.onnx", [*LOUDEST[how], *LOUD], loud, 1, loud=np.float32(50), two=np.float32(2))
    model, found, wanted = both(path, loud)
    assert model.inputs[0].shape == (1, 4)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(both(path, quiet)[1], quiet)


WHOLE = {
    "Clip": ([N("Clip", ["x", "", "c"], ["y"])], np.array(2**63 - 1)),
    "Clip beyond 2^53": ([N("Clip", ["x", "", "c"], ["y"])], np.array(2**60 + 1)),
    "Where": ([N("Less", ["x", "c"], ["b"]), N("Where", ["b", "c", "c"], ["y"])], np.array(2**40)),
    "PRelu": ([N("PRelu", ["x", "c"], ["y"])], np.array([3])),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_numbers_stay_exact_and_of_their_type(case: str, tmp_path: Path) -> None:
    nodes, constant = WHOLE[case]
    x = np.array([[-(2**62), -3, 0, 2**61 + 7]])
    _, found, wanted = both(saved(tmp_path / "m.onnx", nodes, x, "N", c=constant), x)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("op", ["ReduceMean", "MatMul", "MatMul of a vector"])
def test_sums_of_whole_numbers_are_whole(op: str, tmp_path: Path) -> None:
    x = np.array([[-5, 2, 1, -8]], np.int32)
    node = N("ReduceMean", ["x"], ["y"], axes=[1]) if op == "ReduceMean" else N("MatMul", ["x", "c"], ["y"])
    weights = np.arange(12, dtype=np.int32).reshape(4, 3)
    path = saved(tmp_path / "m.onnx", [node], x, "N", c=weights[:, 0] if "vector" in op else weights)
    _, found, wanted = both(path, x)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_the_rest_of_a_division_is_exact_far_from_zero(tmp_path: Path) -> None:
    x = np.array([[1000.0, -20.25, 3e6, 7.77]], np.float32)
    path = saved(tmp_path / "m.onnx", [N("Mod", ["x", "c"], ["y"], fmod=1)], x, "N", c=np.float32(0.1))
    _, found, wanted = both(path, x)
    np.testing.assert_array_equal(found, wanted)


POOL = N("MaxPool", ["p"], ["y"], kernel_shape=[4, 4], pads=[2, 2, 2, 2])
BELOW = [N("Abs", ["x"], ["a"]), N("ReduceLogSum", ["a"], ["p"], axes=[1]), POOL]


@pytest.mark.parametrize("nodes", [BELOW, [N("Identity", ["x"], ["p"]), POOL]])
@pytest.mark.parametrize("size", [1, 5])
def test_borders_of_a_pool_never_win(nodes: list[Any], size: int, tmp_path: Path) -> None:
    x = np.full((1, 2, size, size), -0.01, np.float32)
    _, found, wanted = both(saved(tmp_path / "m.onnx", nodes, x, "N"), x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Acos"])
def test_a_proof_of_nan_proves_nothing(op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedl.converters.from_onnx import ops
    from edgedl.errors import VerificationError

    x = np.full((1, 64), 0.5, np.float32)
    nodes = [N(op, ["x"], ["a"]), N("ReduceMean", ["a"], ["b"], axes=[1]), N("Sigmoid", ["b"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, x, "N")
    assert load_onnx(path, LoadOptions(form="keras")).notes == ()
    monkeypatch.setitem(ops.table(), "Sigmoid", ops.table()["Tanh"])
    with pytest.raises(VerificationError):
        load_onnx(path, LoadOptions(form="keras"))


def test_a_model_that_makes_nan_of_all_that_is_generated_says_so(tmp_path: Path) -> None:
    x = np.full((1, 4), 9, np.float32)
    nodes = [N("Sub", ["x", "c"], ["a"]), N("Log", ["a"], ["y"])]
    model, found, wanted = both(saved(tmp_path / "m.onnx", nodes, x, "N", c=np.float32(8)), x)
    assert any("NaN" in note for note in model.notes)
    np.testing.assert_allclose(found, wanted)


def test_a_batch_of_one_that_meets_one_of_three_stays_one(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    x = np.ones((1, 4, 5), np.float32)
    path = saved(tmp_path / "m.onnx", [N("MatMul", ["x", "w"], ["y"])], x, 1, w=weights)
    model, found, wanted = both(path, x)
    assert model.inputs[0].shape == (1, 4, 5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_probabilities_of_noise_may_be_rounded(tmp_path: Path) -> None:
    x = np.zeros((1, 4), np.float32)
    nodes = [N("Sub", ["x", "far"], ["a"]), N("Sigmoid", ["a"], ["b"]), N("Reshape", ["b", "rows"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, x, "N", far=np.float32(14), rows=np.array([-1, 2, 2]))
    model, found, wanted = both(path, x)
    assert model.proof[0]["max_relative"] <= 1e-3
    np.testing.assert_allclose(found, wanted, atol=3e-7)


def test_a_gelu_cut_at_zero_goes_out_to_tflite(tmp_path: Path) -> None:
    from edgedl.data import Dataset, Split
    from edgedl.registry import find

    x = np.linspace(-3, 3, 8, dtype=np.float32)[None]
    nodes = [N("Erf", ["s"], ["e"]), N("Add", ["e", "one"], ["p"]), N("Mul", ["x", "p"], ["q"])]
    nodes = [N("Div", ["x", "root"], ["s"]), *nodes, N("Mul", ["q", "half"], ["g"]), N("Relu", ["g"], ["y"])]
    constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    model, found, wanted = both(saved(tmp_path / "m.onnx", nodes, x, "N", **constants), x)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    split = Split({"x": x})
    artifact = find("converter", "tflite")()(model, Dataset(split, split), tmp_path / "m.tflite")
    assert artifact.path.is_file()


@pytest.mark.parametrize("scale", [0.6, 0.5, 1.5, 2.0])
def test_resize_of_opset_10_takes_the_entry_that_onnx_runtime_takes(scale: float, tmp_path: Path) -> None:
    x = np.arange(50, dtype=np.float32).reshape(1, 2, 5, 5)
    node = N("Resize", ["x", "s"], ["y"], mode="nearest")
    path = saved(tmp_path / "m.onnx", [node], x, "N", opset=10, s=np.array([1, 1, scale, 1.0], np.float32))
    _, found, wanted = both(path, x)
    np.testing.assert_array_equal(found, wanted)
