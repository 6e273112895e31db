"""EMBED: token records in, embedding rows into the residual stream, RoPE rows into their buffer."""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig

from .epilogue import RopeWriteSignature
from .layouts import (
    ADDRESS_BITS,
    PairKind,
    PairLayout,
    ReadCommandLayout,
    ReadKind,
    token_shape,
)
from .memory.skid import Skid
from .numeric.fp32 import ONE
from .parts import PartsSignature, parts_per_word

__all__ = ["Embed", "InputRecordLayout", "TablesLayout"]

_FP16_UNIT = -24
"""Exponent of the smallest subnormal FP16 number."""
_FP16_SHIFT_MAX = 30
"""Exponent of FP16's infinity above the subnormals': finite numbers move less."""
_FIXED_BITS = 11 + _FP16_SHIFT_MAX + 1
"""Bits of a finite FP16 number in these units, with its sign."""
_TOKEN_BITS = 24
"""Bits of a token id that can be looked up."""


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
        super().__init__({"token": 32, "flags": 32, "attention": 64, "mlp": 64, "reserved": 64})


class _PlacedLayout(data.StructLayout):
    """Two neighbouring elements of a token's row."""

    def __init__(self, config: CoreConfig, shape: Shape):
        super().__init__(
            {
                "values": data.ArrayLayout(shape, 2),
                "token": token_shape(config),
                "index": 16,
            }
        )


