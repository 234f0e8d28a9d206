"""TFLite's WHILE: a recurrent layer where a step computes one, else its steps one after the other where their number is fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError
from .. import _onnx
from .._emit import IR_VERSION, OPSET, Emit
from .._rnn_cells import Cell, NotACell, Op, attributes, cells, weights
from .step import Step, Unsupported, op

MAX_STEPS = 256  # of a loop that is unrolled
MAX_NODES = 20_000  # that unrolled loops may make
MAX_WALKS = 4096  # of subgraphs, in one file
MAX_TIME = 1 << 16  # steps of a recurrent layer
MAX_DEPTH = 4  # of loops in loops
TOLERANCE = 1e-5


@op("WHILE")
def loop(s: Step) -> None:
    """Inputs: what the loop begins with; outputs: the same at its end. Condition and body are subgraphs."""
    graph: Any = s.graph
    if graph.depth >= MAX_DEPTH:
        raise Unsupported("it is a loop in a loop in a loop")
    condition, body = (_subgraph(s, k) for k in ("condSubgraphIndex", "bodySubgraphIndex"))
    try:
        _layer(s, condition, body)
    except NotACell as why:
        _unrolled(s, condition, body, str(why))


def _subgraph(s: Step, key: str) -> Any:
    graph: Any = s.graph
    index = int(s.option(key, "WhileOptions"))
    if not 0 < index < len(graph.model.subgraphs):
        raise Unsupported("its condition or its body is not there")
    found = graph.model.subgraphs[index]
    inputs, outputs = list(found.inputs), list(found.outputs)
    wanted = 1 if key.startswith("cond") else len(inputs)
    if len(set(inputs)) != len(s.op.inputs) or len(outputs) != wanted or len(s.op.outputs) != len(s.op.inputs):
        raise Unsupported("its subgraphs do not take what it gives them")
    return found


def _walked(s: Step, subgraph: Any, values: Sequence[str], emit: Emit) -> tuple[list[str], list[str]]:
    """(inputs, outputs) of a subgraph as values of `emit`, in which its operators are. Raises NotACell with what it lacks."""
    graph: Any = s.graph
    inner = type(graph)(graph.model, subgraph, graph.name, graph.depth + 1)
    inner.emit, inner.notes, inner.walks = emit, graph.notes, graph.walks
    graph.walks[0] += 1
    if graph.walks[0] > MAX_WALKS:
        raise NotACell(f"has, with the loops beside and in it, more than {MAX_WALKS} steps")
    inner.bound = dict(zip(list(subgraph.inputs), values, strict=True))
    try:
        inner.run()
        return list(values), [inner.value(i) for i in subgraph.outputs]
    except (ModelError, Unsupported) as error:
        raise NotACell(f"has a step that is not known ({' '.join(str(error).split())[:300]})") from error


class _Part:
    """A subgraph on its own: its inputs shaped as what goes in, run in ONNX Runtime from any value to any other."""

    def __init__(self, s: Step, subgraph: Any) -> None:
        self.emit = Emit("step")
        names = []
        for i in range(len(s.op.inputs)):
            value = s.x(i)
            shape = s.emit.shape(value)
            if shape is None:
                raise NotACell("takes a value of unknown rank")
            names.append(self.emit.input(f"input{i}", s.emit.dtype(value), shape))
        self.inputs, self.outputs = _walked(s, subgraph, names, self.emit)
        self.sessions: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        self.ops = [Op(n.op_type, tuple(i for i in n.input if i), tuple(n.output)) for n in self.emit.nodes]
        self.made = {o: n for n in self.emit.nodes for o in n.output}

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
        """The values of tensors. Raises NotACell where one depends on what is not fed."""
        known = {**{n: self.emit.constants[n] for n in wanted if n in self.emit.constants}, **feed}
        left = tuple(dict.fromkeys(n for n in wanted if n not in known))
        if left:
            used = self._used(tuple(feed), left)
            key = (used, left)
            if key not in self.sessions:
                self.sessions[key] = self._session(used, left)
            try:
                found = self.sessions[key].run(None, {n: feed[n] for n in used})
            except _onnx.runtime_errors() as error:
                raise NotACell(f"cannot be run to see what it computes ({_onnx.last_line(error)})") from error
            known.update(zip(left, found, strict=True))
        return [np.asarray(known[n]) for n in wanted]

    def _used(self, fed: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
        halt, seen, waiting = set(fed), set(wanted), list(wanted)
        while waiting:
            name = waiting.pop()
            if name in halt or name in self.emit.constants:
                continue
            if name not in self.made:
                raise NotACell("has a step that depends on something else than its state, its input and constants")
            fresh = {i for i in self.made[name].input if i and i not in seen}
            seen |= fresh
            waiting += fresh
        return tuple(n for n in fed if n in seen)

    def _session(self, used: Sequence[str], wanted: Sequence[str]) -> Any:
        o, needed, nodes = self.emit.o, set(wanted), []
        for node in reversed(self.emit.nodes):
            if needed.intersection(node.output) - set(used):
                nodes.append(node)
                needed.update(node.input)
        info, types = o.helper.make_tensor_value_info, self.emit.types
        kinds = {n: types[n].tensor_type.elem_type for n in (*used, *wanted)}
        graph = o.helper.make_graph(
            nodes[::-1], "step", [info(n, kinds[n], None) for n in used], [info(n, kinds[n], None) for n in wanted],
            [o.numpy_helper.from_array(a, n) for n, a in self.emit.constants.items() if n in needed and n not in used],
        )  # fmt: skip
        model = o.helper.make_model(graph, opset_imports=[o.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        try:
            return _onnx.session(model, optimize=False)
        except _onnx.runtime_errors() as error:
            raise NotACell(f"cannot be run to see what it computes ({_onnx.last_line(error)})") from error


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a loop's values are for, by number."""

    sequence: int
    x: str
    time: int
    counters: tuple[int, ...]
    states: tuple[int, ...]
    lists: tuple[int, ...]


