"""The network of a Keras 1 or 2 config, walked layer by layer: Sequential, Model, nested, shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...artifact import Array
from ...errors import ModelError, UsageError
from .._emit import Emit
from .layers import HANDLERS, Layer, Unsupported, modern

MAX_DEPTH = 20  # of models within models
CONTAINERS = ("Sequential", "Model", "Functional")
Shapes = Mapping[str, Sequence[int | str | None]]


def is_network(config: Any) -> bool:
    """Whether a parsed config is that of a model with layers."""
    return isinstance(config, dict) and config.get("class_name") in CONTAINERS and bool(_listed(config))


def _listed(config: dict[str, Any]) -> list[Any]:
    inner = config["config"]
    found = inner.get("layers") if isinstance(inner, dict) else inner
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []


class Network:
    """A model under construction."""

    def __init__(self, name: str, emit: Emit, weights: Mapping[str, list[Array]], old: bool, theano: bool) -> None:
        self.name, self.emit, self.weights, self.old, self.theano = name, emit, weights, old, theano
        self.notes: list[str] = []
        self.problems: list[str] = []

    def build(self, config: dict[str, Any], shapes: Shapes) -> list[str]:
        """Emit it all; the names of the outputs. Raises ModelError with every layer that is not known."""
        weights = {k: list(v) for k, v in self.weights.items()}
        found = self._model(config, None, weights, shapes, 0)
        if self.problems:
            listed = self.problems[0] if len(self.problems) == 1 else "".join(f"\n  - {p}" for p in self.problems)
            raise ModelError(f"cannot load {self.name}: {listed}", next="docs/importers/theano.md lists the layers")
        outputs: list[str] = []
        for name, value in found:
            outputs.append(self.emit("Identity", value, name=name if name not in self.emit.inputs else f"{name}_out"))
        return outputs

    def _model(
        self,
        config: dict[str, Any],
        given: list[str] | None,
        weights: dict[str, list[Array]],
        shapes: Shapes,
        depth: int,
    ) -> list[tuple[str, str]]:
        """(layer, value) of each output of a model called on `given`, or on inputs of its own."""
        if depth > MAX_DEPTH:
            raise ModelError(f"{self.name} is damaged: models are nested {depth} deep", next="download it again")
        if config["class_name"] == "Sequential":
            return self._sequential(config, given, weights, shapes, depth)
        return self._functional(config, given, weights, shapes, depth)

    def _sequential(
        self,
        config: dict[str, Any],
        given: list[str] | None,
        weights: dict[str, list[Array]],
        shapes: Shapes,
        depth: int,
    ) -> list[tuple[str, str]]:
        entries = _listed(config)
        first = entries[0]["config"]
        if given is None and first.get("batch_input_shape") is None and entries[0]["class_name"] in CONTAINERS:
            found = self._model(entries[0], None, self._within(entries[0], weights), shapes, depth + 1)
            last, value = found[0]
            entries = entries[1:]
        elif given is None:
            last = str(first.get("name"))
            wish = last if entries[0]["class_name"] == "InputLayer" else f"{last}_input"
            value = self._input(wish, first, shapes)
        else:
            last, value = "", given[0]
        for entry in entries:
            if entry["class_name"] == "InputLayer":
                continue
            last = str(entry["config"].get("name")) if isinstance(entry["config"], dict) else str(entry.get("name"))
            value = self._call(entry, last, [value], weights, shapes, depth)[0]
        return [(last, value)]

    def _functional(
        self,
        config: dict[str, Any],
        given: list[str] | None,
        weights: dict[str, list[Array]],
        shapes: Shapes,
        depth: int,
    ) -> list[tuple[str, str]]:
        inner = config["config"]
        entries = {str(e.get("name") or e["config"]["name"]): e for e in _listed(config)}
        heads = _references(inner["input_layers"])
        done: dict[tuple[str, int, int], str] = {}
        for i, (name, node, tensor) in enumerate(heads):
            value = given[i] if given is not None else self._input(name, entries[name]["config"], shapes)
            done[(name, node, tensor)] = value
        waiting = [
            (name, number, _references(node))
            for name, e in entries.items()
            for number, node in enumerate(e["inbound_nodes"])
        ]
        while waiting:
            ready = [w for w in waiting if all(r in done for r in w[2])]
            if not ready:
                raise ModelError(
                    f"{self.name} is damaged: layer '{waiting[0][0]}' waits for itself", next="download it again"
                )
            for name, number, sources in ready:
                found = self._call(entries[name], name, [done[r] for r in sources], weights, shapes, depth)
                done.update({(name, number, i): v for i, v in enumerate(found)})
            waiting = [w for w in waiting if w not in ready]
        return [(name, done[(name, node, tensor)]) for name, node, tensor in _references(inner["output_layers"])]

    def _call(
        self,
        entry: dict[str, Any],
        name: str,
        x: list[str],
        weights: dict[str, list[Array]],
        shapes: Shapes,
        depth: int,
    ) -> list[str]:
        """The results of a layer. An unknown one is noted, and passes its input on."""
        kind = str(entry["class_name"])
        own = weights.get(name, [])
        if kind in CONTAINERS:
            return [v for _, v in self._model(entry, x, self._within(entry, weights), shapes, depth + 1)]
        if kind == "InputLayer":
            return x
        kind, settings = modern(kind, entry["config"])
        try:
            handler = HANDLERS.get(kind)
            if handler is None:
                raise Unsupported("this layer is not known")
            return [handler(Layer(self.emit, name, kind, settings, own, self.old, self.theano, self.notes), *x)]
        except Unsupported as reason:
            self.problems.append(f"layer '{name}' ({entry['class_name']}): {reason}")
            return x[:1]

    def _within(self, entry: dict[str, Any], weights: dict[str, list[Array]]) -> dict[str, list[Array]]:
        """The weights of a nested model's layers; Keras 1 wrote those of a Sequential in a Sequential by their own names."""
        config = entry["config"]
        own = weights.get(str(config.get("name") if isinstance(config, dict) else entry.get("name")), [])
        try:
            return share(entry, own) if own else weights
        except Unsupported as reason:
            raise ModelError(
                f"cannot load {self.name}: {reason}", next="docs/importers/theano.md lists the layers"
            ) from reason

    def _input(self, name: str, config: dict[str, Any], shapes: Shapes) -> str:
        if "" in shapes and self.emit.inputs:
            raise UsageError(
                "a shape without a name is for one input, and the model has several",
                next=f"write --input NAME=SHAPE, with one of {self.emit.inputs[0]}, {name}",
            )
        shape = shapes.get(name) or shapes.get("") or config.get("batch_input_shape")
        if shape is None and config.get("input_dim"):
            shape = [None, config["input_dim"]]
        if shape is None:
            raise ModelError(
                f"{self.name} does not say which shape its input '{name}' has", next=f"--input {name}=?x3x32x32"
            )
        kind = str(config.get("input_dtype") or config.get("dtype") or "float32")
        sizes: list[int | str | None] = ["N" if i == 0 and n is None else n for i, n in enumerate(shape)]
        return self.emit.input(name, kind if kind.startswith("int") else "float32", sizes)


