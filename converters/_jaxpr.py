"""jaxpr -> ONNX graph: one small function for each primitive, in a table; what depends on no input is computed by jax.

Values keep the shapes that jax gives them. A broadcast is put off until an operator needs it, because ONNX's
element-wise operators broadcast by themselves. The open batch is a symbolic dimension of `jax.export`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _onnx

OPSET = 17
MAX_UNROLLED = 256  # steps of a scan
MAX_NODES = 50_000


class Refused(Exception):
    """Why a primitive cannot be said in ONNX."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of jax: a constant, or the name of an ONNX tensor whose axes may be 1 where `shape` is larger."""

    shape: tuple[Any, ...]
    dtype: str
    name: str = ""
    const: Any = None
    spread: bool = False  # whether a broadcast is still to be done


@dataclass(slots=True)
class Graph:
    """The ONNX graph while it is written."""

    nodes: list[Any] = field(default_factory=list)
    initializers: dict[str, Any] = field(default_factory=dict)
    made: dict[str, tuple[str, tuple[Value, ...]]] = field(default_factory=dict)  # name -> (what, from what)
    problems: Counter[str] = field(default_factory=Counter)
    scope: str = ""
    batch: tuple[str, int] = ("", 0)  # an input and its axis that has the size of the batch

    def name(self) -> str:
        return f"v{len(self.nodes) + len(self.initializers)}"

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add an operator; the name of its output."""
        if len(self.nodes) > MAX_NODES:
            raise Refused(f"the graph has more than {MAX_NODES:,} operators")
        out = self.name()
        attributes = {k: v for k, v in attributes.items() if v is not None}
        label = f"{self.scope}/{kind}_{out}" if self.scope else f"{kind}_{out}"
        self.nodes.append(_onnx.onnx().helper.make_node(kind, list(inputs), [out], label, **attributes))
        return out

    def constant(self, array: Any) -> str:
        name = self.name()
        self.initializers[name] = np.asarray(array, order="C")
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, np.int64))

    def ref(self, value: Value) -> str:
        """The ONNX tensor of a value, as it is."""
        return value.name or self.constant(np.asarray(value.const))

    def whole(self, value: Value) -> str:
        """The ONNX tensor of a value in its full shape."""
        if not value.spread:
            return self.ref(value)
        return self.op("Expand", [self.ref(value), self.size(value.shape)])

    def size(self, shape: tuple[Any, ...]) -> str:
        """A shape as an int64 tensor; where it has the batch, taken from the input."""
        if all(isinstance(d, int) for d in shape):
            return self.ints(*shape)
        name, axis = self.batch
        batch = self.op("Slice", [self.op("Shape", [name]), self.ints(axis), self.ints(axis + 1)])
        parts = [self.ints(d) if isinstance(d, int) else batch if _is_batch(d) else _no_shape(shape) for d in shape]
        return self.op("Concat", parts, axis=0)

    def reshape(self, tensor: str, shape: Sequence[Any]) -> str:
        """Reshape with at most one size that depends on the batch."""
        if sum(not isinstance(d, int) for d in shape) > 1:
            raise Refused(f"a reshape to {tuple(map(str, shape))}, in which more than the batch is open")
        return self.op("Reshape", [tensor, self.ints(*(d if isinstance(d, int) else -1 for d in shape))])

    def transpose(self, tensor: str, axes: Sequence[int]) -> str:
        return tensor if list(axes) == sorted(axes) else self.op("Transpose", [tensor], perm=list(axes))


def _is_batch(dimension: Any) -> bool:
    return str(dimension).isidentifier()


def _no_shape(shape: tuple[Any, ...]) -> str:
    raise Refused(f"a broadcast to {tuple(map(str, shape))}")


Handler = Callable[[Graph, Any, list[Value]], str | Value | list[Value]]
TABLE: dict[str, Handler] = {}


def primitive(*names: str) -> Callable[[Handler], Handler]:
    def add(function: Handler) -> Handler:
        TABLE.update(dict.fromkeys(names, function))
        return function

    return add


ELEMENTWISE = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "min": "Min", "pow": "Pow", "exp": "Exp",
    "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "sqrt": "Sqrt", "neg": "Neg", "abs": "Abs", "sign": "Sign",
    "floor": "Floor", "ceil": "Ceil", "erf": "Erf", "sin": "Sin", "cos": "Cos", "tan": "Tan", "sinh": "Sinh",
    "cosh": "Cosh", "asin": "Asin", "acos": "Acos", "atan": "Atan", "eq": "Equal", "lt": "Less", "le": "LessOrEqual",
    "gt": "Greater", "ge": "GreaterOrEqual", "max": "Max",
}  # fmt: skip
SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision", "sharding_constraint", "pvary")
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor"}
INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat", "remat2", "checkpoint", "custom_lin")  # fmt: skip


def convert(closed: Any, names: Sequence[str], outputs: Sequence[str]) -> Any:
    """The ModelProto of a ClosedJaxpr whose inputs and outputs get these names.

    Raises Refused: every primitive that is not in the table, and every use of one that ONNX has no words for.
    """
    graph, jaxpr = Graph(), closed.jaxpr
    inputs = [Value(tuple(v.aval.shape), str(v.aval.dtype), name) for v, name in zip(jaxpr.invars, names, strict=True)]
    found = ((i.name, a) for i in inputs for a, d in enumerate(i.shape) if not isinstance(d, int))
    graph.batch = next(found, ("", 0))
    results = run(graph, jaxpr, [_const(c) for c in closed.consts], inputs)
    if graph.problems:
        raise Refused(
            ", ".join(f"{what}{f' ({n} times)' if n > 1 else ''}" for what, n in sorted(graph.problems.items()))
        )
    for value, name in zip(results, outputs, strict=True):
        graph.nodes.append(_onnx.onnx().helper.make_node("Identity", [graph.whole(value)], [name], f"{name}/Identity"))
    return _proto(graph, inputs, list(zip(results, outputs, strict=True)))


def run(graph: Graph, jaxpr: Any, consts: list[Value], inputs: list[Value]) -> list[Value]:
    """Write every equation of a jaxpr; its results."""
    env: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
    for eqn in jaxpr.eqns:
        values = [_const(v.val) if hasattr(v, "val") else env[v] for v in eqn.invars]
        graph.scope = str(eqn.source_info.name_stack) or graph.scope
        try:
            found = _equation(graph, eqn, values)
        except Refused as reason:
            graph.problems[f"{eqn.primitive.name}: {reason}" if str(reason) else eqn.primitive.name] += 1
            found = [_placeholder(v) for v in eqn.outvars]
        env.update(zip(eqn.outvars, found, strict=True))
    return [_const(v.val) if hasattr(v, "val") else env[v] for v in jaxpr.outvars]


def _equation(graph: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    if name in INLINED:
        inner = next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)
        body, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", [])
        return run(graph, body, [_const(c) for c in consts], values)
    if all(v.const is not None and not v.spread for v in values) and _is_fixed(eqn) and name != "scan":
        found = eqn.primitive.bind(*(v.const for v in values), **eqn.params)
        return [_const(a) for a in (found if eqn.primitive.multiple_results else [found])]
    if name not in TABLE:
        raise Refused
    result = TABLE[name](graph, eqn, values)
    if isinstance(result, list):
        return result
    aval = eqn.outvars[0].aval
    shape, dtype = tuple(aval.shape), str(aval.dtype)
    return [result if isinstance(result, Value) else Value(shape, dtype, result)]


def _is_fixed(eqn: Any) -> bool:
    return all(isinstance(d, int) for v in eqn.outvars for d in getattr(v.aval, "shape", ()))


def _const(array: Any) -> Value:
    array = array if hasattr(array, "dtype") and not np.isscalar(array) else np.asarray(array)
    return Value(tuple(array.shape), str(array.dtype), const=array)


def _placeholder(variable: Any) -> Value:
    return Value(tuple(variable.aval.shape), str(variable.aval.dtype), "refused")


def _proto(graph: Graph, inputs: list[Value], outputs: list[tuple[Value, str]]) -> Any:
    o = _onnx.onnx()

    def info(name: str, value: Value) -> Any:
        shape = [d if isinstance(d, int) else "batch" if _is_batch(d) else None for d in value.shape]
        return o.helper.make_tensor_value_info(name, o.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)), shape)

    needed, nodes = {name for _, name in outputs}, []
    for node in reversed(graph.nodes):
        if needed & set(node.output):
            needed.update(node.input)
            nodes.append(node)
    weights = [o.numpy_helper.from_array(a, name) for name, a in graph.initializers.items() if name in needed]
    body = o.helper.make_graph(
        nodes[::-1], "jax", [info(v.name, v) for v in inputs], [info(n, v) for v, n in outputs], weights
    )
    return o.helper.make_model(body, opset_imports=[o.helper.make_opsetid("", OPSET)], ir_version=8)


# element by element


def _elementwise(graph: Graph, eqn: Any, values: list[Value]) -> str | Value:
    name = eqn.primitive.name
    known = _peephole(graph, name, values)
    out = known or graph.op(ELEMENTWISE[name], [graph.ref(v) for v in values])
    graph.made.setdefault(out, (name, tuple(values)))
    return _spread(eqn, out, values)


def _spread(eqn: Any, out: str, values: list[Value]) -> Value:
    """Still to be broadcast, if no operand had the full size of an axis."""
    aval = eqn.outvars[0].aval
    shape, whole = tuple(aval.shape), [v for v in values if not v.spread]
    return Value(shape, str(aval.dtype), out, spread=not _covered(shape, whole))


def _covered(shape: tuple[Any, ...], values: list[Value]) -> bool:
    """Whether each axis has its full size in one of the values."""
    return all(any(len(v.shape) == len(shape) and v.shape[a] == d for v in values) for a, d in enumerate(shape))


for _name in ELEMENTWISE:
    TABLE[_name] = _elementwise


def _scalar(value: Value) -> float | None:
    return float(np.asarray(value.const)) if value.const is not None and np.size(value.const) == 1 else None


def _peephole(graph: Graph, name: str, values: list[Value]) -> str | None:
    """Operators that jax has no primitive for: Relu, means, BatchNormalization."""
    if name == "max" and len(values) == 2:
        for x, other in (values, values[::-1]):
            if _scalar(other) == 0.0 and x.name and "float" in x.dtype:
                return graph.op("Relu", [x.name])
            if _scalar(other) == -math.inf and x.name:
                return x.name
    if name == "div" and values[0].name in graph.made:
        what, source = graph.made[values[0].name]
        if what.startswith("sum:") and _scalar(values[1]) == _scalar(source[1]):
            axes = [int(a) for a in what[4:].split(",")]
            return graph.op("ReduceMean", [graph.ref(source[0])], axes=axes, keepdims=0)
        if what == "pool" and _scalar(values[1]) == _scalar(source[1]):
            return source[0].name
        if what == "exp":
            return _softmax(graph, values[0], values[1], source[0])
    return _batch_norm(graph, values) if name == "add" and len(values) == 2 else None


def _softmax(graph: Graph, powers: Value, total: Value, exponent: Value) -> str | None:
    """exp(x - m) / sum(exp(x - m)), where m is the same all along the axis of the sum."""
    what, source = graph.made.get(total.name, ("", ()))
    summed = graph.made.get(source[0].name, ("", ())) if what == "unsqueeze" else ("", ())
    if not summed[0].startswith("sum:") or "," in summed[0] or summed[1][0].name != powers.name:
        return None
    axis = int(summed[0][4:])
    if len(total.shape) != len(powers.shape) or total.shape[axis] != 1 or exponent.spread:
        return None
    what, difference = graph.made.get(exponent.name, ("", ()))
    x = difference[0] if what == "sub" and difference[1].shape[axis : axis + 1] == (1,) else exponent
    return graph.op("Softmax", [x.name or exponent.name], axis=axis) if not x.spread else None


def _batch_norm(graph: Graph, values: list[Value]) -> str | None:
    """`(x - mean) * scale + bias` with constants for each of the last axis, as one BatchNormalization."""
    scaled, bias = values if values[0].name else values[::-1]
    what, product = graph.made.get(scaled.name, ("", ()))
    if what != "mul" or len(product) != 2:
        return None
    centred, scale = product if product[0].name else product[::-1]
    what, difference = graph.made.get(centred.name, ("", ()))
    if what != "sub" or not difference[0].name or difference[0].spread or difference[1].const is None:
        return None
    x, mean = difference
    arrays = [np.asarray(v.const) if v.const is not None else None for v in (scale, bias, mean)]
    channels, rank = x.shape[-1], len(x.shape)
    if rank < 2 or any(a is None or a.size != channels or a.shape[-1:] != (channels,) for a in arrays):
        return None
    epsilon = 1e-5
    scale_, bias_, mean_ = (np.asarray(a, np.float32).reshape(-1) for a in arrays)
    variance = np.full(channels, 1 - epsilon, np.float32)
    first, back = _channels_first(rank)
    inputs = [graph.transpose(x.name, first), *(graph.constant(a) for a in (scale_, bias_, mean_, variance))]
    return graph.transpose(graph.op("BatchNormalization", inputs, epsilon=epsilon), back)


def _channels_first(rank: int) -> tuple[list[int], list[int]]:
    """The permutations that move the last axis to place 1, and back."""
    return [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]


@primitive(*SAME)
def same(graph: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    return values


@primitive(*LOGICAL)
def logical(graph: Graph, eqn: Any, values: list[Value]) -> Value:
    if any(v.dtype != "bool" for v in values):
        raise Refused("of integers")
    return _spread(eqn, graph.op(LOGICAL[eqn.primitive.name], [graph.ref(v) for v in values]), values)


def _unary(name: str) -> Callable[[Callable[[Graph, Any, str, Value], str]], Handler]:
    """For a function of one tensor, element by element."""

    def wrap(function: Callable[[Graph, Any, str, Value], str]) -> Handler:
        def handle(graph: Graph, eqn: Any, values: list[Value]) -> Value:
            return _spread(eqn, function(graph, eqn, graph.ref(values[0]), values[0]), values)

        return primitive(name)(handle)

    return wrap


def _like(graph: Graph, value: float, x: Value) -> str:
    return graph.constant(np.asarray(value, x.dtype))


@_unary("not")
def not_(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    if value.dtype != "bool":
        raise Refused("of integers")
    return graph.op("Not", [x])


@_unary("rsqrt")
def rsqrt(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    return graph.op("Reciprocal", [graph.op("Sqrt", [x])])


@_unary("square")
def square(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    return graph.op("Mul", [x, x])


@_unary("log1p")
def log1p(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    return graph.op("Log", [graph.op("Add", [x, _like(graph, 1, value)])])


@_unary("expm1")
def expm1(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    return graph.op("Sub", [graph.op("Exp", [x]), _like(graph, 1, value)])


@_unary("erfc")
def erfc(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    return graph.op("Sub", [_like(graph, 1, value), graph.op("Erf", [x])])


@_unary("integer_pow")
def integer_pow(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    return (
        graph.op("Mul", [x, x]) if eqn.params["y"] == 2 else graph.op("Pow", [x, _like(graph, eqn.params["y"], value)])
    )


@_unary("round")
def round_(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    if "EVEN" not in str(eqn.params["rounding_method"]):
        raise Refused("away from zero")
    return graph.op("Round", [x])


@_unary("convert_element_type")
def convert_element_type(graph: Graph, eqn: Any, x: str, value: Value) -> str:
    target = _onnx.onnx().helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    return x if value.dtype == str(eqn.params["new_dtype"]) else graph.op("Cast", [x], to=target)


@primitive("ne")
def ne(graph: Graph, eqn: Any, values: list[Value]) -> Value:
    return _spread(eqn, graph.op("Not", [graph.op("Equal", [graph.ref(v) for v in values])]), values)


@primitive("rem")
def rem(graph: Graph, eqn: Any, values: list[Value]) -> Value:
    return _spread(eqn, graph.op("Mod", [graph.ref(v) for v in values], fmod=1), values)


@primitive("select_n")
def select_n(graph: Graph, eqn: Any, values: list[Value]) -> Value:
    if len(values) != 3 or values[0].dtype != "bool":
        raise Refused("of more than two")
    which, no, yes = (graph.ref(v) for v in values)
    out = graph.op("Where", [which, yes, no])
    graph.made[out] = ("select_n", tuple(values))
    return _spread(eqn, out, values)


@primitive("clamp")
def clamp(graph: Graph, eqn: Any, values: list[Value]) -> Value:
    low, x, high = (graph.ref(v) for v in values)
    return _spread(eqn, graph.op("Min", [graph.op("Max", [x, low]), high]), values)


# shapes


@primitive("broadcast_in_dim")
def broadcast_in_dim(graph: Graph, eqn: Any, values: list[Value]) -> Value:
    x, shape, axes = values[0], eqn.params["shape"], eqn.params["broadcast_dimensions"]
    inner: list[Any] = [1] * len(shape)
    for axis, size in zip(axes, x.shape, strict=True):
        inner[axis] = size
    if x.const is not None:
        held = np.asarray(x.const)
        array = held.reshape([1 if a not in axes else held.shape[list(axes).index(a)] for a in range(len(shape))])
        return Value(tuple(shape), x.dtype, const=array, spread=x.spread or tuple(inner) != tuple(shape))
    if len(x.shape) == len(shape):
        name = x.name
    elif x.spread:
        name = graph.reshape(graph.whole(x), inner)
        return Value(tuple(shape), x.dtype, name, spread=tuple(inner) != tuple(shape))
    else:
        name = graph.op("Unsqueeze", [x.name, graph.ints(*(a for a in range(len(shape)) if a not in axes))])
        graph.made[name] = ("unsqueeze", (x,))
    return Value(tuple(shape), x.dtype, name, spread=x.spread or tuple(inner) != tuple(shape))


@primitive("reshape")
def reshape(graph: Graph, eqn: Any, values: list[Value]) -> str:
    if eqn.params["dimensions"] is not None:
        raise Refused("with a permutation")
    return graph.reshape(graph.whole(values[0]), eqn.params["new_sizes"])


@primitive("expand_dims")
def expand_dims(graph: Graph, eqn: Any, values: list[Value]) -> str:
    return graph.op("Unsqueeze", [graph.whole(values[0]), graph.ints(*eqn.params["dimensions"])])


@primitive("squeeze")
def squeeze(graph: Graph, eqn: Any, values: list[Value]) -> str:
    return graph.op("Squeeze", [graph.whole(values[0]), graph.ints(*eqn.params["dimensions"])])


@primitive("transpose")
def transpose(graph: Graph, eqn: Any, values: list[Value]) -> str:
    return graph.transpose(graph.whole(values[0]), eqn.params["permutation"])


@primitive("concatenate")
def concatenate(graph: Graph, eqn: Any, values: list[Value]) -> str:
    return graph.op("Concat", [graph.whole(v) for v in values], axis=eqn.params["dimension"])


@primitive("split")
def split(graph: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    axis, start, found, x = eqn.params["axis"], 0, [], graph.whole(values[0])
    for size, var in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        found.append(Value(tuple(var.aval.shape), values[0].dtype, _slice(graph, x, [(axis, start, start + size, 1)])))
        start += size
    return found


def _slice(graph: Graph, x: str, parts: Sequence[tuple[int, int, int, int]]) -> str:
    """Parts are (axis, start, end, step)."""
    if not parts:
        return x
    axes, starts, ends, steps = (list(column) for column in zip(*parts, strict=True))
    return graph.op("Slice", [x, graph.ints(*starts), graph.ints(*ends), graph.ints(*axes), graph.ints(*steps)])


@primitive("slice")
def slice_(graph: Graph, eqn: Any, values: list[Value]) -> str:
    p, x = eqn.params, values[0]
    parts = []
    for axis, (start, end) in enumerate(zip(p["start_indices"], p["limit_indices"], strict=True)):
        step = p["strides"][axis] if p["strides"] else 1
        if (start, step) == (0, 1) and end == x.shape[axis]:
            continue
        if not isinstance(start, int) or not isinstance(end, int):
            raise Refused("of the batch")
        parts.append((axis, start, end, step))
    return _slice(graph, graph.whole(x), parts)


@primitive("dynamic_slice")
def dynamic_slice(graph: Graph, eqn: Any, values: list[Value]) -> str:
    x, starts, sizes = values[0], values[1:], eqn.params["slice_sizes"]
    parts = []
    for axis, size in enumerate(sizes):
        if size == x.shape[axis]:
            continue
        start = _scalar(starts[axis])
        if start is None or not isinstance(size, int) or not isinstance(x.shape[axis], int):
            raise Refused("at a computed place")
        begin = min(max(int(start), 0), x.shape[axis] - size)
        parts.append((axis, begin, begin + size, 1))
    return _slice(graph, graph.whole(x), parts)


@primitive("rev")
def rev(graph: Graph, eqn: Any, values: list[Value]) -> str:
    return _slice(graph, graph.whole(values[0]), [(a, -1, -(1 << 62), -1) for a in eqn.params["dimensions"]])


@primitive("pad")
def pad(graph: Graph, eqn: Any, values: list[Value]) -> str:
    config = eqn.params["padding_config"]
    if any(inner for _, _, inner in config) or values[1].const is None:
        raise Refused("between the elements" if values[1].const is not None else "with a computed value")
    x = _slice(graph, graph.whole(values[0]), [(a, max(-lo, 0), min(hi, 0) or (1 << 62), 1) for a, (lo, hi, _) in enumerate(config) if lo < 0 or hi < 0])  # fmt: skip
    sizes = [max(c[0], 0) for c in config] + [max(c[1], 0) for c in config]
    return graph.op("Pad", [x, graph.ints(*sizes), graph.ref(values[1])]) if any(sizes) else x


@primitive("iota")
def iota(graph: Graph, eqn: Any, values: list[Value]) -> Value:
    shape, axis = tuple(eqn.params["shape"]), eqn.params["dimension"]
    if not isinstance(shape[axis], int):
        raise Refused("over the batch")
    array = np.arange(shape[axis], dtype=eqn.params["dtype"]).reshape(
        [-1 if a == axis else 1 for a in range(len(shape))]
    )
    return Value(shape, str(array.dtype), const=array, spread=True)


# reductions, windows, products


@primitive("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")
def reduce(graph: Graph, eqn: Any, values: list[Value]) -> str:
    axes, x = list(eqn.params["axes"]), values[0]
    name = graph.whole(x)
    if not axes:
        return name
    kind = {
        "reduce_sum": "ReduceSum",
        "reduce_max": "ReduceMax",
        "reduce_min": "ReduceMin",
        "reduce_prod": "ReduceProd",
    }
    if eqn.primitive.name != "reduce_sum":
        return graph.op(kind[eqn.primitive.name], [name], axes=axes, keepdims=0)
    out = graph.op("ReduceSum", [name, graph.ints(*axes)], keepdims=0)
    sizes = [x.shape[a] for a in axes]
    if all(isinstance(d, int) for d in sizes):
        whole = Value(x.shape, x.dtype, name)
        graph.made[out] = (f"sum:{','.join(map(str, axes))}", (whole, _const(np.asarray(math.prod(sizes), np.float32))))
    return out


@primitive("argmax", "argmin")
def argmax(graph: Graph, eqn: Any, values: list[Value]) -> str:
    (axis,) = eqn.params["axes"]
    kind = "ArgMax" if eqn.primitive.name == "argmax" else "ArgMin"
    found = graph.op(kind, [graph.whole(values[0])], axis=axis, keepdims=0)
    to = _onnx.onnx().helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["index_dtype"]))
    return graph.op("Cast", [found], to=to)


@primitive("cumsum")
def cumsum(graph: Graph, eqn: Any, values: list[Value]) -> str:
    axis = graph.constant(np.asarray(eqn.params["axis"], np.int64))
    return graph.op("CumSum", [graph.whole(values[0]), axis], reverse=int(eqn.params["reverse"]))


@primitive("reduce_window_max", "reduce_window_sum")
def reduce_window(graph: Graph, eqn: Any, values: list[Value]) -> str:
    p, x = eqn.params, values[0]
    window, rank = p["window_dimensions"], len(x.shape)
    if any(d != 1 for d in p["base_dilation"]) or rank < 3:
        raise Refused("with dilated input" if rank >= 3 else f"of {rank} axes")
    if window[0] == 1 and window[-1] == 1:
        first, back = _channels_first(rank)
    elif window[:2] == (1, 1):
        first = back = list(range(rank))
    else:
        raise Refused(f"over {window}")
    spatial = first[2:]
    pads = [p["padding"][a][0] for a in spatial] + [p["padding"][a][1] for a in spatial]
    options = {"kernel_shape": [window[a] for a in spatial], "strides": [p["window_strides"][a] for a in spatial]}
    name = graph.transpose(graph.whole(x), first)
    if eqn.primitive.name == "reduce_window_max":
        dilations = [p["window_dilation"][a] for a in spatial]
        return graph.transpose(graph.op("MaxPool", [name], pads=pads, dilations=dilations, **options), back)
    if any(p["window_dilation"][a] != 1 for a in spatial):
        raise Refused("with a dilated window")
    mean = graph.transpose(graph.op("AveragePool", [name], pads=pads, count_include_pad=1, **options), back)
    count = math.prod(window)
    out = graph.op("Mul", [mean, _like(graph, count, x)])
    aval = eqn.outvars[0].aval
    graph.made[out] = ("pool", (Value(tuple(aval.shape), x.dtype, mean), _const(np.asarray(count, np.float32))))
    return out


@primitive("dot_general")
def dot_general(graph: Graph, eqn: Any, values: list[Value]) -> str:
    """Both sides as [batch..., free, contracted] and [batch..., contracted, free], with several axes merged into one."""
    (left_c, right_c), (left_b, right_b) = eqn.params["dimension_numbers"]
    left, right = values
    left_f = [a for a in range(len(left.shape)) if a not in (*left_c, *left_b)]
    right_f = [a for a in range(len(right.shape)) if a not in (*right_c, *right_b)]
    a = graph.transpose(graph.whole(left), [*left_b, *left_f, *left_c])
    batch = [left.shape[i] for i in left_b]
    frees = [left.shape[i] for i in left_f]
    merge = len(left_b) > 0 or not left_f
    rows = [_product(frees)] if merge else frees
    depth, columns = _product([left.shape[i] for i in left_c]), _product([right.shape[i] for i in right_f])
    if len(left_c) != 1 or (merge and len(left_f) != 1):
        a = graph.reshape(a, [*batch, *rows, depth])
    b = _right(graph, right, [*right_b, *right_c, *right_f], [*batch, depth, columns], len(right_c), len(right_f))
    out = graph.op("MatMul", [a, b])
    target = [*batch, *frees, *(right.shape[i] for i in right_f)]
    return graph.reshape(out, target) if target != [*batch, *rows, columns] else out


def _right(graph: Graph, value: Value, axes: list[int], shape: list[Any], contracted: int, free: int) -> str:
    if value.const is not None and not value.spread:
        return graph.constant(np.asarray(value.const).transpose(axes).reshape([int(d) for d in shape]))
    name = graph.transpose(graph.whole(value), axes)
    return name if contracted == free == 1 else graph.reshape(name, shape)


def _product(sizes: Sequence[Any]) -> Any:
    found: Any = 1
    for size in sizes:
        found = found * size
    return found


@primitive("conv_general_dilated")
def conv_general_dilated(graph: Graph, eqn: Any, values: list[Value]) -> str:
    p, (x, kernel) = eqn.params, values
    numbers = p["dimension_numbers"]
    if p["batch_group_count"] != 1:
        raise Refused("with groups of the batch")
    name = graph.transpose(graph.whole(x), numbers.lhs_spec)
    sizes = [kernel.shape[a] for a in numbers.rhs_spec[2:]]
    back = [list(numbers.out_spec).index(a) for a in range(len(x.shape))]
    if any(d != 1 for d in p["lhs_dilation"]):
        out = _transposed(graph, eqn, name, kernel, sizes)
    else:
        if any(pad < 0 for pair in p["padding"] for pad in pair):
            raise Refused("with negative padding")
        weights = graph.transpose(graph.whole(kernel), numbers.rhs_spec) if kernel.const is None else None
        weights = weights or graph.constant(np.asarray(kernel.const).transpose(numbers.rhs_spec))
        pads = [pair[0] for pair in p["padding"]] + [pair[1] for pair in p["padding"]]
        out = graph.op(
            "Conv", [name, weights], kernel_shape=sizes, pads=pads, strides=list(p["window_strides"]),
            dilations=list(p["rhs_dilation"]), group=p["feature_group_count"],
        )  # fmt: skip
    return graph.transpose(out, back)


def _transposed(graph: Graph, eqn: Any, name: str, kernel: Value, sizes: list[int]) -> str:
    """A convolution of a dilated input is a transposed one with the kernel turned round."""
    p = eqn.params
    if any(s != 1 for s in p["window_strides"]) or p["feature_group_count"] != 1 or kernel.const is None:
        raise Refused("transposed, with strides, groups or a computed kernel")
    weights = np.asarray(kernel.const).transpose(p["dimension_numbers"].rhs_spec)
    weights = np.flip(weights, tuple(range(2, weights.ndim))).swapaxes(0, 1)
    reach = [(k - 1) * d for k, d in zip(sizes, p["rhs_dilation"], strict=True)]
    begins = [r - pair[0] for r, pair in zip(reach, p["padding"], strict=True)]
    ends = [r - pair[1] for r, pair in zip(reach, p["padding"], strict=True)]
    extra = [max(-e, 0) for e in ends]
    if any(b < 0 for b in begins) or any(e >= s for e, s in zip(extra, p["lhs_dilation"], strict=True)):
        raise Refused("transposed, with more padding than the kernel reaches")
    return graph.op(
        "ConvTranspose", [name, graph.constant(weights)], kernel_shape=sizes, strides=list(p["lhs_dilation"]),
        dilations=list(p["rhs_dilation"]), pads=[*begins, *(max(e, 0) for e in ends)], output_padding=extra,
    )  # fmt: skip


@primitive("gather")
def gather(graph: Graph, eqn: Any, values: list[Value]) -> str:
    """One indexed axis, as jnp.take and x[:, i] write it."""
    table, indices = values
    n, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if indices.const is not None and not indices.spread and len(indices.shape) == 1 and not n.operand_batching_dims:
        return _one_part(graph, table, np.asarray(indices.const).reshape(-1), n, sizes)
    if len(n.start_index_map) != 1 or n.collapsed_slice_dims != n.start_index_map or n.operand_batching_dims:
        raise Refused("of more than one axis")
    (axis,) = n.start_index_map
    if any(s != d for a, (s, d) in enumerate(zip(sizes, table.shape, strict=True)) if a != axis):
        raise Refused("of parts of rows")
    rank = len(indices.shape) - 1
    plain = _plain_index(graph, indices, table.shape[axis])
    if plain is not None:
        at = plain
    elif indices.const is not None and not indices.spread:
        at = graph.constant(np.asarray(indices.const).astype(np.int64).squeeze(-1))
    else:
        at = graph.op("Squeeze", [graph.whole(indices), graph.ints(rank)])
    out = graph.op("Gather", [graph.whole(table), at], axis=axis)
    total = rank + len(table.shape) - 1
    others = [a for a in range(total) if a not in n.offset_dims]
    order = [*n.offset_dims[:axis], *others, *n.offset_dims[axis:]]  # of jax's axes in what ONNX gives
    return graph.transpose(out, [order.index(a) for a in range(total)])


def _one_part(graph: Graph, table: Value, starts: Any, numbers: Any, sizes: Sequence[Any]) -> str:
    """A gather of one block at a known place, as x[:, :2] and x[:, -1] write it, is a slice."""
    at = dict(zip(numbers.start_index_map, (int(s) for s in starts), strict=True))
    parts = []
    for axis, (size, whole) in enumerate(zip(sizes, table.shape, strict=True)):
        if size == whole:
            continue
        if not isinstance(size, int) or not isinstance(whole, int):
            raise Refused("of a part of the batch")
        begin = min(max(at.get(axis, 0), 0), whole - size)
        parts.append((axis, begin, begin + size, 1))
    out = _slice(graph, graph.whole(table), parts)
    dropped = numbers.collapsed_slice_dims
    return graph.op("Squeeze", [out, graph.ints(*dropped)]) if dropped else out


def _plain_index(graph: Graph, indices: Value, count: Any) -> str | None:
    """i of `where(i < 0, i + count, i)`, which ONNX's Gather does by itself."""
    what, source = graph.made.get(indices.name, ("", ()))
    what, parts = graph.made.get(source[0].name, ("", ())) if what == "unsqueeze" else ("", ())
    if what != "select_n":
        return None
    negative, index, moved = parts
    test, sum_ = graph.made.get(negative.name, ("", ())), graph.made.get(moved.name, ("", ()))
    same = [test[0] == "lt", sum_[0] == "add", *(v[0].name == index.name for _, v in (test, sum_) if v)]
    zero, size = (_scalar(v[1]) if len(v) == 2 else None for _, v in (test, sum_))
    return index.name if index.name and all(same) and (zero, size) == (0.0, count) else None


