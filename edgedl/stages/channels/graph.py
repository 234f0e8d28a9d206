"""channel_graph(): which channels of a Keras network go together, where they appear, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frameworks import deep, keras
from ...macs import count
from ..rebuilding import inside
from .call import Call, Shape, Term, Traced
from .rules import rules
from .units import Axis, Ids, Label, Units


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """An axis of a weight with units along it."""

    path: str  # of the layer
    index: int  # in layer.weights
    axis: int
    ids: Ids


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

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups with something to remove."""
        return tuple(g for g in self.groups if not g.frozen and len(g) > 1)

    def everything(self) -> NDArray[np.bool_]:
        """A mask over all units that keeps them all."""
        return np.ones(len(self.units.parent), bool)

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


def channel_graph(net: Any) -> ChannelGraph:
    """The dependency graph of a Keras 3 functional model, after DepGraph (Fang et al., CVPR 2023).

    Operations without a rule are not understood: what goes into them stays as it is, and they are named in `left_alone`.
    """
    trace, k = _Trace(), keras()
    graph = inside(net)
    inputs = [
        Traced(k.KerasTensor((1, *t.shape[1:]), t.dtype, name=t.name), (None,) * len(t.shape)) for t in graph.inputs
    ]
    with deep():
        outputs = _run(graph, inputs, "", trace)
    for tensor in k.tree.flatten(outputs):
        for axis in tensor.label:
            trace.units.freeze(axis, "it is an output of the network")
    terms = [*trace.terms, *_parameters(trace)]
    return ChannelGraph(net, trace.units, trace.calls, _groups(trace, terms), tuple(terms), trace.unknown)


def _run(graph: Any, inputs: Any, prefix: str, trace: _Trace) -> Any:
    def operation(op: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = trace.known.setdefault(id(op), f"{prefix}{op.name}")
            model = inside(op)
            if model is not None:
                return _run(model, args[0] if args else kwargs["inputs"], f"{path}/", trace)
            return _called(op, path, args, kwargs, trace)

        return call

    return graph._run_through_graph(inputs, operation_fn=operation)


def _called(op: Any, path: str, args: Any, kwargs: Mapping[str, Any], trace: _Trace) -> Any:
    tree = keras().tree
    specs, named = tree.map_structure(lambda v: v.spec if isinstance(v, Traced) else v, [list(args), dict(kwargs)])
    result = op.compute_output_spec(*specs, **named)
    inputs = [v for v in tree.flatten([list(args), dict(kwargs)]) if isinstance(v, Traced)]
    flat = tree.flatten(result)
    before = trace.calls.get(path)
    weights = before.weights if before else {}
    call = Call(op, path, args, kwargs, inputs, [tuple(t.shape) for t in flat], trace.units, weights)
    labels = call.outputs = list(_propagated(call, trace))
    trace.calls.setdefault(path, call)
    if not any(t.kind == "macs" for t in call.terms):
        call.macs(count(op, [t.shape for t in inputs], call.shapes))
    trace.terms += call.terms
    trace.terms += [_memory(path, tuple(t.shape), label) for t, label in zip(flat, labels, strict=True)]
    traced = [Traced(t, label) for t, label in zip(flat, labels, strict=True)]
    return tree.pack_sequence_as(result, traced)


def _propagated(call: Call, trace: _Trace) -> Sequence[Label]:
    """What the rule of an operation says, or fixed axes all around where there is none."""
    found = rules().get(type(call.op).__name__)
    if found is not None:
        labels = found.propagate(call)
        return [_fitting(label, shape) for label, shape in zip(labels, call.shapes, strict=True)]
    trace.unknown[call.path] = type(call.op).__name__
    for tensor in call.inputs:
        call.freeze_all_but(tensor)
    return [(None,) * len(shape) for shape in call.shapes]


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
    axes = [s.ids for s in sites] + [axis for term in terms for axis in term.axes]
    places: dict[int, list[tuple[int, int]]] = {}
    seen: dict[bytes, int] = {}
    for axis in axes:
        roots = units.roots(axis)
        key = roots.tobytes()
        if key in seen:
            continue
        seen[key] = len(seen)
        for unit, times in zip(*np.unique(roots, return_counts=True), strict=True):
            places.setdefault(int(unit), []).append((seen[key], int(times)))
    frozen: dict[int, str] = {}
    for unit, why in units.frozen.items():
        frozen.setdefault(int(units.roots(np.array([unit]))[0]), why)
    mixed = set(units.roots(np.array(sorted(units.mixed), np.int64)).tolist())
    members: dict[tuple[Any, ...], list[int]] = {}
    for unit in sorted(places):
        members.setdefault((tuple(places[unit]), frozen.get(unit, ""), unit in mixed), []).append(unit)
    by_unit = _sites_by_unit(units, sites)
    return tuple(
        Group(_name(by_unit[found[0]]), np.array(found), by_unit[found[0]], is_mixed, why)
        for (_, why, is_mixed), found in members.items()
        if found[0] in by_unit
    )


def _name(sites: Sequence[Site]) -> str:
    return sites[0].path


def _sites_by_unit(units: Units, sites: Sequence[Site]) -> dict[int, tuple[Site, ...]]:
    found: dict[int, list[Site]] = {}
    for site in sites:
        for unit in np.unique(units.roots(site.ids)).tolist():
            found.setdefault(unit, []).append(site)
    return {unit: tuple(places) for unit, places in found.items()}


def axis_after(graph: ChannelGraph, keep: NDArray[np.bool_], axis: Axis, size: int | None) -> int | None:
    """The length of an axis under a mask over units."""
    return size if axis is None else int(graph.kept(keep, axis).sum())
