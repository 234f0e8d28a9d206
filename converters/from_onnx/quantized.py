"""Quantized ONNX graphs: integer operators written out as float ones, and activations freed of their rounding, with ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError
from .. import _onnx
from .graph import reads

Range = tuple[float, float]
Parameters = tuple[float, int, int, int]  # scale, zero point, least and largest integer
MICROSOFT = "com.microsoft"
MOVES = frozenset(  # operators that only move what their first input holds
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather", "MaxPool"}
    | {"Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Dropout"}
)
KEEPS_SIGN = MOVES | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "Resize"}
POSITIVE = frozenset({"Relu", "Sigmoid", "Softmax", "Exp", "Abs", "HardSigmoid", "Softplus", "Sqrt"})
SIX = 0.02  # how near to 6 the end of a range is that stands for a ReLU6, as a share of it


@dataclass(slots=True)
class Unquantized:
    """A graph without the quantization of its activations."""

    proto: Any  # onnx.ModelProto of float operators, its weights dequantized
    changed: bool = False  # whether it is another graph than the one that was given
    ranges: dict[str, Range] = field(default_factory=dict)  # by value: what the integers could stand for
    inputs: dict[str, Range] = field(default_factory=dict)  # of the graph, as they are quantized first
    outputs: dict[str, tuple[float, int]] = field(default_factory=dict)  # scale and zero point of outputs, now float


def without_activation_quantization(proto: Any) -> Any:
    """A copy of a model of floats: integer operators as float ones, no QuantizeLinear of what is computed."""
    return unquantized(proto).proto


def unquantized(proto: Any) -> Unquantized:
    """The float graph that a quantized one stands for, and the real ranges of its activations.

    A range that begins at 0 stands for a ReLU where nothing else keeps its value from being negative (quantizers
    remove the ReLU there), one that ends at 6 for a ReLU6. What is not quantized is copied as it is.
    """
    whole = expanded(proto)
    copy = type(proto).FromString(whole.SerializeToString()) if whole is proto else whole
    found = _Stripper(copy).run()
    found.changed |= whole is not proto
    return found


# --- integer operators, written out


def expanded(proto: Any) -> Any:
    """The model with its QLinear and other integer operators as DequantizeLinear, a float operator, QuantizeLinear."""
    wanted = [n for n in proto.graph.node if _key(n) in EXPANSIONS]
    if not wanted:
        return proto
    copy = type(proto).FromString(proto.SerializeToString())
    work = _Expander(copy)
    nodes = []
    for node in copy.graph.node:
        work.made = []
        nodes += work.made if _is_written_out(work, node) else [node]
    kept = [type(n).FromString(n.SerializeToString()) for n in nodes]
    copy.graph.ClearField("node")
    copy.graph.node.extend(kept)
    copy.graph.ClearField("value_info")
    return copy


def _is_written_out(work: _Expander, node: Any) -> bool:
    """Whether a node was written out. Raises ModelError where its parts do not fit one another."""
    build = EXPANSIONS.get(_key(node))
    damaged: tuple[type[Exception], ...] = (ValueError, TypeError, IndexError, AttributeError, *_onnx.proto_errors())
    try:
        return build is not None and build(work, node)
    except damaged as error:
        raise ModelError(
            f"node '{node.name or node.output[0]}' ({_key(node)}) is damaged: {_onnx.last_line(error)}",
            next="export the model again",
        ) from error


def _key(node: Any) -> str:
    return str(node.op_type) if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def constants(graph: Any) -> dict[str, Any]:
    """The TensorProtos of initializers and of Constant nodes."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


