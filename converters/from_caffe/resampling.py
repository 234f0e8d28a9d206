"""Layers of Caffe that change the size of images, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._onnx_build import Graph, Unsupported, text
from .layers import CaffeGraph, builds
from .net import Layer


@builds("Interp")
def interp(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Bilinear with aligned corners (`interp_layer.cpp` of DeepLab and PSPNet); negative padding crops."""
    p, x = layer.spec.interp_param, xs[0]
    sizes = g.fixed(x, 2)
    if p.pad_beg > 0 or p.pad_end > 0 or len(sizes) != 2:
        raise Unsupported("its padding is not negative" if len(sizes) == 2 else "its input is not an image")
    cut = [s + p.pad_beg + p.pad_end for s in sizes]
    size = [_interp_size(p, s, given) for s, given in zip(cut, (p.height, p.width), strict=True)]
    if p.pad_beg or p.pad_end:
        ends = [s + p.pad_end for s in sizes]
        named = (("starts", [-p.pad_beg] * 2), ("ends", ends), ("axes", (2, 3)))
        x = g.add("Slice", x, *(g.ints(v, f"{layer.name}/{k}") for k, v in named), name=f"{layer.name}/crop")
    resize(g, x, size, layer.name, layer.tops[0], mode="linear", coordinate_transformation_mode="align_corners")


def _interp_size(p: Any, size: int, given: int) -> int:
    if p.HasField("height") and p.HasField("width"):
        return int(given)
    if p.shrink_factor < 1 or p.zoom_factor < 1 or p.HasField("height") or p.HasField("width"):
        raise Unsupported("its size is not given in a known way")
    small = (size - 1) // p.shrink_factor + 1
    return int(small + (small - 1) * (p.zoom_factor - 1))


@builds("Upsample")
def upsample(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """Each pixel repeated; with SegNet's second input (positions of maxima) it is refused."""
    p, x = layer.spec.upsample_param, xs[0]
    factors = (p.scale_h or p.scale, p.scale_w or p.scale)
    size = [s * f for s, f in zip(g.fixed(x, 2), factors, strict=True)]
    resize(
        g,
        x,
        size,
        layer.name,
        layer.tops[0],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def resize(g: Graph, x: str, size: Sequence[int], name: str, out: str, **how: str) -> str:
    """A Resize of the spatial dimensions to `size`, by exact scales, so that the batch may stay open."""
    old = g.fixed(x, 2)
    if not all(0 < s <= 1 << 16 for s in size):
        raise Unsupported(f"its output would be {text(size)}")
    if any((o * np.float32(s / o)).astype(int) != s for o, s in zip(old, size, strict=True)):
        shape = g.add("Shape", x, name=f"{name}/shape", start=0, end=2)
        full = g.add("Concat", shape, g.ints(size, f"{name}/size"), name=f"{name}/sizes", axis=0)
        return g.add("Resize", x, "", "", full, name=name, out=out, **how)
    scales = np.asarray([1, 1, *(s / o for o, s in zip(old, size, strict=True))], np.float32)
    return g.add("Resize", x, "", g.constant(scales, f"{name}/scales"), name=name, out=out, **how)
