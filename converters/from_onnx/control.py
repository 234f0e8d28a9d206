"""Control flow that is decided before the model runs: If with a constant condition, Loop and Scan of a fixed length."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras
from .. import _onnx
from .builder import Builder
from .graph import single
from .layout import NotFree
from .node import MISFITS, Node, Unsupported, axis_of
from .value import Value

MAX_STEPS = 256  # of a loop that is unrolled
MAX_MADE = 20_000  # nodes that all bodies together may become
MAX_DEPTH = 8  # bodies inside of bodies
MAX_NAMED = 5  # nodes of a body named in one error


@dataclass(frozen=True, slots=True)
class Body:
    """A graph inside a node, ready to be walked as often as it takes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: dict[str, Value]

    @classmethod
    def of(cls, node: Node, key: str) -> Body:
        """The body that an attribute holds. Raises Unsupported where there is none."""
        graph = node.attributes.get(key)
        if graph is None or not hasattr(graph, "initializer"):
            raise Unsupported(f"no {key}")
        if graph.sparse_initializer:
            raise Unsupported("sparse weights in its body")
        constants = {t.name: Value.of_constant(single(_onnx.array(t))) for t in graph.initializer}
        names = tuple(v.name for v in graph.input if v.name not in constants)
        nodes = tuple(Node.of(n, node.opset) for n in graph.node)
        return cls(names, tuple(v.name for v in graph.output), nodes, constants)


def body_of(b: Builder, node: Node, key: str) -> Body:
    """The body that an attribute holds, read once however often the node is walked."""
    found = b.bodies.get((id(node), key))
    if found is None:
        found = b.bodies[id(node), key] = node, Body.of(node, key)
    body: Body = found[1]
    return body


def walked(b: Builder, body: Body, inputs: Sequence[Value]) -> list[Value]:
    """What a body makes of its inputs; it sees the names around it. Raises Unsupported naming the nodes in it."""
    if len(inputs) != len(body.inputs):
        raise Unsupported(f"a body of {len(body.inputs)} inputs, given {len(inputs)}")
    if b.depth >= MAX_DEPTH:
        raise Unsupported(f"more than {MAX_DEPTH} bodies inside of each other")
    outer, at = b.scope, b.node
    scope = ChainMap({**body.constants, **dict(zip(body.inputs, inputs, strict=True))}, outer)
    b.scope, b.depth = scope, b.depth + 1
    try:
        _walk(b, body, scope)
        lacking = [n for n in body.outputs if n not in scope]
        if lacking:
            raise Unsupported(f"a body in which nothing makes its output '{lacking[0]}'")
        return [scope[n] for n in body.outputs]
    finally:
        b.scope, b.depth, b.node = outer, b.depth - 1, at


def _walk(b: Builder, body: Body, scope: ChainMap[str, Value]) -> None:
    from .build import step
    from .ops import table

    problems: list[str] = []
    lost: set[str] = set()
    for node in body.nodes:
        b.made += 1
        if b.made > MAX_MADE:
            raise Unsupported(f"bodies that would become more than {MAX_MADE:,} nodes")
        absent = [n for n in node.proto.input if n and n not in scope]
        if absent and not set(absent) <= lost:
            raise Unsupported(f"a body whose node '{node.name}' reads '{absent[0]}', which nothing makes")
        try:
            if not absent:
                made = step(b, node, [scope[n] if n else None for n in node.proto.input], table())
                scope.update({n: v for n, v in zip(node.outputs, made, strict=False) if n})
                continue
        except Unsupported as error:
            problems.append(f"node '{node.name}' ({node.op}) with {error}")
        except MISFITS as error:
            problems.append(f"node '{node.name}' ({node.op}), which does not fit together: {_onnx.last_line(error)}")
        lost.update(n for n in node.outputs if n)
    if problems:
        more = f" and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise Unsupported(f"in its body {', '.join(problems[:MAX_NAMED])}{more}")


# --- If


def if_(b: Builder, node: Node, condition: Value) -> Sequence[Value]:
    """The branch that a constant condition names; both and a choice where it is computed and they have one shape."""
    if condition.is_constant:
        key = "then_branch" if bool(condition.array.reshape(-1)[0]) else "else_branch"
        return walked(b, body_of(b, node, key), ())
    if any(f.free for d in condition.dims for f in d):
        if b.freed:
            raise NotFree
        raise Unsupported("a condition for each member of the batch")
    yes, no = (walked(b, body_of(b, node, key), ()) for key in ("then_branch", "else_branch"))
    if len(yes) != len(no):
        raise Unsupported(f"a computed condition with branches of {len(yes)} and {len(no)} outputs")
    scalar = condition.with_axes((), condition.axes, condition.tensor)
    return [_chosen(b, scalar, x, y) for x, y in zip(yes, no, strict=True)]


