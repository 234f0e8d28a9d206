"""Whatever is wrong with what a user gives: one clear sentence with a remedy, the documented exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgedl.cli import run

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples/digits.keras"
FAST = ("--set", "limits.bench_seconds=0")


def truncated(folder: Path) -> Path:
    path = folder / "model.keras"
    path.write_bytes(DIGITS.read_bytes()[:50_000])
    return path


def empty(folder: Path) -> Path:
    path = folder / "model.keras"
    path.touch()
    return path


def text_named_keras(folder: Path) -> Path:
    path = folder / "model.keras"
    path.write_text("this is no model at all")
    return path


def renamed(folder: Path) -> Path:
    path = folder / "model.h5"
    path.write_bytes(DIGITS.read_bytes())
    return path


def other_zip(folder: Path) -> Path:
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("photo.txt", "holiday")
    return path


def garbage_tflite(folder: Path) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + os.urandom(4000))
    return path


def garbage_onnx(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(b"\x08\x07" + b"\xff" * 4000)
    return path


def missing(folder: Path) -> Path:
    return folder / "modell.keras"


def plain_folder(folder: Path) -> Path:
    (folder / "saved").mkdir()
    return folder / "saved"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (truncated, "damaged"),
        (empty, "is empty"),
        (text_named_keras, "not a .keras file"),
        (other_zip, "no config.json"),
        (garbage_tflite, "model.tflite"),
        (garbage_onnx, "model.onnx"),
        (missing, "there is no file"),
        (plain_folder, "not a SavedModel"),
    ],
)
def test_model_files(
    make: Callable[[Path], Path], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    for command in (["inspect", str(path)], ["compress", str(path), "-o", str(tmp_path / "out"), *FAST]):
        code = run(command)
        error = capsys.readouterr().err
        assert code in (3, 5), error
        assert "Traceback" not in error
        assert says in error
        assert "Next: " in error


def test_a_renamed_model_is_known_by_its_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(renamed(tmp_path)), "--json"]) == 0
    assert '"format": "keras"' in capsys.readouterr().out


def save(folder: Path, **arrays: object) -> str:
    path = folder / "d.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


X = np.zeros((20, 8, 8, 1), "float32")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((20, 9, 9, 1), "float32"), "y": np.arange(20) % 10}, "9"),
        ({"x": X, "y": np.arange(19) % 10}, "19"),
        ({"x": X, "y": np.full(20, 11)}, "11"),
        ({"x": X, "y": np.full(20, -1)}, "-1"),
        ({"x": np.where(np.arange(20)[:, None, None, None] == 3, np.nan, X), "y": np.arange(20) % 10}, "NaN"),
        ({"x": X[:0], "y": np.arange(0)}, "empty|no samples|0 samples"),
        ({"x": np.array([None] * 20, dtype=object), "y": np.arange(20) % 10}, "pickle|object"),
        ({"left": X, "right": X}, "left"),
    ],
    ids=["shape", "lengths", "label above", "label below", "NaN", "empty", "object", "names"],
)
def test_data(arrays: dict[str, object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    code = run(["compress", str(DIGITS), "--data", save(tmp_path, **arrays), "-o", str(tmp_path / "out"), *FAST])
    error = capsys.readouterr().err
    assert code == 4, error
    assert re.search(says, error.partition("error:")[2]), error
    assert "Next: " in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["compress", str(DIGITS)], 2, "-o"),
        (["compress"], 2, "names no model"),
        (["compress", str(DIGITS), "--format", "tflight", "-o", "o"], 2, "did you mean 'tflite'"),
        (["compress", str(DIGITS), "--target", "cpuu", "-o", "o"], 2, "did you mean 'cpu'"),
        (["compress", str(DIGITS), "--quantize", "int7", "-o", "o"], 2, "int7"),
        (["compress", str(DIGITS), "--max-drop", "150%", "-o", "o"], 2, "150%"),
        (["compress", str(DIGITS), "--max-drop", "much", "-o", "o"], 2, "much"),
        (["compress", str(DIGITS), "--set", "quantize.percentil=9", "-o", "o"], 2, "did you mean 'percentile'"),
        (["compress", str(DIGITS), "--quantize", "fp16", "--io", "int8", "-o", "o"], 2, "int8"),
        (["compress", str(DIGITS), "--data", "nowhere.npz", "-o", "o"], 4, "nowhere.npz"),
        (["compress", str(DIGITS), "--data", "nomodule:f", "-o", "o"], 4, "nomodule"),
        (["compress", "--recipe", "none.toml", "-o", "o"], 2, "none.toml"),
        (["convert", str(DIGITS), "-o", "model.tfl"], 2, "cannot tell the format"),
        (["convert", str(DIGITS), "-o", "no/such/folder/m.tflite"], 9, "no/such/folder"),
        (["bench", "none.tflite"], 3, "none.tflite"),
        (["report", "."], 2, "no report"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_command_lines(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_output_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    assert run(["compress", str(DIGITS), "-o", str(tmp_path / "mine"), *FAST]) == 9
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"
    assert run(["compress", str(DIGITS), "-o", "/proc/nowhere/out", *FAST]) == 9
    assert run(["convert", str(DIGITS), "-o", str(tmp_path / "mine/notes.txt")]) == 2
    (tmp_path / "mine/old.tflite").write_text("precious")
    assert run(["convert", str(DIGITS), "-o", str(tmp_path / "mine/old.tflite")]) == 9
    assert (tmp_path / "mine/old.tflite").read_text() == "precious"


def test_convert_into_a_folder_leaves_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits_float32.tflite").write_text("precious")
    assert run(["convert", str(DIGITS), "-o", f"{tmp_path}/"]) == 9
    assert "exists" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"digits_float32.tflite": "precious"}


def test_a_full_disk(tmp_path: Path) -> None:
    """A file system of 200 kB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=200k none {disk} && exec {sys.executable} -m edgedl compress {DIGITS} -o {disk}/out"
    )
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
