"""ATTEND: for each token and head group, keys past the array, then values, then the result.

K words become scores, V words meet their token's probability. They come in two streams, from
memory and from the history buffer, each in an order of its own: the maximum and the sums do not
depend on it. Where the query heads of a KV head need at most half of the lanes, each half serves a
stream. Reads are requested by a front end that runs ahead of the computation as far as the stream
reader allows.
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

from ..activations import LaneRead
from ..array import PRODUCT_BITS, ArrayMode, column_sum_shape, upper_lane
from ..kv_index import KvGeometry, MissLayout, WalkLayout
from ..layouts import PairLayout, token_shape
from ..replay import ItemLayout
from .fetched import Fetched
from .history import History, KvTokenLayout
from .lanes import LaneUseLayout
from .mix import HALF_BITS, Mix
from .probabilities import PROBABILITY_BITS, Probabilities
from .queries import Queries
from .results import Results
from .scores import Scores

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
            }
        )


@dataclass(frozen=True)
class _Half:
    """Half of the lanes, and what turns their sums into probabilities."""

    lanes: range
    scores: Scores
    probabilities: Probabilities


class Attend(wiring.Component):
    """The attention unit.

    Per token and head group: C/2 cycles to load the queries, one per K or exponent word, one or two
    per V word, and twice the pipelines' latency. A cycle per output pair runs beside the next one's
    keys. With g query heads per KV
    head and T lanes, a half being T/2:

    * 4g ≤ T: a half serves the memory, the other the history; two K words or two V words per cycle.
      A V word meets the upper halves of the probabilities in g lanes, the lower ones in g others.
    * 2g ≤ T: likewise for K; of V one word per cycle, from memory if there is one, the upper
      halves of the probabilities in one half of the lanes, the lower in the other.
    * otherwise all lanes serve one word: one K word per cycle, from memory if there is one; each V
      word passes twice, first the history's, while the memory's are on their way.

    Query head i of each KV head sits in lane i, and if it sits in more, i lanes after the first of
    each half or quarter. Keys and values stall with their streams, outputs with `o`. A command is
    accepted when the last one's outputs have left.

    Tested with all head sizes; query heads per KV head up to the lanes; a last head group that is
    partly used; 1 to max_context positions; hits and misses in any mixture, with one of them
    missing, without a history buffer; scores that saturate or vanish, V exponents far apart; all
    streams stalled at random and at full rate.

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
        To KvIndex: each selected token.
    misses : In(stream.Signature(ItemLayout(MissLayout(config))))
    hits : In(stream.Signature(ItemLayout(range(max_context))))
        From KvIndex: for each head group of each token, a pass over K and one over V.
    words : In(stream.Signature(word_bits))
        The words of these passes, in order.
    lanes : Out(LaneRead(config)).array(lanes)
        Read ports of the activation buffer.
    array_valid : Out(1)
    array_mode : Out(ArrayMode)
    array_word, array_upper_word : Out(word_bits)
    array_lanes : Out(lanes)
    array_bytes : Out(ArrayLayout(ArrayLayout(signed(12), word_bytes), lanes))
    array_heads : Out(ArrayLayout(ArrayLayout(signed(12), heads), lanes))
        Inputs of the shared `Array`; unless `attending`, both words are `linear_word`. Without a
        history buffer nobody takes the upper one.
    linear_word : In(word_bits)
        What LINEAR has for the array. Who chooses between two words can choose between three.
    sums : In(ArrayLayout(ArrayLayout(column_sum_shape(config), columns), lanes))
    products : In(ArrayLayout(signed(20), word_bytes)).array(lanes)
        Its outputs.
    o : Out(stream.Signature(PairLayout(config)))
        Outputs, kind ATTENTION, each token's in order.
    hit : Out(1)
        A word came from the history buffer.
    reading : Out(1)
        Walks of the current command are still to be handed over.
    stall_words : Out(1)
        A word was wanted and none was there.
    idle : Out(1)
        No command is under way.
    attending : Out(1)
        The array and the activations are wanted: not `idle`, a cycle later, which is before they
        are used.
    """

    command: stream.Interface
    geometry: data.View
    query_heads: Signal
    position: Signal
    walk: stream.Interface
    misses: stream.Interface
    hits: stream.Interface
    words: stream.Interface
    lanes: list[wiring.PureInterface]
    array_valid: Signal
    array_mode: Signal
    linear_word: Signal
    array_word: Signal
    array_upper_word: Signal
    array_lanes: Signal
    array_bytes: data.View
    array_heads: data.View
    sums: data.View
    products: list[data.View]
    o: stream.Interface
    hit: Signal
    reading: Signal
    stall_words: Signal
    idle: Signal
    attending: Signal

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
                "misses": In(stream.Signature(ItemLayout(MissLayout(c)))),
                "hits": In(stream.Signature(ItemLayout(range(c.max_context)))),
                "words": In(stream.Signature(c.word_bits)),
                "lanes": Out(LaneRead(c)).array(c.lanes),
                "array_valid": Out(1),
                "array_mode": Out(ArrayMode),
                "linear_word": In(c.word_bits),
                "array_word": Out(c.word_bits),
                "array_upper_word": Out(c.word_bits),
                "array_lanes": Out(c.lanes),
                "array_bytes": Out(lanes(operand, c.word_bytes)),
                "array_heads": Out(lanes(operand, c.heads_per_word)),
                "sums": In(lanes(column_sum_shape(c), c.columns)),
                "products": In(data.ArrayLayout(signed(PRODUCT_BITS), c.word_bytes)).array(c.lanes),
                "o": Out(stream.Signature(PairLayout(c))),
                "hit": Out(1),
                "reading": Out(1),
                "stall_words": Out(1),
                "idle": Out(1),
                "attending": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        m.submodules.mix = mix = Mix(config=c)
        m.submodules.results = results = Results(config=c)
        m.submodules.queries = queries = Queries(config=c)
        halves = []
        for name, lanes in (
            ("lower", range(upper_lane(c))),
            ("upper", range(upper_lane(c), c.lanes)),
        ):
            if lanes:
                half = _Half(
                    lanes,
                    Scores(config=c, lanes=len(lanes)),
                    Probabilities(config=c, lanes=len(lanes)),
                )
                m.submodules[f"{name}_scores"] = half.scores
                m.submodules[f"{name}_probabilities"] = half.probabilities
                halves.append(half)

        layer = Signal(range(c.max_layers))
        place = Signal(_PlaceLayout(c))
        token = Signal(token_shape(c))  # settles before LOAD
        m.d.sync += token.eq(_lowest_bit(m, place.tokens, "lowest_token"))
        use = Signal(LaneUseLayout())
        m.d.sync += [
            use.split.eq(self.query_heads <= c.lanes // 2),
            use.quartered.eq(self.query_heads <= c.lanes // 4),
        ]
        m.d.comb += [
            *(a.eq(b) for a, b in zip(mix.products, self.products, strict=True)),
            self.idle.eq(~place.tokens.any() & ~self.reading & results.idle),
        ]
        m.d.sync += self.attending.eq(~self.idle)
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += layer.eq(self.command.payload.layer)
        self.build_front_end(m, layer)
        reference = self.build_halves(m, halves, use, queries, results)
        for unit in (queries, results):
            m.d.comb += [
                unit.use.eq(use),
                unit.query_heads.eq(self.query_heads),
                unit.head_dim_log2.eq(self.geometry.head_dim_log2),
            ]
        m.d.comb += [
            self.array_bytes.eq(queries.mantissas),
            mix.lanes.eq(results.mix_lanes),
            mix.pair.eq(results.mix_pair),
            mix.step.eq(results.mix_step),
            results.accumulator.eq(mix.accumulator),
        ]
        connect(m, results.o, flipped(self.o))
        for mine, theirs in zip(queries.lanes, self.lanes, strict=True):
            connect(m, mine, flipped(theirs))
        self.build_sequence(m, place, token, use, halves, reference, queries, mix, results)
        return m

    def build_halves(
        self,
        m: Module,
        halves: list[_Half],
        use: data.View,
        queries: Queries,
        results: Results,
    ) -> data.View:
        """Maxima and sums over the tokens of both halves, if they are of the same queries; returns
        the largest V exponents."""
        c = self._config
        heads = c.heads_per_word
        totals = results.totals
        reference = Signal(data.ArrayLayout(signed(8), heads))
        for half in halves:
            s, p = half.scores, half.probabilities
            m.d.comb += [
                s.head_dim_log2.eq(self.geometry.head_dim_log2),
                s.address.eq(p.address),
                s.read_enable.eq(p.read_enable),
                p.entry.eq(s.entry),
                p.count.eq(s.count),
                p.reference.eq(reference),
            ]
            for n, lane in enumerate(half.lanes):
                m.d.comb += [
                    s.sums[n].eq(self.sums[lane]),
                    s.query_exponent[n].eq(queries.exponents[lane]),
                    p.maximum[n].eq(s.maximum[n]),
                    totals[lane].eq(p.total[n]),
                ]
                for other in halves:
                    if other is half or n >= c.lanes // 2:
                        continue
                    with m.If(use.split):
                        for head in range(heads):
                            own, their = s.maximum[n][head], other.scores.maximum[n][head]
                            m.d.comb += [
                                p.maximum[n][head].eq(Mux(own > their, own, their)),
                                totals[lane][head].eq(
                                    p.total[n][head] + other.probabilities.total[n][head]
                                ),
                            ]
        for head in range(heads):
            largest: Value = halves[0].scores.reference[head]
            for half in halves[1:]:
                other = half.scores.reference[head]
                largest = Mux(largest > other, largest, other)
            m.d.comb += reference[head].eq(largest)
        return reference

    def build_front_end(self, m: Module, layer: Signal) -> None:
        """Hands the tokens of the whole command to KvIndex, one in two cycles."""
        tokens = Signal(self._config.max_chunk, name="walk_tokens")
        token = Signal(token_shape(self._config))
        m.d.comb += [
            self.reading.eq(tokens.any() | self.walk.valid),
            self.walk.payload.layer.eq(layer),
            self.walk.payload.last.eq(self.position + token),
        ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += tokens.eq(self.command.payload.select)
        with m.Elif(~self.walk.valid):
            m.d.sync += [
                self.walk.valid.eq(tokens.any()),
                token.eq(_lowest_bit(m, tokens, "walk_token")),
                tokens.eq(tokens & (tokens - 1)),
            ]
        with m.Elif(self.walk.ready):
            m.d.sync += self.walk.valid.eq(0)

    def build_sequence(
        self,
        m: Module,
        place: data.View,
        token: Signal,
        use: data.View,
        halves: list[_Half],
        reference: data.View,
        queries: Queries,
        mix: Mix,
        results: Results,
    ) -> None:
        """Token by token, head group by head group: queries, keys, values. Outputs leave while the
        next one's keys pass."""
        c, g = self._config, self.geometry
        heads = c.heads_per_word
        group_heads = Signal(range(heads + 1))
        full_group = Signal.like(group_heads)
        m.d.sync += full_group.eq(c.word_bytes >> g.head_dim_log2)
        m.d.comb += group_heads.eq(Mux(place.heads_left < full_group, place.heads_left, full_group))

        # `taking` and `values` say what the state does, from registers: much hangs on them.
        taking, values, passed, active = Signal(), Signal(), Signal(), Signal()
        self.build_passes(m, place, use, halves, mix, taking, values, passed, active)

        scoring = Cat(half.scores.busy for half in halves).any()
        start, clear = Signal(), Signal()
        m.d.comb += [
            mix.clear.eq(start),
            queries.token.eq(token),
            results.result.token.eq(token),
            results.result.first.eq(place.head_group == 0),
            results.result.heads.eq(group_heads),
            results.result.reference.eq(reference),
        ]
        for half in halves:
            m.d.comb += [half.probabilities.start.eq(start), half.scores.clear.eq(clear)]
        remaining = Signal.like(place.tokens)
        m.d.comb += remaining.eq(place.tokens & (place.tokens - 1))
        with m.FSM(name="compute"):
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(~self.reading & ~results.draining)
                with m.If(self.command.valid & self.command.ready):
                    m.d.sync += place.tokens.eq(self.command.payload.select)
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += queries.restart.eq(1)
                m.d.sync += [
                    place.head_group.eq(0),
                    place.heads_left.eq(g.kv_heads),
                ]
                m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += clear.eq(1)
                m.d.sync += values.eq(0)
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += [queries.load.eq(1), active.eq(1)]
                with m.If(queries.last):
                    m.next = "LOADED"
            with m.State("LOADED"):
                m.d.comb += active.eq(1)
                m.d.sync += taking.eq(1)
                m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += active.eq(1)
                with m.If(passed):
                    m.d.sync += [taking.eq(0), values.eq(1)]
                    m.next = "SCORED"
            with m.State("SCORED"):
                m.d.comb += active.eq(1)
                with m.If(~scoring & ~results.draining):
                    m.d.comb += start.eq(1)
                    m.d.sync += taking.eq(1)
                    m.next = "VALUES"
            with m.State("VALUES"):
                m.d.comb += active.eq(1)
                with m.If(passed):
                    m.d.comb += results.invert.eq(1)
                    m.d.sync += taking.eq(0)
                    m.next = "MIXED"
            with m.State("MIXED"), m.If(~mix.busy & results.inverted):
                m.d.comb += results.start.eq(1)
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

    def build_passes(
        self,
        m: Module,
        place: data.View,
        use: data.View,
        halves: list[_Half],
        mix: Mix,
        taking: Signal,
        values: Signal,
        passed: Signal,
        active: Signal,
    ) -> None:
        """Tokens of both streams, K or V, into the array; `passed` when both are at their end."""
        c = self._config
        m.submodules.fetched = fetched = Fetched(config=c)
        m.d.comb += fetched.head_dim_log2.eq(self.geometry.head_dim_log2)
        connect(m, flipped(self.misses), fetched.misses)
        connect(m, flipped(self.words), fetched.words)
        moving = [Signal(name=f"moving_{n}") for n in range(2)]
        done = [Signal(name=f"done_{n}") for n in range(2)]
        if c.history_words:
            m.submodules.history = history = History(config=c)
            connect(m, flipped(self.hits), history.hits)
            kept = history.o
            m.d.comb += [
                history.head_groups.eq(self.geometry.head_groups),
                history.head_group.eq(place.head_group),
                history.values.eq(values),
                history.active.eq(active & ~done[1]),
                history.write.valid.eq(moving[0]),
                history.write.position.eq(self.misses.payload.data.position),
                *(
                    history.write[name].eq(fetched.o.payload[name])
                    for name in ("word", "key_exponent", "value_exponent")
                ),
            ]
        else:  # a stream that is always at its end
            kept = stream.Signature(KvTokenLayout(c)).create()
            m.d.comb += [kept.valid.eq(1), kept.payload.end.eq(1)]

        # A token goes into the array if it is there and, over V, its probability is; it moves on
        # once it was there for both halves of the probability.
        separate = Signal()  # a half of the lanes for each stream
        lower = Signal()  # a V word passes for the second time
        goes = [Signal(name=f"goes_{n}") for n in range(2)]
        offers, ends = [], []
        first = halves[0].probabilities
        m.d.comb += separate.eq(Mux(values, use.quartered, use.split))
        for n, (tokens, end) in enumerate(zip((fetched.o, kept), done, strict=True)):
            due = first.o.valid & (first.source == n)
            if len(halves) > 1:
                due = Mux(use.split, halves[n].probabilities.o.valid, due)
            here = taking & tokens.valid & ~end
            offers.append(here & ~tokens.payload.end & (~values | due))
            ends.append(end | (here & tokens.payload.end))
            m.d.comb += [
                moving[n].eq(goes[n] & (~values | use.split | lower)),
                tokens.ready.eq(moving[n] | (here & tokens.payload.end)),
            ]
            m.d.sync += end.eq(ends[n] & ~passed)
        m.d.comb += [
            passed.eq(taking & ends[0] & ends[1]),
            goes[0].eq(offers[0]),
            goes[1].eq(offers[1] & (separate | ~offers[0])),
            self.array_valid.eq(goes[0] | goes[1]),
            self.array_mode.eq(Mux(values, ArrayMode.MIX, ArrayMode.SCORE)),
            self.hit.eq(moving[1]),
            self.stall_words.eq(
                taking & ~done[0] & fetched.starved & ~self.array_valid & (~values | first.o.valid)
            ),
        ]
        with m.If(values & ~use.split & self.array_valid):
            m.d.sync += lower.eq(~lower)

        # What each half is given.
        quarter = c.lanes // 4
        base = Signal(c.lanes)  # a lane for each query head
        split_lanes = Signal(c.lanes)
        m.d.comb += [
            base.eq((1 << self.query_heads) - 1),
            self.array_lanes.eq(
                Mux(use.split, split_lanes, base & self.array_valid.replicate(c.lanes))
            ),
            mix.valid.eq(self.array_lanes & values.replicate(c.lanes)),
        ]
        words = (self.array_word, self.array_upper_word)
        for n, half in enumerate(halves):
            on, from_kept = Signal(name=f"on_{n}"), Signal(name=f"from_kept_{n}")
            used = base | Mux(values & use.quartered, base << quarter, 0)
            m.d.comb += [
                on.eq(Mux(separate, goes[n], self.array_valid)),
                from_kept.eq(Mux(separate, n, goes[1])),
                split_lanes[half.lanes.start : half.lanes.stop].eq(
                    Mux(on, used[: len(half.lanes)], 0)
                ),
                half.scores.valid.eq(on & ~values),
                half.scores.source.eq(from_kept),
                half.probabilities.o.ready.eq(
                    values & Mux(use.split, moving[n], moving[0] | moving[1])
                ),
            ]
            if c.history_words or half is halves[0]:  # else nobody takes the second word
                token_word = Mux(from_kept, kept.payload.word, fetched.o.payload.word)
                m.d.comb += words[n].eq(Mux(self.attending, token_word, self.linear_word))
            for name in ("key_exponent", "value_exponent"):
                for head in range(c.heads_per_word):
                    m.d.comb += getattr(half.scores, name)[head].eq(
                        Mux(from_kept, kept.payload[name][head], fetched.o.payload[name][head])
                    )
        self.build_operands(m, use, halves, mix, lower, goes[1])

    def build_operands(
        self,
        m: Module,
        use: data.View,
        halves: list[_Half],
        mix: Mix,
        lower: Signal,
        from_kept: Signal,
    ) -> None:
        """The half of a probability that each lane's V word meets."""
        c = self._config
        quarter = c.lanes // 4
        for half in halves:
            for n, lane in enumerate(half.lanes):
                upper = mix.upper[lane]
                m.d.comb += upper.eq(
                    Mux(use.split, Mux(use.quartered, n < quarter, half is halves[0]), ~lower)
                )
                for head in range(c.heads_per_word):
                    p = Signal(PROBABILITY_BITS, name=f"p_{lane}_{head}")
                    m.d.comb += p.eq(half.probabilities.o.payload[n][head])
                    if n < c.lanes // 2:
                        ours, theirs = (h.probabilities.o.payload[n][head] for h in halves)
                        with m.If(use.split & ~use.quartered):
                            m.d.comb += p.eq(Mux(from_kept, theirs, ours))
                    if quarter <= n < 2 * quarter:
                        with m.If(use.quartered):
                            m.d.comb += p.eq(half.probabilities.o.payload[n - quarter][head])
                    m.d.comb += self.array_heads[lane][head].eq(
                        Mux(upper, p[HALF_BITS:], p[:HALF_BITS])
                    )


def _lowest_bit(m: Module, mask: Signal, name: str) -> Signal:
    """Index of the lowest set bit of `mask`."""
    index = Signal(range(max(2, len(mask))), name=name)
    for n in reversed(range(len(mask))):
        with m.If(mask[n]):
            m.d.comb += index.eq(n)
    return index
