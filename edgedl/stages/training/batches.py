"""Batches: which samples are trained on in which order, read, changed and preprocessed a few ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...artifact import Array
from ...data import Dataset, Split
from ...errors import DataError
from .augmentation import Augmentation, augmentation
from .options import Training

HELD_OUT = 0.1  # share of the training data on which early stopping decides
AHEAD = 3  # batches that are made ready before they are asked for
PROBE = 256  # samples from which the spread of the inputs is known

Batch = tuple[list[Array], Array | None]  # inputs in the network's order, labels
Soft = Callable[[Array], Array]  # labels -> what may be mixed


def training_split(data: Dataset) -> Split:
    """The training split, or the calibration split where there is none."""
    return data.calibration if data.train is None else data.train


def divided(count: int, options: Training) -> tuple[Array, Array]:
    """Indices of the samples to train on and, where early stopping is on, of a held-out tenth (by the seed)."""
    every = np.arange(count)
    if not options.patience:
        return every, every[:0]
    if count < 2:
        raise DataError(
            f"early stopping holds out a tenth of the training data, and there is {count} sample",
            next="set patience = 0, or give more data",
        )
    mixed = np.random.default_rng([options.seed, count]).permutation(count)
    held = max(1, round(count * HELD_OUT))
    return np.sort(mixed[held:]), np.sort(mixed[:held])


@dataclass(frozen=True, slots=True)
class Batches:
    """The training samples as batches; what a batch holds depends on seed, epoch and number alone."""

    data: Dataset
    split: Split
    chosen: Array  # indices into the split
    size: int
    seed: int
    change: Augmentation | None
    soft: Soft

    @property
    def count(self) -> int:
        """Batches of one epoch."""
        return -(-len(self.chosen) // self.size)

    def make(self, epoch: int, number: int, order: Array) -> Batch:
        """One batch, preprocessed. Each is full: the last one is filled up with the epoch's first samples."""
        at = order[number * self.size : (number + 1) * self.size]
        part = self.split.take(_full(at, order, self.size))
        rng = np.random.default_rng([self.seed, epoch, number])
        if self.change is not None:
            part = self.change.raw(part, rng)
        x, y = self.data.feed(part), part.y
        if self.change is not None:
            y = self.soft(y) if self.change.options.mixup and y is not None else y
            x, y = self.change.ready(x, y, rng)
        return [x[name] for name in self.split.x], y

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, made by a thread of its own a few ahead."""
        order = self.chosen[np.random.default_rng([self.seed, epoch]).permutation(len(self.chosen))]
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            try:
                for number in range(first, self.count):
                    waiting.append(pool.submit(self.make, epoch, number, order))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


def batches(
    data: Dataset, chosen: Array, options: Training, fixed: int, ranks: Mapping[str, int], soft: Soft
) -> Batches:
    """The batches of the training split; `fixed`: the batch that the network insists on, or 0.

    Raises DataError where there are no samples, UsageError for augmentation that does not fit them.
    """
    split = training_split(data)
    if not len(chosen):
        raise DataError("there is no training data", next="give data with --data")
    sample = split.take(chosen[np.linspace(0, len(chosen) - 1, min(PROBE, len(chosen))).astype(int)])
    change = augmentation(options.augment, sample, data.feed(sample), ranks)
    return Batches(
        data, split, chosen, fixed or _even(min(options.batch_size, len(chosen))), options.seed, change, soft
    )


def _even(size: int) -> int:
    """The next even batch: at odd ones oneDNN (in TensorFlow 2.21, AVX-512) writes past its memory in the gradient of
    the filter of a strided 1x1 convolution of 8 channels, and the process crashes."""
    return size + size % 2


def _full(at: Array, order: Array, size: int) -> Array:
    return np.concatenate([at, np.resize(order, size - len(at))]) if len(at) < size else at


def in_order(
    data: Dataset, split: Split, chosen: Array, size: int, whole: bool
) -> Iterator[tuple[list[Array], Any, int]]:
    """Preprocessed batches of a split as it lies, without changes: inputs, labels, and how many samples count."""
    for start in range(0, len(chosen), size):
        at = chosen[start : start + size]
        part = split.take(_full(at, chosen, size) if whole else at)
        feed = data.feed(part)
        yield [feed[name] for name in split.x], part.y, len(at)
