"""Artifact: the file a converter wrote, its digests, and the metadata that the runtime needs to use it.

The metadata is JSON beside the file (`NAME.json`) and inside it, where it travels when the file alone is copied:
in a .tflite as a zip appended to the flatbuffer (as TFLite Metadata does with its associated files), in an .onnx as
`metadata_props`. Both are written and read here with the standard library alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError, OutputError
from .preprocess import Preprocessing

Array = npt.NDArray[Any]
MEMBER = "edgedl.json"  # the member of the zip at the end of a .tflite, and the key in an .onnx
MAX_METADATA = 4 << 20  # bytes; more is refused


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: `shape` counts the batch (None: any), `scale` and `zero_point` are set where integers stand for reals."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str  # a numpy dtype name
    scale: float | None = None
    zero_point: int | None = None
    tensor: str = ""  # the name inside the file, where it is another

    @property
    def inside(self) -> str:
        """The name the file's own interpreter knows this tensor by."""
        return self.tensor or self.name

    @property
    def is_quantized(self) -> bool:
        """Whether integers stand for real values."""
        return self.scale is not None and self.dtype in ("int8", "uint8", "int16")

    def quantize(self, x: Array) -> Array:
        """Real values -> this tensor's dtype: round to nearest even, saturate. Unquantized: only the dtype."""
        if self.scale is None or not self.is_quantized:
            return x.astype(self.dtype, copy=False)
        info = np.iinfo(self.dtype)
        q: Array = np.round(np.asarray(x, np.float64) / self.scale) + (self.zero_point or 0)
        return np.clip(q, info.min, info.max).astype(self.dtype)

    def dequantize(self, q: Array) -> Array:
        """This tensor's integers -> float32 real values. Unquantized: unchanged."""
        if self.scale is None or not self.is_quantized:
            return q
        return (np.float32(self.scale) * (q.astype(np.float32) - np.float32(self.zero_point or 0))).astype(np.float32)


def spec_from_json(data: Mapping[str, Any]) -> TensorSpec:
    """The TensorSpec that `dataclasses.asdict` wrote."""
    return TensorSpec(**{**data, "shape": tuple(data["shape"])})


