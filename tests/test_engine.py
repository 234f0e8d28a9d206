"""The engine against the interpreters used by hand, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.artifact import Artifact, TensorSpec
from edgedl.engine import describe, open_engine, predict
from edgedl.errors import DataError, EdgedlError, ModelError, TargetError, UsageError

DATA = Path(__file__).parent / "data"
onnx = pytest.importorskip("onnx", reason="makes small .onnx files: pip install 'edgedl[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="the oracle: pip install 'edgedl[onnx]'")


ODD = {  # files of the assets that cannot pass the test below
    "person_detect.tflite",  # malformed: refused by LiteRT 2.3
    "standard_v3_3.onnx",  # normalizes over the batch: a sample's result depends on its neighbours (2e-3), in any runtime
}


def by_hand(path: Path, x: Any) -> Any:
    """LiteRT as its documentation shows it, one sample after the other, in the file's own dtypes."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    outputs = []
    for row in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.stack(outputs)


def save_onnx(path: Path, batch: Any = "n", *, extra: list[Any] | None = None) -> Path:
    """x [batch, 4] @ w -> y [batch, 3]; `extra` nodes go from y to z."""
    h, floats = onnx.helper, onnx.TensorProto.FLOAT
    w = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    nodes = [h.make_node("MatMul", ["x", "w"], ["y"]), *(extra or [])]
    out = h.make_tensor_value_info("z" if extra else "y", floats, [batch, 3])
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", floats, [batch, 4])],
        [out],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
    return path


