"""Masks, scores and clusters outlive a kill: a stage killed in the middle of an epoch ends as if it had not been."""

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
STANDS = 12 + 6  # the step at which the process stands still: in the second epoch


@pytest.fixture(scope="module")
def run() -> Any:
    """`run(folder, stage)` of the script: (weights, record)."""
    return runpy.run_path(str(SCRIPT))["run"]


def step(folder: Path) -> int:
    """How far the checkpoint in a folder is; 0 where there is none."""
    for path in folder.glob("training-*.npz"):
        with np.load(path, allow_pickle=False) as file:
            header: dict[str, Any] = json.loads(str(file["header"]))
            return int(header["step"])
    return 0


@pytest.mark.parametrize("stage", ["magnitude", "movement", "cluster"])
def test_killed_in_an_epoch_and_run_again_it_ends_with_the_same_weights(run: Any, tmp_path: Path, stage: str) -> None:
    killed = subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path / "b"), stage], stderr=subprocess.PIPE)
    straight, told = run(tmp_path / "a", stage)
    while step(tmp_path / "b") < STANDS:
        assert killed.poll() is None, killed.stderr and killed.stderr.read().decode()
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    resumed, record = run(tmp_path / "b", stage)
    assert record["resumed_from"] == {"epoch": 2, "step": STANDS}
    assert "resumed_from" not in told
    for one, other in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(one, other)  # bit for bit
    assert [e["loss"] for e in told["epochs"]] == [e["loss"] for e in record["epochs"]]
    assert told["layers"] == record["layers"]
