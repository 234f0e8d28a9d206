"""What a network file asks of a device's memory: the constants it keeps, and the most that its activations take at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..engine import format_of
from ..errors import ModelError
from . import _onnx
from . import _tflite as fb


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes. `activations` is a lower bound of an arena: it has no scratch buffers; None where shapes are open."""

    constants: int
    activations: int | None


def footprint(path: Path) -> Footprint:
    """Of a .tflite or .onnx, at batch 1. Raises ModelError for a file that is damaged, or of another kind."""
    return {"tflite": _tflite, "onnx": _onnx_graph}[format_of(path)](path)


def peak(ops: Sequence[tuple[Sequence[str], Sequence[str]]], ends: Iterable[str], sizes: Mapping[str, int]) -> int:
    """The most bytes that are live at once where operators (inputs, outputs) run in this order.

    A tensor lives from the operator that makes it (a graph's input: from the first) to the last one that reads it;
    those in `ends` to the end. What `sizes` does not hold takes no room.

    >>> peak([(["a"], ["b"]), (["b"], ["c"]), (["b", "c"], ["d"])], ["d"], {"a": 8, "b": 4, "c": 2, "d": 1})
    12
    """
    born: dict[str, int] = {}
    last = dict.fromkeys(ends, len(ops))
    for at, (inputs, outputs) in enumerate(ops):
        for name in inputs:
            born.setdefault(name, 0)
            last[name] = max(last.get(name, 0), at)
        for name in outputs:
            born.setdefault(name, at)
            last[name] = max(last.get(name, 0), at)
    steps = [0] * (len(ops) + 2)
    for name, start in born.items():
        steps[start] += sizes.get(name, 0)
        steps[last[name] + 1] -= sizes.get(name, 0)
    most = now = 0
    for change in steps:
        now += change
        most = max(most, now)
    return most


def _tflite(path: Path) -> Footprint:
    """Constants: the buffers that tensors read, shapes and axes among them. Activations: of the main graph."""
    model = fb.read(path)
    used = {t.buffer for graph in model.subgraphs for t in graph.tensors if fb.is_constant(model, t)}
    graph = model.subgraphs[0]
    sizes = {str(i): fb.stored_bytes(t) for i, t in enumerate(graph.tensors) if not fb.is_constant(model, t)}
    ops = [(_named(op.inputs), _named(op.outputs)) for op in graph.operators]
    constants = sum(len(model.buffers[i].data) for i in used)
    return Footprint(constants, peak(ops, _named(graph.outputs), sizes))


def _named(ids: Iterable[int]) -> list[str]:
    return [str(i) for i in ids if i >= 0]


def _onnx_graph(path: Path) -> Footprint:
    """Constants: initializers and Constant nodes. What quantizes or dequantizes a tensor gives that tensor, and so does
    an activation that alone reads one: runtimes fuse them."""
    model = _onnx.read(path)
    graph = model.graph
    kept = [*graph.initializer, *(a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t"))]  # fmt: skip
    constants = sum(prod(t.dims) * _bits(_onnx.dtype_name(t.data_type)) for t in kept) // 8
    fixed = {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    readers = Counter(name for node in graph.node for name in node.input)
    alias: dict[str, str] = {}
    for node in graph.node:
        fused = node.op_type in ("Relu", "Clip") and readers[node.input[0]] == 1
        if (fused or node.op_type in ("QuantizeLinear", "DequantizeLinear")) and node.input[0] not in fixed:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        elif node.op_type == "DequantizeLinear":
            fixed.add(node.output[0])
    shown = _onnx.inferred(model).graph
    sizes: dict[str, int] = {}
    for value in (*shown.input, *shown.value_info, *shown.output):
        shape = _onnx.shape_of(value)
        if value.name in fixed:
            continue
        if None in shape[1:]:
            return Footprint(int(constants), None)
        size = prod(d or 1 for d in shape) * _bits(_onnx.dtype_name(value.type.tensor_type.elem_type)) // 8
        name = alias.get(value.name, value.name)
        sizes[name] = min(sizes.get(name, size), size)
    ops = [
        ([alias.get(i, i) for i in node.input], [alias.get(o, o) for o in node.output])
        for node in graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Constant")
    ]
    made = {name for _, outputs in ops for name in outputs if name}
    if not made - fixed <= sizes.keys():
        return Footprint(int(constants), None)
    return Footprint(int(constants), peak(ops, [alias.get(o.name, o.name) for o in graph.output], sizes))


def _bits(dtype: str) -> int:
    digits = "".join(c for c in dtype if c.isdigit())
    if dtype == "unknown":
        raise ModelError("a tensor has a type that this version does not know", next="please report the file")
    return 8 if dtype in ("bool", "string") or not digits else int(digits)
