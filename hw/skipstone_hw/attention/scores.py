"""Scores: column sums of the array → base-2 fixed-point scores, their maximum, and the score
memory.

log2(e)/√head_dim is folded into W_q, so that a score is the exponent of two. The running maximum is
taken while QKᵀ streams by, and with it the largest V exponent among the tokens seen: both are
needed before the first probability (online normaliser; Milakov and Gimelshein, arXiv 1805.02867,
split over two streams).
"""

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS, EXPONENT_MIN, KV_BITS, SCORE_FRACTION_BITS

from ..array import Array, column_sum_shape
from ..numeric.pipeline import delay

__all__ = ["ScoreEntryLayout", "Scores", "heads_per_word"]

_SCORE_MIN, _SCORE_MAX = -(2**31), 2**31 - 1


def heads_per_word(config: CoreConfig) -> int:
    """KV heads in a word at the smallest head_dim, 32."""
    return config.word_bytes // 32


class ScoreEntryLayout(data.StructLayout):
    """What is remembered of a token between the K and the V stream, for one head group."""

    def __init__(self, config: CoreConfig):
        heads = heads_per_word(config)
        super().__init__(
            {
                "score": data.ArrayLayout(data.ArrayLayout(signed(32), heads), config.lanes),
                "value_exponent": data.ArrayLayout(signed(8), heads),
            }
        )


