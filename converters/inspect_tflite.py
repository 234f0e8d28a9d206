"""What is in a .tflite: its operators with parameters, multiply-accumulates and memory; its error layer by layer.

The flatbuffer is parsed here, so files that no interpreter runs are read as well. Only `compare` runs a file; a damaged
one can crash the interpreter, which is why the pipeline calls this in a child process.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array, TensorSpec
from ..engine import describe
from ..errors import ModelError
from ..protocols import Layer, LayerError
from . import _tflite as fb

SUFFIXES = ("_dequant", "_quantized", "_int", "_int8", "_int16")  # of the twins that quantization makes
RECURRENT = ("LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "RNN", "SVDF",
             "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN")  # fmt: skip


@dataclass(frozen=True, slots=True)
class TfliteInspector:
    """Reads a .tflite without changing it."""

    def layers(self, path: Path) -> tuple[Layer, ...]:
        """The operators in the order of execution, those of called graphs (loops: one turn) after the main one.

        Shapes and counts are for batch 1. What dequantizes a constant is counted with the operator that reads it.
        Raises ModelError.
        """
        model = fb.read(path)
        try:
            return tuple(layer for graph in model.subgraphs for layer in _Graph(model, graph).layers())
        except (IndexError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{path} is damaged: an operator lacks what its kind has ({error})", next="copy the model again"
            ) from error

    def compare(self, float_path: Path, path: Path, inputs: Mapping[str, Array]) -> tuple[LayerError, ...]:
        """Signal to quantization noise of each operator whose output both files have, in the order of execution.

        `inputs` float or integer as the network takes them, by name; they are run one by one. Raises ModelError.
        """
        model = fb.read(path)
        bytes_of = {layer.name: layer.bytes for layer in self.layers(path)}
        ours, theirs = _Run(path), _Run(float_path)
        pairs = [
            (kind, tensor, theirs.tensors[name])
            for kind, tensor, name in _outputs(model)
            if name in theirs.tensors and tensor in ours.tensors
        ]
        power = {tensor: [0.0, 0.0] for _, tensor, _ in pairs}
        for i in range(min(len(x) for x in inputs.values())):
            for run in (ours, theirs):
                run({name: x[i : i + 1] for name, x in inputs.items()})
            for _, tensor, reference in pairs:
                _add(power[tensor], theirs.value(reference), ours.value(ours.tensors[tensor]))
        return tuple(
            LayerError(readable(tensor), kind, _decibels(*power[tensor]), bytes_of.get(readable(tensor), 0))
            for kind, tensor, _ in pairs
            if power[tensor][0] > 0 or power[tensor][1] > 0
        )

    def custom_ops(self, path: Path) -> tuple[str, ...]:
        """Names of the custom and Flex operators. Raises ModelError."""
        return fb.custom_names(fb.read(path))


def readable(name: str) -> str:
    """A fused name's part that multiplies, else its first.

    >>> readable("m_1/relu_1/Relu;m_1/conv_1/convolution;m_1/bn_1/sub")
    'm_1/conv_1/convolution'
    """
    parts = [part for part in name.split(";") if part]
    return next((part for part in parts if part.endswith(("onvolution", "depthwise", "MatMul"))), (parts or [name])[0])


class _Graph:
    """One graph of a file, and which of its constants were counted."""

    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph
        self.constants = {i for i, t in enumerate(graph.tensors) if fb.is_constant(model, t)}
        self.unpacked = {
            op.outputs[0]: op.inputs[0]
            for op in graph.operators
            if fb.op_name(model, op) in ("DEQUANTIZE", "DENSIFY") and op.inputs and op.inputs[0] in self.constants
        }
        self.counted: set[int] = set()

    def layers(self) -> list[Layer]:
        return [self.layer(op) for op in self.graph.operators if not (op.outputs and op.outputs[0] in self.unpacked)]

    def layer(self, op: Any) -> Layer:
        kind = fb.op_name(self.model, op)
        outputs = [self.graph.tensors[i] for i in op.outputs if i >= 0]
        weights = [self.graph.tensors[i] for i in self.weights(op)]
        first = outputs[0] if outputs else None
        return Layer(
            name=kind if first is None else readable(fb.text(first.name)),
            op=kind,
            output=() if first is None else _shape(first),
            dtype="" if first is None else fb.type_name(first.type),
            parameters=sum(map(fb.elements, weights)),
            bytes=sum(map(fb.stored_bytes, weights)),
            macs=self.macs(kind, op),
            activation_bytes=sum(map(fb.stored_bytes, outputs)),
        )

    def weights(self, op: Any) -> list[int]:
        """The constants an operator is the first to read that stand for real values (not: shapes, axes)."""
        found = []
        for i in dict.fromkeys(self.unpacked.get(i, i) for i in op.inputs):
            if i in self.constants and i not in self.counted and _is_real(self.graph.tensors[i]):
                self.counted.add(i)
                found.append(i)
        return found

    def macs(self, kind: str, op: Any) -> int:
        """Multiply-accumulates at batch 1; 0 for operators that multiply no matrices."""
        inputs = [self.graph.tensors[i] for i in op.inputs if i >= 0]
        if kind in RECURRENT:
            steps = fb.elements(inputs[0]) // max(inputs[0].shape[-1] if inputs[0].shape else 1, 1)
            return steps * sum(fb.elements(t) for t in inputs[1:] if len(t.shape) == 2 and _is_real(t))
        count = MACS.get(kind)
        return 0 if count is None or len(inputs) < 2 else count(op, inputs, self.graph.tensors[op.outputs[0]])


def _matmul(op: Any, inputs: list[Any], output: Any) -> int:
    transposed = op.builtinOptions is not None and op.builtinOptions.adjX
    return fb.elements(output) * int(inputs[0].shape[-2 if transposed else -1])


MACS: dict[str, Callable[[Any, list[Any], Any], int]] = {
    "CONV_2D": lambda op, i, out: fb.elements(out) * math.prod(i[1].shape[1:]),
    "DEPTHWISE_CONV_2D": lambda op, i, out: fb.elements(out) * math.prod(i[1].shape[1:3]),
    "TRANSPOSE_CONV": lambda op, i, out: fb.elements(i[2]) * math.prod(i[1].shape[:3]),
    "CONV_3D": lambda op, i, out: fb.elements(out) * math.prod(i[1].shape[:4]),
    "FULLY_CONNECTED": lambda op, i, out: fb.elements(out) * i[1].shape[-1],
    "BATCH_MATMUL": _matmul,
}


def _is_real(tensor: Any) -> bool:
    q = tensor.quantization
    return tensor.type in (fb.FLOAT32, fb.FLOAT16) or (q is not None and q.scale is not None and len(q.scale) > 0)


def _shape(tensor: Any) -> tuple[int | None, ...]:
    signature = fb.indices(tensor.shapeSignature) or tensor.shape
    return tuple(None if d < 0 else d for d in signature)


def _outputs(model: Any) -> list[tuple[str, str, str]]:
    """(operator, name of its output, name of that in the float file) of the main graph, once each."""
    graph, found = model.subgraphs[0], {}
    for op in graph.operators:
        kind = fb.op_name(model, op)
        if kind in ("QUANTIZE", "DEQUANTIZE") or not op.outputs:
            continue
        name = fb.text(graph.tensors[op.outputs[0]].name)
        plain = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)
        found[name] = (kind, name, plain)
    return list(found.values())


class _Run:
    """A file in an interpreter that keeps every tensor, without the delegates, which may not write all of them."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.specs: dict[str, TensorSpec] = {s.name: s for s in describe(path).inputs}
        self.path = path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.interpreter = Interpreter(
                    model_path=str(path),
                    experimental_preserve_all_tensors=True,
                    experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                )
            self.interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise _refused(path, error) from error
        self.tensors = {d["name"]: d for d in self.interpreter.get_tensor_details()}
        self.inputs = {d["name"]: d for d in self.interpreter.get_input_details()}

    def __call__(self, feed: Mapping[str, Array]) -> None:
        try:
            for name, spec in self.specs.items():
                detail = self.inputs[spec.inside]
                value = spec.quantize(feed[name])
                if tuple(detail["shape"]) != value.shape:
                    self.interpreter.resize_tensor_input(detail["index"], value.shape)
                    self.interpreter.allocate_tensors()
                    self.inputs = {d["name"]: d for d in self.interpreter.get_input_details()}
            for name, spec in self.specs.items():
                self.interpreter.set_tensor(self.inputs[spec.inside]["index"], spec.quantize(feed[name]))
            self.interpreter.invoke()
        except KeyError as error:
            raise ModelError(
                f"{self.path.name} has no input {error}", next="name the inputs as the model does"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise _refused(self.path, error) from error

    def value(self, detail: Mapping[str, Any]) -> Array | None:
        """A tensor's real values, float64; None for one that has none."""
        try:
            x = self.interpreter.get_tensor(detail["index"])
        except ValueError:  # an output nobody reads is not allocated
            return None
        scale, zero_point = detail["quantization"]
        values: Array = x.astype(np.float64)
        return (values - zero_point) * scale if scale else values


def _refused(path: Path, error: Exception) -> ModelError:
    last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return ModelError(f"LiteRT does not run {path.name}: {last[:200]}", next="check the file with edgedl inspect")


def _add(power: list[float], reference: Array | None, value: Array | None) -> None:
    """Add the power of a signal and of its error."""
    if reference is not None and value is not None and reference.shape == value.shape:
        power[0] += float(np.sum(reference**2))
        power[1] += float(np.sum((reference - value) ** 2))


def _decibels(signal: float, noise: float) -> float:
    """Signal to noise ratio.

    >>> _decibels(100.0, 1.0), _decibels(1.0, 0.0)
    (20.0, inf)
    """
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
