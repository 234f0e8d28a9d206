"""Multi-head attention written out (Vaswani et al., 2017), found in an ONNX graph, so that it becomes one Keras layer.

softmax(scale * q k^T + mask) v with q, k and v projected from a sequence by constant weights, separately or by one product,
and the heads joined by another. How the heads are split off and joined (Reshape, Transpose, Gather, ... in any order, the
batch first or second) is found by carrying numbered entries through those nodes, so that it is known, not guessed: which
columns of the weights make which entry of which head. Anything else leaves the graph as it is, which is right as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...artifact import Array
from .. import _onnx
from .fold import folded
from .node import Node, Unsupported
from .rewriting import CLOSE, Rewriter, attribute
from .value import Value

MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Split", "Slice", "Identity", "Flatten"})
SIZES = frozenset(  # what sizes and scales are computed by
    {"Shape", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Add", "Sub", "Mul", "Div", "Mod", "Sqrt"}
    | {"Pow", "Reshape", "Identity", "Reciprocal", "Trilu", "Expand", "ConstantOfShape", "Where", "Equal"}
)
MEMBERS = 2  # of the batch that is numbered
MOST = 1 << 24  # entries that are numbered
DEEP = 64  # nodes in a chain
SMALL = 64  # entries of a size
MASKING = -1e3  # what is added where a mask hides; exp of it is 0
FLIPPED = [1, 0, 2]
WHOLE = (9, 6, 7)  # the element types bool, int32 and int64 of masks


@dataclass(frozen=True, slots=True)
class Chain:
    """Nodes that only move (or scale) what `source` is, in their order, and by how much they scale."""

    source: str
    nodes: tuple[tuple[Any, str], ...]  # with the output that is read on
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Sequence:
    """A tensor `[n, t, c]`, or `[t, n, c]` where `flipped`."""

    name: str
    flipped: bool
    members: int
    length: int

    @property
    def numbers(self) -> Array:
        """One for each token, `[n, t]`."""
        return np.arange(self.members * self.length).reshape(self.members, self.length)


@dataclass(frozen=True, slots=True)
class Mask:
    """What a query sees: the keys where `visible` [n, 1, t or 1, s] is true (or not zero), or those before it."""

    visible: str = ""
    causal: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Queries, keys or values: what they are made of, by which weights, `[h, d]` of each token."""

    sequence: Sequence
    kernel: Array  # [c, h * d]
    bias: Array
    heads: int
    scale: float
    rank: int
    nodes: tuple[Any, ...]


