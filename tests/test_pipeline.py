"""The main job on the digits model, from the library: artifacts, report, resuming, interruption, limits, direct ways."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl import runtime
from edgedl.artifact import Artifact, sha256
from edgedl.errors import ConversionError, LimitError
from edgedl.outcome import check_limits
from edgedl.pipeline import file_state, with_defaults
from edgedl.recipe import assemble

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples/digits.keras"
NO_BENCH = {"bench_seconds": 0.0}


@pytest.fixture(scope="session")
def digits_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The held-out digits as a user's .npz."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    path = tmp_path_factory.mktemp("digits") / "d.npz"
    np.savez(path, x=digits.images[1197:, :, :, None].astype("float32"), y=digits.target[1197:])
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, digits_npz: Path) -> tuple[dict[str, Any], Path]:
    """One whole run to int8 in both formats, measured."""
    out = tmp_path_factory.mktemp("run") / "out"
    report = edgedl.compress(
        DIGITS, out, data={"source": str(digits_npz)}, quantize={"scheme": "int8"}, formats=["tflite", "onnx"],
        targets=["cpu"], limits={"bench_seconds": 0.6, "max_drop": 0.02},
    )  # fmt: skip
    return report, out


def test_artifacts_are_there_smaller_and_right(finished: tuple[dict[str, Any], Path]) -> None:
    report, out = finished
    assert {a["format"] for a in report["artifacts"]} == {"tflite", "onnx"}
    for entry, base in zip(report["artifacts"], report["baselines"], strict=True):
        path = out / entry["path"]
        assert path.stat().st_size == entry["bytes"] < base["bytes"]
        assert entry["scheme"] == "int8"
        assert entry["original_metrics"]["accuracy"] >= 0.95
        assert entry["metrics"]["accuracy"] >= entry["original_metrics"]["accuracy"] - 0.02
        assert entry["within_limits"]
        assert all(c["ok"] for c in entry["verification"]["checks"])
        assert base["agreement"]["max_relative_error"] <= 1e-4
        artifact = Artifact.load(path)
        assert artifact is not None
        assert artifact.files[path.name] == sha256(path.read_bytes())


def test_the_runtime_gives_the_accuracy_that_the_report_says(
    finished: tuple[dict[str, Any], Path], digits_npz: Path
) -> None:
    report, out = finished
    with np.load(digits_npz) as file:
        x, y = file["x"], file["y"]
    kept = edgedl.Dataset.restore(next((out / ".edgedl").glob("load_data-*")))
    for entry in report["artifacts"]:
        net = runtime.load(out / entry["path"])
        said = entry["metrics"]["accuracy"]
        seen = np.mean(np.argmax(net.run(np.asarray(kept.validation.x[net.inputs[0].name])), -1) == kept.validation.y)
        assert seen == pytest.approx(said)
        assert np.mean(np.argmax(net.run(x), -1) == y) >= 0.93


def test_report_files_are_whole(finished: tuple[dict[str, Any], Path]) -> None:
    report, out = finished
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    assert "<html" in (out / "report.html").read_text()
    for entry in report["artifacts"]:
        assert entry["latency_us"]["cpu"]["p50"] > 0
        assert entry["layers"]
        assert sum(c["count"] for c in entry["per_class"]) == report["data"]["validation_samples"]
    assert len(report["comparisons"]) == 2


def test_a_second_run_does_no_work(finished: tuple[dict[str, Any], Path], digits_npz: Path) -> None:
    first, out = finished
    start = sum(os.times()[:4])
    again = edgedl.compress(
        DIGITS, out, data={"source": str(digits_npz)}, quantize={"scheme": "int8"}, formats=["tflite", "onnx"],
        targets=["cpu"], limits={"bench_seconds": 0.6, "max_drop": 0.02},
    )  # fmt: skip
    assert sum(os.times()[:4]) - start < 10, "seconds of processor time, of this process and its children"
    assert all(s["reused"] for s in again["steps"] if not s["name"].startswith("bench"))
    assert [a["bytes"] for a in again["artifacts"]] == [a["bytes"] for a in first["artifacts"]]


def test_the_written_recipe_runs_again(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, out = finished
    shutil.copytree(out, tmp_path / "out")
    report = edgedl.pipeline.run(edgedl.recipe.assemble(recipe=out / "recipe.toml"), tmp_path / "out")
    assert all(s["reused"] for s in report["steps"] if not s["name"].startswith("bench"))


def test_direct_ways_import_no_training_framework(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """A float file goes to int8 in its own format; the children that do it load no TensorFlow."""
    report, out = finished
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Refuse:\n    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('tensorflow', 'keras', 'tf_keras'): raise ImportError('refused: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    for base in report["baselines"]:
        command = [
            sys.executable, "-m", "edgedl", "compress", str(out / base["path"]), "--quantize", "int8", "--format",
            base["format"], "--data", "digits", "--set", "limits.bench_seconds=0", "-o", str(tmp_path / base["format"]),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        again = json.loads((tmp_path / base["format"] / "report.json").read_text())["artifacts"][0]
        assert again["metrics"]["accuracy"] >= 0.94
        assert again["bytes"] < base["bytes"]


def test_a_file_stays_itself_unless_another_format_is_asked_for(tmp_path: Path) -> None:
    path = ROOT / "tests/data/tiny_float.tflite"
    forms = {
        formats: with_defaults(assemble(str(path), formats=formats)).load.form
        for formats in [(), ("tflite",), ("onnx",), ("tflite", "onnx")]
    }
    assert forms == {(): "auto", ("tflite",): "auto", ("onnx",): "keras", ("tflite", "onnx"): "keras"}
    assert with_defaults(assemble(str(path), load={"inputs": {"x": "1x4"}})).load.form == "keras"
    assert [s.name for s in with_defaults(assemble(str(path))).exports] == ["tflite"]


def test_no_data_works_and_says_so(tmp_path: Path) -> None:
    report = edgedl.compress(DIGITS, tmp_path / "out", quantize={"scheme": "int8"}, limits=NO_BENCH)
    assert report["data"]["generated"]
    assert any("generated" in w for w in report["warnings"])
    assert report["artifacts"][0]["agreement"]["top1_agreement"] > 0.5


def test_a_limit_that_does_not_hold(tmp_path: Path) -> None:
    """Outputs of int4 weights are never the original's to the last bit: outside, said so, the artifact kept."""
    report = edgedl.compress(
        DIGITS, tmp_path / "out", data={"source": "digits", "metric": "fidelity"}, quantize={"scheme": "int4-weight-only"},
        limits={**NO_BENCH, "max_drop": 0.0},
    )  # fmt: skip
    entry = report["artifacts"][0]
    assert entry["drop"] > 0
    assert not entry["within_limits"]
    with pytest.raises(LimitError, match=r"drops by"):
        check_limits(report)
    assert (tmp_path / "out" / entry["path"]).is_file()


