"""EMBED: token records in, embedding rows into the residual stream, RoPE rows into their buffer."""

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2
from skipstone.spec.config import CoreConfig
from skipstone.spec.records import RECORD_BYTES

from .epilogue import RopeWriteSignature
from .layouts import (
    ADDRESS_BITS,
    PairKind,
    PairLayout,
    ReadCommandLayout,
    ReadKind,
    token_shape,
)

__all__ = ["ONE", "Embed", "InputRecordLayout", "TablesLayout"]

ONE = 0x3F800000
"""1.0 in binary32."""
_FP16_UNIT = -24
"""Exponent of the smallest subnormal FP16 number."""


class TablesLayout(data.StructLayout):
    """The memory map fixed by TABLES."""

    def __init__(self):
        super().__init__(
            {
                "embedding": ADDRESS_BITS,
                "embedding_words": 16,
                "rope": ADDRESS_BITS,
                "rope_words": 16,
                "records": ADDRESS_BITS,
                "vocabulary": 32,
            }
        )


class InputRecordLayout(data.StructLayout):
    """An input record (`skipstone.spec.records.INPUT_RECORD`)."""

    def __init__(self):
        super().__init__(
            {"token": 32, "flags": 32, "attention": 64, "mlp": 64, "reserved": 64}
        )


