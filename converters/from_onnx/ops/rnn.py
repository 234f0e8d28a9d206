"""Recurrent operators: RNN, GRU and LSTM as Keras layers, in both directions; cells that Keras has not, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....artifact import Array
from ....frameworks import keras
from ..builder import Builder
from ..layout import Dim, Dims, NotFree, flat, new_dim, size
from ..node import Node, Unsupported
from ..value import Value
from . import op
from .linear import _rows

MAX_STEPS = 256  # of a cell that is written out
ALPHA = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
BETA = {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}
PLAIN = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "Softsign": "softsign", "Softplus": "softplus"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A recurrent operator: its Keras layer, where Keras's gates are among ONNX's, its states and its activations."""

    layer: str
    gates: tuple[int, ...]
    states: int
    activations: tuple[str, ...]


KINDS = {
    "RNN": Kind("SimpleRNN", (0,), 1, ("Tanh",)),
    "GRU": Kind("GRU", (0, 1, 2), 1, ("Sigmoid", "Tanh")),
    "LSTM": Kind("LSTM", (0, 2, 3, 1), 2, ("Sigmoid", "Tanh", "Tanh")),
}


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation of a gate, with its parameters."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def keras(self) -> str | None:
        """What Keras calls it; None where Keras's function of that name is another."""
        known = {
            ("HardSigmoid", round(1 / 6, 6), 0.5): "hard_sigmoid", ("Affine", 1.0, 0.0): "linear",
            ("LeakyRelu", 0.2, 0.0): "leaky_relu", ("Elu", 1.0, 0.0): "elu", ("ScaledTanh", 1.0, 1.0): "tanh",
        }  # fmt: skip
        return PLAIN.get(self.name) or known.get((self.name, round(self.alpha, 6), round(self.beta, 6)))

    def __call__(self, x: Any) -> Any:
        """Applied to a tensor."""
        ops, a, c = keras().ops, self.alpha, self.beta
        if self.name in PLAIN:
            return getattr(ops, PLAIN[self.name])(x)
        table: dict[str, Callable[[], Any]] = {
            "HardSigmoid": lambda: ops.clip(ops.add(ops.multiply(x, a), c), 0.0, 1.0),
            "Affine": lambda: ops.add(ops.multiply(x, a), c),
            "LeakyRelu": lambda: ops.where(ops.less(x, 0.0), ops.multiply(x, a), x),
            "ThresholdedRelu": lambda: ops.where(ops.greater(x, a), x, ops.zeros_like(x)),
            "ScaledTanh": lambda: ops.multiply(ops.tanh(ops.multiply(x, c)), a),
            "Elu": lambda: ops.elu(x, alpha=a),
        }
        return table[self.name]()


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a recurrent operator, its weights as Keras orders them."""

    backwards: bool
    kernel: Array  # [inputs, gates * units]
    recurrent: Array  # [units, gates * units]
    bias: tuple[Array, Array] | None  # of the input and of the state, [gates * units] each
    activations: tuple[Activation, ...]
    peepholes: Array | None  # [3, units]: input, output, forget
    states: tuple[Any, ...]  # Keras tensors [batch, units]; none: zeros

    @property
    def units(self) -> int:
        return int(self.recurrent.shape[0])


@dataclass(frozen=True, slots=True)
class Job:
    """A recurrent node, checked."""

    node: Node
    kind: Kind
    tensor: Any  # [batch, steps, inputs]
    mask: Any  # [batch, steps], or None
    batch: Dim
    steps: Dim
    reset_after: bool
    wanted: tuple[bool, ...]  # Y, Y_h, Y_c


@op("RNN")
def rnn(b: Builder, node: Node, x: Value, w: Value, r: Value, bias: Value | None = None, lens: Value | None = None,
        h: Value | None = None) -> Any:  # fmt: skip
    return _recurrent(b, node, x, w, r, bias, lens, [h], None)


@op("GRU")
def gru(b: Builder, node: Node, x: Value, w: Value, r: Value, bias: Value | None = None, lens: Value | None = None,
        h: Value | None = None) -> Any:  # fmt: skip
    return _recurrent(b, node, x, w, r, bias, lens, [h], None)


@op("LSTM")
def lstm(b: Builder, node: Node, x: Value, w: Value, r: Value, bias: Value | None = None, lens: Value | None = None,
         h: Value | None = None, c: Value | None = None, p: Value | None = None) -> Any:  # fmt: skip
    return _recurrent(b, node, x, w, r, bias, lens, [h, c], p)


def _recurrent(
    b: Builder, node: Node, x: Value, w: Value, r: Value, bias: Value | None, lens: Value | None,
    states: Sequence[Value | None], peepholes: Value | None,
) -> tuple[Value, ...]:  # fmt: skip
    """ONNX's RNN, GRU or LSTM: Y, Y_h and, of an LSTM, Y_c; only those that are read are made."""
    kind = KINDS[node.op]
    _refuse(node)
    x = b.materialized(x)
    first, second = (1, 0) if node.integer("layout") else (0, 1)
    if x.rank != 3 or w.rank != 3 or r.rank != 3:
        raise Unsupported(f"an input of rank {x.rank} with weights of rank {w.rank} and {r.rank}")
    steps, batch = x.dims[first], x.dims[second]
    if b.freed and any(f.free for f in steps):
        raise NotFree
    lying = tuple(f for f in flat(x.axes) if f in set(x.dims[2]))
    order = {"reset_after": bool(node.integer("linear_before_reset")), "kind": kind}
    tensor = x.lay((batch, steps, lying))
    mask = _mask(b, lens, size(steps))
    job = Job(node, tensor=tensor, mask=mask, batch=batch, steps=steps,
              wanted=tuple(node.wants(i) for i in range(1 + kind.states)), **order)  # type: ignore[arg-type] # fmt: skip
    ways = _directions(b, job, [v.array for v in (w, r)], bias, states, peepholes, (x.dims[2], lying))
    plain = all(_in_keras(way, kind) for way in ways)
    made = _layers(b, job, ways) if plain else _written_out(b, job, ways)
    return _told(b, job, made, len(ways), ways[0].units)