def test_finer_schemes_are_tried_until_the_limit_holds(tmp_path: Path) -> None:
    report = edgedl.compress(
        DIGITS, tmp_path / "out", data={"source": "digits", "metric": "fidelity"}, quantize={"scheme": "int4-weight-only"},
        limits={**NO_BENCH, "max_drop": 1e-4, "fallback": ["fp16", "float32"]},
    )  # fmt: skip
    entry = report["artifacts"][0]
    assert [(a["scheme"], a["within_limits"]) for a in entry["attempts"]] == [
        ("int4-weight-only", False),
        ("fp16", True),
    ]
    assert entry["scheme"] == "fp16"
    assert any("chosen among 2 attempts" in w for w in entry["warnings"])
    check_limits(report)


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, digits_npz: Path) -> None:
    """SIGINT while converting: exit code 130, no half file, no child left; the second run reuses what was finished."""
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "edgedl",
        "compress",
        str(DIGITS),
        "--data",
        str(digits_npz),
        "--set",
        "limits.bench_seconds=0",
        "-o",
        str(out),
    ]
    listening = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell's background jobs ignore it
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    deadline = time.monotonic() + 480
    while not list((out / ".edgedl").glob("load_data-*/done.json")):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130
    assert "goes on from here" in (first.stderr.read() if first.stderr else "")
    left = [p for p in out.rglob("*") if p.is_file() and ".edgedl" not in p.parts]
    assert not left
    assert not list((out / ".edgedl").glob("unfinished-*"))
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = {s["name"]: s["reused"] for s in json.loads(done.stdout)["steps"]}
    assert steps["load"]
    assert steps["data"]


def test_a_time_limit_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="longer than"):
        edgedl.compress(DIGITS, tmp_path / "out", limits={**NO_BENCH, "timeout_s": 0.5})


def test_a_file_that_grew_is_said_to(zoo: Any, tmp_path: Path) -> None:
    """int8 of an LSTM is unrolled in a .tflite, and larger than the float file."""
    model, x, y = zoo("lstm")
    model.save(tmp_path / "lstm.keras")
    np.savez(tmp_path / "d.npz", x=x, y=y)
    report = edgedl.compress(
        tmp_path / "lstm.keras",
        tmp_path / "out",
        data={"source": str(tmp_path / "d.npz")},
        quantize={"scheme": "int8"},
        limits=NO_BENCH,
    )
    entry, base = report["artifacts"][0], report["baselines"][0]
    assert entry["metrics"]["accuracy"] >= 0.95
    assert any("larger than its float file" in w for w in entry["warnings"]) == (entry["bytes"] > base["bytes"]) is True


@pytest.mark.parametrize("name", ["net.py:build", "my-nets/net.py:build", "teacher.keras", "teacher.onnx"])
def test_a_changed_teacher_or_student_is_another(name: str, tmp_path: Path) -> None:
    file = tmp_path / name.partition(":")[0]
    file.parent.mkdir(exist_ok=True)
    file.write_text("def build(): return 1")
    was = file_state(f"{tmp_path}/{name}")
    assert file_state(f"{tmp_path}/{name}") == was != []
    changed = file.with_name(f"{file.name}.data") if name.endswith(".onnx") else file
    changed.write_text("def build(): return 22")
    assert file_state(f"{tmp_path}/{name}") != was
