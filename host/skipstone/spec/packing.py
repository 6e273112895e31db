"""Several products in one multiplier: the arithmetic, as computed and as built.

A DSP block multiplies a wide operand by a narrower one. The weights of k columns meet the same
activation x in a row, so they can share a multiplier: with a = Σ wᵢ · 2^(s·i), the product x · a
holds every x · wᵢ, s bits apart. A product of 12 by 4 bits has 16:

* fields at least 16 bits apart are *exact*: products are added up as they are, in the DSP blocks'
  own cascade, as long as a field's sum fits s bits, and only the last sum is taken apart.
* fields closer than that *overlap* ("overpacking": Sommer et al., FPL 2022, arXiv 2203.11028): the
  upper bits of x·w₀ and the lower ones of x·w₁ are added. The lower bits of x·w₁ follow from the
  lower bits of x and w₁ alone, by a product so small that it is a few LUTs; subtracted, they leave
  x·w₀, and that leaves x·w₁. The repair is exact, but each multiplier needs its own: nothing can
  be added up before.

Every function here takes Python integers, numpy arrays or gateware values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .formats import ACTIVATION_BITS

__all__ = ["MULTIPLIERS", "WEIGHT_BITS", "Multiplier", "Packing"]

WEIGHT_BITS = 4
"""Bits of a weight."""
_PRODUCT_BITS = ACTIVATION_BITS + WEIGHT_BITS
_OVERLAP_MAX = 8
"""Beyond that, a tail costs more LUTs than a multiplier."""


class Multiplier(NamedTuple):
    """Operand widths of a device's signed multiplier."""

    wide_bits: int
    narrow_bits: int


MULTIPLIERS = {
    "27x18": Multiplier(27, 18),  # DSP48E2, DSP58
    "25x18": Multiplier(25, 18),  # DSP48E1
    "18x18": Multiplier(18, 18),  # ECP5 MULT18X18D
}


@dataclass(frozen=True)
class Packing:
    """`products` products of an activation with weights in one multiplier of type `dsp`."""

    products: int
    dsp: str

    @property
    def spacing(self) -> int:
        """Bits from one field to the next; 0 if there is one field."""
        if self.products == 1:
            return 0
        return (MULTIPLIERS[self.dsp].wide_bits - WEIGHT_BITS - 1) // (self.products - 1)

    @property
    def overlap(self) -> int:
        """Bits that a field shares with the next one."""
        return max(0, _PRODUCT_BITS - self.spacing) if self.products > 1 else 0

    @property
    def most_terms(self) -> int | None:
        """Products whose packed sum can still be taken apart; None for any number."""
        if self.products == 1:
            return None
        return 1 if self.overlap else 1 << (self.spacing - _PRODUCT_BITS)

    def holds(self, terms: int) -> bool:
        """Whether the products of `terms` rows can be added up: always, if each is repaired
        before, and that is possible up to 8 bits of overlap."""
        if self.overlap:
            return self.overlap <= _OVERLAP_MAX
        return self.most_terms is None or terms <= self.most_terms

    def pack(self, weights: Sequence[Any]) -> Any:
        """The wide operand of signed weights, at most `products` of them."""
        packed = weights[0]
        for i, weight in enumerate(weights[1:], 1):
            packed = packed + (weight << (self.spacing * i))
        return packed

    def split(self, total: Any, fields: int) -> list[Any]:
        """The fields of a sum of exact products: each returns what it borrowed from the next."""
        out = []
        for _ in range(fields - 1):
            out.append(low_bits(total, self.spacing, signed=True))
            total = (total >> self.spacing) + low_bits(total >> (self.spacing - 1), 1)
        return [*out, total]

    def tail(self, x: Any, weight: Any) -> Any:
        """Low `overlap` bits of a product.

        Shifted and added bit by bit: as one small product, a multiplier would be spent on it.
        """
        n = self.overlap
        total = sum((low_bits(x, n - i) * low_bits(weight >> i, 1)) << i for i in range(n))
        return low_bits(total, n)

    def repair(self, product: Any, tails: Sequence[Any]) -> list[Any]:
        """The fields of one product of overlapping fields, given the tails of all but the first."""
        out = []
        for tail in tails:
            upper = product >> self.spacing
            top = low_bits(upper - tail, self.overlap, signed=True)
            out.append((top << self.spacing) | low_bits(product, self.spacing))
            product = upper - top
        return [*out, low_bits(product, _PRODUCT_BITS, signed=True)]


def low_bits(value: Any, bits: int, *, signed: bool = False) -> Any:
    """The low bits of a number or gateware value, as a number without or with a sign."""
    if hasattr(value, "as_signed"):  # gateware, which this package does not import
        if len(value) < bits:
            value = value + (1 << bits)  # extends it; the bit itself is cut off
        return value[:bits].as_signed() if signed else value[:bits]
    kept = value & ((1 << bits) - 1)
    sign = 1 << (bits - 1)
    return (kept ^ sign) - sign if signed else kept
