"""An ONNX graph made ready for the walk: checked, inlined, its sizes fixed, in order, without what no output needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError, UsageError
from ...model import LoadOptions
from ...registry import did_you_mean
from .. import _onnx
from .node import Node

MAX_NODES = 200_000
MAX_ENTRIES = 1 << 26  # of an input
SMALL = ("complex", "float8", "float4", "int4", "uint4", "int2", "uint2")  # types of tensors that Keras has not
REALS = ("float16", "bfloat16", "float64")
CHANNELS = frozenset(  # operators whose first input has its channels second
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"}
    | {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "Resize", "Upsample", "GridSample"}
    | {"DepthToSpace", "SpaceToDepth", "PRelu", "ConvInteger", "FusedConv", "QLinearConv", "Col2Im"}
)
PASSES = frozenset(  # operators that leave the order of the axes as it is
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Cast",
        "Identity",
        "Relu",
        "LeakyRelu",
        "Clip",
        "Sigmoid",
        "Tanh",
        "Pad",
        "Neg",
    }
    | {
        "QuantizeLinear",
        "DequantizeLinear",
        "Concat",
        "Slice",
        "Split",
        "Abs",
        "Sqrt",
        "Exp",
        "Log",
        "HardSwish",
        "Where",
    }
    | {"Max", "Min", "Dropout", "CastLike"}
)


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the graph: its shape (None: the batch), and whether what reads it wants channels second."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    channels_first: bool
    batch_axis: int = 0  # where the batch is
    limit: int = 100  # integers that it takes are below this, as far as the graph tells


@dataclass(frozen=True, slots=True)
class Graph:
    """What the walk needs."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]  # each after all it reads
    constants: Mapping[str, Array]
    opset: int
    given: Mapping[str, Array]  # inputs without dimensions whose value the user gave; they are constants here

    @property
    def batch_of_one(self) -> bool:
        """Whether every input has a fixed batch of 1, which may be meant as any."""
        return bool(self.inputs) and all(i.shape and i.shape[i.batch_axis] == 1 for i in self.inputs)


def _tensor(name: str, graph: Any, known: Sequence[str]) -> str:
    """The tensor that a user's name stands for: itself, or the only output of the node of that name."""
    if name in known:
        return name
    of_node = [list(n.output) for n in graph.node if n.name and n.name == name]
    if len(of_node) == 1 and len(of_node[0]) == 1:
        return str(of_node[0][0])
    if len(of_node) == 1:
        raise UsageError(
            f"the node '{name}' has several outputs", next=f"name one of {', '.join(n for n in of_node[0] if n)}"
        )
    names = [*known, *(n.name for n in graph.node if n.name)]
    raise UsageError(
        f"there is no tensor or node '{name}' in the model{did_you_mean(name, names)}",
        next="see the names with `edgedl inspect`",
    )


def cut(proto: Any, options: LoadOptions) -> Any:
    """The part of a model between `options.start` and `options.end`, tensors or nodes with one output.

    Raises UsageError for a name that is not there.
    """
    if not options.start and not options.end:
        return proto
    o = _onnx.onnx()
    graph = proto.graph
    known = [n for node in graph.node for n in node.output if n] + [i.name for i in graph.input]
    starts, ends = ([_tensor(n, graph, known) for n in given] for given in (options.start, options.end))
    kept = o.ModelProto()
    kept.CopyFrom(_onnx.inferred(proto))
    infos = {v.name: v for v in (*kept.graph.value_info, *kept.graph.input, *kept.graph.output)}
    ends = ends or [v.name for v in graph.output]
    nodes = [n for n in kept.graph.node if not set(n.output) & set(starts)]
    needed = _needed(nodes, ends, set(starts))
    inputs = starts + [i.name for i in kept.graph.input if i.name in needed and i.name not in starts]
    missing = [n for n in inputs if n not in infos]
    if missing:
        raise UsageError(
            f"the shape of '{missing[0]}' is not known, so the model cannot begin there",
            next="choose another tensor, or export the model with its shapes inferred",
        )
    for field, names in (("input", inputs), ("output", ends)):
        kept_infos = [
            o.ValueInfoProto.FromString((infos.get(n) or o.ValueInfoProto(name=n)).SerializeToString()) for n in names
        ]
        kept.graph.ClearField(field)
        getattr(kept.graph, field).extend(kept_infos)
    live = [o.NodeProto.FromString(n.SerializeToString()) for n in nodes if set(n.output) & needed]
    kept.graph.ClearField("node")
    kept.graph.node.extend(live)
    return kept


