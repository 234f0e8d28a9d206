"""What a loss, differentiated by a factor on each channel, says of the channels: slopes, curvature, activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import Dataset, Split
from ...errors import DataError
from ...frameworks import keras, tensorflow
from ..rebuilding import inside, weighted
from ..training.loop import Objective, training_split
from ..training.task import kinds
from .masked import Masked, everything
from .shrink import Mask

Values = NDArray[np.float64]
Batch = tuple[list[Any], Any]  # inputs in the network's order, labels or None


class Samples:
    """Samples of the training data (the calibration data where there is none), in batches of one size.

    `samples` at most, chosen by the seed and the same each time; what is left of the last whole batch is not used. A network
    that insists on its batch has that one. Raises DataError where there is nothing.
    """

    def __init__(self, net: Any, data: Dataset, samples: int, batch: int, seed: int) -> None:
        split = training_split(data)
        count, fixed = min(samples, len(split)), inside(net).inputs[0].shape[0]
        if not count:
            raise DataError("there are no samples to score channels with", next="give data, or use l2")
        self.size = fixed or min(batch, count)
        index = np.random.default_rng(seed).permutation(len(split))
        index = np.resize(index, max(count // self.size, 1) * self.size)
        self.split: Split = split.take(np.sort(index))
        self.net, self.data = net, data
        order = np.random.default_rng(seed + 1).permutation(len(self.split))
        self.order = order.reshape(-1, self.size)

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[Batch]:
        tf = tensorflow()
        for index in self.order:
            part = self.split.take(index)
            feed = self.data.feed(part)
            x = [tf.constant(feed[name]) for name in part.x]  # the data's names, which need not be those of the tensors
            yield x, None if part.y is None else tf.constant(np.asarray(part.y))


class Slopes:
    """The gradient of a loss by a factor on each channel, at 1 for each kept channel and 0 for each that is not.

    For a layer that reads a channel by a product, this is the sum of weight times gradient over the weights that read
    it: the first-order change of the loss by its removal (Molchanov et al., CVPR 2019, 3.1), each channel once, however many
    layers make it.

    The loss is the mean of the samples' own losses. Without one, it is drawn from the network's own outputs (see `Own`).
    """

    def __init__(self, masked: Masked, loss: Objective | None, seed: int) -> None:
        tf = tensorflow()
        self.masked = masked
        self.loss = Own(masked.graph.net, seed) if loss is None else loss
        layers = weighted(masked.graph.net)
        self.inner = [layers[i.path].weights[i.index] for i in masked.inner]
        self.per_sample = tf.function(self._per_sample, autograph=False, reduce_retracing=True)
        self.curvature = tf.function(self._curvature, autograph=False, reduce_retracing=True)

    def each(self, samples: Samples, keep: Mask | None) -> Iterator[tuple[Values, Values]]:
        """For each batch: slopes of each sample's loss `[n, channels]`, and of the mean loss by what is read inside layers
        `[channels]` (to be added to the mean over samples). Channels that `keep` has no more: of their coming back.
        """
        factors = tensorflow().constant(everything(self.masked, keep))
        for x, y in samples:
            slopes, inner = self.per_sample(x, y, factors)
            yield np.asarray(slopes, np.float64), np.asarray(inner, np.float64)

    def curvatures(self, samples: Samples, keep: Mask | None, seed: int, draws: int) -> Iterator[tuple[Values, Values]]:
        """For each batch: the slope and the second derivative of the mean loss by each factor, `[channels]` both.

        The diagonal of the Hessian H is the mean of v * Hv over random signs v (Hutchinson; Bekas et al., 2007).
        """
        tf = tensorflow()
        rng = np.random.default_rng(seed)
        factors = tf.constant(everything(self.masked, keep))
        for x, y in samples:
            found = []
            for _ in range(draws):
                signs = tf.constant(rng.choice(np.array([-1, 1], np.float32), len(self.masked)))
                slope, product = self.curvature(x, y, factors, signs)
                found.append(np.asarray(product, np.float64) * np.asarray(signs))
            yield np.asarray(slope, np.float64), np.mean(found, axis=0)

    def _loss(self, x: list[Any], y: Any, factors: Any) -> Any:
        outputs, taps = self.masked(x, factors, self.loss.taps)
        return self.loss(x, y, outputs, taps)

    def _per_sample(self, x: list[Any], y: Any, factors: Any) -> Any:
        tf = tensorflow()
        count = tf.shape(x[0])[0]
        rows = tf.repeat(factors[None], count, axis=0)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, *(v.value for v in self.inner)])
            loss = self._loss(x, y, rows)
        slopes, *inner = tape.gradient(loss, [rows, *(v.value for v in self.inner)], unconnected_gradients="zero")
        return slopes * tf.cast(count, slopes.dtype), self._by_channel(
            [g * v for g, v in zip(inner, self.inner, strict=True)]
        )

    def _curvature(self, x: list[Any], y: Any, factors: Any, signs: Any) -> Any:
        tf = tensorflow()
        variables = [v.value for v in self.inner]
        along = [self._spread(signs, i) * v for i, v in zip(self.masked.inner, self.inner, strict=True)]
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch([factors, *variables])
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([factors, *variables])
                loss = self._loss(x, y, factors[None])
            slopes, *inner = tape.gradient(loss, [factors, *variables], unconnected_gradients="zero")
            total = tf.reduce_sum(slopes * signs)
            for gradient, direction in zip(inner, along, strict=True):
                total += tf.reduce_sum(gradient * tf.stop_gradient(direction))
        product, *inside_layers = outer.gradient(total, [factors, *variables], unconnected_gradients="zero")
        slope = slopes + self._by_channel([g * v for g, v in zip(inner, self.inner, strict=True)])
        more = self._by_channel([g * v for g, v in zip(inside_layers, self.inner, strict=True)])
        return slope, product + more

    def _by_channel(self, values: Sequence[Any]) -> Any:
        """`[channels]`: sums of the entries of the inner weights that read each channel."""
        tf = tensorflow()
        total = tf.zeros(len(self.masked), tf.float32)
        for inner, value in zip(self.masked.inner, values, strict=True):
            axes = [i for i in range(len(value.shape)) if i != inner.axis]
            sums = tf.reduce_sum(tf.cast(value, tf.float32), axes)
            total += tf.math.unsorted_segment_sum(sums, inner.columns, len(self.masked) + 1)[:-1]
        return total

    def _spread(self, signs: Any, inner: Any) -> Any:
        """The signs along the axis of an inner weight, 0 for entries that read no removable channel."""
        tf = tensorflow()
        variable = self.inner[self.masked.inner.index(inner)]
        row = tf.gather(tf.concat([signs, tf.zeros(1)], 0), inner.columns)
        return tf.reshape(row, [-1 if i == inner.axis else 1 for i in range(len(variable.shape))])


class Own:
    """A loss for data without labels: what is drawn from the distribution that the network itself puts out.

    At the network's own outputs a distance to them has no slope. The expected square of the slope of this loss is the Fisher
    information of the outputs, which is the curvature of the KL divergence (or of the squared distance, for values) to
    the unpruned network: classes are drawn from probabilities, and values have a random sign each, divided by the
    root mean square of the output in the batch (Martens, "New insights and perspectives on the natural gradient
    method", JMLR 2020, 9).
    """

    taps: Sequence[str] = ()
    layers: Sequence[Any] = ()
    needs_labels = False

    def __init__(self, net: Any, seed: int) -> None:
        self.kinds = kinds(net)
        self.random = tensorflow().random.Generator.from_seed(seed)

    def __call__(self, x: Sequence[Any], y: Any, outputs: Sequence[Any], taps: dict[str, Any]) -> Any:
        return sum(self._of(kind, output) for kind, output in zip(self.kinds, outputs, strict=True))

    def _of(self, kind: str, output: Any) -> Any:
        tf = tensorflow()
        if kind in ("logits", "binary-logit"):
            output = tf.nn.softmax(output) if kind == "logits" else tf.sigmoid(output)
        uniform = self.random.uniform(tf.shape(output))
        small = keras().config.epsilon()
        if kind in ("probabilities", "logits"):
            noise = -tf.math.log(-tf.math.log(tf.clip_by_value(uniform, small, 1 - small)))
            drawn = tf.argmax(tf.math.log(output + small) + noise, -1)  # Gumbel
            chosen = tf.gather(output, drawn, axis=-1, batch_dims=len(output.shape) - 1)
            return tf.reduce_mean(self._joint(-tf.math.log(chosen + small)))
        if kind in ("sigmoid", "binary-logit"):
            drawn = tf.cast(uniform < output, output.dtype)
            each = drawn * tf.math.log(output + small) + (1 - drawn) * tf.math.log(1 - output + small)
            return -tf.reduce_mean(self._joint(each))
        size = tf.stop_gradient(tf.sqrt(tf.reduce_mean(tf.square(output))) + small)
        return tf.reduce_mean(self._joint(tf.where(uniform < 0.5, output, -output) / size))

    def _joint(self, each: Any) -> Any:
        """`[n]`: the sum over the decisions of a sample, divided by the root of their number."""
        tf = tensorflow()
        flat = tf.reshape(each, [tf.shape(each)[0], -1])
        return tf.reduce_sum(flat, 1) / tf.sqrt(tf.cast(tf.shape(flat)[1], flat.dtype))
