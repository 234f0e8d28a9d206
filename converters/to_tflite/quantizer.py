"""A QuantizationPlan carried out on a float .tflite by ai-edge-quantizer, layer by layer, with ranges of our own."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ...errors import ConversionError, MissingDependencyError, UsageError
from ...model import STATIC, QuantizationPlan, Scheme
from ...registry import did_you_mean
from .. import _tflite as fb
from .biases import rewrite_biases
from .exporter import last_line
from .graph import MOVES, Node, fold, halve, nodes
from .interface import Range
from .ranges import Trial, write_range

EVERYTHING = ".*"
ACTIVATION_BITS = {"int8": 8, "int16x8": 16}
CLIPPING = "OCTAV"  # of int4 weights: Sakr et al., "Optimal Clipping and Magnitude-aware Differentiation" (ICML 2022)
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
MIN_WEIGHTS = 64  # float constants below this are no loss


@dataclass(frozen=True, slots=True)
class Job:
    """A float file with all that its quantization needs. `known` and `last`: see graph.nodes."""

    content: bytes
    plan: QuantizationPlan
    ranges: Mapping[str, Range]
    known: Collection[str]
    last: Sequence[str]
    trial: Trial
    nodes: list[Node] = field(default_factory=list)

    def scheme(self, node: Node) -> Scheme:
        """What the plan wants for an operator: the first override that matches one of its layers, else the scheme."""
        for pattern, scheme in self.plan.overrides.items():
            if any(fnmatchcase(name, pattern) for name in node.layers):
                return scheme
        return self.plan.scheme


@dataclass(frozen=True, slots=True)
class Left:
    """An operator that stayed float."""

    layer: str
    op: str
    why: str


def quantize(job: Job) -> tuple[Any, list[Left]]:
    """The quantized `ModelT`, and what stayed float.

    A kind of operator that the quantizer fails on, or that LiteRT then does not run, stays float.
    Raises ConversionError where even that does not help, MissingDependencyError.
    """
    job = Job(
        **{**{k: getattr(job, k) for k in job.__slots__}, "nodes": nodes(_parse(job.content), job.known, job.last)}
    )
    _check_patterns(job)
    skip: dict[str, str] = {}
    content, error = _attempt(job, skip)
    if content is None:
        skip = _culprits(job)
        content, error = _attempt(job, skip)
    if content is None:
        raise ConversionError(
            f"quantization to {job.plan.scheme} failed: {error}",
            next="use another scheme (--quantize dynamic needs no ranges), or leave layers float with an override",
        )
    model = _parse(content)
    return model, left_float(job, model, skip)


def _check_patterns(job: Job) -> None:
    """Raise UsageError for an override that matches no operator; of a Keras model, the quantize stage has checked."""
    names = [] if job.known else [name for node in job.nodes for name in node.layers]
    for pattern in job.plan.overrides:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"no operator's output matches the override '{pattern}'{did_you_mean(pattern, names)}",
                next="use a name or pattern that edgedl inspect shows",
            )


def _parse(content: bytes) -> Any:
    return fb.parse(content, "the converted model")


def _culprits(job: Job) -> dict[str, str]:
    """The kinds of operators that cannot be quantized even alone, and why."""
    kinds = sorted({node.kind for node in job.nodes})
    found = {}
    for kind in kinds:
        _, error = _attempt(job, {other: "" for other in kinds if other != kind})
        if error:
            found[kind] = error
    return found


def _attempt(job: Job, skip: Mapping[str, str]) -> tuple[bytes | None, str]:
    """The quantized file, run once; or None and why not."""
    try:
        content = _carry_out(job, skip)
    except FAILURES as error:
        return None, last_line(str(error)) or type(error).__name__
    failure = job.trial.failure(content)
    return (None, failure) if failure else (content, "")


def _carry_out(job: Job, skip: Mapping[str, str]) -> bytes:
    wanted = {node.scope: job.scheme(node) for node in job.nodes if node.kind not in skip}
    content = job.content
    recipe = _recipe(job, skip)
    if recipe is not None:
        content = _run(recipe, job)
    if recipe is None and "fp16" not in wanted.values():
        return content
    model = _parse(content)
    if "fp16" in wanted.values():
        halve(model, lambda scope: wanted.get(scope) == "fp16")
    if job.plan.is_static:
        rewrite_biases(model, _parse(job.content))
        fold(model)
    return fb.pack(model)


def _run(recipe: Any, job: Job) -> bytes:
    ranges = write_range({**job.ranges, **_table_ranges(job)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = recipe.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _recipe(job: Job, skip: Mapping[str, str]) -> Any:
    """A Quantizer with its rules, the later the stronger: the plan's scheme, what differs from it, the edges."""
    quantizer = _quantizer(job.content)
    main = job.plan.scheme
    _add(quantizer, EVERYTHING, main)
    for node in job.nodes:
        scheme = _effective(job, node, skip)
        if scheme != main:
            _add(quantizer, _exactly(node.scope), scheme)
    graph = _parse(job.content).subgraphs[0]
    for kind, ids in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
        _add(quantizer, "(?:.*)", "float32", kind)
        if job.plan.io != "float32" and main in STATIC:
            scope = "".join(f"{fb.text(graph.tensors[i].name)};" for i in ids)
            _add(quantizer, _exactly(scope), main, kind)
    rules = quantizer.get_quantization_recipe()
    return quantizer if any(rule["algorithm_key"] != "no_quantize" for rule in rules) else None


