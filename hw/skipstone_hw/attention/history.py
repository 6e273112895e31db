"""KV history buffer: K and V that attention read from memory, kept on chip by position.

`held` says which version of a position it is; a hit is served beside the memory stream.
"""

from amaranth.hdl import Module, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig

from ..held import groups_log2
from ..replay import ItemLayout

__all__ = ["History", "HistoryWriteLayout", "KvTokenLayout"]


class KvTokenLayout(data.StructLayout):
    """A token's K or V of a head group; `end` stands behind the last token and has no data.

    The exponents, of K and of V, come with the K.
    """

    def __init__(self, config: CoreConfig):
        exponents = data.ArrayLayout(signed(8), config.heads_per_word)
        super().__init__(
            {
                "word": config.word_bits,
                "key_exponent": exponents,
                "value_exponent": exponents,
                "end": 1,
            }
        )


class HistoryWriteLayout(data.StructLayout):
    """A token that came from memory, to be kept if it fits."""

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "valid": 1,
                "position": range(config.max_context),
                "word": config.word_bits,
                "key_exponent": data.ArrayLayout(signed(8), config.heads_per_word),
                "value_exponent": data.ArrayLayout(signed(8), config.heads_per_word),
            }
        )


class History(wiring.Component):
    """The buffer: `history_words` K words with their exponents, and as many V words.

    While `active`, the hits of a pass are read, one per cycle, each offered on `o` a cycle later.
    After the end of a pass, `active` must fall before the next is wanted; so what a pass writes is
    there for every later one.

    Parameters
    ----------
    config : CoreConfig
        With history_words.

    Members
    -------
    head_groups : In(16)
        Of the model.
    head_group : In(16)
    values : In(1)
        The pass at hand is over V, not K.
    active : In(1)
    hits : In(stream.Signature(ItemLayout(range(max_context))))
        Positions to be read, pass by pass.
    o : Out(stream.Signature(KvTokenLayout(config)))
    write : In(HistoryWriteLayout(config))
        Never a position that is a hit of the same pass.
    """

    head_groups: Signal
    head_group: Signal
    values: Signal
    active: Signal
    hits: stream.Interface
    o: stream.Interface
    write: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "head_groups": In(16),
                "head_group": In(16),
                "values": In(1),
                "active": In(1),
                "hits": In(stream.Signature(ItemLayout(range(c.max_context)))),
                "o": Out(stream.Signature(KvTokenLayout(c))),
                "write": In(HistoryWriteLayout(c)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        words_log2 = exact_log2(c.history_words)
        exponents = data.ArrayLayout(data.ArrayLayout(signed(8), c.heads_per_word), 2)
        m.submodules.words = words = memory.Memory(
            shape=unsigned(c.word_bits), depth=2 * c.history_words, init=[]
        )
        m.submodules.exponents = exponent_words = memory.Memory(
            shape=exponents, depth=c.history_words, init=[]
        )
        span_log2 = groups_log2(m, self.head_groups)
        shift, capacity = Signal(range(words_log2 + 1)), Signal(range(c.history_words + 1))
        m.d.sync += [shift.eq(span_log2), capacity.eq(c.history_words >> span_log2)]

        def place(position: Value) -> Value:
            """Word of a position and the head group, if the position fits."""
            return ((position << shift) | self.head_group)[:words_log2]

        # One stage: what the read ports show.
        shown, ended = Signal(), Signal()
        take = Signal()
        read, read_exponents = words.read_port(), exponent_words.read_port()
        m.d.comb += [
            take.eq(self.active & ~(shown & ended) & (~shown | self.o.ready)),
            self.hits.ready.eq(take),
            read.addr.eq(place(self.hits.payload.data) | (self.values << words_log2)),
            read.en.eq(take & self.hits.valid & ~self.hits.payload.end),
            read_exponents.addr.eq(place(self.hits.payload.data)),
            read_exponents.en.eq(read.en & ~self.values),
            self.o.valid.eq(shown),
            self.o.payload.word.eq(read.data),
            self.o.payload.key_exponent.eq(read_exponents.data[0]),
            self.o.payload.value_exponent.eq(read_exponents.data[1]),
            self.o.payload.end.eq(ended),
        ]
        with m.If(self.o.ready):
            m.d.sync += shown.eq(0)
        with m.If(take & self.hits.valid):
            m.d.sync += [shown.eq(1), ended.eq(self.hits.payload.end)]

        write, write_exponents = words.write_port(), exponent_words.write_port()
        m.d.comb += [
            write.addr.eq(place(self.write.position) | (self.values << words_log2)),
            write.data.eq(self.write.word),
            write.en.eq(self.write.valid & (self.write.position < capacity)),
            write_exponents.addr.eq(place(self.write.position)),
            write_exponents.data[0].eq(self.write.key_exponent),
            write_exponents.data[1].eq(self.write.value_exponent),
            write_exponents.en.eq(write.en & ~self.values),
        ]
        return m
