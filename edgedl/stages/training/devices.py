"""Where training computes: in float16 where a GPU has it, and on several devices at once where several are visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import keras, tensorflow
from ..rebuilding import inside, leaves

FAST = (7, 0)  # compute capability from which NVIDIA's GPUs have tensor cores for float16 (Volta)
ON_CPU = False  # float16 on a machine without a GPU, too: slower there, but the way can be tried

Placed = list[tuple[Any, Any]]  # variables of Keras, and the TensorFlow variables that they held before


def visible() -> list[str]:
    """The devices to train on: the GPUs, else the CPUs (one, unless the process configured several logical ones)."""
    config = tensorflow().config
    return [d.name for d in config.list_logical_devices("GPU") or config.list_logical_devices("CPU")]


@cache
def strategy_of(devices: tuple[str, ...]) -> Any:
    """The strategy that divides batches among these devices: one for the whole process, because the collective
    operations of another one would carry the numbers of those that ran before, and fail on other shapes."""
    return tensorflow().distribute.MirroredStrategy(devices)


def has_float16() -> bool:
    """Whether all visible GPUs, of which there is one at least, compute faster in float16."""
    config = tensorflow().config
    found = [config.experimental.get_device_details(d) for d in config.get_visible_devices("GPU")]
    return ON_CPU or (bool(found) and all(details.get("compute_capability", FAST) >= FAST for details in found))


# --- float16


@contextmanager
def half(net: Any) -> Iterator[None]:
    """What is traced inside computes in float16, its outputs aside; weights stay float32, and so do policies afterwards.

    Micikevicius et al., "Mixed Precision Training", ICLR 2018. Layers of another policy than float32 keep theirs.
    """
    k = keras()
    layers = k.layers
    last = {id(op) for op in ending(net)}
    chosen = [
        layer
        for _, op in leaves(net)
        if isinstance(op, layers.Layer) and not isinstance(op, layers.InputLayer) and id(op) not in last
        for layer in op._flatten_layers()
        if layer.dtype_policy.name == "float32"
    ]
    before = [layer.dtype_policy for layer in chosen]
    try:
        for layer in chosen:
            layer.dtype_policy = k.DTypePolicy("mixed_float16")
        yield
    finally:
        for layer, policy in zip(chosen, before, strict=True):
            layer.dtype_policy = policy


def ending(net: Any) -> list[Any]:
    """The operations from the last layers that have weights to the outputs."""
    found: dict[int, Any] = {}
    waiting = list(net.outputs)
    while waiting:
        op, _, index = waiting.pop()._keras_history
        if inside(op) is not None:
            waiting.append(inside(op).outputs[index])
        elif id(op) not in found:
            found[id(op)] = op
            if not getattr(op, "weights", None):
                waiting += [t for node in op._inbound_nodes for t in node.input_tensors]
    return list(found.values())


# --- several devices


def spread(variables: Sequence[Any], strategy: Any) -> Placed:
    """Let Keras variables hold one copy for each device; `gather` undoes it.

    The objects stay, and so does what refers to them: constraints, callbacks, an objective's own layers. Trained
    weights and integers (random states) are kept alike by alike updates; statistics differ, and their mean is read.
    """
    tf = tensorflow()
    placed: Placed = []
    with strategy.scope():
        for variable in variables:
            plain = variable.value
            statistic = not variable.trainable and plain.dtype.is_floating
            kind = (
                {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.MEAN}
                if statistic
                else {}
            )
            placed.append((variable, plain))
            variable._value = tf.Variable(plain.numpy(), trainable=variable.trainable, name=variable.name, **kind)
    return placed


def gather(placed: Placed) -> None:
    """Put the values back into the variables of before, on one device."""
    for variable, plain in placed:
        plain.assign(variable.value.numpy())
        variable._value = plain


def parts(values: Array | None, strategy: Any) -> Any:
    """A batch divided evenly over the devices, as far as that goes; None stays None."""
    if values is None:
        return None
    split = np.array_split(values, strategy.num_replicas_in_sync)
    convert = tensorflow().convert_to_tensor
    return strategy.experimental_distribute_values_from_function(
        lambda context: convert(split[context.replica_id_in_sync_group])
    )
