"""Proof: the rebuilt model and the original on the same inputs, and the first node where the two part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError
from ...frameworks import deep, keras, tensorflow
from ...model import Model
from .. import _onnx
from .._source import Runner, Source
from .build import Imported, one
from .graph import Graph

BOUND = 1e-3  # of max|a - b| / max|b|: more is another model, not rounding
SAMPLES = 3
PROBABILITIES = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
HANDS_ON = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Cast"})
GROUP = 48  # nodes whose outputs are computed at once in the search for the first that differs


def generated(graph: Graph, count: int, seed: int = 0) -> dict[str, Array]:
    """Inputs by name in the original's layout, `count` along the batch: reals around 0, small whole numbers."""
    rng = np.random.default_rng(seed)
    out = {}
    for i in graph.inputs:
        many = graph.batch_of_one
        shape = [count if n is None or (many and d == i.batch_axis) else n for d, n in enumerate(i.shape)]
        if i.dtype == "bool":
            out[i.name] = rng.random(shape) < 0.5
        elif np.dtype(i.dtype).kind in "iu":
            out[i.name] = rng.integers(0, 2 if "mask" in i.name.lower() else i.limit, shape).astype(i.dtype)
        else:
            out[i.name] = rng.normal(0, 1, shape).astype(np.float32)
    return out


def telling(source: Source, graph: Graph, count: int) -> tuple[dict[str, Array], bool]:
    """Generated inputs of which the original makes numbers, and whether it does: where a logarithm or a root makes NaN
    of reals around 0, which would be the same as any other NaN, the reals are brought between 0 and 1."""
    plain = generated(graph, count)
    runner = next(iter(references(source).values()))
    for inputs in (plain, {k: _unit(a) if a.dtype.kind == "f" else a for k, a in plain.items()}):
        made = [np.asarray(a) for part in members(graph, inputs) for a in runner(part).values()]
        if not any(np.isnan(a).any() for a in made if a.dtype.kind == "f"):
            return inputs, True
    return plain, False


def _unit(array: Array) -> Array:
    found: Array = np.abs(array) / (1 + np.abs(array))
    return found