@dataclass(slots=True)
class Finder:
    """A graph and what was computed of its sizes, for a batch of MEMBERS."""

    g: Rewriter
    opset: int
    types: dict[str, int]  # of the graph's inputs
    values: dict[str, Array | None] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, g: Rewriter) -> Finder:
        opset = next((i.version for i in g.proto.opset_import if i.domain in ("", "ai.onnx")), 13)
        return cls(g, opset, {i.name: i.type.tensor_type.elem_type for i in g.proto.graph.input})

    # --- sizes

    def value(self, name: str, depth: int = DEEP, *, most: int = SMALL) -> Array | None:
        """An array that is constant, or computed from sizes with at most so many entries; None for anything else."""
        if name not in self.values:
            constant = self.g.constant(name)
            self.values[name] = self._value(name, depth, most) if constant is None else constant
        return self.values[name]

    def _value(self, name: str, depth: int, most: int) -> Array | None:
        node = self.g.makers.get(name)
        if not depth or node is None or node.op_type not in SIZES or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Shape":
            shape = self.shape(node.input[0], depth - 1)
            if shape is None or attribute(node, "start", 0) or attribute(node, "end") is not None:
                return None
            return np.asarray(shape, np.int64)
        inputs = [self.value(n, depth - 1, most=most) if n else None for n in node.input]
        if any(n and (v is None or v.size > most) for n, v in zip(node.input, inputs, strict=True)):
            return None
        grows = node.op_type in ("Expand", "ConstantOfShape") and inputs[-1] is not None
        if grows and math.prod(int(n) for n in np.asarray(inputs[-1]).reshape(-1).tolist()) > most:
            return None
        return self.run(node, inputs, name)

    def run(self, node: Any, inputs: list[Array | None], name: str) -> Array | None:
        """The output `name` of a node of these inputs; None where it cannot be computed."""
        try:
            made = folded(Node.of(node, self.opset), [None if a is None else Value.of_constant(a) for a in inputs])
            return made[list(node.output).index(name)].array
        except Unsupported:
            return None

    def shape(self, name: str, depth: int = DEEP) -> tuple[int, ...] | None:
        """The shape for a batch of MEMBERS; None where it is not known."""
        if name not in self.shapes:
            self.shapes[name] = self._shape(name, depth)
        return self.shapes[name]

    def _shape(self, name: str, depth: int) -> tuple[int, ...] | None:
        node = self.g.makers.get(name)
        if not depth:
            return None
        if node is not None and node.op_type in MOVES and node.domain in ("", "ai.onnx"):
            before = self.shape(node.input[0], depth - 1)
            made = None if before is None else self.moved(np.zeros(before, np.int8), node, name, depth - 1)
            return None if made is None else made.shape
        if self.projection(name) is not None and node is not None:
            before, n = self.shape(node.input[0], depth - 1), self.weights(node)
            return None if before is None or n is None else (*before[:-1], n[0].shape[1])
        found = self.g.shape(name)
        if found is None or found.count(None) > 1:
            return None
        sized = tuple(MEMBERS if n is None else n for n in found)
        return sized if math.prod(sized) <= MOST else None

    # --- chains

    def moved(self, array: Array, node: Any, name: str, depth: int = DEEP) -> Array | None:
        """What a node makes of numbered entries."""
        if node.op_type in ("Mul", "Div", "Identity"):
            return array
        rest = [self.value(n, depth) if n else None for n in node.input[1:]]
        if any(n and v is None for n, v in zip(node.input[1:], rest, strict=True)):
            return None
        return self.run(node, [array, *rest], name)

    def carried(self, array: Array | None, chain: Chain) -> Array | None:
        """Numbered entries at the end of a chain."""
        for node, name in chain.nodes:
            array = None if array is None else self.moved(array, node, name)
        return array

    def back(self, name: str) -> Chain:
        """The chain that ends in `name`."""
        nodes: list[tuple[Any, str]] = []
        scale = 1.0
        while len(nodes) < DEEP:
            node = self.g.makers.get(name)
            if node is None or node.domain not in ("", "ai.onnx"):
                break
            if node.op_type in MOVES:
                nodes.insert(0, (node, name))
                name = node.input[0]
                continue
            factor = self._factor(node)
            if factor is None:
                break
            nodes.insert(0, (node, name))
            name, scale = factor[0], scale * factor[1]
        return Chain(name, tuple(nodes), scale)

    def _factor(self, node: Any) -> tuple[str, float] | None:
        """What a node multiplies by a number, and that number."""
        if node.op_type not in ("Mul", "Div"):
            return None
        for at, other in ((0, 1), (1, 0))[: 1 if node.op_type == "Div" else 2]:
            array = self.value(node.input[other])
            if array is not None and array.size == 1 and 0 < float(array.reshape(-1)[0]) < math.inf:
                number = float(array.reshape(-1)[0])
                return node.input[at], 1 / number if node.op_type == "Div" else number
        return None

    def projection(self, name: str) -> Any:
        """The node that makes `name` as a product with constant weights, or None."""
        node = self.g.makers.get(name)
        if node is None or node.op_type not in ("Dense", "MatMul", "Gemm") or self.weights(node) is None:
            return None
        return node

    def weights(self, node: Any) -> tuple[Array, Array] | None:
        """(weights [c, n], bias [n]) of such a product."""
        kernel = self.g.constant(node.input[1])
        if kernel is None or kernel.ndim != 2 or kernel.dtype.kind != "f":
            return None
        bias: Array | None = None
        if node.op_type == "Gemm":
            plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
            if not plain or attribute(node, "transA", 0):
                return None
            kernel = kernel.T if attribute(node, "transB", 0) else kernel
        if len(node.input) > 2 and node.input[2]:
            bias = self.g.constant(node.input[2])
            if bias is None or bias.size not in (1, kernel.shape[1]):
                return None
        bias = np.zeros(1, kernel.dtype) if bias is None else bias.reshape(-1)
        return kernel, np.broadcast_to(bias, (kernel.shape[1],))

    # --- the parts of attention

    def sequence(self, chain: Chain) -> tuple[Sequence, Chain] | None:
        """The nearest sequence `[n, t, c]` before the end of a chain (else `[t, n, c]`), and the way from there."""
        names = [chain.source, *(name for _, name in chain.nodes)]
        found = [(s, i) for i, name in reversed(list(enumerate(names))) if (s := self._sequence(name)) is not None]
        if chain.scale != 1.0 or not found:
            return None
        best, at = next(((s, i) for s, i in found if not s.flipped), found[0])
        return best, Chain(best.name, chain.nodes[at:])

    def _sequence(self, name: str) -> Sequence | None:
        known, shape = self.g.shape(name), self.shape(name)
        if shape is None or len(shape) != 3 or (known is not None and len(known) != 3):
            return None
        batch = known.index(None) if known is not None and None in known else shape.index(1) if 1 in shape[:2] else 0
        return None if batch > 1 else Sequence(name, batch == 1, shape[batch], shape[1 - batch])

    def part(self, name: str, *, keys: bool = False) -> Part | None:
        """What the queries, keys (their last two axes swapped) or values `name` are."""
        chain = self.back(name)
        node = self.projection(chain.source)
        weights = None if node is None else self.weights(node)
        before = None if node is None else self.sequence(self.back(node.input[0]))
        if before is None or weights is None:
            return None
        (sequence, way), (kernel, bias) = before, weights
        tokens = self._tokens(sequence, way, kernel.shape[0])
        width = kernel.shape[1]
        if tokens is None or tokens.size * width > MOST:
            return None
        array = self.carried(tokens[..., None] * width + np.arange(width), chain)
        columns = None if array is None else _columns(array, sequence, width, keys=keys)
        if array is None or columns is None:
            return None
        flat = columns.reshape(-1)
        nodes = (node, *(n for n, _ in chain.nodes))
        return Part(sequence, kernel[:, flat], bias[flat], columns.shape[0], chain.scale, array.ndim, nodes)

    def _tokens(self, sequence: Sequence, way: Chain, width: int) -> Array | None:
        """The number of the token behind each row of a product's input."""
        numbers = sequence.numbers.T if sequence.flipped else sequence.numbers
        if numbers.size * width > MOST:
            return None
        array = self.carried(numbers[..., None] * width + np.arange(width), way)
        if array is None or array.ndim < 2 or array.shape[-1] != width:
            return None
        first = array[..., :1]
        whole = bool(np.all(first % width == 0)) and bool(np.array_equal(array, first + np.arange(width)))
        return first[..., 0] // width if whole else None

    def visible(self, name: str) -> Mask | None:
        """The mask that is added as `name`: (1 - m) * much below zero, or zero where m is true and else below."""
        node, shape = self.g.makers.get(name), self.shape(name)
        constant = self.value(name, most=MOST)
        if constant is not None:
            return Mask(causal=True) if _is_causal(constant) else None
        if node is None or shape is None or len(shape) != 4 or shape[1] != 1:
            return None
        if node.op_type == "Where":
            yes, no = (self.g.constant(n) for n in node.input[1:])
            return Mask(node.input[0]) if _all(yes, 0) and _hides(no) else None
        for m, low in (node.input, node.input[::-1]) if node.op_type == "Mul" else ():
            inverse = self.g.makers.get(m)
            if _hides(self.g.constant(low)) and inverse is not None and inverse.op_type == "Sub":
                cast = self.g.makers.get(inverse.input[1])
                if cast is None or cast.op_type != "Cast" or not _all(self.g.constant(inverse.input[0]), 1):
                    return None
                return Mask(cast.input[0]) if self._is_whole(cast.input[0]) else None
        return None

    def _is_whole(self, name: str) -> bool:
        """Whether these are entries of an input of whole numbers, or truths."""
        return self.types.get(self.back(name).source) in WHOLE


