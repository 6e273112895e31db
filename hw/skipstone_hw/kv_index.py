"""Where the keys and values of every earlier token lie: version bitmaps, ranks, and the walk.

A token that skips attention in a layer keeps the K and V of the last layer where it stored them,
and each layer's store is packed: a token's place is its rank among those that stored there
(SkipOPU, arXiv 2603.14785, the cross-layer invariance of K and V). One bitmap per token position
says in which layers it stored; walking the positions in order while counting each layer's bits
gives every token's layer and rank without any stored address.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig

from .layouts import ADDRESS_BITS, ReadCommandLayout, ReadKind, token_shape

__all__ = ["KvGeometry", "KvIndex", "RunLayout", "WalkLayout"]


class KvGeometry(data.StructLayout):
    """Shape of the KV store (`skipstone.spec.layout.KvLayout`), fixed by GEOMETRY."""

    def __init__(self):
        super().__init__(
            {
                "base": ADDRESS_BITS,
                "capacity": 16,
                "head_dim_log2": 3,
                "kv_heads": 16,
                "head_groups": 16,
                "bank_words": 24,
                "layer_words": ADDRESS_BITS,  # head_groups · bank_words
            }
        )


class WalkLayout(data.StructLayout):
    """Read K (or V) of positions 0 .. `last`, as attention in `layer` sees them, of a head group."""

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "layer": range(config.max_layers),
                "last": range(config.max_context),
                "bank_offset": ADDRESS_BITS,  # head_group · bank_words
                "values": 1,
            }
        )


class RunLayout(data.StructLayout):
    """`length` tokens whose K words follow one exponent word; the first is entry `slot` of it."""

    def __init__(self):
        super().__init__({"slot": 6, "length": 7})


class KvIndex(wiring.Component):
    """Version bitmaps of all positions, and the generator of KV read commands.

    A walk visits one position per cycle and merges neighbours that lie in the same layer at
    consecutive ranks under the same exponent word into runs. Each run of a K walk becomes a
    description in `runs` and two reads: of its exponent word, not before its description is taken,
    and of its K words. Each run of a V walk becomes one read, of its V words. Walks stall only on
    `commands` and `runs`.

    A chunk lasts from `begin` to `end`. `begin` recounts each layer's stores by one pass over the
    positions before the chunk, one per cycle, unless the chunk continues the last one that ended;
    so it may go back to any earlier position, and what was stored from there on is forgotten.
    `end` moves the chunk's bitmaps into the memory, one per cycle. Neither may come during a walk.

    Tested with all head sizes; with all, no, alternating and random layers stored; going back;
    chunks that never ended; both sides stalled and at full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    walk : In(stream.Signature(WalkLayout(config)))
        Every visited position must have stored in some layer up to the walk's.
    commands : Out(stream.Signature(ReadCommandLayout()))
    runs : Out(stream.Signature(RunLayout()))
        The runs of K walks, in order.
    geometry : In(KvGeometry())
    position : In(range(max_context + 1))
        The chunk's first position.
    count : In(range(max_chunk + 1))
        Tokens of the chunk, at least 1.
    begin, end : In(1)
        Pulses.
    commit : In(1)
        Pulse: the tokens `commit_tokens` have stored K and V in `commit_layer`.
    commit_layer : In(range(max_layers))
    commit_tokens : In(max_chunk)
    rank_layer : In(range(max_layers))
    rank_first : Out(range(max_context + 1))
        Rank in `rank_layer` of the chunk's first token to store there, until that is committed.
    busy : Out(1)
        `begin` or `end` is not complete; rises in the cycle after the pulse.
    idle : Out(1)
        Not busy, no walk under way, and all commands taken.
    """

    walk: stream.Interface
    commands: stream.Interface
    runs: stream.Interface
    geometry: data.View
    position: Signal
    count: Signal
    begin: Signal
    end: Signal
    commit: Signal
    commit_layer: Signal
    commit_tokens: Signal
    rank_layer: Signal
    rank_first: Signal
    busy: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        layers = range(config.max_layers)
        super().__init__(
            {
                "walk": In(stream.Signature(WalkLayout(config))),
                "commands": Out(stream.Signature(ReadCommandLayout())),
                "runs": Out(stream.Signature(RunLayout())),
                "geometry": In(KvGeometry()),
                "position": In(unsigned(bits_for(config.max_context))),
                "count": In(unsigned(bits_for(config.max_chunk))),
                "begin": In(1),
                "end": In(1),
                "commit": In(1),
                "commit_layer": In(layers),
                "commit_tokens": In(config.max_chunk),
                "rank_layer": In(layers),
                "rank_first": Out(unsigned(bits_for(config.max_context))),
                "busy": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        layers = c.max_layers
        rank_shape = unsigned(bits_for(c.max_context))

        m.submodules.bitmaps = bitmaps = memory.Memory(
            shape=unsigned(layers), depth=c.max_context, init=[]
        )
        write, read = bitmaps.write_port(), bitmaps.read_port()
        chunk = [Signal(layers, name=f"chunk_{n}") for n in range(c.max_chunk)]
        counts = [Signal(rank_shape, name=f"count_{n}") for n in range(layers)]
        continues_at = Signal(rank_shape)
        coherent = Signal(init=1)

        # Stores of the running chunk.
        stored = Signal(rank_shape)
        m.d.comb += stored.eq(sum(self.commit_tokens[n] for n in range(c.max_chunk)))
        with m.If(self.commit):
            for layer in range(layers):
                with m.If(self.commit_layer == layer):
                    m.d.sync += counts[layer].eq(counts[layer] + stored)
                    m.d.sync += [
                        chunk[n][layer].eq(chunk[n][layer] | self.commit_tokens[n])
                        for n in range(c.max_chunk)
                    ]
        with m.Switch(self.rank_layer):
            for layer in range(layers):
                with m.Case(layer):
                    m.d.comb += self.rank_first.eq(counts[layer])

        # Passes over the memory: recount at the start of a chunk, flush at its end.
        cursor = Signal(rank_shape)
        counted = Signal()  # the read port holds the bitmap of a position to count
        walking = Signal()
        flush_token = Signal(token_shape(c))
        with m.FSM(name="passes"):
            with m.State("IDLE"):
                m.d.sync += cursor.eq(0)
                with m.If(self.begin):
                    m.d.sync += [bits.eq(0) for bits in chunk]
                    m.d.sync += coherent.eq(0)
                    with m.If((self.position != continues_at) | ~coherent):
                        m.d.sync += [count.eq(0) for count in counts]
                        m.next = "RECOUNT"
                with m.Elif(self.end):
                    m.next = "FLUSH"
            with m.State("RECOUNT"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += counted.eq(cursor != self.position)
                m.d.comb += read.addr.eq(cursor)
                with m.If(cursor != self.position):
                    m.d.sync += cursor.eq(cursor + 1)
                with m.If(counted):
                    m.d.sync += [counts[n].eq(counts[n] + read.data[n]) for n in range(layers)]
                with m.Elif(cursor == self.position):
                    m.next = "IDLE"
            with m.State("FLUSH"):
                m.d.comb += [self.busy.eq(1), write.en.eq(1), flush_token.eq(cursor)]
                m.d.comb += write.addr.eq(self.position + cursor)
                with m.Switch(flush_token):
                    for n in range(c.max_chunk):
                        with m.Case(n):
                            m.d.comb += write.data.eq(chunk[n])
                m.d.sync += cursor.eq(cursor + 1)
                with m.If(cursor + 1 == self.count):
                    m.d.sync += [continues_at.eq(self.position + self.count), coherent.eq(1)]
                    m.next = "IDLE"

        word_log2 = Signal(3)  # tokens per exponent word
        m.d.comb += word_log2.eq(self.geometry.head_dim_log2 - 1)
        run, values, offset = self.build_walk(m, chunk, read, walking, word_log2)
        emitting = self.build_commands(m, run, values, offset, word_log2)
        m.d.comb += self.idle.eq(~walking & ~emitting & ~self.busy)
        return m

    def _elaborate_walk(self, m, chunk, read, walking):
        """Positions → (layer, rank) → runs. Returns the run under emission and its handshake."""
        c = self._config
        layers = c.max_layers
        rank_shape = unsigned(bits_for(c.max_context))
        layer_shape = unsigned(bits_for(layers - 1))
        ranks = [Signal(rank_shape, name=f"rank_{n}") for n in range(layers)]

        walk = Signal(WalkLayout(c))
        step = Signal()  # the pipeline advances
        position = Signal(rank_shape)
        issuing = Signal()
        # Stage 1: the bitmap read. Stage 2: layers up to the walk's. Stage 3: layer and rank.
        valid1, valid2, valid3 = Signal(), Signal(), Signal()
        last1, last2, last3 = Signal(), Signal(), Signal()
        from_chunk1 = Signal()
        bits1_chunk, bits2, bits3 = Signal(layers), Signal(layers), Signal(layers)
        layer3 = Signal(layer_shape)

        m.d.comb += self.walk.ready.eq(~walking)
        with m.If(self.walk.valid & self.walk.ready):
            m.d.sync += [walk.eq(self.walk.payload), position.eq(0), walking.eq(1), issuing.eq(1)]
            m.d.sync += [rank.eq(0) for rank in ranks]

        slot = Signal(token_shape(c))
        m.d.comb += slot.eq(position - self.position)
        m.d.comb += read.en.eq(step | ~walking)
        with m.If(walking):
            m.d.comb += read.addr.eq(position)
        with m.If(step):
            m.d.sync += [valid1.eq(issuing), last1.eq(position == walk.last)]
            m.d.sync += from_chunk1.eq(position >= self.position)
            with m.Switch(slot):
                for n in range(c.max_chunk):
                    with m.Case(n):
                        m.d.sync += bits1_chunk.eq(chunk[n])
            with m.If(issuing):
                m.d.sync += position.eq(position + 1)
                with m.If(position == walk.last):
                    m.d.sync += issuing.eq(0)

            visible = Cat(walk.layer >= n for n in range(layers))
            m.d.sync += [valid2.eq(valid1), last2.eq(last1)]
            m.d.sync += bits2.eq(Mux(from_chunk1, bits1_chunk, read.data) & visible)

            m.d.sync += [valid3.eq(valid2), last3.eq(last2), bits3.eq(bits2)]
            for n in range(layers):
                with m.If(bits2[n]):
                    m.d.sync += layer3.eq(n)

        rank3 = Signal(rank_shape)
        with m.Switch(layer3):
            for n in range(layers):
                with m.Case(n):
                    m.d.comb += rank3.eq(ranks[n])

        # Stage 4: merge into the current run, or hand the current run on and start another.
        run = Signal(data.StructLayout({"layer": layer_shape, "rank": rank_shape, "length": 7}))
        open_run, close_run = Signal(), Signal()
        run_valid, run_ready = Signal(), Signal()
        mask = Signal(6)  # tokens per exponent word - 1
        m.d.comb += mask.eq((1 << (self.geometry.head_dim_log2 - 1).as_unsigned()[:3]) - 1)
        extends = Signal()
        m.d.comb += extends.eq(
            open_run
            & (layer3 == run.layer)
            & (rank3 == run.rank + run.length)
            & ((rank3 & mask) != 0)
        )
        breaks = Signal()
        m.d.comb += [
            breaks.eq(valid3 & open_run & ~extends),
            run_valid.eq(breaks | close_run),
            step.eq(walking & ~close_run & (~breaks | run_ready)),
        ]
        with m.If(step & valid3):
            for n in range(layers):
                m.d.sync += ranks[n].eq(ranks[n] + bits3[n])
            with m.If(extends):
                m.d.sync += run.length.eq(run.length + 1)
            with m.Else():
                m.d.sync += [run.layer.eq(layer3), run.rank.eq(rank3), run.length.eq(1)]
            m.d.sync += open_run.eq(1)
            with m.If(last3):
                m.d.sync += [close_run.eq(1), valid1.eq(0), valid2.eq(0), valid3.eq(0)]
        with m.If(close_run & run_ready):
            m.d.sync += [close_run.eq(0), open_run.eq(0), walking.eq(0)]
        return run, mask, walk, run_valid, run_ready

    def _elaborate_commands(self, m, runs_in):
        """A run → its read commands: exponent word and K words, or V words. Returns "busy"."""
        run, mask, walk, run_valid, run_ready = runs_in
        g = self.geometry
        # Stage A: the layer's bank. Stage B: commands out, exponents before keys.
        full_a, full_b, second = Signal(), Signal(), Signal()
        held = Signal.like(run)
        bank_a, offset_a = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        values_a, values_b = Signal(), Signal()
        exponents_b, data_b = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        length_b, slot_b = Signal(7), Signal(6)
        run_sent = Signal()
        take_a, take_b = Signal(), Signal()

        finished = Signal()
        m.d.comb += [take_b.eq(full_a & (~full_b | finished)), run_ready.eq(~full_a | take_b)]
        with m.If(run_valid & run_ready):
            m.d.sync += [
                full_a.eq(1),
                held.eq(run),
                values_a.eq(walk.values),
                bank_a.eq(g.base + run.layer * g.layer_words),
                offset_a.eq(walk.bank_offset),
            ]
        with m.Elif(take_b):
            m.d.sync += full_a.eq(0)

        bank = Signal(ADDRESS_BITS)
        m.d.comb += bank.eq(bank_a + offset_a)
        with m.If(take_b):
            m.d.sync += [
                full_b.eq(1),
                second.eq(0),
                run_sent.eq(0),
                values_b.eq(values_a),
                length_b.eq(held.length),
                slot_b.eq(held.rank & mask),
                data_b.eq(bank + held.rank + Mux(values_a, g.capacity, 0)),
                exponents_b.eq(
                    bank + (g.capacity << 1) + (held.rank >> (g.head_dim_log2 - 1).as_unsigned()[:3])
                ),
            ]
        with m.Elif(finished):
            m.d.sync += full_b.eq(0)

        # The run's description leaves no later than the command for its exponent word.
        out = self.commands
        exponent_turn, run_done, sent = Signal(), Signal(), Signal()
        m.d.comb += [
            exponent_turn.eq(~values_b & ~second),
            self.runs.valid.eq(full_b & exponent_turn & ~run_sent),
            self.runs.payload.slot.eq(slot_b),
            self.runs.payload.length.eq(length_b),
            run_done.eq(run_sent | self.runs.ready),
            out.valid.eq(full_b & (~exponent_turn | run_done)),
            out.payload.kind.eq(ReadKind.KV),
            out.payload.address.eq(Mux(exponent_turn, exponents_b, data_b)),
            out.payload.words.eq(Mux(exponent_turn, 1, length_b)),
            sent.eq(out.valid & out.ready),
            finished.eq(sent & ~exponent_turn),
        ]
        with m.If(self.runs.valid & self.runs.ready):
            m.d.sync += run_sent.eq(1)
        with m.If(sent & exponent_turn):
            m.d.sync += second.eq(1)
        return full_a | full_b
