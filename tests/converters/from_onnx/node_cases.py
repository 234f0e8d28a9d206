"""The node tests of `onnx.backend.test`, run through the importer: what tests and benchmarks/onnx_operators.py share."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx

from edgedl.converters.from_onnx.build import NotFree, build
from edgedl.converters.from_onnx.graph import prepared
from edgedl.errors import EdgedlError
from edgedl.model import LoadOptions

MAKERS = frozenset(  # operators that make a tensor of sizes: their inputs are constants in every model
    {"Range", "ConstantOfShape", "Constant", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"}
)
ATOL = 1e-5  # the backend tests have 1e-7, which float32 sums in another order do not keep


class Outcome(NamedTuple):
    """What became of a test: passed, refused (a clear error), wrong (other numbers) or crashed; and why."""

    status: str
    reason: str = ""


@cache
def cases(expanded: bool = False) -> tuple[Any, ...]:
    """All node tests; those named `_expanded` are operators written out as graphs of others."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return tuple(c for c in found if ("_expanded" in c.name) == expanded)


def operator(case: Any) -> str:
    """The operator that a test is for."""
    ops = [n.op_type for n in case.model.graph.node if n.op_type != "Constant"]
    return str(ops[0]) if ops else "Constant"


def _ways(model: Any, inputs: list[Any]) -> Iterator[frozenset[int]]:
    """Which inputs are made constants: none; those that are no real numbers, but for the first; all but one."""
    count = len(inputs)
    if all(n.op_type in MAKERS for n in model.graph.node):
        yield frozenset(range(count))
        return
    real = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in inputs]
    seen = set()
    ways = [frozenset(), frozenset(i for i in range(1, count) if not real[i])]
    ways += [frozenset(range(count)) - {i} for i in range(count)]
    for way in ways:
        if way not in seen and len(way) < max(count, 1):
            seen.add(way)
            yield way


def run(case: Any) -> Outcome:
    """A test by every way until one gives the expected outputs; wrong numbers by any way are what counts."""
    refused = Outcome("refused", "no inputs")
    passed = False
    for given, expected in case.data_sets[:1]:
        inputs, wanted = ([_array(v) for v in values] for values in (given, expected))
        if any(a is None for a in (*inputs, *wanted)):
            return Outcome("refused", "an input or output that is no tensor")
        for way in _ways(case.model, inputs):
            found = _one(case, inputs, wanted, way)
            if found.status == "passed":
                passed = True
                break
            if found.status != "refused":
                return found
            if refused.reason == "no inputs" or "must be constant" in refused.reason:
                refused = found
    return Outcome("passed") if passed else refused


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic | int | float | bool) else None


def _one(case: Any, inputs: list[Any], wanted: list[Any], constant: frozenset[int]) -> Outcome:
    try:
        return _compared(case, inputs, wanted, constant)
    except (EdgedlError, NotFree) as error:
        return Outcome("refused", _short(str(error) or type(error).__name__))
    except Exception as error:  # noqa: BLE001  a crash is a result here
        return Outcome("crashed", f"{type(error).__name__}: {_short(str(error))}")


def _short(text: str) -> str:
    told = text.partition("\nNext:")[0].partition(" Next:")[0].removeprefix("cannot rebuild the model: ").strip()
    told = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", told).split()).partition(" Arguments received")[0]
    return told if len(told) < 240 else told[:240] + "…"


def _compared(case: Any, inputs: list[Any], wanted: list[Any], constant: frozenset[int]) -> Outcome:
    proto = onnx.ModelProto.FromString(case.model.SerializeToString())
    given = list(proto.graph.input)
    for i in sorted(constant):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(inputs[i], given[i].name))
    kept = [v for i, v in enumerate(given) if i not in constant]
    feed = {v.name: np.asarray(a) for i, (v, a) in enumerate(zip(given, inputs, strict=False)) if i not in constant}
    if not kept:  # all is constant: a model must have an input
        kept = [onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1])]
        feed["other"] = np.zeros(1, np.float32)
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    graph = prepared(proto, LoadOptions(form="keras"), case.name)
    imported = build(graph, freed=False, name="model")
    tensors = [_laid(feed[s.name], imported.layouts.get(s.name), s.dtype) for s in imported.inputs]
    out = imported.net(tensors, training=False)
    outputs = list(out) if isinstance(out, list | tuple) else [out]
    by_name = dict(zip((v.name for v in case.model.graph.output), wanted, strict=False))
    for spec, tensor in zip(imported.outputs, outputs, strict=True):
        found = np.asarray(tensor)
        order = imported.layouts.get(spec.name)
        found = found if order is None else found.transpose(np.argsort(order))
        problem = differs(found, by_name[spec.name], case.rtol, max(case.atol, ATOL))
        if problem:
            return Outcome("wrong", f"{problem} (constant inputs: {sorted(constant)})")
    return Outcome("passed")


def _laid(array: Any, order: tuple[int, ...] | None, dtype: str) -> Any:
    return (array if order is None else array.transpose(order)).astype(dtype)


def differs(found: Any, wanted: Any, rtol: float, atol: float) -> str:
    """What is different, or nothing."""
    wanted = np.asarray(wanted)
    if found.shape != wanted.shape:
        return f"shape {list(found.shape)}, expected {list(wanted.shape)}"
    if wanted.dtype.kind not in "fV" and wanted.dtype != found.dtype and wanted.dtype.kind != found.dtype.kind:
        return f"{found.dtype}, expected {wanted.dtype}"
    low = wanted.dtype.name in ("float16", "bfloat16")
    a, b = (np.asarray(v, np.float64) for v in (found, wanted))
    if np.allclose(
        a,
        b,
        rtol=max(rtol, 1e-2 if wanted.dtype.name == "bfloat16" else 2e-3 if low else 0),
        atol=max(atol, 1e-3 if low else 0),
        equal_nan=True,
    ):
        return ""
    with np.errstate(all="ignore"):
        return f"off by {np.nanmax(np.abs(a - b)):.2g} of {np.nanmax(np.abs(b)):.2g}"
