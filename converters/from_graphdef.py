"""TensorFlow 1 in: frozen graphs (.pb, .pbtxt) and checkpoints with their meta graph, cut where the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import ModelError, UsageError
from ..frameworks import no_stderr, tensorflow
from ..model import LoadOptions, Model, shapes_by_name
from . import _onnx, _tf_graph
from ._batches import one_by_one
from ._keras_files import AGAIN, FAILURES, reason
from ._onnx_build import parse_shape
from ._source import Runner, Source
from ._tf_graph import Ends, display, tensor_name
from ._tf_to_onnx import to_onnx

DT_RESOURCE, DT_STRING = 20, 7  # of types.proto
PART = re.compile(r"\.(meta|index|data-\d+-of-\d+)$|^checkpoint$")  # of a checkpoint


def load_graphdef(path: Path, options: LoadOptions | None = None) -> Model:
    """The Keras model of a frozen graph. Raises ModelError, UsageError, VerificationError, MissingDependencyError."""
    from .from_onnx import from_source

    options = options or LoadOptions()
    return from_source(source(path, options), path, options)


def load_checkpoint(path: Path, options: LoadOptions | None = None) -> Model:
    """The Keras model of a checkpoint: any of its files, their common prefix, or the folder. Raises as load_graphdef."""
    from .from_onnx import from_source

    options = options or LoadOptions()
    return from_source(source(path, options), path, options)


def source(path: Path, options: LoadOptions) -> Source:
    """A frozen graph or a checkpoint as ONNX, between `options.start` and `options.end`.

    Inputs and outputs are named as the graph's nodes ("Mfcc", "split:1"), in its order and layout. Without a start they
    are its placeholders, without an end what nothing in the graph uses. The reference runs the graph as it is in the
    file, fed and read at the same tensors. Raises ModelError (all operations that are not known, at once; where to cut
    a front end), UnsafeModelError (operations on files), UsageError.
    """
    frozen = path.suffix in (".pb", ".pbtxt") or (path.is_file() and not PART.search(path.name))
    graph, asked = (_tf_graph.read(path), ()) if frozen else _checkpoint(path)
    return from_graph(path.name, graph, options, "TensorFlow frozen graph" if frozen else "TensorFlow 1 checkpoint",
                      end=asked, several=frozen)  # fmt: skip


def from_graph(
    name: str, graph: Any, options: LoadOptions, how: str, *, end: Sequence[str] = (), several: bool = True
) -> Source:
    """A frozen GraphDef as a Source; see `source`."""
    _tf_graph.check(name, graph)
    ends = _tf_graph.ends_of(name, graph, options.start, options.end or end, several)
    needed = _tf_graph.ancestors(graph, [n for n, _ in ends.outputs], [n for n, _ in ends.inputs])
    cut, holders = _tf_graph.cut(graph, ends)
    _tf_graph.refuse_file_ops(name, [cut])
    _tf_graph.refuse_front_end(name, cut, {n.name for n in cut.node})
    _tf_graph.refuse_unknown(name, cut)
    if not ends.inputs:
        raise ModelError(f"{name} has no input", next="name the tensor to begin at with --from")
    _shape_inputs(name, graph, cut, holders, options.inputs)
    rename = {f"{holders[key]}:0": display(*key) for key in ends.inputs}
    results = [holders.get(key, key[0]) for key in ends.outputs]
    outputs = [f"{node}:{0 if key in holders else key[1]}" for node, key in zip(results, ends.outputs, strict=True)]
    rename |= {tensor: display(*key) for tensor, key in zip(outputs, ends.outputs, strict=True) if key not in holders}
    clean, _ = _tf_graph.cut(_tf_graph.without_dropout(cut), Ends((), tuple((n, 0) for n in results)), switches=False)
    for holder in holders.values():
        if holder not in {n.name for n in clean.node}:
            clean.node.append(next(n for n in cut.node if n.name == holder))
    proto, unrolled = to_onnx(name, clean, [f"{holders[k]}:0" for k in ends.inputs], outputs, rename)
    notes = (*_tf_graph.settled(_only(graph, needed)), *unrolled)
    return Source(proto, how, _runner(name, cut, holders, ends), f"TensorFlow {tensorflow().__version__}", notes=notes)


def _only(graph: Any, names: set[str]) -> Any:
    found = type(graph)()
    found.node.extend(n for n in graph.node if n.name in names)
    return found


def _shape_inputs(
    name: str, graph: Any, cut: Any, holders: Mapping[tuple[str, int], str], given: Mapping[str, str]
) -> None:
    """Write dtype and shape of every input into its placeholder: the user's, the graph's, or what its first use says."""
    named = {display(*key): holder for key, holder in holders.items()}
    given = shapes_by_name(given, list(named))
    if wrong := [n for n in given if n not in named and n.removesuffix(":0") not in named]:
        raise UsageError(f"{name} has no input '{wrong[0]}'", next=f"its inputs are {', '.join(named)}")
    types = _types(name, graph, [k for k, h in holders.items() if h != k[0]])
    for (node, output), holder in holders.items():
        made = next(n for n in cut.node if n.name == holder)
        if (node, output) in types:
            dtype, shape = types[(node, output)]
            made.attr["dtype"].type = dtype
            made.attr["shape"].shape.CopyFrom(shape)
        shown = display(node, output)
        spec = given.get(shown) or given.get(f"{shown}:0")
        if made.attr["dtype"].type in (DT_STRING, DT_RESOURCE):
            raise ModelError(f"{name}: the input '{shown}' holds text or a resource, not numbers",
                             next="begin behind it with --from TENSOR")  # fmt: skip
        if spec:
            _set_shape(made, [d if isinstance(d, int) else None for d in parse_shape(shown, spec)[0]])
        elif made.attr["shape"].shape.unknown_rank or (made.attr["shape"].ByteSize() == 0):
            _set_shape(made, _guess(name, shown, cut, holder))


def _set_shape(node: Any, sizes: Sequence[int | None]) -> None:
    shape = node.attr["shape"].shape
    shape.Clear()
    for size in sizes:
        shape.dim.add().size = -1 if size is None else size


def _types(name: str, graph: Any, keys: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, Any]]:
    """(dtype, shape) of tensors, from TensorFlow's own shape inference over what computes them."""
    if not keys:
        return {}
    tf = tensorflow()
    part, _ = _tf_graph.cut(graph, Ends((), tuple((n, 0) for n, _ in keys)), switches=False)
    _tf_graph.refuse_file_ops(name, [part])
    _tf_graph.refuse_unknown(name, part)
    found = {}
    with tf.Graph().as_default() as imported:
        _import(name, part)
        for node, output in keys:
            try:
                tensor = imported.get_tensor_by_name(f"{node}:{output}")
            except (KeyError, ValueError) as error:
                raise UsageError(
                    f"{name} has no tensor '{node}:{output}'", next="check the number behind the colon"
                ) from error
            found[(node, output)] = (tensor.dtype.as_datatype_enum, tensor.shape.as_proto())
    return found