def _effective(job: Job, node: Node, skip: Mapping[str, str]) -> str:
    """The scheme of an operator as ai-edge-quantizer is told: static ones in the main graph only."""
    scheme = job.scheme(node)
    if node.kind in skip or (scheme in STATIC and node.subgraph > 0):
        return "float32"
    if node.kind == "GATHER" and scheme in ("dynamic", "int8-weight-only", "int4-weight-only"):
        return "table" if node.outputs[0] in _table_ranges(job) else "float32"
    return scheme


def _exactly(scope: str) -> str:
    return f"^{re.escape(scope[:10_000])}$"


def _add(quantizer: Any, regex: str, scheme: str, operation: str = "*") -> None:
    """One rule. Float16 is not the quantizer's: it knows five operators of all that have constants (see `halve`)."""
    if scheme in ACTIVATION_BITS:
        quantizer.add_static_config(regex, operation, ACTIVATION_BITS[scheme], 8)
    elif scheme == "table":  # an embedding's rows are looked up as int8 and dequantized: no activation is involved
        quantizer.add_static_config(regex, operation, 8, 8)
    elif scheme == "dynamic":
        quantizer.add_dynamic_config(regex, operation, 8)
    elif scheme in ("int8-weight-only", "int4-weight-only"):
        quantizer.add_weight_only_config(regex, operation, 8)
        if scheme == "int4-weight-only":  # where there is no such form, the rule before holds
            quantizer.add_weight_only_config(f"(?:{regex})", operation, 4, algorithm_key=CLIPPING)
    else:
        quantizer.update_quantization_recipe(regex, operation, algorithm_key="no_quantize")


def _table_ranges(job: Job) -> dict[str, Range]:
    """(min, max) of what each look-up in a constant table gives: that of the table, by the name of the output."""
    model = _parse(job.content)
    graph, found = model.subgraphs[0], {}
    for op in graph.operators:
        if fb.op_name(model, op) != "GATHER":
            continue
        table = graph.tensors[op.inputs[0]]
        data = fb.raw(model, table)
        if data is not None and table.type == fb.FLOAT32 and data.size:
            values = data.view(np.float32)
            found[fb.text(graph.tensors[op.outputs[0]].name)] = (float(values.min()), float(values.max()))
    return found


def _quantizer(content: bytes) -> Any:
    try:
        from absl import logging as absl_logging
        from ai_edge_quantizer.quantizer import Quantizer
    except ImportError as error:
        raise MissingDependencyError(
            f"quantizing a .tflite needs ai-edge-quantizer, which cannot be imported here ({error})",
            next="pip install 'edgedl[tflite]'",
        ) from error
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)
    return Quantizer(bytearray(content))


def left_float(job: Job, model: Any, skip: Mapping[str, str]) -> list[Left]:
    """The operators of the quantized file that still work on float values, or on float weights, against the plan."""
    wanted = {name: node for node in job.nodes for name in node.outputs}
    found = []
    graph = model.subgraphs[0]
    for op in graph.operators:
        kind = fb.op_name(model, op)
        node = next((wanted[n] for i in op.outputs if (n := fb.text(graph.tensors[i].name)) in wanted), None)
        if kind in ("QUANTIZE", "DEQUANTIZE", *MOVES) or node is None:
            continue
        scheme = job.scheme(node)
        if scheme == "float32" and job.plan.scheme != "float32":
            if _computes_float(graph, op):
                found.append(Left(node.name, kind, "an override asks for it"))
        elif scheme in STATIC and _computes_float(graph, op):
            found.append(Left(node.name, kind, skip.get(kind) or f"the quantizer has no {scheme} form of it"))
        elif scheme not in STATIC and scheme != "float32" and _float_weights(model, graph, op):
            found.append(Left(node.name, kind, skip.get(kind) or f"its weights have no {scheme} form"))
    return found


def _computes_float(graph: Any, op: Any) -> bool:
    return any(graph.tensors[i].type == fb.FLOAT32 for i in op.outputs)


def _float_weights(model: Any, graph: Any, op: Any) -> bool:
    tensors = [graph.tensors[i] for i in op.inputs if i >= 0]
    return any(
        t.type == fb.FLOAT32 and len(t.shape) > 1 and fb.elements(t) >= MIN_WEIGHTS and fb.is_constant(model, t)
        for t in tensors
    )
