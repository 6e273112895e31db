"""The sequencer: walks the program, predicates it, and keeps the reader ahead of the array.

Each instruction goes through the same steps: fetched and checked, its tokens selected (none:
skipped, and nothing of it is read), its reads handed to the stream reader, then, behind its barrier
if it has one, issued to its unit. Reads are requested before the barrier, so that the next matrix
streams in while the previous unit still drains (decoupled access and execute; Smith, ISCA 1982).

ROUTE names the matrix that follows if attention is executed. Its first words are requested before
the decision is known; if no token needs it, they are dropped as they come. So a wrong guess costs
`prefetch_words` words at the most.
"""

from typing import Any

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode
from skipstone.spec.isa import Epilogue, Flag, Opcode, Select
from skipstone.spec.layout import KV_BLOCK_TOKENS
from skipstone.spec.registers import Mode

from .attention import AttendCommand
from .control import ParameterLayout
from .embed import TablesLayout
from .kv_index import KvGeometry
from .layouts import ADDRESS_BITS, ErrorLayout, ReadCommandLayout, ReadKind, token_shape
from .legality import Legality
from .linear import LinearCommand
from .program import InstructionLayout, flag

__all__ = ["GeometryLayout", "LogitsLayout", "Sequencer", "WordTarget"]


class WordTarget(enum.Enum, shape=unsigned(2)):  # type: ignore[call-arg]
    """Who takes words that are neither weights nor KV."""

    PROGRAM = 0
    ROUTER = 1
    EMBED = 2


class GeometryLayout(data.StructLayout):
    """The model's shape, fixed by GEOMETRY."""

    def __init__(self):
        super().__init__(
            {
                "kv": KvGeometry(),
                "longest": 16,  # sequence, in tokens
                "hidden_groups": 16,
                "query_heads": 5,  # per KV head
                "inv_hidden": 32,
                "epsilon": 32,
            }
        )


class LogitsLayout(data.StructLayout):
    """Where logits go."""

    def __init__(self):
        super().__init__(
            {"base": ADDRESS_BITS, "row_words": 16, "vocabulary": 32, "write": 1, "all_rows": 1}
        )


