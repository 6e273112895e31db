"""binary32 as the core computes it, vectorised in numpy.

IEEE 754 round to nearest even with three simplifications, each total and the same in hardware:

* subnormal inputs and results are zero (a result is subnormal if it is so *after* rounding to 24
  bits with an unbounded exponent);
* zero has no sign: every zero result is +0;
* there is no infinity and no NaN: a result beyond the largest finite number saturates to it.

Arrays are ``float32``; integers are ``int64``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LARGEST", "SMALLEST", "add", "flush", "from_int", "mul", "round_exact", "to_fixed"]

Float32 = NDArray[np.float32]

SMALLEST = float(np.ldexp(1.0, -126))
LARGEST = float(np.finfo(np.float32).max)


def round_exact(exact: NDArray[np.float64]) -> Float32:
    """Round exactly represented float64 values to binary32."""
    mantissa, exponent = np.frexp(exact)
    rounded = np.ldexp(mantissa.astype(np.float32).astype(np.float64), exponent)
    rounded = np.where(np.abs(rounded) < SMALLEST, 0.0, rounded)
    return np.clip(rounded, -LARGEST, LARGEST).astype(np.float32) + np.float32(0)


def flush(x: ArrayLike) -> Float32:
    """`x` as binary32 without subnormals, signed zeros or infinities."""
    return round_exact(np.asarray(x, dtype=np.float32).astype(np.float64))


def mul(a: ArrayLike, b: ArrayLike) -> Float32:
    """a · b."""
    exact = np.asarray(a, np.float32).astype(np.float64) * np.asarray(b, np.float32)
    return round_exact(exact)


def add(a: ArrayLike, b: ArrayLike) -> Float32:
    """a + b. A subnormal sum of normal numbers is exact, so flushing after the addition is
    enough."""
    with np.errstate(over="ignore"):
        total = np.asarray(a, np.float32) + np.asarray(b, np.float32)
    total = np.where(np.abs(total) < np.float32(SMALLEST), np.float32(0), total)
    return np.clip(total, np.float32(-LARGEST), np.float32(LARGEST)) + np.float32(0)


def from_int(mantissa: ArrayLike, exponent: ArrayLike) -> Float32:
    """mantissa · 2^exponent for |mantissa| < 2^53."""
    rounded = np.asarray(mantissa, np.int64).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        m, e = np.frexp(rounded)
        m24 = m.astype(np.float32).astype(np.float64)
        total = e.astype(np.int64) + np.asarray(exponent, np.int64)
        value = np.ldexp(m24, np.clip(total, -1000, 1000).astype(np.int32))
    value = np.where(np.abs(value) < SMALLEST, 0.0, value)
    return np.clip(value, -LARGEST, LARGEST).astype(np.float32) + np.float32(0)


def to_fixed(x: ArrayLike, *, fraction_bits: int, limit: int) -> NDArray[np.int64]:
    """floor(x · 2^fraction_bits), saturated to [-limit, limit]."""
    scaled = np.floor(np.ldexp(np.asarray(x, np.float32).astype(np.float64), fraction_bits))
    return np.clip(scaled, -float(limit), float(limit)).astype(np.int64)
