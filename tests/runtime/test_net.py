"""The runtime against the interpreters used by hand, its preprocessing and labels, and what it imports."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedl import runtime
from edgedl.artifact import Artifact
from edgedl.engine import describe
from edgedl.errors import DataError, EdgedlError, ModelError, UsageError
from edgedl.preprocess import Preprocessing

DATA = Path(__file__).parents[1] / "data"
FEATURES = np.random.default_rng(0).uniform(0, 1, (5, 4)).astype(np.float32)


def by_hand(path: Path, x: Any) -> Any:
    """One real-valued sample with its batch axis, as TensorFlow's documentation quantizes it."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = into["quantization"]
    if scale:
        info = np.iinfo(into["dtype"])
        x = np.clip(np.round(x.astype(np.float64) / scale) + zero, info.min, info.max)
    interpreter.set_tensor(into["index"], x.astype(into["dtype"]))
    interpreter.invoke()
    y = interpreter.get_tensor(out["index"])
    scale, zero = out["quantization"]
    return np.float32(scale) * (y.astype(np.float32) - np.float32(zero)) if scale else y


def made(tmp_path: Path, source: str, **metadata: Any) -> Path:
    """A copy of a golden with metadata of its own."""
    path = tmp_path / f"{source}.tflite"
    path.write_bytes((DATA / path.name).read_bytes())
    replace(describe(path), path=path).with_metadata(**metadata).save()
    return path


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (1, 4), elements=st.floats(-3, 3, width=32)), st.sampled_from(["dense_float", "dense_int8"]))
def test_one_sample_equals_the_interpreter(x: Any, name: str) -> None:
    path = DATA / f"{name}.tflite"
    with runtime.load(path) as net:
        y = net.run(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, by_hand(path, x))  # the same kernels and arithmetic: no tolerance


@pytest.mark.parametrize("name", ["dense_float", "dense_int8"])
def test_the_short_and_the_long_way_agree(name: str) -> None:
    with runtime.load(DATA / f"{name}.tflite") as net:
        short = np.concatenate([net.run(row[None]) for row in FEATURES])
        np.testing.assert_array_equal(net.run(FEATURES), short)
        np.testing.assert_array_equal(np.stack([net.run(row) for row in FEATURES]), short)
        np.testing.assert_array_equal(net.run(FEATURES.astype(np.float64)), short)
        np.testing.assert_array_equal(net.run(FEATURES[0].tolist()), short[0])
        np.testing.assert_array_equal(net.run({"features": FEATURES}), short)
        np.testing.assert_array_equal(net.run(np.asfortranarray(FEATURES)[2:3]), short[2:3])
        np.testing.assert_array_equal(net.run(np.repeat(FEATURES, 2, axis=1)[:1, ::2]), short[:1])


def test_results_are_not_overwritten_by_the_next_call() -> None:
    with runtime.load(DATA / "dense_int8.tflite") as net:
        first = net.run(FEATURES[:1])
        kept = first.copy()
        net.run(FEATURES[1:2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64, np.bool_])
def test_integers_are_raw_values_whatever_the_files_own_type(dtype: Any) -> None:
    x = np.array([[0, 1, 1, 0], [1, 1, 0, 1]], dtype)
    with runtime.load(DATA / "dense_int8.tflite") as net:
        np.testing.assert_array_equal(net.run(x), net.run(x.astype(np.float32)))
        np.testing.assert_array_equal(net.run(x[:1]), net.run(x[:1].astype(np.float32)))


def test_quantized_inputs_are_announced() -> None:
    path = DATA / "dense_int8.tflite"
    (spec,) = describe(path).inputs
    q = spec.quantize(FEATURES)
    with runtime.load(path) as net:
        np.testing.assert_array_equal(net.run(q, quantized=True), net.run(FEATURES))
        np.testing.assert_array_equal(net.run(q[0], quantized=True), net.run(FEATURES[0]))
        for x in (FEATURES, FEATURES[:1], q.astype(np.uint8)):
            with pytest.raises(DataError, match="takes int8, and was given"):
                net.run(x, quantized=True)


def test_quantized_inputs_are_not_preprocessed(tmp_path: Path) -> None:
    declared = Preprocessing(scale=1 / 255)
    path = made(tmp_path, "tiny_int8", preprocessing={"image": declared.to_json()})
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    with runtime.load(path) as net:
        (spec,) = net.inputs
        np.testing.assert_array_equal(net.run(spec.quantize(declared(images)), quantized=True), net.run(images))


def test_several_inputs_and_outputs() -> None:
    with runtime.load(DATA / "two_float.tflite") as net:
        a, b = FEATURES[:, :3], FEATURES[:, 2:]
        named = net.run({"a": a, "b": b})
        assert set(named) == {s.name for s in net.outputs}
        ordered = net.run(*({"a": a, "b": b}[s.name] for s in net.inputs))
        single = net.run({"a": a[0], "b": b[0]})
        for name, value in named.items():
            np.testing.assert_array_equal(ordered[name], value)
            np.testing.assert_array_equal(single[name], value[0])
        with pytest.raises(DataError, match="takes 2 inputs"):
            net.run(a)
        with pytest.raises(DataError, match="one sample and others a batch"):
            net.run({"a": a, "b": b[0]})


def test_declared_preprocessing_is_applied(tmp_path: Path) -> None:
    declared = Preprocessing(resize=(8, 8), scale=1 / 255, mean=(0.1,), std=(0.5,))
    path = made(tmp_path, "tiny_int8", preprocessing={"image": declared.to_json()})
    images = np.random.default_rng(0).integers(0, 256, (3, 13, 9, 1), np.uint8)
    with runtime.load(path) as net:
        got = net.run(images)
        for image, y in zip(images, got, strict=True):
            np.testing.assert_array_equal(net.run(image), y)
            np.testing.assert_array_equal(net.run(image[..., 0]), y)  # grey, without a channel axis
            np.testing.assert_array_equal(y, by_hand(path, declared(image[None]))[0])
        np.testing.assert_array_equal(net.run(images[..., 0]), got)


