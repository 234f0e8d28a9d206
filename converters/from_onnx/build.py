"""From an ONNX graph to a Keras 3 functional model: the walk over the nodes, and what is to be done with each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...artifact import TensorSpec
from ...errors import ModelError
from ...frameworks import deep, keras
from .. import _onnx
from .._layers import register
from .builder import Builder
from .fold import folded
from .graph import Graph, reads
from .layout import Dims, Factor, NotFree, flat, new_dim, shape
from .node import MISFITS, Node, Unsupported
from .ops import table
from .value import Value

MAX_ERRORS = 40  # nodes named in one error


@dataclass(frozen=True, slots=True)
class Imported:
    """A rebuilt model: its network, what its inputs and outputs are, and where each ONNX value is in it."""

    net: Any  # keras.Model, functional
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layouts: Mapping[str, tuple[int, ...]]  # by name: keras = original.transpose(layout)
    values: Mapping[str, Value]  # by ONNX name, as far as they are computed
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by Keras layer
    batch_axes: Mapping[str, int] = field(default_factory=dict)  # of outputs, in the original's order of axes


def build(graph: Graph, *, freed: bool, name: str) -> Imported:
    """The Keras model of a prepared graph; `freed`: with any batch size where the file says 1.

    Raises ModelError with every node that cannot be built, NotFree where the file means a batch of exactly 1.
    """
    register()
    inputs, values, layouts = _inputs(graph, freed)
    if not inputs:
        raise ModelError("the graph has no inputs: all of it is constant", next="export the model with its inputs")
    builder = Builder(inputs[0], freed, {t.name for t in inputs})
    values.update({k: Value.of_constant(v) for k, v in graph.constants.items()})
    _walk(builder, graph, values)
    outputs, out_layouts = _outputs(builder, graph, values)
    net = _network(inputs, outputs, name)
    specs_in = tuple(TensorSpec(i.name, tuple(t.shape), t.dtype) for i, t in zip(graph.inputs, inputs, strict=True))
    specs_out = tuple(TensorSpec(n, tuple(t.shape), t.dtype) for n, t in zip(graph.outputs, outputs, strict=True))
    kept = {o.name for o in net.operations}
    told = {_layer(v): v.range for v in values.values() if v.range is not None and v.tensor is not None}
    ranges = {name: found for name, found in told.items() if name in kept}
    computed = {k: v for k, v in values.items() if v.tensor is not None}
    batch = {n: at for n in graph.outputs if (at := _batch_axis(values[n])) is not None}
    return Imported(net, specs_in, specs_out, {**layouts, **out_layouts}, computed, ranges, batch)


def one(values: list[Any]) -> Any:
    """A list, or its only entry: as Keras users call a network of one input."""
    return values if len(values) > 1 else values[0]


def _network(inputs: list[Any], outputs: list[Any], name: str) -> Any:
    try:
        with deep():
            return keras().Model(one(inputs), one(outputs), name=name)
    except RecursionError as error:
        raise ModelError(
            "the graph is a chain of more nodes than Keras can walk", next="take a part of it with --from and --to"
        ) from error


def _batch_axis(value: Value) -> int | None:
    return next((i for i, d in enumerate(value.dims) if any(f.free for f in d)), None)


def _layer(value: Value) -> str:
    return str(value.tensor._keras_history.operation.name)


def _inputs(graph: Graph, freed: bool) -> tuple[list[Any], dict[str, Value], dict[str, tuple[int, ...]]]:
    """Keras inputs: channels last where what reads them has channels."""
    import re

    tensors: list[Any] = []
    values: dict[str, Value] = {}
    layouts: dict[str, tuple[int, ...]] = {}
    batch = Factor(1, free=True)
    for i, info in enumerate(graph.inputs):
        dims: Dims = tuple(
            (batch,) if n is None or (d == info.batch_axis and freed and n == 1) else new_dim(n)
            for d, n in enumerate(info.shape)
        )
        rank = len(dims)
        last = info.channels_first and rank >= 3
        first = info.batch_axis if rank and dims[info.batch_axis] == (batch,) else 0
        order = (0, *range(2, rank), 1) if last else (*range(rank)[first:][:1], *(d for d in range(rank) if d != first))
        axes = tuple(dims[o] for o in order)
        lengths = shape(axes)
        label = re.sub(r"[^A-Za-z0-9_.\-]+", "_", info.name).strip("_") or f"input_{i}"
        while label in {t.name for t in tensors}:
            label += "_"
        tensor = keras().Input(batch_shape=lengths, dtype=info.dtype, name=label)
        tensors.append(tensor)
        if order != tuple(range(rank)):
            layouts[info.name] = order
        values[info.name] = Value(dims, axes, tensor, None, tensor.dtype)
    return tensors, values, layouts


def _outputs(
    builder: Builder, graph: Graph, values: Mapping[str, Value]
) -> tuple[list[Any], dict[str, tuple[int, ...]]]:
    """The output tensors, each in the layout that it lies in where that is a permutation, else as ONNX has it."""
    tensors: list[Any] = []
    layouts: dict[str, tuple[int, ...]] = {}
    sources = {id(values[i.name].tensor) for i in graph.inputs}
    for name in graph.outputs:
        if values[name].items is not None:
            raise ModelError(
                f"the output '{name}' is a sequence, not a tensor", next="cut the model before it with --to"
            )
        try:
            value = builder.materialized(values[name])
        except Unsupported as error:
            raise ModelError(f"the output '{name}' is {error}", next="cut the model before it with --to") from error
        order = _order(value)
        tensor = value.canonical() if order is None else value.permuted(order)
        if order is not None and order != tuple(range(value.rank)):
            layouts[name] = order
        if id(tensor) in sources or any(tensor is t for t in tensors):
            tensor = builder.layer("Identity", tensor)
        tensors.append(tensor)
    return tensors, layouts


def _order(value: Value) -> tuple[int, ...] | None:
    """ONNX's dimensions in the order of the output: the batch first, images channels last where they lie so."""
    batch = next((i for i, d in enumerate(value.dims) if len(d) == 1 and d[0].free), 0)
    if batch:
        return (batch, *(i for i in range(value.rank) if i != batch))
    last = (0, *range(2, value.rank), 1)
    if value.rank < 3 or flat(value.dims) == flat(value.axes):
        return None
    return last if flat(tuple(value.dims[i] for i in last)) == flat(value.axes) else None