def _refuse(node: Node) -> None:
    if node.real("clip"):
        raise Unsupported("clipping of its gates (clip)")
    if node.integer("input_forget"):
        raise Unsupported("coupled input and forget gates (input_forget)")
    if node.text("direction", "forward") not in ("forward", "reverse", "bidirectional"):
        raise Unsupported(f"direction '{node.text('direction')}'")


# --- what a node says


def _activations(node: Node, kind: Kind, count: int) -> list[tuple[Activation, ...]]:
    """The activations of each direction; `activation_alpha` and `_beta` hold values for those alone that take them."""
    n = len(kind.activations)
    names = node.texts("activations") or list(kind.activations) * count
    if len(names) != n * count:
        raise Unsupported(f"{len(names)} activations where {n * count} are needed")
    known = {name.lower(): name for name in (*PLAIN, *ALPHA)}
    alphas, betas = iter(node.reals("activation_alpha")), iter(node.reals("activation_beta"))
    found = []
    for given in names:
        name = known.get(given.lower())
        if name is None:
            raise Unsupported(f"the activation '{given}'")
        alpha = next(alphas, ALPHA[name]) if name in ALPHA else 0.0
        found.append(Activation(name, alpha, next(betas, BETA[name]) if name in BETA else 0.0))
    return [tuple(found[i * n : i * n + n]) for i in range(count)]


