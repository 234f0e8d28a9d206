"""Finding a pattern in an ONNX graph and putting an operator in its place: what patterns.py is a table of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...artifact import Array
from .. import _onnx
from .graph import reads

STANDARD = ("", "ai.onnx")  # the domain of ONNX's own operators
COMMUTES = frozenset({"Add", "Mul", "Max", "Min"})
CLOSE = 1e-3  # of a constant: exporters write 1 / sqrt(2) with few digits
BROADCASTS = ("Expand", "Reshape", "Unsqueeze")  # what stands between a reduction without keepdims and its reader


@dataclass(slots=True)
class Rewriter:
    """The nodes of a graph, who makes and who reads what, and its constants."""

    proto: Any
    nodes: dict[int, Any] = field(default_factory=dict)
    makers: dict[str, Any] = field(default_factory=dict)
    readers: dict[str, dict[int, Any]] = field(default_factory=dict)
    initializers: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array | None] = field(default_factory=dict)
    outputs: frozenset[str] = frozenset()
    shapes: dict[str, tuple[int | None, ...]] | None = None
    added: list[Any] = field(default_factory=list)
    changed: int = 0

    @classmethod
    def of(cls, proto: Any) -> Rewriter:
        """The main graph of a model."""
        graph = proto.graph
        found = cls(proto, outputs=frozenset(v.name for v in graph.output))
        found.initializers = {t.name: t for t in graph.initializer}
        for node in graph.node:
            found.enter(node)
        return found

    def enter(self, node: Any) -> None:
        """Add a node."""
        self.nodes[id(node)] = node
        for name in node.output:
            self.makers[name] = node
        for name in reads(node):
            self.readers.setdefault(name, {})[id(node)] = node

    def leave(self, node: Any) -> None:
        """Take a node out, and those that only it read."""
        waiting = [node]
        while waiting:
            gone = waiting.pop()
            if self.nodes.pop(id(gone), None) is None:
                continue
            for name in gone.output:
                if self.makers.get(name) is gone:
                    del self.makers[name]
            for name in set(reads(gone)):
                self.readers.get(name, {}).pop(id(gone), None)
                maker = self.makers.get(name)
                if maker is not None and not any(self.readers.get(o) or o in self.outputs for o in maker.output if o):
                    waiting.append(maker)

    def replace(
        self, root: Any, op: str, inputs: Sequence[str], name: str = "", domain: str = "", **options: Any
    ) -> None:
        """An operator of its own in the place of `root` and of what only `root` needed; it keeps root's output."""
        made = _onnx.onnx().helper.make_node(
            op, list(inputs), list(root.output), name=name or root.name, domain=domain, **options
        )
        self.put(root, [made])

    def put(self, root: Any, made: Sequence[Any]) -> None:
        """Nodes in the place of `root`; the last one makes its output."""
        for node in made:  # first, so that what they read stays
            self.nodes[id(node)] = node
            for name in reads(node):
                self.readers.setdefault(name, {})[id(node)] = node
        self.leave(root)
        for node in made:
            for name in node.output:
                self.makers[name] = node
        self.changed += 1

    def constant(self, name: str) -> Array | None:
        """The value of a name, where that is a constant."""
        if name not in self.arrays:
            self.arrays[name] = self._constant(self._through(name))
        return self.arrays[name]

    def _through(self, name: str) -> str:
        """The name that a chain of Identity nodes hands on."""
        seen = {name}
        while (node := self.makers.get(name)) is not None and node.op_type == "Identity" and node.domain in STANDARD:
            name = node.input[0]
            if name in seen:
                break
            seen.add(name)
        return name

    def _constant(self, name: str) -> Array | None:
        if name in self.initializers:
            return _onnx.array(self.initializers[name])
        node = self.makers.get(name)
        if node is None or node.domain not in STANDARD or node.op_type != "Constant":
            return None
        values = {a.name: _onnx.onnx().helper.get_attribute_value(a) for a in node.attribute}
        if "value" in values:
            return _onnx.array(values["value"])
        scalar = next(
            (values[k] for k in ("value_float", "value_int", "value_floats", "value_ints") if k in values), None
        )
        return None if scalar is None else np.asarray(scalar)

    def add(self, array: Array, base: str) -> str:
        """A new constant; returns its name."""
        name, count = f"{base}_joined", 1
        while name in self.initializers or name in self.makers:
            name, count = f"{base}_joined_{count}", count + 1
        tensor = _onnx.onnx().numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.initializers[name] = tensor
        self.arrays[name] = array
        self.added.append(tensor)
        return name

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """What onnx's shape inference says of a name."""
        if self.shapes is None:
            self.shapes = _inferred(self.proto)
        return self.shapes.get(name)

    def inner(self, root: Any, nodes: Sequence[Any]) -> bool:
        """Whether what these nodes make is read by them alone, but for what `root` makes."""
        own = {id(n) for n in nodes}
        for node in nodes:
            if node is root:
                continue
            for name in node.output:
                if name in self.outputs or not set(self.readers.get(name, {})) <= own:
                    return False
        return True

    def model(self) -> Any:
        """The rewritten ModelProto; the original where nothing was done."""
        if not self.changed:
            return self.proto
        made = type(self.proto)()
        made.CopyFrom(self.proto)
        kept = [type(n).FromString(n.SerializeToString()) for n in self.nodes.values()]
        made.graph.ClearField("node")
        made.graph.node.extend(kept)
        made.graph.initializer.extend(self.added)
        return made


