"""Layers that keep their state in variable tensors from one run to the next: SVDF and LSTM."""

from __future__ import annotations

import math

import numpy as np

from ....artifact import Array
from ..call import SCRATCH, Call, Constant, Features, Params, need, op, read, write
from ..graph import Op, Tensor
from ..numerics import quantize_multiplier

Fields = dict[str, int | Constant | None]
GATES = 4  # input, forget, cell, output
CELL_BITS = range(11, 16)  # scales of the cell state are 2^-11 to 2^-15


def _state(one: Op, index: int, dtype: str, elements: int) -> Tensor:
    found = one.input(index)
    need(found.variable and found.data is None, f"its state '{found.name}' does not keep its values")
    need(found.dtype == dtype and found.elements == elements, f"its state is {found.dtype} {list(found.shape)}")
    return found


def _rescaling(factor: float, most: int) -> tuple[int, int]:
    """(multiplier, shift) for sums of at most this size. Raises Unsupported where one could overflow."""
    multiplier, shift = quantize_multiplier(factor)
    need(most << max(shift, 0) < 1 << 31, f"a rescaling factor of {factor:g} is too large")
    return multiplier, shift


@op("SVDF", versions=4)
def svdf(one: Op, features: Features) -> Call:
    """A product with the inputs for each filter, then one with the filter's last products: svdf.h, with int16 for time."""
    x, feature, time, y = one.input(0), one.input(1), one.input(2), one.outputs[0]
    need(x.dtype == y.dtype == feature.dtype == "int8" and time.dtype == "int16", f"it computes in {x.dtype}")
    need(len(x.shape) == len(feature.shape) == len(time.shape) == 2 and x.elements > 0, "its shapes do not fit")
    need(int(one.option("fusedActivationFunction")) == 1, "its activation is no RELU, which LiteRT wants")
    rank, filters, memory = int(one.option("rank")), *time.shape
    need(rank > 0 and filters % rank == 0 and memory > 0, f"its rank is {rank} for {filters} filters")
    units = filters // rank
    batch, inputs = x.shape
    need(feature.shape == (filters, inputs) and y.shape == (batch, units), "its shapes do not fit")
    state = _state(one, 4, "int16", batch * filters * memory)
    need(not any(t.zero_points.any() for t in (feature, time, state)), "a weight or its state has a zero point")
    bias = np.zeros(units, np.int64) if one.inputs[3] is None else one.inputs[3].values.astype(np.int64).ravel()
    need(len(bias) == units and (one.inputs[3] is None or one.inputs[3].dtype == "int32"), "its bias does not fit")
    sums = 255 * int(np.abs(feature.values.astype(np.int64)).sum(1).max())
    totals = 32768 * np.abs(time.values.astype(np.int64)).sum(1).reshape(units, rank).sum(1) + np.abs(bias)
    need(sums < 1 << 31 and int(totals.max()) < 1 << 31, "its sums do not fit into 32 bits")
    first = _rescaling(float(x.scale) * float(feature.scale) / float(state.scale), sums)
    second = _rescaling(float(state.scale) * float(time.scale) / float(y.scale), int(totals.max()))
    fields: Fields = {
        "features": Constant(feature.values), "time": Constant(time.values), "bias": Constant(bias.astype(np.int32)),
        "batch": batch, "inputs": inputs, "units": units, "rank": rank, "memory": memory, "zero": x.zero_point,
        "out_zero": y.zero_point, "state_multiplier": first[0], "state_shift": first[1],
        "multiplier": second[0], "shift": second[1],
    }  # fmt: skip
    return Call(
        "svdf", "ednn_svdf_s8", (Params("ednn_svdf_t", fields), read(0), read(4), write()),
        macs=batch * filters * (inputs + memory),
    )  # fmt: skip


