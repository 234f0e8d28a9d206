"""--max-class-drop: a limit on the class that loses most, as --max-drop is one on the metric; and figures switched off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.cli import run
from edgedl.data import Dataset
from edgedl.errors import LimitError, UsageError
from edgedl.outcome import check_limits
from edgedl.recipe import assemble
from edgedl.steps import load_arrays

DIGITS = Path(__file__).parents[1] / "examples/digits.keras"
NO_BENCH = {"bench_seconds": 0.0}


def compress(out: Path, source: str, scheme: str, **limits: Any) -> dict[str, Any]:
    return edgedl.compress(
        DIGITS, out, data={"source": source}, quantize={"scheme": scheme}, limits={**NO_BENCH, **limits}
    )


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digits under noise, so that many lie near a border between classes and some class loses."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = digits.images[600:, :, :, None] + np.random.default_rng(0).normal(0, 4, (1197, 8, 8, 1))
    path = tmp_path_factory.mktemp("noisy") / "d.npz"
    np.savez(path, x=x.astype("float32"), y=digits.target[600:])
    return str(path)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output folder: what a run has done the next ones reuse."""
    return tmp_path_factory.mktemp("runs") / "out"


def test_the_choice_among_schemes_honours_it(noisy: str, out: Path) -> None:
    report = compress(out, noisy, "int4-weight-only", max_class_drop=0.0, fallback=["fp16", "float32"])
    (entry,) = report["artifacts"]
    attempts = entry["attempts"]
    assert [a["within_limits"] for a in attempts] == [a["class_drop"]["drop"] <= 1e-9 for a in attempts]
    assert not attempts[0]["within_limits"]
    assert entry["scheme"] == attempts[-1]["scheme"] != "int4-weight-only"
    assert entry["within_limits"]
    check_limits(report)


def test_it_is_the_worst_class_of_the_report(noisy: str, out: Path) -> None:
    """The recalls, computed anew from the outputs that were kept; outside the limit: told, the artifact is there."""
    report = compress(out, noisy, "int4-weight-only", max_class_drop=0.001)
    (entry,) = report["artifacts"]
    store = out / ".edgedl"
    y = np.asarray(Dataset.restore(next(store.glob("load_data-*"))).validation.y)
    (before,) = load_arrays(next(store.glob("run_original-*")) / "validation.npz").values()
    kept = [next(iter(load_arrays(p / "validation.npz").values())) for p in store.glob("evaluate-*")]
    lost = [
        max(float(np.mean(before[y == c].argmax(-1) == c) - np.mean(after[y == c].argmax(-1) == c)) for c in range(10))
        for after in kept
    ]
    assert entry["class_drop"]["drop"] in [pytest.approx(one) for one in lost]
    changes = {c["label"]: c["original"] - c["now"] for c in entry["per_class"]}
    assert entry["class_drop"]["drop"] == pytest.approx(max(changes.values()))
    assert changes[entry["class_drop"]["label"]] == max(changes.values())
    assert not entry["within_limits"]
    with pytest.raises(LimitError, match="loses its class") as caught:
        check_limits(report)
    assert "--max-class-drop" in caught.value.next
    assert (out / entry["path"]).is_file()


def test_the_command_ends_with_7(noisy: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["compress", str(DIGITS), "--data", noisy, "-q", "int4-weight-only", "--set", "limits.bench_seconds=0"]
    assert run([*common, "--max-class-drop", "0.1%", "-o", str(out)]) == 7
    assert "loses its class" in capsys.readouterr().err
    assert run([*common, "--max-class-drop", "100%", "-o", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "of the predictions flipped" in printed
    assert "ECE" in printed
    assert "Faithful beyond the metric" in (out / "report.html").read_text()


def test_it_asks_for_finer_schemes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compress", str(DIGITS), "--max-class-drop", "5%", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "max_class_drop = 0.05" in printed
    assert "dynamic" in printed


def test_values_have_no_classes(tmp_path: Path) -> None:
    from edgedl.frameworks import keras

    node = keras().Input((4,))
    keras().Model(node, keras().layers.Dense(2)(node)).save(tmp_path / "m.keras")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(40, 4)).astype("f4"), y=rng.normal(size=(40, 2)).astype("f4"))
    with pytest.raises(UsageError, match="about classes") as caught:
        edgedl.compress(
            tmp_path / "m.keras", tmp_path / "out", data={"source": str(tmp_path / "d.npz")}, quantize={"scheme": "fp16"},
            limits={**NO_BENCH, "max_class_drop": 0.1},
        )  # fmt: skip
    assert "--max-drop" in caught.value.next


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_silly_limits_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match="max_class_drop"):
        assemble("m.keras", limits={"max_class_drop": value})


def test_it_can_be_switched_off(noisy: str, out: Path) -> None:
    report = compress(out, noisy, "int4-weight-only", faithfulness=False)
    assert report["artifacts"][0]["faithfulness"] is None
    assert not any("robustness" in s["name"] for s in report["steps"])
    assert "Faithful beyond" not in (out / "report.html").read_text()


def test_a_file_that_stays_what_it_is(noisy: str, out: Path, tmp_path: Path) -> None:
    """No gradients: told. The rest is there. A second run does nothing again."""
    source = out / compress(out, noisy, "float32")["artifacts"][0]["path"]
    for turn in range(2):
        report = edgedl.compress(
            source, tmp_path / "out", data={"source": noisy}, quantize={"scheme": "int8"}, limits=NO_BENCH
        )
        found = report["artifacts"][0]["faithfulness"]
        assert "gradients" in found["not_measured"]["fgsm"]
        assert "fgsm" not in found
        assert len(found["corrupted"]) == 12
        assert len(found["ece"]) == 2
        asked = [s for s in report["steps"] if s["name"].startswith("robustness")]
        assert asked
        assert all(s["reused"] == bool(turn) for s in asked)
    assert json.loads((tmp_path / "out/report.json").read_text())["artifacts"][0]["faithfulness"]["flipped"] >= 0


def test_generated_inputs_are_not_corrupted(tmp_path: Path) -> None:
    report = edgedl.compress(DIGITS, tmp_path / "out", quantize={"scheme": "int8"}, limits=NO_BENCH)
    found = report["artifacts"][0]["faithfulness"]
    assert found["corrupted"] == []
    assert "no data was given" in found["not_measured"]["corrupted"]
    assert "no data was given" in found["not_measured"]["fgsm"]
    assert found["flipped"] >= 0
