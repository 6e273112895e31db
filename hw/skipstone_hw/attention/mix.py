"""Mixing: Σ p · v over the tokens, one accumulator for each byte of a V word and lane.

A probability has 22 bits, the array's operand 12: it meets its V word in two halves, in two lanes
or one after the other. The sums are exact integers, so tokens may come in any order, and those of
one query may be spread over several lanes that are added in the end.
"""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import PROBABILITY_FRACTION_BITS

from ..array import PRODUCT_BITS, Array
from ..layouts import ACCUMULATOR_BITS
from ..numeric.pipeline import delay

__all__ = ["HALF_BITS", "Mix"]

HALF_BITS = 11
"""Bits of a probability that enter the array at a time."""
_SUM_BITS = PROBABILITY_FRACTION_BITS + 9
"""One token's p · v is at most 2^PROBABILITY_FRACTION_BITS · 128."""


class Mix(wiring.Component):
    """Accumulators of one head group, read out in pairs.

    Takes a V word's products in every cycle and never stalls; they are in the accumulators
    `PIPELINE_CYCLES` after `valid`.

    Tested with the largest products, any lanes enabled, at full rate and with gaps.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    clear : In(1)
        Set the accumulators to zero, while not `busy`.
    valid : In(lanes)
        Lanes in which a V word enters the array in this cycle.
    upper : In(lanes)
        It meets the upper half of the probability, not the lower.
    products : In(ArrayLayout(ArrayLayout(signed(20), word_bytes), lanes))
        The array's products, `Array.PRODUCT_CYCLES` after `valid`.
    busy : Out(1)
        Products are on their way.
    lanes : In(lanes)
    pair : In(range(word_bytes / 2))
    accumulator : Out(ArrayLayout(signed(ACCUMULATOR_BITS), 2))
        Accumulators 2·pair and 2·pair + 1, summed over `lanes`, combinationally. The sum is one
        over at most max_context tokens.
    """

    PIPELINE_CYCLES = Array.PRODUCT_CYCLES + 1

    clear: Signal
    valid: Signal
    upper: Signal
    products: data.View
    busy: Signal
    lanes: Signal
    pair: Signal
    accumulator: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "clear": In(1),
                "valid": In(c.lanes),
                "upper": In(c.lanes),
                "products": In(
                    data.ArrayLayout(data.ArrayLayout(signed(PRODUCT_BITS), c.word_bytes), c.lanes)
                ),
                "busy": Out(1),
                "lanes": In(c.lanes),
                "pair": In(range(c.word_bytes // 2)),
                "accumulator": Out(data.ArrayLayout(signed(ACCUMULATOR_BITS), 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        arriving, busy = self.valid, self.valid.any()
        for stage in range(Array.PRODUCT_CYCLES):
            arriving = delay(m, arriving, 1, name=f"valid_{stage}", reset=True)
            busy = busy | arriving.any()
        upper = delay(m, self.upper, Array.PRODUCT_CYCLES, name="upper")
        m.d.comb += self.busy.eq(busy)

        shape = signed(_SUM_BITS + exact_log2(c.max_context))
        chosen: list[list[Value]] = [[], []]
        for lane in range(c.lanes):
            sums = [Signal(shape, name=f"sum_{lane}_{byte}") for byte in range(c.word_bytes)]
            with m.If(self.clear):
                m.d.sync += [s.eq(0) for s in sums]
            with m.Elif(arriving[lane]):
                for byte, s in enumerate(sums):
                    product = self.products[lane][byte]
                    m.d.sync += s.eq(s + Mux(upper[lane], product << HALF_BITS, product))
            picked = [Signal(shape, name=f"picked_{lane}_{n}") for n in range(2)]
            with m.If(self.lanes[lane]), m.Switch(self.pair):
                for pair in range(c.word_bytes // 2):
                    with m.Case(pair):
                        m.d.comb += [p.eq(sums[2 * pair + n]) for n, p in enumerate(picked)]
            for parts, p in zip(chosen, picked, strict=True):
                parts.append(p)
        for n, parts in enumerate(chosen):
            total = Signal(shape, name=f"total_{n}")
            m.d.comb += [total.eq(sum(parts)), self.accumulator[n].eq(total)]
        return m
