"""The one wrapper around interpreters: open a model file, run it, read what its inputs and outputs are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..artifact import Array, Artifact
from ..errors import ModelError
from .base import Engine, Shape, one_sentence, run_failed, show_shape
from .litert import TfliteEngine, describe_tflite, litert
from .ort import OnnxEngine, describe_onnx, onnx_errors, onnxruntime
from .protobuf import kind_of

__all__ = [
    "Engine", "OnnxEngine", "Shape", "TfliteEngine", "describe", "format_of", "one_sentence", "onnx_errors",
    "open_engine", "predict", "preload", "run_failed", "show_shape",
]  # fmt: skip
BATCH = 64  # inputs at once in `predict`, where the file takes any number


def format_of(path: Path) -> str:
    """The format, "tflite" or "onnx", by content, then by name. Raises ModelError for what is neither."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}", next="check the path")
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:] == b"TFL3":
        return "tflite"
    if not head:
        raise ModelError(f"{path} is empty (0 bytes)", next="copy or convert the model again")
    if path.suffix == ".onnx" or kind_of(path) == "onnx":
        return "onnx"
    raise ModelError(
        f"{path} is neither a .tflite nor an .onnx file (it begins with {head!r})",
        next="pass a converted model, or make one with edgedl convert",
    )


_DESCRIBE = {"tflite": describe_tflite, "onnx": describe_onnx}
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
    litert() if format == "tflite" else onnxruntime()


def predict(source: Artifact | Engine, inputs: Mapping[str, Array], *, threads: int = 1) -> dict[str, Array]:
    """Real values in, real values out, whatever the file's own types are, in bounded batches along the first axis.

    Integers are real values too: nothing is taken as quantized already.

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
        parts.append(source.run({k: specs[k].quantize(x) if k in specs else x for k, x in feed.items()}))
    return {s.name: s.dequantize(_together([p[s.name] for p in parts])) for s in source.outputs}


def _together(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
