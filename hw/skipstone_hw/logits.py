"""What becomes of logits: the argmax of each token, and their words in memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig

from .layouts import (
    ADDRESS_BITS,
    INDEX_BITS,
    FloatPairLayout,
    WriteLayout,
    piece_bytes,
    token_shape,
)
from .numeric.fp32 import fp_greater
from .numeric.pipeline import delay

__all__ = ["LogitsWriter"]


class _BestLayout(data.StructLayout):
    """The largest logit so far, and where it stands."""

    def __init__(self):
        super().__init__({"value": 32, "index": INDEX_BITS + 1, "valid": 1})


class LogitsWriter(wiring.Component):
    """Sink of logits.

    Takes the pairs of several tokens, interleaved in blocks of `columns` logits, one pair per
    cycle. The first of a token's largest logits below `vocabulary` is its argmax; it starts anew
    with pair 0, and can be read when `idle`. If asked to, writes each block, or as much of it as
    can be written at a time; while that cannot leave, the next is taken up to its last pair.

    Tested with all numbers of tokens, equal, negative and zero logits, stalls on both sides and
    full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : In(stream.Signature(FloatPairLayout(config)))
        Pairs of kind LOGITS; a block's pairs follow each other.
    vocabulary : In(32)
        Logits from this one on are padding: written, but never the argmax.
    write, all_rows : In(1)
        Write logits; into the row of their token rather than into row 0.
    base : In(32)
        Word address of row 0.
    row_words : In(16)
        Words from row to row.
    o : Out(stream.Signature(WriteLayout(config)))
    token : In(token_shape(config))
    argmax : Out(32)
        Of the `token` given in the cycle before.
    idle : Out(1)
        All that was accepted has left and can be read.
    """

    i: stream.Interface
    vocabulary: Signal
    write: Signal
    all_rows: Signal
    base: Signal
    row_words: Signal
    o: stream.Interface
    token: Signal
    argmax: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(FloatPairLayout(config))),
                "vocabulary": In(32),
                "write": In(1),
                "all_rows": In(1),
                "base": In(ADDRESS_BITS),
                "row_words": In(16),
                "o": Out(stream.Signature(WriteLayout(config))),
                "token": In(token_shape(config)),
                "argmax": Out(32),
                "idle": Out(1),
            }
        )
        # What is gathered and written at a time: a block, or a piece of a word if a block is more.
        self._gathered_log2 = exact_log2(min(4 * config.columns, piece_bytes(config)) // 8)

    def elaborate(self, platform):
        m = Module()
        pair = self.i.p
        position = pair.index[: self._gathered_log2]
        first, last = ~position.any(), position.all()
        taken = Signal()
        m.d.comb += taken.eq(self.i.valid & self.i.ready)
        comparing = self.build_argmax(m, pair, taken, first, last)
        waiting = self.build_writes(m, pair, taken, last)
        m.d.comb += self.idle.eq(~comparing & ~waiting)
        return m

    def build_argmax(self, m: Module, pair: data.View, taken, first, last):
        """Reduce pairs, pieces, then what is stored of a token; return whether one is under way."""
        # Stage 1: the better of the pair.
        better = Signal(_BestLayout(), reset_less=True)
        inside = [Cat(odd, pair.index) < self.vocabulary for odd in (0, 1)]
        # The second of a pair cannot count without the first.
        second = inside[1] & fp_greater(pair.value[1], pair.value[0])
        m.d.sync += [
            better.value.eq(Mux(second, pair.value[1], pair.value[0])),
            better.index.eq(Cat(second, pair.index)),
            better.valid.eq(inside[0]),
        ]
        valid_1 = delay(m, taken, 1, name="better_valid", reset=True)
        first_1 = delay(m, first, 1, name="better_first")
        last_1 = delay(m, last, 1, name="better_last")
        token_1 = delay(m, pair.token, 1, name="better_token")
        restart_1 = delay(m, (pair.index >> self._gathered_log2) == 0, 1, name="better_restart")

        # Stage 2: the best of the piece.
        best = Signal(_BestLayout(), reset_less=True)
        with m.If(valid_1 & (first_1 | _beats(better, best))):
            m.d.sync += best.eq(better)
        valid_2 = delay(m, valid_1 & last_1, 1, name="best_valid", reset=True)
        token_2 = delay(m, token_1, 1, name="best_token")
        restart_2 = delay(m, restart_1, 1, name="best_restart")

        # Stage 3: the best of the token.
        m.submodules.stored = stored = memory.Memory(
            shape=_BestLayout(), depth=1 << token_shape(self._config).width, init=[]
        )
        write = stored.write_port()
        compared = stored.read_port(transparent_for=(write,))
        asked = stored.read_port()
        m.d.comb += [
            compared.addr.eq(token_1),
            write.addr.eq(token_2),
            write.data.eq(best),
            write.en.eq(valid_2 & (restart_2 | _beats(best, compared.data))),
            asked.addr.eq(self.token),
            self.argmax.eq(asked.data.index),
        ]
        return valid_1 | valid_2

    def build_writes(self, m: Module, pair: data.View, taken, last):
        """Gather pieces and send them; returns whether one is under way."""
        c = self._config
        pairs = 1 << self._gathered_log2
        piece_log2 = exact_log2(piece_bytes(c) // 8)
        word_log2 = exact_log2(c.word_bytes // 8)
        places = 1 << (piece_log2 - self._gathered_log2)
        older = Signal(64 * (pairs - 1), reset_less=True)
        gathered = Signal(64 * pairs, reset_less=True)
        place = Signal(range(places), reset_less=True)
        where = Signal(ADDRESS_BITS, reset_less=True)
        piece = Signal.like(self.o.p.piece, reset_less=True)
        sending = Signal()

        full = Cat(older, pair.value.as_value())
        m.d.comb += self.i.ready.eq(~(last & self.write & sending & ~self.o.ready))
        with m.If(self.o.ready):
            m.d.sync += sending.eq(0)
        with m.If(taken):
            m.d.sync += older.eq(full[64:])
            with m.If(last & self.write):
                row = Mux(self.all_rows, pair.token * self.row_words, 0)
                m.d.sync += [
                    sending.eq(1),
                    gathered.eq(full),
                    where.eq(self.base + row + (pair.index >> word_log2)),
                    piece.eq(pair.index >> piece_log2),
                    place.eq(pair.index >> self._gathered_log2),
                ]
        m.d.comb += [
            self.o.valid.eq(sending),
            self.o.p.address.eq(where),
            self.o.p.piece.eq(piece),
            self.o.p.data.eq(gathered.replicate(places)),
        ]
        strobe = self.o.p.strobe
        for n in range(places):
            with m.If(place == n):
                m.d.comb += strobe.word_select(n, 8 * pairs).eq(-1)
        return sending


def _beats(challenger: data.View, champion: data.View):
    """Whether a later logit takes over."""
    return challenger.valid & (~champion.valid | fp_greater(challenger.value, champion.value))
