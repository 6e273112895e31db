"""Probabilities: 2^(score - maximum) of one token after the other, and their sum.

A probability is formed just in time for its token's V word, in fixed point with
PROBABILITY_FRACTION_BITS bits. Scaled by 2^(V exponent - largest V exponent) it is an integer that
multiplies the V mantissas directly, so that mixing is a plain integer sum in any order.
"""

import itertools
from functools import partial

from amaranth.hdl import EnableInserter, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import PROBABILITY_FRACTION_BITS
from skipstone.spec.tables import EXP2, INPUT_BITS, OUTPUT_BITS

from ..leaf import Leaf
from ..numeric.pipeline import delay
from ..numeric.tables import TableLookup
from .scores import ScoreCountLayout, ScoreEntryLayout

__all__ = ["PROBABILITY_BITS", "Probabilities", "sum_shape"]

PROBABILITY_BITS = PROBABILITY_FRACTION_BITS + 1
"""0 to 2^PROBABILITY_FRACTION_BITS inclusive."""
_SHIFT_MAX = 31
"""A probability shifted so far is zero."""


def sum_shape(config: CoreConfig) -> Shape:
    """Sum of the probabilities of a whole context."""
    return unsigned(PROBABILITY_BITS + bits_for(config.max_context))


class _ProbabilitySignature(wiring.Signature):
    """The members of `_Probability`, of the same parameters."""

    def __init__(self, *, total_shape: Shape):
        super().__init__(
            {
                "step": In(1),
                "clear": In(1),
                "count": In(1),
                "score": In(signed(32)),
                "maximum": In(signed(32)),
                "value_exponent": In(signed(8)),
                "reference": In(signed(8)),
                "o": Out(PROBABILITY_BITS),
                "total": Out(total_shape),
            }
        )


class _Probability(wiring.Component):
    """One lane and head: score → probability → scaled probability, and the running sum.

    A pipeline, one token per cycle: `o` is `PIPELINE_CYCLES` after the other inputs, the
    probability is in `total` as soon.

    Parameters
    ----------
    total_shape
        Shape of the sum.

    Members
    -------
    step : In(1)
        Everything advances.
    clear : In(1)
        Set the sum to zero.
    count : In(1)
        The token given PIPELINE_CYCLES - 1 ago is one to be added.
    score, maximum : In(signed(32))
    value_exponent, reference : In(signed(8))
    o : Out(PROBABILITY_BITS)
    total : Out(total_shape)
    """

    PIPELINE_CYCLES = TableLookup.PIPELINE_CYCLES + 3

    step: Signal
    clear: Signal
    count: Signal
    score: Signal
    maximum: Signal
    value_exponent: Signal
    reference: Signal
    o: Signal
    total: Signal

    def __init__(self, *, total_shape: Shape):
        super().__init__(_ProbabilitySignature(total_shape=total_shape))

    def elaborate(self, platform):
        m = Module()
        m.submodules.lookup = lookup = TableLookup(table=EXP2)
        below = Signal(signed(33), reset_less=True)
        gap = Signal(9, reset_less=True)
        m.d.sync += [
            below.eq(self.score - self.maximum),
            gap.eq(self.reference - self.value_exponent),
        ]
        halvings = Signal(17)
        m.d.comb += [
            lookup.fraction.eq(below[:INPUT_BITS]),
            halvings.eq(-(below >> INPUT_BITS)),
        ]
        halve = delay(m, _limited(halvings), TableLookup.PIPELINE_CYCLES, name="halve")
        scale = delay(m, _limited(gap), TableLookup.PIPELINE_CYCLES + 1, name="scale")

        probability = Signal(PROBABILITY_BITS, reset_less=True)
        scaled = Signal(PROBABILITY_BITS, reset_less=True)
        total = Signal(self.total.shape(), reset_less=True)
        one_plus = lookup.y + (1 << OUTPUT_BITS)
        m.d.sync += [
            probability.eq((one_plus << (PROBABILITY_FRACTION_BITS - OUTPUT_BITS)) >> halve),
            scaled.eq(probability >> scale),
        ]
        with m.If(self.clear):
            m.d.sync += total.eq(0)
        with m.Elif(self.count):
            m.d.sync += total.eq(total + probability)
        m.d.comb += [self.o.eq(scaled), self.total.eq(total)]
        return EnableInserter(self.step)(m)


def _limited(shift: Value) -> Value:
    return Mux(shift > _SHIFT_MAX, _SHIFT_MAX, shift)[: bits_for(_SHIFT_MAX)]


