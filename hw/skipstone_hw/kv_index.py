"""Where the keys and values of every earlier token lie: version bitmaps, ranks, and the walk.

A token that skips attention in a layer keeps the K and V of the last layer where it stored them,
and each layer's store is packed: a token's place is its rank among those that stored there
(SkipOPU, arXiv 2603.14785, the cross-layer invariance of K and V). One bitmap per token position
says in which layers it stored; walking the positions in order while counting each layer's bits
gives every token's layer and rank without any stored address.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.layout import KV_BLOCK_TOKENS

from .held import HeldVersions
from .layouts import ADDRESS_BITS, ReadCommandLayout, ReadKind, token_shape
from .numeric.pipeline import delay
from .replay import ItemLayout, ReplayList

__all__ = ["KvGeometry", "KvIndex", "MissLayout", "RunLayout", "WalkLayout"]

_RUN_MAX = 64
"""Tokens of the largest exponent word."""
_BLOCK_LOG2 = exact_log2(KV_BLOCK_TOKENS)
_FIRST_RUN_MAX = 4
"""A walk's first run is cut short, so that its read leaves early."""


class KvGeometry(data.StructLayout):
    """Shape of the KV stores (`skipstone.spec.layout.KvLayout`), fixed by GEOMETRY."""

    def __init__(self):
        super().__init__(
            {
                "head_dim_log2": 3,
                "kv_heads": 16,
                "head_groups": 16,
                "group_words": 8,
                "block_words": 24,  # head_groups · group_words
            }
        )


class WalkLayout(data.StructLayout):
    """Attention of position `last` in `layer`: it reads K and V of positions 0 .. `last`."""

    def __init__(self, config: CoreConfig):
        super().__init__({"layer": range(config.max_layers), "last": range(config.max_context)})


class MissLayout(data.StructLayout):
    """A position whose K and V come from memory.

    If it `opens` an exponent word, that precedes its K word; entry `slot` of the last exponent word
    of `layer`, whose version it is, is its own.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "position": range(config.max_context),
                "layer": range(config.max_layers),
                "slot": 6,
                "opens": 1,
            }
        )


class RunLayout(data.StructLayout):
    """`length` misses at consecutive ranks of a layer's store, under one exponent word.

    `opens` if no run of the walk before it lies under that word; `fresh` if the layer is the one
    that attends.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "layer": range(config.max_layers),
                "rank": _rank_shape(config),
                "length": 7,
                "opens": 1,
                "fresh": 1,
            }
        )


