"""Results of a head group: Σ p · v, with 1 / Σ p as the scale that the epilogue applies."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig

from ..array import upper_lane
from ..layouts import ACCUMULATOR_BITS, INDEX_BITS, PairKind, PairLayout, token_shape
from ..numeric.fp32 import IntToFp
from ..numeric.pipeline import delay
from ..numeric.tables import Reciprocal
from .lanes import LaneUseLayout
from .probabilities import sum_shape

__all__ = ["ResultLayout", "Results"]


class ResultLayout(data.StructLayout):
    """A head group whose accumulators are complete; `first` of its token."""

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "token": token_shape(config),
                "first": 1,
                "heads": range(config.heads_per_word + 1),  # that are in use
                "reference": data.ArrayLayout(signed(8), config.heads_per_word),
            }
        )


class Results(wiring.Component):
    """Drain of the accumulators, KV head by KV head, query head by query head.

    Offers a pair per cycle. The reciprocals go through one converter and one table, in the order in
    which they are wanted, one per cycle; each is wanted for at least 16 pairs, so that only the
    first must be waited for.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    head_dim_log2 : In(3)
    query_heads : In(range(lanes + 1))
        Query heads per KV head.
    use : In(LaneUseLayout())
    invert : In(1)
        Pulse: `totals` are complete, and stay until the end of the drain.
    totals : In(ArrayLayout(ArrayLayout(sum_shape(config), heads), lanes))
    inverted : Out(1)
        The first reciprocal is there; falls in the cycle after `invert`.
    start : In(1)
        Pulse: the accumulators of `result` are complete, and stay until the end of the drain.
    result : In(ResultLayout(config))
    draining : Out(1)
        The accumulators are still wanted.
    idle : Out(1)
        Nothing to drain, and the last pair was taken.
    mix_lanes : Out(lanes)
    mix_pair : Out(range(word_bytes / 2))
    mix_step : Out(1)
    accumulator : In(ArrayLayout(signed(ACCUMULATOR_BITS), 2))
        Read port of Mix.
    o : Out(stream.Signature(PairLayout(config)))
    """

    head_dim_log2: Signal
    query_heads: Signal
    use: data.View
    invert: Signal
    totals: data.View
    inverted: Signal
    start: Signal
    result: data.View
    draining: Signal
    idle: Signal
    mix_lanes: Signal
    mix_pair: Signal
    mix_step: Signal
    accumulator: data.View
    o: stream.Interface

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        heads = c.heads_per_word
        super().__init__(
            {
                "head_dim_log2": In(3),
                "query_heads": In(unsigned(bits_for(c.lanes))),
                "use": In(LaneUseLayout()),
                "invert": In(1),
                "totals": In(data.ArrayLayout(data.ArrayLayout(sum_shape(c), heads), c.lanes)),
                "inverted": Out(1),
                "start": In(1),
                "result": In(ResultLayout(c)),
                "draining": Out(1),
                "idle": Out(1),
                "mix_lanes": Out(c.lanes),
                "mix_pair": Out(range(c.word_bytes // 2)),
                "mix_step": Out(1),
                "accumulator": In(data.ArrayLayout(signed(ACCUMULATOR_BITS), 2)),
                "o": Out(stream.Signature(PairLayout(c))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        inverses = self.build_inverses(m)
        self.build_drain(m, inverses)
        return m

    def build_inverses(self, m: Module) -> data.View:
        """1 / Σ p of each lane and head."""
        c = self._config
        heads = c.heads_per_word
        m.submodules.total_to_float = convert = IntToFp(bits=sum_shape(c).width + 1)
        m.submodules.reciprocal = reciprocal = Reciprocal()
        number = c.lanes * heads
        cycles = IntToFp.PIPELINE_CYCLES + Reciprocal.PIPELINE_CYCLES
        step = Signal(range(number + cycles + 1))
        m.d.comb += [reciprocal.x.eq(convert.o), self.inverted.eq(step > cycles)]
        with m.If(self.invert):
            m.d.sync += step.eq(0)
        with m.Elif(step != number + cycles):
            m.d.sync += step.eq(step + 1)
        inverses = Signal(data.ArrayLayout(data.ArrayLayout(32, heads), c.lanes))
        for n in range(number):
            head, lane = divmod(n, c.lanes)
            with m.If(step == n):
                m.d.comb += convert.mantissa.eq(self.totals[lane][head])
            with m.If(step == n + cycles):
                m.d.sync += inverses[lane][head].eq(reciprocal.o)
        return inverses

    def build_drain(self, m: Module, inverses: data.View) -> None:
        """Pairs in the order of the output vector."""
        c, o = self._config, self.o
        result = Signal(ResultLayout(c))
        index = Signal(INDEX_BITS)
        pairs_log2 = Signal(3)  # pairs of a head
        head, lane, pair = Signal(range(c.heads_per_word)), Signal(range(c.lanes)), Signal(6)
        last_pair, last_lane, last_head = Signal(), Signal(), Signal()
        upper, quarter = upper_lane(c), c.lanes // 4
        spread = Signal(c.lanes)  # lanes of query head 0
        m.d.comb += spread.eq(
            1
            | (self.use.split << upper)
            | (self.use.quartered << quarter)
            | (self.use.quartered << (upper + quarter))
        )
        # Which pair; its accumulators, picked out of each lane in Mix, then summed over lanes; the
        # pair with what it is multiplied by.
        draining, asking, picked = Signal(), Signal(), Signal()
        m.d.comb += [
            pairs_log2.eq(self.head_dim_log2 - 1),
            last_pair.eq(pair == (1 << pairs_log2) - 1),
            last_lane.eq(lane + 1 == self.query_heads),
            last_head.eq(head + 1 == result.heads),
            self.draining.eq(draining | asking),
            self.idle.eq(~draining & ~asking & ~picked & ~o.valid),
            self.mix_step.eq(~o.valid | o.ready),
        ]
        with m.If(self.mix_step):
            m.d.sync += [
                asking.eq(draining),
                self.mix_lanes.eq(spread << lane),
                self.mix_pair.eq((head << pairs_log2) | pair),
                picked.eq(asking),
                o.valid.eq(picked),
                o.payload.accumulator.eq(self.accumulator),
                o.payload.exponent.eq(delay(m, result.reference[head], 2, name="exponent")),
                o.payload.scale.eq(delay(m, inverses[lane][head], 2, name="inverse")),
                o.payload.kind.eq(PairKind.ATTENTION),
                o.payload.token.eq(result.token),
                o.payload.index.eq(index),
            ]
            with m.If(picked):
                m.d.sync += index.eq(index + 1)
        with m.If(self.start):
            m.d.sync += [result.eq(self.result), draining.eq(1)]
            with m.If(self.result.first):
                m.d.sync += index.eq(0)
        with m.If(draining & self.mix_step):
            m.d.sync += pair.eq(Mux(last_pair, 0, pair + 1))
            with m.If(last_pair):
                m.d.sync += lane.eq(Mux(last_lane, 0, lane + 1))
            with m.If(last_pair & last_lane):
                m.d.sync += head.eq(Mux(last_head, 0, head + 1))
                with m.If(last_head):
                    m.d.sync += draining.eq(0)
