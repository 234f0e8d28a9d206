"""TFLite in: a .tflite file (float, half, dynamic-range, int8, uint8) as an ONNX graph of floats, with its ranges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...artifact import Array, Artifact
from ...errors import ModelError, UsageError
from ...model import LoadOptions, Model, shapes_by_name
from .. import _onnx, _tflite
from .._batches import one_by_one
from .._onnx_build import parse_shape
from .._source import Runner, Source
from .graph import Graph, Sizes, is_quantized, source_graph


def load_tflite(path: Path, options: LoadOptions | None = None) -> Model:
    """The Keras model of a .tflite file. Raises ModelError, UsageError, VerificationError, MissingDependencyError."""
    from ..from_onnx import from_source

    options = options or LoadOptions()
    return from_source(source(path, options), path, options)


def source(path: Path, options: LoadOptions) -> Source:
    """A .tflite file as ONNX: shapes and names as in the file, NHWC, everything quantized as float32.

    `options.inputs` gives other shapes to inputs. A quantized file has its activations' ranges in `Source.ranges` and
    no reference to hold it to: what it computes differs by its quantization noise. Raises ModelError (all operators
    that are not known, at once), UsageError.
    """
    if options.start or options.end:
        raise UsageError("--from and --to are for TensorFlow graphs, not for .tflite files", next="leave them out")
    model = _tflite.read(path)
    main, ends = model.subgraphs[0], _declared(path, model.subgraphs[0])
    names = {ends.get(i) or _tflite.text(main.tensors[i].name) for i in main.inputs if i >= 0}
    given = {n: parse_shape(n, spec)[0] for n, spec in shapes_by_name(options.inputs, sorted(names)).items()}
    if wrong := sorted(set(given) - names):
        raise UsageError(f"{path.name} has no input '{wrong[0]}'", next=f"its inputs are {', '.join(sorted(names))}")
    graph, outputs = source_graph(model, path.name, given, ends)
    proto = graph.emit.model(outputs)
    quantized = any(is_quantized(t) for part in model.subgraphs for t in part.tensors)  # a loop has its weights inside
    notes = list(graph.notes)
    runner = None
    if quantized:
        notes.insert(0, "it was quantized: its weights were dequantized, its activations are float, its inputs and "
                        "outputs real numbers")  # fmt: skip
    else:
        runner = _litert(path, graph, outputs, given, notes)
    _onnx.onnx().checker.check_model(proto)
    return Source(proto, "TFLite", runner, _version() if runner else "", ranges=dict(graph.ranges), notes=tuple(notes))


def _declared(path: Path, graph: Any) -> dict[int, str]:
    """By tensor, the names of inputs and outputs in the metadata of a file that edgedl wrote: those of its original."""
    artifact = Artifact.load(path)
    specs = () if artifact is None else (*artifact.inputs, *artifact.outputs)
    known = {spec.inside: spec.name for spec in specs}
    ends = {i: _tflite.text(graph.tensors[i].name) for i in (*graph.inputs, *graph.outputs) if i >= 0}
    found = {i: str(known[name]) for i, name in ends.items() if known.get(name)}
    return found if len(set(found.values())) == len(found) else {}


def _version() -> str:
    from importlib import metadata

    try:
        return f"LiteRT {metadata.version('ai-edge-litert')}"
    except metadata.PackageNotFoundError:
        return "LiteRT"


def _litert(
    path: Path, graph: Graph, outputs: list[str], sizes: Mapping[str, Sizes], notes: list[str]
) -> Runner | None:
    """LiteRT on the file itself; None, and a note, where it refuses the file."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    def opened() -> Any:
        kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return Interpreter(model_path=str(path), experimental_op_resolver_type=kind)

    try:
        opened().allocate_tensors()
    except (ValueError, RuntimeError) as error:
        notes.append(f"LiteRT does not open the file ({_onnx.last_line(error)}): ONNX Runtime is the reference")
        return None

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        feed = [inputs[graph.wish(i)] for i in graph.graph.inputs]
        return dict(zip(outputs, _invoke(opened(), feed, path), strict=True))

    return one_by_one(run, [graph.emit.shape(n) for n in graph.emit.inputs])


def _invoke(interpreter: Any, feed: list[Array], path: Path) -> list[Array]:
    details = interpreter.get_input_details()
    try:
        for detail, array in zip(details, feed, strict=True):
            interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
        for detail, array in zip(details, feed, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"LiteRT cannot run {path.name}: {_onnx.last_line(error)}", next="give input sizes with --input NAME=SHAPE"
        ) from error
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
