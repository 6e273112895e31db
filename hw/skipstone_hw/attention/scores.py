"""Scores: column sums of the array → base-2 fixed-point scores, their maximum, and their memory.

log2(e)/√head_dim is folded into W_q, so that a score is the exponent of two. The running maximum is
taken while QKᵀ streams by, and with it the largest V exponent among the tokens seen: both are
needed before the first probability (online normaliser; Milakov and Gimelshein, arXiv 1805.02867,
split over two streams).
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import HEAD_DIM_LOG2, CoreConfig
from skipstone.spec.formats import EXPONENT_MIN, SCORE_FRACTION_BITS, SCORE_MAX

from ..array import PRODUCT_BITS, Array, column_sum_shape
from ..leaf import Leaf
from ..numeric.pipeline import delay

__all__ = [
    "ScoreCountLayout",
    "ScoreEntryLayout",
    "Scores",
]

_SCORE_MIN = -SCORE_MAX - 1
_SCORE_BITS = 32
_DOT_BITS = PRODUCT_BITS + HEAD_DIM_LOG2[-1]
_LEFT_MAX = 36
"""A dot product moved up so far is zero or beyond the largest score."""
_RIGHT_MAX = 63


class ScoreEntryLayout(data.StructLayout):
    """What some lanes remember of a token between the K and the V stream, for one head group."""

    def __init__(self, config: CoreConfig, lanes: int):
        heads = config.heads_per_word
        super().__init__(
            {
                "score": data.ArrayLayout(data.ArrayLayout(signed(_SCORE_BITS), heads), lanes),
                "value_exponent": data.ArrayLayout(signed(8), heads),
            }
        )


class ScoreCountLayout(data.ArrayLayout):
    """Tokens of each stream, memory and history. The memory's stand at addresses 0, 1, …; the
    history's at the last address and downwards.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(unsigned(bits_for(config.max_context)), 2)


class _ScoreSignature(wiring.Signature):
    """The members of `_Score`."""

    def __init__(self):
        super().__init__(
            {
                "clear": In(1),
                "valid": In(4),
                "dot": In(signed(_DOT_BITS)),
                "query_exponent": In(signed(8)),
                "key_exponent": In(signed(8)),
                "score": Out(signed(_SCORE_BITS)),
                "largest": Out(signed(_SCORE_BITS)),
            }
        )


class _Score(wiring.Component):
    """Score of one lane and head, and the running maximum.

    Takes a dot product and its exponents with valid[0]; the score, dot · 2^exponent in fixed point,
    floored and saturated, is there three cycles later, with valid[3].
    """

    clear: Signal
    valid: Signal
    dot: Signal
    query_exponent: Signal
    key_exponent: Signal
    score: Signal
    largest: Signal

    def __init__(self):
        super().__init__(_ScoreSignature())

    def elaborate(self, platform):
        m = Module()
        # 1: the dot product and how far it moves up.
        dot1 = Signal.like(self.dot, name="dot1", reset_less=True)
        up1 = Signal(signed(10), reset_less=True)
        with m.If(self.valid[0]):
            m.d.sync += [
                dot1.eq(self.dot),
                up1.eq(self.query_exponent + self.key_exponent + SCORE_FRACTION_BITS),
            ]
        # 2: moved.
        left, right = Signal(range(_LEFT_MAX + 1)), Signal(range(_RIGHT_MAX + 1))
        moved2 = Signal(signed(_DOT_BITS + _LEFT_MAX), reset_less=True)
        m.d.comb += [
            left.eq(Mux(up1 > _LEFT_MAX, _LEFT_MAX, up1)),
            right.eq(Mux(up1 < -_RIGHT_MAX, _RIGHT_MAX, -up1)),
        ]
        with m.If(self.valid[1]):
            m.d.sync += moved2.eq(Mux(up1 >= 0, dot1 << left, dot1 >> right))
        # 3: saturated.
        score3 = Signal(signed(_SCORE_BITS), reset_less=True)
        with m.If(self.valid[2]):
            m.d.sync += score3.eq(moved2)
            with m.If(moved2 > SCORE_MAX):
                m.d.sync += score3.eq(SCORE_MAX)
            with m.Elif(moved2 < _SCORE_MIN):
                m.d.sync += score3.eq(_SCORE_MIN)
        m.d.comb += [
            self.score.eq(score3),
            self.largest.eq(_largest(m, "largest", score3, _SCORE_MIN, self.clear, self.valid[3])),
        ]
        return m