def _import(name: str, graph: Any) -> None:
    """Read a GraphDef into the graph that is open. Raises ModelError."""
    tf = tensorflow()
    try:
        with no_stderr():
            tf.import_graph_def(graph, name="")
    except (*FAILURES, tf.errors.OpError) as error:
        raise ModelError(f"{name} is damaged: TensorFlow says '{reason(error)}'", next=AGAIN) from error


def _guess(name: str, shown: str, cut: Any, holder: str) -> list[int | None]:
    """The shape of an input that the graph says nothing of, by its first use. Raises ModelError."""
    constants = {n.name: n for n in cut.node if n.op == "Const"}
    through = {n.name: tensor_name(n.input[0])[0] for n in cut.node if n.op == "Identity" and n.input}
    for node in cut.node:
        sources = [tensor_name(i)[0] for i in node.input]
        if len(sources) < 2 or sources[0] != holder:
            continue
        weights = constants.get(through.get(sources[1], sources[1]))
        sizes = [d.size for d in weights.attr["value"].tensor.tensor_shape.dim] if weights is not None else []
        if node.op in ("Conv2D", "DepthwiseConv2dNative") and len(sizes) == 4:
            first = node.attr["data_format"].s == b"NCHW"
            return [None, sizes[2], None, None] if first else [None, None, None, sizes[2]]
        if node.op == "MatMul" and len(sizes) == 2:
            return [None, sizes[1 if node.attr["transpose_b"].b else 0]]
    raise ModelError(f"{name} does not say which shape its input '{shown}' has", next=f"--input {shown}=1x224x224x3")


