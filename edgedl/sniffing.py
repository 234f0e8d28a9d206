"""The format of a model file or folder, from its content wherever that tells; nothing is unpickled, nothing unpacked."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from .engine.protobuf import kind_of
from .errors import ModelError
from .registry import did_you_mean

READS = (
    "pass a Keras, .tflite, .onnx, PyTorch, TensorFlow (.pb, .meta), Caffe, MXNet or JAX file, or a SavedModel folder; "
    "docs/importers.md lists what comes in"
)
AGAIN = "copy or download the model again"
MAX_MEMBERS = 100_000  # of a zip that are looked at
HEAD = 4096
TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before 1.6, pickled
MXNET_PARAMS = b"\x12\x01\0\0\0\0\0\0"  # the magic number of mx.nd.save
CHECKPOINT_PARTS = (".meta", ".index", ".data-00000-of-00001")


def sniff(path: Path) -> str:
    """What a model is: the name of an importer, or "tflite".

    Raises ModelError, which says what the file is instead.
    """
    if path.is_dir():
        return _sniff_folder(path)
    if not path.exists():
        if path.name and path.with_name(path.name + ".index").is_file():
            return "checkpoint"  # named by the prefix of its files, as TensorFlow does
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise ModelError(f"there is no file {path}{near}", next="check the path")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{path} is empty (0 bytes)", next=AGAIN)
    if not os.access(path, os.R_OK):
        raise ModelError(f"{path} cannot be read: permission denied", next=f"chmod +r {path.name}")
    with path.open("rb") as file:
        head = file.read(HEAD)
    found = _by_signature(path, head, size) or _by_name(path, head) or _by_protobuf(path, head)
    if found:
        return found
    if path.suffix == ".keras":
        raise ModelError(
            f"{path} is not a .keras file: it is damaged or only partly copied ({size:,} bytes)", next=AGAIN
        )
    raise ModelError(f"{path} is not a model that edgedl reads (it begins with {head[:8]!r})", next=READS)


def _sniff_folder(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    if (path / "checkpoint").is_file() or any(path.glob("*.ckpt*.index")):
        return "checkpoint"
    raise ModelError(
        f"the folder {path} is not a SavedModel: it has no saved_model.pb, and no TensorFlow checkpoint either",
        next="pass the folder that holds saved_model.pb, or a model file",
    )


def _by_signature(path: Path, head: bytes, size: int) -> str:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"PK") and _is_zip(path):
        return _sniff_zip(path)
    if head.startswith(TORCH_LEGACY) or _is_safetensors(head, size):
        return "torch"
    return "mxnet" if head.startswith(MXNET_PARAMS) else ""


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # damage to a directory of the 64-bit form
        raise ModelError(f"{path} is a damaged zip ({error})", next=AGAIN) from error


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return size > 10 and 2 <= length <= min(size - 8, 100 << 20) and head[8:9] == b"{"


def _by_name(path: Path, head: bytes) -> str:
    """Formats without a signature: the name, and a beginning that fits it."""
    text = b"\0" not in head
    if path.suffix == ".prototxt" and text and re.search(rb"\b(layers?|input|name)\s*[:{]", head):
        return "caffe"
    if path.suffix == ".json" and re.match(rb"\s*\{", head) and re.search(rb'"(nodes|arg_nodes|heads)"', head):
        return "mxnet"
    if path.suffix == ".msgpack" and (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return "jax"
    if path.suffix in CHECKPOINT_PARTS or re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
        return "checkpoint"
    return "graphdef" if path.suffix in (".pbtxt", ".pb") and text and re.match(rb"\s*(node|library) *\{", head) else ""


def _by_protobuf(path: Path, head: bytes) -> str:
    found = kind_of(path)
    if found == "saved_model":
        if path.name != "saved_model.pb":
            return ""
        raise ModelError(
            f"{path} is a part of a SavedModel", next=f"pass its folder: {path.parent if path.parent.name else '.'}"
        )
    if not found and path.suffix == ".onnx" and head[:1] in (b"\x08", b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x3a", b"\x42"):  # fmt: skip
        return "onnx"  # and a damaged one: its reader says where
    return found


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            names = [info.filename for info in file.infolist()[:MAX_MEMBERS]]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is a damaged zip ({error})", next=AGAIN) from error
    last = {name.rpartition("/")[2] for name in names}
    if "config.json" in names:
        return "keras"
    if {"data.pkl", "archive_format", "serialized_exported_program.json"} & last:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "jax"
    raise ModelError(
        f"{path} is a zip, but not a .keras file: it has no config.json, and it is no PyTorch file or .npz of weights either",
        next=READS,
    )
