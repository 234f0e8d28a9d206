"""A Keras 2 model (tf_keras) rebuilt layer by layer as one Keras 3 functional model, weights set, outputs compared."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import ModelError
from ..frameworks import keras, tensorflow, tf_keras
from ._keras_config import cannot_load
from ._keras_files import FAILURES, reason
from ._rebuild_layers import FUNCTIONS, clean, make
from ._rebuild_ops import call_op

TOLERANCE = 1e-5  # of outputs: max|a - b| / max|b|, float32 on both sides
PROBES = 3  # generated inputs
UNKNOWN_SIZES = (32, 96, 224)  # tried in turn for dimensions that are None
REPORT = "report this model's config as an issue; meanwhile convert the original to .tflite or .onnx and pass that"


def rebuild(source: Any, path: Path) -> Any:
    """The Keras 3 functional model equal to the tf_keras model `source`, proven on generated inputs.

    Raises ModelError, which names every layer in the way, or the output that differs.
    """
    problems: list[str] = []
    try:
        net = _Replay(problems).model(source)
    except FAILURES as error:
        raise cannot_load(path, [f"its graph does not fit together: {reason(error)}"], REPORT) from error
    if problems:
        raise cannot_load(path, problems)
    compare(source, net, path)
    return net


class _Replay:
    """Calls Keras 3 layers in the order and with the arguments of a tf_keras graph; layers used twice are made once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        self.made: dict[int, Any] = {}  # id of a tf_keras layer -> its Keras 3 layer
        self.filled: set[int] = set()

    def model(self, source: Any) -> Any:
        """A tf_keras functional or sequential model -> Keras 3 functional model. None where there were problems."""
        if not getattr(source, "inputs", None):
            self.problems.append(
                f"the model '{source.name}' ({type(source).__name__}) has no graph of layers: it was built by "
                "subclassing, or never called"
            )
            return None
        tensors: dict[int, Any] = {}
        inputs = [self._input(t, n) for t, n in zip(source.inputs, source.input_names, strict=True)]
        tensors.update((id(t), node) for t, node in zip(source.inputs, inputs, strict=True))
        for depth in sorted(source._nodes_by_depth, reverse=True):
            for node in source._nodes_by_depth[depth]:
                if not node.is_input:
                    self._node(node, tensors)
        outputs = [tensors.get(id(t)) for t in source.outputs]
        if self.problems or any(o is None for o in outputs):
            return None
        _name_apart(outputs)
        return keras().Model(inputs, outputs, name=clean(source.name))

    def _input(self, tensor: Any, name: str) -> Any:
        shape = tuple(tensor.shape)[1:]
        kind = tensor.dtype.name if tensor.dtype.name not in ("float16", "bfloat16", "float64") else "float32"
        return keras().Input(shape, dtype=kind, name=clean(name))

    def _node(self, node: Any, tensors: dict[int, Any]) -> None:
        """One call of one layer; what fails is noted, what depends on something failed is passed over."""
        if any(id(t) not in tensors for t in node.keras_inputs):
            return
        layer = node.layer
        flat = tensorflow().nest

        def replaced(value: Any) -> Any:
            return flat.map_structure(lambda t: tensors.get(id(t), t), value)

        try:
            args, kwargs = replaced(node.call_args), replaced(node.call_kwargs)
            result = self._call(layer, args, kwargs)
        except ModelError as error:
            self.problems.append(f"layer '{layer.name}' ({type(layer).__name__}): {error.message}")
            return
        except FAILURES as error:
            self.problems.append(f"layer '{layer.name}' ({type(layer).__name__}) cannot be rebuilt: {reason(error)}")
            return
        ids = [id(t) for t in flat.flatten(node.outputs)]
        single = result[0] if isinstance(result, list) and len(result) == 1 else result
        tensors.update(zip(ids, [single] if len(ids) == 1 else flat.flatten(result), strict=True))

    def _call(self, layer: Any, args: Any, kwargs: Any) -> Any:
        if type(layer).__name__ in FUNCTIONS:
            return call_op(layer.symbol, *args, **kwargs)
        made = self._layer(layer)
        if made is None:
            raise ModelError("the model inside it cannot be rebuilt")
        result = made(*args[:1], **_named(layer, args[1:], kwargs))
        if id(layer) not in self.filled:
            self._fill(layer, made)
        return result

    def _layer(self, layer: Any) -> Any:
        if id(layer) not in self.made:
            is_model = isinstance(layer, tf_keras().Model)
            self.made[id(layer)] = self.model(layer) if is_model else make(layer)
            if is_model:
                self.filled.add(id(layer))
        return self.made[id(layer)]

    def _fill(self, layer: Any, made: Any) -> None:
        self.filled.add(id(layer))
        if type(layer).__name__ == "Normalization":
            return
        theirs = layer.get_weights()
        have, want = [tuple(w.shape) for w in made.weights], [w.shape for w in theirs]
        if have != want:
            raise ValueError(f"its weights have shapes {want}, those of Keras 3 {have}")
        made.set_weights([w.astype("float32") if w.dtype.kind == "f" else w for w in theirs])


