"""Number formats: block floating point, int4 weights with FP16 scales, and the fixed constants.

Each format is an object that computes in Python; the gateware takes its widths from the same
object. The arithmetic built on them is stated where it is executed: `skipstone_sim.golden`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATION_BITS",
    "EXPONENT_MAX",
    "EXPONENT_MIN",
    "KV_BITS",
    "LINEAR_GUARD_BITS",
    "PROBABILITY_FRACTION_BITS",
    "ROUTER_BITS",
    "ROUTER_GUARD_BITS",
    "SCORE_FRACTION_BITS",
    "SCORE_MAX",
    "SQUARE_GUARD_BITS",
    "BlockFloat",
    "fp16_parts",
]

ACTIVATION_BITS = 12
"""Mantissa bits of activations entering the array."""
KV_BITS = 8
"""Mantissa bits of stored keys and values."""
ROUTER_BITS = 16
"""Mantissa bits of router vectors."""
EXPONENT_MIN, EXPONENT_MAX = -128, 127
"""Range of a shared exponent (one signed byte)."""
LINEAR_GUARD_BITS = 4
"""Bits kept below the reference exponent when a scaled group dot enters an accumulator."""
SQUARE_GUARD_BITS = 10
"""The same for the sum of squares."""
ROUTER_GUARD_BITS = 6
"""The same for a router's dot product."""
SCORE_FRACTION_BITS = 16
"""Fraction bits of a base-2 attention score."""
SCORE_MAX = 2**31 - 1
"""Scores saturate to [-2^31, 2^31 - 1]."""
PROBABILITY_FRACTION_BITS = 21
"""Fraction bits of an un-normalised probability 2^(score - max)."""


@dataclass(frozen=True)
class BlockFloat:
    """BFP(bits, group): `group` neighbours share a signed byte exponent e; value = mantissa · 2^e.

    e is the smallest exponent at which every rounded magnitude is below 2^(bits-1): mantissas are
    sign-symmetric, so -2^(bits-1) does not occur. A group of zeros has e = -128.
    """

    bits: int
    group: int

    def exponents(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Shared exponents of `x` (..., n) -> (..., n / group), without the final rounding."""
        raw = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
        biased = (raw >> 23) & 0xFF
        # Rounding to bits-1 significant bits carries into the exponent when the bits-2 fraction
        # bits kept and the one below are all ones.
        kept = (1 << (self.bits - 1)) - 1
        carries = ((raw >> (24 - self.bits)) & kept) == kept
        top = np.where(biased == 0, 0, biased.astype(np.int64) + carries)
        top = top.reshape(*x.shape[:-1], -1, self.group).max(axis=-1)
        exponent = np.where(top == 0, EXPONENT_MIN, top - 127 - (self.bits - 2))
        return np.clip(exponent, EXPONENT_MIN, EXPONENT_MAX)

    def quantize(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Mantissas (..., n) and exponents (..., n / group) of float32 `x` (..., n).

        Raises ValueError if n is not a multiple of the group.
        """
        if x.shape[-1] % self.group:
            raise ValueError(f"length must be a multiple of {self.group}, not {x.shape[-1]}")
        exponent = self.exponents(x)
        blocks = x.astype(np.float64).reshape(*exponent.shape, self.group)
        mantissa = np.rint(np.ldexp(blocks, -exponent[..., None])).astype(np.int64)
        return mantissa.reshape(x.shape), exponent

    def dequantize(
        self, mantissa: NDArray[np.integer], exponent: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Real values of mantissas (..., n) under exponents (..., n / group)."""
        blocks = mantissa.reshape(*exponent.shape, self.group).astype(np.float64)
        return np.ldexp(blocks, exponent[..., None].astype(np.int32)).reshape(mantissa.shape)


def fp16_parts(scale: NDArray[np.float16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integer mantissa (0..2047) and exponent (-24..5) of non-negative finite FP16 scales."""
    raw = np.ascontiguousarray(scale, dtype=np.float16).view(np.uint16).astype(np.int64)
    field = (raw >> 10) & 0x1F
    mantissa = (raw & 0x3FF) | np.where(field > 0, 1 << 10, 0)
    return mantissa, np.maximum(field, 1) - 25
