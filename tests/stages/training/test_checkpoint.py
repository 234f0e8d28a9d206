"""Checkpoints: a training killed in the middle of an epoch ends as if it had not been; others are not taken for it."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

SCRIPT = Path(__file__).with_name("killed.py")


def start(folder: Path, step: int, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(step), str(out)], stderr=subprocess.PIPE)


def header(folder: Path) -> dict[str, Any] | None:
    for path in folder.glob("training-*.npz"):
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = json.loads(str(file["header"]))
            return found
    return None


def test_killed_in_an_epoch_and_run_again_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    per_epoch = -(-180 // 16)
    step = per_epoch + 5
    killed = start(tmp_path / "b", step, tmp_path / "b.npz")
    runpy.run_path(str(SCRIPT))["trained"](tmp_path / "a.npz")
    while not (tmp_path / "b.waiting").exists():
        assert killed.poll() is None, f"it ended before it could be killed: {killed.communicate()[1].decode()}"
        time.sleep(0.02)
    found = header(tmp_path / "b")
    assert found is not None
    assert found["step"] == step - 1, "that of the last batch is not kept yet"
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "b.npz").exists()
    again = start(tmp_path / "b", 0, tmp_path / "b.npz")
    _, said = again.communicate()
    assert again.returncode == 0, said
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["resumed_from"] == {**record["resumed_from"], "epoch": 2, "step": step - 1}
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])  # bit for bit
    straight = json.loads((tmp_path / "a.json").read_text())
    assert [e["loss"] for e in straight["epochs"]] == [e["loss"] for e in record["epochs"]]
    assert "resumed_from" not in straight
