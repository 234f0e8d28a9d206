"""The ranges of a network's tensors on calibration data: the float model is run with these tensors as outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...calibration import Observer, observer
from ...errors import ConversionError, DataError
from ...model import QuantizationPlan
from ...worker import progress
from .. import _onnx
from .graph import matches

if TYPE_CHECKING:
    from ...artifact import Array
    from ...data import Dataset

BATCH = 32


def calibrated(
    proto: Any, wanted: Mapping[str, int], plan: QuantizationPlan, data: Dataset, names: Mapping[str, str]
) -> dict[str, tuple[float, float]]:
    """(low, high) of each wanted tensor over `plan.samples` calibration inputs; `plan.ranges` come first.

    `wanted`: tensor -> bits; `names`: input of the file -> input of the data set. Raises ConversionError where a
    tensor is not finite.
    """
    given = _given(proto, wanted, plan)
    seen = {
        name: observer(plan.calibration, percentile=plan.percentile, bits=bits, symmetric=bits == 16)
        for name, bits in wanted.items()
        if name not in given
    }
    total = min(plan.samples, len(data.calibration))
    if total == 0:
        raise DataError("there is no calibration data", next="pass --calibration, or --data with more samples")
    batch = min(_onnx.fixed_batch(proto) or BATCH, total)
    for group in _onnx.groups(proto, list(seen), batch):
        _observe(proto, {name: seen[name] for name in group}, data, names, total, batch)
    return {**{name: seen[name].range() for name in seen}, **given}


def _given(proto: Any, wanted: Mapping[str, int], plan: QuantizationPlan) -> dict[str, tuple[float, float]]:
    """The plan's own ranges, by layer name: of the last tensor that the layer makes."""
    found: dict[str, tuple[float, float]] = {}
    inputs = {i.name for i in proto.graph.input}
    for layer, span in plan.ranges.items():
        made = [n.output[0] for n in proto.graph.node if n.output[0] in wanted and matches(layer, n.name)]
        if made:
            found[made[-1]] = span
        elif layer in inputs and layer in wanted:
            found[layer] = span
    return found


def _observe(
    proto: Any, seen: Mapping[str, Observer], data: Dataset, names: Mapping[str, str], total: int, batch: int
) -> None:
    inputs = {i.name for i in proto.graph.input}
    inner = [name for name in seen if name not in inputs]
    try:
        session = _onnx.session(_onnx.exposed(proto, inner)) if inner else None
        for start in range(0, total - total % batch if _onnx.fixed_batch(proto) else total, batch):
            feed = batch_of(data, names, start, batch)
            values = session.run(inner, feed) if session is not None else []
            for name, value in (*zip(inner, values, strict=True), *((k, v) for k, v in feed.items() if k in seen)):
                _update(seen[name], name, value)
            progress(min(start + batch, total), total, "calibration")
    except _onnx.runtime_errors() as error:
        raise ConversionError(
            f"the model does not run on the calibration data: {_onnx.last_line(error)}",
            next="check that the data has the shape and type of the model's inputs",
        ) from error


def batch_of(data: Dataset, names: Mapping[str, str], start: int, batch: int) -> dict[str, Array]:
    """`batch` calibration inputs from `start` on (fewer at the end), by the names inside the file."""
    feed = data.feed(data.calibration, start, min(start + batch, len(data.calibration)))
    missing = sorted(set(names.values()) - set(feed))
    if missing:
        raise DataError(f"the data has nothing for the input '{missing[0]}'", next="give an array of that name")
    return {inside: feed[name] for inside, name in names.items()}


def _update(seen: Observer, name: str, value: Array) -> None:
    try:
        seen.update(value)
    except DataError as error:
        raise ConversionError(
            f"the tensor '{name}' is NaN or infinite on the calibration data",
            next="check the data's scaling and the model's weights",
        ) from error
