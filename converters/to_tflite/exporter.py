"""A Keras model as a float .tflite: signature names i0, i1 ... / o0, o1 ... in the model's order; RNNs unrolled on demand."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import ConversionError
from ...frameworks import deep, fed, keras, tensorflow
from ...layouts import Layouts, inverse
from ...model import Model
from .batches import BATCH, freed, must_be_one
from .erf import without_erf

SIGNATURE = "serving_default"
Perm = tuple[int, ...] | None
UNSUPPORTED = re.compile(  # (path of the operator, its name) in the converter's message
    r"""fused\["\w+:", "([^"@]+)[^"]*"\][^\n]*: 'tf\.(\w+)' op is neither a custom op nor a flex op"""
)


def export(model: Model, *, unroll: bool, layouts: Layouts) -> bytes:
    """The float .tflite of a Keras model, by way of a SavedModel of our own making.

    `TFLiteConverter.from_concrete_functions` is not used: with Keras 3 it writes NaNs without an error.
    The batch size stays free (see batches.py), but for models with an RNN (TensorFlow Lite converts none otherwise) or a
    transposed convolution (whose output shape is then a constant), which get batch 1; `unroll` replaces their loop by its steps, for static quantization. Inputs and outputs have the axes
    that `layouts` says.
    Raises ConversionError with the converter's last meaningful line, and for an RNN that cannot be unrolled.
    """
    _refuse_broken_weights(model.net)
    recurrent = has_rnn(model.net)
    net = without_erf(_unrolled(model.net) if recurrent and unroll else model.net)
    tf = tensorflow()
    from tensorflow.lite.python.convert_phase import ConverterError

    perms = [[layouts.get(s.name) for s in specs] for specs in (model.inputs, model.outputs)]
    free = all(t.shape and t.shape[0] is None and None not in t.shape[1:] for t in net.inputs)
    try:
        if not free or recurrent:
            return _converted(tf, net, 1 if recurrent else None, *perms)
        fixed = _converted(tf, net, BATCH, *perms)
        return freed(fixed) or _converted(tf, net, 1 if must_be_one(fixed) else None, *perms)
    except (ConverterError, tf.errors.OpError, ValueError, TypeError, RuntimeError) as error:
        raise _failure(error) from error


def _converted(tf: Any, net: Any, batch: int | None, befores: list[Perm], afters: list[Perm]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgedl-") as folder:
        _save(tf, net, folder, batch, befores, afters)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _save(tf: Any, net: Any, folder: str, batch: int | None, befores: list[Perm], afters: list[Perm]) -> None:
    shapes = [(batch, *t.shape[1:]) for t in net.inputs]
    specs = [
        tf.TensorSpec(s if p is None else [s[axis] for axis in inverse(p)], t.dtype, name=f"i{i}")
        for i, (t, s, p) in enumerate(zip(net.inputs, shapes, befores, strict=True))
    ]

    def serve(*given: Any) -> dict[str, Any]:
        inputs = [x if p is None else tf.transpose(x, p) for x, p in zip(given, befores, strict=True)]
        found = keras().tree.flatten(net(fed(net, inputs), training=False))
        outs = [x if p is None else tf.transpose(x, inverse(p)) for x, p in zip(found, afters, strict=True)]
        return {f"o{i}": value for i, value in enumerate(outs)}

    holder = tf.Module()
    holder.serve = tf.function(serve, input_signature=specs, autograph=False)
    holder.variables_kept = [v.value for v in net.variables]  # untracked, they would stay variables in the .tflite
    tf.saved_model.save(holder, folder, signatures={SIGNATURE: holder.serve.get_concrete_function()})


def _failure(error: Exception) -> ConversionError:
    """The converter's exception (an MLIR dump, or Keras's) as one sentence that names operators and layers."""
    missing = sorted(set(UNSUPPORTED.findall(str(error))))
    if missing:
        named = ", ".join(f"{op} (in {path.rpartition('/')[0]})" for path, op in missing)
        return ConversionError(
            f"TensorFlow Lite has no operator for {named}",
            next="replace the layer that uses it, or convert to ONNX with --format onnx",
        )
    return ConversionError(
        f"TensorFlow's converter failed: {last_line(str(error)) or type(error).__name__}",
        next="run again with --debug to see all it printed, or convert to ONNX with --format onnx",
    )


def last_line(message: str) -> str:
    """What a many-lined message comes down to: its first "error:", else its last plain line; shortened.

    >>> last_line("<unknown>:0: error: loc(x): no such op\\nmodule {\\n}")
    'no such op'
    >>> last_line("Exception encountered\\n\\nshapes differ\\n\\nArguments received by call():\\n  • x=1")
    'shapes differ'
    """
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in message.splitlines()]
    errors = [line.rpartition("error: ")[2] for line in lines if "error: " in line]
    if errors:
        return re.sub(r"^loc\(.*\): ", "", errors[0])[:300]
    plain = [line for line in lines if line and not line.startswith(("Arguments received", "•", "}", "{"))]
    return plain[-1][:300] if plain else ""


def _refuse_broken_weights(net: Any) -> None:
    """Raise ConversionError for a weight that is NaN or infinite."""
    for weight in net.weights:
        values = np.asarray(weight)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ConversionError(
                f"the weight {weight.path} of the model holds NaN or infinity",
                next="train the model again, or load an earlier checkpoint",
            )


def layers(net: Any) -> Iterator[Any]:
    """All layers of a Keras model and of the models inside it."""
    for layer in net.layers:
        if isinstance(layer, keras().Model):
            yield from layers(layer)
        else:
            yield layer


def _rnns(layer: Any) -> list[Any]:
    """The RNN layers a layer is or wraps (Bidirectional, TimeDistributed)."""
    rnn = keras().layers.RNN
    parts = [layer, *(getattr(layer, n, None) for n in ("forward_layer", "backward_layer", "layer"))]
    return [part for part in parts if isinstance(part, rnn)]


def has_rnn(net: Any) -> bool:
    """Whether a layer runs over time in a loop."""
    return any(_rnns(layer) for layer in layers(net))


def _unrolled(net: Any) -> Any:
    """A copy with every RNN unrolled: its loop (a WHILE) cannot be statically quantized, and crashes LiteRT's tools."""
    for layer in layers(net):
        if _rnns(layer) and any(t.shape[1] is None for t in keras().tree.flatten(layer.input)):
            raise ConversionError(
                f"the layer '{layer.name}' ({type(layer).__name__}) takes sequences of any length, and static "
                "quantization needs a fixed one",
                next="give the model's input a fixed number of steps, or use --quantize dynamic",
            )

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        return type(layer).from_config(_with_unroll(config) if _rnns(layer) else config)

    with deep():
        clone = keras().models.clone_model(net, clone_function=copy, recursive=True)
    clone.set_weights(net.get_weights())
    return clone


def _with_unroll(config: Any) -> Any:
    """A layer's config with every `unroll` set, also in the layers it wraps.

    >>> _with_unroll({"layer": {"config": {"unroll": False, "units": 2}}})
    {'layer': {'config': {'unroll': True, 'units': 2}}}
    """
    if isinstance(config, dict):
        return {key: True if key == "unroll" else _with_unroll(value) for key, value in config.items()}
    return config
