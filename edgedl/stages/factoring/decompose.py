"""A matrix or a convolution's kernel as a product of smaller ones, best in a metric of its inputs; numpy in float64.

A kernel is `[*window, in, out]`; a dense layer's has no window. A metric is the covariance of the inputs' patches,
`[n, n]` with n = positions in the window x input channels, in the kernel's order: the expected squared error of the
outputs for weights that are off by D is trace(D' C D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ...artifact import Array

RIDGE = 1e-5  # of the mean variance, added to every direction: those that the data never shows are kept, not lost
SWEEPS = 8  # of alternating least squares (HOOI, De Lathauwer et al., 2000)


@dataclass(frozen=True, slots=True)
class Metric:
    """C = S S' of a covariance: `root` = S' and its inverse `[m, m]`, for each block of m rows; none: every input alike.

    m is n, or the input channels where the positions of the window are taken as uncorrelated.
    """

    root: Array | None = None
    inverse: Array | None = None
    scale: float = 1.0  # root of the mean variance
    mean: Array | None = None  # [m] of the inputs, where the covariance is about it

    @classmethod
    def of(cls, covariance: Array, mean: Array | None = None) -> Metric:
        """From a covariance `[m, m]`; one of zeros says nothing and gives the plain metric."""
        m = len(covariance)
        level = float(np.trace(covariance)) / m
        if not level > 0:
            return cls(mean=mean)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2 + RIDGE * level * np.eye(m))
        roots = np.sqrt(np.maximum(values, RIDGE * level / 2))
        return cls((vectors * roots).T, vectors / roots, level**0.5, mean)

    def white(self, weights: Array) -> Array:
        """S' W of `[n, out]` weights, whose squared norm is the expected one of the outputs."""
        return _blockwise(self.root, weights)

    def coloured(self, weights: Array) -> Array:
        """The inverse of `white`."""
        return _blockwise(self.inverse, weights)

    def average(self, n: int) -> Array | None:
        """The mean of the inputs `[n]`, or None where it is not known."""
        return None if self.mean is None else np.tile(self.mean, n // len(self.mean))


def _blockwise(square: Array | None, weights: Array) -> Array:
    if square is None:
        return weights
    return np.asarray((square @ weights.reshape(-1, len(square), weights.shape[-1])).reshape(weights.shape))


def error(kernel: Array, factors: Sequence[Array], metric: Metric) -> float:
    """Norm of what the factors change in the outputs, as a share of the outputs' own."""
    wanted = matrix(kernel)
    lost = metric.white(wanted - product(factors, kernel.shape))
    return float(np.linalg.norm(lost) / (np.linalg.norm(metric.white(wanted)) or 1.0))


def matrix(kernel: Array) -> Array:
    """`[*window, in, out]` -> `[n, out]` in float64."""
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


def singular_values(kernel: Array, metric: Metric) -> Array:
    """Of the weights in the metric, the largest first."""
    return np.asarray(np.linalg.svd(metric.white(matrix(kernel)), compute_uv=False))


def truncated(kernel: Array, metric: Metric, rank: int) -> tuple[Array, Array]:
    """The nearest product `[n, rank] @ [rank, out]` in the metric (Eckart and Young, 1936, on whitened weights).

    What lies between has uncorrelated entries of one variance, which suits a common scale of quantization.
    """
    left, values, right = np.linalg.svd(metric.white(matrix(kernel)), full_matrices=False)
    return metric.coloured(left[:, :rank]) * metric.scale, values[:rank, None] * right[:rank] / metric.scale


def channel_metric(metric: Metric, channels: int) -> Metric:
    """The metric of single input channels: the mean over the positions of the window."""
    if metric.root is None or len(metric.root) == channels:
        return metric
    covariance = (metric.root.T @ metric.root).reshape(-1, channels, len(metric.root) // channels, channels)
    return Metric.of(np.einsum("icid->cd", covariance) / covariance.shape[0])


def unfoldings(kernel: Array, metric: Metric) -> tuple[Array, Array]:
    """Singular values of the kernel's unfoldings along input and output channels, in the metric."""
    channels = channel_metric(metric, kernel.shape[-2])
    inner = np.linalg.svd(channels.white(_along_inputs(kernel)), compute_uv=False)
    return np.asarray(inner), singular_values(kernel, metric)


def _along_inputs(kernel: Array) -> Array:
    """`[*window, in, out]` -> `[in, window x out]`."""
    return np.moveaxis(np.asarray(kernel, np.float64), -2, 0).reshape(kernel.shape[-2], -1)


def tucker(kernel: Array, metric: Metric, ranks: Sequence[int]) -> tuple[Array, Array, Array]:
    """Tucker-2 of a kernel (Kim et al., ICLR 2016): `[in, r]`, core `[*window, r, s]`, `[s, out]`.

    The basis of the inputs comes from alternating least squares in the metric of single channels; core and output
    are then the best there are for it in the whole metric: reduced-rank regression (Izenman, 1975).
    """
    inputs, outputs = kernel.shape[-2:]
    window = prod(kernel.shape[:-2])
    channels = channel_metric(metric, inputs)
    white = _blockwise(channels.root, matrix(kernel)).reshape(window, inputs, outputs)
    project = channels.coloured(_basis(white, ranks)) * channels.scale
    wide = np.kron(np.eye(window), project)  # [n, window x r]
    q, r = np.linalg.qr(metric.white(wide))
    left, values, right = np.linalg.svd(q.T @ metric.white(matrix(kernel)), full_matrices=False)
    level = float(np.sqrt(np.mean(values[: ranks[1]] ** 2))) or 1.0
    core = np.linalg.solve(r, left[:, : ranks[1]]) * level
    out = values[: ranks[1], None] * right[: ranks[1]] / level
    if missing := ranks[1] - len(out):  # a window of r channels has fewer dimensions than that
        core, out = np.pad(core, ((0, 0), (0, missing))), np.pad(out, ((0, missing), (0, 0)))
    return project, core.reshape(*kernel.shape[:-2], ranks[0], ranks[1]), out


def _basis(kernel: Array, ranks: Sequence[int]) -> Array:
    """Orthonormal columns `[in, r]` that hold the most of `[window, in, out]` together with an output basis of rank s."""
    inner = _leading(np.moveaxis(kernel, 1, 0), ranks[0])
    for _ in range(SWEEPS if 0 < ranks[0] < kernel.shape[1] else 0):
        outer = _leading(np.moveaxis(np.einsum("wco,cr->wro", kernel, inner), 2, 0), ranks[1])
        inner = _leading(np.moveaxis(np.einsum("wco,os->wcs", kernel, outer), 1, 0), ranks[0])
    return inner


def _leading(tensor: Array, rank: int) -> Array:
    """The first left singular vectors of a tensor unfolded along its first axis."""
    flat = tensor.reshape(len(tensor), -1)
    if flat.shape[1] > len(flat):
        return np.asarray(np.linalg.eigh(flat @ flat.T)[1][:, ::-1][:, :rank])
    return np.asarray(np.linalg.svd(flat, full_matrices=True)[0][:, :rank])


def product(factors: Sequence[Array], shape: Sequence[int]) -> Array:
    """The weights `[n, out]` that factors of a kernel of `shape` stand for."""
    if len(factors) == 2:
        return np.asarray(factors[0] @ factors[1])
    first, core, last = factors
    found: Array = np.einsum("cr,wrs,so->wco", first, core.reshape(-1, *core.shape[-2:]), last).reshape(-1, shape[-1])
    return found