def run_onnx(proto: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime computes, its optimizer off. Raises ModelError for a network it cannot run."""
    try:
        return run_session(_onnx.session(proto, optimize=False), inputs)
    except _onnx.runtime_errors() as error:
        raise ModelError(
            f"ONNX Runtime cannot run the original on generated inputs: {_onnx.last_line(error)}",
            next="check the model in ONNX Runtime, and fix its sizes with --input",
        ) from error


def run_session(session: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What a session computes, by output name."""
    feed = {i.name: _as(inputs[i.name], i.type) for i in session.get_inputs()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def _as(array: Array, kind: str) -> Array:
    return array.astype({"tensor(double)": np.float64, "tensor(float16)": np.float16}.get(kind, array.dtype))


def run_keras(imported: Imported, inputs: Mapping[str, Array], net: Any = None) -> dict[str, Array]:
    """What the rebuilt model (or `net`, of the same inputs) computes, in the original's layout."""
    whole = imported.net if net is None else net
    feed = [_lay(inputs[s.name], imported.layouts.get(s.name)) for s in imported.inputs]
    found = called(whole, feed)
    flat = list(found) if isinstance(found, list | tuple) else [found]
    return {
        s.name: _back(np.asarray(a), imported.layouts.get(s.name)) for s, a in zip(imported.outputs, flat, strict=True)
    }


def called(net: Any, feed: list[Array]) -> Any:
    """What a network makes of its inputs. Raises ModelError where it cannot take them."""
    try:
        return net(one(feed), training=False)
    except (tensorflow().errors.OpError, ValueError, TypeError) as error:
        raise ModelError(
            f"the rebuilt network cannot take inputs of {[list(a.shape) for a in feed]}: {_onnx.last_line(error)}",
            next="please report the model; --to TENSOR takes the part before what cannot be computed",
        ) from error


def members(graph: Graph, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The inputs one by one where the original takes one at a time, else all at once; with what the user gave."""
    if not graph.batch_of_one:
        return [{**inputs, **graph.given}]
    axes = {i.name: i.batch_axis for i in graph.inputs}
    count = next(inputs[i.name].shape[i.batch_axis] for i in graph.inputs)
    return [{**{k: np.take(inputs[k], [n], axis) for k, axis in axes.items()}, **graph.given} for n in range(count)]


def _parts(
    imported: Imported, inputs: Mapping[str, Array], parts: list[dict[str, Array]], net: Any
) -> list[dict[str, Array]]:
    """What the rebuilt model computes for each of `parts`: all at once where its batch is free."""
    if len(parts) == 1 or not any(None in s.shape for s in imported.inputs):
        return [run_keras(imported, p, net) for p in parts]
    found = run_keras(imported, inputs, net)
    return [
        {k: _member(a, imported.batch_axes.get(k), i, len(parts)) for k, a in found.items()} for i in range(len(parts))
    ]


def _member(array: Array, axis: int | None, index: int, count: int) -> Array:
    """One member of the batch of an output."""
    return array if axis is None else np.split(array, count, axis)[index]


def _lay(array: Array, order: tuple[int, ...] | None) -> Array:
    return array if order is None else np.ascontiguousarray(array.transpose(order))


def _back(array: Array, order: tuple[int, ...] | None) -> Array:
    return array if order is None else np.ascontiguousarray(array.transpose(np.argsort(order)))


def difference(found: Array, wanted: Array, least: float = 1e-6) -> tuple[float, float]:
    """Largest and mean difference, as shares of the largest wanted value, taken for `least` where it is smaller; infinite
    where shapes or NaNs differ."""
    if found.shape != wanted.shape:
        return float("inf"), float("inf")
    if not wanted.size:
        return 0.0, 0.0
    a, b = (np.asarray(v, np.float64) for v in (found, wanted))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    gap = np.where(same, 0.0, np.abs(a - b))
    if not np.isfinite(gap).all():
        return float("inf"), float("inf")
    finite = np.abs(b[np.isfinite(b)])
    most = max(float(finite.max(initial=0.0)), least)
    return float(gap.max()) / most, float(gap.mean()) / most


def least_of(graph: Graph, name: str) -> float:
    """The smallest value that the differences of an output are shares of. Probabilities near 0, as a detector makes of
    noise, are only rounding: frameworks compute them to some 1e-7 of 1."""
    makers = {n: node for node in graph.nodes for n in node.outputs if n}
    while (node := makers.get(name)) is not None:
        if node.op in PROBABILITIES:
            return 1e-3
        if node.op not in HANDS_ON:
            break
        name = node.proto.input[0]
    return 1e-6


def held(
    name: str, graph: Graph, imported: Imported, run: Runner, inputs: Mapping[str, Array], net: Any = None
) -> list[dict[str, Any]]:
    """One entry for each output: how far the rebuilt model (or `net`) is from what `run` computes."""
    parts = members(graph, inputs)
    wanted = [run(p) for p in parts]
    found = _parts(imported, inputs, parts, net)
    count = len(parts) if graph.batch_of_one else max((a.shape[0] if a.ndim else 1 for a in inputs.values()), default=1)
    entries = []
    for spec in imported.outputs:
        least = least_of(graph, spec.name)
        gaps = [difference(f[spec.name], np.asarray(w[spec.name]), least) for f, w in zip(found, wanted, strict=True)]
        entries.append({
            "output": spec.name, "against": name, "inputs": count, "data": "generated",
            "max_relative": max(g[0] for g in gaps), "mean_relative": float(np.mean([g[1] for g in gaps])),
        })  # fmt: skip
    return entries


def on_data(source: Source, graph: Graph, model: Model, inputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    """The entries of a proof on a user's own inputs, by name, with the axes that the rebuilt model takes."""
    names = [s.name for s in model.inputs]
    before = {n: _back(np.asarray(inputs[n]), model.layouts.get(n)) for n in names}
    dtypes = {i.name: i.dtype for i in graph.inputs}
    parts = members(graph, {n: a.astype(dtypes[n]) for n, a in before.items()})
    feeds = [[_lay(p[n], model.layouts.get(n)) for n in names] for p in parts]
    found = [called(model.net, feed) for feed in feeds]
    count = max((len(np.asarray(inputs[n])) for n in names), default=1)
    entries = []
    for name, run in references(source).items():
        wanted = [run(p) for p in parts]
        for i, spec in enumerate(model.outputs):
            made = [np.asarray(f[i] if isinstance(f, list | tuple) else f) for f in found]
            gaps = [
                difference(_back(m, model.layouts.get(spec.name)), np.asarray(w[spec.name]))
                for m, w in zip(made, wanted, strict=True)
            ]
            entries.append({
                "output": spec.name, "against": name, "inputs": count, "data": "given",
                "max_relative": max(g[0] for g in gaps), "mean_relative": float(np.mean([g[1] for g in gaps])),
            })  # fmt: skip
    return entries


def references(source: Source) -> dict[str, Runner]:
    """Who can run the original: ONNX Runtime on its graph, and its own framework where that is installed."""
    ort = _onnx.onnxruntime()
    plain = "" if source.original is None else " without quantization"
    found: dict[str, Runner] = {f"onnxruntime {ort.__version__}{plain}": lambda inputs: run_onnx(source.proto, inputs)}
    if source.reference is not None:
        found[source.reference_name] = source.reference
    return found


# --- where two models part


@dataclass(frozen=True, slots=True)
class Difference:
    """The first node of the original whose output the other model does not compute."""

    node: str  # its ONNX name
    op: str
    output: str
    original_shape: tuple[int, ...]
    rebuilt_shape: tuple[int, ...]
    max_relative: float  # of the original's largest value; infinite where the shapes differ

    def __str__(self) -> str:
        shapes = f"{list(self.original_shape)} in the original, {list(self.rebuilt_shape)} here"
        gap = "" if math.isinf(self.max_relative) else f", off by {self.max_relative:.1e} of its largest value"
        return f"the first node that differs is '{self.node}' ({self.op}): {shapes}{gap}"


def first_difference(
    proto: Any, graph: Graph, imported: Imported, inputs: Mapping[str, Array], *, net: Any = None, bound: float = BOUND
) -> Difference | None:
    """The first node, in the order of the graph, whose output differs by more than `bound`; None: all agree.

    `net`: another network with the same layer names, such as one read from a file. Nodes are run in groups, so that no
    more than a group's tensors are in memory and the search ends with the group in which the two part.
    """
    tensors = _tensors(imported, net)
    there = {n for node in proto.graph.node for n in node.output}
    wanted = [(node, n) for node in graph.nodes for n in node.outputs if n in tensors and n in there]
    feed = members(graph, inputs)[0]
    for start in range(0, len(wanted), GROUP):
        group = wanted[start : start + GROUP]
        names = [n for _, n in group]
        session = _onnx.session(_onnx.exposed(proto, names), optimize=False)
        original = dict(
            zip(
                names, session.run(None, {i.name: _as(feed[i.name], i.type) for i in session.get_inputs()}), strict=True
            )
        )
        here = _computed(imported, net, {n: tensors[n] for n in names}, feed)
        for node, name in group:
            rebuilt, was = imported.values[name].in_order(here[name]), np.asarray(original[name])
            if was.dtype.kind not in "fiub":
                continue
            largest, _ = difference(rebuilt, was)
            if not largest <= bound:
                return Difference(node.name, node.op, name, was.shape, rebuilt.shape, largest)
    return None


def _tensors(imported: Imported, net: Any) -> dict[str, Any]:
    """The Keras tensor of every ONNX value that is computed, in the rebuilt model or in `net`."""
    found = {}
    known = None if net is None else {o.name: o for o in net.operations}
    live = {id(o) for o in imported.net.operations}
    for name, value in imported.values.items():
        history = value.tensor._keras_history
        if id(history.operation) not in live:
            continue
        if known is None:
            found[name] = value.tensor
        elif history.operation.name in known:
            outputs = keras().tree.flatten(known[history.operation.name].output)
            if history.tensor_index < len(outputs):
                found[name] = outputs[history.tensor_index]
    return found


def _computed(
    imported: Imported, net: Any, tensors: Mapping[str, Any], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    whole = imported.net if net is None else net
    with deep():
        part = keras().Model(one(list(whole.inputs)), list(tensors.values()))
    feed = [_lay(inputs[s.name], imported.layouts.get(s.name)) for s in imported.inputs]
    made = called(part, feed)
    return {n: np.asarray(a) for n, a in zip(tensors, made if isinstance(made, list | tuple) else [made], strict=True)}
