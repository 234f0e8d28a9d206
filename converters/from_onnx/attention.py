"""Multi-head attention written out (Vaswani et al., 2017), found in an ONNX graph, so that it becomes one Keras layer.

softmax(q k^T / sqrt(d)) v with q, k and v projected from a sequence `[n, t, c]` by constant weights, separately or all
three by one product, and the heads joined by another. With a mask, another scale or another order of the axes the graph
stays as it is, which is right as well, only not one layer whose heads can be pruned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...artifact import Array
from .rewriting import CLOSE, Rewriter, attribute

SWAPPED = [0, 2, 1, 3]  # [n, t, h, d] <-> [n, h, t, d]
THREE = [2, 0, 3, 1, 4]  # [n, t, 3, h, d] -> [3, n, h, t, d]


@dataclass(slots=True)
class Found:
    """The nodes on the way back from the output of one attention."""

    g: Rewriter
    nodes: list[Any] = field(default_factory=list)

    def maker(self, name: str, *ops: str) -> Any:
        """The node of one of these kinds that makes `name`, or None."""
        node = self.g.makers.get(name)
        if node is None or node.op_type not in ops or node.domain not in ("", "ai.onnx", "edgedl"):
            return None
        self.nodes.append(node)
        return node

    def moved(self, name: str, *orders: list[int]) -> str | None:
        """What a Transpose with one of these orders reads."""
        node = self.maker(name, "Transpose")
        return node.input[0] if node is not None and list(attribute(node, "perm", ())) in orders else None

    def scaled(self, name: str) -> tuple[str, float]:
        """What is multiplied by a constant, and by how much; a value that is not by 1."""
        node = self.g.makers.get(name)
        if node is None or node.op_type not in ("Mul", "Div"):
            return name, 1.0
        for value, other in ((0, 1), (1, 0))[: 1 if node.op_type == "Div" else 2]:
            constant = self.g.constant(node.input[other])
            if constant is not None and constant.size == 1 and float(constant.reshape(-1)[0]) > 0:
                self.nodes.append(node)
                number = float(constant.reshape(-1)[0])
                return node.input[value], 1 / number if node.op_type == "Div" else number
        return name, 1.0

    def projected(self, name: str) -> tuple[str, Array, Array] | None:
        """(input, weights [c, n], bias [n]) of a product with constant weights."""
        node = self.maker(name, "Dense", "MatMul")
        if node is None:
            return None
        weights = self.g.constant(node.input[1])
        bias = self.g.constant(node.input[2]) if node.op_type == "Dense" else None
        if weights is None or weights.ndim != 2 or (node.op_type == "Dense" and bias is None):
            return None
        return node.input[0], weights, np.zeros(weights.shape[1], weights.dtype) if bias is None else bias

    def heads(self, name: str, *orders: list[int]) -> tuple[str, Array, Array] | None:
        """The projection whose heads are split off in `name`; one of three where one product makes them all."""
        node = self.g.makers.get(name)
        if node is not None and node.op_type == "Transpose":
            before = self.moved(name, *orders)
            reshape = None if before is None else self.maker(before, "Reshape")
            return None if reshape is None else self.projected(reshape.input[0])
        return self._of_three(name)

    def _of_three(self, name: str) -> tuple[str, Array, Array] | None:
        node = self.maker(name, "Squeeze", "Gather")
        if node is None:
            return None
        source, place = node.input[0], None
        if node.op_type == "Gather":
            index = self.g.constant(node.input[1])
            place = int(index.reshape(-1)[0]) if index is not None and index.size == 1 else None
            if attribute(node, "axis", 0) != 0:
                return None
        else:
            split = self.maker(source, "Split")
            if split is None or attribute(split, "axis", 0) != 0 or len(split.output) != 3:
                return None
            place, source = list(split.output).index(source), split.input[0]
        before = self.moved(source, THREE)
        reshape = None if before is None else self.maker(before, "Reshape")
        whole = None if reshape is None else self.projected(reshape.input[0])
        if whole is None or place is None or place not in (0, 1, 2) or whole[1].shape[1] % 3:
            return None
        n = whole[1].shape[1] // 3
        return whole[0], whole[1][:, place * n : (place + 1) * n], whole[2][place * n : (place + 1) * n]


def find(g: Rewriter) -> None:
    """The pass: every attention whose heads an output projection joins becomes `edgedl::MultiHeadAttention`."""
    for node in list(g.nodes.values()):
        if node.op_type in ("Dense", "MatMul") and id(node) in g.nodes:
            _one(g, node)


def _one(g: Rewriter, root: Any) -> None:
    f = Found(g)
    joined = f.projected(root.output[0])
    reshape = None if joined is None else f.maker(joined[0], "Reshape")
    inner = None if reshape is None else f.moved(reshape.input[0], SWAPPED)
    product = None if inner is None else f.maker(inner, "MatMul")
    softmax = None if product is None else f.maker(product.input[0], "Softmax")
    if joined is None or product is None or softmax is None or attribute(softmax, "axis", -1) not in (-1, 3):
        return
    value = f.heads(product.input[1], SWAPPED)
    scores, outer = f.scaled(softmax.input[0])
    dots = f.maker(scores, "MatMul")
    if value is None or dots is None:
        return
    left, inside = f.scaled(dots.input[0])
    right, behind = f.scaled(dots.input[1])
    query = f.heads(left, SWAPPED)
    key = _key(f, right)
    if query is None or key is None:
        return
    scale = outer * inside * behind
    size = round(1 / scale**2)
    width = query[1].shape[1]
    shapes = {p[1].shape[1] for p in (query, key, value)} | {joined[1].shape[0]}
    exact = size > 0 and math.isclose(scale, size**-0.5, rel_tol=CLOSE)
    if not exact or shapes != {width} or width % size or key[0] != value[0] or not _ours(g, root, f.nodes):
        return
    sequences = [g.shape(name) for name in (query[0], key[0])]
    if any(s is None or len(s) != 3 for s in sequences):
        return
    weights = [g.add(np.ascontiguousarray(a), f"{root.output[0]}_{i}") for i, a in enumerate(
        part for projection in (query, key, value, joined) for part in projection[1:])]  # fmt: skip
    g.replace(root, "MultiHeadAttention", [query[0], key[0], *weights], domain="edgedl", heads=width // size)


def _key(f: Found, name: str) -> tuple[str, Array, Array] | None:
    """The projection of the keys, whose last two axes are swapped for the product."""
    node = f.g.makers.get(name)
    order = list(attribute(node, "perm", ())) if node is not None and node.op_type == "Transpose" else None
    if order == [0, 2, 3, 1]:  # both steps in one
        return f.heads(name, [0, 2, 3, 1])
    before = f.moved(name, [0, 1, 3, 2])
    if before is None:
        return None
    before, scale = f.scaled(before)
    return f.heads(before, SWAPPED) if scale == 1.0 else None


def _ours(g: Rewriter, root: Any, nodes: list[Any]) -> bool:
    """Whether nothing else reads what these nodes make, but for its shape."""
    own = {id(n) for n in nodes}
    for node in nodes:
        for name in () if node is root else node.output:
            others = [r for i, r in g.readers.get(name, {}).items() if i not in own and r.op_type != "Shape"]
            if name in g.outputs or others:
                return False
    return True


__all__ = ["find"]
