"""Graphs that are damaged, hostile or open: each is one clear error, before anything is built."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgedl.converters.from_onnx import load_onnx  # noqa: E402
from edgedl.converters.from_onnx.graph import parse_shape  # noqa: E402
from edgedl.errors import EdgedlError, ModelError, UnsafeModelError, UsageError  # noqa: E402
from edgedl.model import LoadOptions, Model  # noqa: E402

KERAS = LoadOptions(form="keras")


def save(
    path: Path, nodes: list[Any], inputs: Any = None, outputs: Any = None, weights: Any = (), opset: int = 17
) -> Path:
    inputs = inputs or [("x", ["N", 4])]
    outputs = outputs or [("y", ["N", "M"])]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def rebuilt(path: Path, **options: Any) -> Model:
    return load_onnx(path, LoadOptions(form="keras", **options))


def test_a_plain_graph_is_rebuilt_and_proven(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    model = rebuilt(path)
    assert model.is_keras
    assert [s.shape for s in model.inputs] == [(None, 4)]
    assert model.proof
    assert all(e["max_relative"] <= 1e-6 for e in model.proof)


def test_a_circle_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    path = save(tmp_path / "m.onnx", [*nodes, helper.make_node("Relu", ["b"], ["y"])])
    with pytest.raises(ModelError):
        rebuilt(path)


def test_weights_whose_size_is_not_the_files_are_refused(tmp_path: Path) -> None:
    lying = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 1 << 20], raw_data=b"\0" * 64)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [helper.make_tensor_value_info("y", 1, ["N", "M"])],
        [lying],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx"):
        rebuilt(path)


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    folder = tmp_path / "model"
    folder.mkdir()
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, ["N", 4])], [helper.make_tensor_value_info("y", 1, ["N", "M"])], [tensor],
    )  # fmt: skip
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UnsafeModelError, match="outside its own folder"):
        rebuilt(path)


def test_all_unknown_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["a"], name="where"),
        helper.make_node("Wobble", ["x"], ["b"], name="mine", domain="com.example"),
        helper.make_node("Unique", ["x"], ["c"], name="once"),
        helper.make_node("Cast", ["a"], ["d"], to=1),
        helper.make_node("Sum", ["b", "c"], ["e"]),
        helper.make_node("Sum", ["d", "e"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes)
    text = path.read_bytes()
    model = onnx.load_model_from_string(text)
    model.opset_import.add(domain="com.example", version=1)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        rebuilt(path)
    for name in ("where", "mine", "once", "com.example::Wobble", "NonZero", "Unique"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("op", "inputs", "weights"),
    [
        ("ConstantOfShape", ["s"], [("s", np.array([1 << 30, 1 << 10]))]),
        ("Expand", ["w", "s"], [("w", np.ones(1, np.float32)), ("s", np.array([1 << 30, 1 << 10]))]),
        ("Tile", ["w", "s"], [("w", np.ones(1 << 10, np.float32)), ("s", np.array([1 << 30]))]),
        ("Range", ["a", "s", "d"], [("a", np.float32(0)), ("s", np.float32(1e30)), ("d", np.float32(1))]),
    ],
)
def test_a_constant_that_would_fill_the_memory_is_refused(
    tmp_path: Path, op: str, inputs: list[str], weights: Any
) -> None:
    nodes = [helper.make_node(op, inputs, ["c"], name="bomb"), helper.make_node("Add", ["x", "c"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, weights=[(n, np.asarray(v)) for n, v in weights])
    with pytest.raises(ModelError, match="bomb"):
        rebuilt(path)


def test_open_sizes_ask_for_the_option_that_fixes_them(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", ["N", "C", 8, "W"])],
        [("y", ["N", "C", 8, "W"])],
    )
    with pytest.raises(UsageError) as caught:
        rebuilt(path)
    assert "--input x=1x" in caught.value.next
    model = rebuilt(path, inputs={"x": "1x3x8x5"})
    assert [s.shape for s in model.inputs] == [(None, 3, 8, 5)]
    with pytest.raises(UsageError, match="otherwise"):
        rebuilt(path, inputs={"x": "1x3x9x5"})
    with pytest.raises(UsageError, match="did you mean 'x'"):
        rebuilt(path, inputs={"xx": "1x3x8x5"})


def test_a_batch_of_one_becomes_free_where_the_graph_allows_it(tmp_path: Path) -> None:
    weights = [("s", np.array([1, -1, 2]))]
    path = save(
        tmp_path / "free.onnx",
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [("x", [1, 6])],
        [("y", [1, 3, 2])],
        weights,
    )
    assert rebuilt(path).inputs[0].shape == (None, 6)
    mixed = [helper.make_node("Squeeze", ["x", "a"], ["q"]), helper.make_node("Softmax", ["q"], ["y"], axis=0)]
    path = save(tmp_path / "one.onnx", mixed, [("x", [1, 6])], [("y", [6])], [("a", np.array([0]))])
    assert rebuilt(path).inputs[0].shape == (1, 6)


def test_a_part_of_the_graph_between_named_tensors(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Abs", ["c"], ["y"], name="last"),
        helper.make_node("TopK", ["y", "k"], ["v", "i"], name="best"),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights=[("k", np.array([2]))])
    assert [s.name for s in rebuilt(path, start=("a",), end=("last",)).outputs] == ["y"]  # a node, as inspect names it
    with pytest.raises(UsageError, match="the node 'best' has several outputs"):
        rebuilt(path, end=("best",))
    model = rebuilt(path, start=("a",), end=("c",))
    assert [s.name for s in model.inputs] == ["a"]
    assert [s.name for s in model.outputs] == ["c"]
    np.testing.assert_allclose(np.asarray(model.net(np.array([[1.0, -2, 3, 0]], np.float32))), [[-1, 0, -3, 0]])
    with pytest.raises(UsageError, match="no tensor or node 'q'"):
        rebuilt(path, start=("q",))


def test_parts_of_files_and_noise_are_errors_of_ours(tmp_path: Path) -> None:
    good = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])]).read_bytes()
    rng = np.random.default_rng(0)
    for i in range(40):
        body = bytearray(good[: rng.integers(1, len(good))] if i % 2 else good)
        for _ in range(3):
            body[rng.integers(0, len(body))] = rng.integers(0, 256)
        path = tmp_path / f"bad{i}.onnx"
        path.write_bytes(bytes(body))
        with contextlib.suppress(EdgedlError):  # any other exception fails the test
            rebuilt(path)


@pytest.mark.parametrize(("text", "shape"), [("1x3x8x8", (1, 3, 8, 8)), ("?x16", (None, 16)), ("Nx4:int64", (None, 4))])
def test_shapes_are_read_as_they_are_written(text: str, shape: Any) -> None:
    assert parse_shape(text) == shape


def test_a_number_that_the_user_gives_is_a_constant(tmp_path: Path) -> None:
    rate = helper.make_tensor_value_info("rate", TensorProto.INT64, [])
    branch = [
        helper.make_graph(
            [helper.make_node("Mul", ["x", name], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N", 4])],
            [numpy_helper.from_array(np.float32(value), name)],
        )
        for name, value in (("two", 2), ("nine", 9))
    ]
    nodes = [
        helper.make_node("Equal", ["rate", "fast"], ["is_fast"]),
        helper.make_node("If", ["is_fast"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]), rate],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.int64(16000), "fast")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    x = np.ones((1, 4), np.float32)
    for value, times in (("16000", 2), ("8000", 9)):
        model = rebuilt(path, inputs={"rate": value})
        assert [s.name for s in model.inputs] == ["x"]
        np.testing.assert_array_equal(np.asarray(model.net(x)), x * times)
    with pytest.raises(UsageError, match="one number"):
        rebuilt(path, inputs={"rate": "1x3"})


def test_a_state_whose_batch_is_not_its_first_axis_is_freed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["h"], ["t"], perm=[1, 0, 2]),
        helper.make_node("ReduceSum", ["t", "a"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
        helper.make_node("Neg", ["h"], ["z"]),
    ]
    ends = [("y", [1, 4]), ("z", [2, 1, 4])]
    path = save(tmp_path / "m.onnx", nodes, [("x", [1, 4]), ("h", [2, 1, 4])], ends, [("a", np.array([1]))])
    model = rebuilt(path)
    assert [s.shape for s in model.inputs] == [(None, 4), (None, 2, 4)]
    assert [s.shape for s in model.outputs] == [(None, 4), (None, 2, 4)]
    assert model.layouts == {"h": (1, 0, 2), "z": (1, 0, 2)}


def test_weights_of_another_size_than_they_say_are_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx", [helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node("Erf", ["a"], ["y"])],
        weights=[("w", np.ones(4, np.float32))],
    )  # fmt: skip
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 1
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError):
        rebuilt(path)


def test_sizes_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], inputs=[("x", ["N", 2**33])])
    with pytest.raises(ModelError, match="entries"):
        rebuilt(path)
    scales = [("s", np.array([1, 1, 1, 1e9], np.float32))]
    path = save(
        tmp_path / "m.onnx", [helper.make_node("Resize", ["x", "", "s"], ["y"])], inputs=[("x", ["N", 1, 2, 2])],
        outputs=[("y", ["N", 1, 2, "W"])], weights=scales,
    )  # fmt: skip
    with pytest.raises(ModelError, match="a size of"):
        rebuilt(path)


def test_a_long_chain_of_names_is_followed(tmp_path: Path) -> None:
    chain = [helper.make_node("Identity", [f"w{i}"], [f"w{i + 1}"]) for i in range(2000)]
    nodes = [*chain, helper.make_node("Div", ["x", "w2000"], ["a"]), helper.make_node("Erf", ["a"], ["b"])]
    nodes += [helper.make_node("Add", ["b", "w2000"], ["c"]), helper.make_node("Mul", ["x", "c"], ["y"])]
    model = rebuilt(save(tmp_path / "m.onnx", nodes, weights=[("w0", np.array(1, np.float32))]))
    assert len(model.net.operations) < 10


@pytest.mark.parametrize("key", ["strides", "pads", "dilations"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MaxPool"])
def test_windows_that_would_overflow_are_refused(op: str, key: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {key: [2**62, 1] * (2 if key == "pads" else 1)}
    options |= {"kernel_shape": [3, 3]}
    inputs = ["x"] if op == "MaxPool" else ["x", "w"]
    path = save(
        tmp_path / "m.onnx", [helper.make_node(op, inputs, ["y"], **options)], inputs=[("x", ["N", 2, 8, 8])],
        outputs=[("y", ["N", 2, "H", "W"])], weights=[("w", np.ones((2, 2, 3, 3), np.float32))], opset=12,
    )  # fmt: skip
    with pytest.raises(ModelError):
        rebuilt(path)


def test_all_open_inputs_are_named_at_once_and_a_one_leaves_the_batch_open(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3]),
        helper.make_node("ReduceSum", ["h", "a"], ["s"], keepdims=0),
        helper.make_node("Unsqueeze", ["s", "b"], ["u"]),
        helper.make_node("Unsqueeze", ["u", "b"], ["v"]),
        helper.make_node("Add", ["m", "v"], ["y"]),
    ]
    inputs = [("x", ["n", 4, "rows", "columns"]), ("h", [2, "", "units"])]
    weights = [("a", np.array([0])), ("b", np.array([2]))]
    path = save(tmp_path / "m.onnx", nodes, inputs, [("y", ["n", 4, 1, 1])], weights)
    with pytest.raises(UsageError, match=r"'x' \(nx4xrowsxcolumns\), 'h' \(2x\?xunits\)") as caught:
        rebuilt(path)
    assert "--input x=1x4x224x224 --input h=" in caught.value.next
    model = rebuilt(path, inputs={"x": "1x4x3x3", "h": "2x?x4"})
    assert [s.shape for s in model.inputs] == [(None, 4, 3, 3), (None, 2, 4)]
    path = save(tmp_path / "n.onnx", nodes, [inputs[0], ("h", [2, "", 4])], [("y", ["n", 4, 1, 1])], weights)
    model = rebuilt(path, inputs={"x": "1x4x3x3", "h": "2x1x4"})
    assert [s.shape for s in model.inputs] == [(None, 4, 3, 3), (None, 2, 4)]
