"""Writes a model as .onnx and carries out its quantization plan: from Keras, or straight from a float .onnx file."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...artifact import Artifact, TensorSpec, write_atomic
from ...errors import ConversionError, UsageError
from ...layouts import Layouts, plain, preprocessing_in_file, specs_in_file
from ...model import STATIC, Model, QuantizationPlan
from .. import _onnx

if TYPE_CHECKING:
    from ...data import Dataset

FLOAT = QuantizationPlan(scheme="float32")
TOOLS = ("edgedl", "onnx", "onnxruntime", "tf2onnx", "keras", "tensorflow")


@dataclass(frozen=True, slots=True)
class ToOnnx:
    """Write a model as one .onnx file for ONNX Runtime."""

    opset: int = 17  # of the standard operators; 17 is read by ONNX Runtime 1.12 and newer
    keep_layout: bool = True  # inputs and outputs with the axes of the original, else those of the Keras model (NHWC)

    def __call__(self, model: Model, data: Dataset, out: Path, *, base: Path | None = None) -> Artifact:
        """Carry out `model.plan` (None: float32); see protocols.Converter. Raises ConversionError, UsageError, OutputError."""
        from .export import float_model, from_file, refuse_nan

        self._check()
        plan = model.plan or FLOAT
        layouts = model.layouts if self.keep_layout and model.is_keras else {}
        data = replace(data, layouts=layouts)
        proto = from_file(base) if base and model.is_keras else float_model(model, self.opset, layouts)
        refuse_nan(proto, out.name)
        inputs, outputs = (specs_in_file(specs, layouts) for specs in _bound(proto, model))
        direct = not model.is_keras and plan.scheme == "float32" and not plan.overrides
        left: list[dict[str, str]] = []
        if not direct or plan.io != "float32":
            proto = self._prepared(proto, plan)
        if not model.is_keras:  # of a Keras model, the quantize stage has checked; some of its layers are folded
            _refuse_unused_overrides(proto, plan)
        proto, left, known = _quantized(proto, plan, data, inputs, outputs)
        return _write(proto, plan, data, out, (inputs, outputs), left, known, model.layouts)

    def _check(self) -> None:
        if not 13 <= self.opset <= 18:
            raise UsageError(
                f"opset {self.opset} cannot be written: tf2onnx writes up to 18, and quantization needs 13",
                next="use an opset from 13 to 18; what needs a newer one is raised by itself",
            )

    def _prepared(self, proto: Any, plan: QuantizationPlan) -> Any:
        """The float model in the opset the plan needs, with constants and BatchNormalization folded."""
        from .export import raised
        from .fold import folded
        from .quantize import WIDE_OPSET

        wide = {"int16x8", "int4-weight-only"} & {plan.scheme, *plan.overrides.values()} or plan.io == "int16"
        proto = raised(proto, WIDE_OPSET if wide else self.opset)
        with tempfile.TemporaryDirectory() as folder:
            return folded(proto, Path(folder))


def _bound(proto: Any, model: Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The model's specs, which the file's inputs and outputs must carry. Raises ConversionError."""
    for side, specs in (("input", model.inputs), ("output", model.outputs)):
        have, want = {v.name for v in getattr(proto.graph, side)}, {s.inside for s in specs}
        if have != want:
            raise ConversionError(
                f"the .onnx has the {side}s {', '.join(sorted(have))} where the model has {', '.join(sorted(want))}",
                next="pass the .onnx of the same model, or none",
            )
    return model.inputs, model.outputs


