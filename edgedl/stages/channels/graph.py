"""channel_graph(): which channels of a Keras network go together, where they appear, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frameworks import deep, keras
from ...macs import count
from ..rebuilding import inside
from .call import Call, Shape, Term, Traced
from .rules import rule_for
from .units import Axis, Ids, Label, Units

ACROSS = ("softmax", "log_softmax", "sparsemax", "glu", "squareplus_softmax")  # activations over a whole axis


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """An axis of a weight with units along it."""

    path: str  # of the layer
    index: int  # in layer.weights
    axis: int
    ids: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Entrance:
    """The inputs of a model inside: their shapes as it was made for them, and the units along their axes."""

    shapes: tuple[Shape, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Channels that appear at the same places, so that any of them may be removed for any other.

    `channels` are the units that stand for them. All sites of a group have each channel equally often.
    """

    name: str  # path of the first layer that makes them
    channels: Ids
    sites: tuple[Site, ...]
    mixed: bool  # they take part in a statistic: removal is never exact
    frozen: str  # why none may be removed; "": they may

    def __len__(self) -> int:
        return len(self.channels)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGraph:
    """The groups of a network, its layers as they were called, and its costs as products of axis lengths."""

    net: Any
    units: Units
    calls: Mapping[str, Call]  # by path; the first call of each operation
    groups: tuple[Group, ...]
    terms: tuple[Term, ...]
    left_alone: Mapping[str, str]  # path -> why its channels stay, of operations that were not understood
    models: Mapping[str, Entrance] = field(default_factory=dict)  # by path, of the models inside

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups with something to remove."""
        return tuple(g for g in self.groups if not g.frozen and len(g) > 1)

    def everything(self) -> NDArray[np.bool_]:
        """A mask over all units that keeps them all."""
        return np.ones(len(self.units), bool)

    def kept(self, keep: NDArray[np.bool_], ids: Ids) -> NDArray[np.bool_]:
        """Which entries of an axis stay under a mask over units (only those that stand for others count)."""
        found: NDArray[np.bool_] = keep[self.units.roots(ids)]
        return found


@dataclass(slots=True, eq=False)
class _Trace:
    units: Units = field(default_factory=Units)
    calls: dict[str, Call] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    known: dict[int, str] = field(default_factory=dict)  # id of an operation -> its path
    models: dict[str, Entrance] = field(default_factory=dict)
    turned: frozenset[str] = frozenset()  # paths of reshapes that keep the units on another part of a split axis


def channel_graph(net: Any) -> ChannelGraph:
    """The dependency graph of a Keras 3 functional model, after DepGraph (Fang et al., CVPR 2023).

    Operations without a rule are not understood: what goes into them stays as it is, and they are named in `left_alone`.
    """
    first = _traced(net, frozenset())
    stuck = frozenset(path for path, call in first.calls.items() if call.split and _stuck(first, call))
    if not stuck:
        return _graph(net, first)
    graphs = [_graph(net, trace) for trace in (first, _traced(net, stuck))]
    return max(graphs, key=_prunable)


def _stuck(trace: _Trace, call: Call) -> bool:
    """Whether nothing can be removed along any axis of what an operation gives."""
    frozen = trace.units.roots(np.array(sorted(trace.units.frozen), np.int64))
    return all(
        bool(np.isin(trace.units.roots(ids), frozen).all())
        for label in call.outputs
        for ids in label
        if ids is not None
    )


def _prunable(graph: ChannelGraph) -> int:
    return sum(len(group) for group in graph.prunable)


def _graph(net: Any, trace: _Trace) -> ChannelGraph:
    terms = [*trace.terms, *_parameters(trace)]
    groups = _groups(trace, terms)
    return ChannelGraph(net, trace.units, trace.calls, groups, tuple(terms), trace.unknown, trace.models)


def _traced(net: Any, turned: frozenset[str]) -> _Trace:
    """Everything the rules say about a network."""
    trace, k = _Trace(turned=turned), keras()
    graph = inside(net)
    inputs = [
        Traced(k.KerasTensor((1, *t.shape[1:]), t.dtype, name=t.name), (None,) * len(t.shape)) for t in graph.inputs
    ]
    with deep():
        outputs = _run(graph, inputs, "", trace)
    for tensor in k.tree.flatten(outputs):
        for axis in tensor.label:
            trace.units.freeze(axis, "it is an output of the network")
    return trace


def _run(graph: Any, inputs: Any, prefix: str, trace: _Trace) -> Any:
    def operation(op: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = trace.known.setdefault(id(op), f"{prefix}{op.name}")
            model = inside(op)
            if model is None:
                return _called(op, path, args, kwargs, trace)
            given = args[0] if args else kwargs["inputs"]
            _entered(path, model, given, trace)
            return _run(model, given, f"{path}/", trace)

        return call

    return graph._run_through_graph(inputs, operation_fn=operation)


def _entered(path: str, model: Any, given: Any, trace: _Trace) -> None:
    """A model inside has one set of inputs: what it is called with has the same units each time."""
    tree = keras().tree
    labels = tuple(tensor.label for tensor in tree.flatten(given))
    shapes = tuple(tuple(t.shape) for t in tree.flatten(model._inputs_struct))
    for before, now in zip(trace.models.setdefault(path, Entrance(shapes, labels)).labels, labels, strict=True):
        _matched(before, now, path, trace.units)


def _called(op: Any, path: str, args: Any, kwargs: Mapping[str, Any], trace: _Trace) -> Any:
    tree = keras().tree
    specs, named = tree.map_structure(lambda v: v.spec if isinstance(v, Traced) else v, [list(args), dict(kwargs)])
    result = op.compute_output_spec(*specs, **named)
    inputs = [v for v in tree.flatten([list(args), dict(kwargs)]) if isinstance(v, Traced)]
    flat = tree.flatten(result)
    before = trace.calls.get(path)
    weights = before.weights if before else {}
    call = Call(op, path, args, kwargs, inputs, [tuple(t.shape) for t in flat], trace.units, weights)
    call.turned = path in trace.turned
    labels = call.outputs = list(_propagated(call, trace))
    if before is not None:
        _same(before, call)
    trace.calls.setdefault(path, call)
    if not any(t.kind == "macs" for t in call.terms):
        call.macs(count(op, [t.shape for t in inputs], call.shapes))
    trace.terms += call.terms
    trace.terms += [_memory(path, tuple(t.shape), label) for t, label in zip(flat, labels, strict=True)]
    traced = [Traced(t, label) for t, label in zip(flat, labels, strict=True)]
    return tree.pack_sequence_as(result, traced)


def _propagated(call: Call, trace: _Trace) -> Sequence[Label]:
    """What the rule of an operation says, or fixed axes all around where there is none."""
    found = rule_for(call.op)
    if found is None:
        labels = call.leave_alone(f"{type(call.op).__name__} is not known")
    else:
        labels = [_fitting(label, shape) for label, shape in zip(found.propagate(call), call.shapes, strict=True)]
    if getattr(getattr(call.op, "activation", None), "__name__", "") in ACROSS:
        for label in labels:
            call.freeze(label[-1], f"{call.path} computes {call.op.activation.__name__} over all of them")
    if call.alone and _loses(call):
        trace.unknown[call.path] = call.alone
    return labels


def _loses(call: Call) -> bool:
    """Whether something could have been smaller around an operation that is left alone."""
    return bool(getattr(call.op, "weights", ())) or any(ids is not None for t in call.inputs for ids in t.label)


def _same(first: Call, call: Call) -> None:
    """An operation that is called again is made anew once: what it is given and gives has the same units each time."""
    found = rule_for(call.op)
    if found is None or found.resize is None or (first.free and call.free):
        return
    before = [*(t.label for t in first.inputs), *first.outputs]
    now = [*(t.label for t in call.inputs), *call.outputs]
    for old, new in zip(before, now, strict=False):
        _matched(old, new, call.path, call.units)


def _matched(before: Label, now: Label, path: str, units: Units) -> None:
    """Two labels as one; where they differ in more than their units nothing may go."""
    for a, b in zip_longest(before, now):
        if a is not None and b is not None and len(a) == len(b):
            units.unite(a, b)
            continue
        for axis in (a, b):
            units.freeze(axis, f"{path} is called in several places that differ")


def _fitting(label: Label, shape: Shape) -> Label:
    assert len(label) == len(shape), (label, shape)
    assert all(ids is None or len(ids) == size for ids, size in zip(label, shape, strict=True)), (label, shape)
    return label


def _memory(path: str, shape: Shape, label: Label) -> Term:
    """Elements of an activation."""
    fixed = [1 if s is None else s for s, ids in zip(shape, label, strict=True) if ids is None]
    return Term(path, "memory", float(np.prod(fixed)), tuple(ids for ids in label if ids is not None))


def _parameters(trace: _Trace) -> Iterator[Term]:
    for path, call in trace.calls.items():
        for i, weight in enumerate(getattr(call.op, "weights", ())):
            label: Label = call.weights.get(i, (None,) * len(weight.shape))
            fixed = [s for s, ids in zip(weight.shape, label, strict=True) if ids is None]
            axes = tuple(ids for ids in label if ids is not None)
            yield Term(path, "params", float(np.prod(fixed)), axes)


def _sites(trace: _Trace) -> Iterator[Site]:
    for path, call in trace.calls.items():
        for index, label in call.weights.items():
            yield from (Site(path, index, axis, ids) for axis, ids in enumerate(label) if ids is not None)


def _groups(trace: _Trace, terms: Sequence[Term]) -> tuple[Group, ...]:
    """Units that appear equally often along the same axes, in the order in which the network makes them."""
    units = trace.units
    sites = list(_sites(trace))
    stands = units.roots(np.arange(len(units)))
    at: dict[bytes, int] = {}  # each different axis once
    places: dict[int, list[tuple[int, int]]] = {}
    sites_at: dict[int, list[Site]] = {}
    for site, ids in [*((s, s.ids) for s in sites), *((None, axis) for term in terms for axis in term.axes)]:
        roots = stands[ids]
        key = roots.tobytes()
        if key not in at:
            at[key] = len(at)
            found, counts = np.unique(roots, return_counts=True)
            for unit, count in zip(found.tolist(), counts.tolist(), strict=True):
                places.setdefault(unit, []).append((at[key], count))
        if site is not None:
            sites_at.setdefault(at[key], []).append(site)
    frozen: dict[int, str] = {}
    for unit, why in units.frozen.items():
        frozen.setdefault(int(stands[unit]), why)
    mixed = {int(stands[unit]) for unit in units.mixed}
    members: dict[tuple[Any, ...], list[int]] = {}
    for unit in sorted(places):
        members.setdefault((tuple(places[unit]), frozen.get(unit, ""), unit in mixed), []).append(unit)
    order = {id(site): i for i, site in enumerate(sites)}
    groups = []
    for (axes, why, is_mixed), those in members.items():
        own = sorted((s for axis, _ in axes for s in sites_at.get(axis, ())), key=lambda s: order[id(s)])
        if own:
            groups.append(Group(own[0].path, np.array(those), tuple(own), is_mixed, why))
    return tuple(groups)


def describe(graph: ChannelGraph) -> list[dict[str, Any]]:
    """For reports, plain JSON: each group's name, number of channels, layers, whether it is mixed, and why it is frozen."""
    return [
        {
            "name": group.name,
            "channels": len(group),
            "layers": list(dict.fromkeys(site.path for site in group.sites)),
            "mixed": group.mixed,
            "frozen": group.frozen,
        }
        for group in graph.groups
    ]


def axis_after(graph: ChannelGraph, keep: NDArray[np.bool_], axis: Axis, size: int | None) -> int | None:
    """The length of an axis under a mask over units."""
    return size if axis is None else int(graph.kept(keep, axis).sum())