class Probabilities(wiring.Component):
    """Just-in-time probabilities of some lanes, for the tokens of the history, then of the memory.

    After `start`, reads the score memory in the order of each stream and offers each token's
    probabilities on `o`, one token per cycle while `o` is ready, `PIPELINE_CYCLES` after its
    address.

    Tested with 0 to max_context tokens, of one stream or both; scores and V exponents equal, close
    and far apart; stalled and at full rate.

    Parameters
    ----------
    config : CoreConfig
    lanes : int

    Members
    -------
    start : In(1)
        Pulse: begin at token 0, when the last round's tokens have all been taken.
    count : In(ScoreCountLayout(config))
        Tokens of each stream.
    address : Out(range(max_context))
        To the score memory's read port.
    read_enable : Out(1)
        The read port must hold its data while this is low.
    entry : In(ScoreEntryLayout(config, lanes))
        The memory's answer, one cycle after the address.
    maximum : In(ArrayLayout(ArrayLayout(signed(32), heads), lanes))
    reference : In(ArrayLayout(signed(8), heads))
        From Scores.
    o : Out(stream.Signature(ArrayLayout(ArrayLayout(PROBABILITY_BITS, heads), lanes)))
        Probabilities, scaled to the reference exponent.
    source : Out(1)
        The stream of the token that `o` offers.
    total : Out(ArrayLayout(ArrayLayout(sum_shape(config), heads), lanes))
        Sum of the unscaled probabilities of all tokens offered.
    """

    PIPELINE_CYCLES = 1 + _Probability.PIPELINE_CYCLES

    start: Signal
    count: data.View
    address: Signal
    read_enable: Signal
    entry: data.View
    maximum: data.View
    reference: data.View
    o: stream.Interface
    source: Signal
    total: data.View

    def __init__(self, *, config: CoreConfig, lanes: int):
        self._config, self._lanes = config, lanes
        c = config
        heads = c.heads_per_word

        def grid(shape):
            return data.ArrayLayout(data.ArrayLayout(shape, heads), lanes)

        super().__init__(
            {
                "start": In(1),
                "count": In(ScoreCountLayout(c)),
                "address": Out(range(c.max_context)),
                "read_enable": Out(1),
                "entry": In(ScoreEntryLayout(c, lanes)),
                "maximum": In(grid(signed(32))),
                "reference": In(data.ArrayLayout(signed(8), heads)),
                "o": Out(stream.Signature(grid(unsigned(PROBABILITY_BITS)))),
                "source": Out(1),
                "total": Out(grid(sum_shape(c))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        step = Signal()  # every stage advances
        issuing = Signal()
        source, index = Signal(), Signal(range(c.max_context))
        valid = [Signal(name=f"valid_{n}") for n in range(self.PIPELINE_CYCLES)]
        sources = [Signal(name=f"source_{n}") for n in range(self.PIPELINE_CYCLES)]
        left = [Signal(count.shape(), name=f"left_{n}") for n, count in enumerate(self.count)]

        m.d.comb += [
            step.eq(~valid[-1] | self.o.ready),
            self.read_enable.eq(step),
            source.eq(left[1] != 0),
            issuing.eq(source | (left[0] != 0)),
            self.address.eq(Mux(source, ~index, index)),
            self.o.valid.eq(valid[-1]),
            self.source.eq(sources[-1]),
        ]
        with m.If(self.start):
            m.d.sync += [index.eq(0), *(a.eq(b) for a, b in zip(left, self.count, strict=True))]
        with m.Elif(step & issuing):
            m.d.sync += index.eq(index + 1)
            with m.If(source):
                m.d.sync += left[1].eq(left[1] - 1)
                with m.If(left[1] == 1):
                    m.d.sync += index.eq(0)
            with m.Else():
                m.d.sync += left[0].eq(left[0] - 1)
        with m.If(step):
            m.d.sync += [valid[0].eq(issuing), sources[0].eq(source)]
            for chain in (valid, sources):
                m.d.sync += [b.eq(a) for a, b in itertools.pairwise(chain)]

        shape = {"total_shape": sum_shape(c)}
        for lane in range(self._lanes):
            for head in range(c.heads_per_word):
                leaf = Leaf(
                    partial(_Probability, **shape),
                    signature=_ProbabilitySignature(**shape),
                    name="skipstone_probability",
                )
                m.submodules[f"unit_{lane}_{head}"] = leaf
                unit = leaf.pins
                m.d.comb += [
                    unit.step.eq(step),
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