class _Expander:
    """Makes the nodes that stand for one integer operator."""

    def __init__(self, proto: Any) -> None:
        self.graph = proto.graph
        self.tensors = constants(proto.graph)
        self.made: list[Any] = []
        self.count = 0

    def array(self, name: str) -> Array | None:
        """A constant, or None."""
        return _onnx.array(self.tensors[name]) if name in self.tensors else None

    def new(self, node: Any, what: str) -> str:
        self.count += 1
        return f"{node.output[0]}__{what}_{self.count}"

    def constant(self, node: Any, array: Array, what: str) -> str:
        """A new initializer."""
        name = self.new(node, what)
        self.graph.initializer.append(_onnx.onnx().numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(
        self, node: Any, op: str, inputs: Sequence[str], output: str = "", keep: Sequence[str] = (), **more: Any
    ) -> str:
        """A node of the standard operators; `keep`: attributes to copy."""
        out = output or self.new(node, op)
        made = _onnx.onnx().helper.make_node(op, list(inputs), [out], name=node.name if output else out, **more)
        made.attribute.extend(a for a in node.attribute if a.name in keep)
        self.made.append(made)
        return out

    def real(self, node: Any, x: str, scale: str, zero: str) -> str:
        """A quantized activation as floats."""
        return self.add(node, "DequantizeLinear", [x, scale, zero] if zero else [x, scale])

    def end(self, node: Any, value: str, scale: str, zero: str) -> bool:
        """The result, quantized."""
        self.made[-1].name = node.name
        self.add(node, "QuantizeLinear", [value, scale, zero] if zero else [value, scale], node.output[0])
        self.made[-1].name = f"{node.name}_quantize"
        return True

    def weight(self, node: Any, names: Sequence[str], axis: int, what: str = "weight") -> str | None:
        """A constant dequantized along `axis`; None where something of it is computed."""
        found = [self.array(n) if n else None for n in names]
        if found[0] is None or found[1] is None or (names[2] and found[2] is None):
            return None
        return self.constant(node, dequantized(found[0], found[1], found[2], axis), what)


def dequantized(array: Array, scale: Array, zero: Array | None, axis: int) -> Array:
    """(array - zero) * scale as float32, with scales for the whole or one for each entry along `axis`."""

    def along(v: Array) -> Array:
        flat = np.asarray(v).reshape(-1)
        return (
            flat if flat.size == 1 else flat.reshape([-1 if i == axis % array.ndim else 1 for i in range(array.ndim)])
        )

    centred = array.astype(np.float64) - (0 if zero is None else along(zero).astype(np.float64))
    return np.asarray(centred * along(scale).astype(np.float64), np.float32)


def _inputs(node: Any, count: int) -> list[str]:
    return [*node.input, *[""] * (count - len(node.input))]


def _attribute(node: Any, key: str, default: Any) -> Any:
    return next((_onnx.onnx().helper.get_attribute_value(a) for a in node.attribute if a.name == key), default)


def _qlinear_conv(e: _Expander, node: Any) -> bool:
    x, xs, xz, w, ws, wz, ys, yz, bias = _inputs(node, 9)
    kernel = e.weight(node, [w, ws, wz], 0)
    if kernel is None or _attribute(node, "channels_last", 0):
        return False
    names = [e.real(node, x, xs, xz), kernel]
    if bias:
        b, s, t = e.array(bias), e.array(xs), e.array(ws)
        if b is None or s is None or t is None:
            return False
        names.append(e.constant(node, dequantized(b, s.reshape(-1) * t.reshape(-1), None, 0), "bias"))
    keep = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    return e.end(node, e.add(node, "Conv", names, keep=keep), ys, yz)


def _qlinear_matmul(e: _Expander, node: Any) -> bool:
    a, s, z, w, ws, wz, ys, yz = _inputs(node, 8)
    right = e.weight(node, [w, ws, wz], -1) or e.real(node, w, ws, wz)
    return e.end(node, e.add(node, "MatMul", [e.real(node, a, s, z), right]), ys, yz)


def _qgemm(e: _Expander, node: Any) -> bool:
    a, s, z, w, ws, wz, bias, ys, yz = _inputs(node, 9)
    kernel = e.weight(node, [w, ws, wz], 0 if _attribute(node, "transB", 0) else 1)
    if kernel is None:
        return False
    names = [e.real(node, a, s, z), kernel]
    if bias:
        c, left, right = e.array(bias), e.array(s), e.array(ws)
        if c is None or left is None or right is None:
            return False
        alpha = float(_attribute(node, "alpha", 1.0))
        names.append(e.constant(node, dequantized(c, alpha * left.reshape(-1) * right.reshape(-1), None, -1), "bias"))
    out = e.add(node, "Gemm", names, "" if ys else node.output[0], keep=("alpha", "transA", "transB"))
    return e.end(node, out, ys, yz) if ys else True


def _qlinear_pair(op: str) -> Callable[[_Expander, Any], bool]:
    def build(e: _Expander, node: Any) -> bool:
        a, s, z, b, t, u, ys, yz = _inputs(node, 8)
        left = e.weight(node, [a, s, z], 0) or e.real(node, a, s, z)
        right = e.weight(node, [b, t, u], 0) or e.real(node, b, t, u)
        return e.end(node, e.add(node, op, [left, right]), ys, yz)

    return build


def _qlinear_one(op: str, *keep: str) -> Callable[[_Expander, Any], bool]:
    def build(e: _Expander, node: Any) -> bool:
        if _attribute(node, "channels_last", 0):
            return False
        x, s, z, ys, yz = _inputs(node, 5)
        return e.end(node, e.add(node, op, [e.real(node, x, s, z)], keep=keep), ys, yz)

    return build


def _qlinear_concat(e: _Expander, node: Any) -> bool:
    ys, yz, *rest = node.input
    names = [e.real(node, *rest[i : i + 3]) for i in range(0, len(rest) - 2, 3)]
    return e.end(node, e.add(node, "Concat", names, keep=("axis",)), ys, yz)


def _matmul_integer_to_float(e: _Expander, node: Any) -> bool:
    a, b, s, t, z, u, bias = _inputs(node, 7)
    right = e.weight(node, [b, t, u], -1)
    if right is None:
        return False
    return _product(e, node, e.real(node, a, s, z), right, bias)


def _dynamic_matmul(e: _Expander, node: Any) -> bool:
    a, b, t, u, bias = _inputs(node, 5)
    right = e.weight(node, [b, t, u], -1)
    return right is not None and _product(e, node, a, right, bias)


def _product(e: _Expander, node: Any, left: str, right: str, bias: str) -> bool:
    out = e.add(node, "MatMul", [left, right], "" if bias else node.output[0])
    if bias:
        e.made[-1].name = node.name
        e.add(node, "Add", [out, bias], node.output[0])
        e.made[-1].name = f"{node.name}_bias"
    return True


def _matmul_nbits(e: _Expander, node: Any) -> bool:
    a, b, s, z, order, bias = _inputs(node, 6)
    k, n, bits = (int(_attribute(node, key, d)) for key, d in (("K", 0), ("N", 0), ("bits", 4)))
    packed, scales, zeros = (e.array(name) if name else None for name in (b, s, z))
    if packed is None or scales is None or order or bits not in (2, 4, 8) or (z and zeros is None):
        return False
    return _product(e, node, a, e.constant(node, unpacked(packed, scales, zeros, k, n, bits, node), "weight"), bias)


def unpacked(packed: Array, scales: Array, zeros: Array | None, k: int, n: int, bits: int, node: Any) -> Array:
    """The [k, n] float weights of a MatMulNBits: blocks along k, low bits first; as its specification says."""
    block = int(_attribute(node, "block_size", 32))
    blocks = -(-k // max(block, 1))
    if n * blocks != scales.size or packed.size != n * blocks * block * bits // 8:
        raise ValueError(f"weights of {packed.size} bytes for {k}x{n} in blocks of {block}")
    levels = _fields(packed.reshape(n * blocks, -1), bits)[:, :block].astype(np.float32)
    middle: Any = np.float32(1 << (bits - 1))
    if zeros is not None and zeros.dtype == np.uint8:
        middle = _fields(zeros.reshape(n, -1), bits)[:, :blocks].reshape(-1, 1).astype(np.float32)
    elif zeros is not None:
        middle = zeros.reshape(-1, 1).astype(np.float32)
    real = (levels - middle) * scales.reshape(-1, 1).astype(np.float32)
    return np.asarray(real.reshape(n, -1)[:, :k].T, np.float32)


def _fields(rows: Array, bits: int) -> Array:
    """The numbers of a few bits in rows of bytes."""
    parts = [(rows >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(len(rows), -1)


EXPANSIONS: dict[str, Callable[[_Expander, Any], bool]] = {
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    f"{MICROSOFT}::QLinearConv": _qlinear_conv,
    f"{MICROSOFT}::QGemm": _qgemm,
    f"{MICROSOFT}::QLinearAdd": _qlinear_pair("Add"),
    f"{MICROSOFT}::QLinearMul": _qlinear_pair("Mul"),
    f"{MICROSOFT}::QLinearSigmoid": _qlinear_one("Sigmoid"),
    f"{MICROSOFT}::QLinearLeakyRelu": _qlinear_one("LeakyRelu", "alpha"),
    f"{MICROSOFT}::QLinearSoftmax": _qlinear_one("Softmax", "axis"),
    f"{MICROSOFT}::QLinearGlobalAveragePool": _qlinear_one("GlobalAveragePool"),
    f"{MICROSOFT}::QLinearAveragePool": _qlinear_one(
        "AveragePool", "auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"
    ),
    f"{MICROSOFT}::QLinearConcat": _qlinear_concat,
    f"{MICROSOFT}::MatMulIntegerToFloat": _matmul_integer_to_float,
    f"{MICROSOFT}::DynamicQuantizeMatMul": _dynamic_matmul,
    f"{MICROSOFT}::MatMulNBits": _matmul_nbits,
}


# --- without the rounding of activations


class _Stripper:
    """One pass over the nodes of a copy, in their order."""

    def __init__(self, proto: Any) -> None:
        self.proto, self.graph = proto, proto.graph
        self.tensors = constants(proto.graph)
        self.fixed = set(self.tensors)  # names of constants, and of what is computed from them
        self.given = {i.name for i in self.graph.input} - set(self.tensors)  # inputs, as far as they are only moved
        self.positive: set[str] = set()
        self.floats: set[str] = set()  # integers in the file, floats here
        self.readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.ones: set[str] = set()  # scales of 1 that stand for what was computed
        self.results = {o.name for o in self.graph.output}
        self.found = Unquantized(proto)

    def run(self) -> Unquantized:
        """The graph, rewritten."""
        nodes: list[Any] = []
        for node in self.graph.node:
            nodes += self._one(node)
            self._learn(node)
        kept = [type(n).FromString(n.SerializeToString()) for n in nodes]
        self.graph.ClearField("node")
        self.graph.node.extend(kept)
        self.found.changed = bool(self.floats)
        if self.floats:
            self.graph.ClearField("value_info")
        for info in self.graph.output:
            if info.name in self.floats:
                info.type.tensor_type.elem_type = _onnx.onnx().TensorProto.FLOAT
        return self.found

    def _one(self, node: Any) -> list[Any]:
        """What stands in place of a node."""
        standard = node.domain in ("", "ai.onnx", MICROSOFT)
        if standard and node.op_type == "QuantizeLinear" and node.input[0] not in self.fixed:
            return self._quantize(node)
        if standard and node.op_type == "DequantizeLinear":
            return self._dequantize(node)
        if node.op_type == "DynamicQuantizeLinear" and not node.domain:
            return self._dynamic(node)
        if node.op_type in ("MatMulInteger", "ConvInteger") and not node.domain and node.input[0] in self.floats:
            return self._integer(node)
        if node.op_type in MOVES and node.input and node.input[0] in self.floats:
            self.floats.update(node.output)
        return [node]

    def _learn(self, node: Any) -> None:
        """What is known of a node's outputs."""
        inputs = [n for n in node.input if n]
        if inputs and all(n in self.fixed for n in inputs):
            self.fixed.update(node.output)
        if node.op_type in MOVES and node.input and node.input[0] in self.given:
            self.given.update(node.output)
        if node.op_type in POSITIVE or (node.op_type == "Clip" and self._least(node) >= 0):
            self.positive.update(node.output)
        if node.op_type in KEEPS_SIGN and node.input and node.input[0] in self.positive:
            self.positive.update(node.output)
        if node.op_type in ("Add", "Mul", "Concat") and inputs and all(n in self.positive for n in inputs):
            self.positive.update(node.output)

    def _least(self, node: Any) -> float:
        if len(node.input) > 1 and node.input[1]:
            found = self.tensors.get(node.input[1])
            return -np.inf if found is None else float(_onnx.array(found).reshape(-1)[0])
        return float(_attribute(node, "min", -np.inf))

    def parameters(self, node: Any) -> Parameters | None:
        """Scale, zero point and the integers' bounds of a QuantizeLinear or DequantizeLinear; None: not constant, not one."""
        scale = self.tensors.get(node.input[1])
        zero = self.tensors.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if scale is None or (len(node.input) > 2 and node.input[2] and zero is None):
            return None
        s, z = _onnx.array(scale), np.zeros(1, np.uint8) if zero is None else _onnx.array(zero)
        if s.size != 1 or z.size != 1 or z.dtype.name not in ("int8", "uint8", "int16", "uint16"):
            return None
        info = np.iinfo(z.dtype)
        return float(s.reshape(-1)[0]), int(z.reshape(-1)[0]), info.min, info.max

    def _quantize(self, node: Any) -> list[Any]:
        known = self.parameters(node)
        if known is None or not self._only_undone(node.output[0], known):
            return [node]
        scale, zero, least, most = known
        low, high = (least - zero) * scale, (most - zero) * scale
        x, y = node.input[0], node.output[0]
        self.floats.add(y)
        self.found.ranges[y] = (low, high)
        if x in self.given and x not in self.makers:
            self.found.inputs[x] = (low, high)
        if y in self.results:
            self.found.outputs[y] = (scale, zero)
        helper = _onnx.onnx().helper
        if low < 0 or x in self.positive or x in self.given:
            self.positive |= {y} if x in self.positive else set()
            self.given |= {y} if x in self.given else set()
            return [helper.make_node("Identity", [x], [y], name=node.name)]
        self.positive.add(y)
        name = f"{node.name or y}_relu"
        if abs(high - 6.0) > 6.0 * SIX:
            return [helper.make_node("Relu", [x], [y], name=name)]
        return [*self._six(), helper.make_node("Clip", [x, "edgedl__0", "edgedl__6"], [y], name=name)]

    def _six(self) -> list[Any]:
        """The bounds of a ReLU6, once."""
        have = {t.name for t in self.graph.initializer}
        for n in (0, 6):
            if f"edgedl__{n}" not in have:
                tensor = _onnx.onnx().numpy_helper.from_array(np.array(n, np.float32), f"edgedl__{n}")
                self.graph.initializer.append(tensor)
        return []

    def _only_undone(self, name: str, known: Parameters) -> bool:
        """Whether all that becomes of integers is moving and dequantizing them, with the same parameters."""
        waiting = [name]
        while waiting:
            at = waiting.pop()
            for node in self.readers.get(at, []):
                if node.op_type == "DequantizeLinear":
                    if node.input[0] != at or self.parameters(node) != known:
                        return False
                elif node.op_type in MOVES and node.input[0] == at and list(node.input).count(at) == 1:
                    waiting += node.output
                else:
                    return False
        return True

    def _dequantize(self, node: Any) -> list[Any]:
        x, y = node.input[0], node.output[0]
        if x not in self.floats:
            known = None if x in self.fixed else self.parameters(node)
            if known is not None:
                scale, zero, least, most = known
                self.found.ranges[y] = ((least - zero) * scale, (most - zero) * scale)
            return [node]
        for names in (self.positive, self.given):
            names |= {y} if x in names else set()
        return [_onnx.onnx().helper.make_node("Identity", [x], [y], name=node.name)]

    # --- quantized while it runs

    def _dynamic(self, node: Any) -> list[Any]:
        """DynamicQuantizeLinear: its values as they are, with scale 1 and zero point 0."""
        readers = [n for out in node.output for n in self.readers.get(out, [])]
        products = list(self.readers.get(node.output[0], []))
        if any(n.op_type not in ("MatMulInteger", "ConvInteger") for n in products) or not products:
            return [node]
        if any(n.input[1] not in self.fixed or node.output[0] != n.input[0] for n in products):
            return [node]
        if any(n.op_type not in ("MatMulInteger", "ConvInteger", "Mul") for n in readers):
            return [node]
        self.floats.add(node.output[0])
        o = _onnx.onnx()
        made = [o.helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)]
        for name, value in zip(node.output[1:], (np.array(1, np.float32), np.array(0, np.uint8)), strict=False):
            if name:
                self.ones.add(name)
                tensor = o.numpy_helper.from_array(value, name)
                self.graph.initializer.append(tensor)
                self.tensors[name] = tensor
                self.fixed.add(name)
        return made

    def _integer(self, node: Any) -> list[Any]:
        """MatMulInteger or ConvInteger of floats: a float product with the weights less their zero point."""
        o = _onnx.onnx()
        kernel = self.tensors.get(node.input[1])
        zero = self.tensors.get(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        if kernel is None:
            return [node]
        axis = -1 if node.op_type == "MatMulInteger" else 0
        array = dequantized(
            _onnx.array(kernel), np.ones(1, np.float32), None if zero is None else _onnx.array(zero), axis
        )
        array = array * self._scale(node, array.ndim, axis)
        name = f"{node.output[0]}__weight"
        self.graph.initializer.append(o.numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        op = "MatMul" if node.op_type == "MatMulInteger" else "Conv"
        made = o.helper.make_node(op, [node.input[0], name], list(node.output), name=node.name)
        made.attribute.extend(node.attribute)
        return [made]

    def _scale(self, node: Any, rank: int, axis: int) -> Array:
        """The weights' scale, taken out of the Mul behind the product, where that is Mul(Cast(product), constant)."""
        one = np.ones(1, np.float32)
        after = self.readers.get(node.output[0], [])
        behind = self.readers.get(after[0].output[0], []) if len(after) == 1 and after[0].op_type == "Cast" else []
        if len(behind) != 1 or behind[0].op_type != "Mul":
            return one
        (other,) = [n for n in behind[0].input if n != after[0].output[0]] or ("",)
        tensor = self.tensors.get(other) or next(iter(self._through_one(other)), None)
        if tensor is None:
            return one
        scale = _onnx.array(tensor).astype(np.float32)
        if scale.size not in (1, max(scale.shape, default=1)) or (scale.size > 1 and axis != -1):
            return one
        behind[0].op_type = "Identity"
        behind[0].ClearField("input")
        behind[0].input.append(after[0].output[0])
        return scale.reshape(-1)

    def _through_one(self, name: str) -> Iterator[Any]:
        """The constant of Mul(scale of 1, constant)."""
        node = self.makers.get(name)
        if node is not None and node.op_type == "Mul":
            yield from (self.tensors[n] for n in node.input if n in self.tensors and n not in self.ones)
