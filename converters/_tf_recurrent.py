"""TensorFlow's recurrent loops, of either control flow, taken out of a graph before tf2onnx sees it, and put back as operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..artifact import Array
from ..frameworks import no_stderr, tensorflow
from . import _onnx
from ._keras_files import FAILURES, reason
from ._rnn_cells import Cell, NotACell, Op, attributes, cells, simulated, weights
from ._tf_graph import PLACEHOLDERS, ancestors, tensor_name

MAX_LOOPS = 256
MAX_STEPS = 4096  # of a loop that is run to see what it computes
TIMEOUT_MS = 60_000  # of one run of a loop
TOLERANCE = 1e-4  # of a whole sequence
SIZES = ((2, 7), (3, 9))  # (batch, other open dimensions) that a loop is run with
WHILES = frozenset({"While", "StatelessWhile"})
READS = frozenset({"TensorArrayReadV3", "TensorArrayReadV2", "TensorListGetItem"})
WRITES = {"TensorArrayWriteV3": (1, 2), "TensorArrayWriteV2": (1, 2), "TensorListSetItem": (1, 2)}  # index, value
FILLS = {"TensorArrayScatterV3": 2, "TensorArrayScatterV2": 2, "TensorListFromTensor": 0}  # the tensor they cut up
STACKS = {"TensorArrayGatherV3": 2, "TensorArrayGatherV2": 2, "TensorListStack": 0}  # the list that they read
PREFIX = "recurrent_"


@dataclass(frozen=True, slots=True)
class Var:
    """A variable of a loop: its tensor in a step, the one of its new value, and those outside."""

    inner: str
    next: str
    initial: str
    result: str  # "" for what is the same in all steps


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop as it is in the graph."""

    name: str
    step: _Step
    variables: tuple[Var, ...]
    condition: tuple[str, ...]  # states that its condition depends on: tensors of the step


@dataclass(frozen=True, slots=True)
class Layers:
    """A loop that was recognised: its layers, and the tensors of the graph that go in and come out."""

    name: str
    cells: tuple[Cell, ...]
    sequence: str  # [time, batch, features]
    initial: Mapping[str, str]  # state -> tensor; those that begin at zero are left out
    turned: tuple[str, ...]  # nodes that turn the sequence around before and behind the loop: it runs backwards
    every: tuple[str, ...]  # tensors [time, batch, units] of the last layer's outputs
    last: tuple[str, ...]  # tensors [1, batch, units] of the last of these
    final: Mapping[str, str]  # tensor -> state

    def operands(self) -> list[str]:
        """What goes in."""
        return [self.sequence, *self.initial.values()]

    def results(self) -> list[str]:
        """What comes out."""
        return [*self.every, *self.last, *self.final]


