"""Files of torch before torch reads them: which form, how large, and whether a .pt2 asks for anything but tensors.

`torch.export.load` unpickles without restriction, calls whatever function a node names, evaluates size expressions and
guards as Python and loads compiled libraries. So a .pt2 is read here first, against lists of what is known to be
harmless, and handed on as a copy without its guards and metadata.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import ModelError, UnsafeModelError
from ._torch_export import torch

AGAIN = "copy or download the model again"
MAX_BYTES = 4 << 30  # of a file, unpacked
MAX_MEMBERS = 20_000
MAX_JSON = 256 << 20
MAX_HEADER = 100 << 20  # of a .safetensors file: the limit of its own reader
MAX_DEPTH = 64
PYTHON = ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_")  # fmt: skip
FILES = (
    r"(?:from_file|save|dist_backward|rpc_async|rpc_sync|rpc_remote|PythonOp|IgnoredPythonOp)\b"  # and other machines
)
TARGET = re.compile(
    rf"torch\.ops\.(aten|prims?|higher_order|quantized_decomposed|torchvision|profiler)\.(?!{FILES})\w+(\.\w+)?"
    rf"|_operator\.({'|'.join(PYTHON)})|math\.(ceil|floor|trunc|sqrt|pow)|torch\.sym_\w+"
)
SCRIPT_OPS = ("aten", "prim", "prims", "quantized", "_quantized", "torchvision", "mkldnn", "mkldnn_prepacked", "onednn", "prepacked", "sparse", "profiler")  # fmt: skip
GAP = r"(?:[\s\\]|#[^\n]*)*"  # between two words of TorchScript
SCRIPT_FILE = re.compile(rf"\.{GAP}({FILES})")
SCRIPT_SPACE = re.compile(rf"(?<![\w.])ops{GAP}\.{GAP}(\w+)")
NAMES = frozenset(("Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CeilToInt", "FloorToInt", "TruncToInt", "CleanDiv", "IntTrueDiv", "FloatTrueDiv", "ToFloat", "PowByNatural", "Eq", "Ne", "Gt", "Ge", "Lt", "Le", "And", "Or", "Not", "True", "False", "Abs", "ceiling", "floor", "Identity", "Where", "int_oo", "oo", "Symbol", "Mul", "Add", "Pow", "Rational", "Float", "precision", "Integer", "positive", "integer", "nonnegative", "zero", "nonzero"))  # fmt: skip
TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", "collections.namedtuple", "torch.Size", "torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict", "null")  # fmt: skip
READ_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OSError, AssertionError, MemoryError, OverflowError, ImportError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)  # fmt: skip
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}  # fmt: skip


def form_of(path: Path) -> str:
    """ "pt2", "torchscript", "safetensors" or "pickle" (whatever torch.save wrote). Raises ModelError."""
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path} is larger than {MAX_BYTES:,} bytes", next="save only the weights of the model")
    try:
        is_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path} is a damaged zip ({error})", next=AGAIN) from error
    if not is_zip:
        with path.open("rb") as file:
            return "safetensors" if file.read(9)[8:] == b"{" else "pickle"
    names = {name.partition("/")[2] or name for name in _members(path)}
    last = {name.rpartition("/")[2] for name in names}
    if last & {"archive_format", "serialized_exported_program.json"}:
        return "pt2"
    return "torchscript" if "constants.pkl" in last and any(n.startswith("code/") for n in names) else "pickle"


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as file:
            infos = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is a damaged zip ({error})", next=AGAIN) from error
    total = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS or total > MAX_BYTES:
        raise ModelError(
            f"{path} unpacks to {len(infos):,} files of {total:,} bytes; the limits are {MAX_MEMBERS:,} and {MAX_BYTES:,}",
            next="save only the weights of the model",
        )
    return [info.filename for info in infos]


def unpickle(path: Path, *, allow_unsafe: bool) -> Any:
    """What torch.save wrote. Raises UnsafeModelError (it asks for more than tensors), ModelError (damaged)."""
    t = torch()
    try:
        return t.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"[Uu]nsupported (?:global: |class:? |operand )?(?:GLOBAL )?([\w.]+)", str(error))
        if not asked:
            raise _damaged(path, error) from error
        if allow_unsafe:
            return _unpickle_all(path)
        what = f": it asks for {asked.group(1)}"
        raise UnsafeModelError(
            f"{path.name} is a pickle that runs code when it is read, not only weights{what}",
            next="save the weights with torch.save(model.state_dict(), ...), or the model with torch.export.save; "
            "--allow-unsafe reads it, if you trust where it comes from",
        ) from error
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


def _unpickle_all(path: Path) -> Any:
    """With its code; only where the user said so. Raises ModelError."""
    try:
        return torch().load(path, map_location="cpu", weights_only=False)
    except READ_ERRORS as error:
        raise ModelError(
            f"{path.name} cannot be unpickled: {type(error).__name__}: {str(error)[:200]}",
            next="run in the folder whose code the model was made with, or save its state_dict() there",
        ) from error


def _damaged(path: Path, error: BaseException) -> ModelError:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ModelError(f"{path.name} is not a sound PyTorch file: {line[:200]}", next=AGAIN)


def load_script(path: Path, *, allow_unsafe: bool) -> Any:
    """A TorchScript module, which runs in torch's interpreter and calls no Python.

    That interpreter writes files, though: `torch.save` and `torch.from_file(..., shared=True)` are operators of it.
    Raises UnsafeModelError (it asks for them, or for operators of unknown libraries), ModelError (damaged).
    """
    try:
        file = path.read_bytes() if allow_unsafe else _vetted_script(path)
        return torch().jit.load(io.BytesIO(file), map_location="cpu")
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


def _vetted_script(path: Path) -> bytes:
    """The archive as Python's zipfile reads it, whose code was looked through. Raises UnsafeModelError, ModelError."""
    names = [name.lower() for name in _members(path)]  # torch finds them so
    if len(set(names)) != len(names):
        raise ModelError(f"{path.name} holds two files of the same name", next=AGAIN)
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as clean:
        for info in file.infolist():
            data = file.read(info)
            if info.filename.lower().endswith(".py"):
                _check_script(path, data.decode("utf-8", "replace"))
            clean.writestr(info.filename, data)
    return copy.getvalue()


