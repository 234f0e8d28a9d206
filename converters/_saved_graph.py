"""SavedModels without Keras layers: one signature (or function) frozen, and on to ONNX by way of tf2onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import ModelError, UsageError
from ..frameworks import no_stderr, tensorflow
from ..model import LoadOptions, shapes_by_name
from . import _onnx, _tf_graph
from ._batches import one_by_one
from ._keras_files import AGAIN, FAILURES
from ._onnx_build import parse_shape
from ._source import Runner, Source
from ._tf_to_onnx import to_onnx
from .from_graphdef import from_graph

DEFAULT = "serving_default"


def source(path: Path, options: LoadOptions) -> Source:
    """A signature of a SavedModel as ONNX: inputs and outputs named as in the signature.

    `options.end` may name the signature; else it is serving_default, or the only one, or the only function of a folder
    without signatures. `options.start` cuts the frozen graph, whose tensors then name the interface. The caller has
    refused graphs that touch files. Raises ModelError, UsageError.
    """
    tf = tensorflow()
    try:
        with no_stderr():
            loaded = tf.saved_model.load(str(path))
    except (*FAILURES, tf.errors.OpError) as error:
        raise ModelError(f"{path} cannot be loaded: {_onnx.last_line(error)}", next=AGAIN) from error
    signature, ends = _choose(path, loaded, options.end)
    names, specs = _interface(path, signature, options.inputs)
    graph, inputs, outputs = _frozen(path, signature, specs)
    if options.start or ends:
        return from_graph(path.name, graph, LoadOptions(options.inputs, options.start, ends), "SavedModel",
                          end=[t.removesuffix(":0") for t in outputs])  # fmt: skip
    _tf_graph.refuse_file_ops(str(path), [graph])
    _tf_graph.refuse_front_end(path.name, graph, {n.name for n in graph.node})
    results = _results(signature)
    rename = {**dict(zip(inputs, names, strict=True)), **dict(zip(outputs, results, strict=True))}
    if len(rename) != len(inputs) + len(outputs):
        raise ModelError(f"{path} returns one tensor twice, or an input as it came", next="save it with other outputs")
    proto, notes = to_onnx(path.name, graph, inputs, outputs, rename)
    run = _runner(path, signature, specs, results)
    return Source(proto, "SavedModel", run, f"TensorFlow {tf.__version__}", notes=notes)


def _choose(path: Path, loaded: Any, asked: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """(the function to take, tensors to end at): a name in `asked` may be that of a signature. Raises errors."""
    found = {k: f for k, f in loaded.signatures.items() if not k.startswith("__")}
    what = "signatures"
    if not found:
        found, what = _functions(loaded), "functions"
    chosen = [name for name in asked if name in found]
    ends = tuple(name for name in asked if name not in found)
    if len(chosen) == 1 or len(found) == 1 or (not chosen and DEFAULT in found):
        key = chosen[0] if chosen else DEFAULT if DEFAULT in found else next(iter(found))
        return found[key], ends
    if not found:
        raise ModelError(
            f"{path} is a SavedModel without signatures, without Keras layers and without a traced function: nothing in "
            "it can be called",
            next="save it with tf.saved_model.save(model, folder, signatures=model.f.get_concrete_function(...))",
        )
    names = sorted(found)
    raise UsageError(f"{path} has several {what}: {', '.join(names)}", next=f"--to {names[0]}")


def _functions(loaded: Any) -> dict[str, Any]:
    """The tf.functions of an object that were traced for exactly one kind of tensors."""
    found = {}
    for name in dir(loaded):
        function = getattr(loaded, name, None) if not name.startswith("_") or name == "__call__" else None
        concrete = getattr(function, "concrete_functions", None)
        if concrete and len(concrete) == 1:
            found[name] = concrete[0]
    return found


def _interface(path: Path, signature: Any, given: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    """(names, TensorSpecs) of the inputs in the graph's order, with the sizes that the user gave."""
    tf = tensorflow()
    captured = {id(internal) for _, internal in signature.graph.captures}
    tensors = [t for t in signature.inputs if id(t) not in captured and t.dtype != tf.resource]
    arguments = tf.nest.flatten(signature.structured_input_signature)
    if len(arguments) != len(tensors):
        raise ModelError(f"{path} takes something else than tensors", next="save it with a signature of tensors")
    names = [spec.name or t.name.partition(":")[0] for spec, t in zip(arguments, tensors, strict=True)]
    given = shapes_by_name(given, names)
    if wrong := [n for n in given if n not in names]:
        raise UsageError(f"{path} has no input '{wrong[0]}'", next=f"its inputs are {', '.join(names)}")
    specs = []
    for name, spec in zip(names, arguments, strict=True):
        if spec.dtype == tf.string:
            raise ModelError(
                f"{path}: the input '{name}' holds text, not numbers", next="begin behind it with --from TENSOR"
            )
        sizes = spec.shape
        if name in given:
            sizes = [d if isinstance(d, int) else None for d in parse_shape(name, given[name])[0]]
        elif sizes.rank is None:
            raise ModelError(
                f"{path} does not say which shape its input '{name}' has", next=f"--input {name}=1x224x224x3"
            )
        specs.append(tf.TensorSpec(sizes, spec.dtype, name))
    return names, specs


def _frozen(path: Path, signature: Any, specs: Sequence[Any]) -> tuple[Any, list[str], list[str]]:
    """(GraphDef with its weights, input tensors, output tensors)."""
    tf = tensorflow()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        with no_stderr():
            frozen = convert_variables_to_constants_v2(signature, lower_control_flow=False, aggressive_inlining=True)
    except (*FAILURES, tf.errors.OpError) as error:
        raise ModelError(f"{path} cannot be frozen: {_onnx.last_line(error)}", next=AGAIN) from error
    graph = frozen.graph.as_graph_def()
    inputs = [t.name for t in frozen.inputs if t.dtype != tf.resource]
    for name, spec in zip(inputs, specs, strict=True):
        node = next(n for n in graph.node if n.name == name.partition(":")[0])
        node.attr["shape"].shape.CopyFrom(spec.shape.as_proto())
    return graph, inputs, [t.name for t in frozen.outputs]


def _results(signature: Any) -> list[str]:
    """Names of the outputs, in the order of the function's tensors."""
    structured = signature.structured_outputs
    count = len(signature.outputs)
    if isinstance(structured, dict) and len(structured) == count:
        return sorted(structured)
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _runner(path: Path, signature: Any, specs: Sequence[Any], results: Sequence[str]) -> Runner:
    """TensorFlow on the signature itself."""
    tf = tensorflow()
    names = [t.name for t in specs]
    keywords = bool(signature.structured_input_signature[1])

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [tf.constant(inputs[t.name], t.dtype) for t in specs]
        try:
            found = signature(**dict(zip(names, tensors, strict=True))) if keywords else signature(*tensors)
        except (*FAILURES, tf.errors.OpError) as error:
            raise ModelError(
                f"TensorFlow cannot run {path.name}: {_onnx.last_line(error)}", next="give input sizes with --input"
            ) from error
        flat = tf.nest.flatten(found)
        return {name: np.asarray(a) for name, a in zip(results, flat, strict=True)}

    return one_by_one(run, [t.shape for t in specs])
