"""The measuring loop on a made-up device, where the truth is known, and on real files."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.bench import compare, measure
from edgedl.data import Dataset, Split
from edgedl.engine import describe, predict
from edgedl.errors import DataError, ModelError, TargetError, UsageError
from edgedl.measuring import evaluate_in_child, footprint_in_child, generated, memory, reset_peak, time_in_child

DATA = Path(__file__).parent / "data"
FLOAT, INT8 = DATA / "dense_float.tflite", DATA / "dense_int8.tflite"
QUICK = {"min_seconds": 0.2, "max_seconds": 1.0}


def fake(**options: Any) -> dict[str, Any]:
    return {"latency_us": 100.0, "compute": False, **options}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """150 samples whose labels are what the float file says, but for every tenth."""
    x = np.random.default_rng(0).uniform(0, 1, (150, 4)).astype(np.float32)
    y = predict(describe(FLOAT), {"features": x})["output_0"].argmax(1)
    y[::10] = (y[::10] + 1) % 3
    folder = tmp_path / "data"
    folder.mkdir()
    split = Split({"features": x}, y)
    Dataset(calibration=split, validation=split, metric="accuracy").save(folder)
    return folder


def test_two_real_files_in_turns(dataset: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    found = measure(
        [FLOAT, INT8], "cpu", {"threads": 1}, data_folder=dataset, **QUICK, progress=lambda *a: seen.append(a)
    )
    for m, path in zip(found, (FLOAT, INT8), strict=True):
        us = m.latency_us
        assert 0.1 < us["min"] <= us["p50"] <= us["p90"] <= us["p99"] <= us["max"]
        assert us["ci95"][0] <= us["p50"] <= us["ci95"][1]
        assert us["runs"] == len(m.latency_ns) == sum(m.blocks)
        assert us["p50"] == pytest.approx(np.median(m.latency_ns) / 1e3)
        assert m.size == path.stat().st_size
        assert 0 < m.load_ms < 1000
        assert m.peak_bytes is None or m.peak_bytes < 64 << 20
        assert m.environment["threads"] == 1
        assert m.environment["versions"]["numpy"] == np.__version__
    assert found[0].metrics["accuracy"] == pytest.approx(0.9)
    assert found[1].metrics["accuracy"] > 0.8
    assert found[0].session == found[1].session
    assert len(found[0].blocks) == len(found[1].blocks) >= 10
    assert any("measuring 2 artifacts" in text for *_, text in seen)
    assert any("validation" in text for *_, text in seen)


def test_json_is_the_documented_one() -> None:
    (m,) = measure([FLOAT], "fake", fake(), **QUICK)
    data = json.loads(json.dumps(m.to_json()))
    assert {"artifact", "target", "latency_us", "memory", "metrics", "environment", "load_ms", "bytes"} <= data.keys()
    assert {"p50", "p90", "p99", "mean", "min", "max", "std", "ci95", "runs", "warmup"} == data["latency_us"].keys()
    assert data["artifact"] == str(FLOAT)
    assert "samples" not in data["latency_us"]
    assert m.to_json(samples=True)["latency_us"]["samples"] == [ns / 1e3 for ns in m.latency_ns]


def test_the_fake_devices_median_is_found() -> None:
    (m,) = measure([FLOAT], "fake", fake(jitter=0.05), **QUICK)
    assert m.latency_us["p50"] == pytest.approx(100, rel=0.01)
    assert m.latency_us["p90"] == pytest.approx(100 * np.exp(1.2816 * 0.05), rel=0.01)


def copies(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    for path in paths:
        path.write_bytes(FLOAT.read_bytes())
    return paths


def test_the_same_file_twice_is_no_difference_under_drift(tmp_path: Path) -> None:
    a, b = measure(copies(tmp_path), "fake", fake(drift=0.3, jitter=0.05), **QUICK)
    assert np.median(a.latency_ns[-500:]) > 1.03 * np.median(a.latency_ns[:500])  # it does drift
    verdict = compare(a, b)
    assert verdict.verdict == "no difference found"
    assert verdict.paired
    assert verdict.interval[0] <= 1.01
    assert verdict.interval[1] >= 0.99


def test_five_percent_is_found_under_drift(tmp_path: Path) -> None:
    a, b = measure(copies(tmp_path), "fake", fake(drift=0.3, jitter=0.05, factors={"b": 1.05}), **QUICK)
    assert compare(b, a).verdict == "slower"
    verdict = compare(a, b)
    assert verdict.verdict == "faster"
    assert verdict.ratio == pytest.approx(1 / 1.05, abs=0.02)


def test_other_sessions_are_not_paired(tmp_path: Path) -> None:
    path = copies(tmp_path)[0]
    one, two = (measure([path], "fake", fake(seed=s), **QUICK)[0] for s in (0, 1))
    verdict = compare(one, two)
    assert not verdict.paired
    assert verdict.verdict == "no difference found"


def test_warm_up_is_left_out() -> None:
    """The first 300 runs take ten times as long; windows of 500 runs need five windows to be stationary."""
    (m,) = measure([FLOAT], "fake", fake(warmup=300), min_seconds=0.2, max_seconds=5)
    assert m.latency_us["warmup"]["stationary"]
    assert m.latency_us["warmup"]["runs"] >= 2000
    assert m.latency_us["max"] < 150


def test_what_never_settles_is_said(tmp_path: Path) -> None:
    found = time_in_child([str(FLOAT)], "fake", fake(jitter=3.0), None, [0.05, 0.2])
    assert not found[0]["warmup"]["stationary"]
    assert found[0]["warmup"]["seconds"] < 1


def test_time_limits_hold() -> None:
    short = time_in_child([str(FLOAT)], "cpu", {}, None, [0.0, 0.05])[0]
    assert len(short["latency_ns"]) >= 1
    (long,) = time_in_child([str(DATA / "tiny_float.tflite")], "cpu", {}, None, [0.5, 0.5])
    assert 0.02 < sum(long["latency_ns"]) / 1e9 < 1.0


def test_evaluation_writes_real_valued_outputs(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npz"
    found = evaluate_in_child(str(INT8), str(dataset), "cpu", {}, str(out))
    restored = Dataset.restore(dataset)
    expected = predict(describe(INT8), restored.feed(restored.validation))["output_0"]
    with np.load(out) as file:
        assert list(file["names"]) == ["output_0"]
        np.testing.assert_array_equal(file["a0"], expected)
    accuracy = float((expected.argmax(1) == restored.validation.y).mean())
    assert found == {"metrics": {"accuracy": pytest.approx(accuracy)}, "samples": 150, "notes": []}


def test_onnx_too_and_memory_grows_with_the_weights(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="makes small .onnx files: pip install 'edgedl[onnx]'")
    pytest.importorskip("onnxruntime", reason="runs them: pip install 'edgedl[onnx]'")
    h, paths = onnx.helper, []
    for width in (8, 3000):
        w = np.ones((width, width), np.float32)
        graph = h.make_graph(
            [h.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", width])],
            [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", width])],
            [onnx.numpy_helper.from_array(w, "w")],
        )
        paths.append(tmp_path / f"{width}.onnx")
        onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), paths[-1])
    small, large = measure(paths, "cpu", {}, **QUICK)
    assert small.format == "onnx"
    assert compare(small, large).verdict == "faster"
    if reset_peak() is None:
        pytest.skip("this system does not let a process reset its peak of memory")
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert small.peak_bytes < 4 << 20
    assert 36e6 < large.peak_bytes < 5 * 36e6  # the weights are 36 MB; while it loads there may be some copies


def test_the_peak_of_memory_is_that_of_what_came_after() -> None:
    before = reset_peak()
    if before is None:
        pytest.skip("this system does not let a process reset its peak of memory")
    with mmap.mmap(-1, 48 << 20) as block:  # fresh pages, whatever this process has freed before
        for page in range(0, 48 << 20, 4096):
            block[page] = 1
    peak = memory("VmHWM")
    assert peak is not None
    assert 40 << 20 < peak - before < 64 << 20
    assert (reset_peak() or 0) < peak - (20 << 20)
    assert memory("Nonsense") is None


def test_footprint_of_a_tiny_file_is_tiny() -> None:
    found = footprint_in_child(str(FLOAT), describe(FLOAT).to_json(), "cpu", {})
    assert found["load_ms"] < 200
    assert found["peak_bytes"] is None or found["peak_bytes"] < 8 << 20


def test_generated_inputs_have_the_files_own_types() -> None:
    for path in (FLOAT, INT8, DATA / "two_float.tflite"):
        specs = describe(path).inputs
        for spec, x in zip(specs, generated(specs), strict=True):
            assert (x.dtype, x.shape) == (np.dtype(spec.dtype), (1, *spec.shape[1:]))
            assert len(np.unique(x)) > 1


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([], "cpu"), UsageError, "0 artifacts"),
        (([FLOAT], "cpuu"), UsageError, "did you mean 'cpu'"),
        (([FLOAT], "cpu", {"thread": 1}), UsageError, "did you mean 'threads'"),
        (([DATA / "none.tflite"], "cpu"), ModelError, "no file"),
        (([DATA / "flex.tflite"], "cpu"), TargetError, "TensorFlow operator Erf"),
        (([DATA / "make_goldens.py"], "cpu"), ModelError, "neither"),
    ],
)
def test_wrong_uses_are_named(arguments: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        measure(*arguments, **QUICK)
    assert caught.value.next


def test_open_dimensions_ask_for_data(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="makes a small .onnx file: pip install 'edgedl[onnx]'")
    h = onnx.helper
    info = [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", "time"]) for n in "xy"]
    graph = h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    path = tmp_path / "m.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(DataError, match="open shape") as caught:
        time_in_child([str(path)], "cpu", {}, None, [0.01, 0.02])
    assert "--data" in caught.value.next


@pytest.mark.acceptance
def test_int8_resnet_is_faster_than_float_and_itself_is_not(assets: Path) -> None:
    tiny = assets / "models/mlperf_tiny"
    paths = [tiny / "pretrainedResnet.tflite", tiny / "pretrainedResnet_quant.tflite", tiny / "pretrainedResnet.tflite"]
    a, quantized, again = measure(paths, "cpu", {}, min_seconds=1, max_seconds=4)
    assert compare(quantized, a).verdict == "faster"
    assert abs(compare(a, again).ratio - 1) < 0.03
