"""The quantize stage: decides what becomes of each layer, and writes the decision on the Model; converters carry it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, get_args

from ..data import Dataset
from ..errors import UsageError
from ..model import SCHEMES, STATIC, Calibration, IoType, Model, QuantizationPlan, Scheme
from ..registry import did_you_mean

IO_SCHEMES: dict[str, frozenset[str]] = {  # the schemes that can have integer inputs and outputs of a type
    "int8": STATIC,
    "uint8": frozenset({"int8"}),
    "int16": frozenset({"int16x8"}),
}


@dataclass(frozen=True, slots=True)
class Quantize:
    """Store weights, and for static schemes compute, with fewer bits. Post-training; no layer changes before conversion.

    Schemes as in Nagel et al., "A White Paper on Neural Network Quantization" (2021): weights symmetric and per
    channel; activations of static schemes per tensor, asymmetric for int8, symmetric for int16x8.
    """

    scheme: Scheme = "int8"
    calibration: Calibration = "minmax"  # how static schemes choose activation ranges
    percentile: float = 99.99  # of the absolute values, for calibration = "percentile"; in (50, 100]
    samples: int = 200  # calibration inputs that are run, at most
    io: IoType = "float32"  # type of the artifact's inputs and outputs
    overrides: Mapping[str, Scheme] = field(default_factory=dict)  # layer-name pattern -> scheme; the first match wins

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The model with its plan set. Raises UsageError for options that cannot work together or on this model."""
        if model.is_keras:
            _check_patterns(self.overrides, list(layer_names(model.net)))
        decided = {} if model.plan is None else model.plan.ranges
        plan = QuantizationPlan(
            scheme=self.scheme,
            calibration=self.calibration,
            percentile=self.percentile,
            samples=self.samples,
            io=self.io,
            overrides=dict(self.overrides),
            ranges=dict(decided),
        )
        return model.then(f"quantize to {self.scheme}", plan=plan)

    def __post_init__(self) -> None:
        _known("scheme", self.scheme, SCHEMES)
        _known("calibration", self.calibration, get_args(Calibration))
        _known("io", self.io, get_args(IoType))
        for pattern, scheme in self.overrides.items():
            _known(f"scheme (of the override '{pattern}')", scheme, SCHEMES)
        if self.samples < 1:
            raise UsageError(f"samples is {self.samples}, but calibration needs at least one", next="use samples = 200")
        if not 50 < self.percentile <= 100:
            raise UsageError(
                f"percentile is {self.percentile:g}, but must be above 50 and at most 100",
                next="use percentile = 99.99",
            )
        fitting = IO_SCHEMES.get(self.io)
        if fitting is not None and self.scheme not in fitting:
            raise UsageError(
                f"{self.io} inputs and outputs do not go with the scheme {self.scheme}",
                next=f"use --quantize {' or '.join(sorted(fitting))}, or --io float32",
            )


def _known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"there is no {what} '{value}'{did_you_mean(value, known)}", next=f"choose one of {', '.join(known)}"
        )


def layer_names(net: Any) -> Iterator[str]:
    """Names of the layers of a Keras model and of the models inside it."""
    for layer in net.layers:
        yield layer.name
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):
            yield from layer_names(layer)


def _check_patterns(overrides: Mapping[str, str], names: list[str]) -> None:
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise UsageError(
                f"no layer matches the override '{pattern}'{did_you_mean(pattern, names)}",
                next=f"use names or patterns of these layers: {shown}",
            )
