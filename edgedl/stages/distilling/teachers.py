"""The teachers: the network as it once was, or files of any importable format; held to the student's inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...artifact import Array, TensorSpec
from ...data import Dataset
from ...errors import DataError, ModelError, UsageError
from ...frameworks import keras
from ...model import ALLOW_UNSAFE, LoadOptions, Model, load, require_keras
from ..rebuilding import clone, inside
from ..training.loop import training_split
from .outputs import scores

SEEN = 256  # training inputs on which teachers are looked at before training


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen network that has the model's inputs and outputs in the model's order."""

    name: str
    net: Any


def origin(model: Model) -> Teacher:
    """The network before the first stage that changed it, or the model as it is."""
    if model.origin is None:
        return Teacher("the model as it is", clone(model.net))
    return Teacher("the original network", clone(model.origin))


def read(path: str, model: Model, options: LoadOptions) -> Teacher:
    """The teacher in a file. Raises UsageError: no such file, other inputs or outputs; ModelError: it cannot be read."""
    if not any(Path(path).parent.glob(f"{Path(path).name}*")):  # a checkpoint is named by a prefix
        raise UsageError(f"there is no teacher at {path}", next="check the path")
    found = load(path, options)
    net = clone(require_keras(found, "a teacher"))
    name = Path(path).name
    ins, outs = [s.name for s in found.inputs], [s.name for s in found.outputs]
    return Teacher(name, arranged(f"the teacher {name}", net, (ins, outs), model))


def arranged(who: str, net: Any, names: tuple[Sequence[str], Sequence[str]], model: Model) -> Any:
    """A network with the inputs and outputs of the model in the model's order. `names`: of its own, as the user knows them.

    Raises UsageError where they do not fit.
    """
    given = order_of(who, "inputs", specs_of(net.inputs, names[0]), _of_model(model.net.inputs, model.inputs))
    made = order_of(who, "outputs", specs_of(net.outputs, names[1]), _of_model(model.net.outputs, model.outputs))
    graph = inside(net)
    return keras().Model([graph.inputs[i] for i in given], [graph.outputs[i] for i in made], name=net.name)


def _of_model(tensors: Sequence[Any], specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    return specs_of(tensors, [s.name for s in specs])


def trusted(module: str = "", weights: str = "", inputs: Mapping[str, str] | None = None) -> LoadOptions:
    """How a file is read: as a Keras model; it may run code of its own where the user of this run trusts model files."""
    return LoadOptions(
        form="keras", module=module, weights=weights, inputs=dict(inputs or {}), allow_unsafe=ALLOW_UNSAFE in os.environ
    )


def specs_of(tensors: Sequence[Any], names: Sequence[str]) -> list[TensorSpec]:
    """The tensors of a network under the names that the user knows."""
    return [TensorSpec(name, tuple(t.shape), str(t.dtype)) for t, name in zip(tensors, names, strict=True)]


def order_of(
    who: str, what: Literal["inputs", "outputs"], given: Sequence[TensorSpec], wanted: Sequence[TensorSpec]
) -> tuple[int, ...]:
    """For each of the wanted tensors the index of the given one: by name where these are the same, else in order.

    Raises UsageError, with both sides, where they do not fit.
    """
    names, others = [s.name for s in given], [s.name for s in wanted]
    by_name = set(names) == set(others) and len(set(names)) == len(names) == len(others)
    order = tuple(names.index(n) if by_name else i for i, n in enumerate(others))
    if len(given) != len(wanted) or not all(fits(given[a], b) for a, b in zip(order, wanted, strict=True)):
        verb = {"inputs": "takes", "outputs": "gives"}[what]
        raise UsageError(
            f"{who} {verb} {_said(given)}, and the model {verb} {_said(wanted)}",
            next=f"use one with the {what} of the model",
        )
    return order


def fits(a: TensorSpec, b: TensorSpec) -> bool:
    """Whether two tensors have the same sizes, unknown ones aside and the batch too, and are both numbers or both ids."""
    same = all(p == q or p is None or q is None for p, q in zip(a.shape[1:], b.shape[1:], strict=False))
    return len(a.shape) == len(b.shape) and same and _whole(a.dtype) == _whole(b.dtype)


def _whole(dtype: str) -> bool:
    return "int" in dtype


def _said(specs: Sequence[TensorSpec]) -> str:
    """Names, sizes without the batch, and types, in a few words.

    >>> _said([TensorSpec("p", (None, 10), "float32")])
    "'p' [10]"
    """
    parts = [
        f"'{s.name}' {list(s.shape[1:])}{' ' + s.dtype if _whole(s.dtype) else ''}".replace("None", "?") for s in specs
    ]
    return ", ".join(parts[:6]) + (" ..." if len(parts) > 6 else "")


def look(teachers: Sequence[Teacher], model: Model, data: Dataset) -> list[list[Array]]:
    """What each teacher gives for some of the training inputs, drawn from all of them: they may lie class by class.

    Raises DataError where there are none, ModelError where it gives what is not a number.
    """
    split = training_split(data)
    if not len(split):
        raise DataError("there is no training data", next="give data with --data")
    drawn = np.random.default_rng(0).permutation(len(split))[:SEEN]
    feed = data.feed(split.take(np.sort(drawn)))
    found = []
    for teacher in teachers:
        size = teacher.net.inputs[0].shape[0] or 64
        count = min(len(split), SEEN)
        count -= count % size if teacher.net.inputs[0].shape[0] else 0
        x = [feed[s.name][:count] for s in model.inputs]
        outputs = scores(teacher.net, x, size)
        if not all(np.isfinite(a).all() for a in outputs):
            raise ModelError(
                f"the teacher ({teacher.name}) gives values that are not numbers for the training inputs",
                next="check that the data is scaled as it was trained, or use another teacher",
            )
        found.append(outputs)
    return found
