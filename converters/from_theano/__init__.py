"""Theano-era Keras in: `.h5` files with channels first, or written with the Theano backend, as ONNX (whose layout is theirs)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError, UsageError
from ...model import LoadOptions, Model
from .. import _onnx
from .._emit import Emit
from .._keras_config import layers as layers_of
from .._keras_config import refuse_code
from .._keras_files import AGAIN, DAMAGED, check_expansion, h5py, read_h5_config, reason
from .._onnx_build import parse_shape
from .._source import Source
from .layers import Unsupported
from .network import Network, is_network

OLD_ORDER = "th"


def is_channels_first(path: Path, config: Any) -> bool:
    """Whether a Keras 1 or 2 `.h5` file is one for this importer: Theano's, or with channels first."""
    try:
        found = [e.config for e in layers_of(config) if isinstance(e.config, dict)]
    except RecursionError as error:
        raise ModelError(f"{path} is damaged: its config is nested too deeply", next=AGAIN) from error
    if any(c.get("dim_ordering") == OLD_ORDER or c.get("data_format") == "channels_first" for c in found):
        return True
    return _backend(path) == "theano"


def load_theano(path: Path, options: LoadOptions | None = None) -> Model:
    """The Keras 3 model of such a file. Raises ModelError, UsageError, VerificationError, MissingDependencyError."""
    from ..from_onnx import from_source

    options = options or LoadOptions()
    return from_source(source(path, options), path, options)


def source(path: Path, options: LoadOptions) -> Source:
    """A Keras 1 or 2 `.h5` file as ONNX: names of the input and output layers, channels where the file has them.

    Files that Theano wrote have their convolution kernels turned (Theano convolves, everyone else correlates) and their
    own padding for "same". There is no Theano to run as a reference. Raises ModelError (all layers that are not known,
    at once), UsageError.
    """
    if options.start or options.end:
        raise UsageError("--from and --to are for TensorFlow graphs, not for Keras files", next="leave them out")
    config, version = read_h5_config(path)
    backend = _backend(path)
    notes = []
    if not backend and version.partition(".")[0] in ("", "1"):
        backend = "theano"
        notes.append("the file does not name its backend: it is taken for Theano's, whose kernels are turned")
    weights = _weights(path)
    refuse_code(path, config, allow_unsafe=False)
    network = Network(path.name, Emit(path.name), weights, version.partition(".")[0] in ("", "1"), backend == "theano")
    shapes = {n: parse_shape(n, spec)[0] for n, spec in options.inputs.items()}  # "": of the only input
    if not is_network(config):
        raise ModelError(f"{path} is damaged: its config does not describe a model", next=AGAIN)
    try:
        outputs = network.build(config, shapes)
    except Unsupported as problem:
        raise ModelError(
            f"cannot load {path}: {problem}", next="docs/importers/theano.md lists the layers"
        ) from problem
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: its layers do not fit together ({reason(error)})", next=AGAIN) from error
    if wrong := [n for n in shapes if n and n not in network.emit.inputs]:
        raise UsageError(
            f"{path.name} has no input '{wrong[0]}'", next=f"its inputs are {', '.join(network.emit.inputs)}"
        )
    proto = network.emit.model(outputs)
    _onnx.onnx().checker.check_model(proto)
    title = f"Keras {version or '1'}" + (" with Theano" if backend == "theano" else ", channels first")
    return Source(proto, title, notes=(*notes, *network.notes))


def _backend(path: Path) -> str:
    """The backend that wrote a file: "theano", "tensorflow" ..., or nothing."""
    try:
        with h5py().File(path, "r") as file:
            groups = [file] + ([file["model_weights"]] if "model_weights" in file else [])
            found = next((g.attrs["backend"] for g in groups if "backend" in g.attrs), "")
    except (*DAMAGED, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is a damaged HDF5 file ({reason(error)})", next=AGAIN) from error
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _weights(path: Path) -> Mapping[str, list[Array]]:
    """The weights of each layer by its name, in the order they were written. Raises ModelError."""
    found: dict[str, list[Array]] = {}
    packed, unpacked = path.stat().st_size, 0
    try:
        with h5py().File(path, "r") as file:
            root = file.get("model_weights", file)
            for key in root:
                found[key] = []
                for n in root[key].attrs.get("weight_names", []):
                    data = root[key][n.decode() if isinstance(n, bytes) else n]
                    unpacked += data.nbytes  # once for every name: a file may give one array a thousand of them
                    check_expansion(path, unpacked, packed)
                    found[key].append(np.asarray(data))
    except (*DAMAGED, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is a damaged HDF5 file ({reason(error)})", next=AGAIN) from error
    for name, arrays in found.items():
        if any(a.dtype.kind not in "fiu" for a in arrays):
            raise ModelError(f"{path} is damaged: the weights of '{name}' are no numbers", next=AGAIN)
    return {name: [a.astype(np.float32) for a in arrays] for name, arrays in found.items()}


__all__ = ["is_channels_first", "is_network", "load_theano", "source"]
