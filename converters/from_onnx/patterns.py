"""Rewriting of an ONNX graph before the walk: what exporters wrote out in small operators becomes the operator it means.

A table of passes in the order in which they run. Each is safe by itself: what it removes is read by nobody else, its
constants are checked, and a graph that differs from the pattern in anything is left alone. BatchNormalization is not
folded: it stays trainable. Chains of Identity, Dropout, Reshape and Transpose need no pass: they only relabel axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ...artifact import Array
from .. import _onnx
from . import attention
from .rewriting import CLOSE, Apply, Either, Match, Reduced, Rewriter, attribute, becomes, rewrite

DOMAIN = "edgedl"  # of operators that only exist between this and the table

# --- activations

_SOFTPLUS = ("Log", ("Add", ("Exp", "x"), 1.0))
_SIXTH = 1 / 6
_RAISED = ("Clip", ("Add", "x", 3.0), 0.0, 6.0)
_HARD_SIGMOID = Either(
    ("Div", _RAISED, 6.0), ("Mul", _RAISED, _SIXTH), ("Clip", ("Add", ("Mul", "x", _SIXTH), 0.5), 0.0, 1.0),
    ("Clip", ("Add", ("Div", "x", 6.0), 0.5), 0.0, 1.0),
)  # fmt: skip
_HARD_SWISH = Either(
    ("Mul", "x", _HARD_SIGMOID), ("Div", ("Mul", "x", _RAISED), 6.0), ("Mul", ("Mul", "x", _RAISED), _SIXTH),
    ("Mul", ("Mul", "x", _SIXTH), _RAISED), ("Mul", ("Div", "x", 6.0), _RAISED), ("Mul", "x", ("HardSigmoid", "x")),
)  # fmt: skip


def _halved(gate: Any) -> Either:
    """0.5 * x * gate, however it is put in brackets."""
    return Either(
        ("Mul", ("Mul", "x", gate), 0.5), ("Mul", ("Mul", "x", 0.5), gate), ("Mul", "x", ("Mul", gate, 0.5)),
        ("Div", ("Mul", "x", gate), 2.0), ("Mul", ("Div", "x", 2.0), gate), ("Mul", "x", ("Div", gate, 2.0)),
    )  # fmt: skip


_ERF = ("Erf", Either(("Div", "x", math.sqrt(2)), ("Mul", "x", math.sqrt(0.5))))
_CUBE = Either(("Pow", "x", 3.0), ("Mul", "x", ("Mul", "x", "x")), ("Mul", "x", ("Pow", "x", 2.0)))
_K = 0.044715
_CUBIC = Either(
    ("Mul", _CUBE, _K), ("Mul", "x", ("Mul", "x", ("Mul", "x", _K))), ("Mul", ("Mul", "x", "x"), ("Mul", "x", _K))
)
_SQUARED = Either(("Mul", ("Mul", "x", _K), "x"), ("Mul", ("Mul", "x", "x"), _K), ("Mul", ("Pow", "x", 2.0), _K))
_ROOT = math.sqrt(2 / math.pi)
_TANH = ("Tanh", Either(
    ("Mul", ("Add", "x", _CUBIC), _ROOT), ("Mul", ("Mul", "x", _ROOT), ("Add", _SQUARED, 1.0)),
    ("Mul", "x", ("Mul", ("Add", _SQUARED, 1.0), _ROOT)), ("Mul", ("Mul", "x", ("Add", _SQUARED, 1.0)), _ROOT),
))  # fmt: skip
_RECTIFIED = ("Relu", "x")
_MIRRORED = ("Relu", ("Neg", "x"))


def _hard_swish(g: Rewriter, root: Any, match: Match) -> bool:
    for node in match.nodes:
        if node.op_type == "HardSigmoid":
            exact = math.isclose(attribute(node, "alpha", 0.2), _SIXTH, rel_tol=CLOSE)
            if not exact or attribute(node, "beta", 0.5) != 0.5:
                return False
    g.replace(root, "HardSwish", [match["x"]])
    return True


def _leaky_relu(g: Rewriter, root: Any, match: Match) -> bool:
    slope = g.constant(match["$a"])
    if slope is None or slope.size != 1 or not 0 <= float(slope.reshape(-1)[0]) <= 1:
        return False
    g.replace(root, "LeakyRelu", [match["x"]], alpha=float(slope.reshape(-1)[0]))
    return True


def _prelu(sign: float) -> Apply:
    def apply(g: Rewriter, root: Any, match: Match) -> bool:
        slope = g.constant(match["$a"])
        if slope is None or slope.dtype.kind != "f":
            return False
        g.replace(root, "PRelu", [match["x"], g.add((sign * slope).astype(slope.dtype), match["$a"])])
        return True

    return apply


def _clip_of_two(g: Rewriter, root: Any, match: Match) -> bool:
    low, high = (g.constant(match[k]) for k in ("$low", "$high"))
    if low is None or high is None or low.size != 1 or high.size != 1 or low > high:
        return False
    g.replace(
        root, "Clip", [match["x"], g.add(low.reshape(()), match["$low"]), g.add(high.reshape(()), match["$high"])]
    )
    return True


def _relu_six(g: Rewriter, root: Any, match: Match) -> bool:
    high = g.constant(match["$high"])
    if high is None or high.size != 1 or not float(high.reshape(-1)[0]) > 0:
        return False
    zero = g.add(np.zeros((), high.dtype), match["$high"])
    g.replace(root, "Clip", [match["x"], zero, g.add(high.reshape(()), match["$high"])])
    return True


# --- normalization

_DEVIATION = ("Sub", "x", Reduced(("ReduceMean", "x")))
_POWER = Either(
    ("ReduceMean", Either(("Pow", _DEVIATION, 2.0), ("Mul", _DEVIATION, _DEVIATION))),
    ("ReduceMean", ("Pow", ("Sub", Reduced(("ReduceMean", "x")), "x"), 2.0)),
)
_SUM = ("Mul", ("ReduceSum", "x"), "$n")
_MOMENTS = Either(  # E[x^2] - E[x]^2, as flax writes it
    ("Sub", ("Mul", ("ReduceSum", ("Mul", "x", "x")), "$n"), ("Mul", _SUM, _SUM)),
    ("Sub", ("ReduceMean", ("Mul", "x", "x")), ("Mul", ("ReduceMean", "x"), ("ReduceMean", "x"))),
)


def _root(variance: Any) -> Any:
    return ("Sqrt", ("Add", Reduced(variance), "$eps"))


def _normalized(deviation: Any, variance: Any) -> tuple[Either, Either]:
    """deviation / sqrt(variance + eps) with and without scale, however the scale is put in brackets."""
    root = _root(variance)
    inverse = Either(("Reciprocal", root), ("Div", 1.0, root), ("Pow", ("Add", Reduced(variance), "$eps"), -0.5))
    plain = Either(("Div", deviation, root), ("Mul", deviation, inverse))
    return Either(("Mul", plain, "$scale"), ("Mul", deviation, ("Mul", inverse, "$scale"))), plain


_FLAX = ("Max", _MOMENTS, 0.0)
_SCALED, _PLAIN = _normalized(_DEVIATION, _POWER)
_FLAX_SCALED, _FLAX_PLAIN = _normalized(
    ("Sub", "x", Reduced(Either(_SUM, ("ReduceMean", "x")))), Either(Reduced(_FLAX), _MOMENTS)
)
_INVERSE = Either(
    ("Mul", Either(("Reciprocal", _root(_POWER)), ("Div", 1.0, _root(_POWER))), "$scale"),
)
_KERAS_NORM = (  # x * s + (b - mean * s) with s = scale / sqrt(variance + eps), as tf.nn.batch_normalization writes it
    "Add", ("Mul", "x", _INVERSE), ("Sub", "$bias", ("Mul", ("ReduceMean", "x"), _INVERSE)),
)  # fmt: skip
_RMS = ("Mul", ("Mul", "x", Either(
    ("Reciprocal", ("Sqrt", ("Add", ("ReduceMean", Either(("Pow", "x", 2.0), ("Mul", "x", "x"))), "$eps"))),
    ("Div", 1.0, ("Sqrt", ("Add", ("ReduceMean", Either(("Pow", "x", 2.0), ("Mul", "x", "x"))), "$eps"))),
)), "$scale")  # fmt: skip
_L2 = ("Div", "x", Reduced(Either(
    ("Clip", ("ReduceL2", "x"), "$eps"), ("Max", ("ReduceL2", "x"), "$eps"), ("ReduceL2", "x"),
)))  # fmt: skip


def _axis(g: Rewriter, match: Match) -> int | None:
    """The one axis of every reduction in a match, counted from behind; None where they differ."""
    found: set[int] = set()
    shape = g.shape(match["x"])
    for node in match.nodes:
        if not node.op_type.startswith("Reduce"):
            continue
        axes = attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            given = g.constant(node.input[1])
            axes = None if given is None else given.reshape(-1).tolist()
        if axes is None or len(axes) != 1:
            return None
        axis = int(axes[0])
        if axis >= 0:
            if shape is None:
                return None
            axis -= len(shape)
        if not attribute(node, "keepdims", 1) and shape is None:
            return None
        found.add(axis)
    return found.pop() if len(found) == 1 else None


def _along(array: Array | None, axis: int, n: int) -> Array | None:
    """A constant as a vector along one axis (counted from behind) of length n; None where it lies otherwise."""
    if array is None or array.dtype.kind != "f":
        return None
    lengths = list(array.shape)
    if -axis <= len(lengths):
        lengths.pop(axis)
    elif array.size != 1:
        return None
    if any(m != 1 for m in lengths) or array.size not in (1, n):
        return None
    return np.broadcast_to(array.reshape(-1), (n,))


def _layer_norm(g: Rewriter, root: Any, match: Match) -> bool:
    axis, epsilon, shape = _axis(g, match), g.constant(match["$eps"]), g.shape(match["x"])
    if axis is None or epsilon is None or epsilon.size != 1:
        return False
    known = [g.constant(match[k]) for k in ("$scale", "$bias") if k in match.names]
    n = shape[axis] if shape is not None else max((a.size for a in known if a is not None), default=0)
    if not n or n < 2 or (shape is None and axis != -1):
        return False
    share = g.constant(match["$n"]) if "$n" in match.names else None
    if share is not None and not math.isclose(float(share.reshape(-1)[0]) * n, 1, rel_tol=CLOSE):
        return False
    vectors = [_along(g.constant(match[k]), axis, n) if k in match.names else v
               for k, v in (("$scale", np.ones(n, np.float32)), ("$bias", np.zeros(n, np.float32)))]  # fmt: skip
    if any(v is None for v in vectors):
        return False
    base = root.output[0]
    names = [g.add(np.asarray(v, np.float32), f"{base}_{k}") for k, v in zip(("scale", "bias"), vectors, strict=True)]
    options: dict[str, Any] = {"axis": -1, "epsilon": float(epsilon.reshape(-1)[0])}
    if axis == -1:
        g.replace(root, "LayerNormalization", [match["x"], *names], **options)
        return True
    assert shape is not None
    order = list(range(len(shape)))
    order.append(order.pop(axis))
    back = [order.index(i) for i in range(len(order))]
    make = _onnx.onnx().helper.make_node
    g.put(root, [
        make("Transpose", [match["x"]], [f"{base}_moved"], name=f"{root.name}_moved", perm=order),
        make("LayerNormalization", [f"{base}_moved", *names], [f"{base}_normalized"], name=root.name, **options),
        make("Transpose", [f"{base}_normalized"], list(root.output), name=f"{root.name}_back", perm=back),
    ])  # fmt: skip
    return True


def _rms_norm(g: Rewriter, root: Any, match: Match) -> bool:
    axis, epsilon, scale = _axis(g, match), g.constant(match["$eps"]), g.constant(match["$scale"])
    if axis != -1 or epsilon is None or epsilon.size != 1 or scale is None or scale.ndim != 1:
        return False
    g.replace(root, "RMSNormalization", [match["x"], match["$scale"]], axis=-1, epsilon=float(epsilon.reshape(-1)[0]))
    return True


def _l2_norm(g: Rewriter, root: Any, match: Match) -> bool:
    axis = _axis(g, match)
    least = g.constant(match["$eps"]) if "$eps" in match.names else None
    if axis is None or (least is not None and (least.size != 1 or float(least.reshape(-1)[0]) > 1e-6)):
        return False
    g.replace(root, "LpNormalization", [match["x"]], axis=axis, p=2)
    return True


_GROUPED = ("Reshape", ("InstanceNormalization", ("Reshape", "x", "$to"), "$one", "$zero"), "back")
_GROUP_NORM = ("Add", ("Mul", _GROUPED, "$scale"), "$bias")


def _group_norm(g: Rewriter, root: Any, match: Match) -> bool:
    """InstanceNormalization of groups as if they were channels, as PyTorch's exporter writes GroupNormalization."""
    to, one, zero = (g.constant(match[k]) for k in ("$to", "$one", "$zero"))
    shape, back = g.shape(match["x"]), g.makers.get(match["back"])
    restored = back is not None and back.op_type == "Shape" and list(back.input) == [match["x"]]
    if to is None or one is None or zero is None or shape is None or len(shape) < 3:
        return False
    if not restored and g.shape(root.output[0]) != shape:
        return False
    groups, channels = one.size, shape[1]
    vectors = [_along(g.constant(match[k]), 1 - len(shape), channels or 0) for k in ("$scale", "$bias")]
    plain = bool(np.all(one == 1)) and not zero.any() and to.size == 3 and int(to[1]) == groups and to[2] == -1
    if not plain or not channels or channels % groups or any(v is None for v in vectors):
        return False
    names = [g.add(np.asarray(v), f"{root.output[0]}_{k}") for k, v in zip(("scale", "bias"), vectors, strict=True)]
    node = next(n for n in match.nodes if n.op_type == "InstanceNormalization")
    epsilon = float(attribute(node, "epsilon", 1e-5))
    options: dict[str, Any] = {"num_groups": int(groups), "epsilon": epsilon}
    g.replace(root, "GroupNormalization", [match["x"], *names], name=node.name, **options)
    return True


