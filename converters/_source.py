"""Source: a model of another framework as an ONNX graph, with what is needed to prove that it is still the same model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..artifact import Array

Runner = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Source:
    """A model on its way into the trainable form: every importer but Keras's own makes one of these.

    `proto` is an `onnx.ModelProto` of standard operators, whose inputs and outputs have the names, the order and the
    layout of the original. `reference` runs the original in its own framework (arrays by input name -> arrays by
    output name); None where that framework is not installed, and ONNX Runtime on `proto` is the reference.
    """

    proto: Any
    how: str  # for the history: "Caffe", "PyTorch 2.13 (torch.export)"
    reference: Runner | None = None
    reference_name: str = ""  # "OpenCV 4.14", "torch 2.13.0"
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of ONNX values, from a quantized original
    notes: tuple[str, ...] = ()  # what the user should know about how it was loaded
    original: Any = None  # the graph with its quantization, where `proto` is what was left without it
