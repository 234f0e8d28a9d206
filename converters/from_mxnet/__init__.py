"""MXNet in: a symbol and its parameters, read without MXNet, as an ONNX graph of standard operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError, UsageError
from ...model import LoadOptions, Model, shapes_by_name
from .._onnx_build import Shape, Unsupported, parse_shape, remaining, text, unique, unsupported
from .._source import Source
from ..from_onnx import from_source
from . import (  # noqa: F401  each enters its operators into the table
    activation,
    arithmetic,
    convolution,
    indexing,
    normalization,
    reduction,
    shaping,
)
from .files import Node, find_files, parse_value, read_params, read_symbol
from .ops import ARITY, LABELLED, OPS, REFUSED, MxGraph, Op

WEIGHT_NAMES = ("_weight", "_bias", "_gamma", "_beta", "_moving_mean", "_moving_var", "_running_mean", "_running_var")
STATES = ("gamma", "beta", "moving_mean", "moving_var")  # of a BatchNorm, which old files do not list
MAX_OUTPUTS = 4096

Edge = tuple[int, int]


def load_mxnet(path: Path, options: LoadOptions = LoadOptions()) -> Model:  # noqa: B008 (frozen)
    """The Keras model of an MXNet network; `path` is its symbol or its parameters.

    Raises what `source` and `from_source` raise.
    """
    found = source(path, options)
    return from_source(found, path, remaining(found.proto, options))


def source(path: Path, options: LoadOptions) -> Source:
    """An MXNet network as ONNX; inputs and outputs have the names and layout (NCHW) of the original.

    The shape of every input comes from `options.inputs`, or from the symbol where it was saved with one. There is no
    reference runner: MXNet is retired, and its last release needs NumPy 1.23.
    Raises ModelError (damaged files; every operator that cannot be imported, all at once), UsageError (an input that
    `options.inputs` names does not exist, or needs a shape).
    """
    symbol, params, notes = find_files(path, options.weights)
    nodes, heads = read_symbol(symbol)
    weights = read_params(params)
    if options.end:
        heads = [_head(name, nodes) for name in options.end]
    if any(a.dtype == np.float16 for a in weights.values()):
        notes.append("the weights are half precision; they are held as float32")
    graph, outputs = convert(nodes, heads, weights, options.inputs, symbol.name)
    start = [name if name in graph.types else f"{name}_output" for name in options.start]
    model = graph.model(outputs, f"imported from {symbol.name} and {params.name}", start)
    return Source(model, "MXNet", notes=tuple(notes))


def _head(name: str, nodes: Sequence[Node]) -> Edge:
    plain = name.removesuffix("_output")
    found = [i for i, node in enumerate(nodes) if plain == node.name or name == node.name]
    if not found:
        raise ModelError(f"the network has no node '{name}' to end at", next="name a node of the symbol")
    return found[-1], 0


def convert(
    nodes: Sequence[Node], heads: Sequence[Edge], weights: Mapping[str, Array], given: Mapping[str, str], title: str
) -> tuple[MxGraph, list[str]]:
    """The graph and its output names. Raises ModelError, UsageError."""
    edges = [_data_edges(node) for node in nodes]
    used = _reachable(heads, edges)
    inputs = [i for i in used if nodes[i].op == "null" and nodes[i].name not in weights]
    given = shapes_by_name(given, [nodes[i].name for i in inputs])
    _check_given(given, [nodes[i].name for i in inputs])
    _refuse_missing(nodes, inputs, given, title)
    g = MxGraph("mxnet")
    tensors: dict[Edge, str] = {}
    problems: dict[str, str] = {}
    for i in used:
        node = nodes[i]
        if node.op == "null":
            tensors[i, 0] = _variable(g, node, weights, given, edges, nodes)
        elif node.op not in OPS:
            problems[node.label] = REFUSED.get(node.op, "this operator is not known")
        elif all(e in tensors for e in edges[i]):
            try:
                _build(g, i, node, [tensors[e] for e in edges[i]], tensors, weights)
            except Unsupported as error:
                problems[node.label] = str(error)
    if problems:
        raise unsupported(title, problems, next="end the model before these nodes (--to TENSOR)")
    return g, _outputs(g, nodes, heads, tensors)


def _data_edges(node: Node) -> tuple[Edge, ...]:
    """A node's inputs without labels."""
    return node.inputs[:1] if node.op in LABELLED else node.inputs


def _reachable(heads: Sequence[Edge], edges: Sequence[Sequence[Edge]]) -> list[int]:
    """The nodes that an output needs, in the order they run."""
    wanted = {node for node, _ in heads}
    for i in range(len(edges) - 1, -1, -1):
        if i in wanted:
            wanted.update(node for node, _ in edges[i])
    return sorted(wanted)


