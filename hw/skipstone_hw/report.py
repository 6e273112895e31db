"""NEXT's first half: the output record of each token of the chunk."""

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2
from skipstone.spec.config import CoreConfig
from skipstone.spec.records import RECORD_BYTES

from .layouts import ADDRESS_BITS, WriteLayout, token_shape

__all__ = ["Report"]


class Report(wiring.Component):
    """Writer of output records (`skipstone.spec.records.OUTPUT_RECORD`), three cycles a token.

    Members
    -------
    start : In(1)
    base, position, count : In
    every_token : In(1)
        Every token has logits, not only the last.
    index : Out
        The token whose fields are wanted; they are taken in the cycle after the next.
    token_id, argmax, attention_map, mlp_map : In
    o : stream of WriteLayout
    idle : Out(1)
    """

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "start": In(1),
                "base": In(ADDRESS_BITS),
                "position": In(unsigned(bits_for(c.max_context))),
                "count": In(unsigned(bits_for(c.max_chunk))),
                "every_token": In(1),
                "index": Out(token_shape(c)),
                "token_id": In(32),
                "argmax": In(32),
                "attention_map": In(64),
                "mlp_map": In(64),
                "o": Out(stream.Signature(WriteLayout(c))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        per_word = c.word_bytes // RECORD_BYTES
        index = Signal(range(c.max_chunk + 1))
        at = Signal(unsigned(bits_for(c.max_context) + 1))
        has_logits = Signal()
        record = Signal(8 * RECORD_BYTES)
        m.d.comb += [
            self.index.eq(index),
            at.eq(self.position + index),
            has_logits.eq(self.every_token | (index + 1 == self.count)),
        ]
        place = Signal(range(max(2, per_word)))
        m.d.comb += place.eq(at & (per_word - 1))
        strobes = Signal(c.word_bytes)
        for n in range(per_word):
            with m.If(place == n):
                m.d.comb += strobes.word_select(n, RECORD_BYTES).eq(-1)
        out = self.o.payload
        with m.FSM() as fsm:
            m.d.comb += self.idle.eq(fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.sync += index.eq(0)
                with m.If(self.start):
                    m.next = "READ"
            with m.State("READ"):
                m.next = "FORM"
            with m.State("FORM"):
                m.d.sync += record.eq(
                    Cat(
                        self.token_id,
                        Mux(has_logits, self.argmax, 0),
                        self.attention_map,
                        self.mlp_map,
                        at | Const(0, 32),
                        Const(0, 32),
                    )
                )
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    out.address.eq(self.base + (at >> exact_log2(per_word))),
                    out.data.eq(record.replicate(per_word)),
                    out.strobe.eq(strobes),
                ]
                with m.If(self.o.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "READ"
                    with m.If(index + 1 == self.count):
                        m.next = "IDLE"
        return m
