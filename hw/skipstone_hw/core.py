"""The core: units wired in token order, and what happens when one of them fails."""

from typing import Any

from amaranth import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode

from .activations import Activations
from .array import Array, ArrayMode
from .attention import Attend
from .control import Control
from .counters import Counters
from .decisions import Decisions
from .embed import Embed, Repass
from .epilogue import Epilogue
from .grant import WeightGrant
from .kv_index import KvIndex
from .kv_writer import KvWriter
from .layouts import PairKind, ProbeSignature, ReadKind
from .linear import Linear
from .logits import LogitsWriter
from .memory.axi import AxiLiteSignature, AxiSignature, forward
from .memory.reader import Reader
from .memory.writer import Writer
from .packer import Packer
from .parts import Parts
from .program import Program
from .reductions import Reductions
from .regions import REGION_1, Boundary, crossing_signals, crossing_streams
from .report import Report
from .sequencer import Sequencer
from .supervisor import Supervisor

__all__ = ["Core"]


class Core(wiring.Component):
    """The overlay processor.

    With `region_registers`, what units of one super logic region have for those of the other goes
    through the `Boundary` of each.

    Parameters
    ----------
    config : CoreConfig
    probe : bool
        Bring out `probe`.

    Members
    -------
    s_axi_control : In(AxiLiteSignature())
        Registers (`skipstone.spec.registers`), `ap_ctrl_hs`.
    m_axi : Out(AxiSignature(data_bits=port_bits)).array(ports)
        Memory; a word is one beat of every port.
    interrupt : Out(1)
    probe : Out(ProbeSignature(config))
        What leaves the epilogue; present with `probe` only. Wires, no logic.
    """

    s_axi_control: Any
    m_axi: Any
    interrupt: Signal
    probe: Any

    def __init__(self, *, config: CoreConfig, probe: bool = False):
        self._config, self._probe = config, probe
        members = {
            "s_axi_control": In(AxiLiteSignature()),
            "m_axi": Out(AxiSignature(data_bits=config.port_bits)).array(config.ports),
            "interrupt": Out(1),
        }
        if probe:
            members["probe"] = Out(ProbeSignature(config))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        c = self._config
        self._reset = Signal()  # of everything between control and memory ports
        # Each region's end of the boundary between them, if it has registers.
        self._near: list[Any] = []
        resets = [self._reset, self._reset]
        if c.region_registers:
            boundaries = [Boundary(config=c, region=n) for n in range(2)]
            self._near = [boundary.near for boundary in boundaries]
            resets[1] = self._near[1].reset

        def unit(name, component):
            setattr(self, f"_{name}", component)
            m.submodules[name] = ResetInserter(resets[name in REGION_1])(component)

        # Control and memory ports outlive a failed run.
        self._control = m.submodules.control = Control(config=c)
        self._counters = m.submodules.counters = Counters(config=c)
        self._supervisor = m.submodules.supervisor = Supervisor(config=c, sources=4)
        self._reader = m.submodules.reader = Reader(config=c)
        self._writer = m.submodules.writer = Writer(config=c)
        for name, kind in (
            ("program", Program),
            ("sequencer", Sequencer),
            ("decisions", Decisions),
            ("embed", Embed),
            ("repass", Repass),
            ("array", Array),
            ("linear", Linear),
            ("attend", Attend),
            ("kv_index", KvIndex),
            ("epilogue", Epilogue),
            ("packer", Packer),
            ("activations", Activations),
            ("reductions", Reductions),
            ("kv_writer", KvWriter),
            ("logits", LogitsWriter),
            ("report", Report),
        ):
            unit(name, kind(config=c))
        if c.region_registers:
            for n, boundary in enumerate(boundaries):
                unit(f"boundary_{n}", boundary)
            unit("grant", WeightGrant())
            connect(m, boundaries[0].far, boundaries[1].far)

        self._build_events(m)
        self._build_parameters(m)
        self._build_read_side(m)
        self._build_array(m)
        self._build_outputs(m)
        self._build_write_side(m)
        self._build_sequencing(m)
        self._build_barriers(m)
        self._build_runs(m)
        self._build_counters(m)
        return m

    def _cross(self, m, name, source, sink):
        """Connect a stream to where it goes in the other region."""
        if self._near:
            to, _ = crossing_streams(self._config)[name]
            connect(m, source, getattr(self._near[1 - to], name))
            source = getattr(self._near[to], name)
        connect(m, source, sink)

    def _over(self, m, name, signal):
        """A signal as the other region sees it."""
        if not self._near:
            return signal
        to, _ = crossing_signals(self._config)[name]
        m.d.comb += getattr(self._near[1 - to], name).eq(signal)
        return getattr(self._near[to], name)

    def _build_events(self, m):
        """What happens where the array is, for the counters."""
        linear, attend = self._linear, self._attend
        self._events: Any = {
            "array_busy": linear.busy | attend.array_valid,
            "stall_memory": linear.stall_words | attend.stall_words,
            "stall_epilogue": linear.stall_drain,
            "history_hits": attend.hit,
        }
        if self._near:
            here, there = (near.events for near in self._near)
            m.d.comb += [there[name].eq(event) for name, event in self._events.items()]
            self._events = here

    def _build_parameters(self, m):
        """What the program fixed, to every unit that needs it."""
        s = self._sequencer
        kv = s.geometry.kv
        far_kv = self._over(m, "geometry", kv)
        far_position = self._over(m, "position", s.position)
        hidden_pairs = Signal(16)
        m.d.comb += hidden_pairs.eq(s.geometry.hidden_groups * (self._config.group // 2))
        m.d.comb += [
            u.head_dim_log2.eq(geometry.head_dim_log2)
            for u, geometry in (
                (self._embed, kv), (self._array, far_kv), (self._epilogue, kv), (self._packer, kv),
                (self._activations, far_kv), (self._kv_writer, kv),
            )
        ]  # fmt: skip
        m.d.comb += [
            u.position.eq(position)
            for u, position in (
                (self._embed, s.position), (self._attend, far_position),
                (self._kv_index, s.position), (self._report, s.position),
            )
        ]  # fmt: skip
        m.d.sync += [  # what changes with the chunk is asked for by its first instruction
            u.count.eq(s.count)
            for u in (self._embed, self._decisions, self._kv_index, self._report)
        ]
        m.d.comb += [
            self._attend.geometry.eq(far_kv),
            self._attend.query_heads.eq(self._over(m, "query_heads", s.geometry.query_heads)),
            self._kv_index.geometry.eq(kv),
            self._embed.tables.eq(s.tables),
            self._embed.input_address.eq(self._program.instruction.address),
            self._embed.token.eq(s.next_token),
            self._embed.fed_back.eq(s.fed_back),
            self._embed.hidden_pairs.eq(hidden_pairs),
            self._repass.hidden_pairs.eq(hidden_pairs),
            self._reductions.hidden_groups.eq(s.geometry.hidden_groups),
            self._reductions.inv_hidden.eq(s.geometry.inv_hidden),
            self._reductions.epsilon.eq(s.geometry.epsilon),
            self._reductions.norm_token.eq(self._over(m, "norm_token", self._linear.norm_token)),
            self._linear.norm.eq(self._over(m, "norm", self._reductions.norm)),
        ]

    def _build_read_side(self, m):
        """Read commands to the reader; its words to whoever asked for them."""
        s = self._sequencer
        _first_of(
            m,
            self._reader.commands,
            self._kv_index.commands,
            self._embed.commands,
            self._program.commands,
            s.reads,
        )
        words = self._reader.words
        weights = words.payload.kind == ReadKind.WEIGHTS
        keys_values = words.payload.kind == ReadKind.KV
        data = words.payload.data
        if self._near:
            far_words = Cat(data, weights)
            takers = [
                (self._near[0].words, (weights & ~s.dropping & self._grant.open) | keys_values,
                 far_words),
            ]  # fmt: skip
        else:
            takers = [
                (self._linear.words, weights & ~s.dropping, data),
                (self._attend.words, keys_values, data),
            ]
        m.submodules.parts = parts = Parts(config=self._config, takers=3)
        m.d.comb += parts.turn.eq(s.target)
        takers.append((parts.i, words.payload.kind == ReadKind.OTHER, data))
        # In the order of `WordTarget`.
        part_takers = (self._program.words, self._reductions.load, self._embed.words)
        for part, taker in zip(parts.o, part_takers, strict=True):
            connect(m, part, taker)
        for taker, mine, payload in takers:
            m.d.comb += [taker.valid.eq(words.valid & mine), taker.payload.eq(payload)]
            with m.If(mine):
                m.d.comb += words.ready.eq(taker.ready)
        with m.If(weights & s.dropping):
            m.d.comb += words.ready.eq(1)
        m.d.comb += s.dropped.eq(words.valid & weights & s.dropping)
        if self._near:
            self._build_far_words(m, (_moves(self._near[0].words) & weights) | s.dropped)

    def _build_far_words(self, m, gone):
        """Weights leave with their LINEAR; in region 1 they part from keys and values."""
        reads, grant, words = self._sequencer.reads, self._grant, self._near[1].words
        of_weights = _moves(reads) & (reads.payload.kind == ReadKind.WEIGHTS)
        m.d.sync += grant.requested.eq(Mux(of_weights, reads.payload.words, 0))
        m.d.comb += [
            grant.issued.eq(_moves(self._sequencer.linear)),
            grant.gone.eq(gone),
        ]
        weights = words.payload.weights
        for taker, mine in ((self._linear.words, weights), (self._attend.words, ~weights)):
            m.d.comb += [taker.valid.eq(words.valid & mine), taker.payload.eq(words.payload.data)]
            with m.If(mine):
                m.d.comb += words.ready.eq(taker.ready)

    def _build_array(self, m):
        """The array and the activation buffer, shared by LINEAR and ATTEND."""
        array, linear, attend = self._array, self._linear, self._attend
        attending = attend.attending
        m.d.comb += [
            array.valid.eq(Mux(attending, attend.array_valid, linear.array_valid)),
            array.mode.eq(Mux(attending, attend.array_mode, ArrayMode.LINEAR)),
            attend.linear_word.eq(linear.array_word),
            array.word.eq(attend.array_word),
            array.upper_word.eq(attend.array_upper_word),
            array.lane_enable.eq(Mux(attending, attend.array_lanes, linear.array_lanes)),
            array.rows.eq(linear.array_rows),
            array.bytes.eq(attend.array_bytes),
            array.heads.eq(attend.array_heads),
            linear.sums.eq(array.sums),
            attend.sums.eq(array.sums),
            *(a.eq(b) for a, b in zip(attend.products, array.products, strict=True)),
        ]
        for lane in range(self._config.lanes):
            shared = self._activations.lanes[lane]
            mine, theirs = attend.lanes[lane], linear.lanes[lane]
            for name in ("en", "region", "token", "word", "group"):
                m.d.comb += getattr(shared, name).eq(
                    Mux(attending, getattr(mine, name), getattr(theirs, name))
                )
            for reader in (mine, theirs):
                m.d.comb += [
                    reader.mantissas.eq(shared.mantissas),
                    reader.exponent.eq(shared.exponent),
                    reader.exponent_max.eq(shared.exponent_max),
                ]

    def _build_outputs(self, m):
        """Pairs through epilogue and packer to where they are wanted."""
        products = [self._linear.o, self._attend.o]
        if self._near:
            _first_of(m, self._near[1].pairs, *products)
            products = [self._near[0].pairs]
        _first_of(m, self._epilogue.i, *products, self._embed.o, self._repass.o)
        connect(m, self._embed.rope_write, self._epilogue.rope_write)

        floats = self._epilogue.o
        is_logits = floats.payload.kind == PairKind.LOGITS
        for taker, mine in ((self._packer.i, ~is_logits), (self._logits.i, is_logits)):
            m.d.comb += [taker.valid.eq(floats.valid & mine), taker.payload.eq(floats.payload)]
            with m.If(mine):
                m.d.comb += floats.ready.eq(taker.ready)

        if self._probe:
            m.d.comb += [
                self.probe.valid.eq(_moves(floats)),
                *(
                    getattr(self.probe, name).eq(getattr(floats.payload, name))
                    for name in ("value", "kind", "token", "index")
                ),
            ]

        pairs = self._packer.o
        to_kv = Signal()
        m.d.comb += to_kv.eq(
            (pairs.payload.kind == PairKind.KEY) | (pairs.payload.kind == PairKind.VALUE)
        )
        # Activations and reductions never stall; the way to another region may.
        goes = Const(1, 1)
        kept = self._activations.i
        if self._near:
            kept = self._near[0].mantissas
            goes = kept.ready
            connect(m, self._near[1].mantissas, self._activations.i)
        for taker, mine in (
            (kept, ~to_kv),
            (self._reductions.i, ~to_kv & goes if self._near else ~to_kv),
            (self._kv_writer.i, to_kv),
        ):
            m.d.comb += [taker.valid.eq(pairs.valid & mine), taker.payload.eq(pairs.payload)]
        m.d.comb += pairs.ready.eq(Mux(to_kv, self._kv_writer.i.ready, goes))

    def _build_write_side(self, m):
        _first_of(m, self._writer.i, self._kv_writer.o, self._logits.o, self._report.o)
        for p in range(self._config.ports):
            forward(m, inner=self._reader.m_axi[p], outer=flipped(self.m_axi[p]))
            forward(m, inner=self._writer.m_axi[p], outer=flipped(self.m_axi[p]))
            for side in (self._reader, self._writer):
                m.d.comb += side.port_base[p].eq(self._control.port_base[p])
        for side in (self._reader, self._writer):
            m.d.comb += side.memory_words.eq(self._control.parameters.memory_words)

    def _build_sequencing(self, m):
        s, program, index = self._sequencer, self._program, self._kv_index
        kv, decisions = s.geometry.kv, self._decisions
        writer = self._kv_writer
        reading = self._attend.reading
        if self._near:
            here, there = self._near
            reading = self._over(m, "reading", reading | there.walk_pending)
            reading = reading | here.attend_command_pending
        # Late by a cycle, and yet long before the instruction after ATTEND asks.
        m.d.sync += s.attend_reading.eq(reading | ~index.idle)
        # A stored token's rank, `KvWriter.RANK_CYCLES` after it is asked for.
        chunk = range(self._config.max_chunk)
        earlier, first = Signal(len(chunk)), Signal.like(index.rank_first)
        m.d.sync += [
            earlier.eq(s.store_tokens & ((1 << writer.rank_token) - 1)),
            first.eq(index.rank_first),
        ]
        counts = []
        for part in (chunk[n : n + 16] for n in chunk[::16]):
            count = Signal(range(len(part) + 1), name=f"earlier_{part.start}")
            m.d.sync += count.eq(sum(earlier[n] for n in part))
            counts.append(count)
        m.d.sync += writer.rank.eq(first + sum(counts))
        m.d.comb += [
            s.parameters.eq(self._control.parameters),
            # Program.
            program.load.eq(s.program_load),
            program.fetch.eq(s.program_fetch),
            program.pc.eq(s.pc),
            program.address.eq(self._control.parameters.program_address),
            program.length.eq(self._control.parameters.program_length),
            s.program_loaded.eq(program.loaded),
            s.instruction.eq(program.instruction),
            s.instruction_ready.eq(program.ready),
            s.crc_ok.eq(program.crc_ok),
            s.well_formed.eq(program.well_formed),
            # Chunk.
            decisions.clear.eq(s.begin),
            decisions.record.eq(self._embed.record),
            decisions.record_index.eq(self._embed.record_index),
            decisions.record_valid.eq(self._embed.record_valid),
            decisions.route.eq(s.route),
            decisions.layer.eq(s.route_layer),
            decisions.skip_attention.eq(self._reductions.skip_attention),
            decisions.skip_mlp.eq(self._reductions.skip_mlp),
            s.present.eq(decisions.present),
            s.attention.eq(decisions.attention),
            s.mlp.eq(decisions.mlp),
            index.begin.eq(s.begin),
            index.end.eq(s.end),
            index.commit.eq(s.commit),
            index.commit_layer.eq(s.commit_layer),
            index.commit_tokens.eq(s.commit_tokens),
            s.index_busy.eq(index.busy),
            self._embed.start.eq(s.embed),
            self._repass.start.eq(s.repass),
            self._repass.token.eq(s.repass_token),
            s.written.eq(self._reductions.written),
            # Stores: a token's rank is the layer's count and how many chunk tokens precede it.
            index.rank_layer.eq(s.store_layer),
            self._logits.write.eq(s.logits.write),
            self._logits.all_rows.eq(s.logits.all_rows),
            self._logits.base.eq(s.logits.base),
            self._logits.row_words.eq(s.logits.row_words),
            self._logits.vocabulary.eq(s.logits.vocabulary),
            self._logits.token.eq(Mux(self._report.idle, s.count - 1, self._report.index)),
            self._report.argmax.eq(Mux(s.no_output, 0, self._logits.argmax)),
            s.argmax.eq(self._report.argmax),
            s.rank_first.eq(index.rank_first),
            index.store_set.eq(s.route),
            index.store_layer.eq(s.route_layer),
            index.store.eq(program.instruction.a),
            writer.store.eq(index.rank_store),
            writer.group_words.eq(kv.group_words),
            writer.block_words.eq(kv.block_words),
            # Report.
            self._report.start.eq(s.report),
            self._report.base.eq(s.tables.records),
            self._report.every_token.eq(s.logits.all_rows),
            self._embed.token_index.eq(self._report.index),
            decisions.report_index.eq(self._report.index),
            self._report.token_id.eq(self._embed.token_id),
            self._report.attention_map.eq(decisions.attention_map),
            self._report.mlp_map.eq(decisions.mlp_map),
        ]
        self._cross(m, "linear_command", self._sequencer.linear, self._linear.command)
        self._cross(m, "attend_command", self._sequencer.attend, self._attend.command)
        self._cross(m, "walk", self._attend.walk, index.walk)
        self._cross(m, "misses", index.misses, self._attend.misses)
        self._cross(m, "hits", index.hits, self._attend.hits)

    def _build_barriers(self, m):
        """Quiet: no unit has anything in work."""
        s = self._sequencer
        loading = Signal()  # a router record was asked for and is not yet in
        with m.If(s.router_load):
            m.d.sync += loading.eq(1)
        with m.Elif(
            self._reset | (_moves(self._reductions.load) & self._reader.words.payload.last)
        ):
            m.d.sync += loading.eq(0)
        quiet = ~loading
        far = (self._linear, self._attend, self._activations)
        for unit in (
            self._embed, self._repass, self._linear, self._attend, self._kv_index, self._epilogue,
            self._packer, self._activations, self._reductions, self._kv_writer, self._logits,
            self._report, self._writer,
        ):  # fmt: skip
            if not (self._near and unit in far):
                quiet = quiet & unit.idle
        if self._near:
            far_quiet = self._boundary_1.settled
            for unit in far:
                far_quiet = far_quiet & unit.idle
            quiet = quiet & self._over(m, "idle", far_quiet) & self._boundary_0.settled
        m.d.comb += s.quiet.eq(quiet)

    def _build_runs(self, m):
        """Start, done and errors between control, supervisor and sequencer."""
        s, control, supervisor = self._sequencer, self._control, self._supervisor
        reader, writer = self._reader, self._writer
        moved = Cat(
            _moves(reader.words),
            _moves(writer.i),
            _moves(self._epilogue.i),
            _moves(self._packer.o),
            s.retired,
            self._kv_index.busy,
            self._events["history_hits"],
        )
        progress = Signal.like(moved)
        m.d.sync += progress.eq(moved)
        token_range = supervisor.errors[0]
        m.d.comb += [
            token_range.valid.eq(self._embed.bad_token),
            token_range.code.eq(int(CoreErrorCode.TOKEN_RANGE)),
            *(
                report.eq(unit.error)
                for report, unit in zip(
                    list(supervisor.errors)[1:], (s, writer, reader), strict=True
                )
            ),
            supervisor.start.eq(control.start),
            supervisor.soft_reset.eq(control.soft_reset),
            supervisor.finished.eq(s.done),
            supervisor.drained.eq(reader.idle & writer.idle),
            supervisor.watchdog_cycles.eq(control.parameters.watchdog_cycles),
            supervisor.progress.eq(progress.any()),
            supervisor.pc.eq(s.pc),
            supervisor.tokens_done.eq(s.tokens_done),
            supervisor.next_token.eq(s.next_token),
            s.start.eq(supervisor.begin),
            reader.abort.eq(supervisor.abort),
            writer.abort.eq(supervisor.abort),
            self._reset.eq(supervisor.reset),
            *(near.reset.eq(self._reset) for near in self._near[:1]),
            control.done.eq(supervisor.done),
            control.status.eq(supervisor.status),
            control.drained.eq(supervisor.drained),
            control.counters.eq(self._counters.values),
            self._counters.clear.eq(control.start),
            self.interrupt.eq(control.interrupt),
        ]
        connect(m, flipped(self.s_axi_control), control.s_axi_control)

    def _build_counters(self, m):
        """What each counter counts."""
        s, add = self._sequencer, self._counters.increments
        words, events = self._reader.words, self._events
        weights = _moves(self._linear.words)
        if self._near:
            weights = _moves(words) & (words.payload.kind == ReadKind.WEIGHTS) & ~s.dropping
        routed, busy = Signal(), Signal()
        m.d.sync += routed.eq(s.route)
        present = Signal.like(s.count)
        m.d.comb += present.eq(Mux(routed, s.count, 0))
        m.d.comb += [
            add.cycles.eq(self._supervisor.running),
            busy.eq(events["array_busy"]),
            add.array_busy.eq(busy),
            add.stall_memory.eq(events["stall_memory"]),
            add.stall_epilogue.eq(events["stall_epilogue"]),
            add.stall_barrier.eq(s.waiting & ~busy),
            add.stall_kv_write.eq(self._kv_writer.i.valid & ~self._kv_writer.i.ready),
            add.words_weights.eq(weights),
            add.words_unneeded.eq(s.dropped),
            add.words_kv.eq(_moves(words) & (words.payload.kind == ReadKind.KV)),
            add.words_other.eq(_moves(words) & (words.payload.kind == ReadKind.OTHER)),
            add.words_written.eq(_moves(self._writer.i)),
            add.instructions.eq(s.retired),
            add.instructions_skipped.eq(s.skipped),
            add.errors.eq(self._supervisor.failed),
            add.history_hits.eq(events["history_hits"]),
            add.history_gaps.eq(self._kv_index.gaps),
            add.history_fresh.eq(self._kv_index.fresh),
        ]
        for module in ("attention", "mlp"):
            executed = Mux(routed, getattr(self._decisions, f"executed_{module}"), 0)
            m.d.comb += [
                add[f"{module}_executed"].eq(executed),
                add[f"{module}_skipped"].eq(present - executed),
            ]


def _moves(transfer):
    """A stream passes on its payload in this cycle."""
    return transfer.valid & transfer.ready


def _first_of(m, sink, *sources):
    """Join streams that are not used at the same time; the first valid one goes."""
    taken = Const(0, 1)
    for source in sources:
        m.d.comb += source.ready.eq(sink.ready & ~taken)
        with m.If(source.valid & ~taken):
            m.d.comb += [sink.valid.eq(1), sink.payload.eq(source.payload)]
        taken = taken | source.valid
