"""The KV writer: quantized keys and values of a head → two strobed writes into the packed store."""

from amaranth.hdl import Cat, Const, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.layout import KV_BLOCK_TOKENS

from .layouts import (
    ADDRESS_BITS,
    MantissaPairLayout,
    PairKind,
    WriteLayout,
    piece_bytes,
    token_shape,
)
from .memory.skid import Skid

__all__ = ["KvWriter"]


_BLOCK_LOG2 = exact_log2(KV_BLOCK_TOKENS)


class KvWriter(wiring.Component):
    """Writer of K and V heads into a layer's store (`skipstone.spec.layout.KvLayout`).

    Takes whole groups of KEY and VALUE pairs, one head of one token each, and makes two writes of
    each: its bytes, at their place among the head group's, and its exponent byte. Other kinds are
    accepted and dropped. One pair per cycle is sustained as long as a head's two writes leave while
    the next one comes; otherwise the pair after a whole head waits until that can move on. A head's
    first write is valid `PIPELINE_CYCLES` after its last pair was accepted, if none waits.

    Tested with every head size that fits a word, all places, stalls on both sides and at full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : In(stream.Signature(MantissaPairLayout(config)))
    o : Out(stream.Signature(WriteLayout(config)))
    head_dim_log2 : In(3)
        5 to 7, and no more than log2 of a word's bytes. This and the other inputs must not change
        until `idle`.
    store : In(ADDRESS_BITS)
        First word of the current layer's store.
    group_words : In(8)
        Words from one head group to the next in a block.
    block_words : In(24)
        Words from one block to the next.
    rank_token : Out(token_shape(config))
        Token whose head is inside.
    rank : In(16)
        Its rank in the layer, at most `RANK_CYCLES` later, so before its head is complete.
    idle : Out(1)
        Nothing is inside: no part of a head, no write that was not accepted.
    """

    PIPELINE_CYCLES = 3
    RANK_CYCLES = 3

    i: stream.Interface
    o: stream.Interface
    head_dim_log2: Signal
    store: Signal
    group_words: Signal
    block_words: Signal
    rank_token: Signal
    rank: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(MantissaPairLayout(config))),
                "o": Out(stream.Signature(WriteLayout(config))),
                "head_dim_log2": In(3),
                "store": In(ADDRESS_BITS),
                "group_words": In(8),
                "block_words": In(24),
                "rank_token": Out(token_shape(config)),
                "rank": In(16),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        word_bytes_log2 = exact_log2(c.word_bytes)
        piece_log2 = exact_log2(piece_bytes(c))

        # The head that comes in: its newest bytes are the highest.
        head_bytes = 1 << c.head_dim_log2[-1]
        gathered = Signal(8 * head_bytes, reset_less=True)
        begun = Signal()
        complete = Signal()
        moving = Signal()
        is_value = Signal(reset_less=True)
        exponent = Signal(8, reset_less=True)
        head = Signal(range(max(2, c.max_query // c.min_head_dim)), reset_less=True)
        # `ready` is a register: nobody's logic on it reaches the writer.
        m.submodules.pairs = pairs = Skid(shape=MantissaPairLayout(c))
        connect(m, flipped(self.i), pairs.i)
        pair = pairs.o.p
        wanted = (pair.kind == PairKind.KEY) | (pair.kind == PairKind.VALUE)
        m.d.comb += pairs.o.ready.eq(~complete | moving)
        with m.If(moving):
            m.d.sync += [complete.eq(0), begun.eq(0)]
        with m.If(pairs.o.valid & pairs.o.ready & wanted):
            m.d.sync += [
                gathered.eq(Cat(gathered[16:], pair.mantissa[0][:8], pair.mantissa[1][:8])),
                begun.eq(1),
                complete.eq(pair.last),
                is_value.eq(pair.kind == PairKind.VALUE),
                exponent.eq(pair.exponent),
                head.eq(pair.index >> (self.head_dim_log2 - 1).as_unsigned()[:3]),
                self.rank_token.eq(pair.token),
            ]

        at, block = self.rank[:_BLOCK_LOG2], self.rank[_BLOCK_LOG2:]

        # What depends on the head size: places and shifts, one alternative each.
        copies = Signal(8 << piece_log2)
        strobe = Signal(1 << piece_log2)
        first_byte = Signal(word_bytes_log2)
        places_log2 = Signal(range(word_bytes_log2 + 1))
        exponent_row = Signal(range(KV_BLOCK_TOKENS))
        slot = Signal(c.head_dim_log2[-1] - 1)
        place = Signal(len(head))
        with m.Switch(self.head_dim_log2):
            for log2 in c.head_dim_log2:
                with m.Case(log2):
                    repeats = c.word_bytes >> log2
                    m.d.comb += [
                        copies.eq(gathered[-(8 << log2) :].replicate(1 << (piece_log2 - log2))),
                        place.eq(head & (repeats - 1)),
                        first_byte.eq(place << log2),
                        strobe.eq(((1 << (1 << log2)) - 1) << first_byte[:piece_log2]),
                        places_log2.eq(word_bytes_log2 - log2),
                        exponent_row.eq(at >> (log2 - 1)),
                        slot.eq(self.rank & ((1 << (log2 - 1)) - 1)),
                    ]

        # Addresses settle while the head comes in: it has at least 16 pairs.
        group_offset = Signal(ADDRESS_BITS, reset_less=True)
        block_offset = Signal(ADDRESS_BITS, reset_less=True)
        group = Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += [
            group_offset.eq((head >> places_log2) * self.group_words),
            block_offset.eq(block * self.block_words),
            group.eq(self.store + group_offset + block_offset),
        ]

        # Two writes: the head's bytes, then, from registers of its own, its exponent.
        exponent_waits = Signal()
        exponent_write = Signal(
            data.StructLayout(
                {"address": ADDRESS_BITS, "byte": 8, "at": unsigned(word_bytes_log2)}
            ),
            reset_less=True,
        )
        free = ~self.o.valid | self.o.ready
        m.d.comb += moving.eq(complete & free & ~exponent_waits)
        with m.If(free):
            m.d.sync += self.o.valid.eq(moving | exponent_waits)
            with m.If(exponent_waits):
                m.d.sync += [
                    exponent_waits.eq(0),
                    self.o.p.address.eq(exponent_write.address),
                    self.o.p.piece.eq(exponent_write.at >> piece_log2),
                    self.o.p.data.eq(exponent_write.byte.replicate(1 << piece_log2)),
                    self.o.p.strobe.eq(1 << exponent_write.at[:piece_log2]),
                ]
            with m.Else():
                m.d.sync += [
                    self.o.p.address.eq(group + Cat(at, is_value)),
                    self.o.p.piece.eq(first_byte >> piece_log2),
                    self.o.p.data.eq(copies),
                    self.o.p.strobe.eq(strobe),
                ]
        with m.If(moving):
            side = is_value << places_log2
            m.d.sync += [
                exponent_waits.eq(1),
                exponent_write.address.eq(group + Cat(exponent_row, Const(2, 2))),
                exponent_write.byte.eq(exponent),
                exponent_write.at.eq((slot << (places_log2 + 1)) | side | place),
            ]
        m.d.comb += self.idle.eq(~(pairs.o.valid | begun | exponent_waits | self.o.valid))
        return m
