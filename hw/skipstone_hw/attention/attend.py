"""ATTEND: for each token and head group, keys past the array, then values, then the result.

Nothing is held of K and V but the word at hand: K words become scores, V words meet their token's
probability. Reads are requested by a front end that runs ahead of the computation as far as the
stream reader allows.
"""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

from ..activations import MIN_HEAD_DIM, LaneRead, Region
from ..array import HEAD_DIM_LOG2_MIN, PRODUCT_BITS, ArrayMode, column_sum_shape
from ..kv_index import KvGeometry, RunLayout, WalkLayout
from ..layouts import ADDRESS_BITS, INDEX_BITS, PairKind, PairLayout
from ..numeric.fp32 import IntToFp
from ..numeric.pipeline import delay
from ..numeric.tables import Reciprocal
from .mix import HALF_BITS, Mix
from .probabilities import Probabilities, sum_shape
from .scores import Scores, head_dim_log2_limit, heads_per_word

__all__ = ["Attend", "AttendCommand"]


class AttendCommand(data.StructLayout):
    """Attention of the tokens in `select` (at least one) in `layer`."""

    def __init__(self, config: CoreConfig):
        super().__init__({"layer": range(config.max_layers), "select": config.max_chunk})


class _PlaceLayout(data.StructLayout):
    """What is being computed: a head group of a token."""

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "tokens": config.max_chunk,  # still to do; the lowest is being computed
                "head_group": 16,
                "heads_left": 16,  # KV heads from this group on
                "last": range(config.max_context),  # the token's own position
                "index": INDEX_BITS,  # output pair of the token
            }
        )


