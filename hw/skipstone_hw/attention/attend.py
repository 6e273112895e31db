"""ATTEND: for each selected token and head group, keys past the array, then values, then the
result.

Nothing is held of K and V but the word at hand: K words become scores, V words meet their token's
probability. Reads are requested by a front end that runs ahead of the computation as far as the
stream reader allows.
"""

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

from ..activations import LaneRead, Region
from ..array import HEAD_DIM_LOG2_MAX, HEAD_DIM_LOG2_MIN, PRODUCT_BITS, ArrayMode, column_sum_shape
from ..kv_index import KvGeometry, RunLayout, WalkLayout
from ..layouts import PairKind, PairLayout
from ..numeric.fp32 import IntToFp
from ..numeric.pipeline import delay
from ..numeric.tables import Reciprocal
from .mix import HALF_BITS, Mix
from .probabilities import Probabilities, sum_shape
from .scores import Scores, heads_per_word

__all__ = ["Attend", "AttendCommand"]


class AttendCommand(data.StructLayout):
    """Attention of the tokens in `select` (at least one) in `layer`."""

    def __init__(self, config: CoreConfig):
        super().__init__({"layer": range(config.max_layers), "select": config.max_chunk})


def lowest_bit(m, mask, name):
    """Index of the lowest set bit of `mask`."""
    index = Signal(range(max(2, len(mask))), name=name)
    for n in reversed(range(len(mask))):
        with m.If(mask[n]):
            m.d.comb += index.eq(n)
    return index