def _check_script(path: Path, code: str) -> None:
    for found in SCRIPT_FILE.finditer(code):
        raise _unsafe(path, f"the operator {found[1]}")
    for space in SCRIPT_SPACE.findall(code):
        if space not in SCRIPT_OPS:
            raise _unsafe(path, f"the operators of the library {space[:80]}")


def load_program(path: Path, *, allow_unsafe: bool) -> Any:
    """The ExportedProgram of a .pt2. Raises UnsafeModelError (it asks for code), ModelError (damaged)."""
    try:
        file = path.read_bytes() if allow_unsafe else _vetted(path)
        return torch().export.load(io.BytesIO(file))
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


def _vetted(path: Path) -> bytes:
    """The archive without guards and metadata. Raises UnsafeModelError for what is not known to be harmless."""
    _members(path)
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as clean:
        for info in file.infolist():
            name, data = info.filename, file.read(info)
            if "aotinductor" in name or name.endswith((".so", ".dylib", ".dll")):
                raise _unsafe(path, f"the compiled library {name}")
            if name.endswith(".json"):
                data = _vetted_json(path, name, data)
            elif data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and not _is_weight(name):
                _only_tensors(path, name, data)
            clean.writestr(name, data)
    return copy.getvalue()


def _is_weight(name: str) -> bool:
    """Raw bytes, unless the configuration says that they are a pickle, which `_vetted_json` refuses."""
    return re.search(r"/data/(weights/weight|constants/tensor)_\d+$", name) is not None


def _only_tensors(path: Path, name: str, data: bytes) -> None:
    try:
        torch().load(io.BytesIO(data), weights_only=True)
    except READ_ERRORS as error:
        raise _unsafe(path, f"the pickle {name}") from error


