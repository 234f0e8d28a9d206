"""What one step of a loop computes: LSTM, GRU or simple RNN, its weights read off by evaluating the step itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..artifact import Array

TOLERANCE = 1e-5  # of a step in float32 on states within -1..1
SCALE = 1024.0  # of the unit vectors that the weights are read off with: a power of two, far above the biases
MAX_UNITS = 1 << 14  # of a state or an input
MAX_LAYERS = 32  # of cells on top of each other in one loop
ACTIVATIONS = {"Sigmoid": "Sigmoid", "Logistic": "Sigmoid", "Tanh": "Tanh", "Relu": "Relu"}  # names of ONNX


class NotACell(Exception):
    """Why a loop is no recurrent layer, in words that follow "it"."""


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of a step: its kind as TensorFlow or ONNX call it, the tensors it takes and makes."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Step(Protocol):
    """The body of a loop, which can be evaluated from any of its tensors to any other."""

    @property
    def ops(self) -> Sequence[Op]:
        """Its operations in an order in which they can be run."""

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
        """The values of tensors; `feed` may hold any tensor, also one that is computed. Raises NotACell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One recurrent layer: weights of the gates side by side, in ONNX's order."""

    kind: str  # "LSTM", "GRU", "RNN"
    kernel: Array  # [features, gates * units]
    recurrent: Array  # [units, gates * units]
    biases: Array  # [2, gates * units]: of the input, of the state
    states: tuple[str, ...]  # the loop's tensors: hidden, and of an LSTM the cell
    activations: tuple[str, ...]
    after: bool = False  # GRU: the reset gate is applied behind the recurrent kernel
    output: str = ""  # the tensor of the new hidden state

    @property
    def units(self) -> int:
        return len(self.recurrent)

    def __call__(self, x: Array, states: Sequence[Array]) -> tuple[Array, ...]:
        """The states after a step; x [batch, features], states [batch, units]."""
        h, n = states[0], self.units
        a, b = x @ self.kernel + self.biases[0], h @ self.recurrent + self.biases[1]
        f, g = (_function(self.activations[i]) for i in (0, min(1, len(self.activations) - 1)))
        if self.kind == "RNN":
            return (f(a + b),)
        if self.kind == "LSTM":
            i, o, forget, c = (
                f((a + b)[:, k * n : (k + 1) * n]) if k < 3 else g((a + b)[:, 3 * n :]) for k in range(4)
            )
            new = forget * states[1] + i * c
            return o * _function(self.activations[2])(new), new
        z, r = (f((a + b)[:, k * n : (k + 1) * n]) for k in (0, 1))
        own, bias = self.recurrent[:, 2 * n :], self.biases[1][2 * n :]
        inner = r * (h @ own + bias) if self.after else (r * h) @ own + bias
        return (z * h + (1 - z) * g(a[:, 2 * n :] + inner),)


def _function(name: str) -> Any:
    def sigmoid(x: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 80))))

    return {"Sigmoid": sigmoid, "Tanh": np.tanh, "Relu": lambda x: np.maximum(x, 0), "Affine": lambda x: x}[name]


def cells(
    step: Step, x: str, states: Mapping[str, str], sizes: Mapping[str, int], feed: Mapping[str, Array], batch: int
) -> list[Cell]:
    """The layers that a step consists of, from its input on.

    `x`: the tensor of the input, [batch, features]; `states`: tensor -> the tensor of its new value; `sizes`: the last
    axis of `x` and of the states; `feed`: all else that the step takes. Raises NotACell with what is not standard.
    """
    walk = _Walk(step, feed, {**sizes}, batch)
    states = {s: walk.alias(n) for s, n in states.items()}
    if any(not 0 < n <= MAX_UNITS for n in sizes.values()):
        raise NotACell("has a state or an input of an absurd size")
    found: list[Cell] = []
    left, current = dict(states), x
    while left:
        if len(found) >= MAX_LAYERS:
            raise NotACell(f"has more than {MAX_LAYERS} layers")
        group = _group(walk, left, current, {x, *states})
        cell = _cell(walk, current, group, states)
        found.append(cell)
        left = {s: n for s, n in left.items() if s not in group}
        current = cell.output
        walk.sizes[current] = cell.units
    return found