def rng_array(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0, 1, shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("name", ["dense_float", "dense_int8", "tiny_float", "tiny_int8"])
@pytest.mark.parametrize("count", [1, 3])
def test_tflite_equals_the_interpreter(name: str, count: int) -> None:
    artifact = describe(DATA / f"{name}.tflite")
    (spec,) = artifact.inputs
    x = rng_array((count, *spec.shape[1:]), spec.dtype)
    with open_engine(artifact) as engine:
        got = engine.run({spec.name: x})[artifact.outputs[0].name]
    np.testing.assert_array_equal(got, by_hand(artifact.path, x))  # the same kernels: no tolerance


@pytest.mark.parametrize(("batch", "counts"), [("n", (1, 5)), (1, (1, 5)), (2, (2, 1, 5, 4))])
def test_onnx_equals_numpy_for_any_number_of_samples(tmp_path: Path, batch: Any, counts: tuple[int, ...]) -> None:
    artifact = describe(save_onnx(tmp_path / "m.onnx", batch))
    w = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    with open_engine(artifact) as engine:
        assert engine.batch == (None if batch == "n" else batch)
        for count in counts:
            x = rng_array((count, 4), "float32", count)
            np.testing.assert_allclose(engine.run({"x": x})["y"], x @ w, rtol=1e-5, atol=1e-6)


def test_describe_reads_names_shapes_and_quantization() -> None:
    artifact = describe(DATA / "dense_int8.tflite")
    detail = Interpreter(str(artifact.path)).get_input_details()[0]
    (spec,) = artifact.inputs
    assert (spec.name, spec.shape, spec.dtype, spec.inside) == ("features", (None, 4), "int8", detail["name"])
    assert (spec.scale, spec.zero_point) == detail["quantization"]
    assert artifact.metadata == {}


def test_several_inputs_go_by_name_whatever_their_order() -> None:
    artifact = describe(DATA / "two_float.tflite")
    assert {s.name for s in artifact.inputs} == {"a", "b"}
    turned = replace(artifact, inputs=artifact.inputs[::-1], outputs=artifact.outputs[::-1])
    inputs = {"a": rng_array((4, 3), "float32"), "b": rng_array((4, 2), "float32", 1)}
    with open_engine(artifact) as one, open_engine(turned) as two:
        first, second = one.run(inputs), two.run(dict(reversed(inputs.items())))
    assert list(first) == list(second)[::-1]
    for name in first:
        assert first[name].shape == (4, *next(s for s in artifact.outputs if s.name == name).shape[1:])
        np.testing.assert_array_equal(first[name], second[name])


def test_metadata_gives_other_names(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((DATA / "dense_int8.tflite").read_bytes())
    found = describe(path)
    renamed = [replace(s, name=n, tensor=s.inside) for s, n in ((found.inputs[0], "mine"), (found.outputs[0], "out"))]
    replace(found, inputs=(renamed[0],), outputs=(renamed[1],)).save()
    again = describe(path)
    assert (again.inputs[0].name, again.outputs[0].name) == ("mine", "out")
    x = rng_array((2, 4), "int8")
    np.testing.assert_array_equal(open_engine(again).run({"mine": x})["out"], by_hand(path, x))


def test_metadata_of_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((DATA / "dense_float.tflite").read_bytes())
    replace(describe(DATA / "dense_int8.tflite"), path=path).save()
    with pytest.raises(ModelError, match="is int8, and in the file it is float32"):
        open_engine(describe(path))
    wrong = replace(describe(DATA / "dense_float.tflite"), inputs=(TensorSpec("nobody", (None, 4), "float32"),))
    with pytest.raises(ModelError, match="nobody"):
        open_engine(wrong)


def test_state_lives_between_calls_but_not_between_samples() -> None:
    artifact = describe(DATA / "counter.tflite")
    one = np.ones((1, 2), np.float32)
    with open_engine(artifact) as engine:
        assert [float(engine.run({"x": one})["sum"][0, 0]) for _ in range(3)] == [1, 2, 3]
        engine.reset()
        assert float(engine.run({"x": one})["sum"][0, 0]) == 1
        together = engine.run({"x": np.repeat(one, 3, axis=0)})["sum"]
    np.testing.assert_array_equal(together[:, 0], [1, 1, 1])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.sampled_from(["dense_float", "dense_int8"]), st.integers(0, 99))
def test_predict_is_real_values_in_and_out(count: int, name: str, seed: int) -> None:
    artifact = describe(DATA / f"{name}.tflite")
    (spec,), (out,) = artifact.inputs, artifact.outputs
    x = rng_array((count, 4), "float32", seed)
    q = by_hand(artifact.path, spec.quantize(x))
    expected = out.dequantize(q)
    got = predict(artifact, {spec.name: x})[out.name]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


def test_predict_takes_integers_as_real_values() -> None:
    x = np.array([[0, 1, 1, 0], [1, 1, 0, 1]], np.int8)
    artifact = describe(DATA / "dense_int8.tflite")
    got, expected = (predict(artifact, {"features": a})["output_0"] for a in (x, x.astype(np.float32)))
    np.testing.assert_array_equal(got, expected)


def test_predict_of_int8_is_near_float() -> None:
    x = {"features": rng_array((50, 4), "float32")}
    real, quantized = (predict(describe(DATA / f"dense_{k}.tflite"), x)["output_0"] for k in ("float", "int8"))
    assert np.abs(real - quantized).max() < 0.05  # probabilities; 8 bits through two layers


def test_threads_and_reference_kernels_agree() -> None:
    artifact = describe(DATA / "tiny_float.tflite")
    x = {"image": rng_array((2, 8, 8, 1), "float32")}
    base = open_engine(artifact).run(x)["output_0"]
    for options in ({"threads": 2}, {"reference": True}):
        np.testing.assert_allclose(open_engine(artifact, **options).run(x)["output_0"], base, rtol=1e-5, atol=1e-6)


def test_timed_is_less_than_the_whole_call() -> None:
    import time

    with open_engine(describe(DATA / "tiny_float.tflite")) as engine:
        x = {"image": rng_array((20, 8, 8, 1), "float32")}
        start = time.perf_counter_ns()
        _, elapsed = engine.timed(x)
        assert 0 < elapsed < time.perf_counter_ns() - start


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "takes the inputs features, and was given none"),
        ({"feature": np.zeros((1, 4), np.float32)}, "was given feature"),
        ({"features": np.zeros((1, 5), np.float32)}, r"takes shape \[any, 4\], and was given \[1, 5\]"),
        ({"features": np.zeros(4, np.float32)}, r"was given \[4\]"),
        ({"features": np.zeros((1, 4), np.float64)}, "takes float32, and was given float64"),
        ({"features": np.zeros((0, 4), np.float32)}, "at least one"),
    ],
)
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_wrong_inputs_are_named(tmp_path: Path, kind: str, inputs: dict[str, Any], says: str) -> None:
    artifact = describe(DATA / "dense_float.tflite")
    if kind == "onnx":
        artifact = describe(save_onnx(tmp_path / "m.onnx"))
        says = says.replace("features", "x")
        inputs = {k.replace("features", "x"): v for k, v in inputs.items()}
    with open_engine(artifact) as engine, pytest.raises(DataError, match=says) as caught:
        engine.run(inputs)
    assert caught.value.next


def test_inputs_of_different_length_are_refused() -> None:
    with (
        open_engine(describe(DATA / "two_float.tflite")) as engine,
        pytest.raises(DataError, match="same number of samples"),
    ):
        engine.run({"a": np.zeros((2, 3), np.float32), "b": np.zeros((3, 2), np.float32)})