def _name_apart(outputs: list[Any]) -> None:
    """Rename operations called like another one: Keras names those of keras.ops itself, whatever the file's layers are."""
    found: dict[int, Any] = {}
    waiting = list(outputs)
    while waiting:
        history = waiting.pop()._keras_history
        if id(history.operation) not in found:
            found[id(history.operation)] = history.operation
            waiting.extend(t for node in history.operation._inbound_nodes for t in node.input_tensors)
    layers_first = sorted(found.values(), key=lambda op: not isinstance(op, keras().layers.Layer))
    taken: set[str] = set()
    for operation in layers_first:
        name, number = operation.name, 0
        while operation.name in taken:
            number += 1
            operation.name = f"{name}_op{number}"
        taken.add(operation.name)


def _named(layer: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments after the first by name: Keras 2 and 3 order them differently. `training=None` and masks of None go."""
    names = list(inspect.signature(layer.call).parameters)[1:]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return {k: v for k, v in given.items() if v is not None}


def compare(source: Any, net: Any, path: Path) -> None:
    """Raise ModelError unless both models give the same outputs on generated inputs.

    Normally distributed inputs, or from 0 to 1 where the original has no finite answer to these. Inputs of models
    with embeddings are whole numbers that every embedding has.
    """
    last: BaseException | None = None
    for size in UNKNOWN_SIZES:
        for positive in (False, True):
            inputs = probes(net, size, positive=positive)
            try:
                wanted = _outputs(source(_packed(source, inputs), training=False))
                found = _outputs(net(inputs, training=False))
            except (*FAILURES, tensorflow().errors.OpError) as error:
                last = error
                break
            if all(np.isfinite(w).all() for w in wanted):
                _same(wanted, found, net, path)
                return
    why = f"neither runs on generated inputs ({reason(last)})" if last else "the original gives NaN or infinity"
    raise ModelError(f"cannot load {path}: its Keras 3 form cannot be checked: {why}", next=REPORT)


def probes(net: Any, size: int, *, positive: bool) -> list[Array]:
    """Generated inputs for a Keras 3 model, float32 or whole numbers, `size` for every unknown dimension."""
    rng = np.random.default_rng(0)
    rows = [layer.input_dim for layer in flattened(net) if type(layer).__name__ == "Embedding"]
    inputs = []
    for tensor in net.inputs:
        shape = (PROBES, *(size if s is None else s for s in tensor.shape[1:]))
        kind = tensor.dtype
        if rows or kind.startswith(("int", "uint")):
            inputs.append(rng.integers(0, min(rows, default=2), shape).astype(kind))
        elif kind == "bool":
            inputs.append(rng.random(shape) < 0.5)
        else:
            inputs.append((rng.random(shape) if positive else rng.normal(size=shape)).astype(kind))
    return inputs


def flattened(net: Any) -> list[Any]:
    """The layers of a Keras 3 model and of the models in it."""
    return [inner for layer in net.layers for inner in (flattened(layer) if hasattr(layer, "layers") else [layer])]


def _packed(source: Any, inputs: list[Array]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


def _outputs(result: Any) -> list[Array]:
    return [np.asarray(t) for t in tensorflow().nest.flatten(result)]


def _same(wanted: list[Array], found: list[Array], net: Any, path: Path) -> None:
    for want, have, name in zip(wanted, found, net.output_names, strict=True):
        if want.shape != have.shape:
            raise ModelError(
                f"cannot load {path}: output '{name}' has shape {have.shape} in Keras 3 and {want.shape} in the original",
                next=REPORT,
            )
        difference = np.abs(want.astype(np.float64) - have.astype(np.float64)).max(initial=0)
        relative = difference / max(np.abs(want).max(initial=0), 1e-6)
        if not relative <= TOLERANCE:
            raise ModelError(
                f"cannot load {path}: its Keras 3 form differs from the original by {relative:.1e} at output '{name}' "
                f"(bound {TOLERANCE})",
                next=REPORT,
            )