@primitive("scan")
def scan(graph: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """Unrolled: its length is known."""
    p = eqn.params
    length, consts, carried = p["length"], p["num_consts"], p["num_carry"]
    if not isinstance(length, int) or length > MAX_UNROLLED:
        raise Refused(f"of {length} steps; at most {MAX_UNROLLED} are unrolled")
    fixed, carry, xs = values[:consts], values[consts : consts + carried], values[consts + carried :]
    whole = [Value(x.shape, x.dtype, graph.whole(x)) for x in xs]
    stacked: list[list[str]] = [[] for _ in eqn.outvars[carried:]]
    body = p["jaxpr"]
    for step in reversed(range(length)) if p["reverse"] else range(length):
        at = graph.constant(np.asarray(step, np.int64))
        parts = [Value(x.shape[1:], x.dtype, graph.op("Gather", [x.name, at], axis=0)) for x in whole]
        found = run(graph, body.jaxpr, [_const(c) for c in body.consts], [*fixed, *carry, *parts])
        carry = found[:carried]
        for column, y in zip(stacked, found[carried:], strict=True):
            column.append(graph.op("Unsqueeze", [graph.whole(y), graph.ints(0)]))
    ys = []
    for column, var in zip(stacked, eqn.outvars[carried:], strict=True):
        name = graph.op("Concat", column[::-1] if p["reverse"] else column, axis=0)
        ys.append(Value(tuple(var.aval.shape), str(var.aval.dtype), name))
    return [*carry, *ys]
