"""Which layers of a student and of its teacher are held to each other: found by name, by size and place, or as told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ...errors import UsageError
from ...registry import did_you_mean
from ..rebuilding import inside

MOST = 4  # pairs that are chosen where none are named, the deepest
FEW = 3  # points in all that networks with one or two sizes give
ALIKE = 0.8  # share of a student's layers that its teacher has under the same names, from which it is its descendant
UNARY = frozenset({
    "Activation", "ReLU", "Relu", "Relu6", "LeakyReLU", "LeakyRelu", "PReLU", "ELU", "Elu", "Gelu", "Silu", "Softplus", "Tanh",
    "Sigmoid", "HardSigmoid", "HardSilu", "BatchNormalization", "LayerNormalization", "GroupNormalization", "Identity",
})  # fmt: skip
PADDING = frozenset(
    {"ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D", "Pad"}
)


@dataclass(frozen=True, slots=True)
class Point:
    """What one layer gives: `[n, *spatial, channels]`, `place` of the way through the network (0..1)."""

    name: str
    kind: str  # of the layer
    spatial: tuple[int | None, ...]
    channels: int
    place: float

    def __str__(self) -> str:
        return f"{self.name} {[*self.spatial, self.channels]}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two points of the same spatial size."""

    student: Point
    teacher: Point

    @property
    def projected(self) -> bool:
        """Whether the student's channels must be mapped to the teacher's."""
        return self.student.channels != self.teacher.channels

    @property
    def placed(self) -> bool:
        """Whether there are positions that can be attended to."""
        return any(size != 1 for size in self.student.spatial)


def everything(net: Any) -> dict[str, Point]:
    """By name, each layer of the outermost network that gives one float tensor once, with a batch and known channels."""
    graph = inside(net)
    ends = {id(t) for t in graph.outputs}
    found = {}
    operations = list(graph.operations)
    for at, op in enumerate(operations):
        if len(op._inbound_nodes) != 1 or type(op).__name__ in ("InputLayer", *PADDING):
            continue
        tensors = op._inbound_nodes[0].output_tensors
        t = tensors[0]
        if len(tensors) != 1 or id(t) in ends or not str(t.dtype).startswith(("float", "bfloat")):
            continue
        if len(t.shape) >= 2 and t.shape[-1] is not None:
            found[op.name] = Point(op.name, type(op).__name__, tuple(t.shape[1:-1]), t.shape[-1], at / len(operations))
    return found