def _largest(m: Module, name: str, value: Value, least: int, clear: Value, valid: Value) -> Signal:
    """Running maximum since `clear`."""
    largest = Signal(value.shape(), name=name, reset_less=True)
    with m.If(clear):
        m.d.sync += largest.eq(least)
    with m.Elif(valid & (value > largest)):
        m.d.sync += largest.eq(value)
    return largest


class Scores(wiring.Component):
    """Score finisher and score memory of some lanes, one query token and head group.

    Takes a token's column sums in every cycle, as they leave the array, and never stalls; the score
    is in the memory and in the maximum `PIPELINE_CYCLES` after its K word went into the array.
    Tokens of two streams may interleave; each stream's are remembered in its order.

    Tested with all head sizes, dot products of all sizes, exponents from one end to the other, at
    full rate and with gaps.

    Parameters
    ----------
    config : CoreConfig
    lanes : int

    Members
    -------
    clear : In(1)
        Forget the maxima and start at token 0 of each stream.
    valid : In(1)
        A K word enters the array in this cycle, with its exponents beside it.
    source : In(1)
        Its stream.
    key_exponent, value_exponent : In(ArrayLayout(signed(8), heads))
        Per head of the word.
    sums : In(ArrayLayout(ArrayLayout(column_sum_shape(config), columns), lanes))
        The array's column sums, `Array.PIPELINE_CYCLES` after `valid`.
    query_exponent : In(ArrayLayout(ArrayLayout(signed(8), heads), lanes))
    head_dim_log2 : In(3)
        One of `config.head_dim_log2`.
    busy : Out(1)
        Sums or scores are on their way.
    count : Out(ScoreCountLayout(config))
        Tokens in the memory since `clear`.
    maximum : Out(ArrayLayout(ArrayLayout(signed(32), heads), lanes))
        Largest score of these tokens.
    reference : Out(ArrayLayout(signed(8), heads))
        Largest V exponent of these tokens.
    address : In(range(max_context))
    read_enable : In(1)
    entry : Out(ScoreEntryLayout(config, lanes))
        What is remembered of token `address`, one cycle later; stays while `read_enable` is low.
    """

    PIPELINE_CYCLES = Array.PIPELINE_CYCLES + 4

    clear: Signal
    valid: Signal
    source: Signal
    key_exponent: data.View
    value_exponent: data.View
    sums: data.View
    query_exponent: data.View
    head_dim_log2: Signal
    busy: Signal
    count: data.View
    maximum: data.View
    reference: data.View
    address: Signal
    read_enable: Signal
    entry: data.View

    def __init__(self, *, config: CoreConfig, lanes: int):
        self._config, self._lanes = config, lanes
        c = config
        heads = c.heads_per_word
        per_head = data.ArrayLayout(signed(8), heads)
        super().__init__(
            {
                "clear": In(1),
                "valid": In(1),
                "source": In(1),
                "key_exponent": In(per_head),
                "value_exponent": In(per_head),
                "sums": In(
                    data.ArrayLayout(data.ArrayLayout(column_sum_shape(c), c.columns), lanes)
                ),
                "query_exponent": In(data.ArrayLayout(per_head, lanes)),
                "head_dim_log2": In(3),
                "busy": Out(1),
                "count": Out(ScoreCountLayout(c)),
                "maximum": Out(
                    data.ArrayLayout(data.ArrayLayout(signed(_SCORE_BITS), heads), lanes)
                ),
                "reference": Out(per_head),
                "address": In(range(c.max_context)),
                "read_enable": In(1),
                "entry": Out(ScoreEntryLayout(c, lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        heads = c.heads_per_word
        m.submodules.memory = entries = memory.Memory(
            shape=ScoreEntryLayout(c, self._lanes), depth=c.max_context, init=[]
        )
        write, read = entries.write_port(), entries.read_port()
        m.d.comb += [
            read.addr.eq(self.address),
            read.en.eq(self.read_enable),
            self.entry.eq(read.data),
        ]

        # Beside the sums: when a token's are there, and its exponents.
        arriving, busy = self.valid, self.valid
        for cycle in range(Array.PIPELINE_CYCLES):
            arriving = delay(m, arriving, 1, name=f"arriving_{cycle}", reset=True)
            busy = busy | arriving
        valid = [arriving]
        value = [delay(m, self.value_exponent, Array.PIPELINE_CYCLES, name="value_exponent")]
        for stage in (1, 2, 3):
            valid.append(delay(m, valid[-1], 1, name=f"valid{stage}", reset=True))
            value.append(delay(m, value[-1], 1, name=f"value{stage}"))
            busy = busy | valid[-1]
        source = delay(m, self.source, self.PIPELINE_CYCLES - 1, name="source")
        m.d.comb += self.busy.eq(busy)
        key = delay(m, self.key_exponent, Array.PIPELINE_CYCLES, name="key_exponent")

        for lane in range(self._lanes):
            dots = self.build_dots(m, lane)
            for head in range(heads):
                leaf = Leaf(_Score, signature=_ScoreSignature(), name="skipstone_score")
                m.submodules[f"score_{lane}_{head}"] = leaf
                m.d.comb += [
                    leaf.pins.clear.eq(self.clear),
                    leaf.pins.valid.eq(Cat(valid)),
                    leaf.pins.dot.eq(dots[head]),
                    leaf.pins.query_exponent.eq(self.query_exponent[lane][head]),
                    leaf.pins.key_exponent.eq(key[head]),
                    write.data.score[lane][head].eq(leaf.pins.score),
                    self.maximum[lane][head].eq(leaf.pins.largest),
                ]
        for head in range(heads):
            largest = _largest(m, f"v_{head}", value[3][head], EXPONENT_MIN, self.clear, valid[3])
            m.d.comb += self.reference[head].eq(largest)

        for stream in (0, 1):
            count = Signal(self.count.shape().elem_shape, name=f"count_{stream}")
            mine = source == stream
            with m.If(self.clear):
                m.d.sync += count.eq(0)
            with m.Elif(valid[3] & mine):
                m.d.sync += count.eq(count + 1)
            with m.If(mine):
                m.d.comb += write.addr.eq(~count if stream else count)
            m.d.comb += self.count[stream].eq(count)
        m.d.comb += [
            write.en.eq(valid[3]),
            write.data.value_exponent.eq(value[3]),
        ]
        return m

    def build_dots(self, m: Module, lane: int) -> list[Signal]:
        """Dot product of each head: neighbouring columns added as far as the head reaches."""
        c = self._config
        dots = [Signal(signed(_DOT_BITS), name=f"dot_{lane}_{h}") for h in range(c.heads_per_word)]
        level: list[Value] = [self.sums[lane][column] for column in range(c.columns)]
        with m.Switch(self.head_dim_log2):
            for log2 in c.head_dim_log2:
                heads = c.word_bytes >> log2
                while len(level) > heads:
                    level = [a + b for a, b in zip(level[::2], level[1::2], strict=True)]
                with m.Case(log2):
                    m.d.comb += [dot.eq(sums) for dot, sums in zip(dots, level, strict=False)]
        return dots
