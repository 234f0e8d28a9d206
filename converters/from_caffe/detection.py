"""Layers of SSD detectors in ONNX: default boxes and L2 normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...artifact import Array
from .._onnx_build import Unsupported
from .layers import CaffeGraph, builds
from .net import Layer


@builds("Normalize")
def l2_normalize(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """SSD's L2 normalization with a learned gain (`normalize_layer.cpp` of weiliu89/caffe)."""
    p, x, name = layer.spec.norm_param, xs[0], layer.name
    channels, *sizes = g.fixed(x, 1)
    axes = tuple(range(1, g.rank(x))) if p.across_spatial else (1,)
    square = g.add("Mul", x, x, name=f"{name}/square")
    total = g.add("ReduceSum", square, g.ints(axes, f"{name}/axes"), name=f"{name}/sum", keepdims=1)
    safe = g.add("Add", total, g.scalar(p.eps, x, f"{name}/eps"), name=f"{name}/safe")
    norm = g.add("Sqrt", safe, name=f"{name}/norm")
    unit = g.add("Div", x, norm, name=f"{name}/unit")
    n = 1 if p.channel_shared else channels
    gain = layer.weight(0, (n,)).reshape(n, *(1 for _ in sizes))
    g.add("Mul", unit, g.constant(gain, f"{name}/scale"), name=name, out=layer.tops[0])


@builds("PriorBox", bottoms=2)
def prior_box(g: CaffeGraph, layer: Layer, xs: Sequence[str]) -> None:
    """SSD's default boxes (`prior_box_layer.cpp` of weiliu89/caffe): a constant, 1 x 2 x (boxes * 4)."""
    p = layer.spec.prior_box_param
    feature, image = g.fixed(xs[0], 2), g.fixed(xs[1], 2)
    if len(feature) != 2 or len(image) != 2:
        raise Unsupported("its inputs are not images")
    if p.HasField("img_h") or p.HasField("img_w"):
        image = (p.img_h, p.img_w)
    elif p.HasField("img_size"):
        image = (p.img_size, p.img_size)
    boxes = prior_boxes(p, feature, image)
    g.add("Identity", g.constant(boxes, f"{layer.name}/boxes"), name=layer.name, out=layer.tops[0])


def prior_boxes(p: Any, feature: tuple[int, ...], image: tuple[int, ...]) -> Array:
    """Corners of all boxes and their variances, float32 [1, 2, H * W * priors * 4]."""
    sides = np.asarray(_sides(p), np.float64)  # priors x (width, height)
    if min(image) < 1 or not len(sides) or math.prod(feature) * len(sides) > 1 << 24:
        raise Unsupported("its boxes cannot be made from its parameters")
    if p.HasField("step_h") or p.HasField("step_w"):
        steps = (p.step_h, p.step_w)
    else:
        steps = (p.step, p.step) if p.HasField("step") else (image[0] / feature[0], image[1] / feature[1])
    ys, xs = ((np.arange(n) + p.offset) * step for n, step in zip(feature, steps, strict=True))
    grid_y, grid_x = np.meshgrid(ys, xs, indexing="ij")
    centre = np.stack([grid_x, grid_y], -1)[:, :, None, :]  # H x W x 1 x (x, y)
    corners = np.concatenate([centre - sides / 2, centre + sides / 2], -1) / np.asarray([*image[::-1]] * 2)
    corners = np.clip(corners, 0, 1) if p.clip else corners
    given = list(p.variance) or [0.1]
    if len(given) not in (1, 4):
        raise Unsupported(f"it has {len(given)} variances, not 1 or 4")
    variance = np.broadcast_to(np.asarray(given), corners.shape)
    return np.stack([corners.reshape(-1), variance.reshape(-1)])[None].astype(np.float32)


def _sides(p: Any) -> list[tuple[float, float]]:
    """Width and height of the boxes of one cell; sizes are cut to whole pixels as in the original."""
    if len(p.max_size) not in (0, len(p.min_size)) or not all(0 < v < 1e6 for v in (*p.min_size, *p.max_size)):
        raise Unsupported(f"its min_size {list(p.min_size)} and max_size {list(p.max_size)} do not fit")
    ratios: list[float] = [1.0]
    for ratio in p.aspect_ratio:
        if not 0 < ratio < math.inf:
            raise Unsupported(f"its aspect_ratio {ratio:g} is not positive")
        if all(abs(ratio - r) >= 1e-6 for r in ratios):
            ratios += [ratio, 1 / ratio] if p.flip else [ratio]
    sides: list[tuple[float, float]] = []
    for i, size in enumerate(int(s) for s in p.min_size):
        sides.append((size, size))
        if p.max_size:
            sides.append((math.sqrt(size * int(p.max_size[i])),) * 2)
        sides += [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return sides
