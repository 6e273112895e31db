"""The machine's arithmetic, as plainly as numpy can say it.

Each function is the meaning of one operation and defines its every bit; integers are exact, so no
result depends on the order in which hardware adds. All are pure and vectorised over the tokens of a
chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.spec import fp32, tables
from skipstone.spec.formats import (
    EXPONENT_MIN,
    LINEAR_GUARD_BITS,
    PROBABILITY_FRACTION_BITS,
    ROUTER_GUARD_BITS,
    SCORE_FRACTION_BITS,
    SCORE_MAX,
    SQUARE_GUARD_BITS,
    BlockFloat,
)
from skipstone.spec.layout import RouterRecord

__all__ = [
    "Float",
    "Int",
    "Tiles",
    "Vectors",
    "attend",
    "linear",
    "reduce_residual",
    "rope",
    "swiglu",
]

Int = NDArray[np.int64]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """Block floating point vectors of n tokens: mantissa (n, length), exponent (n, groups)."""

    mantissa: Int
    exponent: Int

    @classmethod
    def quantize(cls, x: Float, bits: int, group: int) -> Vectors:
        """BFP(bits, group) of binary32 `x` (n, length)."""
        return cls(*BlockFloat(bits, group).quantize(x))

    def __getitem__(self, tokens: Int) -> Vectors:
        return Vectors(self.mantissa[tokens], self.exponent[tokens])

    @property
    def largest(self) -> Int:
        """Largest exponent of each token (n,)."""
        return self.exponent.max(axis=1)


@dataclass(frozen=True)
class Tiles:
    """A matrix as the array sees it: exact float64 weights by group, and scale parts."""

    weights: NDArray[np.float64]  # (groups, G, outputs)
    scale: Int  # (groups, outputs)
    exponent: Int  # (groups, outputs)


def _shift_right(x: Int, by: Int) -> Int:
    """Arithmetic shift; amounts beyond 63 leave the sign."""
    return x >> np.minimum(by, 63)


def linear(v: Vectors, tiles: Tiles, matrix_exponent: int) -> tuple[Int, Int]:
    """Accumulators (n, outputs) and their exponents (n,) of W·v.

    Each group's dot product is exact; times the scale's mantissa, it is shifted down to the
    reference exponent max(activation) + max(matrix), with LINEAR_GUARD_BITS bits kept below it.
    """
    groups, size, _ = tiles.weights.shape
    blocks = v.mantissa.reshape(-1, groups, size).transpose(1, 0, 2).astype(np.float64)
    dot = (blocks @ tiles.weights).astype(np.int64)  # (groups, n, outputs), exact below 2^53
    gap = (v.largest[:, None] - v.exponent).T  # (groups, n)
    shift = gap[:, :, None] + (matrix_exponent - tiles.exponent)[:, None, :]
    terms = _shift_right((dot * tiles.scale[:, None, :]) << LINEAR_GUARD_BITS, shift)
    return terms.sum(axis=0), v.largest + matrix_exponent - LINEAR_GUARD_BITS


def reduce_residual(
    v: Vectors, router: RouterRecord, inv_hidden: np.float32, epsilon: np.float32
) -> tuple[Float, NDArray[np.bool_]]:
    """1 / rms (n,) and skip decisions (n, 2) from the residual stream's mantissas."""
    n, groups = v.exponent.shape
    largest = v.largest
    m = v.mantissa.reshape(n, groups, -1)
    down = largest[:, None] - v.exponent
    squares = _shift_right((m * m).sum(axis=2) << SQUARE_GUARD_BITS, 2 * down).sum(axis=1)
    mean = fp32.mul(fp32.from_int(squares, 2 * largest - SQUARE_GUARD_BITS), inv_hidden)
    norm = tables.rsqrt(fp32.add(mean, epsilon))

    weights = router.mantissa.reshape(2, groups, -1)
    dots = np.einsum("ngk,rgk->nrg", m, weights)
    reference = router.exponent.max(axis=1)  # (2,)
    shift = down[:, None, :] + (reference[:, None] - router.exponent)[None]
    total = _shift_right(dots << ROUTER_GUARD_BITS, shift).sum(axis=2)
    exponent = largest[:, None] + reference[None] - ROUTER_GUARD_BITS
    logit = fp32.add(fp32.from_int(total, exponent), router.bias[None])
    return norm, logit > 0


