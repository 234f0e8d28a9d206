"""The one wrapper around interpreters (LiteRT, TFLite runtime, ONNX Runtime): open a file, run it, read what it is."""

from __future__ import annotations

import importlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .artifact import Array, Artifact, TensorSpec
from .errors import DataError, MissingDependencyError, ModelError, TargetError, UsageError

Shape = tuple[int | None, ...]  # None: any length
Errors = tuple[type[Exception], ...]
BATCH = 64  # inputs at once in `predict`, where the file takes any number


class Engine(ABC):
    """An open model file. Arrays go in and come out in the file's own dtypes, by the names of the artifact's specs.

    Not for use from several threads at once. `batch` is the number of samples the file takes in one call (None: any).
    """

    def __init__(self, artifact: Artifact, shapes: Sequence[Shape], errors: Errors, *, one_by_one: bool) -> None:
        self.artifact = artifact
        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self.closed = False
        self.errors = errors  # what the interpreter raises
        self.shapes = tuple(shapes)  # of the inputs, as the file has them
        lengths = {s[0] for s in shapes if s}
        self.has_batch = len(lengths) == 1  # otherwise the first axes are not all samples: taken as they are
        self.batch = (next(iter(lengths)) or (1 if one_by_one else None)) if self.has_batch else None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. `inputs` are one batch or, along their first axis, any number of independent samples.

        The state of a stateful file lives on from one call to the next; samples of one call do not see each other's.
        Raises DataError for a name, dtype or shape the file does not take, TargetError when the interpreter fails.
        """
        return self.timed(inputs)[0]

    def timed(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """`run`, and the nanoseconds the interpreter itself took (not: copying in and out, where it can be told apart)."""
        self.require_open()
        feed = self._checked(inputs)
        count = self._samples(feed)
        outputs, elapsed = self._once(feed) if self.batch in (None, count) else self._batches(feed, self.batch, count)
        return {s.name: a for s, a in zip(self.outputs, outputs, strict=True)}, elapsed

    def _batches(self, feed: list[Array], size: int, count: int) -> tuple[list[Array], int]:
        """Run in batches of the file's size; the last one is filled up with copies of its last sample."""
        elapsed, parts = 0, []
        for start in range(0, count, size):
            self.reset()
            part, took = self._once([_chunk(a, start, size) for a in feed])
            parts.append(part)
            elapsed += took
        if len(parts) == 1:
            return [a[:count] if a.ndim and len(a) == size else a for a in parts[0]], elapsed
        return [_joined([p[i] for p in parts], size, count) for i in range(len(self.outputs))], elapsed

    def _checked(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The arrays in the file's order. Raises DataError."""
        known = [s.name for s in self.inputs]
        if inputs.keys() != set(known):
            raise DataError(
                f"{self.artifact.path.name} takes the inputs {', '.join(known)}, and was given {', '.join(inputs) or 'none'}",
                next="give one array for each of its inputs",
            )
        return [self._fitting(s, shape, inputs[s.name]) for s, shape in zip(self.inputs, self.shapes, strict=True)]

    def _fitting(self, spec: TensorSpec, shape: Shape, x: Array) -> Array:
        rest = shape[1:] if shape else ()
        inner = x.shape[1:] if x.ndim else ()
        fits = x.ndim == len(shape) and all(w in (None, h) for w, h in zip(rest, inner, strict=True))
        if not fits:
            raise DataError(
                f"input '{spec.name}' of {self.artifact.path.name} takes shape {show_shape(shape)}, and was given {show_shape(x.shape)}",
                next="give samples of that shape along the first axis",
            )
        if x.dtype.name != spec.dtype:
            raise DataError(
                f"input '{spec.name}' of {self.artifact.path.name} takes {spec.dtype}, and was given {x.dtype.name}",
                next=f"convert it to {spec.dtype} (real values: TensorSpec.quantize)",
            )
        return x

    def _samples(self, feed: list[Array]) -> int:
        """How many samples were given. Raises DataError for none, or another number for another input."""
        counts = {len(a) for a in feed if a.ndim}
        if self.has_batch:
            fits = len(counts) == 1
        else:
            fits = all(s[0] in (None, len(a)) for a, s in zip(feed, self.shapes, strict=True) if s)
        if 0 in counts or not fits:
            given = ", ".join(f"{s.name} {show_shape(a.shape)}" for s, a in zip(self.inputs, feed, strict=True))
            raise DataError(
                f"the inputs of {self.artifact.path.name} must hold the same number of samples, at least one: {given}",
                next="give as many samples to each input",
            )
        return max(counts, default=1)

    def require_open(self) -> None:
        """Raises UsageError when it was closed."""
        if self.closed:
            raise UsageError(f"{self.artifact.path.name} was closed", next="open it again")

    @abstractmethod
    def _once(self, feed: list[Array]) -> tuple[list[Array], int]:
        """One call of the interpreter: outputs in order, nanoseconds."""

    @abstractmethod
    def reset(self) -> None:
        """Clear the variables of a stateful file (streaming, fused RNNs)."""

    def close(self) -> None:
        """Free the interpreter."""
        self.closed = True

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def show_shape(shape: Shape) -> str:
    """A shape in words.

    >>> show_shape((None, 32, 3))
    '[any, 32, 3]'
    """
    return f"[{', '.join('any' if d is None else str(d) for d in shape)}]"


def _chunk(x: Array, start: int, size: int) -> Array:
    part = x[start : start + size] if x.ndim else x
    if x.ndim and len(part) < size:
        part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
    return part


def _joined(parts: list[Array], size: int, count: int) -> Array:
    """Batches put together; outputs without a batch axis are stacked."""
    if all(p.ndim and len(p) == size for p in parts):
        return np.concatenate(parts)[:count]
    return np.stack(parts)


# --- LiteRT


class TfliteEngine(Engine):
    """A .tflite file in LiteRT (or the TFLite runtime): samples are run one by one unless the file has a larger batch."""

    def __init__(self, artifact: Artifact, threads: int, reference: bool) -> None:
        self._options = (artifact.path, threads, reference)
        self.interpreter = _open_tflite(*self._options)
        self._has_resources: bool | None = None  # looked up when it matters
        found_in, found_out = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        signature = _signature(self.interpreter)
        details = _match(artifact, artifact.inputs, found_in, signature.get("inputs", []))
        self.output_indices = [
            d["index"] for d in _match(artifact, artifact.outputs, found_out, signature.get("outputs", []))
        ]
        self.input_indices = [d["index"] for d in details]
        self._fresh = self._now = [tuple(map(int, d["shape"])) for d in details]
        super().__init__(artifact, [_tflite_shape(d) for d in details], (RuntimeError, ValueError), one_by_one=True)

    def _once(self, feed: list[Array]) -> tuple[list[Array], int]:
        interpreter = self.interpreter
        try:
            self._resize([a.shape for a in feed])
            for index, x in zip(self.input_indices, feed, strict=True):
                interpreter.set_tensor(index, x)
            start = time.perf_counter_ns()
            interpreter.invoke()
            elapsed = time.perf_counter_ns() - start
            return [interpreter.get_tensor(i) for i in self.output_indices], elapsed
        except self.errors as error:
            raise run_failed(self.artifact.path, error) from error

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        if shapes == self._now:
            return
        for index, shape in zip(self.input_indices, shapes, strict=True):
            self.interpreter.resize_tensor_input(index, shape, strict=True)
        self.interpreter.allocate_tensors()
        self._now = shapes

    def reset(self) -> None:
        self.require_open()
        if self._has_resources is None:
            self._has_resources = any(d["dtype"] is np.object_ for d in self.interpreter.get_tensor_details())
        if self._has_resources:  # resource variables, which reset_all_variables leaves as they are
            self.interpreter = _open_tflite(*self._options)
            self._now = self._fresh
        else:
            self.interpreter.reset_all_variables()

    def close(self) -> None:
        super().close()
        self.interpreter = None


@cache
def _tflite_module() -> Any:
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise MissingDependencyError(
        "running .tflite files needs LiteRT, which is not installed",
        next="pip install ai-edge-litert (on 32-bit Arm: pip install tflite-runtime 'numpy<2')",
    )


def _open_tflite(path: Path, threads: int, reference: bool) -> Any:
    module = _tflite_module()
    kinds = module.OpResolverType
    try:
        interpreter = module.Interpreter(
            str(path),
            num_threads=threads,
            experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if reference else kinds.AUTO,
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise _open_failed_tflite(path, str(error)) from error
    return interpreter


def _open_failed_tflite(path: Path, reason: str) -> ModelError | TargetError:
    """What LiteRT said, as an error with a remedy: an operator it lacks, or a file that is no model."""
    flex = re.findall(r"\(Flex(\w+)\)", reason)
    if flex or "Select TensorFlow op" in reason:
        named = f"the TensorFlow operator {', '.join(flex)}" if flex else "TensorFlow operators (Flex)"
        return TargetError(
            f"{path.name} needs {named}, which LiteRT does not have",
            next="convert it again with edgedl convert, without Select TF ops",
        )
    custom = re.search(r"unresolved custom op: ?([\w:.\-]+?)(?:\.?See|\.?$|\s)", reason)
    if custom:
        return TargetError(
            f"{path.name} needs the custom operator {custom[1].rstrip('.')}, which LiteRT does not have",
            next="use the interpreter the file was made for (a Coral model: its _edgetpu-less version)",
        )
    version = re.search(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'", reason)
    if version:
        return TargetError(
            f"{path.name} needs {version[1]} version {version[2]}, which this LiteRT does not have",
            next="pip install -U ai-edge-litert, or convert the model again with an older scheme",
        )
    return ModelError(
        f"{path.name} cannot be opened: LiteRT says '{one_sentence(reason)}'",
        next="copy the file again, or convert the model again",
    )


def _signature(interpreter: Any) -> dict[str, list[str]]:
    """The names in the first signature, in the order of the subgraph's tensors where that can be told."""
    found = interpreter.get_signature_list()
    if not found:
        return {}
    key = next(iter(found))
    runner = interpreter.get_signature_runner(key)
    order: dict[str, list[str]] = {}
    for kind, details in (
        ("inputs", interpreter.get_input_details()),
        ("outputs", interpreter.get_output_details()),
    ):
        by_index = {d["index"]: name for name, d in getattr(runner, f"get_{kind[:-1]}_details")().items()}
        names = [by_index.get(d["index"], "") for d in details]
        if all(names):
            order[kind] = names
    return order


def _match(
    artifact: Artifact, specs: Sequence[TensorSpec], details: Sequence[dict[str, Any]], signature: Sequence[str]
) -> list[dict[str, Any]]:
    """The file's tensors in the order of the specs: by tensor name, else by name in the signature."""
    names = [str(d["name"]) for d in details]
    inside = [s.inside for s in specs]
    tables = [dict(zip(names, details, strict=True)), dict(zip(signature, details, strict=False))]
    for table, wanted in ((tables[0], inside), (tables[1], inside), (tables[1], [s.name for s in specs])):
        if len(table) == len(details) and len(specs) == len(details) and all(w in table for w in wanted):
            found = [table[w] for w in wanted]
            for spec, d in zip(specs, found, strict=True):
                _same_dtype(artifact, spec, np.dtype(d["dtype"]).name)
            return found
    raise ModelError(
        f"the metadata of {artifact.path.name} names the tensors {', '.join(inside)}, and the file has {', '.join(names)}",
        next=f"remove {artifact.path.name}.json if it belongs to another file, or convert the model again",
    )


def _same_dtype(artifact: Artifact, spec: TensorSpec, dtype: str) -> None:
    if spec.dtype != dtype:
        raise ModelError(
            f"the metadata of {artifact.path.name} says that '{spec.name}' is {spec.dtype}, and in the file it is {dtype}",
            next=f"remove {artifact.path.name}.json if it belongs to another file, or convert the model again",
        )


def _tflite_shape(detail: Mapping[str, Any]) -> Shape:
    signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return tuple(None if d < 0 else int(d) for d in signature)


def _tflite_spec(detail: Mapping[str, Any], name: str) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    quantized = scale != 0
    tensor = str(detail["name"])
    return TensorSpec(
        name=name or tensor,
        shape=_tflite_shape(detail),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
        tensor=tensor if name and name != tensor else "",
    )


def _describe_tflite(path: Path) -> Artifact:
    interpreter = _open_tflite(path, 1, reference=True)
    names = _signature(interpreter)

    def specs(kind: str, details: Sequence[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        labels = names.get(kind) or [""] * len(details)
        return tuple(_tflite_spec(d, label) for d, label in zip(details, labels, strict=True))

    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return Artifact(path, "tflite", specs("inputs", inputs), specs("outputs", outputs))


# --- ONNX Runtime


class OnnxEngine(Engine):
    """An .onnx file in ONNX Runtime on the CPU."""

    def __init__(self, artifact: Artifact, threads: int, reference: bool) -> None:
        self.session = _open_onnx(artifact.path, threads, reference)
        found_in, found_out = self.session.get_inputs(), self.session.get_outputs()
        for specs, found in ((artifact.inputs, found_in), (artifact.outputs, found_out)):
            _match_onnx(artifact, specs, found)
        shapes = {node.name: _onnx_shape(node) for node in found_in}
        self._in = [s.inside for s in artifact.inputs]
        self._out = [s.inside for s in artifact.outputs]
        super().__init__(artifact, [shapes[name] for name in self._in], onnx_errors(), one_by_one=False)

    def _once(self, feed: list[Array]) -> tuple[list[Array], int]:
        named = dict(zip(self._in, feed, strict=True))
        try:
            start = time.perf_counter_ns()
            outputs = self.session.run(self._out, named)
            return outputs, time.perf_counter_ns() - start
        except self.errors as error:
            raise run_failed(self.artifact.path, error) from error

    def reset(self) -> None:
        """Nothing to clear: an .onnx file keeps no state."""
        self.require_open()

    def close(self) -> None:
        super().close()
        self.session = None


def _ort() -> Any:
    try:
        ort = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"running .onnx files needs '{error.name}', which is not installed", next="pip install 'edgedl[onnx]'"
        ) from error
    return ort


@cache
def onnx_errors() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime; they share no base class but Exception."""
    _ort()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    found = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*found, RuntimeError, ValueError)


def _open_onnx(path: Path, threads: int, reference: bool) -> Any:
    ort = _ort()
    if hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if reference:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except onnx_errors() as error:
        raise _open_failed_onnx(path, str(error)) from error


def _open_failed_onnx(path: Path, reason: str) -> ModelError | TargetError:
    """What ONNX Runtime said, as an error with a remedy."""
    op = re.search(r"([\w.:\-]+) is not a registered function/op|implementation for (?:the node )?\W*(\w+)", reason)
    domain = re.search(r"No (?:Op|opset|Schema) registered for (\w+)|No opset import for domain '([\w.]+)'", reason)
    named = next((g for m in (op, domain) if m for g in m.groups() if g), None)
    if named:
        return TargetError(
            f"{path.name} needs the operator {named}, which ONNX Runtime does not have: {one_sentence(reason)}",
            next="export it again with standard operators, or pip install -U onnxruntime",
        )
    return ModelError(
        f"{path.name} cannot be opened: ONNX Runtime says '{one_sentence(reason)}'",
        next="copy the file again (and its .data file, if it has one), or export the model again",
    )


def _match_onnx(artifact: Artifact, specs: Sequence[TensorSpec], nodes: Sequence[Any]) -> None:
    have = {node.name: _onnx_dtype(node.type) for node in nodes}
    wanted = [s.inside for s in specs]
    if set(wanted) != set(have):
        raise ModelError(
            f"the metadata of {artifact.path.name} names the tensors {', '.join(wanted)}, and the file has {', '.join(have)}",
            next=f"remove {artifact.path.name}.json if it belongs to another file, or convert the model again",
        )
    for spec in specs:
        _same_dtype(artifact, spec, have[spec.inside])


_ONNX_DTYPES = {"float": "float32", "double": "float64", "string": "str"}  # the others have numpy's own names


def _onnx_dtype(kind: str) -> str:
    """numpy's name for a type as ONNX Runtime prints it.

    >>> _onnx_dtype("tensor(float)"), _onnx_dtype("tensor(uint8)")
    ('float32', 'uint8')
    """
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return _ONNX_DTYPES.get(inner, inner)


def _onnx_shape(node: Any) -> Shape:
    return tuple(d if isinstance(d, int) and d > 0 else None for d in node.shape)


def _describe_onnx(path: Path) -> Artifact:
    session = _open_onnx(path, 1, reference=True)

    def specs(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(n.name, _onnx_shape(n), _onnx_dtype(n.type)) for n in nodes)

    return Artifact(path, "onnx", specs(session.get_inputs()), specs(session.get_outputs()))


# --- either


def one_sentence(reason: str, limit: int = 160) -> str:
    """What a library said, on one line and not too long.

    >>> one_sentence("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.\\n")
    'INVALID_PROTOBUF : Protobuf parsing failed'
    """
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : ", "", " ".join(reason.split())).rstrip(". ")
    return text if len(text) <= limit else f"{text[:limit]}..."


def run_failed(path: Path, error: Exception) -> TargetError:
    """The error for an interpreter that opened a file and then could not run it."""
    return TargetError(
        f"{path.name} cannot be run: the interpreter says '{one_sentence(str(error))}'",
        next="check it with `edgedl inspect`, or convert the model again",
    )


def format_of(path: Path) -> str:
    """ "tflite" or "onnx", by content, then by name. Raises ModelError for what is neither."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}", next="check the path")
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:] == b"TFL3":
        return "tflite"
    if not head:
        raise ModelError(f"{path} is empty (0 bytes)", next="copy or convert the model again")
    if path.suffix == ".onnx":
        return "onnx"
    raise ModelError(
        f"{path} is neither a .tflite nor an .onnx file (it begins with {head!r})",
        next="pass a converted model, or make one with edgedl convert",
    )


_DESCRIBE = {"tflite": _describe_tflite, "onnx": _describe_onnx}
_ENGINES: dict[str, type[TfliteEngine] | type[OnnxEngine]] = {"tflite": TfliteEngine, "onnx": OnnxEngine}


def describe(path: Path | str) -> Artifact:
    """The artifact at `path`: its metadata where it carries some, else what the interpreter says of its inputs and outputs.

    Raises ModelError (no model, damaged), TargetError (an operator the interpreter lacks), MissingDependencyError.
    """
    path = Path(path)
    kind = format_of(path)
    return Artifact.load(path) or _DESCRIBE[kind](path)


def open_engine(artifact: Artifact, *, threads: int = 1, reference: bool = False) -> Engine:
    """Open an artifact's file on the CPU.

    `reference`: the plain kernels (no XNNPACK in LiteRT, no graph optimization in ONNX Runtime), for parity checks.
    Raises ModelError, TargetError, MissingDependencyError.
    """
    return _ENGINES[format_of(artifact.path)](artifact, threads, reference)


def preload(format: str) -> None:
    """Import the interpreter of a format, so that a later `open_engine` is not charged for it."""
    _tflite_module() if format == "tflite" else _ort()


def to_input(spec: TensorSpec, x: Array) -> Array:
    """Real values -> what the file takes. An array in a quantized input's own integer dtype is taken as quantized already."""
    return x if x.dtype.name == spec.dtype else spec.quantize(x)


def predict(source: Artifact | Engine, inputs: Mapping[str, Array], *, threads: int = 1) -> dict[str, Array]:
    """Real values in, real values out, whatever the file's own types are, in bounded batches along the first axis.

    Raises DataError, ModelError, TargetError.
    """
    if isinstance(source, Artifact):
        with open_engine(source, threads=threads) as engine:
            return predict(engine, inputs)
    count = max((len(x) for x in inputs.values() if x.ndim), default=1)
    specs = {s.name: s for s in source.inputs}
    size, parts = BATCH if source.has_batch else max(count, 1), []
    for start in range(0, max(count, 1), size):
        source.reset()
        feed = {k: x[start : start + size] if x.ndim else x for k, x in inputs.items()}
        parts.append(source.run({k: to_input(specs[k], x) if k in specs else x for k, x in feed.items()}))
    return {s.name: s.dequantize(_together([p[s.name] for p in parts])) for s in source.outputs}


def _together(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