def _runner(name: str, cut: Any, holders: Mapping[tuple[str, int], str], ends: Ends) -> Runner:
    """TensorFlow on the same part of the graph."""
    tf = tensorflow()

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with tf.Graph().as_default() as graph:
            _import(name, cut)
            feed = {graph.get_tensor_by_name(f"{h}:0"): inputs[display(*key)] for key, h in holders.items()}
            fetch = {
                display(*key): graph.get_tensor_by_name(f"{holders[key]}:0" if key in holders else f"{key[0]}:{key[1]}")
                for key in ends.outputs
            }
            try:
                with tf.compat.v1.Session(graph=graph) as session:
                    found = session.run(fetch, feed)
            except (tf.errors.OpError, ValueError) as error:
                raise ModelError(f"TensorFlow cannot run {name}: {_onnx.last_line(error)}",
                                 next="give input sizes with --input NAME=SHAPE") from error  # fmt: skip
        return {n: np.asarray(a) for n, a in found.items()}

    shapes = [next(n for n in cut.node if n.name == h).attr["shape"].shape for h in holders.values()]
    return one_by_one(run, [[d.size for d in s.dim] for s in shapes])


def _checkpoint(path: Path) -> tuple[Any, tuple[str, ...]]:
    """(frozen GraphDef, names of the outputs that the meta graph's signature gives) of a checkpoint. Raises ModelError."""
    prefix = _prefix(path)
    meta = _read_meta(prefix.with_name(prefix.name + ".meta"))
    graph = meta.graph_def
    _tf_graph.check(prefix.name, graph)
    _freeze(prefix, graph)
    signatures = [s for k, s in sorted(meta.signature_def.items()) if s.outputs]
    if len(signatures) != 1:
        return graph, ()
    return graph, tuple(info.name for _, info in sorted(signatures[0].outputs.items()))


def _prefix(path: Path) -> Path:
    """What the names of a checkpoint's files begin with. Raises ModelError, UsageError."""
    if path.is_dir():
        found = sorted(p for p in path.glob("*.index") if p.with_suffix(".meta").is_file())
        if not found:
            raise ModelError(f"the folder {path} has no checkpoint with its graph (X.index and X.meta)",
                             next="copy the .meta file as well: without it a checkpoint is weights alone")  # fmt: skip
        if len(found) > 1:
            latest = re.search(r'^model_checkpoint_path: "([^"/\\]+)"', _text(path / "checkpoint"), re.M)
            chosen = [p for p in found if latest and p.stem == latest[1]]
            if not chosen:
                names = ", ".join(p.stem for p in found)
                raise UsageError(f"the folder {path} has several checkpoints: {names}", next=f"pass {found[-1]}")
            found = chosen
        return found[0].with_suffix("")
    name = re.sub(r"\.(meta|index|data-\d+-of-\d+)$", "", path.name)
    prefix = path.with_name(name)
    for suffix in (".meta", ".index"):
        if not prefix.with_name(name + suffix).is_file():
            raise ModelError(
                f"{name}{suffix} is not beside {path.name}", next=f"copy {name}.meta, .index and .data-* together"
            )
    return prefix


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""


def _read_meta(path: Path) -> Any:
    tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import meta_graph_pb2

    meta = meta_graph_pb2.MetaGraphDef()
    try:
        meta.ParseFromString(path.read_bytes())
    except (OSError, DecodeError, ValueError) as error:
        raise ModelError(f"{path.name} is not a meta graph, or is damaged ({reason(error)})", next=AGAIN) from error
    return meta


def _freeze(prefix: Path, graph: Any) -> None:
    """Put the checkpoint's values in the place of the variables. Nothing of the graph is run. Raises ModelError."""
    tf = tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        stored = reader.get_variable_to_shape_map()
    except (*FAILURES, tf.errors.OpError) as error:
        raise ModelError(f"the checkpoint {prefix.name} cannot be read ({reason(error)})", next=AGAIN) from error
    variables = [n for n in graph.node if n.op in _tf_graph.VARIABLES]
    keys = {n.name: n.attr["shared_name"].s.decode("utf-8", "replace") or n.name for n in variables}
    known = {n: next((k for k in (keys[n], n) if k in stored), "") for n in keys}
    for node in variables:
        if known[node.name]:
            try:
                value = reader.get_tensor(known[node.name])
            except (*FAILURES, tf.errors.OpError) as error:
                raise ModelError(
                    f"'{known[node.name]}' in the checkpoint {prefix.name} cannot be read ({reason(error)})", next=AGAIN
                ) from error
            node.op = "Const"
            del node.input[:]
            node.attr.clear()
            node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    handles = {n.name for n in graph.node if n.op == "Const"}
    for node in graph.node:
        if node.op == "ReadVariableOp" and node.input and tensor_name(node.input[0])[0] in handles:
            kind = node.attr["dtype"].type
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = kind
        elif node.op == "Identity" and node.attr["T"].type > 100:  # of a reference to a variable
            node.attr["T"].type -= 100
