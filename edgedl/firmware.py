"""write_firmware(): a .tflite as a folder of C that a microcontroller's project takes in, made in a child process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .artifact import write_atomic
from .errors import OutputError
from .registry import resolve
from .worker import Worker, default_memory_bytes

LICENCE = b"SPDX-License-Identifier: 0BSD"  # which every file of a firmware carries


def write_firmware(
    model: Path,
    out: Path,
    *,
    features: Iterable[str] = (),
    name: str = "",
    force: bool = False,
    timeout_s: float = 300.0,
) -> dict[str, Any]:
    """Write the firmware of `model` into the folder `out`; returns what it is, as `Firmware.to_json`, and its files.

    `features` of the core choose its kernels. Raises OutputError where the folder holds something else, and what
    `firmware` raises: ModelError, ConversionError, UsageError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not force:
        raise OutputError(f"{out} exists and is not empty", next="choose another folder, or pass --force")
    with Worker(timeout_s, default_memory_bytes()) as worker:
        made = worker.call("edgedl.firmware:generate", path=str(model), features=sorted(features), prefix=name)
    files: Mapping[str, str] = made.pop("files")
    write_files(out, files)
    return {**made, "folder": str(out), "files": sorted(files)}


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by their paths in a folder, each whole or not at all. Raises OutputError.

    C files of another firmware that lie under `src` go: build systems compile all that is there.
    """
    for old in (folder / "src").glob("*.[ch]"):
        if f"src/{old.name}" not in files and LICENCE in old.read_bytes()[:400]:
            old.unlink()
    for relative, text in files.items():
        path = folder / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}", next="choose another folder with -o") from error
        write_atomic(path, text.encode())


def generate(path: str, features: list[str], prefix: str) -> dict[str, Any]:
    """The firmware as plain JSON, with the text of its files."""
    made = resolve(resolve("edgedl.converters:FIRMWARE"))(path, features, prefix)
    return {**made.to_json(), "files": made.library()}
