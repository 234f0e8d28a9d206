"""A quantized Source made one of floats, its ranges by Keras layer, and how far the floats are from its integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError
from ...metrics import agreement as agreements
from ...model import QuantizationPlan
from .. import _onnx
from .._source import Source
from .build import Imported
from .graph import Graph
from .quantized import Range, Unquantized, unquantized

SAMPLES = 8  # inputs on which the quantized original and the float model are compared


def floats(source: Source) -> Source:
    """The Source without the quantization of its activations; itself where it has none."""
    if source.original is not None or not any(_onnx.QUANTIZED.search(n.op_type) for n in source.proto.graph.node):
        return source
    damaged: tuple[type[Exception], ...] = (ValueError, TypeError, IndexError, AttributeError, *_onnx.proto_errors())
    try:
        found = unquantized(source.proto)
    except damaged as error:
        raise ModelError(
            f"the quantization of the model is damaged: {_onnx.last_line(error)}", next="export the model again"
        ) from error
    if not found.changed:
        return replace(source, ranges={**source.ranges, **found.ranges})
    return replace(source, proto=found.proto, ranges={**source.ranges, **found.ranges}, original=source.proto)


def plan_of(source: Source, imported: Imported) -> QuantizationPlan | None:
    """The ranges that the original was quantized with, by Keras layer, as a plan; None where it was not."""
    ranges: dict[str, Range] = dict(imported.ranges)
    kept = {o.name for o in imported.net.operations}
    for name, (low, high) in source.ranges.items():
        value = imported.values.get(name)
        history = getattr(None if value is None else value.tensor, "_keras_history", None)
        if history is None or not np.isfinite([low, high]).all():
            continue
        layer = str(history.operation.name)
        if layer not in kept:
            continue
        have = ranges.get(layer, (low, high))
        ranges[layer] = (min(have[0], low), max(have[1], high))
    return QuantizationPlan(scheme="int8", ranges=ranges) if ranges else None


def agreement(source: Source, graph: Graph, imported: Imported) -> tuple[str, ...]:
    """One note: the rebuilt floats held to the quantized original, on inputs within its ranges."""
    if source.original is None:
        return ()
    found = unquantized(source.original)
    try:
        session = _onnx.session(source.original, optimize=False)
        pairs = [_pair(session, found, graph, imported, seed) for seed in range(SAMPLES)]
    except _onnx.runtime_errors():
        return ("ONNX Runtime cannot run the quantized original: the float model is proven without its quantization",)
    before, after = (
        {n: np.concatenate([np.atleast_1d(p[i][n]) for p in pairs]) for n in pairs[0][0]} for i in range(2)
    )
    told = []
    for name, entry in agreements(before, after).items():
        top = entry.get("top1_agreement")
        same = "" if top is None else f", the same top class for {top:.0%}"
        told.append(f"'{name}' {entry['sqnr_db']:.1f} dB{same}")
    return (
        f"its activations are floats again; signal to noise against the quantized original on {SAMPLES} generated "
        f"inputs: {'; '.join(told)}",
    )


def _pair(
    session: Any, found: Unquantized, graph: Graph, imported: Imported, seed: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(what the quantized original computes, as real numbers; what the rebuilt model computes) on one sample."""
    from . import proof

    feed = {**proof.generated(graph, 1, seed), **_within(found, graph, seed)}
    before = proof.run_session(session, {**feed, **graph.given})
    for name, (scale, zero) in found.outputs.items():
        before[name] = (before[name].astype(np.float32) - zero) * np.float32(scale)
    return before, proof.run_keras(imported, feed)


def _within(found: Unquantized, graph: Graph, seed: int) -> Mapping[str, Array]:
    """Inputs within the ranges that they were quantized with."""
    rng = np.random.default_rng(seed)
    out = {}
    for i in graph.inputs:
        shape = [1 if n is None else n for n in i.shape]
        if i.name in found.inputs:
            low, high = found.inputs[i.name]
            values = rng.normal((low + high) / 2, (high - low) / 8, shape)  # the ends of a range are rare
            out[i.name] = np.clip(values, low, high).astype(np.float32)
        elif i.dtype in ("int8", "uint8"):
            info = np.iinfo(i.dtype)
            out[i.name] = rng.integers(info.min, info.max + 1, shape).astype(i.dtype)
    return out
