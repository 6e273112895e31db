"""Mixing: Σ p · v over the tokens, one accumulator for each byte of a V word and lane.

A probability has 22 bits, the array's operand 12: it meets its V word in two halves, in two lanes
or one after the other. The sums are exact integers, so tokens may come in any order, and those of
one query may be spread over several lanes that are added in the end.
"""

from functools import partial
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import PROBABILITY_FRACTION_BITS

from ..array import PRODUCT_BITS, Array
from ..layouts import ACCUMULATOR_BITS
from ..leaf import Leaf
from ..numeric.pipeline import delay

__all__ = ["HALF_BITS", "Mix"]

HALF_BITS = 11
"""Bits of a probability that enter the array at a time."""
_SUM_BITS = PROBABILITY_FRACTION_BITS + 8
"""One token's p · v is at most 2^PROBABILITY_FRACTION_BITS · 127."""
_SLICE_BYTES = 64


class _SliceSignature(wiring.Signature):
    """The members of `_Slice`, of the same parameters."""

    def __init__(self, *, size: int, shape: Shape):
        super().__init__(
            {
                "clear": In(1),
                "add": In(1),
                "upper": In(1),
                "products": In(data.ArrayLayout(signed(PRODUCT_BITS), size)),
                "pair": In(range(max(2, size // 2))),
                "step": In(1),
                "picked": Out(data.ArrayLayout(shape, 2)),
            }
        )


class _Slice(wiring.Component):
    """Accumulators of neighbouring bytes of a lane, and the two of them that `pair` says, a `step`
    later.

    They hold the negative sums: subtracting one of two takes a LUT for each bit, adding it two,
    since Yosys puts what is added on the carry chain's other input, too.
    """

    clear: Signal
    add: Signal
    upper: Signal
    products: data.View
    pair: Signal
    step: Signal
    picked: data.View

    def __init__(self, *, size: int, shape: Shape):
        self._size, self._shape = size, shape
        super().__init__(_SliceSignature(size=size, shape=shape))

    def elaborate(self, platform):
        m = Module()
        sums = [
            Signal(self._shape, name=f"sum_{byte}", reset_less=True) for byte in range(self._size)
        ]
        with m.If(self.clear):
            m.d.sync += [s.eq(0) for s in sums]
        with m.Elif(self.add):
            for product, s in zip(self.products, sums, strict=True):
                m.d.sync += s.eq(s - Mux(self.upper, product << HALF_BITS, product))
        with m.If(self.step), m.Switch(self.pair):
            for pair in range(self._size // 2):
                with m.Case(pair):
                    m.d.sync += self.picked.as_value().eq(Cat(sums[2 * pair], sums[2 * pair + 1]))
        return m


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
    products : In(ArrayLayout(signed(20), word_bytes)).array(lanes)
        The array's products, `Array.PRODUCT_CYCLES` after `valid`.
    busy : Out(1)
        Products are on their way.
    lanes : In(lanes)
    pair : In(range(word_bytes / 2))
    step : In(1)
        Look at `lanes` and `pair`.
    accumulator : Out(ArrayLayout(signed(ACCUMULATOR_BITS), 2))
        Accumulators 2·pair and 2·pair + 1, summed over `lanes`, as they were in the last `step`.
        The sum is one over at most max_context tokens.
    """

    PIPELINE_CYCLES = Array.PRODUCT_CYCLES + 1

    clear: Signal
    valid: Signal
    upper: Signal
    products: list[data.View]
    busy: Signal
    lanes: Signal
    pair: Signal
    step: Signal
    accumulator: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "clear": In(1),
                "valid": In(c.lanes),
                "upper": In(c.lanes),
                "products": In(data.ArrayLayout(signed(PRODUCT_BITS), c.word_bytes)).array(c.lanes),
                "busy": Out(1),
                "lanes": In(c.lanes),
                "pair": In(range(c.word_bytes // 2)),
                "step": In(1),
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

        size = min(_SLICE_BYTES, c.word_bytes)
        slice_: dict[str, Any] = {
            "size": size,
            "shape": signed(_SUM_BITS + exact_log2(c.max_context)),
        }
        slice_pairs_log2 = exact_log2(size // 2)
        lanes, place = Signal.like(self.lanes), Signal.like(self.pair[slice_pairs_log2:])
        with m.If(self.step):
            m.d.sync += [lanes.eq(self.lanes), place.eq(self.pair[slice_pairs_log2:])]
        total: list[Value] = [Const(0), Const(0)]
        for lane in range(c.lanes):
            picked = []
            for first in range(0, c.word_bytes, size):
                leaf = Leaf(
                    partial(_Slice, **slice_),
                    signature=_SliceSignature(**slice_),
                    name="skipstone_mix_slice",
                )
                m.submodules[f"slice_{lane}_{first}"] = leaf
                m.d.comb += [
                    leaf.pins.clear.eq(self.clear),
                    leaf.pins.add.eq(arriving[lane]),
                    leaf.pins.upper.eq(upper[lane]),
                    leaf.pins.products.as_value().eq(
                        self.products[lane].as_value()[
                            PRODUCT_BITS * first : PRODUCT_BITS * (first + size)
                        ]
                    ),
                    leaf.pins.pair.eq(self.pair),
                    leaf.pins.step.eq(self.step),
                ]
                picked.append(leaf.pins.picked.as_value())
            pair = Signal(leaf.pins.picked.shape(), name=f"pair_{lane}")
            with m.If(lanes[lane]):
                m.d.comb += pair.eq(Cat(picked).word_select(place, len(picked[0])))
            total = [t + value for t, value in zip(total, pair, strict=True)]
        m.d.comb += [self.accumulator[n].eq(-t) for n, t in enumerate(total)]
        return m
