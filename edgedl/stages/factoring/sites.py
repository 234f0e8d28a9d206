"""The layers of a network that have low-rank factors: where they are called, on what, and what their inputs look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import deep, keras
from ...macs import layers_of, volume
from ...worker import progress
from ..rebuilding import inside, leaves
from .decompose import Metric

BATCH = 32
LARGEST = 2304  # rows of a covariance, at most: 3x3 x 256 channels; beyond, that of single channels
MOST_BYTES = 1 << 30  # of all activations of a batch
PATCH_BYTES = 256 << 20  # of the patches of a batch, of which ROWS are then drawn
ROWS = 4096  # patches of a batch that are looked at, at most
WITH_KERNELS = (
    "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D",
    "SeparableConv2D", "EinsumDense", "MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention", "LSTM",
    "GRU", "SimpleRNN", "RNN", "Bidirectional", "TimeDistributed", "Embedding", "ConvLSTM1D", "ConvLSTM2D",
)  # fmt: skip
WHY = {
    "Depthwise": "a depthwise kernel has no rank to lower",
    "Separable": "is factored already",
    "Embedding": "a table that is looked up saves no multiply-accumulates",
    "Transpose": "transposed convolutions are not factored",
    "EinsumDense": "contractions of more than one axis are not factored",
    "Attention": "its projections lie inside the layer",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A layer with a kernel `[*window, in, out]`, and at how many places one input of the network has it work."""

    path: str
    layer: Any
    kernel: Array
    before: int  # positions of its inputs, over all calls
    after: int  # positions of its outputs

    @property
    def window(self) -> tuple[int, ...]:
        """The size of a convolution's window; () of a dense layer."""
        return tuple(self.kernel.shape[:-2])

    @property
    def is_matrix(self) -> bool:
        """Whether it is a product with one matrix at each place: dense, or a 1x1 convolution."""
        return prod(self.window) == 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one input."""
        return int(self.kernel.size) * self.after

    def cost(self, ranks: Sequence[int]) -> tuple[int, int]:
        """(multiply-accumulates, weights) with these ranks: (r,) of a matrix, (r, s) of Tucker-2, () as it is.

        A rank that is the full one has no layer of its own.
        """
        ins, outs = self.kernel.shape[-2:]
        if not ranks:
            return self.macs, int(self.kernel.size)
        if self.is_matrix:
            weights = ranks[0] * (ins + outs)
            return weights * self.after, weights
        r, s = ranks
        first = ins * r if r < ins else 0
        core, last = prod(self.window) * r * s, s * outs if s < outs else 0
        return first * self.before + (core + last) * self.after, first + core + last


def walk(net: Any, inputs: Any, visit: Callable[[str, Any, Any, Any], Any], prefix: str = "") -> Any:
    """Run the graph of a network and of those inside it: `visit(path, operation, args, kwargs)` gives what one returns."""

    def operation(op: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if inside(op) is not None:
                return walk(op, args[0], visit, f"{prefix}{op.name}/")
            return visit(f"{prefix}{op.name}", op, args, kwargs)

        return call

    return inside(net)._run_through_graph(inputs, operation_fn=operation)


def sites(net: Any) -> tuple[list[Site], list[dict[str, str]]]:
    """The layers that have factors; and those with kernels that have none, each with why, as plain JSON."""
    places: dict[str, tuple[int, int]] = {}

    def visit(path: str, op: Any, args: Any, kwargs: Any) -> Any:
        result = op.compute_output_spec(*args, **kwargs)
        if _factors(op):
            was = places.get(path, (0, 0))
            places[path] = (was[0] + _positions(op, args[0].shape), was[1] + _positions(op, result.shape))
        return result

    tensor = keras().KerasTensor
    with deep():
        walk(net, [tensor((1, *t.shape[1:]), t.dtype, name=t.name) for t in net.inputs], visit)
    found = [
        Site(path, op, np.asarray(op.kernel.numpy(), np.float64), *places[path])
        for path, op in leaves(net)
        if path in places
    ]
    left = [
        {"layer": path, "op": type(op).__name__, "why": _why(op)}
        for path, op in leaves(net)
        if path not in places and (type(op).__name__ in WITH_KERNELS or hasattr(op, "kernel"))
    ]
    return found, left


def _factors(op: Any) -> bool:
    kind = type(op).__name__
    plain = not getattr(op, "lora_enabled", False) and hasattr(op, "kernel")
    return plain and (kind == "Dense" or (kind in ("Conv1D", "Conv2D", "Conv3D") and op.groups == 1))


def _why(op: Any) -> str:
    kind = type(op).__name__
    if getattr(op, "groups", 1) != 1:
        return "grouped convolutions are not factored"
    return next((why for part, why in WHY.items() if part in kind), f"the kernels inside {kind} are not factored")


def _positions(layer: Any, shape: Sequence[int | None]) -> int:
    """Elements of a feature map for each channel."""
    axis = 1 if getattr(layer, "data_format", "") == "channels_first" else -1
    return volume(tuple(shape)) // (shape[axis] or 1)


@dataclass(slots=True)
class _Moments:
    """Sums over rows `[n, m]`."""

    first: Any
    second: Any
    rows: int = 0

    def add(self, x: Array) -> None:
        self.first += x.sum(axis=0, dtype=np.float64)
        self.second += x.T @ x
        self.rows += len(x)


def metrics(net: Any, found: Sequence[Site], feed: Sequence[Array], seed: int = 0) -> dict[str, Metric]:
    """The metric of each site's inputs by path, from arrays `[samples, ...]` in the order of the network's inputs.

    About the mean for layers with a bias, which takes up what the mean's share changes.
    """
    known = {s.path: s for s in found}
    sums: dict[str, _Moments] = {}
    rng = np.random.default_rng(seed)

    def visit(path: str, op: Any, args: Any, kwargs: Any) -> Any:
        if (site := known.get(path)) is not None and (size := _width(site)):
            x = np.asarray(args[0], np.float32)
            x = x[: max(1, PATCH_BYTES // max(x[0].nbytes * prod(site.window), 1))]
            rows = patches(site.layer, x) if size == site.kernel[..., 0].size else _channels_last(site.layer, x)
            rows = rows.reshape(-1, size)
            if len(rows) > ROWS:
                rows = rows[rng.choice(len(rows), ROWS, replace=False)]
            sums.setdefault(path, _Moments(np.zeros(size), np.zeros((size, size)))).add(rows)
        return op(*args, **kwargs)

    with deep():
        for done, batch in batches(net, feed):
            walk(net, [keras().ops.convert_to_tensor(x) for x in batch], visit)
            progress(done, len(feed[0]), "inputs of every layer")
    return {path: _metric(m, known[path].layer.use_bias) for path, m in sums.items()}


def _width(site: Site) -> int:
    """Rows of the covariance that is measured: of whole patches, of single channels, or none."""
    whole, channels = site.kernel[..., 0].size, site.kernel.shape[-2]
    return int(whole) if whole <= LARGEST else int(channels) if channels <= LARGEST else 0


def _metric(m: _Moments, about_mean: bool) -> Metric:
    mean, second = m.first / m.rows, m.second / m.rows
    return Metric.of(second - np.outer(mean, mean), mean) if about_mean else Metric.of(second)


def batches(net: Any, feed: Sequence[Array]) -> Iterator[tuple[int, list[Array]]]:
    """(samples so far, arrays) in batches that the network takes; what is left of a fixed batch is dropped."""
    fixed = next((t.shape[0] for t in net.inputs if t.shape and t.shape[0]), None)
    size, total = int(fixed or min(BATCH, _room(net))), len(feed[0])
    for start in range(0, total - total % size if fixed else total, size):
        yield min(start + size, total), [x[start : start + size] for x in feed]


def _room(net: Any) -> int:
    """Samples whose activations can all be kept at once, at least 1."""
    return max(1, MOST_BYTES // max(sum(row.activation_bytes for row in layers_of(net)), 1))


def _channels_last(layer: Any, x: Array) -> Array:
    return np.moveaxis(x, 1, -1) if getattr(layer, "data_format", "") == "channels_first" else x


def patches(layer: Any, x: Array) -> Array:
    """What each output of a convolution or dense layer is a product of: `[samples, *places, window x channels]`."""
    x = _channels_last(layer, x)
    if not hasattr(layer, "kernel_size"):
        return x
    rank = len(layer.kernel_size)
    setting = list(zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True))
    pads = [_padding(layer.padding, n, *each) for n, each in zip(x.shape[1:-1], setting, strict=True)]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, (k, s, d) in zip(padded.shape[1:-1], setting, strict=True)]
    parts = []
    for offset in np.ndindex(*layer.kernel_size):
        cut = tuple(
            slice(offset[i] * d, offset[i] * d + (counts[i] - 1) * s + 1, s) for i, (_, s, d) in enumerate(setting)
        )
        parts.append(padded[(slice(None), *cut)])
    return np.stack(parts, axis=rank + 1).reshape(len(x), *counts, -1)


def _padding(kind: str, n: int, k: int, s: int, d: int) -> tuple[int, int]:
    """Zeros before and after an axis of length n, as TensorFlow counts them."""
    if kind == "valid":
        return 0, 0
    if kind == "causal":
        return (k - 1) * d, 0
    total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
    return total // 2, total - total // 2
