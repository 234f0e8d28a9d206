"""The child process: results, errors, crashes, limits, and nothing left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgedl.errors import DataError, OutputError, WorkerError
from edgedl.worker import GIB, Worker

JOBS = """
import os, sys, time
from edgedl.errors import DataError
from edgedl.worker import progress

def add(a, b): return a + b
def pid(): return os.getpid()
def refuse(): raise DataError("no labels", next="pass y")
def bug(): print("noise"); raise ValueError("something odd")
def crash(): os.kill(os.getpid(), 11)
def hang(): time.sleep(600)
def eat():
    keep = []
    while True:
        keep.append(bytearray(b"x" * (64 << 20)))
        time.sleep(0.02)
def chatter():
    for i in range(20000): print("x" * 1000)
    return "quiet"
def steps():
    for i in range(3): progress(i + 1, 3, "step")
    return None
def grandchild(path):
    import subprocess
    p = subprocess.Popen(["sleep", "600"])
    open(path, "w").write(str(p.pid))
    time.sleep(600)
def litter():
    import tempfile
    open(tempfile.mkdtemp() + "/left", "w").write("x")
    return tempfile.gettempdir()
def full(): raise OSError(28, "No space left on device", "/dev/full")
"""


@pytest.fixture
def worker(tmp_path: Path):
    (tmp_path / "jobs.py").write_text(JOBS)
    with Worker(timeout_s=30, env={"PYTHONPATH": str(tmp_path)}) as worker:
        yield worker


def test_result_and_same_child(worker: Worker) -> None:
    assert worker.call("jobs:add", a=2, b=3) == 5
    assert worker.call("jobs:pid") == worker.call("jobs:pid") != os.getpid()


def test_errors_cross_the_process(worker: Worker) -> None:
    with pytest.raises(DataError) as caught:
        worker.call("jobs:refuse")
    assert caught.value.next == "pass y"
    with pytest.raises(OutputError, match="No space left"):
        worker.call("jobs:full")


@pytest.mark.parametrize(("job", "says"), [("bug", "ValueError: something odd"), ("crash", "SIGSEGV")])
def test_a_dead_child_is_one_error_and_the_next_call_works(worker: Worker, job: str, says: str) -> None:
    with pytest.raises(WorkerError, match=says):
        worker.call(f"jobs:{job}")
    assert worker.call("jobs:add", a=1, b=1) == 2


def test_time_limit(worker: Worker) -> None:
    worker.timeout_s = 1
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"hang.*longer than 1 s"):
        worker.call("jobs:hang")
    assert time.monotonic() - start < 10


def test_memory_limit(worker: Worker) -> None:
    worker.memory_bytes = GIB // 2
    with pytest.raises(WorkerError, match=r"0\.5 GiB"):
        worker.call("jobs:eat")


def test_output_is_bounded_and_kept_away(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    assert worker.call("jobs:chatter") == "quiet"
    assert capfd.readouterr() == ("", "")


def test_what_a_child_leaves_behind_is_removed(worker: Worker) -> None:
    place = Path(worker.call("jobs:litter"))
    assert place.is_dir()
    worker.close()
    assert not place.exists()


def test_progress(worker: Worker) -> None:
    seen: list[tuple[int, int, str]] = []
    worker.on_progress = lambda *args: seen.append(args)
    worker.call("jobs:steps")
    assert seen == [(1, 3, "step"), (2, 3, "step"), (3, 3, "step")]


def test_grandchildren_go_too(worker: Worker, tmp_path: Path) -> None:
    worker.timeout_s = 2
    with pytest.raises(WorkerError):
        worker.call("jobs:grandchild", path=str(tmp_path / "pid"))
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the grandchild lives on")
