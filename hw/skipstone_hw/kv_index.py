"""Where the keys and values of every earlier token lie: version bitmaps, ranks, and the walk.

A token that skips attention in a layer keeps the K and V of the last layer where it stored them,
and each layer's store is packed: a token's place is its rank among those that stored there
(SkipOPU, arXiv 2603.14785, the cross-layer invariance of K and V). One bitmap per token position
says in which layers it stored; walking the positions in order while counting each layer's bits
gives every token's layer and rank without any stored address.
"""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, unsigned
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
    """Read K (or V) of positions 0 .. `last`, as attention in `layer` sees them, of a head
    group."""

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


class _PlacedRunLayout(data.StructLayout):
    """`length` tokens at consecutive ranks of a layer's store, for one walk."""

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "layer": range(config.max_layers),
                "rank": _rank_shape(config),
                "length": 7,
                "values": 1,
                "bank_offset": ADDRESS_BITS,
            }
        )


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
        m.submodules.bitmaps = bitmaps = memory.Memory(
            shape=unsigned(c.max_layers), depth=c.max_context, init=[]
        )
        read = bitmaps.read_port()
        chunk = [Signal(c.max_layers, name=f"chunk_{n}") for n in range(c.max_chunk)]
        word_log2 = Signal(3)  # tokens per exponent word
        m.d.comb += word_log2.eq(self.geometry.head_dim_log2 - 1)

        runs = stream.Signature(_PlacedRunLayout(c)).create()
        walking, emitting = Signal(), Signal()
        self.build_chunk(m, chunk, read, bitmaps.write_port())
        self.build_walk(m, chunk, read, walking, word_log2, runs)
        self.build_commands(m, runs, emitting, word_log2)
        m.d.comb += self.idle.eq(~walking & ~emitting & ~self.busy)
        return m

    def build_chunk(
        self, m: Module, chunk: list[Signal], read: memory.ReadPort, write: memory.WritePort
    ) -> None:
        """Stores of the running chunk, and the two passes over the memory."""
        c = self._config
        layers = range(c.max_layers)
        counts = [Signal(_rank_shape(c), name=f"count_{n}") for n in layers]
        stores = Signal.like(self.count)
        m.d.comb += stores.eq(sum(self.commit_tokens[n] for n in range(c.max_chunk)))
        with m.If(self.commit), m.Switch(self.commit_layer):
            for layer in layers:
                with m.Case(layer):
                    m.d.sync += counts[layer].eq(counts[layer] + stores)
                    m.d.sync += [
                        bits[layer].eq(bits[layer] | self.commit_tokens[n])
                        for n, bits in enumerate(chunk)
                    ]
        with m.Switch(self.rank_layer):
            for layer in layers:
                with m.Case(layer):
                    m.d.comb += self.rank_first.eq(counts[layer])

        cursor = Signal(_rank_shape(c))
        counted = Signal()  # the read port shows a bitmap to count
        ended_at, ended = Signal(_rank_shape(c)), Signal(init=1)
        with m.FSM(name="passes"):
            with m.State("IDLE"):
                m.d.sync += cursor.eq(0)
                with m.If(self.begin):
                    m.d.sync += [bits.eq(0) for bits in chunk]
                    m.d.sync += ended.eq(0)
                    with m.If(~ended | (self.position != ended_at)):
                        m.d.sync += [count.eq(0) for count in counts]
                        m.next = "RECOUNT"
                with m.Elif(self.end):
                    m.next = "FLUSH"
            with m.State("RECOUNT"):
                m.d.comb += [self.busy.eq(1), read.addr.eq(cursor)]
                m.d.sync += counted.eq(cursor != self.position)
                with m.If(cursor != self.position):
                    m.d.sync += cursor.eq(cursor + 1)
                with m.If(counted):
                    m.d.sync += [counts[n].eq(counts[n] + read.data[n]) for n in layers]
                with m.Elif(cursor == self.position):
                    m.next = "IDLE"
            with m.State("FLUSH"):
                m.d.comb += [
                    self.busy.eq(1),
                    write.en.eq(1),
                    write.addr.eq(self.position + cursor),
                    write.data.eq(_pick(m, chunk, cursor)),
                ]
                m.d.sync += cursor.eq(cursor + 1)
                with m.If(cursor + 1 == self.count):
                    m.d.sync += [ended_at.eq(self.position + self.count), ended.eq(1)]
                    m.next = "IDLE"

    def build_walk(
        self,
        m: Module,
        chunk: list[Signal],
        read: memory.ReadPort,
        walking: Signal,
        word_log2: Signal,
        runs: stream.Interface,
    ) -> None:
        """Positions → layer and rank → runs."""
        c = self._config
        layers = range(c.max_layers)
        walk = Signal(WalkLayout(c))
        position = Signal(_rank_shape(c))
        issuing = Signal()
        ranks = [Signal(_rank_shape(c), name=f"rank_{n}") for n in layers]
        step = Signal()  # the pipeline advances
        m.d.comb += [self.walk.ready.eq(~walking), read.en.eq(step | ~walking)]
        with m.If(walking):
            m.d.comb += read.addr.eq(position)
        with m.If(self.walk.valid & self.walk.ready):
            m.d.sync += [walk.eq(self.walk.payload), position.eq(0), walking.eq(1), issuing.eq(1)]
            m.d.sync += [rank.eq(0) for rank in ranks]

        # 1: the bitmap is read. 2: its layers up to the walk's. 3: the last of these.
        valid1, valid2, valid3 = Signal(), Signal(), Signal()
        last1, last2, last3 = Signal(), Signal(), Signal()
        in_chunk1 = Signal()
        bits1, bits2, bits3 = (Signal(c.max_layers, name=f"bits{n}") for n in (1, 2, 3))
        layer3 = Signal(range(c.max_layers))
        with m.If(step):
            m.d.sync += [
                valid1.eq(issuing),
                last1.eq(position == walk.last),
                in_chunk1.eq(position >= self.position),
                bits1.eq(_pick(m, chunk, (position - self.position)[: token_shape(c).width])),
            ]
            with m.If(issuing):
                m.d.sync += position.eq(position + 1)
                with m.If(position == walk.last):
                    m.d.sync += issuing.eq(0)

            visible = Cat(walk.layer >= n for n in layers)
            m.d.sync += [
                valid2.eq(valid1),
                last2.eq(last1),
                bits2.eq(Mux(in_chunk1, bits1, read.data) & visible),
            ]

            m.d.sync += [valid3.eq(valid2), last3.eq(last2), bits3.eq(bits2)]
            for n in layers:
                with m.If(bits2[n]):
                    m.d.sync += layer3.eq(n)

        # 4: the run grows, or is handed on for another to begin.
        run = runs.payload
        rank3 = _pick(m, ranks, layer3)
        growing, closing = Signal(), Signal()
        extends, breaks = Signal(), Signal()
        m.d.comb += [
            extends.eq(
                growing
                & (layer3 == run.layer)
                & (rank3 == run.rank + run.length)
                & ((rank3 & ((1 << word_log2) - 1)) != 0)
            ),
            breaks.eq(valid3 & growing & ~extends),
            runs.valid.eq(breaks | closing),
            step.eq(walking & ~closing & (~breaks | runs.ready)),
        ]
        with m.If(step & valid3):
            m.d.sync += [rank.eq(rank + bits3[n]) for n, rank in enumerate(ranks)]
            m.d.sync += growing.eq(1)
            with m.If(extends):
                m.d.sync += run.length.eq(run.length + 1)
            with m.Else():
                m.d.sync += [
                    run.layer.eq(layer3),
                    run.rank.eq(rank3),
                    run.length.eq(1),
                    run.values.eq(walk.values),
                    run.bank_offset.eq(walk.bank_offset),
                ]
            with m.If(last3):
                m.d.sync += [closing.eq(1), valid1.eq(0), valid2.eq(0), valid3.eq(0)]
        with m.If(closing & runs.ready):
            m.d.sync += [closing.eq(0), growing.eq(0), walking.eq(0)]

    def build_commands(
        self, m: Module, runs: stream.Interface, emitting: Signal, word_log2: Signal
    ) -> None:
        """A run → its description and reads: exponent word and K words, or V words."""
        g = self.geometry
        # A: the layer's bank. B: the addresses, which leave one after the other.
        full_a, full_b = Signal(), Signal()
        take_b, finished = Signal(), Signal()
        run = Signal.like(runs.payload)
        layer_bank = Signal(ADDRESS_BITS)
        m.d.comb += [
            emitting.eq(full_a | full_b),
            runs.ready.eq(~full_a | take_b),
            take_b.eq(full_a & (~full_b | finished)),
        ]
        with m.If(runs.valid & runs.ready):
            m.d.sync += [
                full_a.eq(1),
                run.eq(runs.payload),
                layer_bank.eq(g.base + runs.payload.layer * g.layer_words),
            ]
        with m.Elif(take_b):
            m.d.sync += full_a.eq(0)

        bank = Signal(ADDRESS_BITS)
        values, length, slot = Signal(), Signal.like(run.length), Signal(6)
        exponent_address, data_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        told, exponents_read = Signal(), Signal()
        m.d.comb += bank.eq(layer_bank + run.bank_offset)
        with m.If(take_b):
            m.d.sync += [
                full_b.eq(1),
                told.eq(0),
                exponents_read.eq(0),
                values.eq(run.values),
                length.eq(run.length),
                slot.eq(run.rank & ((1 << word_log2) - 1)),
                data_address.eq(bank + run.rank + Mux(run.values, g.capacity, 0)),
                exponent_address.eq(bank + (g.capacity << 1) + (run.rank >> word_log2)),
            ]
        with m.Elif(finished):
            m.d.sync += full_b.eq(0)

        out, described = self.commands, self.runs
        exponents_next, sent = Signal(), Signal()
        m.d.comb += [
            exponents_next.eq(~values & ~exponents_read),
            described.valid.eq(full_b & exponents_next & ~told),
            described.payload.slot.eq(slot),
            described.payload.length.eq(length),
            out.valid.eq(full_b & (~exponents_next | told | described.ready)),
            out.payload.kind.eq(ReadKind.KV),
            out.payload.address.eq(Mux(exponents_next, exponent_address, data_address)),
            out.payload.words.eq(Mux(exponents_next, 1, length)),
            sent.eq(out.valid & out.ready),
            finished.eq(sent & ~exponents_next),
        ]
        with m.If(full_b & exponents_next):
            with m.If(described.ready):
                m.d.sync += told.eq(1)
            with m.If(sent):
                m.d.sync += exponents_read.eq(1)


def _rank_shape(config: CoreConfig) -> Shape:
    """A position, a rank, or their number."""
    return unsigned(bits_for(config.max_context))


def _pick(m: Module, values: list[Signal], index: Value) -> Signal:
    """``values[index]``."""
    picked = Signal.like(values[0], name="picked", init=0)
    with m.Switch(index):
        for n, value in enumerate(values):
            with m.Case(n):
                m.d.comb += picked.eq(value)
    return picked
