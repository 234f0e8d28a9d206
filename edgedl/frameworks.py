"""TensorFlow, Keras 3 and Keras 2 (tf_keras), imported late, without their chatter, or refused with the pip command."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .errors import MissingDependencyError

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # TensorFlow's C++ side: nothing below FATAL
    "GRPC_VERBOSITY": "NONE",
    "GLOG_minloglevel": "3",
    "ABSL_MIN_LOG_LEVEL": "3",
}

DEEP = 20_000  # levels of recursion: Keras walks a network layer by layer down its longest chain


@cache
def tensorflow() -> Any:
    """The module `tensorflow`. Raises MissingDependencyError."""
    _quiet()
    module = _import("tensorflow")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return module


@cache
def keras() -> Any:
    """The module `keras` (Keras 3, on TensorFlow). Raises MissingDependencyError."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    tensorflow()
    module = _import("keras")
    if not module.__version__.startswith("3.") or module.config.backend() != "tensorflow":
        raise MissingDependencyError(
            f"edgedl needs Keras 3 on TensorFlow, and this process has Keras {module.__version__} "
            f"on {module.config.backend()}",
            next="pip install 'edgedl[compress]', and import edgedl before keras",
        )
    return module


@contextlib.contextmanager
def deep() -> Iterator[None]:
    """Let Keras walk a long chain of layers, which it does by recursion; elsewhere Python's own limit guards parsers."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEEP))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def fed(net: Any, tensors: Sequence[Any]) -> Any:
    """The inputs of a network, in its order, in the structure that it declares: one alone, a list or a dict.

    Keras warns at a call with another structure. What is no functional network takes one alone, or a list.
    """
    graph = getattr(net, "_functional", None) or net
    struct = getattr(graph, "_inputs_struct", None)
    if struct is None:
        return tensors[0] if len(tensors) == 1 else list(tensors)
    return keras().tree.pack_sequence_as(struct, list(tensors))


@cache
def tf_keras() -> Any:
    """The module `tf_keras` (Keras 2). Raises MissingDependencyError."""
    tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _import("tf_keras")


def model_optimization(what: str, instead: str) -> Any:
    """The module `tensorflow_model_optimization`. Raises MissingDependencyError: `what` needs it, and what to do `instead`."""
    tf_keras()
    try:
        with warnings.catch_warnings(), no_stderr():
            warnings.simplefilter("ignore")
            return importlib.import_module("tensorflow_model_optimization")
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} tensorflow-model-optimization, which cannot be imported here ({error})",
            next=f"pip install 'edgedl[tfmot]', or {instead}",
        ) from error


def _quiet() -> None:
    """Environment variables that the frameworks read once, at import; what the user set stays."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)


@contextlib.contextmanager
def no_stderr() -> Iterator[None]:
    """Drop what C++ code writes to file descriptor 2: some of TensorFlow's start-up lines obey no log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _import(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    try:
        with no_stderr():
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"this needs {name}, which cannot be imported here ({error})", next="pip install 'edgedl[compress]'"
        ) from error
