"""Queries of a head group, spread over the word that their keys will meet."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

from ..activations import LaneRead, Region
from ..array import upper_lane
from ..layouts import token_shape
from ..numeric.pipeline import delay
from .lanes import LaneUseLayout

__all__ = ["Queries"]


class Queries(wiring.Component):
    """Query registers of every lane.

    While `load`, R mantissas per lane and cycle, C/2 cycles for a head group; they are complete in
    the cycle after the one that follows `last`. Head groups come in order, after `restart`.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    head_dim_log2 : In(3)
    query_heads : In(range(lanes + 1))
        Query heads per KV head.
    use : In(LaneUseLayout())
    token : In(token_shape(config))
    restart : In(1)
        The next head group is the token's first.
    load : In(1)
    last : Out(1)
        With `load`: this is its last cycle.
    lanes : Out(LaneRead(config)).array(lanes)
        Read ports of the activation buffer.
    mantissas : Out(ArrayLayout(ArrayLayout(signed(12), word_bytes), lanes))
        Of each byte of a K word.
    exponents : Out(ArrayLayout(ArrayLayout(signed(8), heads), lanes))
        Of each head of a K word.
    """

    head_dim_log2: Signal
    query_heads: Signal
    use: data.View
    token: Signal
    restart: Signal
    load: Signal
    last: Signal
    lanes: list[wiring.PureInterface]
    mantissas: data.View
    exponents: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = c = config

        def lanes(shape, count):
            return data.ArrayLayout(data.ArrayLayout(shape, count), c.lanes)

        super().__init__(
            {
                "head_dim_log2": In(3),
                "query_heads": In(unsigned(bits_for(c.lanes))),
                "use": In(LaneUseLayout()),
                "token": In(token_shape(c)),
                "restart": In(1),
                "load": In(1),
                "last": Out(1),
                "lanes": Out(LaneRead(c)).array(c.lanes),
                "mantissas": Out(lanes(signed(ACTIVATION_BITS), c.word_bytes)),
                "exponents": Out(lanes(signed(8), c.heads_per_word)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        words = c.columns // 2
        sweep = Signal(range(words))
        first_head = Signal(range(c.max_query // c.min_head_dim + 1))  # of the KV head being loaded
        sweep_log2 = Signal(3)  # words of a head
        in_head = Signal.like(sweep)
        m.d.comb += [
            sweep_log2.eq(self.head_dim_log2 - exact_log2(c.rows)),
            in_head.eq(sweep & ((1 << sweep_log2) - 1)),
            self.last.eq(sweep == words - 1),
        ]
        with m.If(self.restart):
            m.d.sync += first_head.eq(0)
        with m.If(self.load):
            m.d.sync += sweep.eq(Mux(self.last, 0, sweep + 1))
            with m.If(in_head == (1 << sweep_log2) - 1):
                m.d.sync += first_head.eq(first_head + self.query_heads)

        # The answers come a cycle later.
        loaded = delay(m, self.load, 1, name="loaded", reset=True)
        loaded_at = delay(m, sweep, 1, name="loaded_at")
        for lane, read in enumerate(self.lanes):
            in_half = lane - upper_lane(c) if lane >= upper_lane(c) else lane
            loaded_words: list[Value] = []
            head = Signal.like(first_head, name=f"head_{lane}")
            m.d.comb += [
                head.eq(first_head + Mux(self.use.split, in_half, lane)),
                read.en.eq(1),
                read.region.eq(Region.QUERY),
                read.token.eq(self.token),
                read.group.eq(head),
                read.word.eq((head << sweep_log2) | in_head),
            ]
            for at in range(words):
                word = Signal(read.mantissas.shape(), name=f"word_{lane}_{at}", reset_less=True)
                with m.If(loaded & (loaded_at == at)):
                    m.d.sync += word.eq(read.mantissas)
                loaded_words.append(word.as_value())
            m.d.comb += self.mantissas[lane].as_value().eq(Cat(loaded_words))
            for head_in_word in range(c.heads_per_word):
                exponent = Signal(
                    signed(8), name=f"exponent_{lane}_{head_in_word}", reset_less=True
                )
                with m.If(loaded & ((loaded_at >> sweep_log2) == head_in_word)):
                    m.d.sync += exponent.eq(read.exponent)
                m.d.comb += self.exponents[lane][head_in_word].eq(exponent)
        return m
