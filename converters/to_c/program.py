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
    graph = simplified(graph)
    stored = _storage(graph)
    steps, problems = [], []
    for op in graph.ops:
        if op.kind in LAYOUT:
            continue
        try:
            steps.append((op, lower(op, features)))
        except Unsupported as reason:
            problems.append(f"'{op.name}' ({op.kind}): {reason}")
    if problems:
        raise ConversionError(
            f"{graph.name} has {len(problems)} operator{'s' if len(problems) > 1 else ''} that firmware cannot have: "
            + "; ".join(problems),
            next="replace these layers, or run the .tflite with an interpreter (--format tflite)",
        )
    return _placed(graph, steps, stored, features)


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
            if read != written and buffers[read].last == at and buffers[written].first == at and not _read_twice(op, i):
                overlaps[read, written] = lead
    found = plan(buffers, overlaps)
    places = {id(t): found.offsets[index[id(stored.get(id(t), t))]]
              for t in _tensors(graph) if id(stored.get(id(t), t)) in index}  # fmt: skip
    made = [
        Step(op, call, 0 if s is None else found.offsets[s]) for (op, call), s in zip(steps, scratches, strict=True)
    ]
    return Program(graph, tuple(made), places, found, features)


def _read_twice(op: Op, index: int) -> bool:
    """Whether another input of the operator is the same tensor, which may be read in another order."""
    return sum(t is op.inputs[index] for t in op.inputs) > 1


def _tensors(graph: Graph) -> list[Tensor]:
    every = [*graph.inputs, *graph.outputs, *(t for op in graph.ops for t in (*op.inputs, *op.outputs))]
    return [t for t in every if t is not None and t.data is None]
