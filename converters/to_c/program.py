"""program(): a graph as a list of kernel calls and a plan of memory; all that the emitter needs, and all that it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConversionError
from . import ops as _ops  # noqa: F401  for their entries in the table
from .call import Call, Features, lower
from .graph import Graph, Op, Tensor, Unsupported
from .passes import LAYOUT, simplified
from .planner import Buffer, Plan, plan


@dataclass(frozen=True, slots=True)
class Step:
    """One call, and the operator that it stands for."""

    op: Op
    call: Call
    scratch: int  # byte offset in the arena; 0 where the call has none


@dataclass(frozen=True, slots=True)
class Program:
    """`places`: byte offset in the arena by id() of each tensor that is computed or given."""

    graph: Graph
    steps: tuple[Step, ...]
    places: dict[int, int]
    plan: Plan
    features: Features


def program(graph: Graph, features: Features = frozenset()) -> Program:
    """Choose kernels and places. Raises ConversionError with all operators that cannot be, at once."""
    steps, problems = [], []
    try:
        graph = simplified(graph)
    except (Unsupported, *_MISFITS) as reason:
        problems.append(f"a pass over its operators: {reason}")
    for op in graph.ops if not problems else ():
        try:
            if op.kind in LAYOUT:
                _check_layout(op)
            else:
                steps.append((op, lower(op, features)))
        except Unsupported as reason:
            problems.append(f"'{op.name}' ({op.kind}): {reason}")
        except _MISFITS as error:
            problems.append(f"'{op.name}' ({op.kind}): its tensors or options do not fit ({error})")
    problems += _misplaced(graph)
    if problems:
        raise ConversionError(
            f"{graph.name} has {len(problems)} operator{'s' if len(problems) > 1 else ''} that firmware cannot have: "
            + "; ".join(problems),
            next="replace these layers, or run the .tflite with an interpreter (--format tflite)",
        )
    return _placed(graph, steps, _storage(graph), features)


_MISFITS = (IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError, ValueError)  # what odd shapes come to


def _check_layout(op: Op) -> None:
    """Raise Unsupported for a reshape that is none."""
    x, y = op.input(0), op.outputs[0]
    if len(op.outputs) != 1 or x.dtype != y.dtype or x.elements != y.elements:
        raise Unsupported(f"it makes {y.dtype} {list(y.shape)} of {x.dtype} {list(x.shape)}")
    if x.data is not None:
        raise Unsupported("its input is a constant")


def _misplaced(graph: Graph) -> list[str]:
    """What cannot be about the tensors at the graph's ends, and about those that keep their values."""
    found = [f"'{t.name}' is an output and a constant" for t in graph.outputs if t.data is not None]
    found += [f"'{t.name}' is an input and a constant" for t in graph.inputs if t.data is not None]
    found += [f"'{t.name}' has several scales" for t in (*graph.inputs, *graph.outputs) if len(t.scales) > 1]
    ends = {id(t) for t in (*graph.inputs, *graph.outputs)}
    states, readers = variables(graph), graph.readers()
    found += [f"'{t.name}' keeps its values for several operators" for t in states if len(readers.get(id(t), ())) > 1]
    return found + [f"'{t.name}' keeps its values and is an input or output" for t in states if id(t) in ends]


def variables(graph: Graph) -> list[Tensor]:
    """The tensors that keep their values from one run to the next, in the order of their operators."""
    known = [t for op in graph.ops for t in op.inputs if t is not None] + [*graph.inputs, *graph.outputs]
    return list({id(t): t for t in known if t.variable and t.data is None}.values())


def _storage(graph: Graph) -> dict[int, Tensor]:
    """By id() of a tensor the one whose bytes it shares: what a reshape gives is what it was given."""
    root: dict[int, Tensor] = {}
    for op in graph.ops:
        if op.kind in LAYOUT and op.input(0).data is None:
            root[id(op.outputs[0])] = root.get(id(op.input(0)), op.input(0))
    return root


def _placed(graph: Graph, steps: Sequence[tuple[Op, Call]], stored: dict[int, Tensor], features: Features) -> Program:
    """Lifetimes, overlaps, the plan."""
    index: dict[int, int] = {}
    buffers: list[Buffer] = []
    spans: list[list[int]] = []

    def use(tensor: Tensor, step: int) -> int:
        root = stored.get(id(tensor), tensor)
        if id(root) not in index:
            index[id(root)] = len(spans)
            spans.append([step, step, root.nbytes])
            names.append(root.name)
        at = index[id(root)]
        spans[at] = [min(spans[at][0], step), max(spans[at][1], step), spans[at][2]]
        return at

    names: list[str] = []
    for tensor in graph.inputs:
        use(tensor, 0)
    for tensor in variables(graph):
        use(tensor, 0)
        use(tensor, len(steps) + 1)
    scratches: list[int | None] = []
    for at, (op, call) in enumerate(steps, 1):
        for t in (*op.inputs, *op.outputs):
            if t is not None and t.data is None:
                use(t, at)
        scratches.append(len(spans) if call.scratch else None)
        if call.scratch:
            spans.append([at, at, call.scratch])
            names.append(f"scratch of {op.name}")
    for tensor in graph.outputs:
        if tensor.data is None:
            use(tensor, len(steps) + 1)
    buffers = [Buffer(name, size, first, last) for name, (first, last, size) in zip(names, spans, strict=True)]
    overlaps: dict[tuple[int, int], int] = {}
    for at, (op, call) in enumerate(steps, 1):
        written = index[id(stored.get(id(op.outputs[0]), op.outputs[0]))]
        for i, lead in call.overlap.items():
            t = op.inputs[i]
            if t is None or t.data is not None:
                continue
            read = index[id(stored.get(id(t), t))]
            if (
                read != written
                and buffers[read].last == at
                and buffers[written].first == at
                and not _read_twice(op, i, stored)
            ):
                overlaps[read, written] = lead
    found = plan(buffers, overlaps)
    places = {id(t): found.offsets[index[id(stored.get(id(t), t))]]
              for t in _tensors(graph) if id(stored.get(id(t), t)) in index}  # fmt: skip
    made = [
        Step(op, call, 0 if s is None else found.offsets[s]) for (op, call), s in zip(steps, scratches, strict=True)
    ]
    return Program(graph, tuple(made), places, found, features)


def _read_twice(op: Op, index: int, stored: dict[int, Tensor]) -> bool:
    """Whether another input of the operator has the same bytes, which may be read in another order."""
    roots = [None if t is None else stored.get(id(t), t) for t in op.inputs]
    return sum(t is roots[index] for t in roots) > 1


def _tensors(graph: Graph) -> list[Tensor]:
    every = [*graph.inputs, *graph.outputs, *(t for op in graph.ops for t in (*op.inputs, *op.outputs))]
    return [t for t in every if t is not None and t.data is None]