class _Walk:
    """A step with what it is fed, and the ways through it."""

    def __init__(self, step: Step, feed: Mapping[str, Array], sizes: dict[str, int], batch: int) -> None:
        self.step, self.feed, self.sizes, self.batch = step, feed, sizes, batch
        self.made = {o: op for op in step.ops for o in op.outputs if o not in sizes and o not in feed}

    def alias(self, tensor: str) -> str:
        """The tensor behind identities, and behind the choice of a sequence's length that is fixed."""
        for _ in range(1000):
            op = self.made.get(tensor)
            if op is None:
                return tensor
            if op.kind in ("Identity", "StopGradient", "EnsureShape"):
                tensor = op.inputs[0]
            elif op.kind in ("Select", "SelectV2") and not self.leaves(op.inputs[0], ()) & set(self.sizes):
                (chosen,) = self.step.run(self.feed, [op.inputs[0]])
                if chosen.any() != chosen.all():
                    raise NotACell("has sequence lengths that differ")
                tensor = op.inputs[1 if chosen.all() else 2]
            else:
                return tensor
        return tensor

    def reach(self, tensor: str, stop: Iterable[str]) -> list[str]:
        """All tensors that one needs, itself first; what `stop` needs is not looked at."""
        halt, seen, waiting = set(stop), {tensor: None}, [tensor]
        while waiting:
            name = waiting.pop()
            if name in halt or name not in self.made:
                continue
            for source in self.made[name].inputs:
                if source not in seen:
                    seen[source] = None
                    waiting.append(source)
        return list(seen)

    def leaves(self, tensor: str, stop: Iterable[str]) -> set[str]:
        """The tensors that one is made of: what nothing in the step makes, and `stop`."""
        halt = set(stop)
        return {t for t in self.reach(tensor, halt) if t in halt or t not in self.made}

    def activations(self, tensors: Iterable[str], stop: Iterable[str]) -> list[Op]:
        """The activations on the way to tensors, in the order of the step."""
        reached = {t for tensor in tensors for t in self.reach(tensor, stop)} - set(stop)
        return [op for op in self.step.ops if op.kind in ACTIVATIONS and op.outputs[0] in reached]

    def run(self, feed: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
        found = self.step.run({**self.feed, **feed}, wanted)
        if any(a.ndim != 2 or len(a) != self.batch for a in found):
            raise NotACell("computes something else than [batch, units]")
        return found

    def rows(self, feed: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
        """As `run`, of any number of rows: as many at once as the batch has."""
        total, parts = len(next(iter(feed.values()))), []
        for at in range(0, total, self.batch):
            part = {n: _padded(a[at : at + self.batch], self.batch) for n, a in feed.items()}
            parts.append([a[: total - at] for a in self.run(part, wanted)])
        return [np.concatenate(p) for p in zip(*parts, strict=True)]


def _padded(rows: Array, count: int) -> Array:
    return np.concatenate([rows, np.zeros((count - len(rows), rows.shape[1]), np.float32)])


def _group(walk: _Walk, left: Mapping[str, str], current: str, ends: set[str]) -> tuple[str, ...]:
    """The states of the next layer: those that depend on nothing but the input and one another. Raises NotACell."""
    needed = {s: walk.leaves(n, {current}) for s, n in left.items()}
    own = {s: needed[s] & (ends - {current}) | {s} for s in left}
    first = min(own, key=lambda s: len(own[s]))
    group = own[first] | {t for s in own[first] if s in own for t in own[s]}
    if not group <= set(left) or any(current not in needed[s] for s in group):
        raise NotACell("mixes its layers otherwise than by feeding one's output to the next")
    if len(group) > 2:
        raise NotACell(f"has a layer of {len(group)} states that depend on each other")
    return tuple(s for s in left if s in group)


@dataclass(frozen=True, slots=True)
class _Gate:
    """An activation of something linear, one gate wide."""

    activation: str
    weights: Mapping[str, Array]  # [size of the input or state, units] by tensor
    bias: Array


def _cell(walk: _Walk, x: str, group: Sequence[str], states: Mapping[str, str]) -> Cell:
    """The layer that the states of a group are. Raises NotACell."""
    units = walk.sizes[group[0]]
    if any(walk.sizes[s] != units for s in group):
        raise NotACell("has a state of another width than its output (a projection)")
    ends = {x, *group}
    every = walk.activations([states[s] for s in group], ends)
    first = [op for op in every if not walk.activations(op.inputs, ends)]
    later = [op for op in every if op not in first]
    gates = _linear(walk, first, ends, units)
    if len(group) == 2:
        candidates = _lstms(group, gates, later, x)
    elif later:
        candidates = _grus(walk, x, group[0], gates, first, later, units)
    else:
        candidates = _rnns(group[0], gates, x)
    probes = [_probe(walk, x, group, states, scale) for scale in (1.0, 100.0)]
    for cell in candidates:
        if all(_fits(cell, x, *probe, tolerance) for probe, tolerance in zip(probes, (TOLERANCE, 1e-3), strict=True)):
            output = states[cell.states[0]]
            return Cell(cell.kind, cell.kernel, cell.recurrent, cell.biases, cell.states, cell.activations,
                        cell.after, output)  # fmt: skip
    kinds = ", ".join(op.kind for op in every) or "none"
    raise NotACell(f"computes another step than an LSTM's, a GRU's or a simple RNN's (its activations: {kinds})")


def _linear(walk: _Walk, ops: Sequence[Op], inputs: Iterable[str], units: int,
            more: Mapping[str, float] | None = None) -> list[_Gate]:  # fmt: skip
    """The weights behind activations, read off with unit vectors; an activation of several gates is taken apart.

    `more`: other tensors, held at a value. Raises NotACell where something is not linear.
    """
    if not ops:
        return []
    names, wanted = sorted(inputs), [op.inputs[0] for op in ops]
    sizes = [walk.sizes[n] for n in names]
    unit = np.concatenate([np.zeros((1, sum(sizes)), np.float32), SCALE * np.eye(sum(sizes), dtype=np.float32)])
    noise = np.random.default_rng(0).uniform(-1, 1, (walk.batch, sum(sizes))).astype(np.float32)
    starts, held = np.cumsum(sizes)[:-1], dict(more or {})
    first = dict(zip(names, np.split(noise, starts, axis=1), strict=True))
    widths = [a.shape[1] for a in walk.run(first, list(held))] if held else []

    def value(rows: Array) -> list[Array]:
        feed = dict(zip(names, np.split(rows, starts, axis=1), strict=True))
        fixed = {n: np.full((len(rows), w), held[n], np.float32) for n, w in zip(held, widths, strict=True)}
        return walk.rows({**feed, **fixed}, wanted)

    found = []
    for op, at_units, at_noise in zip(ops, value(unit), value(noise), strict=True):
        bias, weights = at_units[0], (at_units[1:] - at_units[0]) / SCALE
        expected = noise @ weights + bias
        if not np.isfinite(at_units).all() or np.abs(expected - at_noise).max() > TOLERANCE * max(1, np.abs(expected).max()):  # fmt: skip
            raise NotACell("has a gate that is not linear in its input and state")
        if len(bias) % units:
            raise NotACell("has a gate of another width than its state (a projection)")
        parts = dict(zip(names, np.split(weights, starts), strict=True))
        for at in range(0, len(bias), units):
            part = {n: w[:, at : at + units] for n, w in parts.items()}
            found.append(_Gate(ACTIVATIONS[op.kind], part, bias[at : at + units]))
    return found


def _lstms(group: Sequence[str], gates: Sequence[_Gate], later: Sequence[Op], x: str) -> list[Cell]:
    """The ways in which four gates can be an LSTM's. Raises NotACell."""
    if len(gates) < 4 and len(later) > 1:
        raise NotACell("has a gate that sees the new cell state (peephole connections)")
    if len(gates) != 4 or len(later) > 1:
        raise NotACell(f"has two states and {len(gates)} gates, where an LSTM has 4")
    last = ACTIVATIONS[later[0].kind] if later else "Affine"
    found = []
    for h, c in (tuple(group), tuple(group)[::-1]):
        if any(np.any(g.weights[c]) for g in gates):
            continue
        for order in itertools.permutations(gates):  # input, output, forget, cell
            if len({g.activation for g in order[:3]}) == 1:
                kinds = (order[0].activation, order[3].activation, last)
                found.append(_made("LSTM", order, x, (h, c), kinds))
    if not found and all(any(np.any(g.weights[s]) for g in gates) for s in group):
        raise NotACell("has gates that see the cell state (peephole connections)")
    return found


def _rnns(h: str, gates: Sequence[_Gate], x: str) -> list[Cell]:
    return [_made("RNN", gates, x, (h,), (gates[0].activation,))] if len(gates) == 1 else []


def _grus(walk: _Walk, x: str, h: str, gates: Sequence[_Gate], first: Sequence[Op], later: Sequence[Op],
          units: int) -> list[Cell]:  # fmt: skip
    """The ways in which two gates and a candidate can be a GRU's: the candidate's weights at open and shut gates."""
    if len(gates) != 2 or len(later) != 1 or gates[0].activation != gates[1].activation:
        return []
    outputs = [op.outputs[0] for op in first]
    (open_,) = _linear(walk, later, {x, h}, units, dict.fromkeys(outputs, 1.0))
    (shut,) = _linear(walk, later, {x, h}, units, dict.fromkeys(outputs, 0.0))
    kinds = (gates[0].activation, open_.activation)
    zero = np.zeros(units, np.float32)
    found = []
    for z, r in itertools.permutations(gates):
        turned = _Gate(z.activation, {n: -w for n, w in z.weights.items()}, -z.bias)
        for update in (z, turned) if z.activation == "Sigmoid" else (z,):
            for after in (True, False):
                cell = _made("GRU", (update, r, open_ if not after else shut), x, (h,), kinds)
                recurrent = np.concatenate([update.weights[h], r.weights[h], open_.weights[h]], axis=1)
                other = open_.bias - shut.bias if after else zero
                biases = np.stack([cell.biases[0], np.concatenate([zero, zero, other])])
                found.append(Cell("GRU", cell.kernel, recurrent, biases, (h,), kinds, after))
    plain = [c for c in found if not c.after]  # as published, where both are the same
    return plain + [c for c in found if c.after]


def _made(kind: str, gates: Sequence[_Gate], x: str, states: tuple[str, ...], kinds: tuple[str, ...]) -> Cell:
    kernel, recurrent = (np.concatenate([g.weights[n] for g in gates], axis=1) for n in (x, states[0]))
    bias = np.concatenate([g.bias for g in gates])
    return Cell(kind, kernel, recurrent, np.stack([bias, np.zeros_like(bias)]), states, kinds)


def _probe(walk: _Walk, x: str, group: Sequence[str], states: Mapping[str, str], scale: float) -> tuple[Any, Any]:
    """(random input and states, the states that the step makes of them); a clip shows at the larger scale."""
    rng = np.random.default_rng(1)
    feed = {n: (scale * rng.uniform(-1, 1, (walk.batch, walk.sizes[n]))).astype(np.float32) for n in (x, *group)}
    return feed, dict(zip(group, walk.run(feed, [states[s] for s in group]), strict=True))


def _fits(cell: Cell, x: str, feed: Mapping[str, Array], made: Mapping[str, Array], tolerance: float) -> bool:
    expected = cell(feed[x], [feed[s] for s in cell.states])
    return all(
        e.shape == made[s].shape and bool(np.abs(e - made[s]).max() <= tolerance * max(1.0, np.abs(e).max()))
        for s, e in zip(cell.states, expected, strict=True)
    )


def simulated(cells: Sequence[Cell], sequence: Array, states: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """(the last layer's outputs [time, batch, units], all states at the end) of layers on a sequence."""
    current, outputs = dict(states), []
    for x in sequence:
        for cell in cells:
            new = cell(x, [current[s] for s in cell.states])
            current.update(zip(cell.states, new, strict=True))
            x = new[0]
        outputs.append(x)
    return np.stack(outputs), current


def weights(cell: Cell) -> tuple[Array, Array, Array]:
    """W, R and B as ONNX has them: [1, gates * units, features], [1, gates * units, units], [1, 2 * gates * units]."""
    return (
        np.ascontiguousarray(cell.kernel.T[None], np.float32),
        np.ascontiguousarray(cell.recurrent.T[None], np.float32),
        np.ascontiguousarray(cell.biases.reshape(1, -1), np.float32),
    )


def attributes(cell: Cell) -> dict[str, Any]:
    """Of the ONNX operator."""
    more = {"linear_before_reset": int(cell.after)} if cell.kind == "GRU" else {}
    return {"hidden_size": cell.units, "activations": list(cell.activations), **more}
