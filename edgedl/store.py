"""The content-addressed store of finished steps, which makes a run resumable: same inputs, same folder, no work.

A step writes into a temporary folder that is renamed when it is done, so a half-finished step is never seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .errors import ModelError, OutputError
from .model import LoadOptions

CALLABLE = re.compile(r"[\w.]+:\w+")
FORMAT = 4  # raise when what steps write changes
TOOLS = (
    "tensorflow",
    "keras",
    "tf-keras",
    "tf2onnx",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnx",
    "onnxruntime",
    "torch",
    "jax",
    "numpy",
)
CHUNK = 1 << 20
MAX_SOURCES = 1000  # files of a user's module that are looked at


@dataclass(frozen=True, slots=True)
class Done:
    """A finished step: its folder, its JSON result, the seconds it took, and whether it was already there."""

    name: str
    key: str
    folder: Path
    result: Any
    seconds: float
    reused: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Finished steps below `root`."""

    root: Path

    def run(self, name: str, key: Any, make: Callable[[Path, str], Any]) -> Done:
        """The step `name` for `key` (JSON: all that the result depends on), made by `make(folder, key)` if need be.

        `make` writes into the folder it is given and returns a JSON result. Raises OutputError (full disk ...).
        """
        text = json.dumps([FORMAT, __version__, tools(), name, key], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:20]
        folder = self.root / f"{name}-{digest}"
        done = folder / "done.json"
        if done.is_file():
            record = json.loads(done.read_text())
            return Done(name, digest, folder, record["result"], record["seconds"], reused=True)
        start = time.perf_counter()
        with writing(self.root), self._temporary() as temporary:
            result = make(temporary, digest)
            seconds = time.perf_counter() - start
            (temporary / "done.json").write_text(json.dumps({"result": result, "seconds": seconds, "key": key}))
            shutil.rmtree(folder, ignore_errors=True)  # a folder without done.json is no result
            temporary.replace(folder)
        return Done(name, digest, folder, result, seconds, reused=False)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def tools() -> dict[str, str]:
    """The versions of what is installed to convert and run: another version may give another result."""
    found = {}
    for name in TOOLS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failed write into an OutputError that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise OutputError(
            f"cannot write {where}: {error.strerror}",
            next="free some space or choose another folder with -o; finished steps are kept and reused",
        ) from error


@contextlib.contextmanager
def open_store(out: Path) -> Iterator[Store]:
    """The store of an output folder, for one run at a time.

    Raises OutputError: not a folder, not writable, holds files of others, or another run works in it.
    """
    root = out / ".edgedl"
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder", next="choose a folder with -o")
    if out.is_dir() and not root.is_dir() and any(out.iterdir()):
        raise OutputError(
            f"the folder {out} is not empty and was not made by edgedl", next="choose a new folder with -o"
        )
    with writing(out):
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise OutputError(f"another run is working in {out}", next="wait for it, or choose another folder") from error
    try:
        for left in root.glob("unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield Store(root)
    finally:
        os.close(lock)


def digest(path: Path) -> str:
    """sha256 of a file's content, or of a folder's names and contents. Raises ModelError when unreadable.

    The prefix of a TensorFlow checkpoint, which is no file itself, stands for its index.
    """
    hashed = hashlib.sha256()
    path = path if path.exists() else path.with_name(path.name + ".index")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        for file in files:
            hashed.update(str(file.relative_to(path)).encode())
            with file.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    hashed.update(chunk)
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {error.strerror}", next="check the path") from error
    return hashed.hexdigest()


def companions(path: Path) -> list[Path]:
    """The files beside an .onnx whose names stand in it: it may keep weights there."""
    content = path.read_bytes()
    beside = (p for p in path.parent.iterdir() if p != path and p.is_file())
    return sorted(p for p in beside if p.name.encode() in content)


def belongings(path: Path, kind: str, load: LoadOptions) -> list[Path]:
    """The other files that a model is made of: its weights, and the source of the module that builds it.

    A module may import what lies beside it, so these files count as well.
    """
    found = companions(path) if kind == "onnx" else []
    ends = {"caffe": (".caffemodel", ".prototxt"), "mxnet": (".params", "-symbol.json")}.get(kind, ())
    if kind == "checkpoint":
        found = checkpoint_files(path)
    elif ends:
        found = sorted(p for p in path.parent.iterdir() if p.name.endswith(ends) and p.is_file() and p != path)
    if load.weights:
        found.append(Path(load.weights))
    return [*found, *module_files(load.module)]


def checkpoint_files(path: Path) -> list[Path]:
    """The files of a TensorFlow checkpoint, given by any of them or by their prefix; nothing for a folder."""
    prefix = re.sub(r"\.(meta|index|data-\d+-of-\d+)$", "", path.name)
    found = [] if path.is_dir() else path.parent.glob(f"{glob.escape(prefix)}.*")
    return sorted(p for p in found if p.is_file())


def module_files(module: str) -> list[Path]:
    """The source of `module:callable` and the Python files beside it; nothing is imported."""
    name = module.partition(":")[0]
    if not name:
        return []
    parts = Path(name if name.endswith(".py") else f"{name.replace('.', '/')}.py")
    for folder in ("", *sys.path):
        for file in (Path(folder) / parts, (Path(folder) / parts).with_suffix("") / "__init__.py"):
            if file.is_file():
                beside = file.parent.rglob("*.py") if file.name == "__init__.py" else file.parent.glob("*.py")
                return sorted(beside)[:MAX_SOURCES]
    return []


def fingerprint(source: str) -> list[Any]:
    """What tells whether a data source changed: names, sizes and times of its files; the text where it is no path.

    What a `module:function` gives cannot be known beforehand: it never has the same fingerprint twice.
    """
    found: list[Any] = [source]
    if CALLABLE.fullmatch(source) and not Path(source).exists():
        return [source, time.time_ns()]
    for part in source.split(","):
        path = Path(part)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            with contextlib.suppress(OSError):
                state = file.stat()
                found.append([str(file), state.st_size, state.st_mtime_ns])
    return found
