"""Rules of recurrent layers: LSTM, GRU, SimpleRNN, RNN with such cells, stacked cells, Bidirectional, ConvLSTM, and
TimeDistributed.

The units of a layer are its state: each goes from every gate, from the recurrent kernel and from the state passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ....frameworks import keras
from ..call import Call, Shrunk, Term, Traced
from ..units import Axis, Ids, Label
from . import rule, rule_for

GATES = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}
ACROSS = ("softmax", "log_softmax", "sparsemax")


def _cells(cell: Any) -> list[Any]:
    return list(cell.cells) if hasattr(cell, "cells") else [cell]


def _known(cell: Any) -> bool:
    return all(type(c).__module__.startswith("keras.") and type(c).__name__ in GATES for c in _cells(cell))


def _cell(call: Call, cell: Any, read: Axis, steps: int) -> Ids:
    """New units for the state of a cell that reads `read`; labels its weights, counts its work."""
    out, gates = call.fresh(cell.units), GATES[type(cell).__name__]
    made = np.tile(out, gates)
    call.variable(cell.kernel, (read, made))
    call.variable(cell.recurrent_kernel, (out, made))
    if cell.use_bias:
        call.variable(
            cell.bias, (*(None,) * (len(cell.bias.shape) - 1), made)
        )  # GRU: [2, 3 units] where it resets after
    call.macs(steps * (1 if read is not None else cell.kernel.shape[0]), read, made)
    call.macs(steps, out, made)
    if {getattr(a, "__name__", "") for a in (cell.activation, getattr(cell, "recurrent_activation", None))} & {*ACROSS}:
        call.freeze(out, f"{call.path} computes a softmax over all of them")
    return out


def _states(cell: Any, out: Ids) -> list[Ids]:
    return [out, out] if type(cell).__name__ == "LSTMCell" else [out]


def _steps(call: Call) -> int:
    return int(call.x.shape[1] or 1)


def _given(call: Call) -> list[Traced]:
    """The initial states, flat."""
    passed = call.args[1] if len(call.args) > 1 else call.kwargs.get("initial_state")
    return [t for t in keras().tree.flatten(passed) if isinstance(t, Traced)]


def _start(call: Call, states: Sequence[Ids]) -> None:
    """Unite the initial states with the units, if there are any."""
    given = _given(call)
    if given and len(given) != len(states):
        for tensor in given:
            call.freeze_all([tensor])
        for out in states:
            call.freeze(out, f"the initial states of {call.path} are not understood")
        return
    for tensor, out in zip(given, states, strict=False):
        if tensor.label[-1] is None:
            call.freeze(out, f"{call.path} starts from a state that cannot be made smaller")
        else:
            call.unite(tensor.label[-1], out)


def _ran(call: Call, cell: Any, read: Axis) -> tuple[Ids, list[Ids]]:
    """The units of the output and of all states of a layer with this cell."""
    states: list[Ids] = []
    for part in _cells(cell):
        read = out = _cell(call, part, read, _steps(call))
        states += _states(part, out)
    return out, states


def _cell_config(shrunk: Shrunk, cell: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a cell for the state that is left."""
    if not hasattr(cell, "cells"):
        return {**config, "units": shrunk.variable(cell.recurrent_kernel)[0]}
    parts = zip(cell.cells, config["cells"], strict=True)
    return {**config, "cells": [{**part, "config": _cell_config(shrunk, one, part["config"])} for one, part in parts]}


