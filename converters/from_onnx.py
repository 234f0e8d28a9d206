"""Reads an .onnx file, which stays what it is; weights that it keeps in files beside it become part of it."""

from __future__ import annotations

from pathlib import Path

from ..engine import describe
from ..model import GraphFile, Model
from . import _onnx


def load_onnx(path: Path, *, allow_unsafe: bool = False) -> Model:
    """A Model that holds an .onnx file. No such file carries code, so `allow_unsafe` changes nothing.

    Raises ModelError, TargetError (an operator ONNX Runtime lacks), UnsafeModelError (weights outside of the model's
    folder), MissingDependencyError.
    """
    content = _onnx.self_contained(path)
    found = describe(path)
    return Model(GraphFile(path, "onnx", content), found.inputs, found.outputs, history=(f"loaded {path.name}",))