def _all(array: Array | None, number: float) -> bool:
    return array is not None and bool(np.all(array == number))


def _hides(array: Array | None) -> bool:
    return array is not None and array.size == 1 and float(array.reshape(-1)[0]) <= MASKING


def _is_causal(array: Array) -> bool:
    """Whether what is added hides all that comes later, and nothing else."""
    if array.ndim < 2 or not 1 < array.shape[-1] == array.shape[-2] or array.size != array.shape[-1] ** 2:
        return False
    matrix = array.reshape(array.shape[-2:])
    later = np.triu(np.ones_like(matrix, bool), 1)
    return bool(np.all(matrix[~later] == 0) and np.all(matrix[later] <= MASKING))


def _columns(array: Array, sequence: Sequence, width: int, *, keys: bool) -> Array | None:
    """The columns of the weights, `[h, d]`, that make each head of `[n, h, t, d]` or `[n * h, t, d]`."""
    array = array.swapaxes(-1, -2) if keys else array
    if array.ndim == 3 and array.shape[0] % sequence.members == 0:
        array = array.reshape(sequence.members, -1, *array.shape[1:])
    if array.ndim != 4 or array.shape[0] != sequence.members or array.shape[2] != sequence.length:
        return None
    columns = array[0, :, 0]
    same = np.array_equal(array, sequence.numbers[:, None, :, None] * width + columns[None, :, None, :])
    return columns if same and columns.min() >= 0 and columns.max() < width else None


