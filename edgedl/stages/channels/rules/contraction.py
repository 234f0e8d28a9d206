"""Rules of products that sum over axes, all by one index notation: EinsumDense, einsum, matmul, dot, tensordot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..call import Call, Shape, Shrunk, Traced
from ..units import Axis, Label
from . import rule

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """A factor: an index (a letter) for each axis, its sizes and its units."""

    term: str
    shape: Shape
    label: Label


def operand(term: str, value: Any) -> Operand:
    """A factor from an argument of a call: a tensor with units, or an array, whose axes are fixed."""
    if isinstance(value, Traced):
        return Operand(term, value.shape, value.label)
    shape = tuple(np.shape(value))
    return Operand(term, shape, (None,) * len(shape))


def contracted(call: Call, operands: Sequence[Operand], out: str, *, counts: bool = True) -> Label:
    """Unite the units of the same index; the label of the result. An index of length 1 beside a longer one is spread."""
    sizes: dict[str, int] = {}
    for one in operands:
        for index, size in zip(one.term, one.shape, strict=True):
            sizes[index] = max(sizes.get(index, 1), 1 if size is None else size)
    label: dict[str, Axis] = {}
    for one in operands:
        for index, size, ids in zip(one.term, one.shape, one.label, strict=True):
            if size == 1 < sizes[index]:
                call.freeze(ids, f"at {call.path} it is spread over others")
            else:
                label[index] = call.unite(label[index], ids) if index in label else ids
    if counts:
        call.work(1, (tuple(sizes.values()), tuple(label.get(index) for index in sizes)))
    return tuple(label.get(index) for index in out)


def written_out(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The terms of an einsum with letters for its ellipses, and the result's.

    >>> written_out("...x,xy->...y", [3, 2])
    (['BAx', 'xy'], 'BAy')
    """
    left, arrow, right = re.sub(r"\s", "", equation).partition("->")
    terms = left.split(",")
    hidden = max((rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term), default=0)
    names = "ABCDEFGHIJ"[:hidden][::-1]
    full = [
        term.replace("...", names[len(names) - (rank - len(term) + 3) :])
        for term, rank in zip(terms, ranks, strict=True)
    ]
    if not arrow:
        joined = "".join(full)
        right = "..." * bool(hidden) + "".join(sorted(i for i in set(left) - set(",.") if joined.count(i) == 1))
    return full, right.replace("...", names)


def _diagonal(terms: Sequence[str]) -> bool:
    return any(len(set(term)) < len(term) for term in terms)


# --- layers


def _output_shape(shrunk: Shrunk) -> Any:
    config = shrunk.op.get_config()
    before = config["output_shape"]
    sizes = [before] if isinstance(before, int) else list(before)
    after, label = shrunk.outputs[0][-len(sizes) :], shrunk.call.outputs[0][-len(sizes) :]
    new = [now if ids is not None and old is not None else old
           for old, now, ids in zip(sizes, after, label, strict=True)]  # fmt: skip
    return shrunk.remade(output_shape=new[0] if isinstance(before, int) else tuple(new))


@rule("EinsumDense", resize=_output_shape)
def einsum_dense(call: Call) -> Sequence[Label]:
    """A dense layer by an equation: new units for every index that only the kernel has."""
    kernel = call.op.kernel
    (term, factor), out = written_out(call.op.equation, [len(call.x.shape), len(kernel.shape)])
    if _diagonal((term, factor)):
        return call.leave_alone("its equation takes a diagonal")
    known = dict(zip(term, call.x.label, strict=True))
    label = tuple(known[i] if i in known else call.fresh(n) for i, n in zip(factor, kernel.shape, strict=True))
    result = contracted(call, [operand(term, call.x), Operand(factor, tuple(kernel.shape), label)], out)
    call.weight("kernel", label)
    bias = call.op.bias
    if bias is not None:
        rank = len(bias.shape)
        axes = zip(out[-rank:], bias.shape, result[-rank:], strict=True)
        call.weight("bias", tuple(ids if index in call.op.bias_axes else None for index, _, ids in axes))
    return [result]