def _layer(s: Step, condition: Any, body: Any) -> None:
    """Recurrent operators in the place of a loop. Raises NotACell."""
    step, test = _Part(s, body), _Part(s, condition)
    parts = _parts(s, step)
    names = step.inputs
    fixed = {n: s.maybe_array(i) for i, n in enumerate(names)}
    feed = {names[i]: np.asarray(1, step.emit.dtype(names[i])) for i in parts.counters}
    feed |= {names[i]: np.zeros(_fixed(step, names[i]), np.float32) for i in parts.lists}
    special = {parts.sequence, *parts.counters, *parts.states, *parts.lists}
    feed |= {n: a for i, (n, a) in enumerate(fixed.items()) if i not in special and a is not None}
    _count(test, parts, feed, names)
    batch = _fixed(step, parts.x)[0]
    sizes = {n: _fixed(step, n)[-1] for n in (parts.x, *(names[i] for i in parts.states))}
    found = cells(step, parts.x, {names[i]: step.outputs[i] for i in parts.states}, sizes, feed, batch)
    for t in sorted({0, parts.time // 2, parts.time - 1}):
        _check_places(step, parts, feed, found, t)
    _emit_layers(s, parts, found, names)


def _fixed(step: _Part, value: str) -> list[int]:
    """The sizes of a value. Raises NotACell for an open one."""
    shape = step.emit.shape(value)
    if shape is None or any(n is None for n in shape):
        raise NotACell("has values of open sizes: give them with --input NAME=SHAPE")
    return [n for n in shape if n is not None]


def _parts(s: Step, step: _Part) -> _Parts:
    names, count = step.inputs, len(step.inputs)
    ranks = [len(step.emit.shape(n) or ()) for n in names]
    floats = [step.emit.dtype(n).kind == "f" for n in names]
    changing = [i for i in range(count) if step.outputs[i] != names[i]]
    counters = tuple(i for i in changing if not floats[i])
    states = tuple(i for i in changing if floats[i] and ranks[i] == 2)
    lists = tuple(i for i in changing if floats[i] and ranks[i] == 3)
    if len(states) + len(lists) + len(counters) != len(changing) or not states:
        raise NotACell("keeps a state that is not [batch, units]")
    if any(ranks[i] or (a := s.maybe_array(i)) is None or a.any() for i in counters):
        raise NotACell("counts otherwise than from 0")
    at = {n: np.asarray(5, step.emit.dtype(n)) for n in (names[i] for i in counters)}
    if any(int(a) != 6 for a in step.run(at, [step.outputs[i] for i in counters])):
        raise NotACell("counts its steps otherwise than by one")
    read = [i for i in range(count) if i not in changing and floats[i] and ranks[i] == 3 and s.maybe_array(i) is None]
    if len(read) != 1:
        raise NotACell(f"reads {len(read)} sequences in a step, where a layer reads one")
    users = [o for o in step.ops if names[read[0]] in o.inputs]
    if len(users) != 1:
        raise NotACell("reads its sequence more than once in a step")
    x = users[0].outputs[0]
    for _ in range(4):
        after = [o for o in step.ops if x in o.inputs]
        if len(step.emit.shape(x) or ()) == 2 or len(after) != 1 or after[0].kind not in ("Reshape", "Squeeze"):
            break
        x = after[0].outputs[0]
    if len(step.emit.shape(x) or ()) != 2:
        raise NotACell("reads something else of its sequence than [batch, features]")
    time = _fixed(step, names[read[0]])[0]
    if not 0 < time <= MAX_TIME:
        raise NotACell("reads an empty sequence")
    return _Parts(read[0], x, time, counters, states, lists)


def _count(test: _Part, parts: _Parts, feed: Mapping[str, Array], names: Sequence[str]) -> None:
    """Raise NotACell where the loop makes another number of steps than its sequence is long."""
    fixed = {n: a for n, a in feed.items() if n not in {names[i] for i in (*parts.counters, *parts.lists)}}
    for t in range(parts.time + 1):
        counts = {names[i]: np.asarray(t, test.emit.dtype(names[i])) for i in parts.counters}
        (found,) = test.run({**fixed, **counts}, test.outputs)
        if bool(found.reshape(-1)[0]) != (t < parts.time):
            raise NotACell("does not make as many steps as its sequence is long")


def _check_places(step: _Part, parts: _Parts, feed: Mapping[str, Array], found: Sequence[Cell], t: int) -> None:
    """Raise NotACell where step `t` reads or writes another place than its own, or writes something else."""
    rng, names = np.random.default_rng(t), step.inputs
    random = {names[i]: rng.normal(size=_fixed(step, names[i])).astype(np.float32)
              for i in (parts.sequence, *parts.states, *parts.lists)}  # fmt: skip
    counts = {names[i]: np.asarray(t, step.emit.dtype(names[i])) for i in parts.counters}
    wanted = [parts.x, found[-1].output, *(step.outputs[i] for i in parts.lists)]
    x, h, *lists = step.run({**feed, **random, **counts}, wanted)
    if not np.array_equal(x, random[names[parts.sequence]][t]):
        raise NotACell("does not read its sequence step by step")
    for i, written in zip(parts.lists, lists, strict=True):
        expected = random[names[i]].copy()
        if len(expected) not in (1, parts.time) or expected.shape[1:] != h.shape:
            raise NotACell("gives something else than its last layer's state")
        expected[t if len(expected) == parts.time else 0] = h
        if written.shape != expected.shape or np.abs(written - expected).max() > TOLERANCE:
            raise NotACell("gives something else than its last layer's state")


def _emit_layers(s: Step, parts: _Parts, found: Sequence[Cell], names: Sequence[str]) -> None:
    place = {names[i]: i for i in parts.states}
    zero, x, last = s.longs([0]), s.x(parts.sequence), {}
    for cell in found:
        starts = [s.x(place[n]) for n in cell.states]
        given = any((a := s.emit.constants.get(v)) is None or a.any() for v in starts)
        inputs = [x, *(s.emit.constant(a) for a in weights(cell))]
        if given:
            inputs += ["", *(s("Unsqueeze", v, zero) for v in starts)]
        made = s.emit.many(cell.kind, inputs, 1 + len(cell.states),
                           name=f"{s.graph.wish(s.op.outputs[0])};{cell.kind}", **attributes(cell))  # fmt: skip
        x = s("Squeeze", made[0], s.longs([1]))
        last.update({place[n]: s("Squeeze", v, zero) for n, v in zip(cell.states, made[1:], strict=True)})
    ends = [s.longs([-1]), s.longs([np.iinfo(np.int64).max]), zero]
    for i in range(len(s.op.outputs)):
        if i in last:
            s.out(last[i], i)
        elif i in parts.lists:
            whole = (s.emit.shape(s.x(i)) or (0,))[0] == parts.time
            s.out(x if whole else s("Slice", x, *ends), i)
        elif i in parts.counters:
            s.out(s.emit.constant(np.asarray(parts.time, s.emit.dtype(s.x(i)))), i)
        else:
            s.out(s.x(i), i)


def _unrolled(s: Step, condition: Any, body: Any, why: str) -> None:
    """The steps one after the other. Raises Unsupported where their number depends on the data, or is large."""
    values, before = s.values(), len(s.emit.nodes)
    for count in range(MAX_STEPS + 1):
        try:
            _, (go_on,) = _walked(s, condition, values, s.emit)
        except NotACell as error:
            raise Unsupported(f"it {error}") from error
        decided = s.emit.constants.get(go_on)
        if decided is None:
            raise Unsupported(f"it is no recurrent layer (it {why}), and its number of steps depends on the data")
        if not decided.any():
            break
        if count == MAX_STEPS or len(s.emit.nodes) - before > MAX_NODES:
            raise Unsupported(f"it is no recurrent layer (it {why}), and has more than {MAX_STEPS} steps")
        try:
            values = _walked(s, body, values, s.emit)[1]
        except NotACell as error:
            raise Unsupported(f"it {error}") from error
    note = f"'{s.graph.wish(s.op.outputs[0])}' is a loop that is no recurrent layer and is unrolled (it {why})"
    if note not in s.graph.notes:
        s.graph.notes.append(note)
    s.outs(values)