def _check_given(given: Mapping[str, str], names: Sequence[str]) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UsageError(
            f"the network has no input '{unknown[0]}'", next=f"its inputs are {', '.join(map(repr, names))}"
        )


def _refuse_missing(nodes: Sequence[Node], inputs: Sequence[int], given: Mapping[str, str], title: str) -> None:
    names = [nodes[i].name for i in inputs]
    missing = [n for n in names if n.endswith(WEIGHT_NAMES) and n not in given]
    if missing:
        raise ModelError(
            f"the parameters of {title} lack {len(missing)} arrays: {', '.join(missing[:5])}",
            next="check that the symbol and the parameters belong together",
        )
    if not names:
        raise ModelError(f"{title} has no input", next="check the file")


def _variable(
    g: MxGraph, node: Node, weights: Mapping[str, Array], given: Mapping[str, str], edges: Any, nodes: Sequence[Node]
) -> str:
    """A stored parameter as a constant, or an input with its shape."""
    if node.name in weights:
        return g.constant(weights[node.name], node.name)
    shape, dtype = _input_shape(node, given, nodes, weights)
    return g.input(node.name, shape, dtype)


def _input_shape(
    node: Node, given: Mapping[str, str], nodes: Sequence[Node], weights: Mapping[str, Array]
) -> tuple[Shape, str]:
    if node.name in given:
        return parse_shape(node.name, given[node.name])
    saved = parse_value(node.attrs.get("__shape__", ""))
    if isinstance(saved, tuple) and 0 < len(saved) <= 8 and all(isinstance(d, int) and 0 < d < 1 << 31 for d in saved):
        return saved, "float32"
    raise UsageError(
        f"an MXNet file does not say which shape its input '{node.name}' has",
        next=f"give it with --input {node.name}={_example(node, nodes, weights)} (? for a batch size that stays open)",
    )


def _example(node: Node, nodes: Sequence[Node], weights: Mapping[str, Array]) -> str:
    """A shape for the message, with what the first operator's weights tell about it."""
    for reader in nodes:
        names = [nodes[i].name for i, _ in reader.inputs]
        weight = weights.get(names[1]) if names[:1] == [node.name] and len(names) > 1 else None
        if weight is not None and reader.op == "Convolution" and weight.ndim > 2:
            return text(("?", weight.shape[1], *(224,) * (weight.ndim - 2)))
        if weight is not None and reader.op == "FullyConnected" and weight.ndim == 2:
            return text(("?", weight.shape[1]))
    return "?x3x224x224"


def _build(
    g: MxGraph, i: int, node: Node, xs: list[str], tensors: dict[Edge, str], weights: Mapping[str, Array]
) -> None:
    if ARITY[node.op][0] == 5 and len(xs) == 3:  # files before 0.9 do not list what is not trained
        names = [f"{node.name}_{state}" for state in STATES[2:]]
        if not all(name in weights for name in names):
            raise Unsupported(f"its statistics {' and '.join(names)} are missing")
        xs = [*xs, *(g.constant(weights[name], name) for name in names)]
    low, high = ARITY[node.op]
    if not low <= len(xs) <= high:
        raise Unsupported(f"it has {len(xs)} inputs where {low if low == high else f'{low} to {high}'} fit")
    n = _output_count(node)
    outs = tuple(_fresh(g, f"{node.name}_output" if n == 1 else f"{node.name}_output{k}") for k in range(n))
    OPS[node.op](g, Op(node, tuple(xs), outs))
    tensors.update({(i, k): out for k, out in enumerate(outs)})


def _fresh(g: MxGraph, name: str) -> str:
    return unique(name, g.types)


def _output_count(node: Node) -> int:
    if node.op not in ("SliceChannel", "split"):
        return 1
    n = parse_value(node.attrs.get("num_outputs", "1"))
    if not isinstance(n, int) or not 0 < n <= MAX_OUTPUTS:
        raise Unsupported(f"it has {node.attrs.get('num_outputs')} outputs")
    return n


def _outputs(g: MxGraph, nodes: Sequence[Node], heads: Sequence[Edge], tensors: Mapping[Edge, str]) -> list[str]:
    """The names of the outputs, as MXNet lists them. Raises ModelError."""
    missing = [nodes[i].label for i, k in heads if (i, k) not in tensors]
    if missing:
        raise ModelError(f"'{missing[0]}' has no output that could be the network's", next="check the file")
    found = [tensors[e] for e in heads]
    ends = {v.name for v in g.inputs} | set(g.constants)
    if any(name in ends for name in found) or len(set(found)) != len(found):
        raise ModelError("an output of the network is one of its inputs, or named twice", next="check the file")
    return found
