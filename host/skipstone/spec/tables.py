"""exp2, reciprocal and reciprocal square root: piecewise linear tables in integers.

One `InterpolatedTable` both computes (here) and creates (the gateware reads `bases` and `slopes`):
for a fraction of `INPUT_BITS` bits, split into a segment index and an offset,

    y = bases[segment] + (slopes[segment] · offset >> OFFSET_BITS)

with y in [0, 2^16] standing for the result 1 + y·2^-16. Segment end points sit on the curve,
shifted by half of the chord's worst deviation, so the error is balanced. Relative error of each
function ≤ 2^-14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import fp32

__all__ = [
    "EXP2",
    "EXP2_LIMIT",
    "INPUT_BITS",
    "OFFSET_BITS",
    "OUTPUT_BITS",
    "RECIPROCAL",
    "RSQRT",
    "SEGMENT_BITS",
    "InterpolatedTable",
    "exp2_fixed",
    "reciprocal",
    "rsqrt",
    "sigmoid2",
]

INPUT_BITS = 16
SEGMENT_BITS = 7
OFFSET_BITS = INPUT_BITS - SEGMENT_BITS
OUTPUT_BITS = 16
EXP2_LIMIT = 126 << 16
"""exp2 of a fixed-point argument is defined for |argument| ≤ 126."""

Int = NDArray[np.int64]


@dataclass(frozen=True)
class InterpolatedTable:
    """Piecewise linear y over `pieces` unit intervals of the fraction, 2^SEGMENT_BITS segments
    each.

    `curve(piece, f)` gives the real y/2^OUTPUT_BITS for piece index and f in [0, 1].
    """

    name: str
    pieces: int
    curve: Callable[[int, NDArray[np.float64]], NDArray[np.float64]]

    @cached_property
    def _points(self) -> tuple[Int, Int]:
        segments = 1 << SEGMENT_BITS
        edges = np.arange(segments + 1) / segments
        middle = edges[:-1] + 0.5 / segments
        bases, slopes = [], []
        for piece in range(self.pieces):
            y = self.curve(piece, edges)
            sag = (y[:-1] + y[1:]) / 2 - self.curve(piece, middle)
            scale = float(1 << OUTPUT_BITS)
            base = np.rint((y[:-1] - sag / 2) * scale)
            slope = np.rint((y[1:] - y[:-1]) * scale)
            # Keep 0 <= y <= 2^16 at both ends of every segment.
            base = np.clip(base, 0, scale)
            last = base + np.floor(slope * ((1 << OFFSET_BITS) - 1) / (1 << OFFSET_BITS))
            base = base + np.maximum(0, -last) - np.maximum(0, last - scale)
            bases.append(base)
            slopes.append(slope)
        return np.concatenate(bases).astype(np.int64), np.concatenate(slopes).astype(np.int64)

    @property
    def bases(self) -> Int:
        """Table values, unsigned, at most 2^OUTPUT_BITS."""
        return self._points[0]

    @property
    def slopes(self) -> Int:
        """Rise over a whole segment, signed."""
        return self._points[1]

    def __call__(self, fraction: ArrayLike, piece: ArrayLike = 0) -> Int:
        """y for `fraction` (0 .. 2^INPUT_BITS - 1) of `piece`."""
        f = np.asarray(fraction, np.int64)
        segment = (np.asarray(piece, np.int64) << SEGMENT_BITS) | (f >> OFFSET_BITS)
        offset = f & ((1 << OFFSET_BITS) - 1)
        return self.bases[segment] + ((self.slopes[segment] * offset) >> OFFSET_BITS)


EXP2 = InterpolatedTable("exp2", 1, lambda _, f: np.exp2(f) - 1)
RECIPROCAL = InterpolatedTable("reciprocal", 1, lambda _, f: 2 / (1 + f) - 1)
RSQRT = InterpolatedTable("rsqrt", 2, lambda piece, f: 2 / np.sqrt((1 + f) * (1 + piece)) - 1)


def _split(x: ArrayLike) -> tuple[Int, Int]:
    """Unbiased exponent and top INPUT_BITS fraction bits of positive normal float32."""
    raw = np.asarray(x, np.float32).view(np.uint32).astype(np.int64)
    return ((raw >> 23) & 0xFF) - 127, (raw & 0x7FFFFF) >> (23 - INPUT_BITS)


def _one_plus(y: Int) -> Int:
    return y + (1 << OUTPUT_BITS)


def exp2_fixed(x: ArrayLike) -> fp32.Float32:
    """2^(x / 2^16) for integer x, |x| ≤ EXP2_LIMIT."""
    fixed = np.asarray(x, np.int64)
    return fp32.from_int(_one_plus(EXP2(fixed & 0xFFFF)), (fixed >> 16) - OUTPUT_BITS)


def reciprocal(x: ArrayLike) -> fp32.Float32:
    """1 / x for x > 0; zero gives the largest finite number."""
    exponent, fraction = _split(x)
    value = fp32.from_int(_one_plus(RECIPROCAL(fraction)), -exponent - 1 - OUTPUT_BITS)
    return np.where(np.asarray(x) == 0, np.float32(fp32.LARGEST), value)


def rsqrt(x: ArrayLike) -> fp32.Float32:
    """1 / sqrt(x) for x > 0; zero gives the largest finite number."""
    exponent, fraction = _split(x)
    half, odd = exponent >> 1, exponent & 1
    value = fp32.from_int(_one_plus(RSQRT(fraction, odd)), -half - 1 - OUTPUT_BITS)
    return np.where(np.asarray(x) == 0, np.float32(fp32.LARGEST), value)


def sigmoid2(t: ArrayLike) -> fp32.Float32:
    """1 / (1 + 2^-t): the base-2 logistic function, composed of exp2 and reciprocal."""
    negated = -np.asarray(t, np.float32)
    fixed = fp32.to_fixed(negated, fraction_bits=16, limit=EXP2_LIMIT)
    return reciprocal(fp32.add(np.float32(1), exp2_fixed(fixed)))
