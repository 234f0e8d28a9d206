"""TfliteEngine: .tflite files in LiteRT, or in the older TFLite runtime."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array, Artifact, TensorSpec
from ..errors import MissingDependencyError, ModelError, TargetError
from .base import Engine, Shape, one_sentence, run_failed, same_dtype


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
def litert() -> Any:
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
    module = litert()
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
                same_dtype(artifact, spec, np.dtype(d["dtype"]).name)
            return found
    raise ModelError(
        f"the metadata of {artifact.path.name} names the tensors {', '.join(inside)}, and the file has {', '.join(names)}",
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


def describe_tflite(path: Path) -> Artifact:
    interpreter = _open_tflite(path, 1, reference=True)
    names = _signature(interpreter)

    def specs(kind: str, details: Sequence[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        labels = names.get(kind) or [""] * len(details)
        return tuple(_tflite_spec(d, label) for d, label in zip(details, labels, strict=True))

    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return Artifact(path, "tflite", specs("inputs", inputs), specs("outputs", outputs))
