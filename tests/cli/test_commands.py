"""The commands' own work: help, completion, JSON on stdout alone, dry runs, interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgedl.cli import COMMANDS, run

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "examples/digits.keras")
TINY = str(ROOT / "tests/data/tiny_int8.tflite")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"edgedl {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgedl, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    env = {**os.environ, "_EDGEDL_COMPLETE": f"{shell}_source"}
    edgedl = str(Path(sys.executable).with_name("edgedl"))
    done = subprocess.run([edgedl], capture_output=True, text=True, env=env)
    if shell == "bash" and "Bash version is not supported" in done.stderr:
        pytest.skip("an old bash")
    assert "_EDGEDL_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "--json"],
        ["targets", "--json"],
        ["inspect", TINY, "--json"],
        ["bench", TINY, "--json", "--max-seconds", "0.2"],
    ],
    ids=lambda a: a[0],
)
def test_json_alone_on_stdout(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert printed.err == ""


@pytest.mark.parametrize("command", [["compress", DIGITS], ["convert", DIGITS, "-o", "x.tflite"]], ids=lambda a: a[0])
def test_dry_run_is_the_whole_recipe_and_does_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*command, "--quantize", "int8", "--calibration-method", "mse", "--dry-run"]) == 0
    recipe = tomllib.loads(capsys.readouterr().out)
    assert recipe["stages"][0]["calibration"] == "mse"
    assert recipe["stages"][0]["samples"] == 200
    assert recipe["limits"]["timeout_s"] == 900
    assert not list(tmp_path.iterdir())


def test_quantize_is_tried_finer_only_when_it_was_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    run(["compress", DIGITS, "--max-drop", "1%", "--dry-run"])
    assert tomllib.loads(capsys.readouterr().out)["limits"]["fallback"][:2] == ["dynamic", "int8-weight-only"]
    run(["compress", DIGITS, "--max-drop", "1%", "--quantize", "int8", "--dry-run"])
    assert tomllib.loads(capsys.readouterr().out)["limits"]["fallback"] == []


def test_bench_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["bench", TINY, str(ROOT / "tests/data/tiny_float.tflite"), "--max-seconds", "0.2", "--threads", "2"]) == 0
    )
    printed = capsys.readouterr().out
    assert "tiny_int8.tflite" in printed
    assert "p99" in printed


def test_a_reader_that_goes_away_is_no_error() -> None:
    edgedl = Path(sys.executable).with_name("edgedl")
    done = subprocess.run(["sh", "-c", f"{edgedl} inspect {TINY} --json | head -c 1"], capture_output=True, text=True)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr
