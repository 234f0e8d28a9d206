"""reestimate(): the statistics of BatchNormalization measured anew, for a network whose weights have changed under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ...artifact import Array
from ...data import Dataset
from ...frameworks import deep, keras, tensorflow
from ...macs import layers_of
from ..rebuilding import inside, leaves
from .batches import training_split

BATCH = 256  # the larger, the closer is the statistic of a batch to that of all samples
MOST_BYTES = 512 << 20  # of the largest activation of a batch


def norms(net: Any) -> list[Any]:
    """The BatchNormalization layers of a network whose statistics may be measured (trainable ones), in its order."""
    kind = keras().layers.BatchNormalization
    return [op for _, op in leaves(net) if isinstance(op, kind) and op.trainable]


def reestimate(net: Any, data: Dataset, samples: int = 1000, *, batch_size: int = BATCH, seed: int = 0) -> int:
    """Set moving mean and variance of every BatchNormalization of `net`, in place, to those of its input over data.

    `samples` of the training data (of the calibration data where there is none) are taken at random by `seed`, without
    augmentation. One pass: each layer normalizes by the statistics of the batch, so that later layers see what the
    earlier ones will give, and dropout is off. The mean of all batches is exact; the variance is that within the
    batches plus that between their means, as in "precise BN" (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021).
    Returns how many layers were measured; 0 where the network has none or there are no samples.
    """
    layers, split = norms(net), training_split(data)
    count = min(samples, len(split))
    if not layers or count < 1:
        return 0
    order = np.random.default_rng(seed).permutation(len(split))[:count]
    fixed = net.inputs[0].shape[0]
    size = fixed or min(batch_size, room(net))
    chosen = split.take(np.sort(order if not fixed else order[: max(count // fixed, 1) * fixed]))
    feeds = (data.feed(chosen, start, start + size) for start in range(0, len(chosen), size))
    return reestimate_on(net, ([feed[name] for name in chosen.x] for feed in feeds))


def reestimate_on(net: Any, batches: Iterable[Sequence[Array]]) -> int:
    """The same on these batches of inputs, in the network's order, as it takes them."""
    layers = norms(net)
    if not layers:
        return 0
    measure = _measure(net, layers)
    sums: list[list[Array]] = []
    weights = []
    for batch in batches:
        found = measure([tensorflow().convert_to_tensor(x) for x in batch])
        sums.append([v.numpy().astype(np.float64) for v in found])
        weights.append(len(batch[0]))
    if sums:
        _assign(layers, sums, np.asarray(weights, np.float64))
    return len(layers) if sums else 0


def room(net: Any) -> int:
    """Samples whose largest activation is within bounds, at least 8."""
    largest = max((row.activation_bytes for row in layers_of(net)), default=0)
    return max(8, MOST_BYTES // max(largest, 1))


def _assign(layers: Sequence[Any], found: Sequence[Sequence[Array]], weights: Array) -> None:
    """The statistics of all batches together; `found`: for each batch, mean and variance of each layer in turn."""
    for i, layer in enumerate(layers):
        means, variances = (np.stack([batch[2 * i + k] for batch in found]) for k in (0, 1))
        mean = np.average(means, axis=0, weights=weights)
        layer.moving_mean.assign(mean.astype("float32"))
        layer.moving_variance.assign(
            np.average(variances + (means - mean) ** 2, axis=0, weights=weights).astype("float32")
        )


def _measure(net: Any, layers: Sequence[Any]) -> Callable[[Sequence[Any]], list[Any]]:
    """A compiled function: inputs -> mean and variance of the input of each layer in turn."""
    tf = tensorflow()

    def run(x: Sequence[Any]) -> list[Any]:
        seen: dict[int, list[tuple[Any, Any]]] = {id(layer): [] for layer in layers}
        with deep():
            _replay(net, list(x), seen)
        means = {key: tf.add_n([m for m, _ in calls]) / len(calls) for key, calls in seen.items() if calls}
        out = []
        for layer in layers:
            calls = seen[id(layer)]
            mean = means[id(layer)]  # a layer that is called twice is measured over both calls
            out += [mean, tf.add_n([v + (m - mean) ** 2 for m, v in calls]) / len(calls)]
        return out

    compiled: Callable[[Sequence[Any]], list[Any]] = tf.function(run, reduce_retracing=True)
    return compiled


def _replay(net: Any, inputs: Any, seen: dict[int, list[tuple[Any, Any]]]) -> Any:
    """The network in inference mode, but for the layers in `seen`, which normalize by the batch and note what they saw."""

    def operation(op: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if id(op) in seen:
                return _normalized(op, args[0], seen[id(op)])
            if inside(op) is not None:
                return _replay(op, args[0], seen)
            if "training" in getattr(op, "_call_context_args", ()):
                kwargs["training"] = False
            return op(*args, **kwargs)

        return call

    return inside(net)._run_through_graph(inputs, operation_fn=operation)


def _normalized(layer: Any, x: Any, seen: list[tuple[Any, Any]]) -> Any:
    ops = keras().ops
    x = ops.cast(x, "float32")
    axis = layer.axis % len(x.shape)
    mean, variance = ops.moments(x, axes=[a for a in range(len(x.shape)) if a != axis])
    seen.append((mean, variance))
    return ops.cast(
        ops.batch_normalization(
            x, mean, variance, layer.axis, layer.beta if layer.center else None, layer.gamma if layer.scale else None,
            layer.epsilon,
        ), layer.compute_dtype,
    )  # fmt: skip
