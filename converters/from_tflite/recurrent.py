"""TFLite's fused recurrent operators as ONNX's LSTM and RNN. Their states start at zero; LiteRT keeps them between calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifact import Array
from .step import RELU, TANH, Step, Unsupported, op

STATEFUL = "its recurrent state starts at zero at every call, where LiteRT keeps it from one call to the next until it is reset"
GATES = (0, 3, 1, 2)  # TFLite's order i, f, c, o -> ONNX's i, o, f, c


def note(s: Step, text: str) -> None:
    """Say something once."""
    if text not in s.graph.notes:
        s.graph.notes.append(text)


def nonzero(s: Step, indices: Sequence[int]) -> bool:
    """Whether any of these inputs is there and is not a constant of zeros."""
    found = [s.maybe_array(i) for i in indices if s.has(i)]
    return any(a is None or bool(np.any(a)) for a in found)


def gate_weights(s: Step, base: int) -> tuple[Array, Array, Array]:
    """(W [1, 4H, I], R [1, 4H, H], B [1, 8H]) of the LSTM whose input weights begin at input `base`."""
    if nonzero(s, range(base + 8, base + 11)):
        raise Unsupported("it has peephole weights, which Keras has not")
    if nonzero(s, (base + 15, base + 16)):
        raise Unsupported("it projects its state, which Keras does not")
    if not s.has(base) or not s.has(base + 4):
        raise Unsupported("its input and forget gates are coupled, which Keras does not have")
    w, r, b = ([s.array(base + at + g) for g in GATES] for at in (0, 4, 11))
    units = len(b[0])
    if any(a.ndim != 2 or a.shape[0] != units for a in (*w, *r)) or any(a.size != units for a in b):
        raise Unsupported("its weights do not fit one another")
    biases = np.concatenate([*b, np.zeros(4 * units, np.float32)])
    return np.concatenate(w)[None], np.concatenate(r)[None], biases[None].astype(np.float32)


def sequence(s: Step, time_major: bool) -> str:
    """The input as [time, batch, features]."""
    if len(s.shape()) != 3:
        raise Unsupported("its input is not of rank 3")
    return s.x() if time_major else s("Transpose", s.x(), perm=[1, 0, 2])


def batch_first(s: Step, y: str, time_major: bool) -> None:
    """[time, batch, units] as the result, in the order of the input."""
    if time_major:
        s.last("Identity", y)
    else:
        s.last("Transpose", y, perm=[1, 0, 2])


def clips(s: Step, options: str) -> None:
    """A clip of the cell state is left out, and said."""
    if float(s.option("projClip", options)):
        raise Unsupported("it clips a projection")
    if clip := float(s.option("cellClip", options)):
        note(s, f"an LSTM of the file clips its cell state at {clip:g}; the rebuilt one does not")


def activation(s: Step, options: str) -> str:
    """The name of the fused activation in ONNX. Raises Unsupported."""
    code = s.option("fusedActivationFunction", options)
    names = {TANH: "Tanh", RELU: "Relu"}
    if code not in names:
        raise Unsupported(f"its activation {code} is not known")
    return names[code]


@op("UNIDIRECTIONAL_SEQUENCE_LSTM")
def lstm(s: Step) -> None:
    """Inputs of schema.fbs: 0 x, 1-4 W, 5-8 R, 9-11 peepholes, 12-15 biases, 16-17 projection, 18-19 states."""
    options = "UnidirectionalSequenceLSTMOptions"
    if any(s.has(i) for i in range(20, 24)):
        raise Unsupported("it normalizes its gates (layer-norm LSTM), which Keras does not")
    if s.option("diagonalRecurrentTensors", options):
        raise Unsupported("its recurrent weights are diagonal")
    clips(s, options)
    note(s, STATEFUL)
    time_major, kind = s.option("timeMajor", options), activation(s, options)
    w, r, b = gate_weights(s, 1)
    y = s.emit.many("LSTM", [sequence(s, time_major), *map(s.emit.constant, (w, r, b))], 1, hidden_size=r.shape[2],
                    activations=["Sigmoid", kind, kind], name=s.graph.wish(s.op.outputs[0]) + ";LSTM")[0]  # fmt: skip
    y = s("Squeeze", y, s.longs([1]))
    batch_first(s, y, time_major)


@op("BIDIRECTIONAL_SEQUENCE_LSTM")
def bidirectional_lstm(s: Step) -> None:
    """Forward weights from input 1, backward from 18; both in one node of ONNX."""
    options = "BidirectionalSequenceLSTMOptions"
    if nonzero(s, range(39, 48)):
        raise Unsupported("it has an auxiliary input")
    clips(s, options)
    note(s, STATEFUL)
    time_major, kind = s.option("timeMajor", options), activation(s, options)
    both = [np.concatenate(pair) for pair in zip(gate_weights(s, 1), gate_weights(s, 18), strict=True)]
    y = s.emit.many("LSTM", [sequence(s, time_major), *map(s.emit.constant, both)], 1, hidden_size=both[1].shape[2],
                    direction="bidirectional", activations=["Sigmoid", kind, kind] * 2,
                    name=s.graph.wish(s.op.outputs[0]) + ";LSTM")[0]  # [time, 2, batch, units]  # fmt: skip
    y = y if time_major else s("Transpose", y, perm=[2, 1, 0, 3])
    parts = s.emit.many("Split", [y, s.longs([1, 1])], 2, axis=1, name=s.graph.wish(s.op.outputs[0]) + ";Split")
    parts = [s("Squeeze", p, s.longs([1])) for p in parts]
    if s.option("mergeOutputs", options):
        s.last("Concat", *parts, axis=2)
    else:
        s.outs(parts)


@op("UNIDIRECTIONAL_SEQUENCE_RNN")
def rnn(s: Step) -> None:
    """Inputs: x, W [units, features], R [units, units], bias, state."""
    options = "SequenceRNNOptions"
    note(s, STATEFUL)
    time_major, kind = s.option("timeMajor", options), activation(s, options)
    w, r, b = s.array(1), s.array(2), s.array(3)
    if w.ndim != 2 or r.ndim != 2 or b.size != r.shape[0]:
        raise Unsupported("its weights do not fit one another")
    biases = np.concatenate([b.reshape(-1), np.zeros(b.size, np.float32)])[None]
    weights = [s.emit.constant(a) for a in (w[None], r[None], biases)]
    y = s.emit.many("RNN", [sequence(s, time_major), *weights], 1, hidden_size=r.shape[0], activations=[kind],
                    name=s.graph.wish(s.op.outputs[0]) + ";RNN")[0]  # fmt: skip
    y = s("Squeeze", y, s.longs([1]))
    batch_first(s, y, time_major)


@op("SVDF")
def svdf(s: Step) -> None:
    """The step at a memory of zeros: x W_feature, times the newest column of W_time, summed over the rank, plus bias."""
    note(s, "an SVDF of the file remembers earlier inputs; the rebuilt one computes each call with an empty memory")
    feature, time = s.array(1), s.array(2)
    rank_ = s.option("rank", "SVDFOptions")
    if feature.ndim != 2 or time.ndim != 2 or rank_ <= 0 or feature.shape[0] % rank_ or len(time) != len(feature):
        raise Unsupported("its weights do not fit one another")
    kernel = (feature * time[:, -1:]).reshape(-1, rank_, feature.shape[1]).sum(axis=1).T
    bias = [s.emit.constant(s.array(3).reshape(-1))] if s.has(3) else []
    s.last("Gemm", s.x(), s.emit.constant(kernel), *bias, activation=s.option("fusedActivationFunction", "SVDFOptions"))