def _dot(call: Call) -> Sequence[Label]:
    """keras.layers.Dot: over one axis of each, with the batch in common."""
    axes = [call.op.axes] * 2 if isinstance(call.op.axes, int) else list(call.op.axes)
    one, other = call.inputs
    first = LETTERS[: len(one.shape)]
    second = list(LETTERS[len(first) : len(first) + len(other.shape)])
    i, j = (a % len(t.shape) for a, t in zip(axes, call.inputs, strict=True))
    if call.op.normalize:
        call.units.mix(one.label[i])
        call.units.mix(other.label[j])
    second[0], second[j] = first[0], first[i]
    out = "".join(c for c in first if c != first[i]) + "".join(c for c in second if c not in (first[0], first[i]))
    label = contracted(call, [operand(first, one), operand("".join(second), other)], out)
    return [(*label, None) if len(label) == 1 else label]


# --- keras.ops


def _factors(call: Call) -> tuple[Any, Any]:
    names = [*call.args, *call.kwargs.values()]
    return names[0], names[1]


@rule("Dot")
def dot(call: Call) -> Sequence[Label]:
    """The layer, or keras.ops.dot: the last axis of one with the last but one of the other."""
    if hasattr(call.op, "axes"):
        return _dot(call)
    x, y = _factors(call)
    a, b = len(x.shape), len(y.shape)
    if not a or not b:
        return [broadcast_scalar(call, x if a else y)]
    first = LETTERS[:a]
    second = list(LETTERS[a : a + b])
    second[max(b - 2, 0)] = first[-1]
    out = first[:-1] + "".join(c for c in second if c != first[-1])
    return [contracted(call, [operand(first, x), operand("".join(second), y)], out)]


def broadcast_scalar(call: Call, tensor: Any) -> Label:
    """A product with a number."""
    return tensor.label if isinstance(tensor, Traced) else (None,) * len(call.shapes[0])


@rule("Matmul")
def matmul(call: Call) -> Sequence[Label]:
    """numpy's matmul: leading axes are broadcast."""
    x, y = _factors(call)
    a, b = len(x.shape), len(y.shape)
    lead = LETTERS[: max(a, b, 2) - 2][::-1]
    first = (lead[len(lead) - (a - 2) :] if a > 2 else "") + ("mk" if a > 1 else "k")
    second = (lead[len(lead) - (b - 2) :] if b > 2 else "") + ("kn" if b > 1 else "k")
    out = lead + ("m" if a > 1 else "") + ("n" if b > 1 else "")
    return [contracted(call, [operand(first, x), operand(second, y)], out)]


@rule("Einsum")
def einsum(call: Call) -> Sequence[Label]:
    """keras.ops.einsum."""
    values = [v for v in call.args if not isinstance(v, str)]
    terms, out = written_out(call.op.subscripts, [len(v.shape) for v in values])
    if _diagonal(terms):
        return call.leave_alone("its equation takes a diagonal")
    return [contracted(call, [operand(t, v) for t, v in zip(terms, values, strict=True)], out)]


@rule("Tensordot")
def tensordot(call: Call) -> Sequence[Label]:
    """keras.ops.tensordot over one or several axes."""
    x, y = _factors(call)
    a, b = len(x.shape), len(y.shape)
    axes = call.op.axes
    if isinstance(axes, int):
        left, right = list(range(a - axes, a)), list(range(axes))
    else:
        left, right = ([int(i) for i in np.atleast_1d(v)] for v in axes)
    first, second = list(LETTERS[:a]), list(LETTERS[a : a + b])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    summed = {first[i] for i in left}
    out = "".join(c for c in [*first, *second] if c not in summed)
    return [contracted(call, [operand("".join(first), x), operand("".join(second), y)], out, counts=False)]
