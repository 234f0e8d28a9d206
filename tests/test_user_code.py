"""The user's own functions: files of one name in two folders are two modules; what they raise is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgedl import user_code
from edgedl.errors import ModelError, UsageError


def written(folder: Path, text: str, name: str = "a_net_of_the_user.py") -> str:
    folder.mkdir()
    (folder / name).write_text(text)
    return f"{folder / name}:build"


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    one = written(tmp_path / "one", "def build():\n    return 1\n")
    two = written(tmp_path / "two", "def build():\n    return 2\n")
    assert [user_code.call(s, "a number") for s in (one, two, one, two)] == [1, 2, 1, 2]


def test_a_file_may_be_called_like_a_module_of_python(tmp_path: Path) -> None:
    spec = written(tmp_path / "one", "from beside_it import VALUE\n\ndef build():\n    return VALUE\n", "json.py")
    (tmp_path / "one/beside_it.py").write_text("VALUE = 3\n")
    assert user_code.call(spec, "a number") == 3
    assert sys.modules["json"].__file__ != str(tmp_path / "one/json.py")
    assert str(tmp_path / "one") not in sys.path


def test_what_cannot_be_called_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        user_code.call(f"{tmp_path}/none.py:build", "a number")
    broken = written(tmp_path / "one", "1 / 0\n", "tokenize.py")
    for _ in range(2):  # a module that failed is not half there the next time
        with pytest.raises(ModelError, match="ZeroDivisionError"):
            user_code.call(broken, "a number")
