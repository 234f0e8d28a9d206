"""Calibration: run the float .tflite on the calibration inputs and note the range of every tensor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...calibration import Observer, observer
from ...data import Dataset
from ...errors import ConversionError, DataError
from ...model import QuantizationPlan
from ...worker import progress
from .. import _tflite as fb
from .interface import Range
from .masks import MARGIN

LARGEST = 3e38  # larger values are masks (-inf, the lowest float), which a range must not follow


def interpreter(content: bytes) -> Any:
    """An interpreter that keeps every tensor. It runs with XNNPACK, as on the device."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that keeping tensors takes memory
        opened = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    opened.allocate_tensors()
    return opened


def samples(data: Dataset, names: Sequence[str], count: int) -> Iterator[list[Array]]:
    """At most `count` calibration inputs, one at a time (batch 1), in the order of `names`. Raises DataError."""
    total = min(count, len(data.calibration))
    if total == 0:
        raise DataError(
            "there is no calibration input, and static quantization needs some", next="pass --calibration or --data"
        )
    for i in range(total):
        feed = data.feed(data.calibration, i, i + 1)
        missing = [name for name in names if name not in feed]
        if missing:
            raise DataError(
                f"the calibration data has no input '{missing[0]}' (it has {', '.join(feed)})",
                next="name the arrays as the model's inputs",
            )
        yield [feed[name] for name in names]
        progress(i + 1, total, "calibration")


def run(opened: Any, inputs: Sequence[int], feed: Sequence[Array]) -> None:
    """Set the inputs (tensor indices) and invoke; inputs without a fixed shape are resized."""
    shapes = {d["index"]: d["shape"] for d in opened.get_input_details()}
    if any(tuple(shapes[i]) != x.shape for i, x in zip(inputs, feed, strict=True)):
        for index, x in zip(inputs, feed, strict=True):
            opened.resize_tensor_input(index, x.shape)
        opened.allocate_tensors()
    for index, x in zip(inputs, feed, strict=True):
        opened.set_tensor(index, x)
    opened.invoke()


def observe(
    model: Any, content: bytes, feeds: Iterator[list[Array]], watch: Mapping[int, Callable[[Array], None]]
) -> None:
    """Run the float file on each input and show the values of the watched tensors (by index in the main graph).

    Raises ConversionError when it does not run, or computes NaN.
    """
    graph = model.subgraphs[0]
    try:
        opened = interpreter(content)
        for feed in feeds:
            opened.reset_all_variables()
            run(opened, graph.inputs, feed)
            for index, show in watch.items():
                _show(show, opened.get_tensor(index), fb.text(graph.tensors[index].name))
    except (RuntimeError, ValueError) as error:
        raise ConversionError(
            f"the float model does not run on the calibration inputs: {str(error).strip().splitlines()[-1]}",
            next="check that the calibration inputs have the shape and type that the model takes",
        ) from error


def _show(show: Callable[[Array], None], values: Array, name: str) -> None:
    try:
        show(values)
    except DataError as error:
        raise ConversionError(
            f"the float model computes NaN on the calibration inputs (in {name[:80]})",
            next="check the calibration data and its preprocessing, and the model's weights",
        ) from error


def measure(model: Any, content: bytes, plan: QuantizationPlan, feeds: Iterator[list[Array]]) -> dict[str, Range]:
    """The range of each float tensor of the main graph that is computed, by name. Raises ConversionError."""
    graph = model.subgraphs[0]
    bits = 16 if plan.scheme == "int16x8" else 8
    used = {*graph.inputs, *graph.outputs, *(i for op in graph.operators for i in op.inputs)}
    watched = {
        i: observer(plan.calibration, percentile=plan.percentile, bits=bits)
        for i, tensor in enumerate(graph.tensors)
        if tensor.type == fb.FLOAT32 and not fb.is_constant(model, tensor) and i in used
    }
    scores = softmax_inputs(model)
    observe(model, content, feeds, {i: _into(seen, i in scores) for i, seen in watched.items()})
    found = {i: seen.range() for i, seen in watched.items()}
    for op in graph.operators:  # an output nobody reads has no values, and still needs a scale: that of the input
        source = next((found[i] for i in op.inputs if i in found), (0.0, 1.0))
        found |= {i: source for i in op.outputs if i not in found and graph.tensors[i].type == fb.FLOAT32}
    return {fb.text(graph.tensors[i].name): limits for i, limits in found.items()}


def softmax_inputs(model: Any) -> set[int]:
    """The tensors of the main graph that only a softmax reads."""
    graph = model.subgraphs[0]
    readers: dict[int, set[str]] = {i: {"OUTPUT"} for i in graph.outputs}
    for op in graph.operators:
        for i in op.inputs:
            readers.setdefault(i, set()).add(fb.op_name(model, op))
    return {i for i, kinds in readers.items() if kinds == {"SOFTMAX"}}


def _into(seen: Observer, scores: bool) -> Callable[[Array], None]:
    """Feed an observer: without values beyond all numbers, and of scores only what a softmax can tell from nothing."""

    def update(values: Array) -> None:
        if scores and values.ndim:
            values = np.maximum(values, values.max(axis=-1, keepdims=True) - MARGIN)
        large = np.abs(values) > LARGEST
        seen.update(values[~large] if large.any() else values)

    return update


@dataclass(frozen=True, slots=True)
class Trial:
    """Runs a quantized file once on a calibration input, to see whether LiteRT takes it."""

    feed: Mapping[int, Array]  # by position among the inputs; zeros where there is none

    def failure(self, content: bytes) -> str:
        """Why it does not run, or nothing."""
        from ai_edge_litert.interpreter import Interpreter

        try:
            opened = Interpreter(model_content=content)
            opened.allocate_tensors()
            details = opened.get_input_details()
            feed = [
                _cast(self.feed[i], d) if i in self.feed else np.zeros_like(opened.get_tensor(d["index"]))
                for i, d in enumerate(details)
            ]
            run(opened, [d["index"] for d in details], feed)
        except (RuntimeError, ValueError) as error:
            return str(error).strip().splitlines()[-1]
        return ""


def _cast(x: Array, detail: Mapping[str, Any]) -> Array:
    """An input in the type the file takes."""
    if x.dtype == detail["dtype"]:
        return x
    scale, zero_point = detail["quantization"]
    info = np.iinfo(detail["dtype"])
    quantized = np.clip(np.round(x / (scale or 1.0)) + zero_point, info.min, info.max)
    return np.asarray(quantized, detail["dtype"])


def write_range(ranges: Mapping[str, Range]) -> dict[str, dict[str, Array]]:
    """As ai-edge-quantizer's calibration result."""
    return {
        name: {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}
        for name, (low, high) in ranges.items()
    }
