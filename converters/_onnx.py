"""Reading, checking and running .onnx files: shared by the ONNX converter and the ONNX inspector."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import MissingDependencyError, ModelError, UnsafeModelError

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # what a stock ONNX Runtime executes
QUANTIZED = re.compile(r"(?i:quantize)|Integer|NBits|^Q(Linear|Gemm|Attention|MoE|Embed|Ordered)")  # operators
MAX_BYTES = (1 << 31) - 1  # of a protobuf message, and so of a .onnx file without external data


def onnx() -> Any:
    """The onnx package with the submodules used here. Raises MissingDependencyError."""
    try:
        for name in (
            "checker",
            "helper",
            "numpy_helper",
            "shape_inference",
            "version_converter",
            "inliner",
            "external_data_helper",
        ):
            importlib.import_module(f"onnx.{name}")
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        raise _missing(error) from error


def onnxruntime() -> Any:
    """The onnxruntime package, silent but for errors. Raises MissingDependencyError."""
    try:
        ort = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    ort.set_default_logger_severity(4)
    return ort


def _missing(error: ModuleNotFoundError) -> MissingDependencyError:
    return MissingDependencyError(
        f"working with .onnx files needs the package '{error.name}', which is not installed",
        next="pip install 'edgedl[onnx]'",
    )


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime; they share no base class but Exception."""
    onnxruntime()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return (*(getattr(state, n) for n in names), state.RuntimeException, RuntimeError, ValueError)


def proto_errors() -> tuple[type[Exception], ...]:
    """What onnx raises for a model that is not well-formed."""
    o = onnx()
    message = importlib.import_module("google.protobuf.message")
    infer = o.shape_inference.InferenceError
    convert = getattr(o.version_converter, "ConvertError", RuntimeError)
    return (message.DecodeError, o.checker.ValidationError, infer, convert, RuntimeError, ValueError, TypeError)


def last_line(error: BaseException) -> str:
    """The last line of an exception that says something.

    >>> last_line(ValueError("in node 'x'\\n  bad axis 7\\n"))
    'bad axis 7'
    """
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by")[0]  # Keras adds the arguments
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def read(path: Path) -> Any:
    """The ModelProto in a file: well-formed, local functions inlined, external data read in.

    Raises ModelError for what is no ONNX model, UnsafeModelError for external data outside its folder.
    """
    o = onnx()
    with _soundness(path):
        model, _ = _parsed(path)
        o.checker.check_model(model)
        for tensor in tensors(model.graph):
            array(tensor)  # raises where its declared size is not that of its data
        return o.inliner.inline_local_functions(model) if model.functions else model


def self_contained(path: Path) -> bytes | None:
    """The content of a file with its external data read in; None where it has none. Raises as `read` does."""
    with _soundness(path):
        model, moved = _parsed(path)
        content: bytes | None = model.SerializeToString(deterministic=True) if moved else None
    return content


@contextlib.contextmanager
def _soundness(path: Path) -> Iterator[None]:
    """What the onnx package says of a damaged file, as a ModelError."""
    try:
        yield
    except proto_errors() as error:
        raise ModelError(
            f"{path.name} is not a sound ONNX model: {last_line(error)}",
            next="copy or download it again, or export it again",
        ) from error


