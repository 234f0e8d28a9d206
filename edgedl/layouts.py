"""Axes of inputs and outputs: the trainable form is NHWC, and a file may keep the axes that the original had.

A layout is a permutation by tensor name: `trainable = in_file.transpose(layout)`; a name without one has the same axes
in both. Everything that feeds a file or reads it goes through `to_file` and `from_file`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .artifact import Array, Artifact, TensorSpec

Layouts = Mapping[str, tuple[int, ...]]
NCHW = (0, 2, 3, 1)  # the layout of images whose file has the channels before the rows


def layouts_of(artifact: Artifact) -> dict[str, tuple[int, ...]]:
    """What an artifact says of its axes in its metadata; what is no permutation of a tensor's axes is left out."""
    ranks = {s.name: len(s.shape) for s in (*artifact.inputs, *artifact.outputs)}
    return read_layouts(artifact.metadata.get("layouts"), ranks)


def original_layouts(artifact: Artifact) -> dict[str, tuple[int, ...]]:
    """The layouts of the original that an artifact was made from, which arrays made for the original have."""
    ranks = {s.name: len(s.shape) for s in (*artifact.inputs, *artifact.outputs)}
    return {**read_layouts(artifact.metadata.get("original_layouts"), ranks), **layouts_of(artifact)}


def read_layouts(found: Any, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The layouts in plain JSON that fit tensors of these ranks.

    >>> read_layouts({"x": [0, 2, 1], "y": [0, 0], "z": [0]}, {"x": 3, "y": 2})
    {'x': (0, 2, 1)}
    """
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {k: tuple(p) for k, p in pairs if isinstance(p, list | tuple) and k in ranks and _is_layout(p, ranks[k])}


def _is_layout(perm: Sequence[Any], rank: int) -> bool:
    return all(type(axis) is int for axis in perm) and sorted(perm) == list(range(rank))


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes another.

    >>> inverse((0, 2, 3, 1))
    (0, 3, 1, 2)
    """
    return tuple(int(axis) for axis in np.argsort(perm))


def to_file(arrays: Mapping[str, Array], layouts: Layouts) -> dict[str, Array]:
    """Arrays of the trainable form, by name, as the file has them."""
    return {k: np.ascontiguousarray(a.transpose(inverse(layouts[k]))) if k in layouts else a for k, a in arrays.items()}


def from_file(arrays: Mapping[str, Array], layouts: Layouts) -> dict[str, Array]:
    """Arrays of the file, by name, as the trainable form has them."""
    return {k: np.ascontiguousarray(a.transpose(layouts[k])) if k in layouts else a for k, a in arrays.items()}


def specs_in_file(specs: Sequence[TensorSpec], layouts: Layouts) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of the trainable form with the shapes they have in the file."""
    return tuple(
        replace(s, shape=tuple(s.shape[axis] for axis in inverse(layouts[s.name]))) if s.name in layouts else s
        for s in specs
    )


def specs_from_file(specs: Sequence[TensorSpec], layouts: Layouts) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a file with the shapes they have in the trainable form."""
    return tuple(
        replace(s, shape=tuple(s.shape[axis] for axis in layouts[s.name])) if s.name in layouts else s for s in specs
    )


def plain(layouts: Layouts) -> dict[str, list[int]]:
    """Layouts as JSON."""
    return {name: list(perm) for name, perm in layouts.items()}


def preprocessing_in_file(found: Mapping[str, Mapping[str, Any]], layouts: Layouts) -> dict[str, dict[str, Any]]:
    """Preprocessing (as JSON, by input name) of images in NHWC as a file declares it that takes them in NCHW."""
    images = {name for name, perm in layouts.items() if perm == NCHW}
    return {name: {**p, "layout": "NCHW"} if name in images else dict(p) for name, p in found.items()}


def preprocessing_from_file(found: Mapping[str, Mapping[str, Any]], layouts: Layouts) -> dict[str, dict[str, Any]]:
    """Inverse of `preprocessing_in_file`: the trainable form takes NHWC."""
    return {name: {k: v for k, v in p.items() if k != "layout" or name not in layouts} for name, p in found.items()}