class Scores(wiring.Component):
    """Score finisher and score memory of one query token and head group.

    Takes a token's column sums in every cycle, as they leave the array; the score is in memory
    `PIPELINE_CYCLES` later. Lane i holds query head i of each KV head of the group.

    Members
    -------
    clear : In(1)
        Forget the maxima and start at token 0.
    valid : In(1)
        A K word enters the array in this cycle, with its exponents beside it.
    key_exponent, value_exponent : In
        Per head of the word.
    sums : In
        The array's column sums, `Array.PIPELINE_CYCLES` after `valid`.
    query_exponent : In
        Per lane and head.
    head_dim_log2 : In(3)
    count : Out
        Tokens written since `clear`.
    maximum : Out
        Largest score per lane and head.
    reference : Out
        Largest V exponent per head.
    address, read_enable : In; entry : Out
        Read port: the entry of token `address`, one cycle later.
    """

    PIPELINE_CYCLES = Array.PIPELINE_CYCLES + 3

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        heads = heads_per_word(c)
        per_head = data.ArrayLayout(signed(8), heads)
        super().__init__(
            {
                "clear": In(1),
                "valid": In(1),
                "key_exponent": In(per_head),
                "value_exponent": In(per_head),
                "sums": In(
                    data.ArrayLayout(data.ArrayLayout(column_sum_shape(c), c.columns), c.lanes)
                ),
                "query_exponent": In(data.ArrayLayout(per_head, c.lanes)),
                "head_dim_log2": In(3),
                "count": Out(unsigned(bits_for(c.max_context))),
                "maximum": Out(data.ArrayLayout(data.ArrayLayout(signed(32), heads), c.lanes)),
                "reference": Out(per_head),
                "address": In(range(c.max_context)),
                "read_enable": In(1),
                "entry": Out(ScoreEntryLayout(c)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        heads = heads_per_word(c)
        m.submodules.memory = entries = memory.Memory(
            shape=ScoreEntryLayout(c), depth=c.max_context, init=[]
        )
        write, read = entries.write_port(), entries.read_port()
        m.d.comb += [
            read.addr.eq(self.address),
            read.en.eq(self.read_enable),
            self.entry.eq(read.data),
        ]

        # Side-band data wait for the sums.
        wait = Array.PIPELINE_CYCLES
        valid0 = delay(m, self.valid, wait, name="valid", reset=True)
        key0 = delay(m, self.key_exponent, wait, name="key_exponent")
        value0 = delay(m, self.value_exponent, wait, name="value_exponent")

        valid1, valid2, valid3 = Signal(), Signal(), Signal()
        m.d.sync += [valid1.eq(valid0), valid2.eq(valid1), valid3.eq(valid2)]
        value1 = delay(m, value0, 1, name="value1")
        value2 = delay(m, value1, 1, name="value2")
        value3 = delay(m, value2, 1, name="value3")

        dot_shape = signed(ACTIVATION_BITS + KV_BITS + 8)
        for lane in range(c.lanes):
            dots = self._segment_sums(m, lane, dot_shape)
            for head in range(heads):
                name = f"_{lane}_{head}"
                # 1: the dot product and how far it moves.
                dot = Signal(dot_shape, name="dot" + name, reset_less=True)
                up = Signal(signed(10), name="up" + name, reset_less=True)
                with m.If(valid0):
                    m.d.sync += [
                        dot.eq(dots[head]),
                        up.eq(self.query_exponent[lane][head] + key0[head] + SCORE_FRACTION_BITS),
                    ]
                # 2: shifted. Left shifts beyond 36 saturate or leave zero.
                left = Signal(range(37), name="left" + name)
                right = Signal(range(64), name="right" + name)
                m.d.comb += [
                    left.eq(Mux(up > 36, 36, up)),
                    right.eq(Mux(up < -63, 63, -up)),
                ]
                moved = Signal(signed(dot_shape.width + 36), name="moved" + name, reset_less=True)
                with m.If(valid1):
                    m.d.sync += moved.eq(Mux(up >= 0, dot << left, dot >> right))
                # 3: saturated.
                score = Signal(signed(32), name="score" + name, reset_less=True)
                with m.If(valid2):
                    m.d.sync += score.eq(
                        Mux(
                            moved > _SCORE_MAX,
                            _SCORE_MAX,
                            Mux(moved < _SCORE_MIN, _SCORE_MIN, moved),
                        )
                    )
                m.d.comb += write.data.score[lane][head].eq(score)
                best = Signal(signed(32), name="best" + name, init=_SCORE_MIN)
                with m.If(self.clear):
                    m.d.sync += best.eq(_SCORE_MIN)
                with m.Elif(valid3 & (score > best)):
                    m.d.sync += best.eq(score)
                m.d.comb += self.maximum[lane][head].eq(best)

        for head in range(heads):
            largest = Signal(signed(8), name=f"reference_{head}", init=EXPONENT_MIN)
            with m.If(self.clear):
                m.d.sync += largest.eq(EXPONENT_MIN)
            with m.Elif(valid3 & (value3[head] > largest)):
                m.d.sync += largest.eq(value3[head])
            m.d.comb += self.reference[head].eq(largest)

        count = Signal.like(self.count)
        with m.If(self.clear):
            m.d.sync += count.eq(0)
        with m.Elif(valid3):
            m.d.sync += count.eq(count + 1)
        m.d.comb += [
            self.count.eq(count),
            write.en.eq(valid3),
            write.addr.eq(count),
            write.data.value_exponent.eq(value3),
        ]
        return m

    def _segment_sums(self, m, lane, shape):
        """Dot product of each head: neighbouring columns added as far as the head reaches."""
        c = self._config
        level = [self.sums[lane][column] for column in range(c.columns)]
        columns = 1
        by_head_dim = {}
        for log2 in (5, 6, 7):
            per_head = (1 << log2) * 2 // c.rows
            if per_head > c.columns:
                break
            while columns < per_head:
                level = [a + b for a, b in zip(level[::2], level[1::2], strict=True)]
                columns *= 2
            by_head_dim[log2] = level
        dots = [Signal(shape, name=f"sum_{lane}_{h}") for h in range(heads_per_word(c))]
        with m.Switch(self.head_dim_log2):
            for log2, values in by_head_dim.items():
                with m.Case(log2):
                    m.d.comb += [d.eq(v) for d, v in zip(dots, values, strict=False)]
        return dots
