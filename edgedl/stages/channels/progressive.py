"""fading(): the weights of channels that are to go fade during training, so that cutting them off changes little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import UsageError
from ...frameworks import keras, tensorflow
from ..rebuilding import weighted
from ..training.loop import Prepare
from .graph import ChannelGraph
from .shrink import Mask


def fading(graph: ChannelGraph, keep: Mask, *, left: float = 1e-3) -> Prepare:
    """What `train` is to prepare so that the channels that `keep` does not have fade while the others learn without them.

    GReg (Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021): a penalty on all weights of a channel whose
    strength grows from nothing, linearly, until the end. Here as decoupled decay (Loshchilov and Hutter, ICLR 2019),
    which works alike with every optimizer and rate: after each update they are multiplied by a factor, and the product of all
    factors is `left` (0..1), the share of a weight that is left of it where the loss does not resist. Statistics of
    BatchNormalization are left alone. Raises UsageError for a `left` outside 0..1.
    """
    if not 0 < left < 1:
        raise UsageError(f"{left:g} of the weights cannot be left", next="give a share above 0 and below 1")

    return _Fading(graph, keep, left)


@dataclass(frozen=True, slots=True)
class _Fading:
    graph: ChannelGraph
    keep: Mask
    left: float

    def __call__(self, copy: Any, steps: int) -> Sequence[Any]:
        return [_callback(fading_weights(self.graph, self.keep, copy), steps, self.left)]

    @property
    def fingerprint(self) -> str:
        """Which channels go: measured latencies may choose others when a run is repeated."""
        return f"{self.left} {blake2b(np.ascontiguousarray(self.keep).tobytes(), digest_size=16).hexdigest()}"


def fading_weights(graph: ChannelGraph, keep: Mask, net: Any) -> list[tuple[Any, Array]]:
    """The trainable weights of `net`, a copy of the graph's network, with entries of channels that go, and which these are:
    bool, of the weight's shape."""
    found = []
    layers = weighted(net)
    for path, call in graph.calls.items():
        for index, label in call.weights.items():
            variable = layers[path].weights[index]
            going = np.zeros(variable.shape, bool)
            for axis, ids in enumerate(label):
                if ids is not None:
                    shape = [-1 if i == axis else 1 for i in range(len(label))]
                    going |= ~graph.kept(keep, ids).reshape(shape)
            if going.any() and variable.trainable:
                found.append((variable, going))
    return found


def rate(step: int, steps: int, left: float) -> float:
    """The factor after update `step` (from 0) of `steps`: its logarithm grows linearly, and all together leave `left`.

    >>> round(float(np.prod([rate(i, 7, 0.01) for i in range(7)])), 9), rate(0, 7, 0.01) > rate(6, 7, 0.01)
    (0.01, True)
    """
    return float(left ** ((step + 1) / (steps * (steps + 1) / 2)))


def strength(weights: Sequence[tuple[Any, Array]]) -> float:
    """The root mean square of the weights that fade."""
    total = sum(float(np.square(np.asarray(v, np.float64)[going]).sum()) for v, going in weights)
    return float((total / max(1, sum(int(going.sum()) for _, going in weights))) ** 0.5)


def _callback(weights: Sequence[tuple[Any, Array]], steps: int, left: float) -> Any:
    tf = tensorflow()
    pairs = [(v, tf.constant(going.astype(np.float32))) for v, going in weights]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def fade(logarithm: Any) -> None:
        for variable, going in pairs:
            variable.assign(variable.value * tf.cast(tf.exp(logarithm * going), variable.dtype))

    class Fade(keras().callbacks.Callback):  # type: ignore[misc]
        epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            step = self.epoch * int(self.params["steps"]) + batch
            fade(tf.constant(log(rate(min(step, steps - 1), steps, left)), tf.float32))

    return Fade()
