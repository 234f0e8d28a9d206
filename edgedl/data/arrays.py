"""Reads .npz and .npy: nothing is unpickled, and nothing is allocated before its declared size was checked."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from ..artifact import Array
from ..errors import DataError
from .options import unreadable
from .raw import Raw, Wanted, assign, bounded

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    OSError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


def read_npz(path: Path, wanted: Wanted) -> Raw:
    """The arrays of an .npz, assigned to the model's inputs and labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            bounded(sum(m.file_size for m in members), wanted, str(path))
            arrays = {m.filename[:-4]: _member(archive, m, path) for m in members}
    except _DAMAGED as error:
        raise unreadable(str(path), error) from error
    return assign(arrays, wanted, str(path))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Array:
    name = f"the array '{member.filename[:-4]}' in {path}"
    with archive.open(member) as file:
        declared = _declared_bytes(file, name)
    if declared > member.file_size:
        raise DataError(
            f"{name} declares {declared:,} bytes and holds {member.file_size:,}", next="copy the file again"
        )
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _declared_bytes(file: IO[bytes], name: str) -> int:
    """What the header of a .npy says the array takes. Raises DataError for pickled objects."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(
            f"{name} holds pickled Python objects, which could run code when read",
            next="save plain numbers: one array of one dtype and shape",
        )
    return math.prod(shape) * dtype.itemsize


def read_npy(path: Path, wanted: Wanted) -> Array:
    """One array of a .npy, memory-mapped."""
    try:
        with path.open("rb") as file:
            bounded(_declared_bytes(file, str(path)), wanted, str(path))
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGED as error:
        raise unreadable(str(path), error) from error
    return array


def read_npy_pair(paths: list[Path], wanted: Wanted, where: str) -> Raw:
    """`x.npy` alone, or `x.npy` and `y.npy`."""
    spec = wanted.single_input(where, "a .npy file")
    x, *y = (read_npy(path, wanted) for path in paths)
    return Raw(where, {spec.name: x}, y[0] if y else None)
