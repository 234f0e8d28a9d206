"""Which nodes compute on integers, which tensors are quantized for them, and which layers stay float, and why.

What runs on integers is what ONNX Runtime's CPU has integer kernels for, so that an int8 file is a fast one:
convolutions and matrix products, the activations and sums between them, and what only moves values about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...model import QuantizationPlan
from .graph import Graph, attribute, matches

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
CLAMP = frozenset({"Relu", "Clip"})  # part of the node before them: quantized after, not between
SHARE = frozenset(  # the output has the quantization of the first input
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Slice", "Gather", "Split", "Tile", "Expand"}
    | {"Identity", "DepthToSpace", "SpaceToDepth", "ReverseSequence", "GlobalMaxPool", "Pad", "Resize"}
)
OWN = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}) | CLAMP
BINARY = frozenset({"Add", "Mul"})
STATISTICS = frozenset(  # what normalizations, GELU and softmax are made of: 8 bits are too few for them
    {"Sqrt", "Reciprocal", "Pow", "ReduceMean", "ReduceSum", "Exp", "Log", "Erf", "Div", "Tanh", "LayerNormalization"}
)
FLOAT_BY_CHOICE = frozenset({"Softmax", "LayerNormalization", "InstanceNormalization", "LogSoftmax"}) | STATISTICS
BITS = {"int8": 8, "int16x8": 16}
FORMULA = "8 bits are too few for a normalization or an activation formula, and it is cheap in float"
NEAR = 3  # elementwise nodes between a statistic and what is still part of its formula


@dataclass(slots=True)
class Placement:
    """Node name -> what is done to it."""

    scheme: dict[str, str] = field(default_factory=dict)  # of every node, overrides applied
    bits: dict[str, int] = field(default_factory=dict)  # of the activations of nodes that compute on integers
    float_out: set[str] = field(default_factory=set)  # of those, the ones whose output stays float
    left_float: list[dict[str, str]] = field(default_factory=list)


def place(graph: Graph, plan: QuantizationPlan) -> Placement:
    """Decide for every node of the top-level graph."""
    found = Placement({node.name: scheme_of(node.name, plan) for node in graph.model.graph.node})
    for node in graph.model.graph.node:
        bits = BITS.get(found.scheme[node.name])
        if bits and node.op_type in HEAVY and all(map(graph.is_float, node.input[:2])):
            found.bits[node.name] = bits
    while _spread(graph, found):
        pass
    while _free_end(graph, found):
        pass
    for node in graph.model.graph.node:
        if node.name in found.bits and not _output_quantized(graph, node, found):
            found.float_out.add(node.name)
    found.left_float = _condensed([e for node in graph.model.graph.node for e in _left_float(graph, node, found)])
    return found


def _condensed(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    """One entry for the nodes of a formula (GELU, a normalization) that lie beside one another in a layer."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        parent = entry["layer"].rpartition("/")[0] if entry["why"] == FORMULA else ""
        key = (parent or entry["layer"], entry["why"])
        if key in found:
            ops = dict.fromkeys([*found[key]["op"].split("+"), entry["op"]])
            found[key] = {**found[key], "layer": key[0], "op": "+".join(ops)}
        else:
            found[key] = entry
    return list(found.values())


def scheme_of(name: str, plan: QuantizationPlan) -> str:
    """The scheme of a node: the first override whose pattern matches, else the plan's."""
    return next((scheme for pattern, scheme in plan.overrides.items() if matches(pattern, name)), plan.scheme)


def _spread(graph: Graph, found: Placement) -> bool:
    """Take in nodes beside those that compute on integers; returns whether there were any."""
    before = len(found.bits)
    for node in graph.model.graph.node:
        bits = BITS.get(found.scheme[node.name])
        if node.name in found.bits or not bits or not _has_integer_form(graph, node):
            continue
        sources = [graph.producer.get(name) for name in data_inputs(graph, node)]
        if any(s is not None and s.name in found.bits for s in sources):
            found.bits[node.name] = bits
    for node in reversed(graph.model.graph.node):  # what prepares the input of an integer node: a Transpose, a Pad
        bits = BITS.get(found.scheme[node.name])
        after = [c for name in node.output for c in graph.consumers[name]]
        if node.op_type in SHARE and bits and node.name not in found.bits and _has_integer_form(graph, node) and after:
            ends = any(name in graph.outputs or name in graph.inner for name in node.output)
            if not ends and all(c.name in found.bits for c in after):
                found.bits[node.name] = bits
    return len(found.bits) > before


