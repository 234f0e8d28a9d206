"""Constants: what depends on nothing but constants (and perhaps the batch size) is computed once, by onnx's own reference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ...artifact import Array
from .. import _onnx
from .graph import single
from .node import Node, Unsupported
from .value import Value

MAX_ELEMENTS = 1 << 28
REFUSED = (  # what onnx.reference raises for what it cannot compute
    *(RuntimeError, ValueError, TypeError, IndexError, KeyError, NotImplementedError),
    *(AttributeError, AssertionError, ZeroDivisionError),
)


def folded(node: Node, inputs: Sequence[Value | None]) -> tuple[Value, ...]:
    """The outputs of a node all of whose inputs are constants. Raises Unsupported where it cannot be computed."""
    if node.op == "Constant":
        return (Value.of_constant(_literal(node)),)
    firsts, seconds = ([None if v is None or v.constant is None else v.constant.at[i] for v in inputs] for i in (0, 1))
    fixed = all(v is None or (v.constant is not None and v.constant.is_fixed) for v in inputs)
    _refuse_huge(node, firsts)
    first = evaluated(node, firsts)
    second = first if fixed else evaluated(node, seconds)
    return tuple(Value.of_constant(a, b) for a, b in zip(first, second, strict=True))


def _literal(node: Node) -> Array:
    for key, value in node.attributes.items():
        if key == "value":
            return single(_onnx.array(value))
        if key in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if key in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise Unsupported("a constant that is neither numbers nor a tensor")


def _refuse_huge(node: Node, arrays: Sequence[Array | None]) -> None:
    """Constants are small; one that would fill the memory is an attack, or a mistake."""
    shape = arrays[1 if node.op in ("Expand", "Tile", "Reshape") else 0] if arrays else None
    if node.op in ("ConstantOfShape", "Expand", "Tile") and shape is not None and shape.size:
        count = float(np.prod(np.abs(shape.astype(np.float64)))) * (
            float(arrays[0].size) if node.op == "Tile" and arrays[0] is not None else 1.0
        )
        if count > MAX_ELEMENTS:
            raise Unsupported(f"a constant of {count:.0f} elements")
    if node.op == "Range" and all(a is not None and a.size == 1 for a in arrays):
        start, limit, delta = (float(a.reshape(-1)[0]) for a in arrays if a is not None)
        if delta == 0 or abs(limit - start) / abs(delta) > MAX_ELEMENTS:
            raise Unsupported("a range without end")


def evaluated(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    """The outputs of one node by `onnx.reference`."""
    o = _onnx.onnx()
    names = [n if a is not None else "" for n, a in zip(node.proto.input, arrays, strict=True)]
    feed = {n: np.asarray(a) for n, a in zip(names, arrays, strict=True) if n and a is not None}
    infos = [
        o.helper.make_tensor_value_info(n, o.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items()
    ]
    outputs = [o.ValueInfoProto(name=n) for n in node.proto.output if n]
    graph = o.helper.make_graph([node.proto], "node", infos, outputs)
    model = o.helper.make_model(graph, opset_imports=[o.helper.make_opsetid(node.proto.domain, max(node.opset, 7))])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = _evaluator()(model).run(None, feed)
    except MemoryError as error:
        raise Unsupported("constants that do not fit into memory") from error
    except REFUSED:
        made = _by_onnxruntime(model, feed)
    found = iter(made)
    return [single(np.asarray(next(found))) if n else np.zeros(0) for n in node.proto.output]


def _by_onnxruntime(model: Any, feed: dict[str, Array]) -> list[Array]:
    """The same by ONNX Runtime, for what the reference does not implement in this opset."""
    model.ir_version = 8
    try:
        found: list[Array] = _onnx.session(model, optimize=False).run(None, feed)
    except _onnx.runtime_errors() as error:
        raise Unsupported(f"constants that cannot be computed ({_onnx.last_line(error)})") from error
    return found


@cache
def _evaluator() -> Any:
    import importlib

    return importlib.import_module("onnx.reference").ReferenceEvaluator
