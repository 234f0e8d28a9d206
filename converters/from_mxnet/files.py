"""MXNet's two files: the graph (`-symbol.json`) and the weights (`-0000.params`), read without MXNet."""

from __future__ import annotations

import ast
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError
from .._onnx import MAX_BYTES

MAX_JSON = 16 << 20  # those of the largest published networks are below 2 MB
MAX_NODES = 50_000
MAX_ARRAYS = 100_000
MAX_RANK = 32
MAX_NAME = 4096
MAX_VALUE = 2000  # characters of one parameter that is read as a number or a tuple
AGAIN = "copy or download it again, or save it again with mxnet.model.save_checkpoint"

LIST_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # versions of one array; before V1 there was none
BFLOAT16 = 12
TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?", "<i2", "<u2", "<u4", "<u8", "<u2")  # by mshadow's number


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a symbol: `inputs` are (node, output) pairs; `op` is "null" for variables."""

    op: str
    name: str
    inputs: tuple[tuple[int, int], ...]
    attrs: Mapping[str, str]

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.name} ({self.op})"


def find_files(path: Path, weights: str = "") -> tuple[Path, Path, list[str]]:
    """The symbol and the parameters, one of which is `path`, and a note where one of several epochs was chosen.

    `X-symbol.json` belongs to `X-0012.params` (the highest epoch) or `X.params`, else to the only file of its kind in
    the folder. Raises ModelError.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}", next="check the path")
    if weights:
        other = Path(weights)
        if not other.is_file():
            raise ModelError(f"there is no file {other}", next="check the path of the weights")
        return (other, path, []) if path.suffix == ".params" else (path, other, [])
    prefix = re.sub(r"(-symbol|-\d+)$", "", path.stem)
    near = sorted(p for p in path.parent.iterdir() if p.is_file())
    if path.suffix == ".params":
        named = [p for p in near if p.name in (f"{prefix}-symbol.json", f"{prefix}.json")]
        found = named or [p for p in near if p.name.endswith("-symbol.json")]
        return _only(path, found[:1] if named else found, f"{prefix}-symbol.json"), path, []
    epochs = [p for p in near if re.fullmatch(re.escape(prefix) + r"(-\d+)?\.params", p.name)]
    found = epochs[-1:] or [p for p in near if p.suffix == ".params"]
    chosen = _only(path, found, f"{prefix}-0000.params")
    return path, chosen, [f"the weights are {chosen.name}, the last of {len(epochs)}"] if len(epochs) > 1 else []


def _only(path: Path, found: Sequence[Path], wanted: str) -> Path:
    if len(found) != 1:
        which = f"{len(found)} files there could be it" if found else "there is none"
        raise ModelError(
            f"{path.name} needs its other half beside it, such as {wanted}, and {which}",
            next=f"call it {wanted}, or name it with --weights",
        )
    return found[0]