def _needed(nodes: Sequence[Any], ends: Sequence[str], stop: set[str]) -> set[str]:
    """Every name that the outputs `ends` depend on, up to `stop`."""
    makers = {n: node for node in nodes for n in node.output if n}
    needed, waiting = set(ends), list(ends)
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is None or name in stop:
            continue
        for source in reads(node):
            if source not in needed:
                needed.add(source)
                waiting.append(source)
    return needed


def reads(node: Any) -> Iterator[str]:
    """The names that a node reads, also in the graphs inside it."""
    yield from (n for n in node.input if n)
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            own = {v.name for v in inner.input} | {t.name for t in inner.initializer}
            for child in inner.node:
                yield from (n for n in reads(child) if n not in own)
                own |= set(child.output)
            yield from (v.name for v in inner.output if v.name not in own)


def prepared(proto: Any, options: LoadOptions, what: str) -> Graph:
    """The graph of a well-formed ModelProto. Raises ModelError (a cycle, a missing tensor), UsageError (open sizes)."""
    from .quantized import expanded

    version = next((e.version for e in proto.opset_import if e.domain in ("", "ai.onnx")), 0)
    graph = expanded(proto).graph
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"{what} has {len(graph.node):,} nodes", next=f"edgedl reads up to {MAX_NODES:,}")
    constants = {t.name: _constant(t, what) for t in graph.initializer}
    if graph.sparse_initializer:
        raise ModelError(f"{what} has sparse weights", next="export it with dense weights")
    outputs = tuple(v.name for v in graph.output)
    given = [v for v in graph.input if v.name not in constants]
    nodes = _sorted(graph.node, {v.name for v in given} | set(constants), outputs, what)
    used = {n for node in nodes for n in reads(node)} | set(outputs)
    _refuse_unknown_inputs(options, [v.name for v in given], what)
    fixed = {v.name: value for v in given if (value := _value(v, options)) is not None}
    given = [v for v in given if v.name not in fixed]
    constants.update(fixed)
    batch = _batch_names(given)
    inputs = _inputs(given, nodes, options, what, batch)
    inputs = tuple(replace(i, limit=_limit(i.name, nodes, constants)) if "int" in i.dtype else i for i in inputs)
    kept = {k: v for k, v in constants.items() if k in used}
    return Graph(inputs, outputs, tuple(Node.of(n, version) for n in nodes), kept, version, fixed)


def _constant(tensor: Any, what: str) -> Array:
    try:
        array = _onnx.array(tensor)
    except _onnx.proto_errors() as error:
        raise ModelError(
            f"the weights '{tensor.name}' of {what} are damaged: {_onnx.last_line(error)}",
            next="copy or export it again",
        ) from error
    return single(array)


def single(array: Array) -> Array:
    """Real numbers as float32."""
    return array.astype(np.float32) if array.dtype.name in REALS else array


def _sorted(nodes: Sequence[Any], known: set[str], outputs: Sequence[str], what: str) -> list[Any]:
    """The nodes that outputs need, each after what it reads. Raises ModelError for a cycle or a tensor nobody makes."""
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name and (name in makers or name in known):
                raise ModelError(f"two nodes of {what} make the tensor '{name}'", next="export the model again")
            if name:
                makers[name] = i
    needed = _needed(nodes, outputs, set())
    waiting = [i for i, node in enumerate(nodes) if any(n in needed for n in node.output)]
    sources = {i: {makers[n] for n in reads(nodes[i]) if n in makers} for i in waiting}
    for i in waiting:
        absent = [n for n in reads(nodes[i]) if n not in makers and n not in known]
        if absent:
            raise ModelError(
                f"node '{nodes[i].name or nodes[i].output[0]}' of {what} reads '{absent[0]}', which nothing makes",
                next="export the model again",
            )
    for name in outputs:
        if name not in makers and name not in known:
            raise ModelError(f"nothing in {what} makes its output '{name}'", next="export the model again")
    return [nodes[i] for i in _topological(waiting, sources, nodes, what)]


