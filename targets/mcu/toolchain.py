"""The compilers: zig's clang from pip, Debian's arm-none-eabi-gcc; found, called within limits, their errors in one sentence."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ...errors import MissingDependencyError, TargetError

FIRMWARE = Path(__file__).parent / "firmware"
TIMEOUT_S = 300.0  # of one build; the first one for a core may make the compiler's own support library
EXTRA = "pip install 'edgedl[mcu]'"
MAX_LOG = 1 << 20


def cache_folder() -> Path:
    """Where built firmware and the compilers' own caches are kept: EDGEDL_CACHE, else `edgedl` below XDG_CACHE_HOME, else
    ~/.cache/edgedl; a temporary folder where that cannot be written.
    """
    given = os.environ.get("EDGEDL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "edgedl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"edgedl-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            return Path(tempfile.mkdtemp(prefix="edgedl-"))
    return folder


@cache
def zig() -> Path:
    """The program zig of the package ziglang. Raises MissingDependencyError."""
    found = importlib.util.find_spec("ziglang")
    places = [] if found is None else list(found.submodule_search_locations or ())
    for place in places:
        program = Path(place) / "zig"
        if program.is_file():
            return program
    raise MissingDependencyError("building firmware needs the compiler of ziglang, which is not installed", next=EXTRA)


@cache
def gcc() -> Path:
    """arm-none-eabi-gcc. Raises MissingDependencyError."""
    found = shutil.which("arm-none-eabi-gcc")
    if found is None:
        raise MissingDependencyError(
            "there is no arm-none-eabi-gcc on this machine",
            next="apt-get install gcc-arm-none-eabi, or leave the compiler at zig",
        )
    return Path(found)


@cache
def version(program: Path) -> str:
    """What a compiler says that it is; part of what the cache goes by."""
    argument = "version" if program.name == "zig" else "-dumpfullversion"
    return f"{program.name} {call([str(program), argument], Path.cwd(), {}, 60).stdout.strip()[:100]}"


def zig_environment(folder: Path) -> dict[str, str]:
    """Zig keeps its support libraries in our cache, and what it makes for one build in that build's folder."""
    return {"ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig"), "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache")}


def call(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, in a session of its own, so that a time-out ends its children too. Raises TargetError."""
    name = Path(command[0]).name
    process = subprocess.Popen(
        list(command),
        cwd=folder,
        env={**os.environ, **environment, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"{name} did not end within {timeout_s:g} s", next="try again, or build a smaller model"
        ) from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    return subprocess.CompletedProcess(list(command), process.returncode, out[:MAX_LOG], err[:MAX_LOG])


def first_error(log: str) -> str:
    """The first error of a compiler's or linker's output, its place without the folder.

    >>> first_error("x.c:3:5: warning: odd\\n/tmp/a/x.c:4:1: error: expected ';'\\n")
    "x.c:4: expected ';'"
    >>> first_error("ld.lld: error: undefined symbol: sinf\\n>>> referenced by x.c\\n")
    'undefined symbol: sinf'
    """
    for line in log.splitlines():
        if found := re.match(r"(?:.*/)?([\w.]+):(\d+)(?::\d+)?: (?:fatal )?error: (.*)", line):
            return f"{found[1]}:{found[2]}: {found[3]}"[:300]
        if found := re.match(r"(?:\S*ld(?:\.\w+)?|zig|clang|error)(?:: error|: fatal error)?: (?!warning)(.*)", line):
            return found[1][:300]
    said = [line.strip() for line in log.splitlines() if line.strip()]
    return said[0][:300] if said else "it ended without a word"
