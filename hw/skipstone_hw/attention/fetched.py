"""Tokens whose K and V come from memory: words of runs → one token after the other."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig

from ..kv_index import MissLayout
from ..replay import ItemLayout
from .history import KvTokenLayout

__all__ = ["Fetched"]


class Fetched(wiring.Component):
    """The memory's stream of tokens.

    In a pass over K, a cycle for each exponent word and each K word; in a pass over V, one for each
    V word; and one for the end of each. Words pass through combinationally. The last exponent word
    of each layer is kept, since versions of several layers take turns.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    head_dim_log2 : In(3)
        One of `config.head_dim_log2`.
    misses : In(stream.Signature(ItemLayout(MissLayout(config))))
        From KvIndex: passes over K and V in turn.
    words : In(stream.Signature(word_bits))
        What KvIndex asked for.
    o : Out(stream.Signature(KvTokenLayout(config)))
    starved : Out(1)
        A word is missing.
    """

    head_dim_log2: Signal
    misses: stream.Interface
    words: stream.Interface
    o: stream.Interface
    starved: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "head_dim_log2": In(3),
                "misses": In(stream.Signature(ItemLayout(MissLayout(c)))),
                "words": In(stream.Signature(c.word_bits)),
                "o": Out(stream.Signature(KvTokenLayout(c))),
                "starved": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        m.submodules.exponents = kept = memory.Memory(
            shape=c.word_bits, depth=c.max_layers, init=[]
        )
        keep, look_up = kept.write_port(), kept.read_port(domain="comb")
        present = Signal()  # the exponents of the token at hand, which opens a read
        values = Signal()  # the pass at hand is over V, not K
        wanted, opening = Signal(), Signal()
        miss = self.misses.payload
        m.d.comb += [
            wanted.eq(self.misses.valid & ~miss.end),
            opening.eq(wanted & miss.data.opens & ~values & ~present),
            self.starved.eq(wanted & ~self.words.valid),
            self.words.ready.eq(opening | (wanted & self.o.ready)),
            self.o.valid.eq(self.misses.valid & (miss.end | (self.words.valid & ~opening))),
            self.o.payload.word.eq(self.words.payload),
            self.o.payload.end.eq(miss.end),
            self.misses.ready.eq(self.o.valid & self.o.ready),
            keep.en.eq(opening & self.words.valid),
            keep.addr.eq(miss.data.layer),
            keep.data.eq(self.words.payload),
            look_up.addr.eq(miss.data.layer),
        ]
        with m.If(opening & self.words.valid):
            m.d.sync += present.eq(1)
        with m.Elif(self.misses.ready):
            m.d.sync += [present.eq(0), values.eq(values ^ miss.end)]

        # The entry of the token at `slot`: K exponents of the word's heads, then V exponents.
        slot = miss.data.slot
        with m.Switch(self.head_dim_log2):
            for log2 in c.head_dim_log2:
                heads = c.word_bytes >> log2
                layout = data.ArrayLayout(data.ArrayLayout(signed(8), heads), 2)
                entry = Signal(layout, name=f"exponents_{1 << log2}")
                m.d.comb += entry.eq(look_up.data.word_select(slot[: log2 - 1], layout.size))
                with m.Case(log2):
                    for head in range(heads):
                        m.d.comb += [
                            self.o.payload.key_exponent[head].eq(entry[0][head]),
                            self.o.payload.value_exponent[head].eq(entry[1][head]),
                        ]
        return m
