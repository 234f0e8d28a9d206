"""The .tflite flatbuffer as plain objects: read within bounds, named, tidied, packed. Used by converter and inspector."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import MissingDependencyError, ModelError

IDENTIFIER = b"TFL3"
MAX_BYTES = 2**31 - 1  # of a flatbuffer: its offsets are 32 bits
MAX_RANK = 16
SHARED = 4  # equal names and lists may be stored once; so often, at most, on average
CUSTOM = 32  # BuiltinOperator of schema.fbs
FLOAT32, FLOAT16, INT32, UINT8, INT64, INT16, INT8, INT4 = 0, 1, 2, 3, 4, 7, 9, 17  # TensorType of schema.fbs
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16, 17: 4}
_DTYPES = {FLOAT32: np.float32, FLOAT16: np.float16, INT8: np.int8, INT16: np.int16, INT32: np.int32, INT64: np.int64}
_READ_ERRORS = (struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError)


@cache
def schema() -> Any:
    """The classes generated from schema.fbs, as LiteRT ships them. Raises MissingDependencyError."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError(
            f"reading .tflite files needs ai-edge-litert, which cannot be imported here ({error})",
            next="pip install ai-edge-litert",
        ) from error
    return schema_py_generated


@cache
def _names(enum: str) -> dict[int, str]:
    return {value: name for name, value in vars(getattr(schema(), enum)).items() if not name.startswith("_")}


def type_name(code: int) -> str:
    """The numpy-like name of a TensorType.

    >>> type_name(0), type_name(9)
    ('float32', 'int8')
    """
    return _names("TensorType").get(code, f"type{code}").lower()


def read(path: Path) -> Any:
    """The `ModelT` of a file, whose indices are all in range. Raises ModelError for anything else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", next="check the path") from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> Any:
    """The `ModelT` of a flatbuffer; `name` is for the message. Raises ModelError."""
    if data[4:8] != IDENTIFIER:
        raise ModelError(f"{name} is not a .tflite file (no {IDENTIFIER.decode()} mark)", next="pass a .tflite file")
    try:
        _bound(schema().Model.GetRootAs(data, 0), len(data))
        model = schema().ModelT.InitFromPackedBuf(data, 0)
        _check(model)
        _gather(model, data)
    except _READ_ERRORS as error:
        raise ModelError(
            f"{name} is damaged: its flatbuffer cannot be read ({error or type(error).__name__})",
            next="copy or download the model again",
        ) from error
    return model


def _bound(lazy: Any, size: int) -> None:
    """Refuse tables that share parts so often that reading them would take far more than the file's size."""
    count = 0
    for part in _lengths(lazy):
        count += part
        if count > size:
            raise ValueError("it claims more parts than fit into it")


def _lengths(lazy: Any) -> Iterator[int]:
    """The bytes that each list of a model takes at least, were nothing shared: what reading it costs, from its lengths."""
    yield 4 * (lazy.BuffersLength() + lazy.OperatorCodesLength() + lazy.SubgraphsLength() + lazy.SignatureDefsLength())
    for i in range(lazy.SubgraphsLength()):
        graph = lazy.Subgraphs(i)
        yield 4 * (graph.TensorsLength() + graph.OperatorsLength())
        for j in range(graph.TensorsLength()):
            tensor, sparse = graph.Tensors(j), graph.Tensors(j).Sparsity()
            details = tensor.VariantTensorsLength() + (sparse.DimMetadataLength() if sparse is not None else 0)
            yield (4 * (tensor.ShapeLength() + details) + len(tensor.Name() or b"")) // SHARED
        for j in range(graph.OperatorsLength()):
            yield 4 * (graph.Operators(j).InputsLength() + graph.Operators(j).OutputsLength()) // SHARED
    for i in range(lazy.SignatureDefsLength()):
        yield 4 * (lazy.SignatureDefs(i).InputsLength() + lazy.SignatureDefs(i).OutputsLength()) // SHARED


def _check(model: Any) -> None:
    """Raise ValueError for an index that points nowhere, or a shape that cannot be."""
    model.buffers, model.operatorCodes = list(model.buffers or []), list(model.operatorCodes or [])
    if not model.subgraphs:
        raise ValueError("it has no graph")
    for code in model.operatorCodes:  # files before 2020 have the number in the other field alone
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    for graph in model.subgraphs:
        graph.tensors, graph.operators = list(graph.tensors or []), list(graph.operators or [])
        graph.inputs, graph.outputs = indices(graph.inputs), indices(graph.outputs)
        for tensor in graph.tensors:
            tensor.shape = indices(tensor.shape)
            tensor.name = tensor.name or b""
            if tensor.buffer >= len(model.buffers) or len(tensor.shape) > MAX_RANK:
                raise ValueError("a tensor is out of range")
        for op in graph.operators:
            op.inputs, op.outputs = indices(op.inputs), indices(op.outputs)
            if op.opcodeIndex >= len(model.operatorCodes):
                raise ValueError("an operator is out of range")
        used = [graph.inputs, graph.outputs, *(ids for op in graph.operators for ids in (op.inputs, op.outputs))]
        if any(not -1 <= i < len(graph.tensors) for ids in used for i in ids):
            raise ValueError("an operator's tensor is out of range")