def _chosen(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    if x is y:
        return x
    if x.items is not None or y.items is not None:
        raise Unsupported("a computed condition that chooses between sequences")
    if x.shape != y.shape or x.dtype != y.dtype:
        raise Unsupported(
            f"a computed condition that chooses between {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}"
        )
    return b.elementwise(keras().ops.where, condition, x, y)


# --- Loop


def loop(b: Builder, node: Node, count: Value | None = None, go_on: Value | None = None,
         *states: Value | None) -> Sequence[Value]:  # fmt: skip
    """Unrolled, as long as the number of steps and the condition to go on are known."""
    body = body_of(b, node, "body")
    most = None if count is None else int(count.array.reshape(-1)[0])
    on = True if go_on is None else _decided(go_on)
    carried = [v for v in states if v is not None]
    scans: list[list[Value]] = [[] for _ in body.outputs[1 + len(carried) :]]
    i = 0
    while on and (most is None or i < most):
        if i >= MAX_STEPS:
            raise Unsupported(f"a loop of more than {MAX_STEPS} steps")
        made = walked(b, body, [_number(i, np.int64), _number(True, np.bool_), *carried])
        on = _decided(made[0])
        carried = made[1 : 1 + len(carried)]
        for column, value in zip(scans, made[1 + len(carried) :], strict=True):
            column.append(value)
        i += 1
    return [*carried, *(stacked(b, node, column) for column in scans)]


def _decided(value: Value) -> bool:
    if not value.is_constant:
        raise Unsupported("a loop whose end depends on the data")
    return bool(value.array.reshape(-1)[0])


def _number(value: Any, kind: Any) -> Value:
    return Value.of_constant(np.asarray(value, kind))


# --- Scan


def scan(b: Builder, node: Node, *inputs: Value | None) -> Sequence[Value]:
    """Unrolled over the length of what it scans."""
    if node.opset < 9:
        raise Unsupported("the form of before opset 9")
    body, count = body_of(b, node, "body"), node.integer("num_scan_inputs")
    given = [v for v in inputs if v is not None]
    if not 0 < count <= len(given) == len(body.inputs):
        raise Unsupported(f"{len(given)} inputs, {count} of them scanned, for a body of {len(body.inputs)}")
    carried, scanned = given[:-count], given[-count:]
    columns = [
        _pieces(b, v, axis, backwards)
        for v, axis, backwards in zip(
            scanned, _each(node, "scan_input_axes", count), _each(node, "scan_input_directions", count), strict=True
        )
    ]
    if len({len(c) for c in columns}) != 1:
        raise Unsupported("scanned inputs of different lengths")
    made: list[list[Value]] = []
    for values in zip(*columns, strict=True):
        out = walked(b, body, [*carried, *values])
        carried, rest = out[: len(carried)], out[len(carried) :]
        made.append(rest)
    results = len(body.outputs) - len(carried)
    axes, ways = (_each(node, f"scan_output_{key}", results) for key in ("axes", "directions"))
    kept = [[row[i] for row in made][:: -1 if ways[i] else 1] for i in range(results)]
    return [*carried, *(stacked(b, node, column, axis) for column, axis in zip(kept, axes, strict=True))]


def _each(node: Node, key: str, count: int) -> list[int]:
    found = node.integers(key) or [0] * count
    if len(found) != count:
        raise Unsupported(f"{len(found)} {key} where {count} are needed")
    return found


def _pieces(b: Builder, x: Value, axis: int, backwards: int) -> list[Value]:
    length = x.shape[axis_of(axis, x.rank)]
    if length is None:
        if b.freed:
            raise NotFree
        raise Unsupported("scanning over the batch")
    if length > MAX_STEPS:
        raise Unsupported(f"a scan of more than {MAX_STEPS} steps")
    found = pieces(x, axis_of(axis, x.rank))
    return found[::-1] if backwards else found


# --- cutting and stacking


def pieces(x: Value, axis: int) -> list[Value]:
    """A value cut along one of its dimensions into entries without it."""
    if x.constant is not None:
        first, second = x.constant.at
        return [Value.of_constant(np.take(first, i, axis), np.take(second, i, axis)) for i in range(first.shape[axis])]
    value, at = x.apart(axis)
    dims = (*value.dims[:axis], *value.dims[axis + 1 :])
    axes = (*value.axes[:at], *value.axes[at + 1 :])
    return [Value(dims, axes, t, None, t.dtype) for t in keras().ops.unstack(value.tensor, axis=at)]


def stacked(b: Builder, node: Node, values: Sequence[Value], axis: int = 0) -> Value:
    """Values of one shape along a new dimension. Raises Unsupported where there are none."""
    if not values:
        raise Unsupported("outputs of the steps of a loop that makes no step")
    if any(v.items is not None for v in values):
        raise Unsupported("sequences as the outputs of its steps")
    return joined(b, node, [_unsqueezed(v, axis) for v in values], axis)


def joined(b: Builder, node: Node, values: Sequence[Value], axis: int) -> Value:
    """Values one after the other along a dimension that they have."""
    from .ops.shaping import concat

    if all(v.constant is not None for v in values):
        pairs = zip(*(v.constant.at for v in values if v.constant is not None), strict=True)
        return Value.of_constant(*(np.concatenate(part, axis) for part in pairs))
    made: Value = concat(b, Node(node.proto, node.opset, node.name, {"axis": axis}), *values)
    return made


def _unsqueezed(v: Value, axis: int) -> Value:
    at = axis_of(axis, v.rank + 1)
    if v.constant is not None:
        both: list[Array] = [np.expand_dims(a, at) for a in v.constant.at]
        return Value.of_constant(*both)
    return v.with_axes((*v.dims[:at], (), *v.dims[at:]), v.axes, v.tensor)


def sequence_map(b: Builder, node: Node, first: Value, *more: Value) -> Sequence[Value]:
    """The body once for each entry of its sequences; tensors are the same for all."""
    if first.items is None or any(v.items is not None and len(v.items) != len(first.items) for v in more):
        raise Unsupported("sequences of different lengths")
    body = body_of(b, node, "body")
    made = [
        walked(b, body, [v if v.items is None else v.items[i] for v in (first, *more)]) for i in range(len(first.items))
    ]
    return [Value.sequence([row[i] for row in made]) for i in range(len(body.outputs))]


CONTROL: dict[str, Callable[..., Sequence[Value]]] = {
    "If": if_,
    "Loop": loop,
    "Scan": scan,
    "SequenceMap": sequence_map,
}