@dataclass(slots=True)
class Taken:
    """A graph without its recurrent loops: what tf2onnx has to make besides, and why the other loops stayed."""

    graph: Any
    layers: list[Layers] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)  # loop -> what about it is not standard
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def take_out(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Taken:
    """A GraphDef in which the results of each loop that is an LSTM, a GRU or a simple RNN are inputs.

    A loop is taken for a layer when one of its steps computes the layer's on random values, and the loop as a whole, run
    in TensorFlow on sequences of two lengths, the layer's outputs. Tensors are named "node:0".
    """
    taken = Taken(graph)
    needed = ancestors(graph, [tensor_name(t)[0] for t in outputs])
    if not any(n.op == "LoopCond" or n.op in WHILES for n in graph.node if n.name in needed):
        return taken
    try:
        outer = _Outer(graph, needed, inputs)
    except NotACell as why:
        taken.reasons["the graph"] = str(why)
        return taken
    for name, loop in outer.loops():
        try:
            taken.layers.append(_recognised(outer, loop()))
        except NotACell as why:
            taken.reasons[name] = str(why)
        except (*FAILURES, LookupError, StopIteration) as error:
            taken.reasons[name] = f"does not fit together ({reason(error)})"
    _cut(taken, outer)
    return taken


def _key(text: str) -> str:
    node, output = tensor_name(text)
    return f"^{node}" if output < 0 else f"{node}:{output}"


class _Step:
    """A graph that is run from any tensor to any other: a function's body, or a graph with the loop in it."""

    def __init__(self, graph_def: Any) -> None:
        tf = tensorflow()
        self.graph = tf.Graph()
        try:
            with no_stderr(), self.graph.as_default():
                tf.import_graph_def(graph_def, name="")
        except (*FAILURES, tf.errors.OpError) as error:
            raise NotACell(f"cannot be read by TensorFlow ({reason(error)})") from error
        config = tf.compat.v1.ConfigProto(operation_timeout_in_ms=TIMEOUT_MS, device_count={"GPU": 0})
        config.graph_options.rewrite_options.disable_meta_optimizer = True  # it moves constants into the loop
        self.session = tf.compat.v1.Session(graph=self.graph, config=config)
        self.ops = [
            Op(o.type, tuple(t.name for t in o.inputs), tuple(t.name for t in o.outputs))
            for o in self.graph.get_operations()
        ]

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
        """The values of tensors. Raises NotACell where TensorFlow cannot compute them."""
        tf = tensorflow()
        try:
            with no_stderr():
                found = self.session.run(list(wanted), dict(feed))
        except (*FAILURES, tf.errors.OpError) as error:
            raise NotACell(f"cannot be run by TensorFlow to see what it computes ({_onnx.last_line(error)})") from error
        return [np.asarray(a) for a in found]


class _Outer:
    """The whole graph, its values on generated inputs, and the loops in it."""

    def __init__(self, graph: Any, needed: set[str], inputs: Sequence[str]) -> None:
        self.graph_def, self.needed, self.inputs = graph, needed, inputs
        self.nodes = {n.name: n for n in graph.node}
        self.step = _Step(graph)
        self.made = {o: op for op in self.step.ops for o in op.outputs}
        self.users: dict[str, list[Any]] = {}
        for node in graph.node:
            for text in node.input if node.name in needed else ():
                self.users.setdefault(_key(text), []).append(node)
        self.feeds = [self._feed(batch, other, seed) for seed, (batch, other) in enumerate(SIZES)]

    def _feed(self, batch: int, other: int, seed: int) -> dict[str, Array]:
        rng, found = np.random.default_rng(seed), {}
        for name in self.inputs:
            tensor = self.step.graph.get_tensor_by_name(name)
            if tensor.shape.rank is None:
                raise NotACell("takes an input of unknown rank")
            shape = [d or (batch if i == 0 else other) for i, d in enumerate(tensor.shape.as_list())]
            kind = tensor.dtype.as_numpy_dtype
            values = rng.normal(0, 1, shape) if tensor.dtype.is_floating else rng.integers(0, 2, shape)
            found[name] = values.astype(kind)
        return found

    def source(self, tensor: str) -> str:
        """The tensor behind identities."""
        for _ in range(1000):
            op = self.made.get(tensor)
            if op is None or op.kind not in ("Identity", "Enter", "StopGradient"):
                return tensor
            tensor = op.inputs[0]
        return tensor

    def kind(self, tensor: str) -> str:
        """The operation that makes a tensor."""
        op = self.made.get(tensor)
        return op.kind if op else ""

    def uses(self, tensor: str) -> Iterator[tuple[Any, str]]:
        """(node, the tensor it takes) of all that a tensor goes to, behind identities."""
        for node in self.users.get(tensor, ()):
            if node.op == "Identity":
                yield from self.uses(f"{node.name}:0")
            else:
                yield node, tensor

    def computed(self, tensor: str) -> bool:
        """Whether the values of a tensor follow from the model's inputs, not from their sizes alone."""
        seen, waiting = set(), [tensor]
        while waiting:
            name = waiting.pop()
            op = self.made.get(name)
            if op is None or name in seen:
                continue
            seen.add(name)
            if op.kind in PLACEHOLDERS:
                return True
            waiting += [] if op.kind in ("Shape", "ShapeN", "Size", "Rank") else op.inputs
        return False

    def is_zero(self, tensor: str) -> bool:
        """Whether a tensor is filled with zeros."""
        tensor = self.source(tensor)
        op = self.made[tensor]
        if op.kind == "ZerosLike":
            return True
        if op.kind == "Fill":
            tensor = self.source(op.inputs[1])
        if self.computed(tensor):
            return False
        return not self.step.run({}, [tensor])[0].any() if self.kind(tensor) == "Const" else False

    def constant(self, tensor: str) -> list[int]:
        """The integers that a tensor holds however the model's inputs are; none where they depend on these."""
        known = self.step.graph.get_tensor_by_name(tensor)
        if not known.dtype.is_integer or known.shape.rank != 1 or self.computed(tensor):
            return []
        first, second = ([int(v) for v in self.step.run(feed, [tensor])[0]] for feed in self.feeds)
        return first if first == second else []

    def is_lengths(self, tensor: str) -> bool:
        """Whether a tensor could be the lengths of sequences: a vector of integers."""
        known = self.step.graph.get_tensor_by_name(tensor)
        return bool(known.dtype.is_integer and known.shape.rank == 1)

    def turns(self, tensor: str) -> int | None:
        """The axis that an operation turns around, as a whole."""
        op = self.made[tensor]
        if op.kind == "ReverseV2" and len(axes := self.constant(op.inputs[1])) == 1:
            return axes[0] % max(self.step.graph.get_tensor_by_name(tensor).shape.rank or 1, 1)
        if op.kind == "ReverseSequence":
            axis = int(self.nodes[tensor_name(tensor)[0]].attr["seq_dim"].i)
            known = self.step.graph.get_tensor_by_name(tensor).shape
            steps = known[axis] if known.rank else None
            lengths = self.constant(op.inputs[1])
            return axis if lengths and set(lengths) == {steps} else None
        return None

    def loops(self) -> list[tuple[str, Callable[[], Loop]]]:
        """All loops that the outputs need, by name; each is read when it is called."""
        frames = sorted({_frame(n) for n in self.graph_def.node if n.op == "Enter" and n.name in self.needed})
        functions = [n for n in self.graph_def.node if n.op in WHILES and n.name in self.needed]
        found: list[tuple[str, Callable[[], Loop]]] = [(f, partial(self._of_frame, f)) for f in frames]
        return (found + [(n.name, partial(self._of_function, n)) for n in functions])[:MAX_LOOPS]

    def _of_frame(self, frame: str) -> Loop:
        """A loop of TensorFlow 1: Enter, Merge, Switch, NextIteration, Exit of one frame."""
        enters = {n.name: n for n in self.graph_def.node if n.op == "Enter" and _frame(n) == frame}
        found, merges, conditions = [], {}, set()
        for node in self.graph_def.node:
            sources = [tensor_name(t)[0] for t in node.input]
            if node.op != "Merge" or not set(sources) & set(enters):
                continue
            enter = next(enters[s] for s in sources if s in enters)
            back = next((self.nodes[s] for s in sources if self.nodes[s].op == "NextIteration"), None)
            switch = next((n for n in self.users.get(f"{node.name}:0", ()) if n.op == "Switch"), None)
            if back is None or switch is None:
                continue
            conditions.add(tensor_name(switch.input[1])[0])
            exits = [n for n in self.users.get(f"{switch.name}:0", ()) if n.op == "Exit"]
            merges[f"{node.name}:0"] = f"{switch.name}:1"
            found.append(Var(f"{switch.name}:1", _key(back.input[0]), _key(enter.input[0]),
                             f"{exits[0].name}:0" if exits else ""))  # fmt: skip
        taken = {v.initial for v in found}
        constant = [Var(f"{n}:0", f"{n}:0", _key(e.input[0]), "") for n, e in enters.items()
                    if e.attr["is_constant"].b or _key(e.input[0]) not in taken]  # fmt: skip
        reached = _reach(self.made, [f"{c}:0" for c in conditions], set(merges))
        return Loop(frame, self.step, (*found, *constant), tuple(merges[m] for m in merges if m in reached))

    def _of_function(self, node: Any) -> Loop:
        """A loop of TensorFlow 2: a While with functions for its condition and its body."""
        from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

        functions = {f.signature.name: f for f in self.graph_def.library.function}
        body, condition = functions[node.attr["body"].func.name], functions[node.attr["cond"].func.name]
        made, flat = function_def_to_graph_def(body)
        made.library.CopyFrom(self.graph_def.library)
        arguments = [a.name for a in body.signature.input_arg]
        nexts = [_key(flat.get(body.ret[o.name], body.ret[o.name])) for o in body.signature.output_arg]
        step = _Step(made)
        variables = tuple(
            Var(f"{a}:0", n, _key(t), f"{node.name}:{i}")
            for i, (a, n, t) in enumerate(zip(arguments, nexts, node.input, strict=False))
        )
        graph, names = function_def_to_graph_def(condition)
        sources = {n.name: [tensor_name(t)[0] for t in n.input] for n in graph.node}
        waiting, seen = [tensor_name(names.get(r, r))[0] for r in condition.ret.values()], set()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += sources.get(name, [])
        order = [a.name for a in condition.signature.input_arg]
        return Loop(node.name, step, variables, tuple(f"{arguments[i]}:0" for i, a in enumerate(order) if a in seen))


def _frame(node: Any) -> str:
    return str(node.attr["frame_name"].s.decode("utf-8", "replace"))


def _reach(made: Mapping[str, Op], ends: Iterable[str], stop: set[str]) -> set[str]:
    """All tensors that these need; what `stop` needs is not looked at."""
    seen, waiting = set(ends), list(ends)
    while waiting:
        name = waiting.pop()
        if name not in stop and name in made:
            fresh = [t for t in made[name].inputs if t not in seen]
            seen.update(fresh)
            waiting += fresh
    return seen


def _alias(made: Mapping[str, Op], tensor: str) -> str:
    for _ in range(1000):
        op = made.get(tensor)
        if op is None or op.kind not in ("Identity", "StopGradient"):
            return tensor
        tensor = op.inputs[0]
    return tensor


@dataclass(frozen=True, slots=True)
class _Parts:
    """A loop's variables by what they are for."""

    x: str  # the tensor that a step reads of the sequence
    sequence: str
    states: tuple[Var, ...]
    writes: tuple[tuple[Var, str, bool], ...]  # list, tensor written, whether at each step's own place
    given: tuple[Var, ...]  # all that has to be fed besides


def _recognised(outer: _Outer, loop: Loop) -> Layers:
    """The layers that a loop consists of. Raises NotACell with what about it is not standard."""
    made = {o: op for op in loop.step.ops for o in op.outputs}
    stop = {v.inner for v in loop.variables}
    used = _reach(made, [v.next for v in loop.variables], stop)
    parts = _parts(outer, loop, made, stop, used)
    tensors = [parts.sequence, *(v.initial for v in (*parts.states, *parts.given))]
    first, *more = [outer.step.run(feed, tensors) for feed in outer.feeds]
    if any(a.ndim != 3 or not a.size or len(a) > MAX_STEPS for a in (first[0], more[0][0])):
        raise NotACell("reads something else than [time, batch, features]")
    feed = dict(zip((v.inner for v in parts.given), first[1 + len(parts.states) :], strict=True))
    feed |= _counters(outer, loop, parts, made, feed)
    sizes = {
        parts.x: first[0].shape[2],
        **{v.inner: a.shape[-1] for v, a in zip(parts.states, first[1:], strict=False)},
    }
    if any(a.ndim != 2 for a in first[1 : 1 + len(parts.states)]):
        raise NotACell("keeps a state that is not [batch, units]")
    found = cells(loop.step, parts.x, {v.inner: v.next for v in parts.states}, sizes, feed, first[0].shape[1])
    layers = _interface(outer, loop, parts, found, feed)
    for values, given in zip((first, *more), outer.feeds, strict=True):
        _same(outer, layers, parts, found, values, given)
    return layers


def _parts(outer: _Outer, loop: Loop, made: Mapping[str, Op], stop: set[str], used: set[str]) -> _Parts:
    changing = [v for v in loop.variables if _alias(made, v.next) != v.inner]
    fixed = {v.inner: v for v in loop.variables if v not in changing}
    if any(
        outer.step.graph.get_tensor_by_name(v.initial).dtype.is_floating and v.inner in loop.condition for v in changing
    ):
        raise NotACell("ends when its values say so")
    reads = [op for op in loop.step.ops if op.kind in READS and op.outputs[0] in used]
    if len(reads) != 1:
        raise NotACell(f"reads {len(reads)} sequences in a step, where a layer reads one")
    arrays = [fixed[s] for s in (_alias(made, i) for i in reads[0].inputs) if s in fixed]
    filled = [outer.source(v.initial) for v in arrays if outer.kind(outer.source(v.initial)) in FILLS]
    if len(filled) != 1:
        raise NotACell("reads a sequence that is not one tensor cut up")
    op = outer.made[filled[0]]
    states, writes = [], []
    for v in changing:
        last = made.get(_alias(made, v.next))
        tensor = outer.step.graph.get_tensor_by_name(v.initial)
        if last is not None and last.kind in WRITES:
            index, value = (last.inputs[i] for i in WRITES[last.kind])
            writes.append((v, value, index))
        elif tensor.dtype.is_floating:
            states.append(v)
    if not states:
        raise NotACell("keeps no state of numbers")
    lists = {v.inner for v in arrays} | {v.inner for v, *_ in writes}
    given = [v for v in loop.variables if v not in states and v.inner not in lists and v.inner in {*used, *loop.condition}]  # fmt: skip
    given = [
        v for v in given if outer.step.graph.get_tensor_by_name(v.initial).dtype.name not in ("variant", "resource")
    ]
    computed = {v.initial for v in given if v.inner in fixed and outer.computed(v.initial)}
    if computed:
        lengths = [t for t in computed if outer.is_lengths(t)]
        what = "sequence lengths" if lengths else " and ".join(f"'{t}'" for t in sorted(computed)[:3])
        raise NotACell(f"depends on {what} computed from the model's inputs, in each step")
    counters = [v for v in given if v.inner not in fixed]
    place = _alias(made, reads[0].inputs[1])
    if place not in {v.inner for v in counters}:
        raise NotACell("does not read its sequence step by step")
    at = tuple((v, value, _alias(made, index) == place) for v, value, index in writes)
    return _Parts(reads[0].outputs[0], op.inputs[FILLS[op.kind]], tuple(states), at, tuple(given))


def _counters(outer: _Outer, loop: Loop, parts: _Parts, made: Mapping[str, Op], feed: Mapping[str, Array]) -> dict[str, Array]:  # fmt: skip
    """What counts the steps, at a step behind the first. Raises NotACell for what changes otherwise than by one."""
    counting = [v for v in parts.given if _alias(made, v.next) != v.inner]
    if any(feed[v.inner].ndim or feed[v.inner].dtype.kind not in "iu" for v in counting):
        raise NotACell("keeps a state that is neither numbers nor a count of its steps")
    second = loop.step.run(feed, [v.next for v in counting])
    if any(int(b) - int(feed[v.inner]) != 1 for v, b in zip(counting, second, strict=True)):
        raise NotACell("counts its steps otherwise than by one")
    return {v.inner: feed[v.inner] + feed[v.inner].dtype.type(1) for v in counting}


def _interface(outer: _Outer, loop: Loop, parts: _Parts, found: Sequence[Cell], feed: Mapping[str, Array]) -> Layers:
    """Where the results of a loop go. Raises NotACell for a use that no layer has."""
    made = {o: op for op in loop.step.ops for o in op.outputs}
    every: list[str] = []
    last: list[str] = []
    final: dict[str, str] = {}
    for v, value, moving in parts.writes:
        for node, tensor in outer.uses(v.result) if v.result else ():
            if node.op in STACKS and _key(node.input[STACKS[node.op]]) == tensor:
                (every if moving else last).append(f"{node.name}:0")
            elif node.op not in ("TensorArraySizeV3", "TensorArrayCloseV3"):
                raise NotACell(f"has a list of outputs that '{node.name}' ({node.op}) reads otherwise than as a whole")
        if v.result and list(outer.uses(v.result)) and _behind(made, value, loop, feed) != found[-1].output:
            raise NotACell("gives something else than its last layer's state")
    states = {v.inner for v in parts.states}
    for v in loop.variables:
        if not v.result or v in [w for w, *_ in parts.writes] or not outer.users.get(v.result):
            continue
        if v.inner in states:
            final[v.result] = v.inner
        elif list(outer.uses(v.result)) and _alias(made, v.next) != v.inner:
            raise NotACell("gives its count of steps to the rest of the graph")
    initial = {v.inner: v.initial for v in parts.states if not outer.is_zero(v.initial)}
    turned = _turned(outer, parts.sequence, every) if not last and len(found) == 1 else ()
    return Layers(loop.name, tuple(found), parts.sequence, initial, turned, tuple(dict.fromkeys(every)),
                  tuple(dict.fromkeys(last)), final)  # fmt: skip


def _turned(outer: _Outer, sequence: str, every: Sequence[str]) -> tuple[str, ...]:
    """Nodes that turn a sequence around before a loop, and each of its outputs behind it; nothing where not all do."""
    before, axis = sequence, 0
    for _ in range(100):
        op = outer.made[before]
        if op.kind == "Identity":
            before = op.inputs[0]
        elif op.kind == "Transpose" and outer.constant(op.inputs[1]) in ([1, 0, 2], [0, 1, 2]):
            axis = outer.constant(op.inputs[1])[axis]
            before = op.inputs[0]
        else:
            break
    if outer.turns(before) != axis:
        return ()
    found = [before]
    waiting = [(t, 0) for t in every]
    while waiting:
        tensor, axis = waiting.pop()
        for node, _ in outer.uses(tensor):
            made = f"{node.name}:0"
            if outer.turns(made) == axis:
                found.append(made)
            elif node.op == "Transpose" and outer.constant(_key(node.input[1])) in ([1, 0, 2], [0, 1, 2]):
                waiting.append((made, outer.constant(_key(node.input[1])).index(axis)))
            else:
                return ()
    return tuple(found)


def _behind(made: Mapping[str, Op], tensor: str, loop: Loop, feed: Mapping[str, Array]) -> str:
    """The tensor behind identities, new axes and the choice of a sequence's length."""
    for _ in range(1000):
        op = made.get(_alias(made, tensor))
        if op is None or op.kind not in ("Select", "SelectV2"):
            return _alias(made, tensor)
        tensor = op.inputs[1 if loop.step.run(feed, [op.inputs[0]])[0].all() else 2]
    return tensor


def _same(outer: _Outer, layers: Layers, parts: _Parts, found: Sequence[Cell], values: Sequence[Array],
          feed: Mapping[str, Array]) -> None:  # fmt: skip
    """Raise NotACell where the loop, run as a whole, gives something else than its layers."""
    starts = dict(zip((v.inner for v in parts.states), values[1:], strict=False))
    outputs, states = simulated(found, values[0], starts)
    expected = [outputs] * len(layers.every) + [outputs[-1:]] * len(layers.last) + [states[s] for s in layers.final.values()]  # fmt: skip
    for theirs, ours in zip(outer.step.run(feed, layers.results()), expected, strict=True):
        if theirs.shape != ours.shape:
            raise NotACell(f"makes {list(theirs.shape)} of a sequence that a layer makes {list(ours.shape)} of")
        if np.abs(theirs - ours).max(initial=0) > TOLERANCE * max(1.0, np.abs(ours).max(initial=0)):
            raise NotACell("gives another result over a whole sequence than its steps one by one (sequence lengths?)")


# --- the graph without them, and their operators


def _cut(taken: Taken, outer: _Outer) -> None:
    """Replace results by placeholders, and give operands a name that stays."""
    if not taken.layers:
        return
    graph = type(taken.graph)()
    graph.CopyFrom(taken.graph)
    _straighten(graph, outer, taken.layers)
    renamed: dict[str, str] = {}
    for k, layers in enumerate(taken.layers):
        for i, tensor in enumerate(layers.results()):
            name = f"{PREFIX}{k}_out_{i}"
            known = outer.step.graph.get_tensor_by_name(tensor)
            node = graph.node.add(name=name, op="Placeholder")
            node.attr["dtype"].type = known.dtype.as_datatype_enum
            shape = known.shape if known.shape.rank is not None else [None] * (3 if i < len(layers.every + layers.last) else 2)  # fmt: skip
            node.attr["shape"].shape.CopyFrom(tensorflow().TensorShape(shape).as_proto())
            renamed[tensor] = f"{name}:0"
            taken.inputs.append(f"{name}:0")
        for i, tensor in enumerate(layers.operands()):
            name = f"{PREFIX}{k}_in_{i}"
            node = graph.node.add(name=name, op="Identity")
            node.input.append(tensor)
            node.attr["T"].type = outer.step.graph.get_tensor_by_name(tensor).dtype.as_datatype_enum
            taken.outputs.append(f"{name}:0")
    for node in graph.node:
        for i, text in enumerate(node.input):
            node.input[i] = renamed.get(_key(text), text)
    taken.graph = graph


def _straighten(graph: Any, outer: _Outer, layers: Sequence[Layers]) -> None:
    """Operations that turn an axis around become slices, which do not depend on the batch; those of a layer that runs
    backwards pass their input on, behind what else uses them."""
    dropped = {tensor_name(t)[0] for found in layers for t in found.turned}
    for node in graph.node:
        if node.op not in ("ReverseV2", "ReverseSequence") or node.name not in outer.needed:
            continue
        known = outer.step.graph.get_tensor_by_name(f"{node.name}:0")
        axis, rank, kind = outer.turns(f"{node.name}:0"), known.shape.rank, known.dtype.as_datatype_enum
        if axis is None or rank is None:
            continue
        source = node.input[0]
        del node.input[:]
        node.attr.clear()
        node.attr["T"].type = kind
        node.input.append(source)
        if node.name in dropped:
            node.op = "Identity"
            continue
        node.op = "StridedSlice"
        node.attr["Index"].type = 3  # DT_INT32
        node.attr["begin_mask"].i = node.attr["end_mask"].i = (1 << rank) - 1
        for what, values in (("begin", [0] * rank), ("end", [0] * rank), ("strides", [-1 if i == axis else 1 for i in range(rank)])):  # fmt: skip
            constant = graph.node.add(name=f"{node.name}/{PREFIX}{what}", op="Const")
            constant.attr["dtype"].type = 3
            constant.attr["value"].tensor.CopyFrom(tensorflow().make_tensor_proto(values, tensorflow().int32))
            node.input.append(constant.name)


def put_back(model: Any, taken: Taken) -> None:
    """The operators of the layers in the place of the inputs and outputs that stood for them."""
    o = _onnx.onnx()
    nodes = list(model.graph.node)
    for k, layers in enumerate(taken.layers):
        nodes += _operators(model, layers, f"{PREFIX}{k}_in_", f"{PREFIX}{k}_out_")
    for values, names in ((model.graph.input, taken.inputs), (model.graph.output, taken.outputs)):
        kept = [v for v in values if v.name not in names]
        kept = [type(v).FromString(v.SerializeToString()) for v in kept]
        del values[:]
        values.extend(kept)
    ordered = [o.NodeProto.FromString(n.SerializeToString()) for n in _sorted(model, nodes)]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _operators(model: Any, layers: Layers, operand: str, result: str) -> list[Any]:
    o = _onnx.onnx()
    made: list[Any] = []
    make = o.helper.make_node

    def constant(array: Array, name: str) -> str:
        name = f"{layers.name}/{name}"
        model.graph.initializer.append(o.numpy_helper.from_array(array, name))
        return name

    axes = [constant(np.array([i], np.int64), f"axis{i}") for i in (0, 1)]
    ends = [constant(np.array([n], np.int64), f"end{n}") for n in (-1, np.iinfo(np.int64).max)]
    starts = {s: f"{operand}{1 + i}:0" for i, s in enumerate(layers.initial)}
    final: dict[str, str] = {}
    x = f"{operand}0:0"
    for n, cell in enumerate(layers.cells):
        name = f"{layers.name}/{n}" if len(layers.cells) > 1 else layers.name
        inputs = [x, *(constant(a, f"{n}/{w}") for a, w in zip(weights(cell), "WRB", strict=True)), ""]
        for s in cell.states:
            inputs.append(f"{name}/{s}/first" if any(t in starts for t in cell.states) else "")
        for s in [s for s in cell.states if any(t in starts for t in cell.states)]:
            start = starts.get(s) or _zeros(made, make, starts, cell, name, constant)
            made.append(make("Unsqueeze", [start, axes[0]], [f"{name}/{s}/first"], name=f"{name}/{s}/first"))
        while not inputs[-1]:
            inputs.pop()
        lasts = [f"{name}/{s}/last" for s in cell.states]
        way = "reverse" if layers.turned else "forward"
        made.append(make(cell.kind, inputs, [f"{name}/all", *lasts], name=name, direction=way, **attributes(cell)))
        made.append(make("Squeeze", [f"{name}/all", axes[1]], [f"{name}/sequence"], name=f"{name}/sequence"))
        x, final = f"{name}/sequence", {**final, **dict(zip(cell.states, lasts, strict=True))}
    outputs = [f"{result}{i}:0" for i in range(len(layers.results()))]
    for i, output in enumerate(outputs):
        if i < len(layers.every):
            made.append(make("Identity", [x], [output], name=output))
        elif i < len(layers.every) + len(layers.last):
            made.append(make("Slice", [x, *ends, axes[0]], [output], name=output))
        else:
            state = list(layers.final.values())[i - len(layers.every) - len(layers.last)]
            made.append(make("Squeeze", [final[state], axes[0]], [output], name=output))
    return made


def _zeros(made: list[Any], make: Any, starts: Mapping[str, str], cell: Cell, name: str, constant: Any) -> str:
    """Zeros in the shape of the state that is given beside this one."""
    other = next(starts[s] for s in cell.states if s in starts)
    made.append(
        make("Mul", [other, constant(np.zeros(1, np.float32), "zero")], [f"{name}/zeros"], name=f"{name}/zeros")
    )
    return f"{name}/zeros"


def _sorted(model: Any, nodes: Sequence[Any]) -> list[Any]:
    """Nodes in an order in which each comes behind those it needs (also those that its bodies need)."""
    maker = {o: i for i, n in enumerate(nodes) for o in n.output if o}
    needs = [{maker[t] for t in _taken(n) if t in maker} for n in nodes]
    users: dict[int, list[int]] = {}
    for i, sources in enumerate(needs):
        for s in sources:
            users.setdefault(s, []).append(i)
    counts = [len(s) for s in needs]
    ready = [i for i, n in enumerate(counts) if not n][::-1]
    found = []
    while ready:
        i = ready.pop()
        found.append(nodes[i])
        for user in reversed(users.get(i, [])):
            counts[user] -= 1
            if not counts[user]:
                ready.append(user)
    return found


def _taken(node: Any) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from _taken(inner)