def read_symbol(path: Path) -> tuple[list[Node], list[tuple[int, int]]]:
    """The nodes of a symbol in the order they run, and its outputs as (node, output). Raises ModelError."""
    if path.stat().st_size > MAX_JSON:
        raise ModelError(
            f"{path.name} is larger than {MAX_JSON >> 20} MB: it is no MXNet symbol", next="check the path"
        )
    try:
        data = json.loads(path.read_bytes())
        nodes = [_node(i, entry) for i, entry in enumerate(data["nodes"][: MAX_NODES + 1])]
        heads = [_edge(entry, len(nodes)) for entry in data["heads"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"
        raise ModelError(f"{path.name} is no MXNet symbol that can be read ({reason[:200]})", next=AGAIN) from error
    if len(nodes) > MAX_NODES or not heads:
        what = f"more than {MAX_NODES:,} nodes" if heads else "no output"
        raise ModelError(f"{path.name} has {what}", next="use another model")
    return nodes, heads


def _node(index: int, entry: Any) -> Node:
    """A node of the JSON. Its inputs must come before it, so that no cycle is possible. Raises ValueError and such."""
    found: dict[str, str] = {}
    for key in ("param", "attr", "attrs"):  # up to 0.8, up to 0.12, later
        found.update({str(k): str(v) for k, v in (entry.get(key) or {}).items()})
    if not isinstance(entry["op"], str) or not isinstance(entry["name"], str):
        raise ValueError(f"node {index} has no name")
    return Node(entry["op"], entry["name"], tuple(_edge(e, index) for e in entry["inputs"]), found)


def _edge(entry: Any, limit: int) -> tuple[int, int]:
    node, output = entry[0], entry[1]
    if not (isinstance(node, int) and isinstance(output, int) and 0 <= node < limit and 0 <= output < 1 << 16):
        raise ValueError(f"{entry} does not name a node before it: the graph is cyclic or cut")
    return node, output


class _Reader:
    """Bytes of a file, read in order; asking for more than there is raises ModelError."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = memoryview(data), name, 0

    def take(self, n: int) -> memoryview:
        if n < 0 or n > len(self.data) - self.at:
            raise ModelError(f"{self.name} is damaged: it ends at byte {len(self.data)} inside of a field", next=AGAIN)
        self.at += n
        return self.data[self.at - n : self.at]

    def numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def fail(self, what: str) -> ModelError:
        return ModelError(f"{self.name} is damaged: {what} (before byte {self.at})", next=AGAIN)


def read_params(path: Path) -> dict[str, Array]:
    """The arrays of a parameter file by name, without the prefixes "arg:" and "aux:".

    The format is `NDArray::Save` of MXNet's src/ndarray/ndarray.cc: every version of it, dense arrays only.
    Raises ModelError.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path.name} is larger than 2 GiB", next="use a smaller model")
    r = _Reader(path.read_bytes(), path.name)
    if bytes(r.data[:4]) == b"PK\x03\x04":
        raise ModelError(f"{path.name} is in the format of MXNet 2 (npz)", next="save it with MXNet 1.x")
    if len(r.data) < 24 or r.numbers("QQ")[0] != LIST_MAGIC:
        raise ModelError(f"{path.name} is no MXNet parameter file", next=AGAIN)
    (count,) = r.numbers("Q")
    if count > MAX_ARRAYS:
        raise r.fail(f"it claims to hold {count:,} arrays")
    arrays = [_array(r) for _ in range(count)]
    (named,) = r.numbers("Q")
    if named != count:
        raise r.fail(f"it has {count} arrays and {named} names")
    names = [_name(r) for _ in range(count)]
    if r.at != len(r.data):
        raise r.fail(f"{len(r.data) - r.at} bytes are left over")
    return {re.sub(r"^(arg|aux):", "", name): a for name, a in zip(names, arrays, strict=True) if a is not None}


def _name(r: _Reader) -> str:
    (size,) = r.numbers("Q")
    if size > MAX_NAME:
        raise r.fail(f"a name claims to have {size:,} bytes")
    try:
        return bytes(r.take(size)).decode()
    except UnicodeDecodeError as error:
        raise r.fail("a name is not text") from error


def _array(r: _Reader) -> Array | None:
    """One array; None where it was saved without a value."""
    (magic,) = r.numbers("I")
    if magic in (V2, V3):
        (storage,) = r.numbers("i")
        if storage not in (-1, 0):
            raise ModelError(f"{r.name} holds sparse arrays", next="save it with dense parameters (stype='default')")
        (rank,) = r.numbers("i")
        none = rank < 0 if magic == V3 else rank == 0
        wide = True
    elif magic == V1:
        (rank,) = r.numbers("I")
        none, wide = rank == 0, True
    else:
        rank, none, wide = magic, magic == 0, False
    if none:
        return None
    if not 0 <= rank <= MAX_RANK:
        raise r.fail(f"an array claims to have {rank} dimensions")
    shape = r.numbers(f"{rank}{'q' if wide else 'I'}")
    r.numbers("ii")  # the device it was on
    (kind,) = r.numbers("i")
    if not 0 <= kind < len(TYPES) or any(d < 0 for d in shape):
        raise r.fail(f"an array of shape {shape} has the unknown type {kind}")
    dtype = np.dtype(TYPES[kind])
    values = np.frombuffer(r.take(math.prod(shape) * dtype.itemsize), dtype)
    if kind == BFLOAT16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def parse_value(text: str) -> Any:
    """A parameter as it is written in the JSON: a number, a boolean, a tuple, None, or the text itself.

    >>> parse_value("(2, 3)"), parse_value("True"), parse_value("1e-3"), parse_value("max"), parse_value("2L")
    ((2, 3), True, 0.001, 'max', 2)
    """
    if len(text) > MAX_VALUE:
        return text
    plain = re.sub(r"(?<=\d)L\b", "", text.strip())  # Python 2 wrote 2L
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(plain, plain))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
    return tuple(value) if isinstance(value, list) else value
