"""The kernels of a network: which variables can be thinned out or clustered, and along which axis they are summed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError, UsageError
from ...frameworks import keras
from ...registry import did_you_mean
from ..rebuilding import leaves

NAMES = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One weight tensor, and how its axes lie as `[stack, output, input]`.

    `input` is what a multiply-accumulate sums over (input channels; taps of a depthwise kernel; features of an
    embedding's row), `output` what it makes, `stack` the taps of a convolution.
    """

    name: str  # "conv/kernel", "lstm/recurrent_kernel", "attention/query/kernel"
    layer: str  # path of the layer as in the graph: "backbone/conv"
    role: str  # dense, conv, depthwise, embedding
    variable: Any
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def size(self) -> int:
        """How many weights it has."""
        return prod(self.variable.shape)

    def value(self) -> Array:
        """The weights, float32, in the layer's own shape."""
        return np.asarray(keras().ops.convert_to_numpy(self.variable), np.float32)

    def assign(self, value: Array) -> None:
        """Put weights of the layer's own shape into the network."""
        self.variable.assign(value)

    def rows(self, array: Array) -> Array:
        """An array of the kernel's shape as `[stack, output, input]`."""
        shape = [prod(array.shape[a] for a in part) for part in self.axes]
        return array.transpose([a for part in self.axes for a in part]).reshape(shape)

    def back(self, rows: Array) -> Array:
        """Inverse of `rows`."""
        order = [a for part in self.axes for a in part]
        shape = tuple(self.variable.shape)
        return rows.reshape([shape[a] for a in order]).transpose(np.argsort(order))


def kernels(net: Any) -> list[Kernel]:
    """Every kernel of a network, in the order of its graph, each once; the same for a network and its clone."""
    found: list[Kernel] = []
    seen: set[int] = set()
    for path, op in leaves(net):
        for kernel in _of_layer(path, op):
            if id(kernel.variable) not in seen:
                seen.add(id(kernel.variable))
                found.append(kernel)
    return found


def _of_layer(path: str, op: Any) -> Iterator[Kernel]:
    taken: dict[str, int] = {}
    for title_of_part, part in _parts(path, op):
        for name in NAMES:
            variable = getattr(part, name, None)
            if not isinstance(variable, keras().Variable) or not str(variable.dtype).startswith(("float", "bfloat")):
                continue
            role, axes = _axes(part, name, len(variable.shape))
            title = f"{title_of_part}/{name}"
            taken[title] = taken.get(title, 0) + 1
            title = title if taken[title] == 1 else f"{title}_{taken[title]}"
            yield Kernel(title, path, role, variable, axes)


def _parts(title: str, layer: Any) -> Iterator[tuple[str, Any]]:
    """A layer and those inside it, each with its title; a cell goes by that of its layer."""
    yield title, layer
    for part in getattr(layer, "_layers", ()):
        yield from _parts(title if type(part).__name__.endswith("Cell") else f"{title}/{part.name}", part)


def _axes(layer: Any, name: str, rank: int) -> tuple[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """The role of a kernel, and its axes as (stack, output, input)."""
    kind = type(layer).__name__
    taps = tuple(range(rank - 2))
    if name == "embeddings":
        return "embedding", ((), (0,), (1,))
    if name == "depthwise_kernel" or kind.startswith("DepthwiseConv"):
        return "depthwise", ((), (rank - 2, rank - 1), taps)
    if kind.endswith("Transpose"):
        return "conv", (taps, (rank - 2,), (rank - 1,))
    if kind == "EinsumDense":
        terms, result = layer.equation.replace(" ", "").split("->")
        letters = terms.split(",")[1].replace("...", "")
        summed = tuple(i for i, letter in enumerate(letters) if letter not in result)
        kept = tuple(i for i in range(rank) if i not in summed)
        return "dense", ((), kept, summed)
    return ("conv" if rank > 2 else "dense"), (taps, (rank - 1,), (rank - 2,))


@dataclass(frozen=True, slots=True)
class Selection:
    """The kernels that a stage works on, and the others, each with why."""

    chosen: tuple[Kernel, ...]
    left: tuple[tuple[Kernel, str], ...]

    def of(self, net: Any) -> list[Kernel]:
        """The chosen kernels, in a clone of the network."""
        names = {k.name for k in self.chosen}
        return [k for k in kernels(net) if k.name in names]


def select(net: Any, include: Sequence[str], exclude: Sequence[str], alone: dict[str, str], what: str) -> Selection:
    """Kernels by patterns of layer or kernel names. `alone`: kernel name -> why it is left as it is by default.

    What `include` names is taken whatever `alone` says; where `alone` would leave nothing, it is not heeded.
    Raises UsageError for a pattern that matches nothing, ModelError for a network with no kernel.
    """
    every = kernels(net)
    if not every:
        raise ModelError(
            f"{what} changes the kernels of convolutions, dense, recurrent and attention layers, and '{net.name}' has none",
            next="leave this stage out",
        )
    _check(every, "include", include)
    _check(every, "exclude", exclude)
    rest = [k for k in every if not _matches(k, exclude)]
    if include:
        rest = [k for k in rest if _matches(k, include)]
    elif any(k.name not in alone for k in rest):
        rest = [k for k in rest if k.name not in alone]
    if not rest:
        raise UsageError("the patterns of include and exclude leave no layer", next="take a pattern out of exclude")
    names = {k.name for k in rest}
    left = tuple((k, _why(k, include, exclude, alone)) for k in every if k.name not in names)
    _refuse_nan(rest)
    return Selection(tuple(rest), left)


def _why(kernel: Kernel, include: Sequence[str], exclude: Sequence[str], alone: dict[str, str]) -> str:
    if _matches(kernel, exclude):
        return "excluded"
    return "not included" if include else alone.get(kernel.name, "")


def _matches(kernel: Kernel, patterns: Sequence[str]) -> bool:
    names = (kernel.layer, kernel.layer.rpartition("/")[2], kernel.name)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _check(every: Sequence[Kernel], option: str, patterns: Sequence[str]) -> None:
    names = list(dict.fromkeys(k.layer for k in every))
    for pattern in patterns:
        if not any(_matches(k, [pattern]) for k in every):
            shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise UsageError(
                f"no layer with a kernel matches '{pattern}' of {option}{did_you_mean(pattern, names)}",
                next=f"use names or patterns of these layers: {shown}",
            )


def _refuse_nan(chosen: Sequence[Kernel]) -> None:
    bad = [k.name for k in chosen if not np.isfinite(k.value()).all()]
    if bad:
        raise ModelError(
            f"weights of {', '.join(bad[:5])} are NaN or infinite, which no ranking can order",
            next="train the model again with a smaller learning rate",
        )