def _quantized(
    proto: Any,
    plan: QuantizationPlan,
    data: Dataset,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> tuple[Any, list[dict[str, str]], dict[str, Any]]:
    from .io_types import float_ends, set_io
    from .quantize import quantize
    from .ranges import calibrated

    names = {s.inside: s.name for s in inputs}
    bits = 16 if plan.io == "int16" else 8
    ends = [*float_ends(proto, inputs, "input"), *float_ends(proto, outputs, "output")] if plan.io != "float32" else []
    seen: dict[str, tuple[float, float]] = {}

    def calibrate(model: Any, wanted: Mapping[str, int]) -> dict[str, tuple[float, float]]:
        seen.update(calibrated(model, {**dict.fromkeys(ends, bits), **wanted}, plan, data, names))
        return seen

    left: list[dict[str, str]] = []
    if ends and not (plan.is_static and _has_static(proto, plan)):
        calibrate(proto, {})
    if plan.scheme != "float32" or plan.overrides:
        proto, left = quantize(proto, plan, calibrate)
    return proto, left, set_io(proto, plan.io, seen)


def _has_static(proto: Any, plan: QuantizationPlan) -> bool:
    """Whether quantizing will ask for ranges itself, so that calibration runs once."""
    from .graph import Graph
    from .placement import place

    copy = _onnx.onnx().ModelProto()
    copy.CopyFrom(proto)
    return bool(place(Graph(copy), plan).bits)


def _refuse_unused_overrides(proto: Any, plan: QuantizationPlan) -> None:
    """A pattern that names no layer is a misspelling."""
    from ...registry import did_you_mean
    from .graph import matches

    names = [node.name for node in proto.graph.node]
    parts = sorted({part for name in names for part in (name, *name.split("/")[:-1])})
    for pattern in plan.overrides:
        if not any(matches(pattern, name) for name in names):
            raise UsageError(
                f"the override '{pattern}' matches no layer{did_you_mean(pattern, parts)}",
                next="see the layer names with `edgedl inspect`",
            )


def _write(
    proto: Any,
    plan: QuantizationPlan,
    data: Dataset,
    out: Path,
    ends: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    left: list[dict[str, str]],
    known: Mapping[str, Any],
    original: Layouts,
) -> Artifact:
    from .io_types import specs

    del proto.metadata_props[:]
    proto.producer_name, proto.producer_version = "edgedl", importlib.metadata.version("edgedl")
    inputs = specs(proto, ends[0], "input", plan.io, known)
    outputs = specs(proto, ends[1], "output", plan.io, known)
    body = proto.SerializeToString(deterministic=True)
    _prove(body, data, inputs)
    write_atomic(out, body)
    metadata = _metadata(proto, plan, data, left)
    if original:
        metadata["original_layouts"] = plain(original)
    return Artifact(out, "onnx", inputs, outputs, {}, metadata).save()


def _prove(body: bytes, data: Dataset, inputs: tuple[TensorSpec, ...]) -> None:
    """The file is valid, opens, runs on one calibration input and gives no NaN. Raises ConversionError."""
    from .ranges import batch_of

    o = _onnx.onnx()
    try:
        o.checker.check_model(o.load_model_from_string(body))
        session = _onnx.session(body)
        batch = next((s.shape[0] for s in inputs if s.shape and s.shape[0]), 1) or 1
        feed = batch_of(data, {s.inside: s.name for s in inputs}, 0, batch)
        outputs = session.run(None, {s.inside: s.quantize(feed[s.inside]) for s in inputs})
    except (*_onnx.proto_errors(), *_onnx.runtime_errors()) as error:
        raise ConversionError(
            f"the .onnx that was made is refused: {_onnx.last_line(error)}",
            next="use another scheme with --quantize, or --format tflite",
        ) from error
    for info, value in zip(session.get_outputs(), outputs, strict=True):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isnan(value).any():
            raise ConversionError(
                f"the output '{info.name}' of the .onnx that was made is NaN",
                next="use another scheme: fp16 overflows above 65504",
            )


def _metadata(proto: Any, plan: QuantizationPlan, data: Dataset, left: list[dict[str, str]]) -> dict[str, Any]:
    declared = {name: p.to_json() for name, p in data.preprocessing.items()}
    found: dict[str, Any] = {
        "scheme": plan.scheme,
        "io": plan.io,
        "left_float": left,
        "versions": _versions(),
        "preprocessing": {name: p for name, p in preprocessing_in_file(declared, data.layouts).items() if p},
        "transposes": _onnx.transposes(proto),
        "labels": list(data.labels),
    }
    if data.layouts:
        found["layouts"] = plain(data.layouts)
    if plan.overrides:
        found["overrides"] = dict(plan.overrides)
    if plan.scheme in STATIC or plan.is_static or plan.io != "float32":
        found["calibration"] = {"method": plan.calibration, "samples": min(plan.samples, len(data.calibration))}
        if plan.calibration == "percentile":
            found["calibration"]["percentile"] = plan.percentile
    return found


def _versions() -> dict[str, str]:
    found = {}
    for tool in TOOLS:
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