def _inferred(proto: Any) -> dict[str, tuple[int | None, ...]]:
    try:
        graph = _onnx.inferred(proto).graph
    except _onnx.proto_errors():
        return {}
    infos = (*graph.value_info, *graph.input, *graph.output)
    found = {v.name: tuple(_onnx.shape_of(v)) for v in infos if v.type.tensor_type.HasField("shape")}
    return found | {t.name: tuple(t.dims) for t in graph.initializer}


# --- patterns: ("Op", argument, ...) where an argument is a pattern, a number (a constant of that value), "x" (any
# tensor, the same one everywhere), "$c" (any constant), Either(...), or Reduced(pattern), whose axes were put back


class Either(tuple[Any, ...]):
    """One of several patterns."""

    def __new__(cls, *patterns: Any) -> Either:
        return super().__new__(cls, patterns)


@dataclass(frozen=True, slots=True)
class Reduced:
    """A pattern behind which the reduced axes may have been put back by Reshape, Unsqueeze and Expand."""

    pattern: Any


@dataclass(frozen=True, slots=True)
class Match:
    """The names that the variables of a pattern stand for, and the nodes it is made of."""

    names: Mapping[str, str]
    nodes: tuple[Any, ...] = ()

    def __getitem__(self, key: str) -> str:
        return self.names[key]

    def with_name(self, key: str, name: str) -> Match:
        return Match({**self.names, key: name}, self.nodes)

    def with_node(self, node: Any) -> Match:
        return Match(self.names, (*self.nodes, node))


def matches(g: Rewriter, name: str, pattern: Any, so_far: Match) -> Iterator[Match]:
    """Every way in which the value `name` is what `pattern` says."""
    if isinstance(pattern, Either):
        for one in pattern:
            yield from matches(g, name, one, so_far)
    elif isinstance(pattern, Reduced):
        yield from matches(g, name, pattern.pattern, so_far)
        node = g.makers.get(name)
        if node is not None and node.op_type in BROADCASTS:
            yield from matches(g, node.input[0], pattern, so_far.with_node(node))
    elif isinstance(pattern, int | float):
        array = g.constant(name)
        if array is not None and array.size == 1 and math.isclose(float(array.reshape(-1)[0]), pattern, rel_tol=CLOSE):
            yield so_far
    elif isinstance(pattern, str):
        known = so_far.names.get(pattern)
        if known == name or (known is None and (not pattern.startswith("$") or g.constant(name) is not None)):
            yield so_far.with_name(pattern, name)
    else:
        yield from _node(g, name, pattern, so_far)


def _node(g: Rewriter, name: str, pattern: tuple[Any, ...], so_far: Match) -> Iterator[Match]:
    op, *arguments = pattern
    node = g.makers.get(name)
    if node is None or node.op_type != op or node.domain not in STANDARD or node.output[0] != name:
        return
    if op == "Clip" and len(arguments) == 2 and len(node.input) > 2 and node.input[2]:
        return
    if op == "Clip" and len(arguments) == 3:
        low, high = arguments[1:]
        if _bounds(g, node) != (low, high):
            return
        arguments = arguments[:1]
    if len(node.input) < len(arguments):
        return
    orders = [arguments] if op not in COMMUTES or len(arguments) != 2 else [arguments, arguments[::-1]]
    if len(orders) == 2 and len(node.input) != 2:
        return
    for order in orders:
        found = [so_far.with_node(node)]
        for source, argument in zip(node.input, order, strict=False):
            found = [m for f in found for m in matches(g, source, argument, f)]
        yield from found


def _bounds(g: Rewriter, node: Any) -> tuple[float, float] | None:
    """The least and the greatest value of a Clip; None where they are computed."""
    given = {a.name: a.f for a in node.attribute}
    found = [given.get("min", -math.inf), given.get("max", math.inf)]
    for i, name in enumerate(node.input[1:3]):
        if name:
            array = g.constant(name)
            if array is None or array.size != 1:
                return None
            found[i] = float(array.reshape(-1)[0])
    return found[0], found[1]


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of an attribute."""
    return next((_onnx.onnx().helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


Apply = Callable[[Rewriter, Any, Match], bool]


def rewrite(pattern: Any, apply: Apply) -> Callable[[Rewriter], None]:
    """A pass that calls `apply(graph, root node, match)` for each place where a pattern is, until it says True."""
    roots = _roots(pattern)

    def run(g: Rewriter) -> None:
        for node in list(g.nodes.values()):
            if node.op_type in roots and id(node) in g.nodes and node.output:
                for match in matches(g, node.output[0], pattern, Match({})):
                    if g.inner(node, match.nodes) and apply(g, node, match):
                        break

    return run


def _roots(pattern: Any) -> set[str]:
    """The operators that a pattern may end in."""
    return {op for one in pattern for op in _roots(one)} if isinstance(pattern, Either) else {pattern[0]}


def becomes(op: str, *inputs: str, **options: Any) -> Apply:
    """What replaces a pattern by one operator of the variables `inputs`."""

    def apply(g: Rewriter, root: Any, match: Match) -> bool:
        g.replace(root, op, [match[i] for i in inputs], **options)
        return True

    return apply