@dataclass(frozen=True, slots=True)
class Artifact:
    """A converted model. `metadata` holds scheme, labels, preprocessing (per input), notes and the versions that wrote it."""

    path: Path
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, str] = field(default_factory=dict)  # file name -> sha256
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        names = list(self.files) or [self.path.name]
        return sum((self.path.parent / name).stat().st_size for name in names)

    @property
    def scheme(self) -> str:
        """The quantization scheme it was written with, as far as known."""
        return str(self.metadata.get("scheme", "unknown"))

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, or nothing."""
        return tuple(self.metadata.get("labels", ()))

    def preprocessing(self, name: str) -> Preprocessing:
        """The declared preprocessing of an input (identity where none was declared)."""
        return Preprocessing.from_json(self.metadata.get("preprocessing", {}).get(name, {}))

    def with_metadata(self, **more: Any) -> Artifact:
        """A copy with further metadata; nothing is written."""
        return replace(self, metadata={**self.metadata, **more})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the path is the file's name."""
        return {
            "edgedl_artifact": 1,
            "file": self.path.name,
            "format": self.format,
            "inputs": [asdict(s) for s in self.inputs],
            "outputs": [asdict(s) for s in self.outputs],
            "files": dict(self.files),
            "metadata": dict(self.metadata),
        }

    def save(self) -> Artifact:
        """Write the metadata into the file and beside it; returns the artifact with its digests.

        What was embedded before is replaced. Raises OutputError when it cannot be written.
        """
        body = read_body(self.path)
        inner = replace(
            self, files={}, metadata={**self.metadata, "body_bytes": len(body), "body_sha256": sha256(body)}
        )
        write_atomic(self.path, body + _EMBED[self.format](body, json.dumps(inner.to_json(), separators=(",", ":"))))
        names = list(self.files) or [self.path.name]
        done = replace(inner, files={name: sha256((self.path.parent / name).read_bytes()) for name in names})
        write_atomic(sidecar(self.path), (json.dumps(done.to_json(), indent=1) + "\n").encode())
        return done

    @classmethod
    def load(cls, path: Path | str) -> Artifact | None:
        """Read the metadata beside or inside a file; None where the file has none (edgedl did not write it).

        What lies beside it counts only if it is this very file's, by its digest.

        Raises ModelError when the file does not exist or its metadata is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"there is no file {path}", next="check the path")
        try:
            data = _beside(path)
            text = read_embedded(path) if data is None else ""
            if text is None:
                return None
            data = json.loads(text) if data is None else data
            if data["edgedl_artifact"] != 1:
                raise ModelError(f"{path.name} was written by a newer edgedl", next="pip install -U edgedl")
            return cls(
                path=path,
                format=data["format"],
                inputs=tuple(map(spec_from_json, data["inputs"])),
                outputs=tuple(map(spec_from_json, data["outputs"])),
                files={path.name if k == data["file"] else k: v for k, v in data["files"].items()},
                metadata=data["metadata"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the metadata of {path.name} is damaged ({error})",
                next=f"remove {sidecar(path).name} to use the bare model",
            ) from error


def _beside(path: Path) -> dict[str, Any] | None:
    """The JSON beside a file, if it was written for it."""
    file = sidecar(path)
    if not file.is_file() or file.stat().st_size > MAX_METADATA:
        return None
    data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return data if data["files"].get(data["file"]) == sha256(path.read_bytes()) else None


def sidecar(path: Path) -> Path:
    """The JSON file beside an artifact."""
    return path.with_name(path.name + ".json")


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing. Raises OutputError (full disk, no permission, a folder that is not there)."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", next="choose another folder with -o") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path}: {error.strerror}", next="free some space, or choose another folder with -o"
        ) from error


def read_body(path: Path) -> bytes:
    """The file without the metadata that `save` appended."""
    data = path.read_bytes()
    text = read_embedded(path)
    if text is None:
        return data
    size = json.loads(text)["metadata"].get("body_bytes", len(data))
    return data[:size]


def read_embedded(path: Path) -> str | None:
    """The JSON inside a file, or None."""
    return _embedded_tflite(path) if _looks_like_tflite(path) else _embedded_onnx(path)


def _looks_like_tflite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8)[4:] == b"TFL3"


def _embed_tflite(body: bytes, text: str) -> bytes:
    whole = io.BytesIO(body)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        entry = zipfile.ZipInfo(MEMBER, date_time=(1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        file.writestr(entry, text)
    return whole.getvalue()[len(body) :]


def _embedded_tflite(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as file:
            if MEMBER not in file.namelist():
                return None
            if file.getinfo(MEMBER).file_size > MAX_METADATA:
                raise ModelError(
                    f"the metadata inside {path.name} is larger than {MAX_METADATA} bytes",
                    next="use a file that edgedl wrote",
                )
            return file.read(MEMBER).decode("utf-8")
    except (zipfile.BadZipFile, UnicodeDecodeError, EOFError) as error:
        raise ModelError(f"the metadata inside {path.name} is damaged ({error})", next="copy the file again") from error


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _embed_onnx(body: bytes, text: str) -> bytes:
    """Field 14 of ModelProto (metadata_props): a protobuf message may be extended by appending a field."""
    del body
    entry = b"".join(tag + _varint(len(s)) + s for tag, s in ((b"\x0a", MEMBER.encode()), (b"\x12", text.encode())))
    return b"\x72" + _varint(len(entry)) + entry


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a protobuf message as (number, bytes); stops at what is not well-formed."""
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while at < len(data) and shift < 64:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
        raise ValueError("not protobuf")

    while at < len(data):
        tag = read()
        kind = tag & 7
        if kind == 0:
            read()
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            size = read()
            if at + size > len(data):
                raise ValueError("truncated")
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError("not protobuf")


def _embedded_onnx(path: Path) -> str | None:
    try:
        found = None
        for number, entry in _fields(memoryview(path.read_bytes())):
            if number == 14:
                pair = dict(_fields(entry))
                if bytes(pair.get(1, b"")) == MEMBER.encode() and len(pair.get(2, b"")) <= MAX_METADATA:
                    found = bytes(pair[2]).decode("utf-8")
        return found
    except (ValueError, struct.error):
        return None


_EMBED = {"tflite": _embed_tflite, "onnx": _embed_onnx}
