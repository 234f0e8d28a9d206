"""Loops that tf2onnx leaves of Keras 3's GRU and SimpleRNN, as one operator each: recognised by what a step computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..artifact import Array
from . import _onnx

TOLERANCE = 1e-5  # of a step computed in float32, whose values lie within -1..1
FLOAT = 1  # TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class Cell:
    """A loop that was recognised: gates side by side, as Keras has them."""

    kind: str  # "GRU", "RNN"
    kernel: Array  # [features, gates * units]
    recurrent: Array  # [units, gates * units]
    biases: Array  # [2, gates * units]
    sequence: str  # the value [time, batch, features] that each step takes a slice of
    state: int  # number of the loop's state that is the hidden one
    after: bool  # GRU: whether the reset gate is applied behind the recurrent kernel (reset_after)


def replace_loops(model: Any) -> None:
    """Put an operator in the place of each loop whose step is a GRU's or a simple RNN's, shown on random values."""
    weights = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        cell = _recognised(model, node, weights) if node.op_type == "Loop" else None
        nodes += [node] if cell is None else _operator(model, node, cell)
    kept = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _recognised(model: Any, node: Any, weights: dict[str, Any]) -> Cell | None:
    body = next(a.g for a in node.attribute if a.name == "body")
    states = len(node.input) - 2
    inner = {i.name for i in body.initializer} | {i.name for i in body.input} | {o for n in body.node for o in n.output}
    outer = {i for n in body.node for i in n.input if i and i not in inner and i not in weights}
    passed = [body.output[1 + k].name == body.input[2 + k].name for k in range(states)]
    changing = [k for k in range(states) if not passed[k] and body.input[2 + k].type.tensor_type.elem_type == FLOAT]
    constant = [
        _onnx.array(weights[node.input[2 + k]]) for k in range(states) if passed[k] and node.input[2 + k] in weights
    ]
    used = {i for n in model.graph.node for i in n.input} | {o.name for o in model.graph.output}
    others = {node.output[k] for k in range(states) if k not in changing}
    if (
        len(outer) != 1
        or len(changing) != 1
        or len(constant) != sum(passed)
        or others & used
        or len(body.output) > states + 2
    ):
        return None
    (sequence,), (state,) = outer, changing
    for cell in _candidates(constant, sequence, state):
        if _same_step(model, body, node, cell, weights):
            return cell
    return None


def _candidates(weights: list[Array], sequence: str, state: int) -> list[Cell]:
    """How three constants could be kernel, recurrent kernel and bias."""
    matrices = [w for w in weights if w.ndim == 2]
    found = []
    for r in matrices:
        for kind, gates in (("GRU", 3), ("RNN", 1)):
            units = r.shape[0]
            if r.shape[1] != gates * units:
                continue
            biases = [w for w in weights if w.shape in ((gates * units,), (2, gates * units)) and w is not r]
            for k in matrices:
                if k is r or k.shape[1] != gates * units or len(weights) > 3:
                    continue
                for b in [w for w in biases if w is not k] or [np.zeros(gates * units, np.float32)]:
                    both = b if b.ndim == 2 else np.stack([b, np.zeros_like(b)])
                    found.append(Cell(kind, k, r, both, sequence, state, b.ndim == 2))
    return found


def _step(cell: Cell, x: Array, h: Array) -> Array:
    """One step of Keras' GRU or SimpleRNN."""
    a, b = x @ cell.kernel + cell.biases[0], h @ cell.recurrent + cell.biases[1]
    if cell.kind == "RNN":
        return np.asarray(np.tanh(a + b))
    units = h.shape[1]
    z, r = (1 / (1 + np.exp(-(a + b)[:, i * units : (i + 1) * units])) for i in (0, 1))
    inner = r * b[:, 2 * units :] if cell.after else (r * h) @ cell.recurrent[:, 2 * units :]
    return np.asarray(z * h + (1 - z) * np.tanh(a[:, 2 * units :] + inner))


def _same_step(model: Any, body: Any, node: Any, cell: Cell, weights: dict[str, Any]) -> bool:
    """Whether the loop's body computes this cell, on random values."""
    o, rng = _onnx.onnx(), np.random.default_rng(0)
    x = rng.normal(size=(4, 3, cell.kernel.shape[0])).astype(np.float32)
    h = rng.uniform(-1, 1, (3, len(cell.recurrent))).astype(np.float32)
    feed: dict[str, Array] = {cell.sequence: x}
    for k, info in enumerate(body.input[2:]):
        name = node.input[2 + k]
        kind = _onnx.dtype_name(info.type.tensor_type.elem_type)
        feed[info.name] = _onnx.array(weights[name]) if name in weights else np.array(2, kind)
    feed[body.input[2 + cell.state].name] = h
    feed[body.input[0].name], feed[body.input[1].name] = np.array(2, np.int64), np.array(True)
    for k, info in enumerate(body.input[2:]):
        if k != cell.state and not info.type.tensor_type.shape.dim and "int" in str(feed[info.name].dtype):
            feed[info.name] = np.array(2, feed[info.name].dtype)  # the counter: each step reads its own slice
    inputs = [*body.input, o.helper.make_tensor_value_info(cell.sequence, FLOAT, [None, None, None])]
    outer = {i for n in body.node for i in n.input if i in weights}
    graph = o.helper.make_graph(
        body.node, "step", inputs, [o.helper.make_tensor_value_info(body.output[1 + cell.state].name, FLOAT, None)],
        [*body.initializer, *(weights[n] for n in outer)],
    )  # fmt: skip
    step = o.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        session = _onnx.session(step, optimize=False)
        wanted = {i.name for i in session.get_inputs()}
        (found,) = session.run(None, {n: a for n, a in feed.items() if n in wanted})
    except _onnx.runtime_errors():
        return False
    expected = _step(cell, x[2], h)
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= TOLERANCE)


def _operator(model: Any, node: Any, cell: Cell) -> list[Any]:
    """The nodes in the place of a loop; its last state and its sequence of states keep their names."""
    o, name = _onnx.onnx(), node.name or node.output[0]

    def constant(array: Array, what: str) -> str:
        model.graph.initializer.append(o.numpy_helper.from_array(np.ascontiguousarray(array), f"{name}/{what}"))
        return f"{name}/{what}"

    states = len(node.input) - 2
    arrays = {"W": cell.kernel.T[None], "R": cell.recurrent.T[None], "B": cell.biases.reshape(1, -1)}
    w, r, b = (constant(a.astype(np.float32), k) for k, a in arrays.items())
    axes = [constant(np.array([i], np.int64), f"axis{i}") for i in (0, 1)]
    make, first, all_, last = o.helper.make_node, f"{name}/first", f"{name}/all", f"{name}/last"
    more = {"linear_before_reset": int(cell.after)} if cell.kind == "GRU" else {}
    made = [
        make("Unsqueeze", [node.input[2 + cell.state], axes[0]], [first], name=first),
        make(
            cell.kind,
            [cell.sequence, w, r, b, "", first],
            [all_, last],
            name=name,
            hidden_size=len(cell.recurrent),
            **more,
        ),
        make("Squeeze", [last, axes[0]], [node.output[cell.state]], name=last),
    ]
    if len(node.output) > states and node.output[states]:
        made.append(make("Squeeze", [all_, axes[1]], [node.output[states]], name=all_))
    return made
