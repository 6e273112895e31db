"""Mixing: Σ p · v over the tokens, one accumulator for each byte of a V word and lane.

A probability has 22 bits, the array's operand 12: each V word passes twice, with the upper and the
lower 11 bits. The sums are exact integers, so tokens may come in any order.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig

from ..array import PRODUCT_BITS, Array
from ..layouts import ACCUMULATOR_BITS
from ..numeric.pipeline import delay

__all__ = ["HALF_BITS", "Mix"]

HALF_BITS = 11
"""Bits of a probability that enter the array at a time."""


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
    valid : In(1)
        A V word enters the array in this cycle.
    upper : In(1)
        It meets the upper halves of the probabilities, not the lower.
    lane_enable : In(lanes)
        Lanes that accumulate.
    products : In(ArrayLayout(ArrayLayout(signed(20), word_bytes), lanes))
        The array's products, `Array.PRODUCT_CYCLES` after `valid`.
    busy : Out(1)
        Products are on their way.
    lane : In(range(lanes))
    pair : In(range(word_bytes / 2))
    accumulator : Out(ArrayLayout(signed(ACCUMULATOR_BITS), 2))
        Accumulators 2·pair and 2·pair + 1 of `lane`, combinationally.
    """

    PIPELINE_CYCLES = Array.PRODUCT_CYCLES + 1

    clear: Signal
    valid: Signal
    upper: Signal
    lane_enable: Signal
    products: data.View
    busy: Signal
    lane: Signal
    pair: Signal
    accumulator: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "clear": In(1),
                "valid": In(1),
                "upper": In(1),
                "lane_enable": In(c.lanes),
                "products": In(
                    data.ArrayLayout(data.ArrayLayout(signed(PRODUCT_BITS), c.word_bytes), c.lanes)
                ),
                "busy": Out(1),
                "lane": In(range(c.lanes)),
                "pair": In(range(c.word_bytes // 2)),
                "accumulator": Out(data.ArrayLayout(signed(ACCUMULATOR_BITS), 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        arriving, busy = self.valid, self.valid
        for stage in range(Array.PRODUCT_CYCLES):
            arriving = delay(m, arriving, 1, name=f"valid_{stage}", reset=True)
            busy = busy | arriving
        upper = delay(m, self.upper, Array.PRODUCT_CYCLES, name="upper")
        m.d.comb += self.busy.eq(busy)

        for lane in range(c.lanes):
            sums = [
                Signal(signed(ACCUMULATOR_BITS), name=f"sum_{lane}_{byte}")
                for byte in range(c.word_bytes)
            ]
            with m.If(self.clear):
                m.d.sync += [s.eq(0) for s in sums]
            with m.Elif(arriving & self.lane_enable[lane]):
                for byte, s in enumerate(sums):
                    product = self.products[lane][byte]
                    m.d.sync += s.eq(s + Mux(upper, product << HALF_BITS, product))
            with m.If(self.lane == lane), m.Switch(self.pair):
                for pair in range(c.word_bytes // 2):
                    with m.Case(pair):
                        m.d.comb += [
                            self.accumulator[0].eq(sums[2 * pair]),
                            self.accumulator[1].eq(sums[2 * pair + 1]),
                        ]
        return m
