"""The sample documents, the schemas, and a headless browser."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=2000", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
NAMES = ("ordinary", "one", "many", "no_labels", "thousand_classes", "deep", "hostile", "unmeasured", "empty")


@cache
def sample_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgedl_report_sample", Path(__file__).with_name("sample.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module that builds sample documents."""
    return sample_module()


@pytest.fixture(params=NAMES)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Every sample document in turn."""
    return sample_module().DOCUMENTS[request.param]()


@pytest.fixture(scope="session")
def schema() -> Callable[[str], dict[str, Any]]:
    """`schema("report")`: the content of docs/schema/report.schema.json."""
    return lambda name: json.loads((ROOT / f"docs/schema/{name}.schema.json").read_text())


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page: its DOM, its console, the addresses it asked for."""

    dom: str
    console: list[str]
    addresses: set[str]


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Seen]:
    """`browse(html, width)` opens a page in headless Chromium and returns what it saw; skips where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")

    def open_page(html: str, width: int = 1160) -> Seen:
        folder = tmp_path_factory.mktemp("page")
        (folder / "page.html").write_text(html, "utf-8")
        log = folder / "net.json"
        done = subprocess.run(
            [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", f"--window-size={width},2000",
             "--dump-dom", (folder / "page.html").as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        events = json.loads(log.read_text())["events"]
        asked = [e["params"] for e in events if "initiator" in e.get("params", {})]
        own = "not an origin"  # the initiator of what the browser asks for on its own account
        return Seen(done.stdout, console, {p["url"] for p in asked if p["initiator"] != own})

    return open_page