@dataclass(frozen=True, slots=True)
class Joined:
    """How the heads come together: the rows of the output's weights as `[h * d]`, tokens flipped or not, and its rank."""

    rows: Array
    flipped: bool
    rank: int


def _joined(f: Finder, chain: Chain, q: Part, v: Part) -> Joined | None:
    n, t, h = q.sequence.members, q.sequence.length, q.heads
    d = v.kernel.shape[1] // h
    if n * t * h * d > MOST or chain.scale != 1.0:
        return None
    start = np.arange(n * h * t * d).reshape((n, h, t, d) if v.rank == 4 else (n * h, t, d))
    array = f.carried(start, chain)
    if array is None or array.ndim not in (2, 3) or array.shape[-1] != h * d:
        return None
    b, head, token, entry = np.unravel_index(array.reshape(-1, h * d), (n, h, t, d))
    rows, tokens = head * d + entry, b * t + token
    if np.any(rows != rows[:1]) or np.any(tokens != tokens[:, :1]) or len(set(rows[0].tolist())) != h * d:
        return None
    order, numbers = tokens[:, 0], q.sequence.numbers
    for flipped, wanted in ((False, numbers), (True, numbers.T)):
        if np.array_equal(order, wanted.reshape(-1)) and (array.ndim == 2 or array.shape[:2] == wanted.shape):
            return Joined(rows[0], flipped, array.ndim)
    return None


def find(g: Rewriter) -> None:
    """The pass: every attention whose heads an output projection joins becomes `edgedl::MultiHeadAttention`."""
    if not any(n.op_type == "Softmax" for n in g.nodes.values()):
        return
    f = Finder.of(g)
    for node in list(g.nodes.values()):
        if node.op_type in ("Dense", "MatMul", "Gemm") and id(node) in g.nodes:
            _one(f, node)


def _maker(f: Finder, name: str, op: str) -> Any:
    node = f.g.makers.get(name)
    return node if node is not None and node.op_type == op and node.domain in ("", "ai.onnx") else None


def _softmax(f: Finder, name: str) -> tuple[Any, list[Any]]:
    """The Softmax that makes `name`, also with 0 for what is not a number; and the nodes after it."""
    guard = _maker(f, name, "Where")
    if guard is None:
        return _maker(f, name, "Softmax"), []
    test = _maker(f, guard.input[0], "IsNaN")
    same = test is not None and test.input[0] == guard.input[2] and _all(f.g.constant(guard.input[1]), 0)
    return (_maker(f, guard.input[2], "Softmax"), [guard, test]) if same else (None, [])


