"""The table of Caffe layers in ONNX, filled by a module for each family, each following the layer's Forward_cpu."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .._onnx_build import BATCH, Graph, Unsupported, axis_of
from .net import Layer


class FixedBatch(Exception):
    """A layer mixes the images of a batch, so the batch size has to be the declared one."""


@dataclass(slots=True)
class CaffeGraph(Graph):
    """A Graph that knows the batch size the prototxt declares."""

    batch: int = 1

    def sizes(self, x: str) -> tuple[int, ...]:
        """A tensor's shape with the declared batch size."""
        shape = self.shape(x)
        head = (self.batch,) if shape[:1] == (BATCH,) else self.fixed(x, 0)[:1]
        return (*head, *self.fixed(x, 1))

    def is_open(self, x: str) -> bool:
        """Whether the batch size is left open."""
        return self.shape(x)[:1] == (BATCH,)

    def inner_axis(self, x: str, axis: int) -> int:
        """A checked axis that is not an open batch. Raises FixedBatch, Unsupported."""
        found = axis_of(axis, self.rank(x))
        if found == 0 and self.is_open(x):
            raise FixedBatch
        return found


Builder = Callable[[CaffeGraph, Layer, Sequence[str]], None]
LAYERS: dict[str, Builder] = {}
REFUSED = {  # known, and not imported
    "DetectionOutput": "non-maximum suppression is left to the application: end the model at this layer's inputs",
    "Python": "it runs Python code that is not in the file",
    "LSTM": "recurrent layers of Caffe carry their state in a separate input",
    "RNN": "recurrent layers of Caffe carry their state in a separate input",
    "BN": "forks give this name to layers with different weights; fold it into Scale with the fork's own tool",
    "ROIPooling": "regions of interest are not imported",
    "PSROIPooling": "regions of interest are not imported",
    "Proposal": "region proposals are not imported",
}


def builds(*types: str, bottoms: int | None = 1) -> Callable[[Builder], Builder]:
    """Register the builder of layer types with this many inputs (None: one or more)."""

    def register(builder: Builder) -> Builder:
        def checked(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
            if (bottoms is None and not xs) or (bottoms is not None and len(xs) != bottoms):
                raise Unsupported(f"it has {len(xs)} inputs where {'one or more' if bottoms is None else bottoms} fit")
            if not layer.tops:
                raise Unsupported("it has no output")
            builder(g, layer, xs)

        LAYERS.update(dict.fromkeys(types, checked))
        return builder

    return register


def affine_power(g: CaffeGraph, x: str, scale: float, shift: float, exponent: float, name: str, out: str) -> str:
    """The steps that are not the identity; `out` is the name of the last."""
    steps = [("Mul", scale, 1.0), ("Add", shift, 0.0), ("Pow", exponent, 1.0)]
    steps = [(op, value, idle) for op, value, idle in steps if value != idle]
    if not steps:
        return g.add("Identity", x, name=name, out=out)
    for i, (op, value, _) in enumerate(steps):
        last = i == len(steps) - 1
        by = g.scalar(value, x, f"{name}/{op.lower()}")
        x = g.add(op, x, by, name=name if last else f"{name}/{op}", out=out if last else "")
    return x


def scaled(g: CaffeGraph, x: str, scale: float, name: str) -> str:
    return x if scale == 1 else g.add("Mul", x, g.scalar(scale, x, f"{name}/by"), name=name)


def keep(g: CaffeGraph, x: str, axis: int) -> tuple[int, ...]:
    """The first `axis` dimensions as Reshape wants them."""
    return (0, *g.sizes(x)[1:axis]) if axis else ()