# --- biases


def _bias_of_conv(g: Rewriter, root: Any, match: Match) -> bool:
    node = g.makers[match["y"]]
    if node.op_type not in ("Conv", "ConvTranspose") or not g.inner(root, [root, node]):
        return False
    weights, bias = g.constant(node.input[1]), g.constant(match["$b"])
    if weights is None or bias is None or bias.dtype.kind != "f" or weights.ndim < 3:
        return False
    transposed = node.op_type == "ConvTranspose"
    channels = weights.shape[1] * attribute(node, "group", 1) if transposed else weights.shape[0]
    vector = _along(bias, 1 - weights.ndim, channels)
    if vector is None or bias.ndim > weights.ndim:
        return False
    return _with_bias(g, root, node, vector, channels)


def _with_bias(g: Rewriter, root: Any, node: Any, vector: Array, n: int) -> bool:
    if len(node.input) > 2 and node.input[2]:
        own = g.constant(node.input[2])
        if own is None or own.size != n:
            return False
        vector = vector + own.reshape(-1)
    name = g.add(vector.astype(vector.dtype), f"{root.output[0]}_bias")
    _again(g, root, node, node.op_type, [*node.input[:2], name])
    return True


def _again(g: Rewriter, root: Any, node: Any, op: str, inputs: Sequence[str], domain: str = "") -> None:
    """`node` with other inputs in the place of `root`."""
    made = type(node)()
    made.CopyFrom(node)
    made.op_type, made.domain = op, domain
    made.ClearField("input")
    made.ClearField("output")
    made.input.extend(inputs)
    made.output.extend(root.output)
    g.put(root, [made])


