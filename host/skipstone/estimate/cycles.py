"""The cycle model: a program walked instruction by instruction, as the sequencer does.

Three clocks are kept: of the sequencer, of the word stream, and of the unit that is last to rest.
An instruction moves them by its words and pairs, which follow from its operands and from how many
tokens it selects, and by constants (`Parameters`). What an instruction costs beyond its words is
what stands between two matrices in a decoded token.

Words move at one per cycle, times what memory delivers; pairs of outputs at one per cycle. Which
tokens execute what is given, so the model can be held against the gateware run by run.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..spec.config import CoreConfig
from ..spec.errors import RequestError
from ..spec.isa import INSTRUCTION_BYTES, Epilogue, Flag, Instruction, Opcode, Select
from ..spec.layout import KvLayout, matrix_words, row_words
from ..spec.records import RECORD_BYTES
from ..spec.registers import Mode
from .parameters import Parameters

__all__ = [
    "SIGNAL_CROSSING",
    "STREAM_CROSSING",
    "Decisions",
    "MemoryTiming",
    "RunCost",
    "RunModel",
    "runs_of",
    "sampled",
]

Bool = NDArray[np.bool_]

STREAM_CROSSING = 4.0
"""Cycles that a stream takes to another super logic region (`skipstone_hw.crossing`)."""
SIGNAL_CROSSING = 2.0
"""Cycles by which a signal is late there."""
_ROUTER_CHUNK_BYTES = 32
"""Bytes of a router record that are taken in a cycle."""


@dataclass(frozen=True)
class MemoryTiming:
    """How memory behaves: cycles to the first word, and words per cycle after it."""

    latency: float = 40.0
    bandwidth: float = 1.0

    def rate(self, core: CoreConfig) -> float:
        """Words per cycle that `core` sustains: its FIFOs and outstanding bursts must cover the
        latency."""
        in_flight = min(core.outstanding * core.burst_beats, core.fifo_words)
        return min(self.bandwidth, in_flight / (self.latency + core.burst_beats + 4))


@dataclass(frozen=True)
class Decisions:
    """Which tokens (rows) of a sequence execute attention and MLP of which layers (columns)."""

    attention: Bool
    mlp: Bool

    @classmethod
    def random(cls, tokens: int, layers: int, skip: float, seed: int = 0) -> Decisions:
        """Every token skips the share `skip` of its attention and of its MLP executions, in layers
        drawn at random. Fractions are evened out over neighbouring tokens.

        Raises RequestError for a share outside 0 to 1.
        """
        if not 0 <= skip < 1:
            raise RequestError(f"the share skipped must be at least 0 and below 1, not {skip}")
        rng = np.random.default_rng(seed)
        skipped = np.diff(np.floor(np.arange(tokens + 1) * (skip * layers))).astype(np.int64)
        places = rng.random((2, tokens, layers)).argsort(axis=2)
        attention, mlp = places >= skipped[None, :, None]
        return cls(attention, mlp)


@dataclass
class RunCost:
    """What a run costs.

    Attributes
    ----------
    cycles : float
    array_busy : float
        Cycles in which the array takes a word.
    products : float
        Multiplications of an activation by a weight that matter.
    words : Counter of str
        Words read: "weights", "kv", "other", and "unneeded" (of wrong guesses); and "written".
    output_stalls : float
        Cycles in which the array waits for its outputs to leave.
    spent : Counter of str
        Cycles by what was waited for: a kind of instruction, or "skipped".
    """

    cycles: float = 0.0
    array_busy: float = 0.0
    products: float = 0.0
    output_stalls: float = 0.0
    words: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)

    def add(self, other: RunCost, times: float = 1.0) -> None:
        """Count another run so many times."""
        self.cycles += times * other.cycles
        self.array_busy += times * other.array_busy
        self.products += times * other.products
        self.output_stalls += times * other.output_stalls
        for mine, theirs in ((self.words, other.words), (self.spent, other.spent)):
            for name, value in theirs.items():
                mine[name] += times * value  # type: ignore[assignment]


class RunModel:
    """Costs of the runs of one program.

    Parameters
    ----------
    program : sequence of Instruction
    config : CoreConfig
    decisions : Decisions
        Of the whole sequence; what is stored of earlier tokens follows from them.
    parameters : Parameters
    memory : MemoryTiming

    Attributes
    ----------
    stored : bool array (tokens, layers)
        Where keys and values are stored.
    """

    def __init__(
        self,
        program: Sequence[Instruction],
        config: CoreConfig,
        decisions: Decisions,
        parameters: Parameters,
        memory: MemoryTiming,
    ):
        self._program, self._config = program, config
        self._decisions, self._p, self._memory = decisions, parameters, memory
        self._rate = memory.rate(config)
        self._fetches: dict[tuple[int, int], dict[tuple[int, int], Fetch]] = {}
        geometry = next(i for i in program if i.opcode is Opcode.GEOMETRY)
        self._hidden_groups = geometry.groups
        self._query_heads = geometry.source
        self._kv_heads = geometry.a & 0xFFFF
        self._kv = KvLayout(1 << geometry.exponent, self._kv_heads, config.word_bytes)
        stores = {
            i.layer: i.select
            for i in program
            if i.opcode is Opcode.LINEAR and i.epilogue is Epilogue.KEY
        }
        always = np.array([stores[layer] is Select.ALL for layer in range(geometry.blocks)])
        self.stored = decisions.attention | always

    def with_parameters(self, parameters: Parameters) -> RunModel:
        """The same runs with other constants; what does not depend on these is kept."""
        other = copy.copy(self)
        other._p = parameters
        return other

    def run(self, position: int, count: int, *, steps: int = 0, mode: int = 0) -> RunCost:
        """Of a chunk of `count` tokens at `position`, and `steps` greedy tokens after it."""
        return _Walk(self, position, count, steps, mode).cost

    def selected(self, i: Instruction, position: int, count: int, mode: int) -> int:
        """How many tokens of the chunk an instruction is for."""
        chunk = slice(position, position + count)
        match i.select:
            case Select.ATTENTION:
                return int(self._decisions.attention[chunk, i.layer].sum())
            case Select.MLP:
                return int(self._decisions.mlp[chunk, i.layer].sum())
            case Select.OUTPUT:
                if mode & Mode.NO_OUTPUT:
                    return 0
                return count if mode & Mode.ALL_LOGITS else 1
        return count

    def fetches(self, position: int, count: int) -> dict[tuple[int, int], Fetch]:
        """What the attention of each layer and executing token of a chunk takes from where."""
        key = position, count
        if key not in self._fetches:
            self._fetches[key] = self._find_fetches(position, count)
        return self._fetches[key]

    def _find_fetches(self, position: int, count: int) -> dict[tuple[int, int], Fetch]:
        # The history buffer holds, of each position, the version that was last wanted in this
        # chunk (docs/decisions/0010).
        head_groups = self._kv.head_groups
        capacity = self._config.history_words >> (head_groups - 1).bit_length()
        held = np.full(capacity, -1)
        out = {}
        for layer in range(self.stored.shape[1]):
            stored = self.stored[: position + count, : layer + 1]
            version = layer - np.argmax(stored[:, ::-1], axis=1)
            ranks: NDArray[np.int64] = np.cumsum(stored, axis=0) - stored
            rank = ranks[np.arange(len(stored)), version]
            for token in range(position, position + count):
                if not self._decisions.attention[token, layer]:
                    continue
                seen = min(token + 1, capacity)
                missed = np.ones(token + 1, np.bool_)
                missed[:seen] = held[:seen] != version[:seen]
                held[:seen] = version[:seen]
                v, r = version[: token + 1][missed], rank[: token + 1][missed]
                word = r // self._kv.tokens_per_exponent_word
                begins = (np.diff(v) != 0) | (np.diff(r) != 1) | (np.diff(word) != 0)
                out[layer, token] = Fetch(
                    misses=len(v),
                    runs=int(begins.sum()) + (len(v) > 0),
                    exponent_words=np.unique(np.stack([v, word]), axis=1).shape[1],
                    hits=token + 1 - len(v),
                )
        return out


@dataclass(frozen=True)
class Fetch:
    """Positions that a token's attention reads from memory, in how many runs, under how many
    exponent words, and those that the history buffer serves."""

    misses: int
    runs: int
    exponent_words: int
    hits: int


class _Walk:
    """One run in the making."""

    def __init__(self, model: RunModel, position: int, count: int, steps: int, mode: int):
        self._model, self._config, self._p = model, model._config, model._p
        self._latency, self._rate = model._memory.latency, model._rate
        # To the region of the array, and what is known of it here.
        crosses = self._config.region_registers
        self._over, self._late = (STREAM_CROSSING, SIGNAL_CROSSING) if crosses else (0.0, 0.0)
        self._position, self._count, self._mode = position, count, mode
        self.cost = RunCost()
        # Clocks: of the sequencer, the word stream, the array, the planner, the last unit to rest.
        self._now = 0.0
        self._stream = 0.0
        self._array = 0.0
        self._planner = 0.0
        self._rest = 0.0
        self._resting = "start"  # what the last unit to rest is at work for
        self._waited = 0.0
        # The matrix whose first words were requested by ROUTE: address, words, when they come.
        self._guess: tuple[int, int, float] | None = None
        self._fed_back = False
        self._written = True  # all tokens of the chunk, since the routers were loaded
        self._layer_written: Bool = np.zeros(0, np.bool_)
        self._walk(steps)

    def _words(self, kind: str, count: float) -> float:
        """Count words read; returns the cycles that they take."""
        self.cost.words[kind] += count  # type: ignore[assignment]
        return count / self._rate

    def _first_word(self, requested: float, over: float = 0.0) -> float:
        """When the first word of a read is there; `over`: the way to its unit."""
        return max(requested + self._latency + self._p.read + over, self._stream)

    def _barrier(self) -> None:
        """The issue of an instruction that waits for all before it."""
        passed = self._rest + self._p.barrier
        if passed > self._now:
            self.cost.spent[self._resting] += passed - self._now  # type: ignore[assignment]
            self._waited += passed - self._now
            self._now = passed

    # -- the program ---------------------------------------------------------------------------

    def _walk(self, steps: int) -> None:
        p, program = self._p, self._model._program
        words = row_words(self._config, len(program) * INSTRUCTION_BYTES)
        self._now = p.start + self._latency + self._words("other", words)
        self._spend("start", 0.0)
        pc = 0
        while True:
            i = program[pc]
            before = self._now
            self._now += p.fetch
            pc += 1
            name = i.opcode.name.lower()
            tokens = self._model.selected(i, self._position, self._count, self._mode)
            self._check_guess(i, tokens)
            match i.opcode:
                case Opcode.ROUTER:
                    self._router()
                case Opcode.EMBED:
                    self._embed()
                case Opcode.ROUTE:
                    self._route(i)
                case Opcode.LINEAR:
                    name = i.epilogue.name.lower()
                    if not tokens:
                        name = "skipped"
                    else:
                        self._linear(i, tokens)
                case Opcode.ATTEND:
                    if not self._attend(i):
                        name = "skipped"
                case Opcode.NEXT:
                    self._next()
                    if steps:
                        steps -= 1
                        self._position += self._count
                        self._count, self._fed_back = 1, True
                        pc = i.a
                case Opcode.HALT:
                    self._barrier()
                    self._now += p.halt
                    self._spend(name, before)
                    self.cost.cycles = self._now
                    return
            self._spend(name, before)

    def _spend(self, name: str, before: float) -> None:
        """Count the sequencer's time since `before`, without what a barrier accounts for."""
        self.cost.spent[name] += self._now - before - self._waited  # type: ignore[assignment]
        self._waited = 0.0

    def _rests(self, name: str, at: float) -> None:
        """A unit is at work for an instruction until then."""
        if at > self._rest:
            self._rest, self._resting = at, name

    def _router(self) -> None:
        c, hidden = self._config, self._model._hidden_groups * self._config.group
        parts = -(-4 * hidden // _ROUTER_CHUNK_BYTES)
        parts += -(-2 * self._model._hidden_groups // _ROUTER_CHUNK_BYTES)
        first = self._first_word(self._now)
        words = 1 + row_words(c, 2 * self._model._hidden_groups) + row_words(c, 4 * hidden)
        moved = self._words("other", words)
        self._stream = first + max(moved, 1 + parts) + self._p.router
        self._rests("router", self._stream)
        self._layer_written = np.zeros(self._count, np.bool_)

    def _finalised(self, arrivals: Sequence[float]) -> float:
        """When residual vectors that arrive at these times are all reduced, one after another."""
        free = 0.0
        for at in arrivals:
            free = max(free, at) + self._model._hidden_groups + self._p.finalise
        return free + self._p.finalise_latency

    def _embed(self) -> None:
        self._barrier()
        p, c, model = self._p, self._config, self._model
        hidden = model._hidden_groups * c.group
        pairs, angles = hidden // 2, model._kv.head_dim // 2
        requested = self._now + p.embed
        if not self._fed_back:
            records = row_words(c, self._count * RECORD_BYTES)
            requested += self._latency + self._words("other", records) + self._count
        at = requested + self._latency
        row = row_words(c, 2 * hidden) + row_words(c, 4 * model._kv.head_dim)
        arrivals = []
        for _ in range(self._count):
            self._words("other", row)
            arrivals.append(at + pairs + c.group / 2 + p.residual)
            at += max(pairs + angles, row / self._rate) + p.embed_token
        self._stream = self._now = max(at, self._finalised(arrivals)) + p.barrier
        self._rests("embed", self._now)
        self._layer_written = np.ones(self._count, np.bool_)

    def _route(self, i: Instruction) -> None:
        c = self._config
        words = min(c.prefetch_words, matrix_words(c, i.groups, i.blocks))
        if words:
            self._guess = (i.address, words, self._first_word(self._now))
        self._barrier()
        hidden = self._model._hidden_groups * self._config.group
        left = int((~self._layer_written).sum())
        each = hidden / 2 + self._config.group / 2 + self._model._hidden_groups + self._p.repass
        self._now += self._p.route + left * each
        self._rests("route", self._now - self._p.barrier)
        self._layer_written[:] = True

    def _check_guess(self, i: Instruction, tokens: int) -> None:
        """Words that were read ahead are dropped unless this instruction is what they are for."""
        if self._guess is None:
            return
        address, count, at = self._guess
        if i.opcode is not Opcode.LINEAR or not tokens or i.address != address:
            self.cost.words["unneeded"] += count
            self._stream = max(self._stream, at + count / self._rate)
            self._guess = None

    def _mark(self, select: Select, layer: int) -> None:
        """Tokens whose residual vector is written."""
        chunk = slice(self._position, self._position + self._count)
        decisions = self._model._decisions
        wrote = decisions.attention if select is Select.ATTENTION else decisions.mlp
        self._layer_written |= wrote[chunk, layer]

    def _linear(self, i: Instruction, tokens: int) -> None:
        p, c = self._p, self._config
        first_word = rest_of_words = self._first_word(self._now, self._over)
        ahead = 0
        if self._guess is not None:
            _, ahead, first_word = self._guess
            self._guess = None
        if Flag.BARRIER in i.flags:
            self._barrier()
        accepted = max(self._now + self._over, self._planner)
        self._now = issued = max(self._now, self._planner)
        plan = p.plan + 2 * self._late  # norms are asked for and come back
        start = max(accepted + plan + min(tokens, c.lanes), first_word, self._array)

        # Tile by tile: each is read once and passed by every lane group.
        words_per_block = matrix_words(c, i.groups, 1)
        tile = c.tile_blocks if tokens > c.lanes else i.blocks
        lane_groups = [min(c.lanes, tokens - n) for n in range(0, tokens, c.lanes)]
        # Words that came while the array did without need not be waited for. A FIFO that is full
        # stops memory, which takes its latency and a burst to go on.
        most = max(0.0, c.fifo_words - self._rate * (self._latency + c.burst_beats))
        ready = min(max(start - first_word, 0.0) * self._rate, most)
        at, busy = float(start), 0.0
        ends: list[float] = []
        drained = float(start)
        for first in range(0, i.blocks, tile):
            blocks = min(tile, i.blocks - first)
            ends = []
            for n, lanes in enumerate(lane_groups):
                # What is replayed has its scales beside it.
                words = blocks * (i.groups * c.steps_per_group if n else words_per_block)
                begin = at
                at += words if n else max(words, (words - ready) / self._rate)
                if first == 0 and n == 0:
                    at = max(at, rest_of_words + (words - ahead) / self._rate)
                if len(lane_groups) > 1:
                    at = max(at, begin + lanes + plan)
                pairs = lanes * c.columns / 2
                drained = max(at + p.pipeline, drained + (blocks - 1) * pairs) + pairs
                stalled = max(0.0, drained - p.pipeline - 2 * pairs - at)
                self.cost.output_stalls += stalled
                at += stalled
                ready += (at - begin) * self._rate - (0 if n else words)
                ready = min(max(ready, 0.0), most)
                busy += words
                ends.append(drained + self._over)
        self._words("weights", words_per_block * i.blocks)
        self.cost.array_busy += busy
        self.cost.products += tokens * i.groups * c.group * i.blocks * c.columns
        # What has gathered beyond the last word belongs to the next matrix.
        self._stream, self._array = at - ready / self._rate, at
        self._planner = max(issued, at - words_per_block * i.blocks)
        self._finish_linear(i, ends, lane_groups)
        self._now = issued + 1

    def _finish_linear(self, i: Instruction, ends: list[float], lane_groups: list[int]) -> None:
        """From the last pairs of outputs to rest."""
        p, c = self._p, self._config
        name = i.epilogue.name.lower()
        by_head = i.epilogue in (Epilogue.QUERY, Epilogue.KEY, Epilogue.VALUE)
        group = self._model._kv.head_dim if by_head else c.group
        rest = ends[-1] + getattr(p, name)
        if i.epilogue is Epilogue.LOGITS:
            if self._mode:
                rest += self._latency
                row = row_words(c, 4 * i.blocks * c.columns)
                self.cost.words["written"] += row * sum(lane_groups)
        else:
            # Groups of the last lane group's tokens complete one after another, and leave likewise.
            between = max(c.columns / 2, group / 2)
            rest += group / 2 + (lane_groups[-1] - 1) * max(0.0, group / 2 - c.columns / 2)
        if i.epilogue in (Epilogue.QUERY, Epilogue.SWIGLU):
            rest += self._over + self._late  # into the activation buffer
        if i.epilogue in (Epilogue.KEY, Epilogue.VALUE):
            self.cost.words["written"] += 2 * self._model._kv_heads * sum(lane_groups)
            rest += self._latency
        if i.epilogue is Epilogue.RESIDUAL:
            arrivals = [
                end + getattr(p, name) + group / 2 - (lanes - 1 - n) * between
                for end, lanes in zip(ends, lane_groups, strict=True)
                for n in range(lanes)
            ]
            rest = self._finalised(arrivals)
            self._mark(i.select, i.layer)
        self._rests(name, rest)

    def _attend(self, i: Instruction) -> bool:
        chunk = range(self._position, self._position + self._count)
        executes = self._model._decisions.attention
        tokens = [t for t in chunk if executes[t, i.layer]]
        if not tokens:
            return False
        p, c, kv = self._p, self._config, self._model._kv
        self._barrier()
        first_word = self._first_word(self._now, 3 * self._over)
        at = free = self._now + p.attend + self._over
        # The command went, walks come back, and what they find goes again.
        walked = self._now + p.attend + 3 * self._over
        split = 2 * self._model._query_heads <= c.lanes
        quartered = 4 * self._model._query_heads <= c.lanes
        fetches = self._model.fetches(self._position, self._count)
        for token in tokens:
            f = fetches[i.layer, token]
            walked += token + 1  # positions are visited one by one
            at += p.attend_token
            # Words of memory and of the history buffer pass side by side where lanes are free.
            keys = max(f.exponent_words + f.misses, f.hits if split else f.misses + f.hits)
            passes = 1 if split else 2
            values = float(max(f.misses, f.hits) if quartered else passes * (f.misses + f.hits))
            heads_left = self._model._kv_heads
            for _ in range(kv.head_groups):
                heads = min(heads_left, kv.heads_per_word)
                heads_left -= heads
                key_words = self._words("kv", f.exponent_words + f.misses)
                value_words = self._words("kv", f.misses)
                at = max(at + c.columns / 2, first_word if f.misses else at)
                # Short runs are short bursts, of which only so many are under way.
                bursts = 2 * f.runs + f.exponent_words + 2 * f.misses / c.burst_beats
                at += max(
                    max(keys + f.runs * p.key_run, key_words) + max(values, value_words),
                    bursts * (self._latency + p.burst) / c.outstanding,
                )
                at = max(at, walked + values, free + values)
                self.cost.array_busy += max(f.misses, f.hits) + values
                at += p.attend_group
                free = at + heads * self._query_pairs()
                self.cost.products += 2 * (token + 1) * heads * 2 * self._query_pairs()
        self._stream = at
        self._rests("attend", free + c.group / 2 + p.attention + 2 * self._over + self._late)
        self._now += 1
        return True

    def _query_pairs(self) -> int:
        """Output pairs of a KV head's queries."""
        return self._model._query_heads * self._model._kv.head_dim // 2

    def _next(self) -> None:
        self._barrier()
        self.cost.words["written"] += self._count
        self._now += 3 * self._count + self._latency + self._p.next
        self._rests("next", self._now - self._p.barrier)


def runs_of(tokens: int, chunk: int) -> list[tuple[int, int]]:
    """(position, count) of the runs of a prefill."""
    return [(at, min(chunk, tokens - at)) for at in range(0, tokens, chunk)]


def sampled(first: int, count: int, most: int) -> list[tuple[int, float]]:
    """Positions out of `count` from `first` on that stand for all, and how many each stands for."""
    n = min(count, most)
    edges = [first + math.floor(k * count / n) for k in range(n + 1)]
    return [((a + b - 1) // 2, float(b - a)) for a, b in itertools.pairwise(edges)]
