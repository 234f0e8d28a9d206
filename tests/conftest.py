"""Fixtures for every test: the folder of real models and data, and small trained models of every kind."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# The same examples at every run, so that a red test is one that the change made red; `make fuzz` draws new ones
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=200, print_blob=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data sets, or a skip."""
    folder = os.environ.get("EDGEDL_ASSETS")
    if not folder:
        pytest.skip("EDGEDL_ASSETS is not set: it names the folder with `models` and `datasets`")
    if not (Path(folder) / "models").is_dir():
        pytest.skip(f"EDGEDL_ASSETS={folder} has no folder `models`")
    return Path(folder)


@cache
def _zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgedl_tests_zoo", Path(__file__).with_name("zoo.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def zoo() -> Callable[[str], tuple[Any, Any, Any]]:
    """`zoo(name)` -> `(model, x, y)`, trained once a session: leave the model as it is (or clone it). See tests/zoo.py."""
    pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

    @cache
    def get(name: str) -> tuple[Any, Any, Any]:
        return _zoo().build(name)

    return get