def _free_end(graph: Graph, found: Placement) -> bool:
    """Give up integers at the ends, where they only cost accuracy; returns whether there was such a node.

    A sum or product that only float layers read (a mask before a softmax, the last layer), and what moves a float result.
    """
    for node in reversed(graph.model.graph.node):
        if node.name not in found.bits or any(c.name in found.bits for n in node.output for c in graph.consumers[n]):
            continue
        source = graph.producer.get(node.input[0]) if node.op_type in SHARE else None
        moves = source is not None and (source.name not in found.bits or source.op_type in ("Gemm", "MatMul"))
        if node.op_type in BINARY or moves:
            del found.bits[node.name]
            return True
    return False


def _has_integer_form(graph: Graph, node: Any) -> bool:
    """Whether a node that is not heavy can compute on integers without harm."""
    if node.op_type not in SHARE | OWN or not data_inputs(graph, node):
        return False
    if not all(graph.is_activation(name) for name in node.output):
        return False
    if node.op_type == "Resize" and attribute(node, "mode", b"nearest") != b"nearest":
        return False
    if node.op_type == "Sigmoid" and node.output[0] in graph.outputs:
        return False
    if node.op_type not in BINARY:
        return True
    vector = any(
        (c := graph.constants.get(name)) is not None and len(c.dims) and max(c.dims) > 1 for name in node.input
    )
    return not vector and not _part_of_statistics(graph, node)


def _part_of_statistics(graph: Graph, node: Any) -> bool:
    """Whether a sum or product belongs to a normalization or an activation formula rather than to the network."""
    if any(c.op_type in STATISTICS - {"LayerNormalization"} for name in node.output for c in graph.consumers[name]):
        return True
    front = [node]
    for _ in range(NEAR):
        before = [graph.producer[name] for n in front for name in n.input if name in graph.producer]
        if any(n.op_type in STATISTICS - {"LayerNormalization"} for n in before):
            return True
        front = [n for n in before if n.op_type in ("Add", "Mul", "Sub", "Neg")]
    return False


def data_inputs(graph: Graph, node: Any) -> list[str]:
    """The float inputs that depend on the network's inputs: for what moves values about, the first."""
    names = node.input[:1] if node.op_type in SHARE | CLAMP else node.input
    return [name for name in names if graph.is_activation(name)]


def clamp_after(graph: Graph, node: Any, bits: Mapping[str, int]) -> Any | None:
    """The Relu or Clip that is the only reader of a node's output and computes with it, or None."""
    name = node.output[0]
    if node.op_type in SHARE or len(node.output) != 1 or name in graph.outputs or name in graph.inner:
        return None
    readers = graph.consumers[name]
    one = len(readers) == 1 and readers[0].op_type in CLAMP and bits.get(readers[0].name) == bits.get(node.name)
    return readers[0] if one else None


def _output_quantized(graph: Graph, node: Any, found: Placement) -> bool:
    """Gemm and MatMul have integer kernels with float output: they round only where integers are read."""
    if node.op_type not in ("Gemm", "MatMul"):
        return True
    name = node.output[0]
    if name in graph.outputs or name in graph.inner:
        return False
    return all(c.name in found.bits for c in graph.consumers[name])


def _left_float(graph: Graph, node: Any, found: Placement) -> list[dict[str, str]]:
    """The report on a node that an integer scheme was asked for and that (partly) computes in float."""
    scheme = found.scheme[node.name]
    moves = node.op_type in SHARE | {"Cast", "Shape", "Constant", "ConstantOfShape"}
    before = graph.producer.get(node.input[0]) or graph.producer.get(node.input[-1]) if node.input else None
    if node.op_type == "Add" and before is not None and before.name in found.float_out:
        return []  # a bias: part of the product before it
    if scheme not in BITS or moves or not any(graph.is_activation(name) for name in node.output):
        return []
    why = _why(graph, node)
    if node.name in found.bits:
        if node.op_type != "ConvTranspose" or scheme != "int8":
            return []
        why = "ONNX Runtime has no integer kernel: weights and activations are int8, the arithmetic is float"
    return [{"layer": node.name, "op": node.op_type, "why": why}]


def _why(graph: Graph, node: Any) -> str:
    if node.op_type in RECURRENT:
        return "ONNX Runtime has no integer kernel with fixed ranges: the weights are int8, the arithmetic is float"
    if node.op_type in ("Loop", "Scan", "If"):
        return "its body is a graph of its own, which stays float"
    if node.op_type in FLOAT_BY_CHOICE:
        return FORMULA
    if node.op_type in (*BINARY, "Sub", "Neg"):
        if _part_of_statistics(graph, node):
            return FORMULA
        return (
            "float layers before or after it, or a constant with a value for each channel: integers would gain nothing"
        )
    if node.op_type in ("Sigmoid", *CLAMP):
        return "it is an output or follows float layers"
    return "ONNX Runtime has no integer kernel for it"
