"""OnnxEngine: .onnx files in ONNX Runtime."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..artifact import Array, Artifact, TensorSpec
from ..errors import MissingDependencyError, ModelError, TargetError
from .base import Engine, Shape, one_sentence, run_failed, same_dtype


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


def onnxruntime() -> Any:
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
    onnxruntime()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    found = [v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception)]
    return (*found, RuntimeError, ValueError)


def _open_onnx(path: Path, threads: int, reference: bool) -> Any:
    ort = onnxruntime()
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
        same_dtype(artifact, spec, have[spec.inside])


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


def describe_onnx(path: Path) -> Artifact:
    session = _open_onnx(path, 1, reference=True)

    def specs(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(n.name, _onnx_shape(n), _onnx_dtype(n.type)) for n in nodes)

    return Artifact(path, "onnx", specs(session.get_inputs()), specs(session.get_outputs()))