def test_classify_names_the_best(tmp_path: Path) -> None:
    path = made(tmp_path, "dense_float", labels=["cat", "dog", "owl"])
    with runtime.load(path) as net:
        assert net.labels == ("cat", "dog", "owl")
        scores = net.run(FEATURES[0])
        best = net.classify(FEATURES[0], top=2)
        order = np.argsort(-scores)
        assert best == [(net.labels[i], pytest.approx(float(scores[i]))) for i in order[:2]]
        assert net.classify(FEATURES)[0][:2] == best
        assert len(net.classify(FEATURES)) == len(FEATURES)
    with runtime.load(DATA / "dense_float.tflite") as bare:
        assert bare.classify(FEATURES[0], top=1)[0][0] == str(order[0])
    with (
        runtime.load(made(tmp_path, "tiny_float", labels=["a", "b"])) as net,
        pytest.raises(DataError, match="2 labels, and its output 'output_0' 10 values"),
    ):
        net.classify(np.zeros((8, 8, 1)))


def test_state_and_reset() -> None:
    x = np.ones((1, 2), np.float32)
    with runtime.load(DATA / "counter.tflite") as net:
        assert [float(net.run(x)[0, 0]) for _ in range(3)] == [1, 2, 3]
        net.reset()
        assert float(net.run(x)[0, 0]) == 1


def test_threads_take_turns() -> None:
    """More samples than a race would survive; every thread gets its own answers."""
    path = DATA / "dense_int8.tflite"
    wrong: list[int] = []
    with runtime.load(path, threads=2) as net:
        expected = net.run(FEATURES)

        def work(i: int) -> None:
            for _ in range(400):
                if not np.array_equal(net.run(FEATURES[i : i + 1])[0], expected[i]):
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((2, 2, 4)), r"samples of 1 axes, \[4\], and was given shape \[2, 2, 4\]"),
        (np.zeros(5), r"was given \[1, 5\]"),
        (np.array(["a"] * 4), "must be numbers"),
        ({"x": np.zeros(4)}, "takes the inputs features, and was given x"),
    ],
)
def test_wrong_inputs_are_named(x: Any, says: str) -> None:
    with runtime.load(DATA / "dense_int8.tflite") as net, pytest.raises(DataError, match=says) as caught:
        net.run(x)
    assert caught.value.next


def test_wrong_uses_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        runtime.load(DATA / "dense_float.tflite", threads=0)
    with pytest.raises(ModelError, match="no file"):
        runtime.load(tmp_path / "none.tflite")
    net = runtime.load(DATA / "dense_float.tflite")
    net.close()
    for use in (lambda: net.run(FEATURES[:1]), net.reset):
        with pytest.raises(UsageError, match="was closed"):
            use()
    for name in ("flex", "custom"):
        with pytest.raises(EdgedlError):
            runtime.load(DATA / f"{name}.tflite")


def test_it_shows_what_it_is() -> None:
    with runtime.load(DATA / "dense_int8.tflite") as net:
        assert repr(net) == "<Net dense_int8.tflite: features int8[any, 4] -> output_0 int8[any, 3]>"
        assert isinstance(net.artifact, Artifact)


def test_it_imports_numpy_and_one_interpreter() -> None:
    code = (
        "import sys\nfrom edgedl import runtime\n"
        "before = {m.split('.')[0] for m in sys.modules}\n"
        "n = runtime.load(sys.argv[1])\nn.run([0.1, 0.2, 0.3, 0.4])\n"
        "after = {m.split('.')[0] for m in sys.modules}\n"
        "print(sorted(m for m in sys.modules if m.startswith('edgedl.')))\nprint(sorted(before))\nprint(sorted(after))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(DATA / "dense_float.tflite")], capture_output=True, text=True, check=True
    )
    ours, before, after = (set(eval(line)) for line in done.stdout.splitlines())
    engine = {"engine", "engine.base", "engine.litert", "engine.ort", "engine.protobuf"}
    allowed = {"runtime", "runtime.net", "runtime.fast", "artifact", "errors", "preprocess"} | engine
    assert ours == {f"edgedl.{m}" for m in allowed}
    heavy = {"tensorflow", "keras", "onnx", "onnxruntime", "torch", "ai_edge_quantizer", "sklearn", "PIL", "click"}
    assert "numpy" in before
    assert not before & (heavy | {"ai_edge_litert", "tflite_runtime"})
    assert not after & heavy


def test_onnx_short_and_long_way_agree_with_onnx_runtime(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="makes a small .onnx file: pip install 'edgedl[onnx]'")
    ort = pytest.importorskip("onnxruntime", reason="the oracle: pip install 'edgedl[onnx]'")
    h, path = onnx.helper, tmp_path / "m.onnx"
    w = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    graph = h.make_graph(
        [h.make_node("MatMul", ["x", "w"], ["z"]), h.make_node("Softmax", ["z"], ["y"])],
        "g",
        [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": FEATURES})[0]
    with runtime.load(path) as net:
        np.testing.assert_allclose(net.run(FEATURES), expected, rtol=1e-6)
        np.testing.assert_allclose(np.stack([net.run(row) for row in FEATURES]), expected, rtol=1e-5)
        np.testing.assert_allclose(net.run(FEATURES[:1]), expected[:1], rtol=1e-5)
        assert net.classify(FEATURES[0], top=1) == [(str(expected[0].argmax()), pytest.approx(expected[0].max()))]
