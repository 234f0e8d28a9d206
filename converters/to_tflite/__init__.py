"""Model -> .tflite: a float file from Keras (or the one given), the plan carried out on it, types and names as asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...artifact import Artifact, write_atomic
from ...data import Dataset
from ...errors import ConversionError, UsageError
from ...layouts import Layouts, plain, preprocessing_in_file
from ...model import Model, QuantizationPlan, already_quantized
from .. import _tflite as fb
from . import interface
from .exporter import export, has_rnn, layers
from .graph import nodes, tidy, unique_names
from .masks import soften
from .quantizer import Job, Left, quantize
from .ranges import Trial, measure, observe, samples
from .scales import fold_scales

TOOLS = ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer")
FLOAT = QuantizationPlan(scheme="float32")


@dataclass(frozen=True, slots=True)
class ToTflite:
    """Write a model as one .tflite file for LiteRT."""

    keep_layout: bool = False  # inputs and outputs with the axes of the original (NCHW), else the Keras model's (NHWC)

    def __call__(self, model: Model, data: Dataset, out: Path, *, base: Path | None = None) -> Artifact:
        """Carry out `model.plan`; see protocols.Converter. Raises ConversionError, UsageError, DataError."""
        plan = model.plan or FLOAT
        layouts = model.layouts if self.keep_layout and model.is_keras else {}
        data = replace(data, layouts=layouts)
        graph = _float(model, plan, base, layouts)
        before = fb.pack(graph)
        ranges: dict[str, interface.Range] = {}
        left: list[Left] = []
        if plan.scheme != "float32" or plan.overrides:
            graph, left, ranges = _quantized(model, data, plan, graph, before)
        names = _names(model)
        interface.set_types(graph, plan.io, ranges)
        interface.rename_signature(graph, *names)
        tidy(graph)
        _refuse_custom(graph)
        content = fb.pack(graph)
        inputs, outputs = interface.describe(graph, names)
        write_atomic(out, content)
        metadata = _metadata(model, data, plan, left) | {"transposes": _transposes(graph)}
        notes = _notes(model, plan)
        metadata |= {"notes": notes} if notes else {}
        return Artifact(out, "tflite", inputs, outputs, metadata=metadata).save()


def _transposes(graph: Any) -> int:
    """How many TRANSPOSE operators a file has, all its subgraphs together."""
    return sum(fb.op_name(graph, op) == "TRANSPOSE" for part in graph.subgraphs for op in part.operators)


def _float(model: Model, plan: QuantizationPlan, base: Path | None, layouts: Layouts) -> Any:
    """The float graph, its inputs and outputs in the model's order, its tensors' names unique."""
    if not model.is_keras:
        graph = _given(model)
    elif base and not (plan.is_static and has_rnn(model.net)):
        graph = fb.read(base)
    else:
        graph = fb.parse(export(model, unroll=plan.is_static, layouts=layouts), "the converter's output")
        interface.order_by_signature(graph)
        fold_scales(graph)
    unique_names(graph)
    interface.rename_signature(graph, *_names(model))
    return graph


def _notes(model: Model, plan: QuantizationPlan) -> list[str]:
    """What the user should know about the file."""
    if model.is_keras and plan.is_static and has_rnn(model.net):
        return ["the loops of the RNN layers are unrolled: the file has their operators once for each step"]
    return []


def _names(model: Model) -> tuple[list[str], list[str]]:
    return [s.name for s in model.inputs], [s.name for s in model.outputs]


def _given(model: Model) -> Any:
    """The graph of a .tflite file that stays one."""
    if model.net.format != "tflite":
        raise UsageError(
            f"{model.net.path.name} is an .{model.net.format} file, which cannot become .tflite directly",
            next=f"convert it to .{model.net.format}, or pass the Keras model it was made from",
        )
    graph = fb.read(model.net.path)
    if any(_has_scale(t) for part in graph.subgraphs for t in part.tensors):
        raise already_quantized(model)
    return graph


def _has_scale(tensor: Any) -> bool:
    """Whether a tensor's integers stand for real values."""
    known = tensor.quantization
    return tensor.type != fb.FLOAT32 and known is not None and known.scale is not None and len(known.scale) > 0


def _quantized(
    model: Model, data: Dataset, plan: QuantizationPlan, graph: Any, content: bytes
) -> tuple[Any, list[Left], dict[str, interface.Range]]:
    """The quantized graph, what stayed float, and the ranges that were used."""
    known, last = _keras_names(model)
    names = [s.name for s in model.inputs]
    ranges: dict[str, interface.Range] = {}
    if plan.is_static:
        feeds = partial(samples, data, names, plan.samples)
        soften(graph, lambda watch: observe(graph, content, feeds(), watch))
        content = fb.pack(graph)
        ranges = measure(graph, content, plan, feeds())
        ranges |= _decided(plan, graph, known, last)
    first = next(samples(data, names, 1), []) if len(data.calibration) else []
    job = Job(content, plan, ranges, known, last, Trial(dict(enumerate(first))))
    return *quantize(job), ranges


def _keras_names(model: Model) -> tuple[frozenset[str], list[str]]:
    """Names of all layers, and of those the outputs come from; nothing for a model that is a file."""
    if not model.is_keras:
        return frozenset(), []
    known = frozenset(layer.name for layer in layers(model.net))
    return known, [tensor._keras_history.operation.name for tensor in model.net.outputs]


def _decided(
    plan: QuantizationPlan, graph: Any, known: frozenset[str], last: list[str]
) -> Iterator[tuple[str, interface.Range]]:
    """The plan's own ranges, by tensor name: a layer's output is what operators of other layers read."""
    found = nodes(graph, known, last)[: len(graph.subgraphs[0].operators)]
    readers: dict[int, list[tuple[str, ...]]] = {}
    operators = graph.subgraphs[0].operators
    for node, op in zip(found, operators, strict=True):
        for i in op.inputs:
            readers.setdefault(i, []).append(node.layers)
    for node, op in zip(found, operators, strict=True):
        for layer in node.layers:
            if layer in plan.ranges and all(layer not in others for i in op.outputs for others in readers.get(i, [])):
                for name in node.outputs:
                    low, high = plan.ranges[layer]
                    yield name, (min(low, 0.0), max(high, 0.0))


def _refuse_custom(graph: Any) -> None:
    custom = fb.custom_names(graph)
    if custom:
        raise ConversionError(
            f"the .tflite would need operators that no plain runtime has: {', '.join(custom)}",
            next="replace the layers that use them, or convert to ONNX with --format onnx",
        )


def _metadata(model: Model, data: Dataset, plan: QuantizationPlan, left: list[Left]) -> dict[str, Any]:
    """What the artifact says about itself; see artifact.Artifact."""
    known = {s.name for s in model.inputs}
    found: dict[str, Any] = {"scheme": plan.scheme, "io": plan.io, "versions": _versions()}
    if plan.is_static:
        found["calibration"] = plan.calibration
        found["calibration_samples"] = min(plan.samples, len(data.calibration))
    if plan.overrides:
        found["overrides"] = dict(plan.overrides)
    if left:
        found["left_float"] = [asdict(entry) for entry in left]
    if data.labels:
        found["labels"] = list(data.labels)
    preprocessing = {name: p.to_json() for name, p in data.preprocessing.items() if name in known}
    if preprocessing:
        found["preprocessing"] = preprocessing_in_file(preprocessing, data.layouts)
    if model.layouts:
        found["original_layouts"] = plain(model.layouts)
    if data.layouts:
        found["layouts"] = plain(data.layouts)
    return found


def _versions() -> dict[str, str]:
    found = {}
    for tool in TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["ToTflite"]
