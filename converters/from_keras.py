"""`.keras`, Keras 3 `.h5` and Keras 2 `.h5` files as one Keras 3 functional model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import TensorSpec
from ..errors import MissingDependencyError, ModelError
from ..frameworks import deep, fed, keras, tensorflow, tf_keras
from ..model import LoadOptions, Model
from . import _layers, _tfmot, from_theano
from ._keras_config import CONTAINERS, CUSTOM, Entry, cannot_load, check_graphs, refuse_code, refuse_unknown
from ._keras_files import AGAIN, FAILURES, read_h5_config, read_keras_zip, reason, with_suffix
from ._rebuild import flattened, rebuild
from ._rebuild_layers import OTHER_PROGRAMS, explain, hard_sigmoid
from ._source import Source
from .from_theano import is_channels_first, is_network, load_theano

HALF = ("float16", "bfloat16", "float64")


def load_keras(path: Path, options: LoadOptions) -> Model:
    """A `.keras` file, of Keras 3 or of tf_keras. Raises ModelError, UnsafeModelError, MissingDependencyError."""
    config, version = read_keras_zip(path)
    return _load(path, config, version, ".keras", options.allow_unsafe)


def load_h5(path: Path, options: LoadOptions) -> Model:
    """An `.h5` file of Keras 3, 2 or 1. Raises ModelError, UnsafeModelError, MissingDependencyError."""
    config, version = read_h5_config(path)
    if not version.startswith("3.") and is_network(config) and is_channels_first(path, config):
        return load_theano(path, options)
    return _load(path, config, version, ".h5", options.allow_unsafe)


def source(path: Path, options: LoadOptions) -> Source | None:
    """An `.h5` file with channels first, or of Theano, as ONNX; None for all others. Raises ModelError, UsageError."""
    config, version = read_h5_config(path)
    theano = not version.startswith("3.") and is_network(config) and is_channels_first(path, config)
    return from_theano.source(path, options) if theano else None


def _load(path: Path, config: Any, version: str, suffix: str, allow_unsafe: bool) -> Model:
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ModelError(f"{path} is damaged: its config does not describe a model", next=AGAIN)
    try:
        refuse_code(path, config, allow_unsafe=allow_unsafe)
        if version.startswith("3."):
            _layers.register()  # what an imported model may hold
            refuse_unknown(path, config, _unknown_keras3)
            net = _load_keras3(path, suffix, allow_unsafe)
            return as_model(net, path, f"Keras {version}")
        _tfmot.refuse_quantized(path, config)
        refuse_unknown(path, config, lambda e: explain(e, allow_unsafe=allow_unsafe))
        check_graphs(path, config)
    except RecursionError as error:
        raise ModelError(f"{path} is damaged: its config is nested too deeply", next=AGAIN) from error
    return from_keras2(path, config, lambda: _load_keras2(path, suffix, allow_unsafe), version or "1")


def _unknown_keras3(entry: Entry) -> str:
    """Why an object of a Keras 3 config cannot be loaded ("": it can)."""
    if entry.class_name in OTHER_PROGRAMS:
        return "runs a program of another framework"
    if entry.registered_name and keras().saving.get_registered_object(entry.registered_name) is not None:
        return ""
    config = entry.config if isinstance(entry.config, dict) else {}
    if entry.is_layer and config.get("data_format") == "channels_first":
        return "has its channels first (NCHW); build the model with data_format='channels_last' and copy the weights"
    if entry.module.partition(".")[0] in ("keras", "builtins"):
        return ""
    if not entry.module and (not entry.is_layer or entry.class_name in CONTAINERS):
        return ""
    if not entry.module and hasattr(keras().layers, entry.class_name):
        return ""
    if not entry.module:
        return "is not a layer of Keras (an .h5 file cannot hold keras.ops operations: save the model as .keras)"
    return "is a class that Keras does not have"


def _load_keras3(path: Path, suffix: str, allow_unsafe: bool) -> Any:
    hard_sigmoid()  # registers what a rebuilt model may hold
    try:
        with with_suffix(path, suffix) as file, deep():
            return keras().models.load_model(file, compile=False, safe_mode=not allow_unsafe)
    except (*FAILURES, tensorflow().errors.OpError) as error:
        raise cannot_load(path, [f"Keras {keras().__version__} says: {reason(error)}"], AGAIN_OR_CUSTOM) from error


AGAIN_OR_CUSTOM = f"{AGAIN}, and if that does not help, {CUSTOM}"


def _load_keras2(path: Path, suffix: str, allow_unsafe: bool) -> Any:
    with with_suffix(path, suffix) as file:
        return tf_keras().models.load_model(file, compile=False, safe_mode=not allow_unsafe)


def from_keras2(path: Path, config: Any, load: Callable[[], Any], version: str) -> Model:
    """What `load` reads with tf_keras, rebuilt in Keras 3. The file and its config must have been looked at before."""
    try:
        source, notes = _tfmot.plain(config, load)
    except (MissingDependencyError, ModelError):
        raise
    except (*FAILURES, tensorflow().errors.OpError) as error:
        raise cannot_load(path, [f"tf_keras says: {reason(error)}"], AGAIN_OR_CUSTOM) from error
    net = rebuild(source, path)
    if any(getattr(layer, "stateful", False) for layer in source.layers):
        notes.append("its recurrent layers kept state between calls; they now start anew at every call")
    return as_model(net, path, f"Keras {version}, rebuilt in Keras {keras().__version__}", notes)


def as_model(net: Any, path: Path, how: str, notes: list[str] | None = None) -> Model:
    """A Keras 3 model as a Model: one functional graph, any batch size, float32."""
    net, more = functional(net, path)
    names = _unique(net.output_names)
    return Model(
        net,
        inputs=tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in net.inputs),
        outputs=tuple(TensorSpec(n, tuple(t.shape), t.dtype) for n, t in zip(names, net.outputs, strict=True)),
        history=(f"loaded {path.name} ({how})",),
        notes=(*(notes or []), *more),
    )


def _unique(names: list[str]) -> list[str]:
    """Each name once: a layer with two outputs gives its name to both."""
    return [n if names.count(n) == 1 else f"{n}_{names[:i].count(n)}" for i, n in enumerate(names)]


def functional(net: Any, path: Path) -> tuple[Any, list[str]]:
    """The model as a plain functional one with lists of inputs and outputs, and notes on what had to be changed."""
    if not getattr(net, "inputs", None):
        raise ModelError(
            f"cannot load {path}: the model '{net.name}' ({type(net).__name__}) has no graph of layers, because it was "
            "built by subclassing or never called",
            next="build it with keras.Input(...) and keras.Model(inputs, outputs), copy the weights, and save it again",
        )
    notes = []
    if any(layer.compute_dtype in HALF for layer in flattened(net)):
        notes.append("it computed in half or double precision; it was loaded as float32")
    if notes or any(t.dtype in HALF for t in net.inputs):
        return _retraced(net), notes
    if all(t.shape for t in net.inputs) and any(t.shape[0] is not None for t in net.inputs):
        freed = _retraced(net)
        if _same_for_any_batch(net, freed):
            return freed, notes
    if type(net).__name__ == "Functional" and _is_flat(net._inputs_struct) and _is_flat(net._outputs_struct):
        return net, notes
    return keras().Model(list(net.inputs), list(net.outputs), name=net.name), notes


def _same_for_any_batch(net: Any, freed: Any) -> bool:
    """Whether a model whose batch is fixed computes the same, member by member, as its copy with a free batch."""
    sizes = {t.shape[0] for t in net.inputs if t.shape}
    if len(sizes) != 1 or None in sizes:
        return False
    (size,) = sizes
    rng = np.random.default_rng(0)
    both = [_noise(rng, t, 2 * size) for t in net.inputs]
    try:
        whole = _outputs(freed, both)
        first = _outputs(freed, [x[:1] for x in both])
    except (ValueError, TypeError, tensorflow().errors.OpError):
        return False  # it reshapes or joins what only fits the batch it was made for
    parts = [_outputs(net, [x[i : i + size] for x in both]) for i in (0, size)]
    wanted = [np.concatenate(pair) if pair[0].ndim else pair[0] for pair in zip(*parts, strict=True)]
    alike = all(a.shape == b.shape and np.allclose(a, b, 1e-4, 1e-5) for a, b in zip(whole, wanted, strict=True))
    return alike and all(
        a.shape == b[:1].shape and np.allclose(a, b[:1], 1e-4, 1e-5) for a, b in zip(first, wanted, strict=True)
    )


def _noise(rng: np.random.Generator, tensor: Any, count: int) -> Any:
    shape = (count, *(d or 8 for d in tensor.shape[1:]))
    return rng.normal(size=shape).astype("float32") if "float" in tensor.dtype else np.zeros(shape, tensor.dtype)


def _outputs(net: Any, inputs: list[Any]) -> list[Any]:
    found = keras().tree.flatten(net(fed(net, inputs), training=False))
    return [np.asarray(a) for a in found]


def _is_flat(structure: Any) -> bool:
    tensor = keras().KerasTensor
    return isinstance(structure, tensor) or (
        isinstance(structure, list) and all(isinstance(t, tensor) for t in structure)
    )


def _retraced(net: Any) -> Any:
    """A copy in float32 with a batch of any size."""
    inputs = [keras().Input(t.shape[1:], dtype="float32" if t.dtype in HALF else t.dtype, name=t.name) for t in net.inputs]  # fmt: skip
    plain = keras().Model(list(net.inputs), list(net.outputs), name=net.name)
    policy = keras().dtype_policies.DTypePolicy("float32")

    def clone(layer: Any) -> Any:
        if hasattr(layer, "layers"):
            return keras().models.clone_model(layer, clone_function=clone)
        config = layer.get_config()
        return layer.__class__.from_config({**config, "dtype": policy} if "dtype" in config else config)

    with deep():
        copy = keras().models.clone_model(plain, input_tensors=inputs, clone_function=clone)
    copy.set_weights(plain.get_weights())
    return copy
