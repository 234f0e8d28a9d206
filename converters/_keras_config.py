"""A Keras model's config as plain data: its layers by name and class, and whether they may be loaded at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, UnsafeModelError

MAX_DEPTH = 200  # of nested JSON
CONTAINERS = frozenset({"Functional", "Sequential", "Model"})
TF_INITIALIZERS = "tensorflow.python.ops.init_ops_v2"
KERAS2_MODULES = ("layers", "initializers", "regularizers", "constraints", "activations", "models", "mixed_precision")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a config: a layer (or, where `is_layer` is false, an initializer, activation, policy ...)."""

    name: str  # of the layer, or of the layer it belongs to
    class_name: str
    module: str
    registered_name: str
    config: Any
    is_layer: bool


def entries(config: Any, owner: str = "the model", is_layer: bool = True, depth: int = 0) -> Iterator[Entry]:
    """Every object with a class in a config, outer before inner. Raises RecursionError for absurd nesting."""
    if depth > MAX_DEPTH:
        raise RecursionError("its config is nested too deeply")
    if isinstance(config, dict) and isinstance(config.get("class_name"), str):
        inner = config.get("config")
        if is_layer:
            named = inner.get("name") if isinstance(inner, dict) else None
            owner = str(named or config.get("name") or owner)
        module, registered = (config.get(k) or "" for k in ("module", "registered_name"))
        yield Entry(owner, config["class_name"], str(module), str(registered), inner, is_layer)
    pairs: Any = ()
    if isinstance(config, dict):
        pairs = ((k, v) for k, v in config.items() if k not in UNUSED)
    elif isinstance(config, (list, tuple)):
        pairs = (("", value) for value in config)
    for key, value in pairs:
        inside = is_layer if key in ("", "config") else key in LAYER_KEYS
        yield from entries(value, owner, inside, depth + 1)


UNUSED = ("compile_config", "training_config", "optimizer_config")  # never loaded: compile=False
LAYER_KEYS = ("layers", "layer", "backward_layer", "forward_layer", "cell", "cells")


def layers(config: Any) -> tuple[Entry, ...]:
    """The layers of a model's config, those of nested models and wrappers too."""
    return tuple(e for e in entries(config) if e.is_layer and e.class_name not in CONTAINERS)


def refuse_code(path: Path, config: Any, *, allow_unsafe: bool) -> None:
    """Raise UnsafeModelError where the config carries pickled Python code, unless the user allowed it."""
    carriers = [e for e in entries(config) if _carries_code(e)]
    if carriers and not allow_unsafe:
        names = ", ".join(dict.fromkeys(f"'{e.name}'" for e in carriers))
        raise UnsafeModelError(
            f"{path} is refused: loading it would run Python code that it carries (Lambda layer {names})",
            next="replace the Lambda by a layer or keras.ops, or, if you trust its author, pass --allow-unsafe",
        )


def _carries_code(entry: Entry) -> bool:
    if entry.class_name == "__lambda__":
        return True
    config = entry.config if isinstance(entry.config, dict) else {}
    return entry.class_name == "Lambda" and isinstance(config.get("function"), (list, tuple, dict))


def refuse_unknown(path: Path, config: Any, explain: Callable[[Entry], str]) -> None:
    """Raise one ModelError with every layer that `explain` has an objection to ("": none)."""
    problems = [(e, why) for e in entries(config) if (why := explain(e))]
    if problems:
        raise cannot_load(path, [f"layer '{e.name}' ({e.class_name}) {why}" for e, why in problems])


def cannot_load(path: Path, problems: list[str], remedy: str = "") -> ModelError:
    """The error that names every layer in the way."""
    several = list(dict.fromkeys(problems))
    listed = several[0] if len(several) == 1 else "".join(f"\n  - {p}" for p in several)
    return ModelError(f"cannot load {path}: {listed}", next=remedy or CUSTOM)


CUSTOM = (
    "save the model again with these replaced by built-in Keras layers or keras.ops; or, from Python, register the "
    "class with keras.saving.register_keras_serializable and import it before edgedl.load"
)


def check_graphs(path: Path, config: Any) -> None:
    """Raise ModelError where a Keras 2 graph refers to a layer or a call that never comes: tf_keras waits for ever."""
    for entry in entries(config):
        if entry.class_name in ("Functional", "Model") and isinstance(entry.config, dict):
            pending = _pending(entry.config.get("layers"))
            if pending:
                raise ModelError(
                    f"{path} is damaged: layer '{pending}' of '{entry.name}' takes its input from a layer that is not "
                    "there, or from itself",
                    next="copy or download the model again",
                )


def _pending(found: Any) -> str:
    """The first layer with a call whose inputs cannot all be computed, or nothing."""
    layers = [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []
    given = (*CONTAINERS, "InputLayer")  # have been called once from the start
    done = {str(e.get("name")): int(e.get("class_name") in given) for e in layers}  # calls that are computed
    waiting = [(str(e.get("name")), list(_calls(e.get("inbound_nodes")))) for e in layers]
    progress = True
    while progress:
        progress = False
        for name, calls in waiting:
            while calls and all(index < done.get(source, 0) for source, index in calls[0]):
                calls.pop(0)
                done[name] += 1
                progress = True
    return next((name for name, calls in waiting if calls), "")


def _calls(nodes: Any) -> Iterator[list[tuple[str, int]]]:
    """(layer, call) of every input, one list for each call; a tensor is [layer, call, output, ...]."""
    for node in nodes if isinstance(nodes, list) else []:
        yield list(_references(node))


NEVER = 1 << 62  # stands for a call number that is no number


def _references(value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str):
        if value[0] != "_CONSTANT_VALUE":
            yield value[0], value[1] if isinstance(value[1], int) and value[1] >= 0 else NEVER
        value = value[3:]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for inner in inside:
        yield from _references(inner)


def suspicious_keras2(entry: Entry) -> str:
    """Why an object of a Keras 2 config must not be handed to tf_keras, which imports any module a config names."""
    root, _, rest = entry.module.partition(".")
    part = rest.removeprefix("src.").partition(".")[0]
    if entry.module == TF_INITIALIZERS and not entry.is_layer:
        return ""
    if entry.module in ("", "builtins") or (root in ("keras", "tf_keras") and part in (*KERAS2_MODULES, "engine")):
        return ""
    if entry.module in ("keras", "tf_keras") and entry.class_name in CONTAINERS:
        return ""
    return f"comes from the module '{entry.module}', which is not part of Keras"
