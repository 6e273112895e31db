"""Probabilities: 2^(score - maximum) of one token after the other, and their sum.

A probability is formed just in time for its token's V word, in fixed point with
PROBABILITY_FRACTION_BITS bits. Scaled by 2^(V exponent - largest V exponent) it is an integer that
multiplies the V mantissas directly, so that mixing is a plain integer sum in any order.
"""

import itertools

from amaranth import EnableInserter, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import PROBABILITY_FRACTION_BITS
from skipstone.spec.tables import EXP2, OUTPUT_BITS

from ..numeric.pipeline import delay
from ..numeric.tables import TableLookup
from .scores import ScoreEntryLayout, heads_per_word

__all__ = ["PROBABILITY_BITS", "Probabilities", "sum_shape"]

PROBABILITY_BITS = PROBABILITY_FRACTION_BITS + 1
"""0 .. 2^21 inclusive."""


def sum_shape(config: CoreConfig):
    """Sum of the probabilities of a whole context."""
    return unsigned(PROBABILITY_BITS + bits_for(config.max_context))


class _Probability(wiring.Component):
    """One lane and head: score → probability, scaled probability, running sum. Free-running."""

    def __init__(self, *, total_shape):
        super().__init__(
            {
                "clear": In(1),
                "count": In(1),  # the probability about to be scaled belongs to a token
                "score": In(signed(32)),
                "maximum": In(signed(32)),
                "value_exponent": In(signed(8)),
                "reference": In(signed(8)),
                "o": Out(PROBABILITY_BITS),
                "total": Out(total_shape),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.lookup = lookup = TableLookup(table=EXP2)
        below = Signal(signed(33), reset_less=True)
        gap = Signal(9, reset_less=True)
        m.d.sync += [
            below.eq(self.score - self.maximum),
            gap.eq(self.reference - self.value_exponent),
        ]
        m.d.comb += lookup.fraction.eq(below[:16])
        halvings = Signal(17)
        m.d.comb += halvings.eq(-(below >> 16))
        clipped = Mux(halvings > 31, 31, halvings)[:5]
        halve = delay(m, clipped, TableLookup.PIPELINE_CYCLES, name="halve")
        scale = delay(m, Mux(gap > 31, 31, gap)[:5], TableLookup.PIPELINE_CYCLES + 1, name="scale")

        one = 1 << OUTPUT_BITS
        probability = Signal(PROBABILITY_BITS, reset_less=True)
        m.d.sync += probability.eq(
            ((lookup.y + one) << (PROBABILITY_FRACTION_BITS - OUTPUT_BITS)) >> halve
        )
        with m.If(self.clear):
            m.d.sync += self.total.eq(0)
        with m.Elif(self.count):
            m.d.sync += self.total.eq(self.total + probability)
        m.d.sync += self.o.eq(probability >> scale)
        return m


class Probabilities(wiring.Component):
    """Just-in-time probabilities for tokens 0 .. last.

    After `start`, reads the score memory in order and offers each token's probabilities on `o`; one
    token per cycle when `o` is ready, the first after `PIPELINE_CYCLES`. `total` is complete when
    the last has been offered.

    Members
    -------
    start : In(1); last : In
        Pulse, and the index of the last token.
    address : Out; entry : In
        The score memory's read port (one cycle latency).
    read_enable : Out(1)
        The read port must hold its data while this is low.
    maximum, reference : In
        From Scores.
    o : stream of per-lane, per-head probabilities, scaled to the reference exponent
    total : Out
        Sum of the unscaled probabilities per lane and head.
    """

    PIPELINE_CYCLES = TableLookup.PIPELINE_CYCLES + 4

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        heads = heads_per_word(c)

        def grid(shape):
            return data.ArrayLayout(data.ArrayLayout(shape, heads), c.lanes)

        super().__init__(
            {
                "start": In(1),
                "last": In(range(c.max_context)),
                "address": Out(range(c.max_context)),
                "read_enable": Out(1),
                "entry": In(ScoreEntryLayout(c)),
                "maximum": In(grid(signed(32))),
                "reference": In(data.ArrayLayout(signed(8), heads)),
                "o": Out(stream.Signature(grid(unsigned(PROBABILITY_BITS)))),
                "total": Out(grid(sum_shape(c))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        step = Signal()  # every stage advances
        issuing = Signal()
        position = Signal(range(c.max_context))
        valid = [Signal(name=f"valid_{n}") for n in range(self.PIPELINE_CYCLES)]

        m.d.comb += [
            step.eq(~valid[-1] | self.o.ready),
            self.read_enable.eq(step),
            self.address.eq(position),
            self.o.valid.eq(valid[-1]),
        ]
        with m.If(self.start):
            m.d.sync += [issuing.eq(1), position.eq(0)]
        with m.Elif(step & issuing):
            m.d.sync += position.eq(position + 1)
            with m.If(position == self.last):
                m.d.sync += issuing.eq(0)
        with m.If(step):
            m.d.sync += valid[0].eq(issuing)
            m.d.sync += [b.eq(a) for a, b in itertools.pairwise(valid)]

        for lane in range(c.lanes):
            for head in range(heads_per_word(c)):
                unit = _Probability(total_shape=sum_shape(c))
                m.submodules[f"unit_{lane}_{head}"] = EnableInserter(step)(unit)
                m.d.comb += [
                    unit.clear.eq(self.start),
                    unit.count.eq(valid[-2]),
                    unit.score.eq(self.entry.score[lane][head]),
                    unit.maximum.eq(self.maximum[lane][head]),
                    unit.value_exponent.eq(self.entry.value_exponent[head]),
                    unit.reference.eq(self.reference[head]),
                    self.o.payload[lane][head].eq(unit.o),
                    self.total[lane][head].eq(unit.total),
                ]
        return m