def _layer_config(shrunk: Shrunk, layer: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a layer for the state that is left: LSTM and its like are told as their one cell."""
    if "cell" not in config:
        return _cell_config(shrunk, layer.cell, config)
    return {**config, "cell": {**config["cell"], "config": _cell_config(shrunk, layer.cell, config["cell"]["config"])}}


def _units(shrunk: Shrunk) -> Any:
    return shrunk.remade(**_layer_config(shrunk, shrunk.op, shrunk.op.get_config()))


@rule("LSTM", "GRU", "SimpleRNN", "RNN", resize=_units)
def recurrent(call: Call) -> Sequence[Label]:
    """New units for the state of each cell."""
    if not _known(call.op.cell):
        return call.leave_alone(f"its cell {type(call.op.cell).__name__} is not known")
    call.freeze_all_but(call.x, -1)
    out, states = _ran(call, call.op.cell, call.x.label[-1])
    _start(call, states)
    sequence: Label = (None, None, out) if call.op.return_sequences else (None, out)
    return [sequence, *((None, s) for s in states)] if call.op.return_state else [sequence]


def _both_ways(shrunk: Shrunk) -> Any:
    config = shrunk.op.get_config()
    for key, layer in (("layer", shrunk.op.forward_layer), ("backward_layer", shrunk.op.backward_layer)):
        config[key] = {**config[key], "config": _layer_config(shrunk, layer, config[key]["config"])}
    return shrunk.remade(**config)


@rule("Bidirectional", resize=_both_ways)
def bidirectional(call: Call) -> Sequence[Label]:
    """Both ways keep the same number of units, so that they go in pairs."""
    halves = (call.op.forward_layer, call.op.backward_layer)
    if not all(hasattr(half, "cell") and _known(half.cell) for half in halves):
        return call.leave_alone(f"it wraps a {type(halves[0]).__name__}")
    call.freeze_all_but(call.x, -1)
    (ahead, first), (back, second) = (_ran(call, half.cell, call.x.label[-1]) for half in halves)
    for one, other in zip(first, second, strict=True):
        call.unite(one, other)
    _start(call, [*first, *second])
    mode, lead = call.op.merge_mode, (None, None) if call.op.return_sequences else (None,)
    if mode is None:
        outputs: list[Label] = [(*lead, ahead), (*lead, back)]
    else:
        outputs = [(*lead, np.concatenate([ahead, back]) if mode == "concat" else ahead)]
    return [*outputs, *((None, s) for s in (*first, *second))] if call.op.return_state else outputs


# --- convolutional


@rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D",
      resize=lambda shrunk: shrunk.remade(filters=shrunk.variable(shrunk.op.cell.recurrent_kernel)[-2]))  # fmt: skip
def conv_lstm(call: Call) -> Sequence[Label]:
    """The state is a map of `filters` channels."""
    cell, first = call.op.cell, call.op.data_format == "channels_first"
    axis = 2 if first else len(call.x.label) - 1
    call.freeze_all_but(call.x, axis)
    read, out = call.x.label[axis], call.fresh(cell.filters)
    made, window = np.tile(out, 4), (None,) * (len(cell.kernel.shape) - 2)
    call.variable(cell.kernel, (*window, read, made))
    call.variable(cell.recurrent_kernel, (*window, out, made))
    call.variable(cell.bias, (made,)) if cell.use_bias else None
    rank = len(call.x.label) - 1
    state: Label = tuple(out if i == (1 if first else rank - 1) else None for i in range(rank))
    sequence: Label = (state[0], None, *state[1:]) if call.op.return_sequences else state
    sizes = [n for n, ids in zip(call.shapes[0], sequence, strict=True) if ids is None][
        2 if call.op.return_sequences else 1 :
    ]
    work = _steps(call) * prod(int(n or 1) for n in sizes)
    call.macs(work * prod(cell.kernel.shape[:-2]) * (1 if read is not None else cell.kernel.shape[-2]), read, made)
    call.macs(work * prod(cell.recurrent_kernel.shape[:-2]), out, made)
    for tensor in _given(call):
        call.unite(tensor.label[1 if first else -1], out)
    return [sequence, state, state] if call.op.return_state else [sequence]


# --- at every step


def _child(call: Call) -> Call:
    """The call of the layer inside, without the axis of time."""
    k = keras()

    def inner(tensor: Traced) -> Traced:
        spec = k.KerasTensor((tensor.shape[0], *tensor.shape[2:]), tensor.spec.dtype)
        return Traced(spec, (tensor.label[0], *tensor.label[2:]))

    inputs = [inner(t) for t in call.inputs]
    shapes = [(s[0], *s[2:]) for s in call.shapes]
    return Call(call.op.layer, call.path, inputs, {}, inputs, shapes, call.units, call.weights, free=True)


def _wrapped(shrunk: Shrunk) -> Any:
    """The same wrapper around the layer inside made anew."""
    inner = shrunk.call.inner
    found = None if inner is None else rule_for(inner.op)
    if inner is None or found is None or found.resize is None:
        return shrunk.remade()
    inputs, outputs = ([(s[0], *s[2:]) for s in shapes] for shapes in (shrunk.inputs, shrunk.outputs))
    layer = found.resize(replace(shrunk, op=inner.op, inputs=inputs, outputs=outputs, call=inner))
    return shrunk.remade(layer=keras().saving.serialize_keras_object(layer))


@rule("TimeDistributed", resize=_wrapped)
def time_distributed(call: Call) -> Sequence[Label]:
    """The rule of the layer inside, at every step."""
    layer = call.op.layer
    found = rule_for(layer)
    if found is None or len(call.inputs) != 1 or hasattr(layer, "operations") or len(call.shapes) != 1:
        return call.leave_alone(f"it wraps a {type(layer).__name__}")
    call.freeze(call.x.label[1])
    inner = call.inner = _child(call)
    labels = found.propagate(inner)
    if inner.alone:
        call.alone = inner.alone
    if getattr(getattr(layer, "activation", None), "__name__", "") in ACROSS:
        call.freeze(labels[0][-1], f"{call.path} computes a softmax over all of them")
    call.terms += [Term(t.path, t.kind, t.coefficient * _steps(call), t.axes) for t in inner.terms]
    return [(label[0], None, *label[1:]) for label in labels]