def _parsed(path: Path) -> tuple[Any, int]:
    """The ModelProto in a file, and how many of its tensors were kept in other files."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}", next="check the path")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path.name} is larger than 2 GiB", next="use a smaller model")
    model = onnx().load_model(str(path), load_external_data=False)
    if not model.graph.node and not model.graph.output:
        raise ValueError("it holds no graph")
    _refuse_bytes(model)
    return model, _load_external(model, path)


def _refuse_bytes(model: Any) -> None:
    """A damaged name that is no UTF-8 comes out of protobuf as bytes. Raises ValueError."""
    for g in graphs(model.graph):
        ends = [v.name for v in (*g.input, *g.output, *g.value_info, *g.initializer)]
        names = [n for node in g.node for n in (node.name, node.op_type, node.domain, *node.input, *node.output)]
        if not all(isinstance(name, str) for name in (*ends, *names)):
            raise ValueError("a name in it is not text")


def _load_external(model: Any, path: Path) -> int:
    """Read weights kept in files of their own; returns how many were.

    A file must lie in the model's folder, and be no link out of it.
    """
    o = onnx()
    folder = path.parent.resolve()
    total, count = path.stat().st_size, 0
    for tensor in tensors(model.graph):
        if tensor.data_location != o.TensorProto.EXTERNAL:
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
            raise UnsafeModelError(
                f"{path.name} keeps the weights '{tensor.name}' in '{location}', outside its own folder",
                next="export it again with the weights inside the .onnx file",
            )
        if not file.is_file():
            raise ModelError(
                f"{path.name} keeps the weights '{tensor.name}' in {location}, which is not there",
                next=f"copy {location} beside {path.name}",
            )
        total += int(next((e.value for e in tensor.external_data if e.key == "length"), file.stat().st_size))
        if total > MAX_BYTES:
            raise ModelError(f"the weights of {path.name} are larger than 2 GiB", next="use a smaller model")
        o.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = o.TensorProto.DEFAULT
        del tensor.external_data[:]
        count += 1
    return count


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs inside its nodes (Loop, If, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def tensors(graph: Any) -> Iterator[Any]:
    """Every constant: initializers and values of Constant nodes, of inner graphs too."""
    for g in graphs(graph):
        yield from g.initializer
        for node in g.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t


def foreign_ops(model: Any) -> list[str]:
    """Operators outside the domains that a stock ONNX Runtime executes, as "domain::Op"."""
    found = {(n.domain, n.op_type) for g in graphs(model.graph) for n in g.node if n.domain not in STANDARD_DOMAINS}
    return sorted(f"{domain}::{op}" for domain, op in found)


def transposes(model: Any) -> int:
    """How many Transpose operators a model has, inner graphs included."""
    return sum(node.op_type == "Transpose" for g in graphs(model.graph) for node in g.node)


def is_quantized(model: Any) -> bool:
    """Whether any operator reads, makes or computes with quantized values (ONNX's own and com.microsoft's)."""
    return any(QUANTIZED.search(node.op_type) for g in graphs(model.graph) for node in g.node)


def array(tensor: Any) -> Array:
    """A TensorProto as numpy."""
    return np.asarray(onnx().numpy_helper.to_array(tensor))


def dtype_name(element: int) -> str:
    """The numpy name of a TensorProto element type ("float32", "int4", ...); "string" has none of its own."""
    o = onnx()
    if element == o.TensorProto.STRING:
        return "string"
    return str(o.helper.tensor_dtype_to_np_dtype(element).name) if element else "unknown"


def shape_of(info: Any) -> tuple[int | None, ...]:
    """The shape in a ValueInfoProto; None for what is not a fixed number."""
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims)


def inferred(model: Any) -> Any:
    """The model with inferred shapes and types of its inner tensors; itself where inference gives up."""
    o = onnx()
    try:
        return o.shape_inference.infer_shapes(model, data_prop=True)
    except proto_errors():
        return model


def session(model: Any, *, optimize: bool = True) -> Any:
    """An ONNX Runtime session on the CPU for a ModelProto (or its bytes). Raises what `runtime_errors` names."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def exposed(model: Any, names: Sequence[str]) -> Any:
    """A copy of the model whose outputs are the tensors `names`."""
    o = onnx()
    copy = o.ModelProto()
    copy.CopyFrom(model)
    known = {v.name: v for v in (*copy.graph.value_info, *copy.graph.output, *copy.graph.input)}
    outputs = [known[n] if n in known else o.ValueInfoProto(name=n) for n in names]
    kept = [o.ValueInfoProto.FromString(v.SerializeToString()) for v in outputs]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    return copy


def groups(model: Any, names: Sequence[str], batch: int, budget: int = 256 << 20) -> list[list[str]]:
    """Tensors in groups whose float32 values for `batch` inputs fit `budget` bytes (unknown dimensions count as 64)."""
    info = {v.name: v for v in inferred(model).graph.value_info}
    found: list[list[str]] = [[]]
    used = 0
    for name in names:
        shape = shape_of(info[name])[1:] if name in info else ()
        size = 4 * batch * int(np.prod([d or 64 for d in shape], dtype=np.int64))
        if found[-1] and used + size > budget:
            found.append([])
            used = 0
        found[-1].append(name)
        used += size
    return found


def fixed_batch(model: Any) -> int:
    """The batch size that the file insists on, or 0."""
    sizes = [shape[0] for i in model.graph.input if (shape := shape_of(i))]
    return next((int(s) for s in sizes if s is not None), 0)