def _topological(waiting: list[int], sources: dict[int, set[int]], nodes: Sequence[Any], what: str) -> list[int]:
    readers: dict[int, list[int]] = {i: [] for i in waiting}
    left = {}
    for i in waiting:
        left[i] = len(sources[i])
        for s in sources[i]:
            readers[s].append(i)
    ready = [i for i in waiting if not left[i]]
    out: list[int] = []
    at = 0
    while at < len(ready):
        i = ready[at]
        at += 1
        out.append(i)
        for r in readers[i]:
            left[r] -= 1
            if not left[r]:
                ready.append(r)
    if len(out) != len(waiting):
        stuck = next(i for i in waiting if left[i])
        raise ModelError(
            f"the graph of {what} is a circle: node '{nodes[stuck].name or nodes[stuck].output[0]}' depends on itself",
            next="export the model again",
        )
    return out


# --- inputs


def parse_shape(text: str) -> tuple[int | None, ...]:
    """`1x3x224x224` as numbers; `?`, `N` or another name stay open.

    >>> parse_shape("?x3x8"), parse_shape("Nx4:int64")
    ((None, 3, 8), (None, 4))
    """
    parts = [p for p in re.split(r"[x,]", text.partition(":")[0].strip().strip("[]()").replace(" ", "")) if p]
    return tuple(int(p) if p.lstrip("-").isdigit() and int(p) > 0 else None for p in parts)


def _value(info: Any, options: LoadOptions) -> Array | None:
    """The value that --input gives to an input without dimensions, such as a sampling rate. Raises UsageError."""
    tensor = info.type.tensor_type
    text = options.inputs.get(info.name, "")
    if not text or not info.type.HasField("tensor_type") or not tensor.HasField("shape") or len(tensor.shape.dim):
        return None
    try:
        return single(np.array(float(text), _onnx.dtype_name(tensor.elem_type)))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"the input '{info.name}' is one number, and --input gives it '{text}'",
            next=f"write --input {info.name}=16000",
        ) from error


def _batch_names(infos: Sequence[Any]) -> set[str]:
    """What the file calls the batch: the open first dimensions of its inputs."""
    dims = [v.type.tensor_type.shape.dim for v in infos if v.type.HasField("tensor_type")]
    return {d[0].dim_param for d in dims if len(d) and d[0].dim_param}


class Open(Exception):
    """An input whose sizes are open: (it, the option that fixes them). All of a graph are told at once."""


def _inputs(
    infos: Sequence[Any], nodes: Sequence[Any], options: LoadOptions, what: str, batch: set[str]
) -> tuple[Input, ...]:
    found, opened = [], []
    for info in infos:
        try:
            found.append(_input(info, nodes, options, what, batch))
        except Open as error:
            opened.append(error.args)
    if opened:
        raise UsageError(
            f"{what} has inputs with sizes that are open: {', '.join(told for told, _ in opened)}",
            next=f"fix them, for example with {' '.join(option for _, option in opened)}",
        )
    return tuple(found)