@op("UNIDIRECTIONAL_SEQUENCE_LSTM", versions=4)
def lstm(one: Op, features: Features) -> Call:
    """The LSTM that Keras has (no peepholes, projection or layer norm), int8 with an int16 cell: lstm_eval.cc, 8x8_16."""
    x, y = one.input(0), one.outputs[0]
    need(
        x.dtype == y.dtype == "int8" and len(x.shape) == len(y.shape) == 3, f"it computes in {x.dtype} {list(x.shape)}"
    )
    need(int(one.option("fusedActivationFunction")) == 4, "its activation is not tanh")
    extra = [i for i in (9, 10, 11, 16, 17, 20, 21, 22, 23) if i < len(one.inputs) and one.inputs[i] is not None]
    need(not extra, "peepholes, a projection or layer normalization")
    need(float(one.option("projClip", 0.0)) == 0, "it clips a projection")
    major = bool(one.option("timeMajor", False))
    batch, steps = (x.shape[1], x.shape[0]) if major else (x.shape[0], x.shape[1])
    inputs, cells = x.shape[2], y.shape[2]
    need(y.shape[:2] == x.shape[:2] and min(x.shape + y.shape) > 0, "its shapes do not fit")
    state, cell = _state(one, 18, "int8", batch * cells), _state(one, 19, "int16", batch * cells)
    fraction, exponent = math.frexp(float(cell.scale))
    need(
        fraction == 0.5 and 1 - exponent in CELL_BITS and cell.zero_point == 0, f"its cell has the scale {cell.scale:g}"
    )
    need(len(one.intermediates) == 5, "it has no scale for its hidden values")
    hidden = one.intermediates[4]
    need(float(hidden.scale) > 0, "a scale is 0")
    clip = float(one.option("cellClip", 0.0))
    need(math.isfinite(clip) and clip >= 0, f"it clips its cell at {clip}")
    limit = int(min(np.float32(clip) / cell.scale, np.float32(32767)))
    rescaling, given, recurrent, biases = [], [], [], []
    for which in range(GATES):
        to_in, to_state, bias = one.input(1 + which), one.input(5 + which), one.input(12 + which)
        need(
            to_in.shape == (cells, inputs) and to_state.shape == (cells, cells) and bias.elements == cells,
            "its weights do not fit",
        )
        need(to_in.dtype == to_state.dtype == "int8" and bias.dtype == "int32", "its weights are not int8")
        need(not (to_in.zero_points.any() or to_state.zero_points.any()), "its weights have a zero point other than 0")
        given.append(to_in.values)
        recurrent.append(to_state.values)
        biases.append((_folded(to_in, x.zero_point, bias.values), _folded(to_state, state.zero_point, None)))
        step = np.float32(2.0**-12)
        rescaling.append([
            *_rescaling(float(to_in.scale * x.scale / step), _most(to_in, biases[-1][0])),
            *_rescaling(float(to_state.scale * state.scale / step), _most(to_state, biases[-1][1])),
        ])  # fmt: skip
    multiplier, shift = _rescaling(2.0**-15 / float(hidden.scale) * 2.0**-15, 1 << 30)
    apart = (cells, batch * cells) if major else (steps * cells, cells)
    fields: Fields = {
        "in_weights": Constant(np.stack(given)), "out_weights": Constant(np.stack(recurrent)),
        "in_bias": Constant(np.stack([a for a, _ in biases]).astype(np.int32)),
        "out_bias": Constant(np.stack([b for _, b in biases]).astype(np.int32)),
        "rescaling": Constant(np.array(rescaling, np.int32)),
        "batch": batch, "steps": steps, "inputs": inputs, "cells": cells,
        "in_batch": inputs if major else steps * inputs, "in_step": batch * inputs if major else inputs,
        "out_batch": apart[0], "out_step": apart[1], "cell_bits": 1 - exponent, "clip": limit,
        "multiplier": multiplier, "shift": shift, "out_zero": hidden.zero_point,
    }  # fmt: skip
    return Call(
        "lstm", "ednn_lstm_s8",
        (Params("ednn_lstm_t", fields), read(0), read(18), read(19), write(), SCRATCH),
        scratch=2 * GATES * cells, macs=batch * steps * GATES * cells * (inputs + cells),
    )  # fmt: skip


def _folded(weights: Tensor, zero_point: int, bias: Array | None) -> Array:
    """bias - zero point x sum of weights."""
    sums = weights.values.astype(np.int64).sum(1) * -zero_point
    return np.asarray(sums if bias is None else sums + bias.astype(np.int64).ravel())


def _most(weights: Tensor, bias: Array) -> int:
    return int((np.abs(bias) + 128 * np.abs(weights.values.astype(np.int64)).sum(1)).max())