def rope(y: Float, cos: Float, sin: Float) -> Float:
    """Rotate neighbouring pairs of `y` (n, heads·hd) by (n, hd/2) angles."""
    n, half = cos.shape
    pairs = y.reshape(n, -1, half, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    c, s = cos[:, None], sin[:, None]
    first = fp32.add(fp32.mul(a, c), -fp32.mul(b, s))
    second = fp32.add(fp32.mul(a, s), fp32.mul(b, c))
    return np.stack([first, second], axis=-1).reshape(y.shape)


def swiglu(y: Float) -> Float:
    """Pairs (t, u) of `y` (n, 2f) -> t · u · sigmoid2(t) (n, f)."""
    t, u = y[:, 0::2], y[:, 1::2]
    return fp32.mul(fp32.mul(t, u), tables.sigmoid2(t))


def attend(
    query: Vectors,
    keys: Int,
    key_exponent: Int,
    values: Int,
    value_exponent: Int,
    visible: NDArray[np.bool_],
) -> Float:
    """Attention outputs (n, heads·hd) of n queries over t stored tokens.

    Parameters
    ----------
    query : mantissa (n, heads·hd), exponent (n, heads)
    keys, values : (t, kv_heads, hd) int8 mantissas
    key_exponent, value_exponent : (t, kv_heads)
    visible : (n, t)
        Causal mask.
    """
    n, heads = query.exponent.shape
    t, kv_heads, hd = keys.shape
    ratio = heads // kv_heads
    q = query.mantissa.reshape(n, kv_heads, ratio, hd)
    eq = query.exponent.reshape(n, kv_heads, ratio)
    # Scores: exact dot products, brought to SCORE_FRACTION_BITS, saturated.
    dot = np.einsum("nkrd,tkd->nkrt", q.astype(np.float64), keys.astype(np.float64))
    up = eq[..., None] + key_exponent.T[None, :, None, :] + SCORE_FRACTION_BITS
    left = np.clip(up, 0, 36)  # |dot| < 2^27: beyond 36 it saturates, or is zero
    raised = dot.astype(np.int64) << left
    score = np.clip(_shift_right(raised, np.maximum(-up, 0)), -SCORE_MAX - 1, SCORE_MAX)

    seen = visible[:, None, None, :]
    best = np.where(seen, score, -SCORE_MAX - 1).max(axis=-1, keepdims=True)
    below = np.minimum(score - best, 0)  # the minimum matters only where not visible
    mantissa = tables.EXP2(below & 0xFFFF) + (1 << 16)
    p = _shift_right(mantissa << (PROBABILITY_FRACTION_BITS - 16), -(below >> 16))
    p = np.where(seen, p, 0)
    total = p.sum(axis=-1)  # (n, kv, ratio)

    ev = np.broadcast_to(value_exponent.T[None], (n, kv_heads, t))
    reference = np.where(visible[:, None], ev, EXPONENT_MIN).max(axis=-1)  # (n, kv)
    aligned = _shift_right(p, np.maximum(reference[..., None] - ev, 0)[:, :, None, :])
    mixed = np.einsum("nkrt,tkd->nkrd", aligned.astype(np.float64), values.astype(np.float64))
    inverse = tables.reciprocal(fp32.from_int(total, 0))
    y = fp32.mul(
        fp32.from_int(mixed.astype(np.int64), reference[:, :, None, None]), inverse[..., None]
    )
    return y.reshape(n, heads * hd)