def points(net: Any, most: int = MOST) -> list[Point]:
    """A few well-placed layers: the last residual sum of each spatial size, or the last layer with weights where there is
    none, each with the activation after it; and what the last layer with weights is given (the embedding)."""
    known, graph = everything(net), inside(net)
    after = _consumers(graph)
    groups: dict[tuple[int | None, ...], dict[str, Point]] = {}
    sums: set[str] = set()
    for op in graph.operations:
        is_sum = type(op).__name__ == "Add"
        if op.name not in known or not (is_sum or getattr(op, "weights", None)) or type(op).__name__ in UNARY:
            continue
        end = _extended(op, after, known)
        groups.setdefault(known[end].spatial, {})[end] = known[end]
        sums.update({end} if is_sum else ())
    embedding = _embedding(graph, known)
    if embedding is not None and not any(p.spatial == embedding.spatial for g in groups.values() for p in g.values()):
        groups[embedding.spatial] = {embedding.name: embedding}
    quota = -(-FEW // len(groups)) if groups else 0
    found = []
    for group in groups.values():
        own = [p for p in group.values() if p.name in sums] or list(group.values())
        found += _spread(sorted(own, key=lambda p: p.place), quota)
    return sorted(found, key=lambda p: p.place)[-most:]


def _consumers(graph: Any) -> dict[str, list[Any]]:
    """By name of an operation, those that take what it gives."""
    after: dict[str, list[Any]] = {}
    for op in graph.operations:
        for node in op._inbound_nodes:
            for t in node.input_tensors:
                after.setdefault(t._keras_history.operation.name, []).append(op)
    return after


def _extended(op: Any, after: dict[str, list[Any]], known: dict[str, Point]) -> str:
    """The name of the last in the chain of normalizations and activations after an operation."""
    at = op
    while len(after.get(at.name, [])) == 1:
        following = after[at.name][0]
        if type(following).__name__ not in UNARY or following.name not in known:
            break
        at = following
    return str(at.name)


def _embedding(graph: Any, known: dict[str, Point]) -> Point | None:
    """What the last layer with weights on the way to the first output is given, before dropout."""
    op, found = graph.outputs[0]._keras_history.operation, False
    while op._inbound_nodes and len(op._inbound_nodes[0].input_tensors) == 1:
        before = op._inbound_nodes[0].input_tensors[0]._keras_history.operation
        found = found or bool(getattr(op, "weights", None))
        if found and "Dropout" not in type(before).__name__:
            return known.get(before.name)
        op = before
    return None


def _spread(found: list[Point], count: int) -> list[Point]:
    """At most `count`, evenly spread, the last among them."""
    if len(found) <= count:
        return found
    at = np.linspace(len(found) / count, len(found), count)
    return [found[round(float(a)) - 1] for a in at]


def match(student: Any, teacher: Any, layers: Sequence[str] = ()) -> tuple[Pair, ...]:
    """The pairs of layers. `layers`: names or patterns of the student's, whose teacher's is called alike, or
    "student=teacher"; none: chosen, and () where no sizes agree.

    Raises UsageError for a name or pattern that is in vain.
    """
    own, other = everything(student), everything(teacher)
    if layers:
        found = [pair for text in layers for pair in _named(text, own, other)]
        return tuple({pair.student.name: pair for pair in found}.values())
    alike = sum(n in other and other[n].kind == p.kind and _same(p, other[n]) for n, p in own.items())
    chosen = points(student)
    if alike >= ALIKE * len(own):
        return tuple(Pair(p, other[p.name]) for p in chosen if p.name in other and _same(p, other[p.name]))
    return _by_place(chosen, points(teacher, most=len(other)))


def _same(a: Point, b: Point) -> bool:
    return a.spatial == b.spatial


def _by_place(own: list[Point], other: list[Point]) -> tuple[Pair, ...]:
    """Each of the student's with the nearest of the teacher's of the same size, as shares of the way; none twice."""
    free, found = list(other), []
    for point in reversed(own):
        fitting = [p for p in free if _same(p, point)]
        if fitting:
            best = min(fitting, key=lambda p: abs(p.place - point.place))
            free.remove(best)
            found.append(Pair(point, best))
    return tuple(reversed(found))


def _named(text: str, own: dict[str, Point], other: dict[str, Point]) -> list[Pair]:
    left, given, right = (part.strip() for part in text.partition("="))
    if given:
        pair = Pair(_one(left, own, "model"), _one(right, other, "teacher"))
        if not _same(pair.student, pair.teacher):
            raise UsageError(
                f"the layers '{text}' differ in size: the model's {pair.student}, the teacher's {pair.teacher}",
                next="pair layers whose outputs differ in the number of channels only",
            )
        return [pair]
    names = [name for name in own if fnmatchcase(name, left)]
    if not names:
        raise UsageError(
            f"no layer of the model matches '{left}'{did_you_mean(left, own)}",
            next=f"use names or patterns of these layers: {_shown(own)}",
        )
    pairs = [Pair(own[n], other[n]) for n in names if n in other and _same(own[n], other[n])]
    if not pairs:
        raise UsageError(
            f"the teacher has no layer of the same name and size as '{left}' ({own[names[0]]} in the model)",
            next=f'write "{names[0]}=LAYER" with one of the teacher\'s layers: {_shown(other)}',
        )
    return pairs


def _one(name: str, known: dict[str, Point], whose: str) -> Point:
    if name not in known:
        raise UsageError(
            f"the {whose} has no layer '{name}' to distill{did_you_mean(name, known)}",
            next=f"use one of these layers: {_shown(known)}",
        )
    return known[name]


def _shown(known: dict[str, Point]) -> str:
    return ", ".join(list(known)[:20]) + (" ..." if len(known) > 20 else "")