def _bias_of_product(g: Rewriter, root: Any, match: Match) -> bool:
    node = g.makers[match["y"]]
    if node.op_type not in ("MatMul", "Gemm") or not g.inner(root, [root, node]):
        return False
    weights, bias = g.constant(node.input[1]), g.constant(match["$b"])
    if (
        weights is None
        or weights.ndim != 2
        or bias is None
        or bias.dtype.kind != "f"
        or g.constant(node.input[0]) is not None
    ):
        return False
    n = weights.shape[0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1]
    shape = g.shape(node.output[0])
    rank = 2 if node.op_type == "Gemm" else len(shape) if shape is not None else 1
    vector = _along(bias, -1, n)
    if vector is None or bias.ndim > rank:
        return False
    if node.op_type == "MatMul":
        _again(g, root, node, "Dense", [*node.input, g.add(vector, f"{root.output[0]}_bias")], DOMAIN)
        return True
    if len(node.input) > 2 and node.input[2] and attribute(node, "beta", 1.0) != 1.0:
        return False
    if any(a.name == "beta" for a in node.attribute) and attribute(node, "beta", 1.0) != 1.0:
        return False
    return _with_bias(g, root, node, vector, n)


# --- channels

_UNARY = frozenset(  # what may stand between a convolution and the shuffle of its channels
    {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Clip", "HardSwish", "HardSigmoid", "Softplus", "Identity"}
    | {"Swish", "Mish", "Gelu"}
)


def pixel_shuffle(g: Rewriter) -> None:
    """The channels (c, r, r) of a convolution before a shuffle of pixels lie as (r, r, c), so that none has to move."""
    for node in list(g.nodes.values()):
        block = _shuffled(g, node)
        conv = None if block is None else _conv_before(g, node.input[0])
        weights = None if conv is None else g.constant(conv.input[1])
        plain = conv is not None and attribute(conv, "group", 1) == 1 and weights is not None and weights.ndim == 4
        if conv is None or block is None or weights is None or not plain or weights.shape[0] <= math.prod(block):
            continue
        known = len(conv.input) < 3 or not conv.input[2] or g.constant(conv.input[2]) is not None
        if known and weights.shape[0] % math.prod(block) == 0:
            _again(g, conv, conv, "Conv", list(conv.input), DOMAIN)
            g.makers[conv.output[0]].attribute.append(_onnx.onnx().helper.make_attribute("block", block))


def _shuffled(g: Rewriter, node: Any) -> list[int] | None:
    """The blocks that a node makes of the channels (c, r, r)."""
    if node.domain not in ("", "ai.onnx") or not node.input:
        return None
    if node.op_type == "DepthToSpace":
        n = int(attribute(node, "blocksize", 0))
        return [n, n] if attribute(node, "mode", b"DCR") == b"CRD" and n > 1 else None
    readers = list(g.readers.get(node.output[0], {}).values()) if node.op_type == "Reshape" else []
    moved = len(readers) == 1 and readers[0].op_type == "Transpose" and node.output[0] not in g.outputs
    if not moved or list(attribute(readers[0], "perm", ())) != [0, 1, 4, 2, 5, 3]:
        return None
    shape = g.shape(node.output[0])
    block = None if shape is None or len(shape) != 6 else shape[2:4]
    return None if block is None or None in block else [int(n or 0) for n in block]


def _conv_before(g: Rewriter, name: str) -> Any:
    """The convolution that makes `name`, which nothing else reads, with nothing but activations between."""
    for _ in range(4):
        node = g.makers.get(name)
        if node is None or node.domain not in ("", "ai.onnx") or len(g.readers.get(name, {})) != 1 or name in g.outputs:
            return None
        if node.op_type == "Conv":
            return node
        if node.op_type not in _UNARY:
            return None
        name = node.input[0]
    return None


_SUMMED = ("Add", "y", "$b")


def _behind(apply: Apply, *ops: str) -> Apply:
    def guarded(g: Rewriter, root: Any, match: Match) -> bool:
        maker = g.makers.get(match["y"])
        return maker is not None and maker.op_type in ops and maker.domain in ("", "ai.onnx") and apply(g, root, match)

    return guarded


_THINNED = ("Slice", ("Slice", "x", "$b", "$e", "$a", "$s"), "$begin", "$end", "$axis", "$step")


def _slice_of_both(g: Rewriter, root: Any, match: Match) -> bool:
    """Every s-th entry of one axis, then of another, in one operator."""
    inner, outer = ([g.constant(match[k]) for k in keys] for keys in (_THINNED[1][2:], _THINNED[2:]))
    given = [array.reshape(-1) for array in (*inner, *outer) if array is not None]
    if any(len(array) != 1 for array in given):
        return False
    starts, ends, axes, steps = (np.concatenate(pair) for pair in zip(given[:4], given[4:], strict=True))
    alike = steps[0] == steps[1] > 1 and not starts.any() and axes[0] != axes[1] and (axes[0] < 0) == (axes[1] < 0)
    if not alike:
        return False
    names = [
        g.add(array.astype(np.int64), match[k])
        for array, k in zip((starts, ends, axes, steps), _THINNED[2:], strict=True)
    ]
    g.replace(root, "Slice", [match["x"], *names])
    return True


PASSES: tuple[tuple[str, Callable[[Rewriter], None]], ...] = (
    ("softplus", rewrite(_SOFTPLUS, becomes("Softplus", "x"))),
    ("mish", rewrite(("Mul", "x", ("Tanh", ("Softplus", "x"))), becomes("Mish", "x"))),
    ("silu", rewrite(("Mul", "x", ("Sigmoid", "x")), becomes("Swish", "x"))),
    ("hard_swish", rewrite(_HARD_SWISH, _hard_swish)),
    ("hard_sigmoid", rewrite(_HARD_SIGMOID, becomes("HardSigmoid", "x", alpha=_SIXTH, beta=0.5))),
    ("gelu_erf", rewrite(_halved(("Add", _ERF, 1.0)), becomes("Gelu", "x"))),
    ("gelu_tanh", rewrite(_halved(("Add", _TANH, 1.0)), becomes("Gelu", "x", approximate="tanh"))),
    ("leaky_relu", rewrite(("Max", "x", ("Mul", "x", "$a")), _leaky_relu)),
    ("prelu_sub", rewrite(("Sub", _RECTIFIED, ("Mul", _MIRRORED, "$a")), _prelu(1.0))),
    ("prelu_add", rewrite(("Add", _RECTIFIED, ("Mul", _MIRRORED, "$a")), _prelu(-1.0))),
    ("relu_min", rewrite(("Min", _RECTIFIED, "$high"), _relu_six)),
    ("min_max", rewrite(("Min", ("Max", "x", "$low"), "$high"), _clip_of_two)),
    ("keras_norm", rewrite(_KERAS_NORM, _layer_norm)),
    ("layer_norm_bias", rewrite(("Add", Either(_SCALED, _PLAIN), "$bias"), _layer_norm)),
    ("layer_norm_scale", rewrite(_SCALED, _layer_norm)),
    ("layer_norm", rewrite(_PLAIN, _layer_norm)),
    ("flax_norm_bias", rewrite(("Add", Either(_FLAX_SCALED, _FLAX_PLAIN), "$bias"), _layer_norm)),
    ("flax_norm_scale", rewrite(_FLAX_SCALED, _layer_norm)),
    ("flax_norm", rewrite(_FLAX_PLAIN, _layer_norm)),
    ("rms_norm", rewrite(_RMS, _rms_norm)),
    ("l2_norm", rewrite(_L2, _l2_norm)),
    ("group_norm", rewrite(_GROUP_NORM, _group_norm)),
    ("bias_of_conv", rewrite(_SUMMED, _behind(_bias_of_conv, "Conv", "ConvTranspose"))),
    ("bias_of_product", rewrite(_SUMMED, _behind(_bias_of_product, "MatMul", "Gemm"))),
    ("pixel_shuffle", pixel_shuffle),
    ("slices", rewrite(_THINNED, _slice_of_both)),
    ("attention", attention.find),
)


def applied(proto: Any, *, without: Collection[str] = ()) -> Any:
    """A ModelProto in which the patterns of the table are single operators; the same one where there are none.

    The names of what survives, and of everything an output is called, stay as they are. `without`: passes to leave out.
    """
    g = Rewriter.of(proto)
    attention.know_constants(g)
    for name, run in PASSES:
        if name not in without:
            run(g)
    return g.model()


__all__ = ["DOMAIN", "PASSES", "applied"]
