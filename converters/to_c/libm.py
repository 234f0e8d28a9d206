"""Functions of float32 as LiteRT's kernels get them from the C library, for tables that are made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...artifact import Array

_N = 32
_EXP2 = np.array([2.0 ** (i / _N) for i in range(_N)])
_C0, _C1, _C2 = (
    float.fromhex("0x1.c6af84b912394p-5") / _N**3,
    float.fromhex("0x1.ebfce50fac4f3p-3") / _N**2,
    float.fromhex("0x1.62e42ff0c52d6p-1") / _N,
)


def expf(x: Array) -> Array:
    """exp of float32 with the last bit as Arm's optimized routines have it, which glibc, musl, newlib and bionic took over:
    2^(k/32) from a table times a polynomial of the rest, in double precision.

    >>> float(expf(np.float32([-1.0]))[0])
    0.3678794503211975
    """
    x = np.asarray(x, np.float32)
    z = np.clip(x.astype(np.float64), -200.0, 200.0) * (float.fromhex("0x1.71547652b82fep+0") * _N)
    k = np.rint(z)
    r = z - k
    power = _EXP2[k.astype(np.int64) % _N] * np.exp2(np.floor_divide(k, _N))
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(((_C0 * r + _C1) * (r * r) + (_C2 * r + 1)) * power, np.float32)


def nearest(function: Callable[[float], float], x: Array) -> Array:
    """A function of float32, computed in double precision and rounded: what a good C library gives."""
    return np.array([function(float(v)) for v in np.asarray(x, np.float32)], np.float32)


def round_away(x: Array | np.floating[Any] | float) -> Array:
    """std::round: halves away from zero. Exact for float32 values below 2^23 and for doubles.

    >>> round_away(np.float32([0.5, -0.5, 1.4])).tolist()
    [1.0, -1.0, 1.0]
    """
    wide = np.asarray(x, np.float64)
    return np.asarray(np.copysign(np.floor(np.abs(wide) + 0.5), wide))
