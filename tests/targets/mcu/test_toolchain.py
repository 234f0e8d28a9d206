"""Finding and calling compilers: limits, the cache's folder, errors in one sentence."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedl.errors import TargetError
from edgedl.targets.mcu import toolchain


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    start = time.monotonic()
    script = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)  # {tmp_path}'])"
    )
    with pytest.raises(TargetError, match=r"did not end within 0\.7 s"):
        toolchain.call([sys.executable, "-c", script], tmp_path, {}, timeout_s=0.7)
    assert time.monotonic() - start < 10
    time.sleep(0.2)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    done = toolchain.call([sys.executable, "-c", "import sys; print(sys.argv[1])", "$(id); `id`"], tmp_path, {})
    assert done.stdout == "$(id); `id`\n"


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDL_CACHE", str(tmp_path / "mine"))
    assert toolchain.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("EDGEDL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert toolchain.cache_folder() == tmp_path / "edgedl"
    assert toolchain.zig_environment(tmp_path)["ZIG_GLOBAL_CACHE_DIR"] == str(tmp_path / "edgedl" / "zig")


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EDGEDL_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(toolchain.tempfile, "tempdir", str(tmp_path))
    found = toolchain.cache_folder()
    assert found.is_dir()
    assert found.parent == tmp_path


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("a.c:1:2: warning: w\na.c:3:4: error: expected ')'\n", "a.c:3: expected ')'"),
        ("/tmp/x/a.c:3:4: fatal error: 'm.h' file not found\n", "a.c:3: 'm.h' file not found"),
        ("ld.lld: error: section '.text' will not fit\n", "section '.text' will not fit"),
        ("/usr/lib/arm-none-eabi/bin/ld: error: cannot find x\n", "cannot find x"),
        ("a.c:7: error: too large\n", "a.c:7: too large"),
        ("", "it ended without a word"),
        ("something odd\n", "something odd"),
        ("x" * 5000, "x" * 300),
    ],
)
def test_the_first_error_in_one_sentence(log: str, told: str) -> None:
    assert toolchain.first_error(log) == told
