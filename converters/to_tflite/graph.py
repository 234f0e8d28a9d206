"""The graph inside a .tflite: which layer an operator came from, folding of conversions, half precision, tidying."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _tflite as fb

MIN_HALF = 16  # smaller constants stay float32: a DEQUANTIZE operator costs more than it saves
MAX_SCOPE = 10_000  # characters of an operator's scope that ai-edge-quantizer looks at
MOVES = frozenset({"EXPAND_DIMS", "SQUEEZE", "TILE", "REVERSE_V2", "DEPTH_TO_SPACE", "BATCH_TO_SPACE_ND"})
COMPUTES = {  # operators that ai-edge-quantizer leaves float and LiteRT computes on integers: their types
    "LEAKY_RELU": (fb.INT8, fb.INT16),
    "RELU6": (fb.INT8,),
    "ELU": (fb.INT8,),
    "ABS": (fb.INT8, fb.INT16),
    "NEG": (fb.INT8,),
    "PRELU": (fb.INT8,),
}


@dataclass(frozen=True, slots=True)
class Node:
    """An operator: its kind, the names of its outputs, the layers it came from, and its scope (what recipes match)."""

    kind: str
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    scope: str
    subgraph: int

    @property
    def name(self) -> str:
        """For people: its layers, or its first output."""
        return "+".join(self.layers) or (self.outputs[0] if self.outputs else self.kind)


def nodes(model: Any, known: Collection[str], last: Iterable[str] = ()) -> list[Node]:
    """The operators of all graphs, in order.

    `known` are the layer names of the Keras model (none: the names of the outputs serve), `last` the layers its
    outputs come from, in the order of the main graph's outputs, whose tensors lose their names in the conversion.
    """
    found = []
    ends = dict(zip(model.subgraphs[0].outputs, last, strict=False))
    for number, graph in enumerate(model.subgraphs):
        for op in graph.operators:
            outputs = tuple(fb.text(graph.tensors[i].name) for i in op.outputs if i >= 0)
            layers = _unique(layer for name in outputs for layer in layers_of(name, known))
            if not layers and known:
                constants = [graph.tensors[i] for i in op.inputs if i >= 0 and fb.is_constant(model, graph.tensors[i])]
                layers = _unique(layer for t in constants for layer in layers_of(fb.text(t.name), known))
            if number == 0:
                layers = _unique([*layers, *(ends[i] for i in op.outputs if i in ends)])
            scope = ("".join(f"{name};" for name in outputs if name))[:MAX_SCOPE]
            found.append(Node(fb.op_name(model, op), outputs, layers if known else outputs, scope, number))
    return found


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def layers_of(name: str, known: Collection[str]) -> tuple[str, ...]:
    """The Keras layers in a tensor's name: the parts of a fused name, the innermost known layer of each path.

    Keras enters the name scope of a layer twice, so TensorFlow appends a number to the name it had.

    >>> layers_of("model_1/act_1/Relu;model_1/conv_1_2/convolution;x", {"act", "conv", "conv_1"})
    ('act', 'conv_1')
    """
    found = []
    for part in name.split(";"):
        for piece in reversed(part.split("/")):
            layer = next((n for n in (re.sub(r"_\d+$", "", piece), piece) if n in known), None)
            if layer:
                found.append(layer)
                break
    return _unique(found)


def unique_names(model: Any) -> None:
    """Give every tensor a name of its own, as ai-edge-quantizer demands."""
    seen: Counter[bytes] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            name = tensor.name or b"tensor"
            seen[name] += 1
            while seen[name] > 1:
                again = name + b"_%d" % seen[name]
                seen[name] += 1
                if not seen[again]:
                    name = again
                    seen[name] = 1
            tensor.name = name


def new_tensor(graph: Any, like: Any, suffix: str, **changes: Any) -> int:
    """Append a copy of a tensor without its values; returns its index."""
    tensor = copy(like)
    tensor.buffer, tensor.name = 0, like.name + suffix.encode()
    for key, value in changes.items():
        setattr(tensor, key, value)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def new_op(model: Any, kind: str, source: int, target: int) -> Any:
    """A QUANTIZE or DEQUANTIZE operator from one tensor to another."""
    op = fb.schema().OperatorT()
    op.opcodeIndex = fb.opcode(model, getattr(fb.schema().BuiltinOperator, kind), version=2)
    op.inputs, op.outputs = [source], [target]
    return op


def fold(model: Any) -> None:
    """Let operators work on integers where ai-edge-quantizer put DEQUANTIZE before them and QUANTIZE after them."""
    graph = model.subgraphs[0]
    _type_unread(graph)
    _sink_dequantize(model, graph)
    _read_shapes(model, graph)
    _join_pairs(model, graph)
    _fold_computes(model, graph)
    _drop_unused_ops(model, graph)


def _type_unread(graph: Any) -> None:
    """An output nobody reads (one of a SPLIT) gets the type of the others: the quantizer leaves it float, which no
    kernel accepts."""
    used = set(_uses(graph)) | set(graph.outputs)
    for op in graph.operators:
        typed = next((graph.tensors[i] for i in op.outputs if i in used), None)
        for i in op.outputs:
            if typed is not None and i not in used and graph.tensors[i].type == fb.FLOAT32:
                graph.tensors[i].type, graph.tensors[i].quantization = typed.type, typed.quantization


def _producers(model: Any, graph: Any, kind: str) -> dict[int, Any]:
    return {op.outputs[0]: op for op in graph.operators if fb.op_name(model, op) == kind}


def _sink_dequantize(model: Any, graph: Any) -> None:
    """DEQUANTIZE, move -> move, DEQUANTIZE: what only moves values does so with integers as well."""
    dequantized = {i: op.inputs[0] for i, op in _producers(model, graph, "DEQUANTIZE").items()}
    operators = []
    for op in graph.operators:
        operators.append(op)
        if fb.op_name(model, op) not in MOVES or op.inputs[0] not in dequantized:
            continue
        source, target = graph.tensors[dequantized[op.inputs[0]]], op.outputs[0]
        if fb.is_constant(model, source) or source.type not in (fb.INT8, fb.INT16):
            continue
        moved = new_tensor(graph, graph.tensors[target], "_int", type=source.type, quantization=source.quantization)
        op.inputs[0], op.outputs[0] = dequantized[op.inputs[0]], moved
        operators.append(new_op(model, "DEQUANTIZE", moved, target))
        dequantized[target] = moved
    graph.operators = operators


def _read_shapes(model: Any, graph: Any) -> None:
    """SHAPE of a dequantized tensor -> SHAPE of the integers."""
    dequantized = {i: op.inputs[0] for i, op in _producers(model, graph, "DEQUANTIZE").items()}
    for op in graph.operators:
        if fb.op_name(model, op) == "SHAPE":
            op.inputs[0] = dequantized.get(op.inputs[0], op.inputs[0])


def _join_pairs(model: Any, graph: Any) -> None:
    """DEQUANTIZE, QUANTIZE -> one QUANTIZE between the integer tensors, or nothing where both are alike."""
    dequantized = {i: op.inputs[0] for i, op in _producers(model, graph, "DEQUANTIZE").items()}
    alias: dict[int, int] = {}
    for op in graph.operators:
        op.inputs = [alias.get(i, i) for i in op.inputs]
        if fb.op_name(model, op) != "QUANTIZE" or op.inputs[0] not in dequantized:
            continue
        source, target = dequantized[op.inputs[0]], op.outputs[0]
        if graph.tensors[source].type not in (fb.INT8, fb.INT16) or fb.is_constant(model, graph.tensors[source]):
            continue
        op.inputs[0] = source
        if target not in graph.outputs and _alike(graph.tensors[source], graph.tensors[target]):
            alias[target] = source


def _alike(one: Any, other: Any) -> bool:
    """Whether two quantized tensors stand for the same values, but for the rounding of their scales."""
    a, b = one.quantization, other.quantization
    return bool(
        one.type == other.type and np.array_equal(a.zeroPoint, b.zeroPoint) and np.allclose(a.scale, b.scale, rtol=1e-6)
    )


def _fold_computes(model: Any, graph: Any) -> None:
    """DEQUANTIZE, operator, QUANTIZE -> the operator on integers, where LiteRT has such a kernel."""
    dequantized = {i: op.inputs[0] for i, op in _producers(model, graph, "DEQUANTIZE").items()}
    uses = _uses(graph)
    for op in graph.operators:
        types = COMPUTES.get(fb.op_name(model, op), ())
        source = dequantized.get(op.inputs[0]) if types else None
        shapes, after = _split(model, uses.get(op.outputs[0], []))
        if source is None or len(after) != 1 or op.outputs[0] in graph.outputs:
            continue
        quantize = after[0]
        if fb.op_name(model, quantize) != "QUANTIZE":
            continue
        kinds = {graph.tensors[source].type, graph.tensors[quantize.outputs[0]].type}
        slopes = [graph.tensors[i] for i in op.inputs[1:]]
        if len(kinds) == 1 and kinds <= set(types) and all(_is_float_constant(model, t) for t in slopes):
            if len(op.inputs) > 1:
                op.inputs[1] = _quantized_slopes(model, graph, op.inputs[1])
            op.inputs[0], op.outputs[0] = source, quantize.outputs[0]
            quantize.inputs = []
            for shape in shapes:
                shape.inputs[0] = op.outputs[0]


def _is_float_constant(model: Any, tensor: Any) -> bool:
    return tensor.type == fb.FLOAT32 and fb.is_constant(model, tensor)


def _quantized_slopes(model: Any, graph: Any, index: int) -> int:
    """The slopes of a PRELU as a constant of their own: int8, symmetric, one scale."""
    slopes = fb.values(model, graph.tensors[index])
    scale = max(float(np.abs(slopes).max()) / 127, 1e-12)
    quantization = fb.schema().QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = np.array([scale], np.float32), np.array([0], np.int64)
    quantized = new_tensor(graph, graph.tensors[index], "_int8", type=fb.INT8, quantization=quantization)
    fb.store(model, graph.tensors[quantized], np.round(slopes / scale).astype(np.int8))
    return quantized


def _split(model: Any, operators: list[Any]) -> tuple[list[Any], list[Any]]:
    """The SHAPE operators, which read no values, and the others."""
    shapes = [op for op in operators if fb.op_name(model, op) == "SHAPE"]
    return shapes, [op for op in operators if op not in shapes]


def _uses(graph: Any) -> dict[int, list[Any]]:
    uses: dict[int, list[Any]] = {}
    for op in graph.operators:
        for i in op.inputs:
            uses.setdefault(i, []).append(op)
    return uses


def _drop_unused_ops(model: Any, graph: Any) -> None:
    """Remove conversions nobody reads, and those that were folded (without inputs)."""
    while True:
        used = {i for op in graph.operators for i in op.inputs} | set(graph.outputs)
        kept = [op for op in graph.operators if _needed(model, op, used)]
        if len(kept) == len(graph.operators):
            return
        graph.operators = kept


def _needed(model: Any, op: Any, used: set[int]) -> bool:
    if fb.op_name(model, op) not in ("QUANTIZE", "DEQUANTIZE"):
        return True
    return bool(op.inputs) and op.outputs[0] in used


def halve(model: Any, wanted: Callable[[str], bool]) -> None:
    """Store the float32 constants of the operators whose scope is `wanted` as float16, DEQUANTIZE before their use.

    As TensorFlow's converter does. Constants that float16 cannot hold (beyond 65504) stay.
    """
    for graph in model.subgraphs:
        done: dict[int, int] = {}
        operators: list[Any] = []
        for op in graph.operators:
            scope = "".join(f"{fb.text(graph.tensors[i].name)};" for i in op.outputs if i >= 0)[:MAX_SCOPE]
            for at, i in enumerate(op.inputs):
                if i < 0 or not wanted(scope) or not (i in done or _can_halve(model, graph.tensors[i])):
                    continue
                if i not in done:
                    done[i] = _halve(model, graph, i)
                    operators.append(new_op(model, "DEQUANTIZE", i, done[i]))
                op.inputs[at] = done[i]
            operators.append(op)
        graph.operators = operators


def _can_halve(model: Any, tensor: Any) -> bool:
    data = fb.raw(model, tensor)
    if data is None or tensor.type != fb.FLOAT32 or data.size < 4 * MIN_HALF:
        return False
    return bool(np.abs(data.view(np.float32)).max() <= np.finfo(np.float16).max)


def _halve(model: Any, graph: Any, index: int) -> int:
    """Turn a constant into float16; returns the index of its float32 twin."""
    tensor = graph.tensors[index]
    twin = new_tensor(graph, tensor, "_float32")
    fb.store(model, tensor, fb.values(model, tensor).astype(np.float16))
    tensor.type = fb.FLOAT16
    return twin


def tidy(model: Any) -> None:
    """Drop tensors, buffers and operator codes nobody uses, and what the converters left to remember themselves by."""
    model.metadata = [m for m in model.metadata or [] if fb.text(m.name) == "min_runtime_version"]
    model.description = None
    for graph in model.subgraphs:
        _drop_unused_ops(model, graph)
        _drop_tensors(model, graph)
    _drop_buffers(model)
    used = sorted({op.opcodeIndex for graph in model.subgraphs for op in graph.operators})
    place = {old: new for new, old in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    for graph in model.subgraphs:
        for op in graph.operators:
            op.opcodeIndex = place[op.opcodeIndex]


def _drop_tensors(model: Any, graph: Any) -> None:
    used = {*graph.inputs, *graph.outputs}
    for op in graph.operators:
        used.update(i for ids in (op.inputs, op.outputs, fb.indices(op.intermediates)) for i in ids if i >= 0)
    place = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
    number = next(i for i, g in enumerate(model.subgraphs) if g is graph)
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == number:
            for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
                entry.tensorIndex = place[entry.tensorIndex]
    for op in graph.operators:
        op.inputs, op.outputs = [place[i] for i in op.inputs], [place[i] for i in op.outputs]
        if op.intermediates is not None:
            op.intermediates = [place[i] for i in fb.indices(op.intermediates)]
    graph.inputs, graph.outputs = [place[i] for i in graph.inputs], [place[i] for i in graph.outputs]
    graph.tensors = [graph.tensors[i] for i in sorted(used)]


def _drop_buffers(model: Any) -> None:
    """Keep one buffer of each content; buffer 0 is the empty one, by convention."""
    kept: list[Any] = [model.buffers[0]]
    seen: dict[bytes, int] = {b"": 0}
    kept[0].data = None

    def place(index: int) -> int:
        buffer = model.buffers[index]
        content = b"" if buffer.data is None else bytes(buffer.data)
        if content not in seen:
            seen[content] = len(kept)
            kept.append(buffer)
        return seen[content]

    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = place(tensor.buffer)
    for entry in model.metadata:
        entry.buffer = place(entry.buffer)
    model.buffers = kept
