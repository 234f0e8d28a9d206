"""SavedModel folders as one Keras 3 functional model: from the configs of Keras 2's layers, or from the bare graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError, UnsafeModelError
from ..frameworks import tensorflow, tf_keras
from ..model import LoadOptions, Model
from . import _tf_graph, _tfmot
from ._keras_config import check_graphs, refuse_code, refuse_unknown
from ._keras_files import AGAIN, MAX_BYTES, parse_json, reason
from ._rebuild_layers import explain
from ._source import Source
from .from_keras import from_keras2

METRIC = "_tf_keras_metric"  # the only Keras object in a SavedModel that is not a layer
ROOTS = ("_tf_keras_network", "_tf_keras_sequential", "_tf_keras_model")
SAVER = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})  # part of every SavedModel, and run by none of them
FILE_OPS = _tf_graph.FILE_OPS - SAVER  # operations that leave the graph


def load_saved_model(path: Path, options: LoadOptions) -> Model:
    """A SavedModel: with the configs of its Keras layers, or, where it has none or `options` cut it, its frozen graph.

    Raises ModelError, UnsafeModelError, UsageError (several signatures), VerificationError, MissingDependencyError.
    """
    from .from_onnx import from_source

    proto = _read(path)
    metadata = list(_keras_objects(path, proto))
    if _is_bare(metadata, options):
        return from_source(_source(path, proto, options), path, options)
    configs = [config for _, config in metadata]
    try:
        refuse_code(path, configs, allow_unsafe=options.allow_unsafe)
        _tfmot.refuse_quantized(path, configs)
        refuse_unknown(path, configs, lambda e: explain(e, allow_unsafe=options.allow_unsafe))
        check_graphs(path, configs)
    except RecursionError as error:
        raise ModelError(f"{path} is damaged: its config is nested too deeply", next=AGAIN) from error
    _refuse_file_ops(path, proto)
    version = next((str(c["keras_version"]) for c in configs if isinstance(c, dict) and "keras_version" in c), "2")
    return from_keras2(
        path, configs, lambda: tf_keras().models.load_model(str(path), compile=False), f"{version} SavedModel"
    )


def _read(path: Path) -> Any:
    """The parsed saved_model.pb."""
    tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    outside = [f for f in path.rglob("*") if f.is_symlink() and not f.resolve().is_relative_to(path.resolve())]
    if outside:
        raise ModelError(f"{path} is refused: {outside[0].name} in it is a link to elsewhere", next="copy the files")
    if sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) > MAX_BYTES:
        raise ModelError(f"{path} is larger than {MAX_BYTES:,} bytes", next="save the model without its optimizer")
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString(file.read_bytes())
    except (OSError, DecodeError, ValueError) as error:
        raise ModelError(f"{file} is damaged ({reason(error)})", next=AGAIN) from error
    if not proto.meta_graphs:
        raise ModelError(f"{file} is damaged: it holds no graph", next=AGAIN)
    return proto


def _keras_objects(path: Path, proto: Any) -> Iterator[tuple[str, Any]]:
    """(identifier, metadata) of the Keras objects: in keras_metadata.pb since TensorFlow 2.5, before that in the graph."""
    separate = path / "keras_metadata.pb"
    if separate.is_file():
        from google.protobuf.message import DecodeError
        from tf_keras.protobuf import saved_metadata_pb2

        found = saved_metadata_pb2.SavedMetadata()
        try:
            found.ParseFromString(separate.read_bytes())
        except (OSError, DecodeError, ValueError) as error:
            raise ModelError(f"{separate} is damaged ({reason(error)})", next=AGAIN) from error
        pairs = [(node.identifier, node.metadata) for node in found.nodes]
    else:
        nodes = proto.meta_graphs[0].object_graph_def.nodes
        pairs = [(n.user_object.identifier, n.user_object.metadata) for n in nodes if n.HasField("user_object")]
    for identifier, text in pairs:
        if identifier.startswith("_tf_keras_") and identifier != METRIC and text:
            yield identifier, parse_json(path, f"the metadata of a Keras object ({identifier})", text)


def _refuse_file_ops(path: Path, proto: Any) -> None:
    graphs = [m.graph_def for m in proto.meta_graphs]
    bodies = [g.node for g in graphs] + [f.node_def for g in graphs for f in g.library.function]
    found = sorted({node.op for nodes in bodies for node in nodes} & FILE_OPS)
    if found:
        raise UnsafeModelError(
            f"{path} is refused: its graph has operations that reach outside of it ({', '.join(found)})",
            next="save the model again without them, or get it from a source you trust",
        )


def source(path: Path, options: LoadOptions) -> Source | None:
    """A bare graph, or one that `options` cut, as ONNX; None for one with Keras layers. Raises as load_saved_model."""
    proto = _read(path)
    bare = _is_bare(list(_keras_objects(path, proto)), options)
    return _source(path, proto, options) if bare else None


def _is_bare(metadata: Sequence[tuple[str, Any]], options: LoadOptions) -> bool:
    return bool(options.start or options.end) or not any(identifier in ROOTS for identifier, _ in metadata)


def _source(path: Path, proto: Any, options: LoadOptions) -> Source:
    """A bare graph, as model.export() and tf.saved_model.save() write it."""
    from . import _saved_graph

    _refuse_file_ops(path, proto)
    return _saved_graph.source(path, options)