class Sequencer(wiring.Component):
    """Program walker.

    `BARRIER_CYCLES` consecutive quiet cycles pass a barrier, which covers the registers between
    units.

    Tested through whole programs.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    start : In(1)
        Pulse: a run begins.
    parameters : In(ParameterLayout())
        With `start`.
    done : Out(1)
        Pulse at HALT. A run that fails ends through `error` instead.
    error : Out(ErrorLayout())
        BAD_OPCODE, PROGRAM_CRC or KV_OVERFLOW; then nothing until the next `start`.
    pc : Out(range(max_program + 1))
        The instruction at hand.
    tokens_done, next_token : Out(32)
    program_load, program_fetch : Out(1)
        Pulses to the program buffer.
    program_loaded : In(1)
    instruction : In(InstructionLayout())
    instruction_ready, crc_ok, well_formed : In(1)
    reads : Out(stream.Signature(ReadCommandLayout()))
    target : Out(WordTarget)
        Of words that are neither weights nor KV.
    dropping : Out(1)
        The next word is one of a wrong guess, for nobody.
    dropped : In(1)
        It has come.
    quiet : In(1)
        No unit has anything in work.
    position : Out(range(max_context + 1))
    count : Out(range(max_chunk + 1))
    fed_back : Out(1)
        The chunk: its first position, its tokens, and whether `next_token` is all of it.
    geometry : Out(GeometryLayout())
    tables : Out(TablesLayout())
    logits : Out(LogitsLayout())
        What the set-up instructions and LOGITS fixed.
    no_output : Out(1)
        This run computes no logits.
    begin : Out(1)
        Pulse: a chunk begins. `embed` follows when `index_busy` is low.
    index_busy : In(1)
    embed, end, report, route, router_load, repass, commit : Out(1)
        Pulses to the units.
    route_layer, commit_layer, store_layer : Out(range(max_layers))
    repass_token : Out(token_shape(config))
    commit_tokens, store_tokens : Out(max_chunk)
        Tokens whose K and V are stored: from the next barrier on, and by KEY and VALUE now.
    rank_first : In(range(max_context + 1))
        Tokens that `store_layer` has stored.
    written : In(max_chunk)
        Tokens whose router products are current.
    present, attention, mlp : In(max_chunk)
        Tokens of the chunk, and those that execute each module of the layer.
    argmax : In(32)
        Of the last token of the chunk.
    linear : Out(stream.Signature(LinearCommand(config)))
    attend : Out(stream.Signature(AttendCommand(config)))
    attend_reading : In(1)
        ATTEND has reads to hand over.
    retired, skipped, waiting : Out(1)
        For the counters: an instruction was executed, selected no token, waits at a barrier.
    """

    BARRIER_CYCLES = 4

    start: Signal
    parameters: data.View
    done: Signal
    error: data.View
    pc: Signal
    tokens_done: Signal
    next_token: Signal
    program_load: Signal
    program_fetch: Signal
    program_loaded: Signal
    instruction: data.View
    instruction_ready: Signal
    crc_ok: Signal
    well_formed: Signal
    reads: stream.Interface
    target: Any
    dropping: Signal
    dropped: Signal
    quiet: Signal
    position: Signal
    count: Signal
    fed_back: Signal
    geometry: data.View
    tables: data.View
    logits: data.View
    no_output: Signal
    begin: Signal
    index_busy: Signal
    embed: Signal
    end: Signal
    report: Signal
    route: Signal
    route_layer: Signal
    router_load: Signal
    repass: Signal
    repass_token: Signal
    commit: Signal
    commit_layer: Signal
    commit_tokens: Signal
    rank_first: Signal
    written: Signal
    present: Signal
    attention: Signal
    mlp: Signal
    argmax: Signal
    linear: stream.Interface
    attend: stream.Interface
    store_layer: Signal
    store_tokens: Signal
    attend_reading: Signal
    retired: Signal
    skipped: Signal
    waiting: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        layers = range(c.max_layers)
        super().__init__(
            {
                "start": In(1),
                "parameters": In(ParameterLayout()),
                "done": Out(1),
                "error": Out(ErrorLayout()),
                "pc": Out(range(c.max_program + 1)),
                "tokens_done": Out(32),
                "next_token": Out(32),
                "program_load": Out(1),
                "program_fetch": Out(1),
                "program_loaded": In(1),
                "instruction": In(InstructionLayout()),
                "instruction_ready": In(1),
                "crc_ok": In(1),
                "well_formed": In(1),
                "reads": Out(stream.Signature(ReadCommandLayout())),
                "target": Out(WordTarget),
                "dropping": Out(1),
                "dropped": In(1),
                "quiet": In(1),
                "position": Out(unsigned(bits_for(c.max_context))),
                "count": Out(unsigned(bits_for(c.max_chunk))),
                "fed_back": Out(1),
                "geometry": Out(GeometryLayout()),
                "tables": Out(TablesLayout()),
                "logits": Out(LogitsLayout()),
                "no_output": Out(1),
                "begin": Out(1),
                "index_busy": In(1),
                "embed": Out(1),
                "end": Out(1),
                "report": Out(1),
                "route": Out(1),
                "route_layer": Out(layers),
                "router_load": Out(1),
                "repass": Out(1),
                "repass_token": Out(token_shape(c)),
                "commit": Out(1),
                "commit_layer": Out(layers),
                "commit_tokens": Out(c.max_chunk),
                "rank_first": In(unsigned(bits_for(c.max_context))),
                "written": In(c.max_chunk),
                "present": In(c.max_chunk),
                "attention": In(c.max_chunk),
                "mlp": In(c.max_chunk),
                "argmax": In(32),
                "linear": Out(stream.Signature(LinearCommand(c))),
                "attend": Out(stream.Signature(AttendCommand(c))),
                "store_layer": Out(layers),
                "store_tokens": Out(c.max_chunk),
                "attend_reading": In(1),
                "retired": Out(1),
                "skipped": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        i = self.instruction
        p = Signal(ParameterLayout())
        steps = Signal(32)

        m.d.comb += self.no_output.eq((p.mode & int(Mode.NO_OUTPUT)) != 0)
        selected = self._select(m, p)
        select = Signal(c.max_chunk)  # of the current instruction
        words = self._matrix_words(m)
        store = self._store_shape(m)
        # Words of the matrix at `guess` that were requested before its tokens were known.
        ahead, guess = Signal(range(c.prefetch_words + 1)), Signal(ADDRESS_BITS)
        to_drop = Signal(range(2 * c.prefetch_words + 1))
        wrong = Signal()
        m.d.sync += to_drop.eq(to_drop + Mux(wrong, ahead, 0) - self.dropped)
        m.submodules.legality = legality = Legality(config=c)
        m.d.comb += [
            legality.clear.eq(self.start),
            legality.retired.eq(self.retired),
            legality.instruction.eq(i),
            legality.hidden_groups.eq(self.geometry.hidden_groups),
            legality.head_dim_log2.eq(self.geometry.kv.head_dim_log2),
            legality.program_length.eq(p.program_length),
        ]

        # Barriers.
        calm = Signal(range(self.BARRIER_CYCLES + 1))
        passed = Signal()
        m.d.comb += passed.eq(calm == self.BARRIER_CYCLES)
        with m.If(~self.quiet):
            m.d.sync += calm.eq(0)
        with m.Elif(~passed):
            m.d.sync += calm.eq(calm + 1)

        is_store = (i.epilogue == Epilogue.KEY) | (i.epilogue == Epilogue.VALUE)
        selected_count = Signal(range(c.max_chunk + 1))
        ranks_end = Signal(range(c.max_context + c.max_chunk + 1))
        m.d.sync += selected_count.eq(sum(select[n] for n in range(c.max_chunk)))
        stored = Signal()  # stores wait for the next barrier to become visible
        m.d.comb += [
            self.commit_layer.eq(self.store_layer),
            self.commit_tokens.eq(self.store_tokens),
            self.linear.payload.groups.eq(i.groups),
            self.linear.payload.blocks.eq(i.blocks),
            self.linear.payload.exponent.eq(i.exponent),
            self.linear.payload.source.eq(i.source[0]),
            self.linear.payload.kind.eq(i.epilogue),
            self.linear.payload.norm.eq(flag(i, Flag.NORM)),
            self.linear.payload.select.eq(select),
            self.attend.payload.layer.eq(i.layer),
            self.attend.payload.select.eq(select),
            self.route_layer.eq(i.layer),
            self.reads.payload.address.eq(i.address + ahead),
            self.reads.payload.words.eq(words - ahead),
            self.reads.payload.kind.eq(
                Mux(i.opcode == Opcode.ROUTER, ReadKind.OTHER, ReadKind.WEIGHTS)
            ),
            self.dropping.eq(to_drop != 0),
        ]
        unwritten = Signal(c.max_chunk)
        m.d.sync += unwritten.eq(self.present & ~self.written)  # long before a barrier passes
        for n in reversed(range(c.max_chunk)):
            with m.If(unwritten[n]):
                m.d.sync += self.repass_token.eq(n)

        outside = Signal()  # the chunk, of what a sequence may have; settled at any instruction
        end = self.position + self.count
        m.d.sync += outside.eq(
            (p.chunk_tokens == 0)
            | (p.chunk_tokens > c.max_chunk)
            | (p.position > c.max_context)
            | (end > c.max_context)
            | (end > self.geometry.longest)
        )

        def fail(code):
            m.d.comb += [self.error.valid.eq(1), self.error.code.eq(int(code))]
            m.next = "IDLE"

        def retire():
            m.d.comb += self.retired.eq(1)
            m.d.sync += self.pc.eq(self.pc + 1)
            m.next = "FETCH"

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    p.eq(self.parameters),
                    self.pc.eq(0),
                    self.position.eq(self.parameters.position),
                    self.count.eq(self.parameters.chunk_tokens),
                    steps.eq(self.parameters.steps),
                    self.fed_back.eq(0),
                    self.tokens_done.eq(0),
                    self.next_token.eq(0),
                    stored.eq(0),
                    self.target.eq(WordTarget.PROGRAM),
                ]
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.program_load.eq(1)
                m.next = "LOADING"
                with m.If((p.program_length > c.max_program) | (p.program_length == 0)):
                    m.d.comb += self.program_load.eq(0)
                    fail(CoreErrorCode.BAD_OPCODE)
            with m.State("LOADING"), m.If(self.program_loaded):
                m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += self.program_fetch.eq(1)
                m.next = "CHECK"
                with m.If(self.pc >= p.program_length):
                    m.d.comb += self.program_fetch.eq(0)
                    fail(CoreErrorCode.BAD_OPCODE)
            with m.State("CHECK"), m.If(self.instruction_ready):
                m.d.sync += select.eq(selected)
                m.next = "SELECT"
                with m.If(~self.crc_ok):
                    fail(CoreErrorCode.PROGRAM_CRC)
                with m.Elif(~(self.well_formed & legality.legal)):
                    fail(CoreErrorCode.BAD_OPCODE)
            with m.State("SELECT"):  # the product of the matrix' dimensions settles
                by_token = (i.opcode == Opcode.LINEAR) | (i.opcode == Opcode.ATTEND)
                needed = (i.opcode == Opcode.LINEAR) & select.any() & (i.address == guess)
                m.next = "READ"
                with m.If((ahead != 0) & ~needed):
                    m.d.comb += wrong.eq(1)
                    m.d.sync += ahead.eq(0)
                with m.If(by_token & ~select.any()):
                    m.d.comb += self.skipped.eq(1)
                    retire()
            with m.State("READ"):
                guessing = (i.opcode == Opcode.ROUTE) & (i.blocks != 0) & (c.prefetch_words > 0)
                reads = (i.opcode == Opcode.LINEAR) | (i.opcode == Opcode.ROUTER) | guessing
                requested = Signal()
                m.d.comb += requested.eq(self.reads.valid & self.reads.ready)
                with m.If(guessing & (words > c.prefetch_words)):
                    m.d.comb += self.reads.payload.words.eq(c.prefetch_words)
                # Words arrive in the order of the requests: ATTEND's must be out first.
                m.d.comb += self.reads.valid.eq(reads & (words != ahead) & ~self.attend_reading)
                with m.If(~reads | (words == ahead) | requested):
                    m.d.sync += [ahead.eq(0), guess.eq(i.address)]
                    with m.If(guessing):
                        m.d.sync += ahead.eq(self.reads.payload.words)
                    m.next = "BARRIER"
            with m.State("BARRIER"):
                m.d.comb += self.waiting.eq(flag(i, Flag.BARRIER) & ~passed)
                with m.If(~self.waiting):
                    with m.If(flag(i, Flag.BARRIER)):
                        m.d.comb += self.commit.eq(stored)
                        m.d.sync += stored.eq(0)
                    m.next = "ISSUE"
                    with m.If((i.opcode == Opcode.LINEAR) & is_store):
                        m.d.sync += [self.store_layer.eq(i.layer), self.store_tokens.eq(select)]
                        m.next = "RANK"
            with m.State("RANK"):
                m.d.sync += ranks_end.eq(self.rank_first + selected_count)
                m.next = "ROOM"
            with m.State("ROOM"):
                m.next = "ISSUE"
                with m.If((i.epilogue == Epilogue.KEY) & (ranks_end > i.a)):
                    fail(CoreErrorCode.KV_OVERFLOW)
            with m.State("ISSUE"):
                self._issue(m, p, select, is_store, stored, calm, store, retire)
            with m.State("BEGIN"):
                m.d.comb += self.begin.eq(1)
                m.next = "BEGINNING"
                with m.If(outside):
                    m.d.comb += self.begin.eq(0)
                    fail(CoreErrorCode.KV_OVERFLOW)
            with m.State("BEGINNING"), m.If(~self.begin & ~self.index_busy):
                m.d.comb += self.embed.eq(1)
                m.d.sync += [self.target.eq(WordTarget.EMBED), calm.eq(0)]
                m.next = "EMBEDDING"
            with m.State("EMBEDDING"), m.If(passed):  # an error on the way has this address
                retire()
            with m.State("ROUTE"), m.If(passed):
                with m.If(unwritten.any()):
                    m.d.comb += self.repass.eq(1)
                    m.d.sync += calm.eq(0)
                with m.Else():
                    m.d.comb += self.route.eq(1)
                    retire()
            with m.State("REPORT"):
                m.d.comb += self.waiting.eq(~passed)
                with m.If(passed):
                    m.d.sync += [
                        self.tokens_done.eq(self.tokens_done + self.count),
                        self.next_token.eq(self.argmax),
                    ]
                    m.next = "NEXT"
            with m.State("NEXT"):
                retire()
                with m.If((steps != 0) & (self.next_token != p.eos_token)):
                    m.d.sync += [
                        steps.eq(steps - 1),
                        self.position.eq(self.position + self.count),
                        self.count.eq(1),
                        self.fed_back.eq(1),
                        self.pc.eq(i.a),
                    ]
        return m

    def _select(self, m, p):
        """Tokens that the instruction at hand is for."""
        selected = Signal(self._config.max_chunk)
        last = Signal.like(selected)
        m.d.comb += last.eq(self.present & ~(self.present >> 1))
        with m.Switch(self.instruction.select):
            with m.Case(Select.ALL):
                m.d.comb += selected.eq(self.present)
            with m.Case(Select.ATTENTION):
                m.d.comb += selected.eq(self.attention)
            with m.Case(Select.MLP):
                m.d.comb += selected.eq(self.mlp)
            with m.Case(Select.OUTPUT):
                all_rows = (p.mode & int(Mode.ALL_LOGITS)) != 0
                outputs = Mux(all_rows, self.present, last)
                m.d.comb += selected.eq(Mux(self.no_output, 0, outputs))
        return selected

    def _matrix_words(self, m):
        """Words of the matrix or router record, two cycles after the instruction settled."""
        c = self._config
        i, hidden_groups = self.instruction, self.geometry.hidden_groups
        per_block = Signal(24)
        weight_words = i.groups << exact_log2(c.steps_per_group)
        run = c.groups_per_scale_word
        m.d.sync += per_block.eq(weight_words + ((i.groups + run - 1) >> exact_log2(run)))

        byte_log2 = exact_log2(c.word_bytes)
        exponent_words = ((hidden_groups << 1) + c.word_bytes - 1) >> byte_log2
        mantissas = hidden_groups << (exact_log2(c.group) + 2)
        mantissa_words = (mantissas + c.word_bytes - 1) >> byte_log2
        router = Signal(24)
        m.d.sync += router.eq(1 + exponent_words + mantissa_words)

        words = Signal(24)
        m.d.sync += words.eq(Mux(i.opcode == Opcode.ROUTER, router, per_block * i.blocks))
        return words

    def _store_shape(self, m):
        """Shape of a layer's KV store by GEOMETRY, two cycles after the instruction settled."""
        i, c = self.instruction, self._config
        group, groups, block = Signal(8), Signal(16), Signal(24)
        with m.Switch(i.exponent):
            for head_dim_log2 in c.head_dim_log2:
                heads_log2 = exact_log2(c.word_bytes) - head_dim_log2
                exponents = KV_BLOCK_TOKENS >> (head_dim_log2 - 1)
                with m.Case(head_dim_log2):
                    m.d.sync += [
                        group.eq(2 * KV_BLOCK_TOKENS + exponents),
                        groups.eq((i.a[:16] + (1 << heads_log2) - 1) >> heads_log2),
                    ]
        m.d.sync += block.eq(group * groups)
        return group, groups, block

    def _issue(self, m, p, select, is_store, stored, calm, store, retire):
        c = self._config
        i, kv = self.instruction, self.geometry.kv
        with m.Switch(i.opcode):
            with m.Case(Opcode.HALT):
                m.d.comb += [self.done.eq(1), self.retired.eq(1)]
                m.next = "IDLE"
            with m.Case(Opcode.GEOMETRY):
                group, groups, block = store
                m.d.sync += [
                    kv.head_dim_log2.eq(i.exponent),
                    kv.kv_heads.eq(i.a[:16]),
                    kv.head_groups.eq(groups),
                    kv.group_words.eq(group),
                    kv.block_words.eq(block),
                    self.geometry.longest.eq(i.a[16:]),
                    self.geometry.hidden_groups.eq(i.groups),
                    self.geometry.query_heads.eq(i.source),
                    self.geometry.inv_hidden.eq(i.b),
                    self.geometry.epsilon.eq(i.c),
                ]
                retire()
            with m.Case(Opcode.TABLES):
                m.d.sync += [
                    self.tables.embedding.eq(i.address),
                    self.tables.embedding_words.eq(i.groups),
                    self.tables.rope.eq(i.a),
                    self.tables.rope_words.eq(i.blocks),
                    self.tables.records.eq(i.b),
                    self.tables.vocabulary.eq(i.c),
                ]
                retire()
            with m.Case(Opcode.ROUTER):
                m.d.comb += self.router_load.eq(1)
                m.d.sync += self.target.eq(WordTarget.ROUTER)
                retire()
            with m.Case(Opcode.EMBED):
                m.next = "BEGIN"
            with m.Case(Opcode.ROUTE):
                m.next = "ROUTE"
            with m.Case(Opcode.LINEAR):
                m.d.comb += self.linear.valid.eq(1)
                with m.If(self.linear.ready):
                    with m.If(is_store):
                        m.d.sync += stored.eq(i.epilogue == Epilogue.VALUE)
                    with m.If(i.epilogue == Epilogue.LOGITS):
                        row = Signal(24)
                        row_bytes_log2 = exact_log2(c.word_bytes // 4)
                        floats = i.blocks << exact_log2(c.columns)
                        m.d.comb += row.eq((floats + c.word_bytes // 4 - 1) >> row_bytes_log2)
                        m.d.sync += [
                            self.logits.base.eq(i.b),
                            self.logits.vocabulary.eq(i.a),
                            self.logits.row_words.eq(row),
                            self.logits.write.eq(
                                (p.mode & int(Mode.LOGITS | Mode.ALL_LOGITS)) != 0
                            ),
                            self.logits.all_rows.eq((p.mode & int(Mode.ALL_LOGITS)) != 0),
                        ]
                    retire()
            with m.Case(Opcode.ATTEND):
                m.d.comb += self.attend.valid.eq(1)
                with m.If(self.attend.ready):
                    retire()
            with m.Case(Opcode.NEXT):
                m.d.comb += [self.end.eq(1), self.report.eq(1)]
                m.d.sync += calm.eq(0)
                m.next = "REPORT"