def _vetted_json(path: Path, name: str, data: bytes) -> bytes:
    if len(data) > MAX_JSON:
        raise ModelError(f"{path.name}: {name} is larger than {MAX_JSON:,} bytes", next=AGAIN)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: {name} is damaged ({str(error)[:100]})", next=AGAIN) from error
    for item in _dicts(path, content):
        _check(path, item)
        if "target" in item and "metadata" in item:
            item["metadata"] = {}
        if "guards_code" in item:
            item["guards_code"] = []
    return json.dumps(content).encode()


def _dicts(path: Path, value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if depth > MAX_DEPTH:
        raise ModelError(f"{path.name} is nested too deeply", next=AGAIN)
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dicts(path, child, depth + 1)


def _check(path: Path, item: dict[str, Any]) -> None:
    target, expression, operator = item.get("target"), item.get("expr_str"), item.get("as_operator")
    if operator is not None and not (isinstance(operator, str) and TARGET.fullmatch(operator)):
        raise _unsafe(path, f"the function {str(operator)[:80]}")
    if isinstance(target, str) and "inputs" in item and not TARGET.fullmatch(target):
        raise _unsafe(path, f"the function {target[:80]}")
    if expression is not None and not _is_size(expression):
        raise _unsafe(path, f"the expression {str(expression)[:80]!r}")
    if item.get("use_pickle") is True or not str(item.get("path_name", "weight_")).startswith(("weight_", "tensor_")):
        raise _unsafe(path, f"the pickled object {str(item.get('path_name'))[:80]}")
    for spec in ("in_spec", "out_spec"):
        for kind in re.findall(r'"type": *"([^"]*)"', str(item.get(spec, ""))):
            if kind not in TREES:
                raise _unsafe(path, f"the class {kind[:80]}")


def _is_size(text: Any) -> bool:
    """Whether an expression is arithmetic of symbols such as s0 and of sizes.

    >>> _is_size("2*s0 + FloorDiv(s1 - 1, 4)"), _is_size("__import__('os')"), _is_size("9**9**9")
    (True, False, False)
    """
    if not isinstance(text, str) or len(text) > 1000 or not re.fullmatch(r"[\w\s+\-*/(),.<>=&|~%']*", text):
        return False
    names = re.findall(r"[A-Za-z_]\w*", text)
    return text.count("**") + text.count("Pow") <= 1 and all(
        n in NAMES or re.fullmatch(r"[a-z]{1,3}\d+", n) for n in names
    )


def _unsafe(path: Path, what: str) -> UnsafeModelError:
    return UnsafeModelError(
        f"{path.name} asks for {what}, which could run any code",
        next="export it again from operators of torch alone; --allow-unsafe reads it, if you trust where it comes from",
    )


def read_safetensors(path: Path) -> dict[str, Array]:
    """The arrays of a .safetensors file, by name. Raises ModelError.

    Format: 8 bytes of length, JSON of `name -> {dtype, shape, data_offsets}`, the data
    (https://github.com/huggingface/safetensors).
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found: dict[str, Array] = {}
    try:
        if not 2 <= length <= len(data) - 8:
            raise ValueError("its header is longer than the file")
        if length > MAX_HEADER:
            raise ValueError(f"its header has {length:,} bytes")
        body, left = memoryview(data)[8 + length :], len(data) - 8 - length
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                left -= entry["data_offsets"][1] - entry["data_offsets"][0]
                if left < 0:
                    raise ValueError("its tensors share their data, which the format does not allow")
                found[name] = _tensor(body, entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError, OverflowError) as error:
        raise ModelError(f"{path.name} is not a sound .safetensors file: {error}", next=AGAIN) from error
    return found


def _tensor(body: memoryview, entry: dict[str, Any]) -> Array:
    begin, end = entry["data_offsets"]
    if not (0 <= begin <= end <= len(body)):
        raise ValueError("the data of a tensor lies outside of the file")
    if entry["dtype"] not in SAFETENSORS:
        raise ValueError(f"data type {entry['dtype']} is not read")
    values = np.frombuffer(body[begin:end], SAFETENSORS[entry["dtype"]]).reshape([int(n) for n in entry["shape"]])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.copy()