def _one(f: Finder, root: Any) -> None:
    weights = f.weights(root)
    chain = f.back(root.input[0])
    product = None if weights is None else _maker(f, chain.source, "MatMul")
    softmax, guards = (None, []) if product is None else _softmax(f, product.input[0])
    if product is None or softmax is None or attribute(softmax, "axis", -1) not in (-1, 3):
        return
    added, mask = softmax.input[0], Mask()
    total = _maker(f, added, "Add")
    if total is not None:
        found = next(((a, m) for a, b in (total.input, total.input[::-1]) if (m := f.visible(b)) is not None), None)
        if found is None:
            return
        added, mask = found
        guards.append(total)
    scores = f.back(added)
    dots = _maker(f, scores.source, "MatMul")
    if dots is None or any(n.op_type not in ("Mul", "Div", "Identity") for n, _ in scores.nodes):
        return
    q, k, v = f.part(dots.input[0]), f.part(dots.input[1], keys=True), f.part(product.input[1])
    if q is None or k is None or v is None or k.sequence != v.sequence or not q.heads == k.heads == v.heads:
        return
    joined = _joined(f, chain, q, v) if q.kernel.shape[1] == k.kernel.shape[1] and q.rank == v.rank else None
    moving = [n for part in (chain, scores) for n, _ in part.nodes]
    inner = [root, product, softmax, dots, *moving, *(n for p in (q, k, v) for n in p.nodes), *guards]
    if joined is None or (mask.visible and q.rank != 4) or not _ours(f.g, root, inner):
        return
    _put(f.g, root, (q, k, v), joined, f.weights(root), scores.scale, mask)


def _put(
    g: Rewriter, root: Any, parts: tuple[Part, Part, Part], joined: Joined, weights: Any, scale: float, mask: Mask
) -> None:
    helper, base = _onnx.onnx().helper, root.output[0]
    q, k, v = parts
    scale *= q.scale * k.scale * math.sqrt(q.kernel.shape[1] // q.heads)
    factor = 1.0 if math.isclose(scale, 1.0, rel_tol=CLOSE) else scale
    rows = np.empty_like(weights[0])
    rows[joined.rows] = weights[0] * v.scale
    arrays = [q.kernel * factor, q.bias * factor, k.kernel, k.bias, v.kernel, v.bias, rows, weights[1]]
    names = [g.add(np.ascontiguousarray(a, np.float32), f"{base}_{i}") for i, a in enumerate(arrays)]
    made, sources = [], []
    for label, part in (("query", q), ("key", k)):
        name = part.sequence.name
        if part.sequence.flipped:
            made.append(helper.make_node("Transpose", [name], [f"{base}_{label}"], perm=FLIPPED))
            name = f"{base}_{label}"
        sources.append(name)
    more = [mask.visible] if mask.visible else []
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("MultiHeadAttention", [*sources, *names, *more], {})]
    steps += [("Transpose", [], {"perm": FLIPPED})] if joined.flipped else []
    if joined.rank == 2:
        steps.append(("Reshape", [g.add(np.array([-1, rows.shape[1]], np.int64), f"{base}_rows")], {}))
    for i, (op, inputs, options) in enumerate(steps):
        output = base if i == len(steps) - 1 else f"{base}_attention_{i}"
        if op == "MultiHeadAttention":
            options = {"domain": "edgedl", "heads": q.heads, "causal": int(mask.causal), "name": root.name}
        made.append(helper.make_node(op, inputs if i == 0 else [made[-1].output[0], *inputs], [output], **options))
    g.put(root, made)


def _ours(g: Rewriter, root: Any, nodes: list[Any]) -> bool:
    """Whether nothing else reads what these nodes make, but for its shape."""
    own = {id(n) for n in nodes}
    for node in nodes:
        for name in () if node is root else node.output:
            others = [r for i, r in g.readers.get(name, {}).items() if i not in own]
            if name in g.outputs or not all(_only_shape(g, r) for r in others):
                return False
    return True


def _only_shape(g: Rewriter, node: Any, depth: int = 4) -> bool:
    """Whether a node reads nothing but a shape, at once or of what it moves."""
    if node.op_type == "Shape":
        return True
    if not depth or node.op_type not in MOVES or any(n in g.outputs for n in node.output):
        return False
    return all(_only_shape(g, r, depth - 1) for n in node.output for r in g.readers.get(n, {}).values())


def know_constants(g: Rewriter) -> None:
    """Let weights that are only moved (a packed projection, cut and transposed) be known as the constants that they are."""
    f = Finder.of(g)
    for node in g.nodes.values():
        if node.op_type in MOVES and node.domain in ("", "ai.onnx"):
            array = g.constant(node.input[0])
            for name in node.output if array is not None else ():
                if g.constant(name) is None and array is not None:
                    g.arrays[name] = f.moved(array, node, name)


__all__ = ["find", "know_constants"]
