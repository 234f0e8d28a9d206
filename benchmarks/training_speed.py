"""Time an epoch of the training loop takes, a bare tf.function loop beside it: ResNet-20 as imported, the same data in memory.

EDGEDL_ASSETS=... python benchmarks/training_speed.py [--samples 1280] [--rounds 3] [--batch 64]

Both train with SGD and Nesterov momentum, cross-entropy and an L2 penalty on kernels. The bare loop takes preprocessed
float32 batches from an array; edgedl's preprocesses raw ones. Interleaved by epochs; the first, which compiles, does not count. CPU seconds
of all threads are compared, because a machine that others use, too, makes those on the clock say little; both are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
from common import figure, quiet_tensorflow
from pruning import model_and_data

GOAL = 1.15  # times what the bare loop takes


def bare(net: Any, x: np.ndarray, y: np.ndarray, batch: int) -> Any:
    """A function that trains one epoch, as one writes it by hand."""
    tf = quiet_tensorflow()
    import keras

    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    optimizer.build(net.trainable_variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            scores = net(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, scores))
        gradients = tape.gradient(loss, [v.value for v in net.trainable_variables])
        gradients = [
            g + 5e-4 * v.value if v.name.endswith("kernel") else g
            for g, v in zip(gradients, net.trainable_variables, strict=True)
        ]
        optimizer.apply(gradients)
        return loss

    def epoch() -> None:
        order = np.random.default_rng(0).permutation(len(x))
        for start in range(0, len(x), batch):
            at = order[start : start + batch]
            float(step(tf.constant(x[at]), tf.constant(y[at])))

    return epoch


def main(samples: int, rounds: int, batch: int) -> None:
    """Train both by turns: a callback of edgedl's loop runs the bare one between two epochs."""
    quiet_tensorflow()
    import keras

    from edgedl.data import Dataset, Split
    from edgedl.stages.rebuilding import clone
    from edgedl.stages.training.loop import train
    from edgedl.stages.training.options import Training
    from edgedl.stages.training.task import labelled

    model, data = model_and_data()
    part = data.train.take(np.arange(samples))
    empty = Split({k: v[:0] for k, v in data.validation.x.items()}, data.validation.y[:0])
    given = Dataset(part, empty, part, data.preprocessing, metric=data.metric, dtypes=data.dtypes, layouts=data.layouts)
    once = bare(clone(model.net), given.feed(part)[model.inputs[0].name], np.asarray(part.y), batch)
    rounds_of: list[tuple[float, ...]] = []

    class Turns(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.clocks = np.array([time.process_time(), time.monotonic()])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            middle = np.array([time.process_time(), time.monotonic()])
            once()
            after = np.array([time.process_time(), time.monotonic()])
            rounds_of.append((*(middle - self.clocks), *(after - middle)))

    options = Training(
        epochs=rounds + 1, batch_size=batch, optimizer="sgd", learning_rate=0.01, weight_decay=5e-4, schedule="constant"
    )
    train(model.net, given, options, labelled(model, data), prepare=lambda net, steps: [Turns()])
    for i, (ours, wall, bare_cpu, bare_wall) in enumerate(rounds_of[1:], 1):
        print(
            f"epoch {i}: edgedl {ours:.2f} CPU s ({wall:.2f} s), bare {bare_cpu:.2f} CPU s ({bare_wall:.2f} s), "
            f"{ours / bare_cpu:.3f} x", flush=True,
        )  # fmt: skip
    ratio = statistics.median(r[0] for r in rounds_of[1:]) / statistics.median(r[2] for r in rounds_of[1:])
    figure(
        f"CPU time of an epoch of {samples} samples, to a bare loop's", f"{ratio:.3f} x", f"<= {GOAL} x", ratio <= GOAL
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    main(given.samples, given.rounds, given.batch)
