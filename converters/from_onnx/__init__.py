"""ONNX in: a file that stays what it is (the direct way), or rebuilt as one Keras 3 functional model, NHWC, with proof."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...engine import describe
from ...errors import ModelError, VerificationError
from ...model import GraphFile, LoadOptions, Model
from .. import _onnx
from .._source import Source

UNPROVEN = "on generated inputs the original makes NaN, which proves nothing: prove it on your own with --data"
ON_DATA = 2e-2  # as proof.BOUND, on real inputs, whose extremes may amplify rounding (a variance near zero)


def load_onnx(path: Path, options: LoadOptions | None = None, *, allow_unsafe: bool = False) -> Model:
    """A Model of an .onnx file: the file itself, or with `options.form = "keras"` a Keras model.

    Raises ModelError, TargetError (an operator ONNX Runtime lacks), UnsafeModelError (weights outside of the model's
    folder), VerificationError, MissingDependencyError.
    """
    options = options or LoadOptions()
    if options.form == "keras":
        return from_source(source(path, options), path, options)
    content = _onnx.self_contained(path)
    found = describe(path)
    return Model(GraphFile(path, "onnx", content), found.inputs, found.outputs, history=(f"loaded {path.name}",))


def source(path: Path, options: LoadOptions) -> Source:
    """An .onnx file as a Source, cut to what `options` asks for."""
    from .graph import cut

    return Source(cut(_onnx.read(path), options), "ONNX")


def rebuilt(source: Source, path: Path, options: LoadOptions) -> tuple[Any, Any]:
    """(prepared graph, rebuilt model) of a Source; with a free batch where the file says 1 and that gives the same."""
    from .patterns import applied

    for without in ((), ("attention",)):
        proto = applied(source.proto, without=without)
        if proto is source.proto:
            break
        try:
            graph, imported = _built(source, proto, path, options)
            if _agrees(source, imported, graph):
                return graph, imported
        except ModelError:
            continue  # what is lacking is told of the graph as it came, below
    return _built(source, source.proto, path, options)


def _built(source: Source, proto: Any, path: Path, options: LoadOptions) -> tuple[Any, Any]:
    """(prepared graph, rebuilt model) of a ModelProto that computes what the source's does."""
    from .build import build
    from .graph import prepared
    from .layout import NotFree

    graph = prepared(proto, options, path.name)
    name = "".join(c if c.isalnum() or c in "_-" else "_" for c in path.stem) or "model"
    if graph.batch_of_one:
        try:
            imported = build(graph, freed=True, name=name)
            if _agrees(source, imported, graph):
                return graph, imported
        except (NotFree, ModelError):
            pass  # it means a batch of exactly 1, which the next build keeps; what cannot be built at all fails there
    try:
        return graph, build(graph, freed=False, name=name)
    except NotFree as error:
        raise ModelError(
            f"cannot rebuild {path.name}: it mixes the members of a batch with each other",
            next="export it with a batch size of 1",
        ) from error


def _agrees(source: Source, imported: Any, graph: Any) -> bool:
    from . import proof

    inputs, _ = proof.telling(source, graph, 2)
    runner = next(iter(proof.references(source).values()))
    return all(e["max_relative"] <= proof.BOUND for e in proof.held("", graph, imported, runner, inputs))


def from_source(source: Source, path: Path, options: LoadOptions) -> Model:
    """The Keras model of a graph that came from any framework, held to the original's own outputs.

    Raises ModelError (every operator that is not known, all at once; a damaged graph), VerificationError (the rebuilt
    model computes something else; names the first node that differs).
    """
    from . import proof
    from .dequantizing import agreement, floats, plan_of

    source = floats(source)
    graph, imported = rebuilt(source, path, options)
    inputs, numbers = proof.telling(source, graph, proof.SAMPLES)
    entries = [
        e for name, run in proof.references(source).items() for e in proof.held(name, graph, imported, run, inputs)
    ]
    worst = max(entries, key=lambda e: e["max_relative"], default=None)
    if worst is not None and not worst["max_relative"] <= proof.BOUND:
        gap = worst["max_relative"]
        where = proof.first_difference(source.proto, graph, imported, inputs)
        raise VerificationError(
            f"{path.name} was rebuilt, but its output '{worst['output']}' differs from that of {worst['against']}"
            f"{'' if math.isinf(gap) else f' by {gap:.1e} of its largest value'}{f'; {where}' if where else ''}",
            next="please report the model; --to TENSOR cuts it before that node",
        )
    return Model(
        imported.net, imported.inputs, imported.outputs, history=(f"loaded {path.name} ({source.how}), rebuilt in Keras 3",),
        notes=(*source.notes, *agreement(source, graph, imported), *(() if numbers else (UNPROVEN,))),
        layouts=dict(imported.layouts),
        proof=tuple(entries), plan=plan_of(source, imported),
    )  # fmt: skip


def compare(source: Source, path: Path, options: LoadOptions, net: Any) -> tuple[list[dict[str, Any]], Any]:
    """A Keras network that was once imported from `source`, held to it: (one entry for each output and reference, as in
    `Model.proof`; the first node that differs as a proof.Difference, or None). Raises what `from_source` raises.
    """
    from . import proof
    from .dequantizing import floats

    source = floats(source)
    graph, imported = rebuilt(source, path, options)
    have, want = ([tuple(t.shape) for t in n.inputs] for n in (net, imported.net))
    if have != want or len(net.outputs) != len(imported.outputs):
        raise ModelError(
            f"the network takes {have} and {path.name}, rebuilt, takes {want}: they are not the same model",
            next="compare a network with the file that it was imported from",
        )
    inputs, _ = proof.telling(source, graph, proof.SAMPLES)
    runners = proof.references(source).items()
    entries = [e for name, run in runners for e in proof.held(name, graph, imported, run, inputs, net)]
    if all(e["max_relative"] <= proof.BOUND for e in entries):
        return entries, None
    return entries, proof.first_difference(source.proto, graph, imported, inputs, net=net)


def prove(
    source: Source, path: Path, options: LoadOptions, model: Model, inputs: dict[str, Any]
) -> list[dict[str, Any]]:
    """Entries for `Model.proof` of a model that came from `source`, on inputs by name `[n, ...]` as the model takes them.

    Raises VerificationError where it computes something else than the original on these, ModelError.
    """
    from . import proof
    from .dequantizing import floats
    from .graph import prepared

    source = floats(source)
    graph = prepared(source.proto, options, path.name)
    entries = proof.on_data(source, graph, model, inputs)
    worst = max(entries, key=lambda e: e["max_relative"])
    if not worst["max_relative"] <= ON_DATA:
        raise VerificationError(
            f"on the data that was given, the output '{worst['output']}' of {path.name}, rebuilt, differs from that of "
            f"{worst['against']} by {worst['max_relative']:.1e} of its largest value",
            next="check that the data is scaled as in training; if it is, please report the model",
        )
    return entries


__all__ = ["compare", "from_source", "load_onnx", "prove", "rebuilt", "source"]