class Embed(wiring.Component):
    """Loader of a chunk.

    After `start`: the input records (unless the token is fed back), then for each token its
    embedding row, leaving as EMBED pairs of exact fixed-point numbers, and its RoPE row. Rows are
    requested ahead of their use, as far as `commands` lets them. One pair or one angle per cycle;
    pairs stall with `o`, angles never.

    A token id at or beyond the vocabulary is reported and not looked up; the unit then waits for
    a reset.

    Tested with chunks of all lengths, all head sizes, every kind of finite FP16 number, tokens out
    of range; all streams stalled at random and at full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    start : In(1)
        Pulse while `idle`.
    fed_back : In(1)
        With `start`: the chunk is the single token `token` and has no record.
    input_address : In(ADDRESS_BITS)
        With `start`: word of the first input record.
    token : In(32)
    position : In(range(max_context + 1))
        Of the chunk's first token.
    count : In(range(max_chunk + 1))
        Tokens of the chunk, at least 1.
    tables : In(TablesLayout())
    hidden_pairs : In(16)
        Pairs of an embedding row.
    head_dim_log2 : In(3)
        5 to 7.
    commands : Out(stream.Signature(ReadCommandLayout()))
    words : In(PartsSignature(config))
        The words of these reads, in order.
    o : Out(stream.Signature(PairLayout(config)))
    rope_write : Out(RopeWriteSignature(config))
        To the RoPE buffer.
    record : Out(InputRecordLayout())
    record_index : Out(token_shape(config))
    record_valid : Out(1)
        `record` is that of token `record_index`; of a token fed back, all but the id is zero.
    token_index : In(token_shape(config))
    token_id : Out(32)
        Id of token `token_index`, one cycle later.
    bad_token : Out(1)
        Pulse: a token id is out of range.
    idle : Out(1)
        All of the chunk has left.
    """

    start: Signal
    fed_back: Signal
    input_address: Signal
    token: Signal
    position: Signal
    count: Signal
    tables: data.View
    hidden_pairs: Signal
    head_dim_log2: Signal
    commands: stream.Interface
    words: wiring.PureInterface
    o: stream.Interface
    rope_write: wiring.PureInterface
    record: data.View
    record_index: Signal
    record_valid: Signal
    token_index: Signal
    token_id: Signal
    bad_token: Signal
    idle: Signal

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
                "words": In(PartsSignature(c)),
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
        m.submodules.tokens = tokens = memory.Memory(shape=32, depth=c.max_chunk, init=[])
        write, look_up, report = tokens.write_port(), tokens.read_port(), tokens.read_port()
        m.d.comb += [
            write.addr.eq(self.record_index),
            write.data.eq(self.record.token),
            write.en.eq(self.record_valid),
            report.addr.eq(self.token_index),
            self.token_id.eq(report.data),
        ]
        rows = Signal()  # all records are in: words are rows from now on
        consumed = Signal()  # the last row went by
        active = Signal()  # a chunk is under way
        self.build_rows(m, active, rows, consumed)
        self.build_requests(m, look_up, active, rows, consumed)
        return m

    def build_requests(
        self, m: Module, look_up: memory.ReadPort, active: Signal, rows: Signal, consumed: Signal
    ) -> None:
        """Records first; then, token for token, the rows' addresses and reads."""
        c = self._config
        per_word = parts_per_word(c)
        out, tables = self.commands, self.tables
        index = Signal(range(c.max_chunk + 1))
        last = Signal()
        input_at, row_at, rope_at = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        place = Signal(range(max(2, per_word)))
        m.d.comb += [
            last.eq(index + 1 == self.count),
            look_up.addr.eq(index),
            place.eq(index & (per_word - 1)),
            out.payload.kind.eq(ReadKind.OTHER),
        ]
        with m.FSM(name="request"):
            with m.State("IDLE"):
                m.d.sync += [index.eq(0), rows.eq(0)]
                with m.If(self.start):
                    m.d.sync += [active.eq(1), input_at.eq(self.input_address)]
                    m.next = "RECORDS"
                    with m.If(self.fed_back):
                        m.next = "FED_BACK"
            with m.State("FED_BACK"):
                m.d.comb += [self.record_valid.eq(1), self.record.token.eq(self.token)]
                m.next = "SETTLE"
            with m.State("RECORDS"):
                m.d.comb += [
                    out.valid.eq(1),
                    out.payload.address.eq(input_at),
                    out.payload.words.eq((self.count + (per_word - 1)) >> exact_log2(per_word)),
                ]
                with m.If(out.ready):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"):
                m.d.comb += [
                    self.words.at.eq(place),
                    self.record.eq(self.words.payload),
                    self.record_index.eq(index),
                    self.record_valid.eq(self.words.valid),
                ]
                with m.If(self.words.valid):
                    m.d.comb += self.words.ready.eq(last | (place == per_word - 1))
                    m.d.sync += index.eq(index + 1)
                    with m.If(last):
                        m.d.sync += index.eq(0)
                        m.next = "SETTLE"
            with m.State("SETTLE"):  # the last id is being written
                m.d.sync += rope_at.eq(tables.rope + self.position * tables.rope_words)
                m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.d.sync += rows.eq(1)
                m.next = "LOCATE"
            with m.State("LOCATE"):
                m.d.sync += row_at.eq(
                    tables.embedding + look_up.data[:_TOKEN_BITS] * tables.embedding_words
                )
                m.next = "ROW"
                with m.If(look_up.data >= tables.vocabulary):
                    m.d.comb += self.bad_token.eq(1)
                    m.next = "STOPPED"
            with m.State("STOPPED"):
                pass
            with m.State("ROW"):
                m.d.comb += [
                    out.valid.eq(1),
                    out.payload.address.eq(row_at),
                    out.payload.words.eq(tables.embedding_words),
                ]
                with m.If(out.ready):
                    m.next = "ROPE"
            with m.State("ROPE"):
                m.d.comb += [
                    out.valid.eq(1),
                    out.payload.address.eq(rope_at),
                    out.payload.words.eq(tables.rope_words),
                ]
                with m.If(out.ready):
                    m.d.sync += [
                        rope_at.eq(rope_at + tables.rope_words),
                        index.eq(index + 1),
                    ]
                    m.next = "LOOK_UP"
                    with m.If(last):
                        m.next = "WAIT"
            with m.State("WAIT"), m.If(consumed):
                m.d.sync += [active.eq(0), rows.eq(0)]
                m.next = "IDLE"

    def build_rows(self, m: Module, active: Signal, rows: Signal, consumed: Signal) -> None:
        """Embedding words → pairs; RoPE words → the RoPE buffer."""
        c = self._config
        token = Signal(range(c.max_chunk + 1))
        pair = Signal(16)
        # Selecting from a word and converting from FP16 are a cycle each.
        m.submodules.selected = selected = Skid(shape=_PlacedLayout(c, unsigned(16)))
        m.submodules.converted = converted = Skid(shape=_PlacedLayout(c, signed(_FIXED_BITS)))
        m.d.comb += self.idle.eq(~active & ~selected.o.valid & ~converted.o.valid)

        pairs_per_word = c.word_bytes // 4
        pair_place = Signal(range(pairs_per_word))
        m.d.comb += [
            pair_place.eq(pair),
            self.words.at.eq(pair_place >> 3),
            selected.i.payload.values.as_value().eq(
                self.words.payload.word_select(pair_place[:3], 32)
            ),
            selected.i.payload.token.eq(token),
            selected.i.payload.index.eq(pair),
            selected.o.ready.eq(converted.i.ready),
            converted.i.valid.eq(selected.o.valid),
            converted.i.payload.token.eq(selected.o.payload.token),
            converted.i.payload.index.eq(selected.o.payload.index),
            converted.o.ready.eq(self.o.ready),
            self.o.valid.eq(converted.o.valid),
            self.o.payload.exponent.eq(_FP16_UNIT),
            self.o.payload.scale.eq(ONE),
            self.o.payload.kind.eq(PairKind.EMBED),
            self.o.payload.token.eq(converted.o.payload.token),
            self.o.payload.index.eq(converted.o.payload.index),
        ]
        for n in range(2):
            half = selected.o.payload.values[n]
            fraction, field, sign = half[:10], half[10:15], half[15]
            normal = field.any()
            magnitude = Signal(_FIXED_BITS - 1, name=f"magnitude_{n}")
            m.d.comb += [
                magnitude.eq(Cat(fraction, normal) << Mux(normal, field - 1, 0)[:5]),
                converted.i.payload.values[n].eq(Mux(sign, -magnitude, magnitude)),
                self.o.payload.accumulator[n].eq(converted.o.payload.values[n]),
            ]

        angles_per_word = c.word_bytes // 8
        angle_place = Signal(range(angles_per_word))
        angle = Signal(data.ArrayLayout(unsigned(32), 2))
        half_log2, last_angle = Signal(3), Signal(6)
        m.d.sync += last_angle.eq((1 << half_log2) - 1)
        m.d.comb += [
            half_log2.eq(self.head_dim_log2 - 1),
            angle_place.eq(pair),
            angle.eq(self.words.payload.word_select(angle_place[:2], 64)),
            self.rope_write.token.eq(token),
            self.rope_write.index.eq(pair),
            self.rope_write.cos.eq(angle[0]),
            self.rope_write.sin.eq(angle[1]),
        ]

        final = Signal()
        with m.FSM(name="rows"):
            with m.State("EMBEDDING"):
                with m.If(rows & (token != self.count)):
                    m.d.comb += [
                        final.eq(pair + 1 == self.hidden_pairs),
                        selected.i.valid.eq(self.words.valid),
                    ]
                    with m.If(selected.i.valid & selected.i.ready):
                        m.d.comb += self.words.ready.eq(final | (pair_place == pairs_per_word - 1))
                        m.d.sync += pair.eq(pair + 1)
                        with m.If(final):
                            m.d.sync += pair.eq(0)
                            m.next = "ANGLES"
                with m.Elif(rows):
                    m.d.comb += consumed.eq(1)
                    m.d.sync += token.eq(0)
            with m.State("ANGLES"):
                m.d.comb += [
                    self.words.at.eq(angle_place >> 2),
                    final.eq(pair == last_angle),
                    self.rope_write.en.eq(self.words.valid),
                ]
                with m.If(self.words.valid):
                    m.d.comb += self.words.ready.eq(final | (angle_place == angles_per_word - 1))
                    m.d.sync += pair.eq(pair + 1)
                    with m.If(final):
                        m.d.sync += [pair.eq(0), token.eq(token + 1)]
                        m.next = "EMBEDDING"


class Repass(wiring.Component):
    """Source of zero outputs: the residual stream of a token passes the reductions once more.

    x ← x + 0 leaves x as it is, and its router products are formed on the way: for tokens that
    skipped everything since the router vectors were loaded. One pair per cycle, the first in the
    cycle after `start`. Tested with vectors of all lengths, stalled and at full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    start : In(1)
        Pulse while `idle`.
    token : In(token_shape(config))
        Must not change before `idle`.
    hidden_pairs : In(16)
        Pairs of a residual vector.
    o : Out(stream.Signature(PairLayout(config)))
    idle : Out(1)
        All pairs have left.
    """

    start: Signal
    token: Signal
    hidden_pairs: Signal
    o: stream.Interface
    idle: Signal

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
            self.o.payload.scale.eq(ONE),
            self.o.payload.kind.eq(PairKind.RESIDUAL),
            self.o.payload.token.eq(self.token),
            self.o.payload.index.eq(index),
        ]
        with m.If(self.start):
            m.d.sync += [left.eq(self.hidden_pairs), index.eq(0)]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [left.eq(left - 1), index.eq(index + 1)]
        return m