class Embed(wiring.Component):
    """Loader of a chunk.

    After `start`: the input records (unless the token is fed back), then for each token its embedding row,
    leaving as EMBED pairs of exact fixed-point numbers, and its RoPE row. All rows are requested ahead of
    their use.

    Members
    -------
    start, fed_back : In(1)
        Pulse; whether the chunk is the single token `token`.
    input_address, token, position, count, tables, hidden_pairs, head_dim_log2 : In
    commands, words : streams to and from the reader
    o : stream of PairLayout
    rope_write : write port of the RoPE buffer
    record, record_index, record_valid : Out
        Each token's record as it arrives.
    token_index : In; token_id : Out
        The chunk's token ids, one cycle after the index.
    bad_token : Out(1)
        Pulse: a token id at or beyond the vocabulary; nothing of it is read.
    idle : Out(1)
    """

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "start": In(1),
                "fed_back": In(1),
                "input_address": In(ADDRESS_BITS),
                "token": In(32),
                "position": In(unsigned(bits_for(c.max_context))),
                "count": In(unsigned(bits_for(c.max_chunk))),
                "tables": In(TablesLayout()),
                "hidden_pairs": In(16),
                "head_dim_log2": In(3),
                "commands": Out(stream.Signature(ReadCommandLayout())),
                "words": In(stream.Signature(c.word_bits)),
                "o": Out(stream.Signature(PairLayout(c))),
                "rope_write": Out(RopeWriteSignature(c)),
                "record": Out(InputRecordLayout()),
                "record_index": Out(token_shape(c)),
                "record_valid": Out(1),
                "token_index": In(token_shape(c)),
                "token_id": Out(32),
                "bad_token": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        records_per_word = c.word_bytes // RECORD_BYTES
        m.submodules.tokens = tokens = memory.Memory(shape=32, depth=c.max_chunk, init=[])
        write = tokens.write_port()
        read, report = tokens.read_port(), tokens.read_port()
        m.d.comb += [report.addr.eq(self.token_index), self.token_id.eq(report.data)]
        m.d.comb += [
            write.addr.eq(self.record_index),
            write.data.eq(self.record.token),
            write.en.eq(self.record_valid),
        ]

        rows = Signal()  # all records are in: rows may be requested
        consumed = Signal()  # the last row went by
        index = Signal(range(c.max_chunk + 1))
        out = self.commands
        row_address, rope_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [out.payload.kind.eq(ReadKind.OTHER), read.addr.eq(index)]
        active, input_address = Signal(), Signal(ADDRESS_BITS)
        m.d.comb += self.idle.eq(~active)

        with m.FSM(name="request"):
            with m.State("IDLE"):
                m.d.sync += [index.eq(0), rows.eq(0)]
                with m.If(self.start):
                    m.d.sync += [active.eq(1), input_address.eq(self.input_address)]
                    m.next = "RECORDS"
                    with m.If(self.fed_back):
                        m.next = "FED_BACK"
            with m.State("FED_BACK"):
                m.d.comb += [self.record_valid.eq(1), self.record.token.eq(self.token)]
                m.next = "SETTLE"
            with m.State("RECORDS"):
                words = (self.count + records_per_word - 1) >> exact_log2(records_per_word)
                m.d.comb += [
                    out.valid.eq(1),
                    out.payload.address.eq(input_address),
                    out.payload.words.eq(words),
                ]
                with m.If(out.ready):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"):
                m.d.comb += [self.record_valid.eq(self.words.valid), self.record_index.eq(index)]
                place = Signal(range(max(2, records_per_word)))
                m.d.comb += place.eq(index & (records_per_word - 1))
                m.d.comb += self.record.eq(self.words.payload.word_select(place, 8 * RECORD_BYTES))
                with m.If(self.words.valid):
                    final = index + 1 == self.count
                    m.d.comb += self.words.ready.eq(final | (place == records_per_word - 1))
                    m.d.sync += index.eq(index + 1)
                    with m.If(final):
                        m.d.sync += index.eq(0)
                        m.next = "SETTLE"
            with m.State("SETTLE"):  # the last id is being written
                m.d.sync += rope_address.eq(
                    self.tables.rope + self.position * self.tables.rope_words
                )
                m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.d.sync += rows.eq(1)
                m.next = "LOCATE"
            with m.State("LOCATE"):
                m.d.sync += row_address.eq(
                    self.tables.embedding + read.data[:24] * self.tables.embedding_words
                )
                m.next = "ROW"
                with m.If(read.data >= self.tables.vocabulary):
                    m.d.comb += self.bad_token.eq(1)
                    m.next = "STOPPED"
            with m.State("STOPPED"):
                pass
            with m.State("ROW"):
                m.d.comb += [
                    out.valid.eq(1),
                    out.payload.address.eq(row_address),
                    out.payload.words.eq(self.tables.embedding_words),
                ]
                with m.If(out.ready):
                    m.next = "ROPE"
            with m.State("ROPE"):
                m.d.comb += [
                    out.valid.eq(1),
                    out.payload.address.eq(rope_address),
                    out.payload.words.eq(self.tables.rope_words),
                ]
                with m.If(out.ready):
                    m.d.sync += rope_address.eq(rope_address + self.tables.rope_words)
                    m.d.sync += index.eq(index + 1)
                    m.next = "LOOK_UP"
                    with m.If(index + 1 == self.count):
                        m.next = "WAIT"
            with m.State("WAIT"):
                with m.If(consumed):
                    m.d.sync += [active.eq(0), rows.eq(0)]
                    m.next = "IDLE"

        self._elaborate_rows(m, rows, consumed)
        return m

    def _elaborate_rows(self, m, rows, consumed):
        """Embedding words → pairs; RoPE words → the RoPE buffer."""
        c = self._config
        word = self.words.payload
        token = Signal(range(c.max_chunk + 1))
        pair = Signal(16)
        pairs_per_word, angles_per_word = c.word_bytes // 4, c.word_bytes // 8
        half = Signal(16)
        m.d.comb += half.eq((1 << (self.head_dim_log2 - 1).as_unsigned()[:3]) - 1)

        place = Signal(range(pairs_per_word))
        m.d.comb += place.eq(pair)
        halves = Signal(32)
        m.d.comb += halves.eq(word.word_select(place, 32))
        for n in range(2):
            number = halves[16 * n :][:16]
            field = number[10:15]
            mantissa = Cat(number[:10], field.any())
            shift = Mux(field.any(), field - 1, 0)[:5]
            magnitude = Signal(41, name=f"magnitude_{n}")
            m.d.comb += magnitude.eq(mantissa << shift)
            m.d.comb += self.o.payload.accumulator[n].eq(Mux(number[15], -magnitude, magnitude))
        m.d.comb += [
            self.o.payload.exponent.eq(_FP16_UNIT),
            self.o.payload.scale.eq(ONE),
            self.o.payload.kind.eq(PairKind.EMBED),
            self.o.payload.token.eq(token),
            self.o.payload.index.eq(pair),
        ]
        angle = Signal(64)
        angle_place = Signal(range(max(2, angles_per_word)))
        m.d.comb += [
            angle_place.eq(pair & (angles_per_word - 1)),
            angle.eq(word.word_select(angle_place, 64)),
            self.rope_write.token.eq(token),
            self.rope_write.index.eq(pair),
            self.rope_write.cos.eq(angle[:32]),
            self.rope_write.sin.eq(angle[32:]),
        ]

        with m.FSM(name="rows"):
            with m.State("EMBEDDING"):
                with m.If(rows & (token != self.count)):
                    final = pair + 1 == self.hidden_pairs
                    m.d.comb += self.o.valid.eq(self.words.valid)
                    with m.If(self.o.valid & self.o.ready):
                        m.d.comb += self.words.ready.eq(final | (place == pairs_per_word - 1))
                        m.d.sync += pair.eq(pair + 1)
                        with m.If(final):
                            m.d.sync += pair.eq(0)
                            m.next = "ANGLES"
                with m.Elif(rows):
                    m.d.comb += consumed.eq(1)
                    m.d.sync += token.eq(0)
            with m.State("ANGLES"):
                final = pair == half
                m.d.comb += self.rope_write.en.eq(self.words.valid)
                with m.If(self.words.valid):
                    m.d.comb += self.words.ready.eq(final | (angle_place == angles_per_word - 1))
                    m.d.sync += pair.eq(pair + 1)
                    with m.If(final):
                        m.d.sync += [pair.eq(0), token.eq(token + 1)]
                        m.next = "EMBEDDING"


class Repass(wiring.Component):
    """Source of zero outputs: the residual stream of a token passes the reductions once more.

    x ← x + 0 leaves x as it is, and its router products are formed on the way: for tokens that skipped
    everything since the router vectors were loaded.

    Members
    -------
    start : In(1); token, hidden_pairs : In
    o : stream of PairLayout
    idle : Out(1)
    """

    def __init__(self, *, config: CoreConfig):
        super().__init__(
            {
                "start": In(1),
                "token": In(token_shape(config)),
                "hidden_pairs": In(16),
                "o": Out(stream.Signature(PairLayout(config))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left, index = Signal(16), Signal(16)
        m.d.comb += [
            self.idle.eq(left == 0),
            self.o.valid.eq(left != 0),
            self.o.payload.scale.eq(Const(ONE, 32)),
            self.o.payload.kind.eq(PairKind.RESIDUAL),
            self.o.payload.token.eq(self.token),
            self.o.payload.index.eq(index),
        ]
        with m.If(self.start):
            m.d.sync += [left.eq(self.hidden_pairs), index.eq(0)]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [left.eq(left - 1), index.eq(index + 1)]
        return m
