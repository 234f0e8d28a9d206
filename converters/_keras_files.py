"""What is checked in a Keras file before a framework may open it: zip, HDF5 and JSON from strangers."""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import MissingDependencyError, ModelError

MAX_BYTES = 8 << 30  # of all a file unpacks to
MAX_RATIO = 100  # unpacked bytes per byte of the file ...
FREE_BYTES = 64 << 20  # ... beyond these: small files of zeros pack well and are harmless
MAX_MEMBERS = 10_000
MAX_JSON_BYTES = 64 << 20
MAX_OBJECTS = 1_000_000  # groups and datasets of an HDF5 file
AGAIN = "copy or download the model again"

# What unpacking and parsing a damaged file raises, and what frameworks raise when they read one that does not fit.
DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
FAILURES = (
    *DAMAGED,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    NameError,
)


def reason(error: BaseException, limit: int = 200) -> str:
    """The first sentence of an exception, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    first = text.split(". ")[0].rstrip(".")
    return first if len(first) <= limit else first[: limit - 1] + "…"


def read_keras_zip(path: Path) -> tuple[Any, str]:
    """A `.keras` file, checked -> its parsed config.json and the version of Keras that wrote it ("" if not said).

    Raises ModelError for whatever is damaged, dangerous to unpack or not a `.keras` file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            _check_members(path, file)
            names = set(file.namelist())
            if "config.json" not in names:
                raise ModelError(f"{path} is a zip, but not a .keras file: it has no config.json", next=AGAIN)
            config = parse_json(path, "config.json", file.read("config.json"))
            metadata = parse_json(path, "metadata.json", file.read("metadata.json")) if "metadata.json" in names else {}
            if "model.weights.h5" in names:
                with file.open("model.weights.h5") as weights:
                    check_hdf5(path, io.BytesIO(weights.read()), path.stat().st_size)
            elif "model.weights.npz" not in names:
                raise ModelError(f"{path} has no weights: model.weights.h5 is missing in it", next=AGAIN)
    except (*DAMAGED, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{path} is a damaged .keras file ({reason(error)})", next=AGAIN) from error
    version = metadata.get("keras_version", "") if isinstance(metadata, dict) else ""
    return config, str(version)


def _check_members(path: Path, file: zipfile.ZipFile) -> None:
    members = file.infolist()
    names = [m.filename for m in members]
    if len(members) > MAX_MEMBERS:
        raise ModelError(f"{path} holds {len(members):,} files; a .keras file holds a few", next=AGAIN)
    if len(set(names)) != len(names):
        raise ModelError(f"{path} holds two files of the same name, which no .keras file does", next=AGAIN)
    for member in members:
        parts = PurePosixPath(member.filename).parts
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if is_link or not parts or parts[0] == "/" or ".." in parts or "\\" in member.filename or ":" in parts[0]:
            raise ModelError(
                f"{path} is refused: its member '{member.filename}' would be unpacked outside of its folder",
                next="get the model from a source you trust",
            )
        if member.flag_bits & 1:
            raise ModelError(f"{path} is encrypted", next="unpack it with its password and zip it again without")
        if member.filename.endswith(".json") and member.file_size > MAX_JSON_BYTES:
            raise ModelError(
                f"{path} is refused: {member.filename} is {member.file_size:,} bytes long", next="get a file you trust"
            )
    check_expansion(path, sum(m.file_size for m in members), path.stat().st_size)


def check_expansion(path: Path, unpacked: int, packed: int) -> None:
    """Raise ModelError where a file of `packed` bytes unpacks to far more than a model would."""
    if unpacked > MAX_BYTES or (unpacked > FREE_BYTES and unpacked > MAX_RATIO * packed):
        raise ModelError(
            f"{path} is refused: its {packed:,} bytes unpack to {unpacked:,} (a zip bomb, or a damaged file)",
            next=f"get it from a source you trust; edgedl unpacks at most {MAX_BYTES:,} bytes and {MAX_RATIO} times "
            "the size of the file",
        )


@contextlib.contextmanager
def with_suffix(path: Path, suffix: str) -> Iterator[Path]:
    """The path itself, or a link to it under a name that ends as frameworks insist it must."""
    if path.name.endswith(suffix):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{suffix}"
        link.symlink_to(path.resolve())
        yield link


def parse_json(path: Path, what: str, text: str | bytes) -> Any:
    """Parsed JSON, or a ModelError that names the file and the part."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {what} in it is not valid JSON ({reason(error)})", next=AGAIN) from error


def h5py() -> Any:
    """The module `h5py`. Raises MissingDependencyError."""
    try:
        import h5py as module
    except ImportError as error:
        raise MissingDependencyError(
            f"reading Keras files needs h5py, which cannot be imported here ({error})",
            next="pip install 'edgedl[compress]'",
        ) from error
    return module


def check_hdf5(path: Path, file: Path | IO[bytes], packed: int) -> None:
    """Raise ModelError where an HDF5 file is damaged, points outside itself, or is far larger inside than outside."""
    try:
        with h5py().File(file, "r") as opened:
            check_expansion(path, sum(_sizes(path, opened)), packed)
    except (*DAMAGED, RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is a damaged HDF5 file ({reason(error)})", next=AGAIN) from error


def _sizes(path: Path, root: Any) -> Iterator[int]:
    """Unpacked bytes of every dataset, whose links are looked at but never followed out of the file."""
    module = h5py()
    seen, waiting, objects = set(), [root], 0
    while waiting:
        group = waiting.pop()
        for name in group:
            objects += 1
            link = group.get(name, getlink=True)
            if objects > MAX_OBJECTS:
                raise ModelError(f"{path} is refused: it holds over {MAX_OBJECTS:,} HDF5 objects", next=AGAIN)
            if isinstance(link, module.ExternalLink):
                raise _points_outside(path, f"{group.name.rstrip('/')}/{name}")
            if isinstance(link, module.SoftLink):
                continue
            item = group[name]
            address = module.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, module.Group):
                waiting.append(item)
            elif isinstance(item, module.Dataset):
                if item.external or item.is_virtual:
                    raise _points_outside(path, item.name)
                yield int(item.nbytes)


def _points_outside(path: Path, name: str) -> ModelError:
    return ModelError(
        f"{path} is refused: '{name}' in it points to another file (an HDF5 external link)",
        next="get the model from a source you trust, or save it again with model.save()",
    )


def read_h5_config(path: Path) -> tuple[Any, str]:
    """A Keras `.h5` file, checked -> its parsed model_config and the version of Keras that wrote it ("" if not said).

    Raises ModelError, also for a file with nothing but weights.
    """
    check_hdf5(path, path, path.stat().st_size)
    try:
        with h5py().File(path, "r") as file:
            attributes = {k: file.attrs[k] for k in ("model_config", "keras_version") if k in file.attrs}
            only_weights = "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file
    except (*DAMAGED, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is a damaged HDF5 file ({reason(error)})", next=AGAIN) from error
    if "model_config" not in attributes:
        if only_weights:
            raise ModelError(
                f"{path} holds weights only, without the network they belong to",
                next="build the network in Python, load_weights() into it, and save it with model.save('model.keras')",
            )
        raise ModelError(
            f"{path} is an HDF5 file, but not a Keras model: it has no model_config",
            next="pass a file written by model.save()",
        )
    config = attributes["model_config"]
    if not isinstance(config, (str, bytes)) or len(config) > MAX_JSON_BYTES:
        raise ModelError(f"{path} is damaged: its model_config is not text", next=AGAIN)
    version = attributes.get("keras_version", "")
    return parse_json(path, "model_config", config), version.decode() if isinstance(version, bytes) else str(version)