def _references(value: Any) -> list[tuple[str, int, int]]:
    """The tensors [layer, node, output, ...] in a list, or a single one."""
    if len(value) >= 3 and isinstance(value[0], str):
        value = [value]
    return [(str(v[0]), int(v[1]), int(v[2])) for v in value]


def share(entry: dict[str, Any], weights: list[Array]) -> dict[str, list[Array]]:
    """A nested model's weights by layer: Keras writes all that are trained, layer by layer, and then the others.

    Raises Unsupported where they cannot be told apart.
    """
    counts = list(_counts(entry))
    trained = sum(t for _, t, _ in counts)
    if trained + sum(f for _, _, f in counts) != len(weights):
        raise Unsupported("the weights of a nested model cannot be told apart")
    found, a, b = {}, 0, trained
    for name, t, f in counts:
        found[name] = [*weights[a : a + t], *weights[b : b + f]]
        a, b = a + t, b + f
    return found


def _counts(entry: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(layer, trained, fixed weights) of each layer of a nested model."""
    found = []
    for inner in _listed(entry):
        name = str(inner.get("name") or inner["config"]["name"])
        if inner["class_name"] in CONTAINERS:
            raise Unsupported("models are nested more than once")
        kind, config = modern(str(inner["class_name"]), inner["config"])
        if kind in ("LSTM", "GRU", "SimpleRNN", "Bidirectional", "TimeDistributed"):
            raise Unsupported(f"'{name}' ({kind}) is in a nested model")
        trained, fixed = _count(kind, config)
        frozen = config.get("trainable") is False  # a frozen layer's weights are all among "the others"
        found.append((name, 0, trained + fixed) if frozen else (name, trained, fixed))
    return found


def _count(kind: str, config: dict[str, Any]) -> tuple[int, int]:
    """How many weights of a layer are trained, and how many are not."""
    bias = bool(config.get("use_bias", True))
    if kind == "BatchNormalization":
        return bool(config.get("scale", True)) + bool(config.get("center", True)), 2
    if kind in ("Dense", "Conv1D", "Conv2D", "Conv2DTranspose", "DepthwiseConv2D"):
        return 1 + bias, 0
    if kind == "SeparableConv2D":
        return 2 + bias, 0
    return (1, 0) if kind in ("Embedding", "PReLU") else (0, 0)
