"""ONNX in: a file that stays what it is (the direct way), or rebuilt as one Keras 3 functional model, NHWC, with proof."""

from __future__ import annotations

from pathlib import Path

from ...engine import describe
from ...model import GraphFile, LoadOptions, Model
from .. import _onnx
from .._source import Source


def load_onnx(path: Path, options: LoadOptions) -> Model:
    """A Model that holds an .onnx file. No such file carries code, so `options.allow_unsafe` changes nothing.

    Raises ModelError, TargetError (an operator ONNX Runtime lacks), UnsafeModelError (weights outside of the model's
    folder), MissingDependencyError.
    """
    content = _onnx.self_contained(path)
    found = describe(path)
    return Model(GraphFile(path, "onnx", content), found.inputs, found.outputs, history=(f"loaded {path.name}",))


def from_source(source: Source, path: Path, options: LoadOptions) -> Model:
    """The Keras model of a graph that came from any framework, held to the original's own outputs.

    Raises ModelError (every operator that is not known, all at once; a damaged graph), VerificationError (the rebuilt
    model computes something else; names the first node that differs).
    """
    raise NotImplementedError