def _walk(builder: Builder, graph: Graph, values: dict[str, Value]) -> None:
    problems: list[str] = []
    lost: set[str] = set()
    known = table()
    builder.scope = values
    for node in graph.nodes:
        missing = [n for n in reads(node.proto) if n in lost]
        if missing:
            lost.update(n for n in node.outputs if n)
            if node.op not in known and not _foldable(node, values):
                problems.append(_told(node, "is not an operator that edgedl knows"))
            continue
        try:
            made = step(builder, node, [values[n] if n else None for n in node.proto.input], known)
        except Unsupported as error:
            problems.append(_told(node, f"has {error}"))
        except MISFITS as error:
            problems.append(_told(node, f"does not fit together: {_onnx.last_line(error)}"))
        else:
            values.update({n: v for n, v in zip(node.outputs, made, strict=False) if n})
            continue
        lost.update(n for n in node.outputs if n)
    if problems:
        more = f"\n  - and {len(problems) - MAX_ERRORS} more" if len(problems) > MAX_ERRORS else ""
        listed = problems[0] if len(problems) == 1 else "".join(f"\n  - {p}" for p in problems[:MAX_ERRORS]) + more
        raise ModelError(
            f"cannot rebuild the model: {listed}",
            next="cut the model there with --from or --to, replace what is named, or keep its format with --format onnx",
        )


def _told(node: Node, why: str) -> str:
    domain = f"{node.proto.domain}::" if node.proto.domain not in ("", "ai.onnx") else ""
    return f"node '{node.name}' ({domain}{node.op}) {why}"


def _foldable(node: Node, values: Mapping[str, Value]) -> bool:
    return all(not n or (n in values and values[n].is_constant) for n in node.proto.input)


def step(builder: Builder, node: Node, inputs: Sequence[Value | None], known: Mapping[str, Any]) -> tuple[Value, ...]:
    """What one node computes: a constant where everything it reads is one, else what its builder makes."""
    from .control import CONTROL

    builder.node = node
    if node.op in CONTROL and node.proto.domain in ("", "ai.onnx"):
        return tuple(CONTROL[node.op](builder, node, *inputs))
    given = [v for v in inputs if v is not None]
    if all(v.is_constant for v in given) and node.op not in UNFOLDED and (given or node.op == "Constant"):
        return folded(node, inputs)
    build = known.get(node.op) if node.proto.domain in ("", "ai.onnx") else known.get(f"{node.proto.domain}::{node.op}")
    if build is None:
        raise Unsupported("no builder: it is not an operator that edgedl knows")
    wanted = list(inputs)
    while wanted and wanted[-1] is None:
        wanted.pop()
    made = build(builder, node, *wanted)
    return made if isinstance(made, tuple) else (made,)


UNFOLDED = frozenset(  # operators that are built even where all they read is constant: chance, and sequences
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
    | {"SequenceConstruct", "SequenceInsert", "SplitToSequence"}
)


__all__ = ["Imported", "NotFree", "build", "step"]