def test_first_axes_that_are_not_samples_are_taken_as_they_are(tmp_path: Path) -> None:
    h, floats = onnx.helper, onnx.TensorProto.FLOAT
    graph = h.make_graph(
        [h.make_node("MatMul", ["x", "table"], ["y"])],
        "g",
        [h.make_tensor_value_info("x", floats, ["n", 4]), h.make_tensor_value_info("table", floats, [4, 2])],
        [h.make_tensor_value_info("y", floats, ["n", 2])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
    table = rng_array((4, 2), "float32")
    with open_engine(describe(path)) as engine:
        for count in (1, 3):
            x = rng_array((count, 4), "float32", count)
            np.testing.assert_allclose(engine.run({"x": x, "table": table})["y"], x @ table, rtol=1e-5)
        long = {"x": rng_array((100, 4), "float32"), "table": table}
        np.testing.assert_allclose(predict(engine, long)["y"], long["x"] @ table, rtol=1e-5)
        with pytest.raises(DataError, match=r"table \[3, 2\]"):
            engine.run({"x": x, "table": table[:3]})


def test_a_closed_engine_says_so() -> None:
    engine = open_engine(describe(DATA / "dense_float.tflite"))
    engine.close()
    with pytest.raises(UsageError, match="was closed"):
        engine.run({"features": np.zeros((1, 4), np.float32)})


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("flex", TargetError, "TensorFlow operator Erf"),
        ("custom", TargetError, "custom operator Unknown"),
    ],
)
def test_operators_that_litert_lacks_are_named(name: str, error: type[EdgedlError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        describe(DATA / f"{name}.tflite")
    assert caught.value.next


def test_operators_that_onnx_runtime_lacks_are_named(tmp_path: Path) -> None:
    node = onnx.helper.make_node("NobodyKnows", ["y"], ["z"])
    with pytest.raises(TargetError, match="NobodyKnows"):
        describe(save_onnx(tmp_path / "m.onnx", extra=[node]))
    foreign = onnx.helper.make_node("Odd", ["y"], ["z"], domain="acme")
    with pytest.raises(EdgedlError, match="acme"):
        describe(save_onnx(tmp_path / "n.onnx", extra=[foreign]))


@pytest.mark.parametrize("keep", [0, 7, 100, 900, 1600])
def test_a_damaged_tflite_is_an_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((DATA / "dense_float.tflite").read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"m\.tflite") as caught:
        describe(path)
    assert caught.value.next


@pytest.mark.parametrize("keep", [1, 20, 60])
def test_a_damaged_onnx_is_an_error(tmp_path: Path, keep: int) -> None:
    whole = save_onnx(tmp_path / "w.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    path.write_bytes(whole[:keep])
    with pytest.raises(ModelError, match=r"m\.onnx"):
        describe(path)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("hello there")
    with pytest.raises(ModelError, match=r"neither a \.tflite nor an \.onnx"):
        describe(tmp_path / "m.txt")
    with pytest.raises(ModelError, match="no file"):
        describe(tmp_path / "none.tflite")


def test_a_missing_interpreter_names_the_command(tmp_path: Path) -> None:
    """In a child whose import system does not find onnxruntime or LiteRT."""
    code = (
        "import sys\n"
        "for n in ('onnxruntime', 'ai_edge_litert', 'ai_edge_litert.interpreter', 'tflite_runtime'): sys.modules[n] = None\n"
        "from edgedl.engine import describe\n"
        "from edgedl.errors import MissingDependencyError\n"
        "for p in sys.argv[1:]:\n"
        "    try: describe(p)\n"
        "    except MissingDependencyError as e: print(e.next)\n"
    )
    paths = [str(DATA / "dense_float.tflite"), str(save_onnx(tmp_path / "m.onnx"))]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("pip install ai-edge-litert")
    assert second == "pip install 'edgedl[onnx]'"


def test_a_description_survives_json() -> None:
    artifact = describe(DATA / "two_float.tflite")
    data = json.loads(json.dumps(artifact.to_json()))
    assert [asdict(s)["name"] for s in artifact.inputs] == [s["name"] for s in data["inputs"]]
    assert isinstance(artifact, Artifact)


@pytest.mark.acceptance
def test_every_small_model_of_the_assets_opens_and_runs(assets: Path) -> None:
    """Batches are the samples one by one, to the bit in LiteRT, to 1e-5 in ONNX Runtime (another matrix shape)."""
    seen = 0
    for path in sorted(assets.rglob("*.tflite")) + sorted(assets.rglob("*.onnx")):
        if path.stat().st_size > 4e6 or path.name in ODD:
            continue
        artifact = describe(path)
        with open_engine(artifact) as engine:
            one = [
                {
                    s.name: np.random.default_rng(i).integers(0, 2, [d or 1 for d in shape]).astype(s.dtype)
                    for s, shape in zip(artifact.inputs, engine.shapes, strict=True)
                }
                for i in range(2)
            ]
            both = engine.run({k: np.concatenate([x[k] for x in one]) for k in one[0]})
            for i, x in enumerate(one):
                engine.reset()
                for name, y in engine.run(x).items():
                    tolerance = 0.0 if artifact.format == "tflite" else 1e-5
                    np.testing.assert_allclose(
                        both[name][i : i + 1], y, rtol=tolerance, atol=tolerance, err_msg=path.name
                    )
        seen += 1
    assert seen >= 15


@pytest.mark.acceptance
def test_a_malformed_file_of_the_assets_is_an_error(assets: Path) -> None:
    with pytest.raises(ModelError, match="person_detect"):
        describe(assets / "models/tflite_micro/person_detect.tflite")
