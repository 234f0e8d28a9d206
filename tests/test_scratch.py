"""The folder of a running stage: there inside, gone from sight outside, left alone with what is in it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgedl import scratch


def test_it_is_made_and_outlives_what_used_it(tmp_path: Path) -> None:
    path = tmp_path / "a/b"
    assert scratch.folder() is None
    with scratch.using(path) as given:
        assert given == scratch.folder() == path
        (path / "checkpoint").write_text("half way")
    assert scratch.folder() is None
    with scratch.using(path):
        assert (path / "checkpoint").read_text() == "half way", "the next run goes on from it"


def interrupted_in(path: Path) -> None:
    with scratch.using(path):
        assert scratch.folder() == path
        raise KeyboardInterrupt


def test_the_outer_folder_is_back_after_the_inner_one_and_after_an_error(tmp_path: Path) -> None:
    with scratch.using(tmp_path / "outer") as outer:
        with pytest.raises(KeyboardInterrupt):
            interrupted_in(tmp_path / "inner")
        assert scratch.folder() == outer
    assert scratch.folder() is None


def test_another_thread_does_not_write_into_it(tmp_path: Path) -> None:
    seen: list[Path | None] = []
    with scratch.using(tmp_path):
        thread = threading.Thread(target=lambda: seen.append(scratch.folder()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_where_a_file_is_in_the_way_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError), scratch.using(tmp_path / "file"):
        pass
    assert scratch.folder() is None
    assert (tmp_path / "file").read_text() == "mine"