def _input(info: Any, nodes: Sequence[Any], options: LoadOptions, what: str, batch: set[str]) -> Input:
    name = info.name
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(
            f"the input '{name}' of {what} is a {kind}, not a tensor", next="export the model with tensors"
        )
    dtype = _onnx.dtype_name(info.type.tensor_type.elem_type)
    if dtype in ("string", "unknown") or dtype.startswith(SMALL):
        raise ModelError(
            f"the input '{name}' of {what} takes {dtype}, not numbers",
            next="cut the model behind it with --from TENSOR",
        )
    shape = list(_onnx.shape_of(info)) if info.type.tensor_type.HasField("shape") else None
    text = options.inputs.get(name, options.inputs.get("", ""))
    if text:
        shape = _fixed(name, shape, parse_shape(text))
    if shape is None:
        raise Open(f"'{name}' (of any shape)", f"--input {name}=1x3x224x224")
    names = [d.dim_param or "?" for d in info.type.tensor_type.shape.dim] or ["?"] * len(shape)
    free = [i for i, n in enumerate(shape) if n is None]
    at = free[0] if len(free) == 1 and names[free[0]] in {*batch, "?"} else 0
    if not free and shape and shape[0] != 1 and 1 in shape:
        at = shape.index(1)  # a state such as [layers, batch, units]
    if any(n is None for i, n in enumerate(shape) if i != at):
        example = "x".join(str(n or (1 if i == 0 else 224)) for i, n in enumerate(shape))
        told = "x".join(str(n or d) for n, d in zip(shape, names, strict=False))
        raise Open(f"'{name}' ({told})", f"--input {name}={example}")
    count = math.prod(n or 1 for n in shape)
    if count > MAX_ENTRIES:
        raise ModelError(
            f"the input '{name}' of {what} has {count:,} entries", next=f"edgedl reads inputs of up to {MAX_ENTRIES:,}"
        )
    return Input(
        name, tuple(shape), "float32" if dtype in REALS else dtype, at == 0 and channels_first(name, nodes), at
    )


def _fixed(name: str, have: list[int | None] | None, want: tuple[int | None, ...]) -> list[int | None]:
    if have is None:
        return list(want)
    if len(have) != len(want):
        raise UsageError(
            f"the input '{name}' has {len(have)} dimensions, and --input gives {len(want)}",
            next="give one size for each",
        )
    for h, w in zip(have[1:], want[1:], strict=True):
        if h is not None and w is not None and h != w:
            raise UsageError(
                f"the input '{name}' is {'x'.join(str(n or '?') for n in have)} in the file, and --input says otherwise",
                next="give another size only where the file leaves it open",
            )
    alone = have.count(None) == 1  # the only size that is open is the batch: a 1 leaves it so
    return [
        h if w is None or (h is None and w == 1 and (i == 0 or alone)) else w
        for i, (h, w) in enumerate(zip(have, want, strict=True))
    ]


def _refuse_unknown_inputs(options: LoadOptions, names: Sequence[str], what: str) -> None:
    for name in options.inputs:
        if name and name not in names:
            raise UsageError(
                f"{what} has no input '{name}'{did_you_mean(name, names)}", next=f"its inputs are {', '.join(names)}"
            )
        if not name and len(names) != 1:
            raise UsageError(
                f"{what} has {len(names)} inputs, and --input names none", next=f"write --input {names[0]}=SHAPE"
            )


CARRIES = frozenset({"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Flatten", "Expand"})


def _limit(name: str, nodes: Sequence[Any], constants: Mapping[str, Array]) -> int:
    """How many rows the shortest table has that an integer input looks up; 100 where it looks up none."""
    found, carried = 0, {name}
    for node in nodes:
        if node.op_type in CARRIES and node.input[0] in carried:
            carried.update(node.output)
        looks_up = node.op_type == "Gather" and node.input[1] in carried and node.input[0] in constants
        if looks_up and constants[node.input[0]].ndim:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            table = constants[node.input[0]].shape
            rows = table[axis] if -len(table) <= axis < len(table) else 0
            found = min(found or rows, rows)
    return found or 100


def channels_first(name: str, nodes: Sequence[Any]) -> bool:
    """Whether what reads an input, as far as nothing reorders its axes, is an operator with channels second."""
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for n in node.input:
            readers.setdefault(n, []).append(node)
    seen, waiting = {name}, [name]
    while waiting:
        at = waiting.pop()
        for node in readers.get(at, []):
            if node.op_type in CHANNELS and node.input[0] == at:
                return True
            if node.op_type in PASSES:
                new = [n for n in node.output if n not in seen]
                seen.update(new)
                waiting += new
    return False
