"""The store of finished steps: reuse, interruption, locks, full disks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedl.errors import ModelError, OutputError
from edgedl.store import digest, fingerprint, open_store


def test_a_step_is_done_once(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path, key: str) -> Any:
        calls.append(key)
        (folder / "file").write_text("x")
        return {"n": len(calls)}

    with open_store(tmp_path / "out") as store:
        first = store.run("step", {"a": 1}, make)
        again = store.run("step", {"a": 1}, make)
        other = store.run("step", {"a": 2}, make)
    assert (first.result, again.result, other.result) == ({"n": 1}, {"n": 1}, {"n": 2})
    assert (first.reused, again.reused) == (False, True)
    assert first.folder == again.folder != other.folder
    assert (again.folder / "file").read_text() == "x"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_step_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def broken(folder: Path, key: str) -> Any:
        (folder / "half").write_text("x")
        raise error

    with open_store(tmp_path / "out") as store:
        with pytest.raises(error):
            store.run("step", 1, broken)
        assert [p.name for p in store.root.iterdir()] == ["lock"]
        assert store.run("step", 1, lambda folder, key: "whole").result == "whole"


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "out/.edgedl/unfinished-x"
    left.mkdir(parents=True)
    with open_store(tmp_path / "out"):
        assert not left.exists()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nfrom edgedl.store import open_store\nwith open_store(Path({str(tmp_path)!r}) / 'out'): pass"
    with open_store(tmp_path / "out"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another run is working" in done.stderr


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not empty"), open_store(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="is a file"), open_store(tmp_path / "thesis.txt"):
        pass


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    def full(folder: Path, key: str) -> Any:
        raise OSError(28, "No space left on device", str(folder / "model.keras"))

    with open_store(tmp_path / "out") as store, pytest.raises(OutputError, match=r"No space left") as caught:
        store.run("step", 1, full)
    assert "kept and reused" in caught.value.next


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"), open_store(tmp_path / "out"):
        pass


def test_digest_sees_content_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = digest(folder)
    (folder / "a").write_text("2")
    changed = digest(folder)
    (folder / "a").rename(folder / "b")
    assert len({before, changed, digest(folder)}) == 3
    with pytest.raises(ModelError):
        digest(tmp_path / "none")


def test_fingerprint_sees_a_changed_file(tmp_path: Path) -> None:
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    x.write_text("1")
    y.write_text("1")
    before = fingerprint(f"{x},{y}")
    y.write_text("22")
    assert fingerprint(f"{x},{y}") != before
    assert fingerprint("digits") == ["digits"]
    assert fingerprint("module:function") != fingerprint("module:function")