def _directions(
    b: Builder, job: Job, weights: Sequence[Array], bias: Value | None, states: Sequence[Value | None],
    peepholes: Value | None, features: tuple[Dim, Dim],
) -> list[Direction]:  # fmt: skip
    kernels, recurrents = weights
    direction = job.node.text("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    units, gates = int(recurrents.shape[-1]), len(job.kind.gates)
    sizes = (count, gates * units, size(features[0])), (count, gates * units, units)
    if (kernels.shape, recurrents.shape) != sizes or job.node.integer("hidden_size", units) != units:
        raise Unsupported(f"weights of {list(kernels.shape)} and {list(recurrents.shape)} on {sizes[0][2]} features")
    both = None if bias is None else bias.array.reshape(count, 2, gates * units)
    extra = None if peepholes is None or not np.any(peepholes.array) else peepholes.array.reshape(count, 3, units)
    found = []
    for i, activations in enumerate(_activations(job.node, job.kind, count)):
        pair = None if both is None else (_ordered(both[i, 0], job.kind), _ordered(both[i, 1], job.kind))
        found.append(
            Direction(
                direction == "reverse" or i == 1,
                _rows(_ordered(kernels[i], job.kind).T, *features),
                _ordered(recurrents[i], job.kind).T,
                pair, activations, None if extra is None else extra[i], _states(b, job, states, i, count, units),
            )
        )  # fmt: skip
    return found


def _ordered(array: Array, kind: Kind) -> Array:
    """The gates along the first axis as Keras orders them."""
    return np.concatenate([np.split(array, len(kind.gates))[g] for g in kind.gates])


def _mask(b: Builder, lens: Value | None, steps: int | None) -> Any:
    """True where a sequence goes on; None where all are as long as the input."""
    if lens is None or (lens.is_constant and steps is not None and bool(np.all(lens.array >= steps))):
        return None
    if steps is None:
        raise Unsupported("sequences of several lengths (sequence_lens) over a number of steps that is not known")
    ops = keras().ops
    tensor = ops.cast(b.tensor(lens), "int32")
    return ops.less(np.arange(steps, dtype=np.int32)[None, :], ops.expand_dims(tensor, 1))


def _states(
    b: Builder, job: Job, states: Sequence[Value | None], way: int, count: int, units: int
) -> tuple[Any, ...]:  # fmt: skip
    """The initial states of a direction; nothing where all are zero."""
    order = (1, 0, 2) if not job.node.integer("layout") else (0, 1, 2)
    found = [None if v is None else _state(b, job, v, order, way, count, units) for v in states]
    present = [t for t in found if t is not None]
    return tuple(keras().ops.zeros_like(present[0]) if t is None else t for t in found) if present else ()


def _state(b: Builder, job: Job, value: Value, order: tuple[int, ...], way: int, count: int, units: int) -> Any:
    if value.rank != 3 or value.shape[order[1]] != count or value.shape[2] != units:
        if b.freed and value.rank == 3 and value.shape[order[1]] is None:
            raise NotFree
        raise Unsupported(f"an initial state of shape {list(value.shape)}")
    free = any(f.free for f in job.batch)
    if value.constant is not None:
        return _constant_state(b, value, order, way, free)
    batch = value.dims[order[0]]
    if any(f.free for f in batch) != free:
        if b.freed:
            raise NotFree
        raise Unsupported("an initial state with another batch than the input's")
    if count == 1:
        return value.lay((batch, value.dims[2]))
    return value.permuted(order)[:, way]


def _constant_state(b: Builder, value: Value, order: tuple[int, ...], way: int, free: bool) -> Any:
    assert value.constant is not None
    first, second = (np.transpose(a, order)[:, way] for a in value.constant.at)
    if not np.any(first) and not np.any(second):
        return None
    if free and len(first) == len(second) == 1:
        from ..._layers import constant_layer

        return constant_layer()(first, batch_axis=0, name=b.name("_state"))(b.reference)
    return b.tensor(Value.of_constant(first, second))


def _in_keras(way: Direction, kind: Kind) -> bool:
    """Whether Keras's layer computes the same."""
    names = [a.keras for a in way.activations]
    return None not in names and way.peepholes is None and (kind.states == 1 or names[1] == names[2])


# --- as layers


def _layers(b: Builder, job: Job, ways: Sequence[Direction]) -> list[Any]:
    """[Y, Y_h, Y_c], those of two directions side by side; None where nobody reads it."""
    sequences, alone = job.wanted[0], job.wanted[1]
    state = any(job.wanted[2:]) or (sequences and alone)
    name = b.name()
    made = [_layer(job, way, sequences, state, name if len(ways) == 1 else job.kind.layer.lower()) for way in ways]
    layer = made[0]
    if len(ways) == 2:
        layer = keras().layers.Bidirectional(made[0], "concat", backward_layer=made[1], name=name)
    options: dict[str, Any] = {} if job.mask is None else {"mask": job.mask}
    given = [w.states for w in ways]
    if any(given):
        filled = [s or tuple(keras().ops.zeros_like(t) for t in next(filter(None, given))) for s in given]
        options["initial_state"] = [t for s in filled for t in s]
    found = layer(job.tensor, **options)
    layer.set_weights([a for way in ways for a in _weights(job, way)])
    parts = list(found) if isinstance(found, list | tuple) else [found]
    y, rest = parts[0], parts[1:]
    if len(ways) == 1 and ways[0].backwards and sequences:
        y = keras().ops.flip(y, axis=1)
    if job.mask is not None and sequences:
        y = keras().ops.multiply(y, keras().ops.cast(keras().ops.expand_dims(job.mask, 2), y.dtype))
    if not state:
        return [y if sequences else None, None if sequences else y, None]
    joined = [
        _joined(b, rest[i :: job.kind.states]) if need else None
        for i, need in enumerate(job.wanted[1 : 1 + job.kind.states])
    ]
    return [y if sequences else None, *joined, None][:3]


def _layer(job: Job, way: Direction, sequences: bool, state: bool, name: str) -> Any:
    names = [a.keras for a in way.activations]
    options: dict[str, Any] = {"activation": names[-1]}
    if len(names) > 1:
        options["recurrent_activation"] = names[0]
    if job.node.op == "GRU":
        options["reset_after"] = job.reset_after
    if size(job.steps) == 1:
        options["unroll"] = True  # no loop for a single step, as streaming models have it
    return getattr(keras().layers, job.kind.layer)(
        way.units, use_bias=way.bias is not None, return_sequences=sequences, return_state=state,
        go_backwards=way.backwards, name=name, **options,
    )  # fmt: skip


def _weights(job: Job, way: Direction) -> list[Array]:
    if way.bias is None:
        return [way.kernel, way.recurrent]
    both = job.node.op == "GRU" and job.reset_after
    return [way.kernel, way.recurrent, np.stack(way.bias) if both else way.bias[0] + way.bias[1]]


def _joined(b: Builder, tensors: Sequence[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else b.layer("Concatenate", *tensors, axis=-1, suffix="_state")


def _told(b: Builder, job: Job, made: Sequence[Any], count: int, units: int) -> tuple[Value, ...]:
    """The tensors [batch, steps, directions * units] and [batch, directions * units] as ONNX's outputs."""
    ways, hidden = new_dim(count), new_dim(units)
    layout = job.node.integer("layout")
    out = []
    for i, tensor in enumerate(made[: 1 + job.kind.states]):
        if tensor is None:
            out.append(Value.of_constant(np.zeros(0, np.float32)))
            continue
        lead: Dims = (job.batch, job.steps) if i == 0 else (job.batch,)
        dims: Dims = (*lead, ways, hidden)
        if not layout:
            dims = (job.steps, ways, job.batch, hidden) if i == 0 else (ways, job.batch, hidden)
        out.append(Value(dims, (*lead, ways + hidden), tensor, None, tensor.dtype))
    return tuple(out)


# --- written out


def _written_out(b: Builder, job: Job, ways: Sequence[Direction]) -> list[Any]:
    """The same as `_layers`, every step in operators of its own."""
    count = size(job.steps)
    if count is None or count > MAX_STEPS:
        raise Unsupported(
            f"a cell that no Keras layer has, over {count or 'an unknown number of'} steps (at most {MAX_STEPS})"
        )
    ops = keras().ops
    sides = [_run(b, job, way, count) for way in ways]
    ys = [y for y, _ in sides]
    whole = [y[0] if len(y) == 1 else ops.concatenate(y, axis=-1) for y in zip(*ys, strict=True)]
    y = ops.stack(whole, axis=1) if job.wanted[0] else None
    return [y, *(_joined(b, [states[i] for _, states in sides]) for i in range(job.kind.states))]


def _run(b: Builder, job: Job, way: Direction, count: int) -> tuple[list[Any], tuple[Any, ...]]:
    ops = keras().ops
    fed = ops.matmul(job.tensor, b.weight(way.kernel))
    apart = job.node.op == "GRU" and job.reset_after
    if way.bias is not None:
        fed = ops.add(fed, b.weight(way.bias[0] if apart else way.bias[0] + way.bias[1]))
    recurrent = b.weight(way.recurrent)
    after = b.weight(way.bias[1]) if apart and way.bias is not None else 0.0
    zeros = ops.zeros_like(fed[:, 0, : way.units])
    states: tuple[Any, ...] = way.states or (zeros,) * job.kind.states
    out: list[Any] = [None] * count
    for t in reversed(range(count)) if way.backwards else range(count):
        new = _cell(job, way, fed[:, t], states, recurrent, after)
        shown = new[0]
        if job.mask is not None:
            on = job.mask[:, t : t + 1]
            new = tuple(ops.where(on, n, o) for n, o in zip(new, states, strict=True))
            shown = ops.where(on, shown, zeros)
        states, out[t] = new, shown
    return out, states


def _cell(job: Job, way: Direction, x: Any, states: tuple[Any, ...], recurrent: Any, after: Any) -> tuple[Any, ...]:
    """One step, the gates in Keras's order; formulas as in ONNX's specification of the operator."""
    ops, n = keras().ops, way.units
    if job.node.op == "RNN":
        return (way.activations[0](ops.add(x, ops.matmul(states[0], recurrent))),)
    if job.node.op == "GRU":
        return (_gru(way, x, states[0], recurrent, after, job.reset_after),)
    sums = ops.add(x, ops.matmul(states[0], recurrent))
    i, f, c, o = (sums[:, k * n : (k + 1) * n] for k in range(4))
    gate, inner, outer = way.activations
    p = way.peepholes
    if p is not None:
        i, f = ops.add(i, ops.multiply(states[1], p[0])), ops.add(f, ops.multiply(states[1], p[2]))
    memory = ops.add(ops.multiply(gate(f), states[1]), ops.multiply(gate(i), inner(c)))
    if p is not None:
        o = ops.add(o, ops.multiply(memory, p[1]))
    return ops.multiply(gate(o), outer(memory)), memory


def _gru(way: Direction, x: Any, h: Any, recurrent: Any, after: Any, reset_after: bool) -> Any:
    ops, n = keras().ops, way.units
    gate, inner = way.activations
    if reset_after:
        fed = ops.add(ops.matmul(h, recurrent), after)
        z, r = (gate(ops.add(x[:, k * n : (k + 1) * n], fed[:, k * n : (k + 1) * n])) for k in range(2))
        new = inner(ops.add(x[:, 2 * n :], ops.multiply(r, fed[:, 2 * n :])))
    else:
        fed = ops.matmul(h, recurrent[:, : 2 * n])
        z, r = (gate(ops.add(x[:, k * n : (k + 1) * n], fed[:, k * n : (k + 1) * n])) for k in range(2))
        new = inner(ops.add(x[:, 2 * n :], ops.matmul(ops.multiply(r, h), recurrent[:, 2 * n :])))
    return ops.add(ops.multiply(ops.subtract(1.0, z), new), ops.multiply(z, h))