class KvIndex(wiring.Component):
    """Version bitmaps of all positions, and the generator of KV read commands.

    A walk visits one position per cycle. A position whose version the history buffer holds
    (`HeldVersions`) is a hit; the others are misses, and neighbours among the misses that lie in
    the same layer at consecutive ranks under the same exponent word are merged into runs. K and V
    of every head group are then read, head group by head group, K before V: a *pass* for each,
    in which every run becomes two reads (its exponent word and its K words) or one (its V words),
    and every position appears in either `misses` or `hits`, in order. Passes begin as soon as the
    walk that they repeat. The next walk begins when it has room; what it keeps, hits after it.

    A chunk lasts from `begin` to `end`. `begin` recounts each layer's stores by one pass over the
    positions before the chunk, one per cycle, unless the chunk continues the last one that ended;
    so it may go back to any earlier position, and what was stored from there on is forgotten.
    `end` moves the chunk's bitmaps into the memory, one per cycle. Neither may come during a walk.

    Where each layer's store begins is kept in a table: addresses are those of the layer in which a
    version was stored, whichever attends.

    Tested with all head sizes; with all, no, alternating and random layers stored; layers that
    attend and do not; sequences shorter and longer than the history buffer; going back; chunks that
    never ended; all sides stalled and at full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    walk : In(stream.Signature(WalkLayout(config)))
        Every visited position must have stored in some layer up to the walk's.
    commands : Out(stream.Signature(ReadCommandLayout()))
    misses : Out(stream.Signature(ItemLayout(MissLayout(config))))
        What the words of the commands belong to, pass by pass.
    hits : Out(stream.Signature(ItemLayout(range(max_context))))
        Positions to be read from the history buffer, pass by pass; silent without one.
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
        The same already in the cycle before `commit`.
    rank_layer : In(range(max_layers))
    rank_first : Out(range(max_context + 1))
        Rank in `rank_layer` of the chunk's first token to store there, until that is committed.
    store_set : In(1)
        Pulse: the store of `store_layer` begins at word `store`. Not during a walk.
    store_layer : In(range(max_layers))
    store : In(ADDRESS_BITS)
    rank_store : Out(ADDRESS_BITS)
        First word of the store of `rank_layer`, one cycle later.
    busy : Out(1)
        `begin` or `end` is not complete; rises in the cycle after the pulse.
    fresh, gaps : Out(range(65))
        Words of K or V asked for in this cycle, stored in the layer that attends and in others.
    idle : Out(1)
        Not busy, no walk under way, and all commands taken.
    """

    walk: stream.Interface
    commands: stream.Interface
    misses: stream.Interface
    hits: stream.Interface
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
    store_set: Signal
    store_layer: Signal
    store: Signal
    rank_store: Signal
    busy: Signal
    fresh: Signal
    gaps: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        layers = range(config.max_layers)
        super().__init__(
            {
                "walk": In(stream.Signature(WalkLayout(config))),
                "commands": Out(stream.Signature(ReadCommandLayout())),
                "misses": Out(stream.Signature(ItemLayout(MissLayout(config)))),
                "hits": Out(stream.Signature(ItemLayout(range(config.max_context)))),
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
                "store_set": In(1),
                "store_layer": In(layers),
                "store": In(ADDRESS_BITS),
                "rank_store": Out(ADDRESS_BITS),
                "busy": Out(1),
                "fresh": Out(range(_RUN_MAX + 1)),
                "gaps": Out(range(_RUN_MAX + 1)),
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

        m.submodules.run_list = runs = ReplayList(config=c, shape=RunLayout(c))
        m.submodules.miss_list = misses = ReplayList(config=c, shape=MissLayout(c))
        connect(m, misses.o, flipped(self.misses))
        hits = None
        if c.history_words:
            m.submodules.hit_list = hits = ReplayList(config=c, shape=range(c.max_context))
            connect(m, hits.o, flipped(self.hits))

        m.submodules.stores = stores = memory.Memory(
            shape=ADDRESS_BITS, depth=c.max_layers, init=[]
        )
        store_write, rank_store = stores.write_port(), stores.read_port()
        m.d.comb += [
            store_write.en.eq(self.store_set),
            store_write.addr.eq(self.store_layer),
            store_write.data.eq(self.store),
            rank_store.addr.eq(self.rank_layer),
            self.rank_store.eq(rank_store.data),
        ]

        walking, emitting = Signal(), Signal()
        self.build_chunk(m, chunk, read, bitmaps.write_port())
        self.build_walk(m, chunk, read, walking, word_log2, runs, misses, hits)
        self.build_commands(m, runs.o, emitting, word_log2, stores.read_port())
        m.d.comb += self.idle.eq(~walking & runs.empty & ~emitting & ~self.busy)
        return m

    def build_chunk(
        self, m: Module, chunk: list[Signal], read: memory.ReadPort, write: memory.WritePort
    ) -> None:
        """Stores of the running chunk, and the two passes over the memory."""
        c = self._config
        layers = range(c.max_layers)
        counts = [Signal(_rank_shape(c), name=f"count_{n}") for n in layers]
        stores = Signal.like(self.count)
        m.d.sync += stores.eq(sum(self.commit_tokens[n] for n in range(c.max_chunk)))
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
        runs: ReplayList,
        misses: ReplayList,
        hits: ReplayList | None,
    ) -> None:
        """Positions → layer and rank → hits, misses and runs. A walk has room, and never stalls."""
        c = self._config
        layers = range(c.max_layers)
        walk = Signal(WalkLayout(c))
        position = Signal(_rank_shape(c))
        issuing = Signal()
        ranks = [Signal(_rank_shape(c), name=f"rank_{n}") for n in layers]
        # Layers whose exponent word at hand was asked for; ranks rise, so it is the last one.
        opened = Signal(c.max_layers)
        lists = [runs, misses] if hits is None else [runs, misses, hits]
        m.d.comb += self.walk.ready.eq(~walking & Cat(replay.room for replay in lists).all())
        with m.If(walking):
            m.d.comb += read.addr.eq(position)
        with m.If(self.walk.valid & self.walk.ready):
            m.d.sync += [walk.eq(self.walk.payload), position.eq(0), walking.eq(1), issuing.eq(1)]
            m.d.sync += [rank.eq(0) for rank in ranks]
            m.d.sync += opened.eq(0)
        with m.If(issuing):
            m.d.sync += position.eq(position + 1)
            with m.If(position == walk.last):
                m.d.sync += issuing.eq(0)

        # 1: the bitmap is read. 2: its layers up to the walk's. 3: the last of these.
        valid = [delay(m, issuing, 1, name="valid1", reset=True)]
        last = [delay(m, position == walk.last, 1, name="last1")]
        for stage in (2, 3):
            valid.append(delay(m, valid[-1], 1, name=f"valid{stage}", reset=True))
            last.append(delay(m, last[-1], 1, name=f"last{stage}"))
        position3 = delay(m, position, 3, name="position")
        in_chunk1 = delay(m, position >= self.position, 1, name="in_chunk")
        bits1 = Signal(c.max_layers)
        bits2, bits3 = Signal.like(bits1), Signal.like(bits1)
        layer3 = Signal(range(c.max_layers))
        m.d.sync += [
            bits1.eq(_pick(m, chunk, (position - self.position)[: token_shape(c).width])),
            bits2.eq(Mux(in_chunk1, bits1, read.data) & Cat(walk.layer >= n for n in layers)),
            bits3.eq(bits2),
        ]
        for n in layers:
            with m.If(bits2[n]):
                m.d.sync += layer3.eq(n)

        # 4: a hit, or a miss by which the run grows, or which begins another.
        rank3 = _pick(m, ranks, layer3)
        hit, miss = Signal(), Signal()
        closing, ending = Signal(), Signal()
        run, growing = Signal(RunLayout(c)), Signal()
        slot = Signal(6)
        opens = Signal()
        extends, grows = Signal(), Signal()
        short = Signal()  # the walk's first run is growing
        m.d.comb += [
            slot.eq(rank3 & ((1 << word_log2) - 1)),
            extends.eq(
                growing & (layer3 == run.layer) & (rank3 == run.rank + run.length) & (slot != 0)
            ),
            grows.eq(extends & ~(short & (run.length == _FIRST_RUN_MAX))),
            miss.eq(valid[-1] & ~hit),
            runs.write.eq((miss & growing & ~grows) | (closing & growing) | ending),
            runs.item.data.eq(run),
            misses.write.eq(miss | ending),
            misses.item.data.position.eq(position3),
            misses.item.data.layer.eq(layer3),
            misses.item.data.slot.eq(slot),
            misses.item.data.opens.eq(opens),
            opens.eq(~opened.bit_select(layer3, 1)),
        ]
        for replay in lists:
            m.d.comb += [
                replay.item.end.eq(ending),
                replay.passes.eq(self.geometry.head_groups << 1),
            ]
        if hits is not None:
            m.submodules.held = held = HeldVersions(config=c)
            m.d.comb += [
                held.head_groups.eq(self.geometry.head_groups),
                held.clear.eq(self.begin),
                held.position.eq(position),
                held.visited.eq(valid[-1]),
                held.version.eq(layer3),
                held.finish.eq(ending),
                hit.eq(held.hit),
                hits.write.eq((valid[-1] & hit) | ending),
                hits.item.data.eq(position3),
            ]
        with m.If(valid[-1]):
            m.d.sync += [rank.eq(rank + bits3[n]) for n, rank in enumerate(ranks)]
            for n, rank in enumerate(ranks):
                with m.If(miss & (layer3 == n)):
                    m.d.sync += opened[n].eq(1)
                with m.If(bits3[n] & ~(~rank & ((1 << word_log2) - 1)).any()):  # the word's last
                    m.d.sync += opened[n].eq(0)
        with m.If(miss):
            m.d.sync += [growing.eq(1), short.eq(~growing | (short & grows))]
            with m.If(grows):
                m.d.sync += run.length.eq(run.length + 1)
            with m.Else():
                m.d.sync += [
                    run.layer.eq(layer3),
                    run.rank.eq(rank3),
                    run.length.eq(1),
                    run.opens.eq(opens),
                    run.fresh.eq(layer3 == walk.layer),
                ]
        m.d.sync += [closing.eq(valid[-1] & last[-1]), ending.eq(closing)]
        with m.If(closing):
            m.d.sync += growing.eq(0)
        with m.If(ending):
            m.d.sync += walking.eq(0)

    def build_commands(
        self,
        m: Module,
        runs: stream.Interface,
        emitting: Signal,
        word_log2: Signal,
        store: memory.ReadPort,
    ) -> None:
        """Passes over the runs of a walk → reads: exponent word and K words, or V words."""
        g = self.geometry
        # The pass at hand; the last one of a walk leaves everything as before the first.
        values, head_group, offset = Signal(), Signal(16), Signal(ADDRESS_BITS)
        # A: the run, its place in a block, and where its layer's store begins. B: the addresses,
        # which leave one by one.
        full_a, full_b = Signal(), Signal()
        take_b, finished = Signal(), Signal()
        run, values_a = Signal(RunLayout(self._config)), Signal()
        exponents_at, data_at = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        accepts = Signal()
        m.d.comb += [
            accepts.eq(runs.valid & runs.ready & ~runs.payload.end),
            store.en.eq(accepts),
            store.addr.eq(runs.payload.data.layer),
            emitting.eq(full_a | full_b),
            runs.ready.eq(runs.payload.end | ~full_a | take_b),
            take_b.eq(full_a & (~full_b | finished)),
        ]
        at = Signal(_BLOCK_LOG2)  # place in its block
        m.d.comb += at.eq(runs.payload.data.rank)
        with m.If(accepts):
            m.d.sync += [
                full_a.eq(1),
                run.eq(runs.payload.data),
                values_a.eq(values),
                exponents_at.eq(offset + Cat(at >> word_log2, Const(2, 2))),
                data_at.eq(offset + Cat(at, values)),
            ]
        with m.Elif(take_b):
            m.d.sync += full_a.eq(0)
        with m.If(runs.valid & runs.payload.end):
            m.d.sync += values.eq(~values)
            with m.If(values):
                m.d.sync += [head_group.eq(head_group + 1), offset.eq(offset + g.group_words)]
                with m.If(head_group + 1 == g.head_groups):
                    m.d.sync += [head_group.eq(0), offset.eq(0)]

        length, exponents_left = Signal.like(run.length), Signal()
        exponent_address, data_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        sent = Signal()
        with m.If(sent):
            m.d.sync += exponents_left.eq(0)
        block = Signal(ADDRESS_BITS)
        m.d.comb += block.eq((run.rank >> _BLOCK_LOG2) * g.block_words)
        with m.If(take_b):
            m.d.sync += [
                full_b.eq(1),
                exponents_left.eq(~values_a & run.opens),
                length.eq(run.length),
                data_address.eq((store.data + data_at) + block),
                exponent_address.eq((store.data + exponents_at) + block),
            ]
            with m.If(run.fresh):
                m.d.comb += self.fresh.eq(run.length)
            with m.Else():
                m.d.comb += self.gaps.eq(run.length)
        with m.Elif(finished):
            m.d.sync += full_b.eq(0)

        out = self.commands
        m.d.comb += [
            out.valid.eq(full_b),
            out.payload.kind.eq(ReadKind.KV),
            out.payload.address.eq(Mux(exponents_left, exponent_address, data_address)),
            out.payload.words.eq(Mux(exponents_left, 1, length)),
            sent.eq(out.valid & out.ready),
            finished.eq(sent & ~exponents_left),
        ]


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
