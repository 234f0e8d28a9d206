"""What sparsity and clusters amount to: zeros, distinct values, bytes as they are and zipped, layer by layer."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...artifact import Array
from .kernels import Kernel, kernels


def zipped(data: bytes) -> int:
    """Bytes after DEFLATE, the method of zip files."""
    return len(zlib.compress(data, 9))


def layer(kernel: Kernel) -> dict[str, Any]:
    """One kernel: how many weights, zeros and distinct values; bytes of float32 and zipped."""
    value = kernel.value()
    raw = value.tobytes()
    return {
        "kernel": kernel.name,
        "weights": value.size,
        "zeros": int((value == 0).sum()),
        "distinct": len(np.unique(value)),
        "bytes": len(raw),
        "zip_bytes": zipped(raw),
    }


def weights(net: Any) -> dict[str, Any]:
    """All weights of a network: bytes of float32 and zipped, and the share of zeros among those of its kernels."""
    arrays = [np.asarray(w) for w in net.get_weights()]
    raw = b"".join(a.tobytes() for a in arrays)
    found = [k.value() for k in kernels(net)]
    return {
        "parameters": sum(a.size for a in arrays),
        "bytes": len(raw),
        "zip_bytes": zipped(raw),
        "zeros": int(sum((v == 0).sum() for v in found)),
        "sparsity": share_of_zeros(found),
    }


def share_of_zeros(values: Iterable[Array]) -> float:
    """Zeros over weights, of all arrays together."""
    pairs = [(int((v == 0).sum()), v.size) for v in values]
    return sum(z for z, _ in pairs) / max(1, sum(n for _, n in pairs))
