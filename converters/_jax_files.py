"""Parameters of JAX models from files: .npz with keys "a/b", and the .msgpack of flax.serialization; nothing is unpickled."""

from __future__ import annotations

import importlib
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import MissingDependencyError, ModelError
from ._keras_files import FAILURES, check_expansion

AGAIN = "copy or write it again"
MAX_BYTES = 4 << 30  # unpacked
MAX_ARRAYS = 100_000
MAX_DEPTH = 64
DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")  # fmt: skip


def read(path: Path) -> dict[str, Array]:
    """The arrays of a file by their flat names "a/b/c". Raises ModelError, MissingDependencyError."""
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path} is larger than {MAX_BYTES:,} bytes", next="save only the parameters")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    return _npz(path) if is_zip else _msgpack(path)


def _npz(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as file:
            infos = file.infolist()
        unpacked = sum(info.file_size for info in infos)
        if len(infos) > MAX_ARRAYS or unpacked > MAX_BYTES:
            raise ModelError(f"{path.name} unpacks to more than {MAX_BYTES:,} bytes", next="save only the parameters")
        check_expansion(path, unpacked, path.stat().st_size)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (*FAILURES, tokenize.TokenError, SyntaxError, MemoryError, zipfile.LargeZipFile) as error:
        raise ModelError(f"{path.name} is not a sound .npz of arrays: {error}", next=AGAIN) from error


def _msgpack(path: Path) -> dict[str, Array]:
    """What flax.serialization.to_bytes wrote: dicts, and arrays as extension 1 (shape, dtype, bytes)."""
    try:
        msgpack = importlib.import_module("msgpack")
    except ImportError as error:
        raise MissingDependencyError(
            "reading .msgpack parameters needs msgpack, which is not installed", next="pip install 'edgedl[jax]'"
        ) from error

    def extension(code: int, data: bytes) -> Any:
        if code not in (1, 3):
            raise ValueError(f"extension {code}")
        shape, dtype, content = msgpack.unpackb(data, raw=True)
        return _array(shape, dtype.decode("ascii"), content)

    try:
        content = msgpack.unpackb(path.read_bytes(), ext_hook=extension, raw=False, strict_map_key=False)
        return dict(_flat(content, (), 0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, UnicodeDecodeError, msgpack.UnpackException) as error:  # fmt: skip
        raise ModelError(f"{path.name} is not a sound .msgpack of parameters: {error}", next=AGAIN) from error


def _array(shape: Any, dtype: str, content: bytes) -> Array:
    if dtype not in DTYPES:
        raise ValueError(f"data type {dtype}")
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).reshape([int(n) for n in shape])
    return np.frombuffer(content, dtype).reshape([int(n) for n in shape])


def _flat(value: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[str, Array]]:
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, Mapping) and "__msgpack_chunked_array__" in value:
        chunks = [value["chunks"][k] for k in sorted(value["chunks"], key=int)]
        shape = [int(value["shape"][k]) for k in sorted(value["shape"], key=int)]
        yield "/".join(path), np.concatenate(chunks).reshape(shape)
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _flat(child, (*path, str(key)), depth + 1)
    elif value is not None:
        yield "/".join(path), np.asarray(value)


def nested(flat: Mapping[str, Array]) -> dict[str, Any]:
    """Dicts in dicts.

    >>> nested({"a/b": 1, "c": 2})
    {'a': {'b': 1}, 'c': 2}
    """
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        inner = found
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise ModelError(f"the parameter '{name}' lies inside another parameter", next=AGAIN)
        inner[last] = value
    return found
