"""A network made anew with layers replaced by chains of smaller ones that hold their factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from ...artifact import Array
from ..rebuilding import copied, leaves, rebuild, weighted
from .decompose import Metric, error, matrix, product, truncated, tucker
from .sites import Site

PLAIN = {"use_bias": False, "activation": None, "activity_regularizer": None}  # of all layers but the last
FREE = ("kernel_constraint", "bias_constraint")  # were of the whole kernel


@dataclass(frozen=True, slots=True)
class Split:
    """A site with the factors that take its place: kernels by the ending of the new layer's name, and the last's bias."""

    site: Site
    ranks: tuple[int, ...]
    kernels: Mapping[str, Array]
    bias: Array | None
    error: float  # of the outputs, as a share of their norm, in the metric the factors are best in


def factored(site: Site, ranks: Sequence[int], metric: Metric) -> Split:
    """The factors of a layer at these ranks, in the shapes of the new layers' kernels."""
    kernel, one = site.kernel, (1,) * len(site.window)
    if site.is_matrix:
        factors: tuple[Array, ...] = truncated(kernel, metric, ranks[0])
        kernels = {"in": factors[0].reshape(*one, -1, ranks[0]), "out": factors[1].reshape(*one, ranks[0], -1)}
    else:
        factors = tucker(kernel, metric, ranks)
        first, core, last = factors
        ins, outs = kernel.shape[-2:]
        core = np.einsum("cr,...rs->...cs", first, core) if ranks[0] == ins else core
        core = core @ last if ranks[1] == outs else core
        kernels = {"core": core}
        if ranks[0] < ins:
            kernels = {"in": first.reshape(*one, *first.shape), **kernels}
        if ranks[1] < outs:
            kernels["out"] = last.reshape(*one, *last.shape)
    bias = _bias(site, factors, metric)
    return Split(site, tuple(ranks), kernels, bias, error(kernel, factors, metric))


def _bias(site: Site, factors: Sequence[Array], metric: Metric) -> Array | None:
    """The layer's bias, changed so that the outputs keep their mean."""
    if not site.layer.use_bias:
        return None
    bias = np.asarray(site.layer.bias.numpy(), np.float64)
    wanted = matrix(site.kernel)
    mean = metric.average(len(wanted))
    return bias if mean is None else bias + mean @ (wanted - product(factors, site.kernel.shape))


def apply(net: Any, splits: Mapping[str, Split]) -> Any:
    """A new network with these layers split, by path; every other layer with the weights it has."""
    taken = {op.name for _, op in leaves(net)}
    weights: list[tuple[Any, list[Array]]] = []

    def make(op: Any, path: str) -> Callable[..., Any]:
        if path not in splits:
            return copied(op, path)  # type: ignore[no-any-return]
        made = _layers(splits[path], taken)
        weights.extend(made)
        return lambda x, **_: reduce(lambda value, layer: layer(value), (layer for layer, _ in made), x)

    new = rebuild(net, make)
    twins = weighted(new)
    for path, layer in weighted(net).items():
        if path not in splits:
            twins[path].set_weights(layer.get_weights())
            twins[path].trainable = layer.trainable
    for layer, values in weights:
        layer.set_weights(values)
    return new


def _layers(split: Split, taken: set[str]) -> list[tuple[Any, list[Array]]]:
    """The new layers in order, each with the weights it is to have."""
    layer, last = split.site.layer, list(split.kernels)[-1]
    made = []
    for role, kernel in split.kernels.items():
        name = _unused(f"{layer.name}_{role}", taken)
        config = {**layer.get_config(), "name": name, **dict.fromkeys(FREE), **({} if role == last else PLAIN)}
        new = type(layer).from_config({**config, **_shape(split, role, kernel)})
        new.trainable = layer.trainable
        made.append((new, [kernel] if split.bias is None or role != last else [kernel, split.bias]))
    return made


def _shape(split: Split, role: str, kernel: Array) -> dict[str, Any]:
    """Size, stride and padding of one of the new layers: the core has those of the old, of two 1x1 the first has them."""
    if not split.site.window:
        return {"units": kernel.shape[-1]}
    one = (1,) * len(split.site.window)
    sized = {"filters": kernel.shape[-1], "kernel_size": kernel.shape[:-2]}
    if role == "core" or (role == "in" and split.site.is_matrix):
        return sized
    return {**sized, "strides": one, "dilation_rate": one, "padding": "valid"}


def _unused(name: str, taken: set[str]) -> str:
    """The name, or with a number where it is taken; taken from now on."""
    found = next(n for n in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if n not in taken)
    taken.add(found)
    return found
