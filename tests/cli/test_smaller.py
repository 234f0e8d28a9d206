"""The options that make a network smaller or train it: the recipe that they stand for, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgedl.cli import run

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "examples/digits.keras")


def recipe(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The recipe that `compress --dry-run` prints."""
    assert run(["compress", *arguments, "--dry-run"]) == 0, capsys.readouterr().err
    return tomllib.loads(capsys.readouterr().out)


def stages(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    return [stage["stage"] for stage in recipe(capsys, DIGITS, *arguments)["stages"]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ["quantize"]),
        ("--prune 2x", ["prune_channels", "distill", "quantize"]),
        ("--prune 2x --epochs 0", ["prune_channels", "quantize"]),
        ("--prune 2x --finetune", ["prune_channels", "finetune", "quantize"]),
        ("--prune 2x --finetune --epochs 0", ["prune_channels", "quantize"]),
        ("--low-rank 30%", ["low_rank", "distill", "quantize"]),
        ("--prune 2x --low-rank 30%", ["prune_channels", "low_rank", "distill", "quantize"]),
        ("--sparsity 90%", ["prune_weights", "quantize"]),
        ("--cluster 16", ["cluster", "quantize"]),
        ("--cluster 16 --sparsity 50% --prune 2x", ["prune_channels", "distill", "prune_weights", "cluster", "quantize"]),
        ("--teacher t.keras", ["distill", "quantize"]),
        ("--student s.keras", ["distill", "quantize"]),
        ("--finetune", ["finetune", "quantize"]),
        ("--finetune --quantize float32", ["finetune", "quantize"]),
    ],
)  # fmt: skip
def test_the_order_of_the_stages(arguments: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert stages(capsys, *arguments.split()) == expected


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("2x", 0.5),
        ("4x", 0.75),
        ("4X", 0.75),
        ("1.25x", 0.2),
        ("50%", 0.5),
        ("0.5", 0.5),
        (" 30% ", 0.3),
        ("0.1%", 0.001),
    ],
)
def test_a_share_in_any_writing(text: str, ratio: float, capsys: pytest.CaptureFixture[str]) -> None:
    first = recipe(capsys, DIGITS, "--prune", text)["stages"][0]
    assert first["ratio"] == pytest.approx(ratio, rel=1e-12)
    assert first["budget"] == "macs"