class Attend(wiring.Component):
    """The attention unit.

    Per token and head group: C/2 cycles to load the queries, one cycle per K or exponent word, two
    per V word, twice the pipelines' latency, and one cycle per output pair. Query head i of each KV
    head sits in lane i. Keys and values stall with `words`, outputs with `o`. A command is accepted
    when the last one's outputs have left.

    Tested with all head sizes; query heads per KV head up to the lanes; a last head group that is
    partly used; 1 to max_context positions; scores that saturate or vanish, V exponents far apart;
    all streams stalled at random and at full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    command : In(stream.Signature(AttendCommand(config)))
    geometry : In(KvGeometry())
    query_heads : In(range(lanes + 1))
        Query heads per KV head.
    position : In(range(max_context + 1))
        The chunk's first position.
    walk : Out(stream.Signature(WalkLayout(config)))
        To KvIndex: K, then V, of each head group of each selected token.
    runs : In(stream.Signature(RunLayout()))
        From KvIndex: the runs of the K walks.
    words : In(stream.Signature(word_bits))
        The words of these walks, in order.
    lanes : Out(LaneRead(config)).array(lanes)
        Read ports of the activation buffer.
    array_valid : Out(1)
    array_mode : Out(ArrayMode)
    array_word : Out(word_bits)
    array_lanes : Out(lanes)
    array_bytes : Out(ArrayLayout(ArrayLayout(signed(12), word_bytes), lanes))
    array_heads : Out(ArrayLayout(ArrayLayout(signed(12), heads), lanes))
        Inputs of the shared `Array`.
    sums : In(ArrayLayout(ArrayLayout(column_sum_shape(config), columns), lanes))
    products : In(ArrayLayout(ArrayLayout(signed(20), word_bytes), lanes))
        Its outputs.
    o : Out(stream.Signature(PairLayout(config)))
        Outputs, kind ATTENTION, each token's in order.
    reading : Out(1)
        Walks of the current command are still to be handed over.
    stall_words : Out(1)
        A word was wanted and none was there.
    idle : Out(1)
        No command is under way.
    """

    command: stream.Interface
    geometry: data.View
    query_heads: Signal
    position: Signal
    walk: stream.Interface
    runs: stream.Interface
    words: stream.Interface
    lanes: list[wiring.PureInterface]
    array_valid: Signal
    array_mode: Signal
    array_word: Signal
    array_lanes: Signal
    array_bytes: data.View
    array_heads: data.View
    sums: data.View
    products: data.View
    o: stream.Interface
    reading: Signal
    stall_words: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        operand = signed(ACTIVATION_BITS)

        def lanes(shape, count):
            return data.ArrayLayout(data.ArrayLayout(shape, count), c.lanes)

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
                "array_heads": Out(lanes(operand, heads_per_word(c))),
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
        m.submodules.scores = scores = Scores(config=c)
        m.submodules.probabilities = probabilities = Probabilities(config=c)
        m.submodules.mix = mix = Mix(config=c)

        layer = Signal(range(c.max_layers))
        place = Signal(_PlaceLayout(c))
        token = _lowest_bit(m, place.tokens, "token")
        m.d.comb += [
            self.array_lanes.eq((1 << self.query_heads) - 1),
            self.array_word.eq(self.words.payload),
            scores.sums.eq(self.sums),
            scores.head_dim_log2.eq(self.geometry.head_dim_log2),
            scores.address.eq(probabilities.address),
            scores.read_enable.eq(probabilities.read_enable),
            probabilities.entry.eq(scores.entry),
            probabilities.maximum.eq(scores.maximum),
            probabilities.reference.eq(scores.reference),
            probabilities.last.eq(place.last),
            mix.lane_enable.eq(self.array_lanes),
            mix.products.eq(self.products),
            self.idle.eq(~place.tokens.any() & ~self.reading),
        ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += layer.eq(self.command.payload.layer)
        self.build_front_end(m, layer)
        self.build_sequence(m, place, token, scores, probabilities, mix)
        return m

    def build_front_end(self, m: Module, layer: Signal) -> None:
        """Hands the walks of the whole command to KvIndex: K, then V, of each head group."""
        c, g = self._config, self.geometry
        tokens = Signal(c.max_chunk, name="walk_tokens")
        token = _lowest_bit(m, tokens, "walk_token")
        head_group, values = Signal(16, name="walk_head_group"), Signal(name="walk_values")
        offset = Signal(ADDRESS_BITS, name="walk_offset")
        m.d.comb += [
            self.reading.eq(tokens.any()),
            self.walk.valid.eq(self.reading),
            self.walk.payload.layer.eq(layer),
            self.walk.payload.last.eq(self.position + token),
            self.walk.payload.bank_offset.eq(offset),
            self.walk.payload.values.eq(values),
        ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += tokens.eq(self.command.payload.select)
        with m.Elif(self.walk.valid & self.walk.ready):
            m.d.sync += values.eq(~values)
            with m.If(values):
                m.d.sync += [head_group.eq(head_group + 1), offset.eq(offset + g.bank_words)]
                with m.If(head_group + 1 == g.head_groups):
                    m.d.sync += [head_group.eq(0), offset.eq(0), tokens.eq(tokens & (tokens - 1))]

    def build_sequence(
        self,
        m: Module,
        place: data.View,
        token: Signal,
        scores: Scores,
        probabilities: Probabilities,
        mix: Mix,
    ) -> None:
        """Token by token, head group by head group: queries, keys, values, outputs."""
        c, g = self._config, self.geometry
        heads = heads_per_word(c)
        group_heads = Signal(range(heads + 1))
        full_group = Signal.like(group_heads)
        m.d.comb += [
            full_group.eq(c.word_bytes >> g.head_dim_log2),
            group_heads.eq(Mux(place.heads_left < full_group, place.heads_left, full_group)),
        ]

        loading, load_done, restart = Signal(), Signal(), Signal()
        self.build_queries(m, token, loading, load_done, restart, scores)
        taking_keys, key_taken = Signal(), Signal()
        self.build_keys(m, taking_keys, key_taken, scores)
        invert, inverted = Signal(), Signal()
        inverses = self.build_inverses(m, probabilities.total, invert, inverted)
        draining, drain_done = Signal(), Signal()
        self.build_outputs(
            m, place, token, group_heads, draining, drain_done, scores, mix, inverses
        )

        lower = Signal()  # the V word passes for the second time
        for lane in range(c.lanes):
            for head in range(heads):
                p = probabilities.o.payload[lane][head]
                half = Mux(lower, p[:HALF_BITS], p[HALF_BITS:])
                m.d.comb += self.array_heads[lane][head].eq(half)

        taken = Signal(range(c.max_context + 1))  # tokens whose words were taken
        remaining = Signal.like(place.tokens)
        m.d.comb += remaining.eq(place.tokens & (place.tokens - 1))
        with m.FSM(name="compute"):
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(~self.reading)
                with m.If(self.command.valid & self.command.ready):
                    m.d.sync += place.tokens.eq(self.command.payload.select)
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += restart.eq(1)
                m.d.sync += [
                    place.head_group.eq(0),
                    place.heads_left.eq(g.kv_heads),
                    place.last.eq(self.position + token),
                    place.index.eq(0),
                ]
                m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += [scores.clear.eq(1), mix.clear.eq(1)]
                m.d.sync += [taken.eq(0), lower.eq(0)]
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += loading.eq(1)
                with m.If(load_done):
                    m.next = "LOADED"
            with m.State("LOADED"):
                m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += [
                    taking_keys.eq(1),
                    self.array_mode.eq(ArrayMode.SCORE),
                    self.array_valid.eq(key_taken),
                    self.stall_words.eq(~self.words.valid),
                ]
                with m.If(key_taken):
                    m.d.sync += taken.eq(taken + 1)
                    with m.If(taken == place.last):
                        m.next = "SCORED"
            with m.State("SCORED"):
                m.d.sync += taken.eq(0)
                with m.If(scores.count == place.last + 1):
                    m.d.comb += probabilities.start.eq(1)
                    m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += [
                    self.array_mode.eq(ArrayMode.MIX),
                    mix.upper.eq(~lower),
                    self.stall_words.eq(~self.words.valid & probabilities.o.valid),
                ]
                with m.If(self.words.valid & probabilities.o.valid):
                    m.d.comb += [self.array_valid.eq(1), mix.valid.eq(1)]
                    m.d.sync += lower.eq(~lower)
                    with m.If(lower):
                        m.d.comb += [self.words.ready.eq(1), probabilities.o.ready.eq(1)]
                        m.d.sync += taken.eq(taken + 1)
                        with m.If(taken == place.last):
                            m.d.comb += invert.eq(1)
                            m.next = "MIXED"
            with m.State("MIXED"), m.If(~mix.busy & inverted):
                m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += draining.eq(1)
                with m.If(drain_done):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [
                    place.head_group.eq(place.head_group + 1),
                    place.heads_left.eq(place.heads_left - group_heads),
                ]
                m.next = "CLEAR"
                with m.If(place.head_group + 1 == g.head_groups):
                    m.d.sync += place.tokens.eq(remaining)
                    m.next = "TOKEN"
                    with m.If(~remaining.any()):
                        m.next = "IDLE"

    def build_queries(
        self,
        m: Module,
        token: Signal,
        loading: Signal,
        done: Signal,
        restart: Signal,
        scores: Scores,
    ) -> None:
        """The head group's queries, R mantissas per lane and cycle, spread over the word."""
        c = self._config
        words = c.columns // 2
        sweep = Signal(range(words))
        first_head = Signal(range(c.max_query // MIN_HEAD_DIM + 1))  # of the KV head being loaded
        sweep_log2 = Signal(3)  # words of a head
        in_head = Signal.like(sweep)
        m.d.comb += [
            sweep_log2.eq(self.geometry.head_dim_log2 - exact_log2(c.rows)),
            in_head.eq(sweep & ((1 << sweep_log2) - 1)),
            done.eq(sweep == words - 1),
        ]
        with m.If(restart):
            m.d.sync += first_head.eq(0)
        with m.If(loading):
            m.d.sync += sweep.eq(Mux(done, 0, sweep + 1))
            with m.If(in_head == (1 << sweep_log2) - 1):
                m.d.sync += first_head.eq(first_head + self.query_heads)

        # The answers come a cycle later.
        loaded = delay(m, loading, 1, name="loaded", reset=True)
        loaded_at = delay(m, sweep, 1, name="loaded_at")
        for lane, read in enumerate(self.lanes):
            head = Signal.like(first_head, name=f"query_head_{lane}")
            m.d.comb += [
                head.eq(first_head + lane),
                read.en.eq(1),
                read.region.eq(Region.QUERY),
                read.token.eq(token),
                read.group.eq(head),
                read.word.eq((head << sweep_log2) | in_head),
            ]
            operands = [
                Signal(signed(ACTIVATION_BITS), name=f"query_{lane}_{j}", reset_less=True)
                for j in range(c.word_bytes)
            ]
            m.d.comb += [self.array_bytes[lane][j].eq(q) for j, q in enumerate(operands)]
            for at in range(words):
                with m.If(loaded & (loaded_at == at)):
                    part = operands[at * c.rows : (at + 1) * c.rows]
                    m.d.sync += [q.eq(read.mantissas[r]) for r, q in enumerate(part)]
            for head_in_word in range(heads_per_word(c)):
                exponent = Signal(
                    signed(8), name=f"query_exponent_{lane}_{head_in_word}", reset_less=True
                )
                with m.If(loaded & ((loaded_at >> sweep_log2) == head_in_word)):
                    m.d.sync += exponent.eq(read.exponent)
                m.d.comb += scores.query_exponent[lane][head_in_word].eq(exponent)

    def build_keys(self, m: Module, taking: Signal, taken: Signal, scores: Scores) -> None:
        """Words of K runs: the exponent word, then the keys; `taken` in each cycle with a key."""
        c = self._config
        exponents = Signal(c.word_bits, reset_less=True)
        present = Signal()  # the exponents of the run at hand
        run = Signal(RunLayout())
        m.d.comb += [taken.eq(taking & present & self.words.valid), scores.valid.eq(taken)]
        with m.If(taking):
            with m.If(present):
                m.d.comb += self.words.ready.eq(1)
                with m.If(self.words.valid):
                    m.d.sync += [run.slot.eq(run.slot + 1), run.length.eq(run.length - 1)]
                    with m.If(run.length == 1):
                        m.d.sync += present.eq(0)
            with m.Elif(self.words.valid & self.runs.valid):
                m.d.comb += [self.words.ready.eq(1), self.runs.ready.eq(1)]
                m.d.sync += [
                    exponents.eq(self.words.payload),
                    run.eq(self.runs.payload),
                    present.eq(1),
                ]

        # The entry of the token at `slot`: K exponents of the word's heads, then V exponents.
        with m.Switch(self.geometry.head_dim_log2):
            for log2 in range(HEAD_DIM_LOG2_MIN, head_dim_log2_limit(c) + 1):
                heads = c.word_bytes >> log2
                layout = data.ArrayLayout(data.ArrayLayout(signed(8), heads), 2)
                entry = Signal(layout, name=f"exponents_{1 << log2}")
                m.d.comb += entry.eq(exponents.word_select(run.slot[: log2 - 1], layout.size))
                with m.Case(log2):
                    for head in range(heads):
                        m.d.comb += [
                            scores.key_exponent[head].eq(entry[0][head]),
                            scores.value_exponent[head].eq(entry[1][head]),
                        ]

    def build_inverses(
        self, m: Module, totals: data.View, start: Signal, done: Signal
    ) -> data.View:
        """1 / Σp of each lane and head, one per cycle through one converter and one table."""
        c = self._config
        heads = heads_per_word(c)
        m.submodules.total_to_float = convert = IntToFp(bits=sum_shape(c).width + 1)
        m.submodules.reciprocal = reciprocal = Reciprocal()
        number = c.lanes * heads
        cycles = IntToFp.PIPELINE_CYCLES + Reciprocal.PIPELINE_CYCLES
        step = Signal(range(number + cycles + 1), name="inverse_step")
        m.d.comb += [reciprocal.x.eq(convert.o), done.eq(step == number + cycles)]
        with m.If(start):
            m.d.sync += step.eq(0)
        with m.Elif(~done):
            m.d.sync += step.eq(step + 1)
        inverses = Signal(data.ArrayLayout(data.ArrayLayout(32, heads), c.lanes))
        for n in range(number):
            lane, head = divmod(n, heads)
            with m.If(step == n):
                m.d.comb += convert.mantissa.eq(totals[lane][head])
            with m.If(step == n + cycles):
                m.d.sync += inverses[lane][head].eq(reciprocal.o)
        return inverses

    def build_outputs(
        self,
        m: Module,
        place: data.View,
        token: Signal,
        group_heads: Signal,
        draining: Signal,
        done: Signal,
        scores: Scores,
        mix: Mix,
        inverses: data.View,
    ) -> None:
        """Accumulators of the head group, KV head by KV head, query head by query head."""
        c = self._config
        pairs_log2 = Signal(3)  # pairs of a head
        head, lane, pair = Signal(range(heads_per_word(c))), Signal(range(c.lanes)), Signal(6)
        last_pair, last_lane, last_head = Signal(), Signal(), Signal()
        o = self.o
        m.d.comb += [
            pairs_log2.eq(self.geometry.head_dim_log2 - 1),
            last_pair.eq(pair == (1 << pairs_log2) - 1),
            last_lane.eq(lane + 1 == self.query_heads),
            last_head.eq(head + 1 == group_heads),
            done.eq(o.valid & o.ready & last_pair & last_lane & last_head),
            mix.lane.eq(lane),
            mix.pair.eq((head << pairs_log2) | pair),
            o.valid.eq(draining),
            o.payload.accumulator.eq(mix.accumulator),
            o.payload.exponent.eq(scores.reference[head]),
            o.payload.scale.eq(inverses[lane][head]),
            o.payload.kind.eq(PairKind.ATTENTION),
            o.payload.token.eq(token),
            o.payload.index.eq(place.index),
        ]
        with m.If(o.valid & o.ready):
            m.d.sync += [place.index.eq(place.index + 1), pair.eq(Mux(last_pair, 0, pair + 1))]
            with m.If(last_pair):
                m.d.sync += lane.eq(Mux(last_lane, 0, lane + 1))
            with m.If(last_pair & last_lane):
                m.d.sync += head.eq(Mux(last_head, 0, head + 1))


def _lowest_bit(m: Module, mask: Signal, name: str) -> Signal:
    """Index of the lowest set bit of `mask`."""
    index = Signal(range(max(2, len(mask))), name=name)
    for n in reversed(range(len(mask))):
        with m.If(mask[n]):
            m.d.comb += index.eq(n)
    return index
