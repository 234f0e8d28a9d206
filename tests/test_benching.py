"""`bench` as a whole: each artifact has its own preprocessing and names, limits hold, and no option goes unheard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.bench import measure
from edgedl.benching import bench_artifacts, read_data
from edgedl.cli import run
from edgedl.engine import describe, predict
from edgedl.errors import UsageError, WorkerError
from edgedl.inspection import inspect_model
from edgedl.pipeline import Silent
from edgedl.recipe import assemble
from edgedl.worker import Worker

DATA = Path(__file__).parent / "data"
FLOAT, INT8, TWO = (DATA / f"{name}.tflite" for name in ("dense_float", "dense_int8", "two_float"))
QUICK = {"min_seconds": 0.0, "max_seconds": 0.1}


class Told(Silent):
    """A listener that remembers."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def end(self, step: str, detail: str, seconds: float, reused: bool) -> None:
        self.texts.append(f"{step}: {detail}")

    def warn(self, text: str) -> None:
        self.texts.append(text)


def renamed(path: Path, source: Path, prefix: str, scale: float = 1.0) -> Path:
    """A copy whose inputs are called otherwise, and which carries a preprocessing of its own."""
    path.write_bytes(source.read_bytes())
    found = describe(source)
    inputs = tuple(replace(s, name=f"{prefix}{s.name}", tensor=s.inside) for s in found.inputs)
    declared = {s.name: {"scale": scale} for s in inputs} if scale != 1 else {}
    replace(found, path=path, inputs=inputs).with_metadata(preprocessing=declared).save()
    return path


def accuracy(path: Path, x: Any, y: Any) -> float:
    found = describe(path)
    return float((predict(found, {found.inputs[0].name: x})[found.outputs[0].name].argmax(1) == y).mean())


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, Any, Any]:
    """Raw values -200..200, of which a hundredth is what the float file takes; its answers are the labels."""
    x = np.random.default_rng(0).uniform(-200, 200, (150, 4)).astype(np.float32)
    found = describe(FLOAT)
    y = predict(found, {"features": x / 100})[found.outputs[0].name].argmax(1)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    return tmp_path / "d.npz", x, y


@pytest.mark.parametrize("turned", [False, True])
def test_each_artifact_has_its_own_preprocessing_and_names(
    labelled: tuple[Path, Any, Any], tmp_path: Path, turned: bool
) -> None:
    data, x, y = labelled
    mine = renamed(tmp_path / "mine.tflite", FLOAT, "my_", scale=0.01)
    paths = [INT8, mine] if turned else [mine, INT8]
    told = Told()
    recipe = assemble(str(paths[0]), data={"source": str(data)}, targets=["cpu"])
    found = {m.artifact: m for m in bench_artifacts(paths, recipe, **QUICK, listener=told)}
    assert accuracy(INT8, x, y) < 0.95  # what goes in unscaled is another thing
    assert found[mine].metrics["accuracy"] == 1.0
    assert found[INT8].metrics["accuracy"] == pytest.approx(accuracy(INT8, x, y))
    assert found[mine].session == found[INT8].session
    assert len(found[mine].blocks) == len(found[INT8].blocks)
    assert [m.to_json()["samples"] for m in found.values()] == [150, 150]
    assert "data: 150 samples, which all count in the metric" in told.texts
    assert any("also those that calibration has seen" in text for text in told.texts)
    assert any("also those that calibration has seen" in note for note in found[mine].to_json()["notes"])


def test_the_data_is_read_once_for_all_that_take_the_same(labelled: tuple[Path, Any, Any], tmp_path: Path) -> None:
    other = renamed(tmp_path / "other.tflite", INT8, "other_")
    scaled = renamed(tmp_path / "scaled.tflite", INT8, "scaled_", scale=0.01)
    recipe = assemble(str(FLOAT), data={"source": str(labelled[0])}, targets=["cpu"])
    (tmp_path / "root").mkdir()
    with Worker(60) as worker:
        folders = read_data(worker, [FLOAT, INT8, other, scaled], recipe, tmp_path / "root", Silent())
    assert folders[0] == folders[1] == folders[2] != folders[3]
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["0", "1"]


def test_several_inputs_by_name_else_by_position(tmp_path: Path) -> None:
    other = renamed(tmp_path / "other.tflite", TWO, "my_")
    rng = np.random.default_rng(0)
    specs, outputs = describe(TWO).inputs, describe(TWO).outputs
    x = {s.name: rng.uniform(0, 1, (40, *s.shape[1:])).astype(np.float32) for s in specs}
    y = predict(describe(TWO), x)[outputs[0].name]
    np.savez(tmp_path / "d.npz", **x, y=y)
    recipe = assemble(str(TWO), data={"source": str(tmp_path / "d.npz"), "metric": "mae"}, targets=["cpu"])
    for m in bench_artifacts([TWO, other], recipe, **QUICK):
        assert m.metrics["mae"] == pytest.approx(0, abs=1e-6)


def test_a_folder_of_data_for_each_artifact() -> None:
    with pytest.raises(UsageError, match="2 folders of data for 1 artifacts"):
        measure([FLOAT], "cpu", data_folder=[DATA, DATA], **QUICK)


def test_limits_hold(labelled: tuple[Path, Any, Any]) -> None:
    with pytest.raises(WorkerError, match="GiB of memory"):
        measure([FLOAT], "cpu", memory_bytes=1 << 20, **QUICK)
    with pytest.raises(WorkerError, match="took longer than"):
        measure([FLOAT], "cpu", timeout_s=1e-3, **QUICK)
    with pytest.raises(WorkerError, match="GiB of memory"):
        inspect_model(FLOAT, memory_bytes=1 << 20)
    for limit, says in (("timeout_s", "took longer than 0.001 s"), ("memory_gib", "GiB of memory")):
        recipe = assemble(str(FLOAT), data={"source": str(labelled[0])}, targets=["cpu"], limits={limit: 1e-3})
        with pytest.raises(WorkerError, match=says):
            bench_artifacts([FLOAT], recipe, **QUICK)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--samples"], "--samples are in the JSON only"),
        (["--max-seconds", "0.5", "--min-seconds", "2"], "--max-seconds 0.5 is below --min-seconds 2"),
        (["--set", "limits.max_drop=0.01"], "limits.max_drop has no say in measuring cpu"),
        (["--set", "quantize.scheme=int8"], "quantize.scheme has no say in measuring cpu"),
        (["--set", "cpu.threads=2", "-t", "fake"], "cpu.threads has no say in measuring fake"),
        (["--threads", "2", "-t", "fake"], "--threads has no say in measuring fake"),
        (["--set", "threads=2"], "'threads' names no option"),
        (["-t", "cpuu", "--threads", "2"], "did you mean 'cpu'"),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(FLOAT), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_options_go_to_the_targets_that_were_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-t", "cpu,fake", "--threads", "2", "--set", "fake.latency_us=50", "--set", "limits.timeout_s=100"]
    assert run(["bench", str(FLOAT), *arguments, "--min-seconds", "0", "--max-seconds", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["target"] for m in found] == ["cpu", "fake"]
    assert found[0]["environment"]["threads"] == 2
    assert found[1]["latency_us"]["p50"] == pytest.approx(50, rel=0.1)
    assert run(["bench", str(FLOAT), "-t", "fake", "--max-seconds", "0.1", "--json"]) == 0
    assert [m["target"] for m in json.loads(capsys.readouterr().out)] == ["fake"]