@pytest.mark.parametrize("budget", ["macs", "params", "memory", "latency"])
def test_what_the_budget_counts(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe(capsys, DIGITS, "--prune", "2x", "--budget", budget)["stages"][0]["budget"] == budget


def test_every_value_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--prune 2x --low-rank 25% --sparsity 90% --cluster 16 --teacher a.keras --teacher b.onnx"
    found = recipe(capsys, DIGITS, *line.split(), "--epochs", "3", "--data", "d.npz", "--train", "t.npz")
    prune, low_rank, distill, sparse, cluster, quantize = found["stages"]
    assert (prune["ratio"], prune["epochs"]) == (0.5, 0), "its training is the stage after it"
    assert (low_rank["rank"], low_rank["budget"]) == ("budget", 0.75), "what stays, of what is to go"
    assert (distill["teacher"], distill["epochs"]) == (["a.keras", "b.onnx"], 3)
    assert (sparse["sparsity"], sparse["epochs"]) == (0.9, 3)
    assert (cluster["clusters"], cluster["epochs"]) == (16, 3)
    assert quantize["scheme"] == "int8"
    assert (found["data"]["source"], found["data"]["train"]) == ("d.npz", "t.npz")


def test_a_student_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe(capsys, DIGITS, "--student", "s.keras")["stages"][0]["student"] == "s.keras"


def test_epochs_that_are_not_given_are_each_stage_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    trained = recipe(capsys, DIGITS, "--prune", "2x", "--sparsity", "50%")["stages"]
    assert [stage["epochs"] for stage in trained[:3]] == [0, 10, 10]


def test_the_recipe_that_is_printed_is_the_same_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Saved, read again with other options over it, and told apart from stages the file has twice."""
    line = [
        DIGITS,
        "--prune",
        "2x",
        "--sparsity",
        "90%",
        "--epochs",
        "2",
        "--set",
        "distill.augment.shift=1",
        "--dry-run",
    ]
    assert run(["compress", *line]) == 0
    path = tmp_path / "r.toml"
    path.write_text(capsys.readouterr().out)
    before = tomllib.loads(path.read_text())
    assert before["stages"][1]["augment"]["shift"] == 1
    assert recipe(capsys, "--recipe", str(path)) == before
    after = recipe(capsys, "--recipe", str(path), "--prune", "4x", "--epochs", "5")
    assert [s["stage"] for s in after["stages"]] == [s["stage"] for s in before["stages"]]
    assert (after["stages"][0]["ratio"], after["stages"][1]["epochs"]) == (0.75, 5)
    assert after["stages"][1]["augment"]["shift"] == 1, "what was not asked for anew stays"
    assert after["stages"][2] == before["stages"][2]


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("prune_channels.criterion=l1", ("criterion",), "l1"),
        ("prune_channels.exclude=['head*']", ("exclude",), ["head*"]),
        ("prune_channels.augment.shift=4", ("augment", "shift"), 4),
        ("prune_channels.augment={flip = true}", ("augment", "flip"), True),
    ],
)
def test_any_option_of_a_stage(
    setting: str, place: tuple[str, ...], value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Any = recipe(capsys, DIGITS, "--prune", "2x", "--set", setting)["stages"][0]
    for key in place:
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prune", "1x"], "leaves nothing, or everything"),
        (["--prune", "0"], "leaves nothing, or everything"),
        (["--prune", "100%"], "leaves nothing, or everything"),
        (["--prune", "-50%"], "leaves nothing, or everything"),
        (["--prune", "0.5x"], "leaves nothing, or everything"),
        (["--prune", "-2x"], "leaves nothing, or everything"),
        (["--prune", "nan"], "leaves nothing, or everything"),
        (["--prune", "nanx"], "leaves nothing, or everything"),
        (["--prune", "infx"], "leaves nothing, or everything"),
        (["--prune", "0x"], "is no share"),
        (["--prune", "half"], "is no share"),
        (["--prune", "x"], "is no share"),
        (["--prune", ""], "is no share"),
        (["--prune", "2", "--epochs", "1"], "leaves nothing, or everything"),
        (["--low-rank", "1"], "leaves nothing, or everything"),
        (["--low-rank", "much"], "is no share"),
        (["--budget", "macs"], "--budget says what --prune counts"),
        (["--prune", "2x", "--budget", "flops"], "flops"),
        (["--sparsity", "much"], "is not a percentage"),
        (["--sparsity", "150%"], "150%"),
        (["--sparsity", "-1%"], "-1%"),
        (["--sparsity", "100%"], "sparsity is 1"),
        (["--sparsity", "nan"], "nan"),
        (["--cluster", "1"], "1"),
        (["--cluster", "70000"], "70000"),
        (["--cluster", "few"], "few"),
        (["--epochs", "-1", "--finetune"], "-1"),
        (["--epochs", "1.5", "--finetune"], "1.5"),
        (["--epochs", "3"], "there is nothing to train"),
        (["--finetune", "--epochs", "0"], "there is nothing to train"),
        (["--sparsity", "0"], "--sparsity 0 makes no weight zero"),
        (["--train", "t.npz"], "--train has nothing to train"),
        (["--finetune", "--teacher", "t.keras"], "--finetune has no teacher"),
        (["--finetune", "--student", "s.keras"], "--finetune has no teacher"),
        (["--prune", "2x", "--set", "prune_channels.augment.shfit=4"], "did you mean 'shift'"),
        (["--prune", "2x", "--set", "prune_channels.augment.shift=half"], "must be a whole number"),
        (["--prune", "2x", "--set", "prune_channels.augment.shift=-1"], "augment.shift is -1"),
        (["--prune", "2x", "--set", "prune_channels.augment=4"], "must be a table"),
        (["--prune", "2x", "--set", "prune_channels.ratio.a=4"], "'ratio' is no table"),
        (["--prune", "2x", "--set", "prune_channels.critrion=l1"], "did you mean 'criterion'"),
        (["--set", "data.train_share=1"], "train_share is 1"),
    ],
)
def test_bad_values_are_one_sentence(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in (["--dry-run"], ["-o", "out"]):
        code = run(["compress", DIGITS, *arguments, *more])
        error = capsys.readouterr().err
        assert code in (2, 4), error
        assert says in error
        assert "Traceback" not in error
    assert not list(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--prune 2x --teacher nosuch.keras", "there is no teacher at nosuch.keras"),
        ("--student net.py:build", "there is no student at net.py"),
        ("--prune 2x --data digits --train nosuch.npz", "there is no data at nosuch.npz"),
    ],
)
def test_files_that_are_not_there_are_found_before_anything_is_read(
    arguments: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["compress", DIGITS, *arguments.split(), "-o", "out"]) in (2, 4)
    error = capsys.readouterr().err
    assert says in error
    assert "✓" not in error, "no step was done"


def test_stages_after_quantize_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.toml"
    file.write_text(f'model = "{DIGITS}"\n[[stages]]\nstage = "quantize"\n[[stages]]\nstage = "prune_channels"\n')
    assert run(["compress", "--recipe", str(file), "--dry-run"]) == 2
    assert "prune_channels comes after quantize, which ends them\nNext: put quantize last" in capsys.readouterr().err
