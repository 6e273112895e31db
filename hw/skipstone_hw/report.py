"""NEXT's first half: the output record of each token of the chunk."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.records import RECORD_BYTES

from .layouts import ADDRESS_BITS, WriteLayout, piece_bytes, token_shape

__all__ = ["OutputRecordLayout", "Report"]


class OutputRecordLayout(data.StructLayout):
    """An output record (`skipstone.spec.records.OUTPUT_RECORD`)."""

    def __init__(self):
        super().__init__(
            {
                "token": 32,
                "next_token": 32,
                "attention": 64,
                "mlp": 64,
                "position": 32,
                "reserved": 32,
            }
        )


class Report(wiring.Component):
    """Writer of output records, each into its place in a memory word.

    After `start`, one write per token: offered every third cycle, waiting for `o`.

    Tested with chunks of all lengths at all places in a word, stalled and at full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    start : In(1)
        Pulse while `idle`.
    base : In(ADDRESS_BITS)
        Word of the record of position 0.
    position : In(range(max_context + 1))
        Of the chunk's first token.
    count : In(range(max_chunk + 1))
        Tokens of the chunk, at least 1.
    every_token : In(1)
        Every token has an argmax, not only the last; without one, a record says 0.
    index : Out(token_shape(config))
        The token whose fields are wanted; they are taken in the second cycle of an index.
    token_id, argmax : In(32)
    attention_map, mlp_map : In(64)
    o : Out(stream.Signature(WriteLayout(config)))
    idle : Out(1)
    """

    start: Signal
    base: Signal
    position: Signal
    count: Signal
    every_token: Signal
    index: Signal
    token_id: Signal
    argmax: Signal
    attention_map: Signal
    mlp_map: Signal
    o: stream.Interface
    idle: Signal

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
        per_piece = piece_bytes(c) // RECORD_BYTES
        per_word = c.word_bytes // RECORD_BYTES
        index = Signal(range(c.max_chunk + 1))
        last = Signal()
        position = Signal(unsigned(bits_for(c.max_context + c.max_chunk)))
        record = Signal(OutputRecordLayout(), reset_less=True)
        m.d.comb += [
            self.index.eq(index),
            last.eq(index + 1 == self.count),
            position.eq(self.position + index),
        ]

        place = Signal(range(per_piece))
        m.d.comb += place.eq(position)
        strobe = self.o.payload.strobe
        for n in range(per_piece):
            with m.If(place == n):
                m.d.comb += strobe.word_select(n, RECORD_BYTES).eq(-1)
        m.d.comb += [
            self.o.payload.address.eq(self.base + (position >> exact_log2(per_word))),
            self.o.payload.piece.eq(position >> exact_log2(per_piece)),
            self.o.payload.data.eq(record.as_value().replicate(per_piece)),
        ]

        with m.FSM() as fsm:
            m.d.comb += self.idle.eq(fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.sync += index.eq(0)
                with m.If(self.start):
                    m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.next = "FORM"
            with m.State("FORM"):
                m.d.sync += [
                    record.token.eq(self.token_id),
                    record.next_token.eq(Mux(self.every_token | last, self.argmax, 0)),
                    record.attention.eq(self.attention_map),
                    record.mlp.eq(self.mlp_map),
                    record.position.eq(position),
                ]
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "LOOK_UP"
                    with m.If(last):
                        m.next = "IDLE"
        return m