def _gather(model: Any, data: bytes) -> None:
    """Bring constants that lie behind the flatbuffer (as ai-edge-quantizer writes those of large models) into it."""
    for buffer in model.buffers:
        if buffer.offset > 1:
            if buffer.offset + buffer.size > len(data):
                raise ValueError("a constant is out of range")
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0


def indices(values: Any) -> list[int]:
    """A flatbuffer vector (None: empty) as a list of ints.

    >>> indices(np.array([1, -1]))
    [1, -1]
    """
    return [] if values is None else [int(v) for v in values]


def pack(model: Any) -> bytes:
    """A `ModelT` as a flatbuffer whose constants begin at multiples of 16 bytes, as kernels expect.

    Raises ModelError for one beyond 2 GiB.
    """
    import flatbuffers

    large = sum(len(b.data) for b in model.buffers if b.data is not None)
    if large > MAX_BYTES - (1 << 24):
        raise ModelError(f"the model has {large:,} bytes of weights; .tflite holds 2 GiB", next="use a smaller model")
    packer = _AlignedBuilder(flatbuffers.Builder)(1 << 16)
    packer.Finish(model.Pack(packer), file_identifier=IDENTIFIER)
    return bytes(packer.Output())


@cache
def _AlignedBuilder(builder: Any) -> Any:
    """A flatbuffers.Builder that aligns byte vectors (constants) as schema.fbs demands (force_align: 16)."""

    def create(self: Any, values: Array) -> Any:
        if values.dtype == np.uint8:
            self.Prep(16, values.size)
        return builder.CreateNumpyVector(self, values)

    return type("AlignedBuilder", (builder,), {"CreateNumpyVector": create, "__slots__": ()})


def op_name(model: Any, op: Any) -> str:
    """BuiltinOperator name, or "CUSTOM:name"."""
    code = model.operatorCodes[op.opcodeIndex]
    if code.builtinCode == CUSTOM:
        return f"CUSTOM:{text(code.customCode)}"
    return _names("BuiltinOperator").get(code.builtinCode, f"OP{code.builtinCode}")


def custom_names(model: Any) -> tuple[str, ...]:
    """Names of the operators that no plain runtime has: custom and Flex (TensorFlow's own) ones, sorted."""
    used = {op_name(model, op) for graph in model.subgraphs for op in graph.operators}
    return tuple(sorted(name.removeprefix("CUSTOM:") for name in used if name.startswith("CUSTOM:")))


def opcode(model: Any, builtin: int, version: int = 1) -> int:
    """The index of an operator code, appended where it is missing."""
    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version >= version:
            return i
    code = schema().OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def text(name: bytes | str | None) -> str:
    """A flatbuffer string.

    >>> text(b"conv"), text(None)
    ('conv', '')
    """
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""


def raw(model: Any, tensor: Any) -> Array | None:
    """The bytes of a constant (uint8 `[n]`), or None for what is computed."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor's values are in the file."""
    return raw(model, tensor) is not None


def elements(tensor: Any) -> int:
    """How many values a tensor has at batch 1."""
    return math.prod(max(d, 0) for d in tensor.shape)


def stored_bytes(tensor: Any) -> int:
    """How many bytes these values take (int4: two a byte)."""
    return (elements(tensor) * _BITS.get(tensor.type, 0) + 7) // 8


def values(model: Any, tensor: Any) -> Array:
    """A constant's values in its shape. Raises ValueError for one that is none, or of a type without a numpy twin."""
    data = raw(model, tensor)
    dtype = _DTYPES.get(tensor.type)
    if data is None or dtype is None:
        raise ValueError(f"'{text(tensor.name)}' is no constant of a plain type")
    return np.frombuffer(data.tobytes(), dtype).reshape(tensor.shape)


def store(model: Any, tensor: Any, array: Array) -> None:
    """Give a tensor new values, in a buffer of its own."""
    buffer = schema().BufferT()
    buffer.data = np.frombuffer(array.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