class Attend(wiring.Component):
    """The attention unit.

    Per (token, head group): C/2 cycles to load the queries, one cycle per K word, two per V word,
    the pipelines' latency twice, and one cycle per output pair. Query head i of each KV head sits
    in lane i.

    Members
    -------
    command : stream of AttendCommand
    geometry, query_heads, position : In
        KV geometry, query heads per KV head, and the chunk's first position.
    walk, runs : streams to and from KvIndex
    words : stream of memory words of kind KV
    lanes : read ports of the activation buffer
    array_* : Out; sums, products : In
        The shared PE array.
    o : stream of PairLayout
        Outputs, kind ATTENTION.
    reading : Out(1)
        Walks of the current command are still to be handed over.
    stall_words : Out(1)
        A word was wanted and none was there.
    idle : Out(1)
    """

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        heads = heads_per_word(c)
        operand = signed(ACTIVATION_BITS)

        def lanes(shape, count):
            return data.ArrayLayout(data.ArrayLayout(shape, count), c.lanes)

        self._head_shape = unsigned(bits_for(c.max_query // 32))
        super().__init__(
            {
                "command": In(stream.Signature(AttendCommand(c))),
                "geometry": In(KvGeometry()),
                "query_heads": In(unsigned(bits_for(c.lanes))),
                "position": In(unsigned(bits_for(c.max_context))),
                "walk": Out(stream.Signature(WalkLayout(c))),
                "runs": In(stream.Signature(RunLayout())),
                "words": In(stream.Signature(c.word_bits)),
                "lanes": Out(LaneRead(c)).array(c.lanes),
                "array_valid": Out(1),
                "array_mode": Out(ArrayMode),
                "array_word": Out(c.word_bits),
                "array_lanes": Out(c.lanes),
                "array_bytes": Out(lanes(operand, c.word_bytes)),
                "array_heads": Out(lanes(operand, heads)),
                "sums": In(lanes(column_sum_shape(c), c.columns)),
                "products": In(lanes(signed(PRODUCT_BITS), c.word_bytes)),
                "o": Out(stream.Signature(PairLayout(c))),
                "reading": Out(1),
                "stall_words": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        g = self.geometry
        heads = heads_per_word(c)
        word_log2 = exact_log2(c.word_bytes)
        rows_log2 = exact_log2(c.rows)

        m.submodules.scores = scores = Scores(config=c)
        m.submodules.probabilities = probabilities = Probabilities(config=c)
        m.submodules.mix = mix = Mix(config=c)

        computing = Signal()
        layer = Signal(range(c.max_layers))
        self._elaborate_front_end(m, layer)

        # Which token and head group is being computed.
        tokens = Signal(c.max_chunk)
        token = lowest_bit(m, tokens, "token")
        head_group = Signal(16)
        heads_left = Signal(16)  # KV heads from this group on
        first_head = Signal(self._head_shape)  # lane 0's query head of the KV head being loaded
        index = Signal(20)  # output pair of the token
        last = Signal(range(c.max_context))
        group_heads = Signal(range(heads + 1))
        heads_log2 = Signal(range(word_log2))
        m.d.comb += [
            heads_log2.eq(word_log2 - g.head_dim_log2),
            group_heads.eq(Mux(heads_left < (1 << heads_log2), heads_left, 1 << heads_log2)),
            self.array_lanes.eq((1 << self.query_heads) - 1),
            mix.lane_enable.eq(self.array_lanes),
            mix.products.eq(self.products),
            scores.sums.eq(self.sums),
            scores.head_dim_log2.eq(g.head_dim_log2),
            scores.address.eq(probabilities.address),
            scores.read_enable.eq(probabilities.read_enable),
            probabilities.entry.eq(scores.entry),
            probabilities.maximum.eq(scores.maximum),
            probabilities.reference.eq(scores.reference),
            probabilities.last.eq(last),
        ]

        # Queries: R mantissas per lane and cycle, spread over the word.
        sweep = Signal(range(c.columns // 2 + 1))
        sweep_log2 = Signal(range(8))
        m.d.comb += sweep_log2.eq(g.head_dim_log2 - rows_log2)
        for lane in range(c.lanes):
            head = Signal(self._head_shape, name=f"query_head_{lane}")
            read = self.lanes[lane]
            m.d.comb += [
                head.eq(first_head + lane),
                read.en.eq(1),
                read.region.eq(Region.QUERY),
                read.token.eq(token),
                read.group.eq(head),
                read.word.eq((head << sweep_log2) + (sweep & ((1 << sweep_log2) - 1))),
            ]
        loading = Signal()
        loaded = delay(m, loading, 1, name="loading", reset=True)
        loaded_at = delay(m, sweep, 1, name="sweep")
        operands = [
            [Signal(signed(ACTIVATION_BITS), name=f"query_{t}_{j}") for j in range(c.word_bytes)]
            for t in range(c.lanes)
        ]
        for lane in range(c.lanes):
            for at in range(c.columns // 2):
                with m.If(loaded & (loaded_at == at)):
                    m.d.sync += [
                        operands[lane][at * c.rows + r].eq(self.lanes[lane].mantissas[r])
                        for r in range(c.rows)
                    ]
            for head in range(heads):
                exponent = Signal(signed(8), name=f"query_exponent_{lane}_{head}")
                with m.If(loaded & ((loaded_at >> sweep_log2) == head)):
                    m.d.sync += exponent.eq(self.lanes[lane].exponent)
                m.d.comb += scores.query_exponent[lane][head].eq(exponent)
            m.d.comb += [
                self.array_bytes[lane][j].eq(operands[lane][j]) for j in range(c.word_bytes)
            ]

        # Exponents of the run at hand.
        exponent_word = Signal(c.word_bits, reset_less=True)
        have_exponents = Signal()
        slot, left = Signal(6), Signal(7)
        self._select_exponents(m, exponent_word, slot, scores)

        count = Signal(range(c.max_context + 1))  # tokens whose words were taken
        lower = Signal()
        inverses, inverted = self._elaborate_inverses(m, probabilities.total)
        m.d.comb += self.array_word.eq(self.words.payload)
        for lane in range(c.lanes):
            for head in range(heads):
                p = probabilities.o.payload[lane][head]
                half = Mux(lower, p[:HALF_BITS], p[HALF_BITS:])
                m.d.comb += self.array_heads[lane][head].eq(half)

        drain_head, drain_lane = Signal(range(heads)), Signal(range(c.lanes))
        drain_pair = Signal(6)
        last_pair, last_lane, last_head = Signal(), Signal(), Signal()
        m.d.comb += [
            last_pair.eq(drain_pair + 1 == (1 << (g.head_dim_log2 - 1).as_unsigned()[:3])),
            last_lane.eq(drain_lane + 1 == self.query_heads),
            last_head.eq(drain_head + 1 == group_heads),
            mix.lane.eq(drain_lane),
            mix.pair.eq((drain_head << (g.head_dim_log2 - 1).as_unsigned()[:3]) | drain_pair),
            self.o.payload.accumulator.eq(mix.accumulator),
            self.o.payload.exponent.eq(scores.reference[drain_head]),
            self.o.payload.scale.eq(inverses[drain_lane][drain_head]),
            self.o.payload.kind.eq(PairKind.ATTENTION),
            self.o.payload.token.eq(token),
            self.o.payload.index.eq(index),
        ]

        with m.FSM(name="compute"):
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(~self.reading)
                with m.If(self.command.valid & self.command.ready):
                    m.d.sync += [
                        layer.eq(self.command.payload.layer),
                        tokens.eq(self.command.payload.select),
                        computing.eq(1),
                    ]
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.sync += [
                    head_group.eq(0),
                    heads_left.eq(g.kv_heads),
                    first_head.eq(0),
                    index.eq(0),
                    last.eq(self.position + token),
                ]
                m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += [scores.clear.eq(1), mix.clear.eq(1)]
                m.d.sync += [count.eq(0), sweep.eq(0), have_exponents.eq(0)]
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += loading.eq(1)
                m.d.sync += sweep.eq(sweep + 1)
                with m.If(((sweep + 1) & ((1 << sweep_log2) - 1)) == 0):
                    m.d.sync += first_head.eq(first_head + self.query_heads)
                with m.If(sweep == c.columns // 2 - 1):
                    m.next = "LOADED"
            with m.State("LOADED"):
                m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += self.array_mode.eq(ArrayMode.SCORE)
                with m.If(~have_exponents):
                    with m.If(self.words.valid & self.runs.valid):
                        m.d.comb += [self.words.ready.eq(1), self.runs.ready.eq(1)]
                        m.d.sync += [
                            exponent_word.eq(self.words.payload),
                            slot.eq(self.runs.payload.slot),
                            left.eq(self.runs.payload.length),
                            have_exponents.eq(1),
                        ]
                with m.Else():
                    m.d.comb += self.words.ready.eq(1)
                    with m.If(self.words.valid):
                        m.d.comb += [self.array_valid.eq(1), scores.valid.eq(1)]
                        m.d.sync += [slot.eq(slot + 1), left.eq(left - 1), count.eq(count + 1)]
                        with m.If(left == 1):
                            m.d.sync += have_exponents.eq(0)
                        with m.If(count == last):
                            m.next = "SCORED"
                m.d.comb += self.stall_words.eq(~self.words.valid)
            with m.State("SCORED"):
                m.d.sync += count.eq(0)
                with m.If(scores.count == last + 1):
                    m.d.comb += probabilities.start.eq(1)
                    m.d.sync += lower.eq(0)
                    m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += [
                    self.array_mode.eq(ArrayMode.MIX),
                    self.stall_words.eq(~self.words.valid & probabilities.o.valid),
                    mix.upper.eq(~lower),
                ]
                with m.If(self.words.valid & probabilities.o.valid):
                    m.d.comb += [self.array_valid.eq(1), mix.valid.eq(1)]
                    m.d.sync += lower.eq(~lower)
                    with m.If(lower):
                        m.d.comb += [self.words.ready.eq(1), probabilities.o.ready.eq(1)]
                        m.d.sync += count.eq(count + 1)
                        with m.If(count == last):
                            m.d.comb += inverted.start.eq(1)
                            m.next = "MIXED"
            with m.State("MIXED"):
                m.d.sync += [drain_head.eq(0), drain_lane.eq(0), drain_pair.eq(0)]
                with m.If(~mix.busy & inverted.done):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [index.eq(index + 1), drain_pair.eq(drain_pair + 1)]
                    with m.If(last_pair):
                        m.d.sync += [drain_pair.eq(0), drain_lane.eq(drain_lane + 1)]
                        with m.If(last_lane):
                            m.d.sync += [drain_lane.eq(0), drain_head.eq(drain_head + 1)]
                            with m.If(last_head):
                                m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [
                    head_group.eq(head_group + 1),
                    heads_left.eq(heads_left - group_heads),
                ]
                m.next = "CLEAR"
                with m.If(head_group + 1 == g.head_groups):
                    m.d.sync += tokens.eq(tokens & (tokens - 1))
                    m.next = "TOKEN"
                    with m.If((tokens & (tokens - 1)) == 0):
                        m.d.sync += computing.eq(0)
                        m.next = "IDLE"

        m.d.comb += self.idle.eq(~computing & ~self.reading)
        return m

    def _elaborate_front_end(self, m, layer):
        """Hands the walks of the whole command to KvIndex: K, then V, of each head group."""
        c, g = self._config, self.geometry
        tokens = Signal(c.max_chunk, name="walk_tokens")
        token = lowest_bit(m, tokens, "walk_token")
        head_group, values = Signal(16, name="walk_group"), Signal(name="walk_values")
        offset = Signal(32, name="walk_offset")
        m.d.comb += [
            self.reading.eq(tokens.any()),
            self.walk.valid.eq(tokens.any()),
            self.walk.payload.layer.eq(layer),
            self.walk.payload.last.eq(self.position + token),
            self.walk.payload.bank_offset.eq(offset),
            self.walk.payload.values.eq(values),
        ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [tokens.eq(self.command.payload.select), head_group.eq(0), values.eq(0)]
            m.d.sync += offset.eq(0)
        with m.Elif(self.walk.valid & self.walk.ready):
            m.d.sync += values.eq(~values)
            with m.If(values):
                m.d.sync += [head_group.eq(head_group + 1), offset.eq(offset + g.bank_words)]
                with m.If(head_group + 1 == g.head_groups):
                    m.d.sync += [head_group.eq(0), offset.eq(0), tokens.eq(tokens & (tokens - 1))]

    def _select_exponents(self, m, word, slot, scores):
        """K and V exponents of the token at `slot` of an exponent word."""
        c = self._config
        with m.Switch(self.geometry.head_dim_log2):
            for log2 in range(
                HEAD_DIM_LOG2_MIN, min(HEAD_DIM_LOG2_MAX, exact_log2(c.word_bytes)) + 1
            ):
                heads = c.word_bytes >> log2
                entry = Signal(16 * heads, name=f"exponents_{1 << log2}")
                m.d.comb += entry.eq(word.word_select(slot[: log2 - 1], 16 * heads))
                with m.Case(log2):
                    for head in range(heads):
                        m.d.comb += [
                            scores.key_exponent[head].eq(entry[8 * head :][:8]),
                            scores.value_exponent[head].eq(entry[8 * (heads + head) :][:8]),
                        ]

    def _elaborate_inverses(self, m, totals):
        """1 / Σp of each lane and head, one per cycle through one converter and one table."""
        c = self._config
        heads = heads_per_word(c)
        shape = sum_shape(c)
        m.submodules.total_to_float = convert = IntToFp(bits=shape.width + 1)
        m.submodules.reciprocal = reciprocal = Reciprocal()
        control = Signal(data.StructLayout({"start": 1, "done": 1}), name="inverses_control")
        number = c.lanes * heads
        cycles = IntToFp.PIPELINE_CYCLES + Reciprocal.PIPELINE_CYCLES
        step = Signal(range(number + cycles + 2), name="inverse_step")
        m.d.comb += [reciprocal.x.eq(convert.o), control.done.eq(step == number + cycles)]
        with m.If(control.start):
            m.d.sync += step.eq(0)
        with m.Elif(~control.done):
            m.d.sync += step.eq(step + 1)
        inverses = Signal(data.ArrayLayout(data.ArrayLayout(32, heads), c.lanes))
        for n in range(number):
            lane, head = divmod(n, heads)
            with m.If(step == n):
                m.d.comb += convert.mantissa.eq(totals[lane][head])
            with m.If(step == n + cycles):
                m.d.sync += inverses[lane][head].eq(reciprocal.o)
        return inverses, control
