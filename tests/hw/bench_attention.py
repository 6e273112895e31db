"""Bench of attention: outputs against `arithmetic.attend`, K and V in the layout of memory."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
from numpy.typing import NDArray

from skipstone.spec import fp32
from skipstone.spec.layout import KvLayout
from skipstone_hw.attention import AttendCommand
from skipstone_hw.kv_index import KvGeometry, MissLayout, WalkLayout
from skipstone_hw.layouts import MantissaPairLayout, PairKind, PairLayout
from skipstone_hw.replay import ItemLayout
from skipstone_sim.arithmetic import Vectors, attend
from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    cycle,
    cycles,
    pack,
    random_stall,
)

CONFIG = bench_config()
Int = NDArray[np.int64]


def shapes() -> list[tuple[int, int, int]]:
    """(head_dim, KV heads, query heads per KV head): corners of what the configuration allows."""
    found = [
        (head_dim, heads, ratio)
        for head_dim in (32, 64, 128)
        for ratio in (1, 2, 3, 4)
        for heads in range(1, CONFIG.max_query // (head_dim * ratio) + 1)
        if head_dim <= CONFIG.word_bytes and ratio <= CONFIG.lanes
    ]
    most = max(heads for _, heads, _ in found)
    return [s for s in found if s[1] in (1, 3, most)]


class Problem:
    """Queries of a chunk, and the K and V of all positions up to its end."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int], position: int):
        head_dim, kv_heads, ratio = shape
        self.position, self.ratio = position, ratio
        self.layout = KvLayout(head_dim, kv_heads, CONFIG.word_bytes)
        self.count = min(CONFIG.max_chunk, CONFIG.max_context - position)
        total, heads = position + self.count, kv_heads * ratio
        # A random dot product has about `level` bits; 0 gives scores of a few units.
        style = rng.integers(0, 8)
        level = {0: 12, 1: -12, 2: 60, 3: -60}.get(int(style), 0)
        spread = 300 if style == 4 else 2
        centre = (level - 20) // 2
        self.query = Vectors(
            rng.integers(-2047, 2048, (self.count, heads * head_dim)),
            self.exponents(rng, centre, spread, (self.count, heads)),
        )
        self.keys = rng.integers(-127, 128, (total, kv_heads, head_dim))
        self.values = rng.integers(-127, 128, (total, kv_heads, head_dim))
        self.key_exponent = self.exponents(rng, centre, spread, (total, kv_heads))
        wide = rng.random() < 0.4
        self.value_exponent = self.exponents(rng, 0, 200 if wide else 3, (total, kv_heads))
        if style == 5:  # equal scores, the largest sums
            self.keys[:] = 0
            self.values[:] = 127
        if style == 6:
            self.query.mantissa[:] = 2047
            self.keys[:] = 127 * rng.choice([-1, 1], (total, kv_heads, 1))
        if style == 7:
            self.value_exponent[:] = -128

    @staticmethod
    def exponents(rng: np.random.Generator, centre: int, spread: int, shape: Any) -> Int:
        return np.clip(centre + rng.integers(-spread, spread + 1, shape), -128, 127)

    def expected(self, tokens: list[int]) -> NDArray[np.uint32]:
        total = self.position + tokens[-1] + 1
        visible = np.arange(total)[None] <= self.position + np.array(tokens)[:, None]
        y = attend(
            self.query[np.array(tokens)],
            self.keys[:total],
            self.key_exponent[:total],
            self.values[:total],
            self.value_exponent[:total],
            visible,
        )
        return y.view(np.uint32)

    def query_pairs(self, token: int) -> list[dict[str, Any]]:
        half = self.layout.head_dim // 2
        return [
            {
                "mantissa": pair,
                "exponent": int(self.query.exponent[token, n // half]),
                "kind": PairKind.QUERY,
                "token": token,
                "index": n,
                "last": n % half == half - 1,
            }
            for n, pair in enumerate(self.query.mantissa[token].reshape(-1, 2).tolist())
        ]

    def word(self, rows: Int, position: int, head_group: int, rng: random.Random) -> int:
        """The memory word of a token's K or V; what no head uses is noise."""
        per = self.layout.heads_per_word
        used = rows[position, head_group * per : (head_group + 1) * per].astype(np.int8).tobytes()
        return int.from_bytes(used + rng.randbytes(CONFIG.word_bytes - len(used)), "little")

    def exponent_word(self, positions: dict[int, int], head_group: int, rng: random.Random) -> int:
        """The word in which the exponents of some tokens stand; their positions by entry."""
        per = self.layout.heads_per_word
        word = bytearray(rng.randbytes(CONFIG.word_bytes))
        heads = slice(head_group * per, (head_group + 1) * per)
        for slot, position in positions.items():
            at = slot * 2 * per
            for offset, exponents in ((0, self.key_exponent), (per, self.value_exponent)):
                part = exponents[position, heads].astype(np.int8).tobytes()
                word[at + offset : at + offset + len(part)] = part
        return int.from_bytes(word, "little")


class TestBench:
    """The unit; walks are answered as KvIndex and the reader would."""

    def __init__(self, dut: Any, *, stall: float):
        def stalls(seed: int) -> Any:
            return random_stall(stall, seed=seed) if stall else None

        self.dut, self.rng = dut, random.Random(8)
        self.longest_runs = False
        self.hit_rate = 0.0
        self.most_held = CONFIG.history_words
        self.held: set[int] = set()
        self.hits_seen = 0
        self.queries = StreamDriver(dut, "queries", shape=MantissaPairLayout(CONFIG))
        self.command = StreamDriver(dut, "command", shape=AttendCommand(CONFIG), stall=stalls(1))
        self.walks = StreamMonitor(dut, "walk", shape=WalkLayout(CONFIG), stall=stalls(2))
        self.misses = StreamDriver(
            dut, "misses", shape=ItemLayout(MissLayout(CONFIG)), stall=stalls(3)
        )
        self.hits = StreamDriver(
            dut, "hits", shape=ItemLayout(range(CONFIG.max_context)), stall=stalls(6)
        )
        self.words = StreamDriver(dut, "words", stall=stalls(4))
        self.outputs = StreamMonitor(dut, "o", shape=PairLayout(CONFIG), stall=stalls(5))

    async def load(self, p: Problem, tokens: list[int]) -> None:
        """Geometry, and the queries of some tokens; nothing is held of K and V."""
        self.held.clear()
        layout, dut = p.layout, self.dut
        log2 = layout.head_dim.bit_length() - 1
        dut.head_dim_log2.value = log2
        dut.position.value = p.position
        dut.query_heads.value = p.ratio
        dut.geometry.value = pack(
            KvGeometry(),
            {
                "head_dim_log2": log2,
                "kv_heads": layout.kv_heads,
                "head_groups": layout.head_groups,
                "group_words": layout.group_words,
                "block_words": layout.block_words,
            },
        )
        for token in tokens:
            self.queries.queue(p.query_pairs(token))
        await self.queries.send([])
        await cycle(dut, 4)
        assert dut.queries_idle.value == 1

    def answer(self, p: Problem, last: int) -> None:
        """Queue what KvIndex and memory answer to a walk; some of what is held becomes a hit."""
        rng, per_word = self.rng, p.layout.tokens_per_exponent_word
        hits = [n for n in range(last + 1) if n in self.held and rng.random() < self.hit_rate]
        missed = [n for n in range(last + 1) if n not in hits]
        # Layers take turns; each has an exponent word in which entries rise, some left out.
        places: list[tuple[int, int, bool, int]] = []  # layer, slot, opens, word of each
        exponent_words: list[dict[int, int]] = []
        last_word: dict[int, int] = {}
        layer = 0
        for position in missed:
            if not self.longest_runs and rng.random() < 0.3:
                layer = rng.randrange(CONFIG.max_layers)
            word = last_word.get(layer)
            gap = 0 if self.longest_runs or rng.random() < 0.7 else rng.randrange(per_word)
            slot = gap if word is None else max(exponent_words[word]) + 1 + gap
            opens = word is None or slot >= per_word
            if opens:
                word = last_word[layer] = len(exponent_words)
                exponent_words.append({})
                slot %= per_word
            assert word is not None
            exponent_words[word][slot] = position
            places.append((layer, slot, opens, word))
        span = 1 << (p.layout.head_groups - 1).bit_length()
        self.held |= {n for n in range(last + 1) if n < self.most_held // span}
        self.hits_seen += len(hits)
        end = {"data": 0, "end": 1}
        for head_group in range(p.layout.head_groups):
            for rows in (p.keys, p.values):
                for position, (layer, slot, opens, word) in zip(missed, places, strict=True):
                    if opens and rows is p.keys:
                        entries = exponent_words[word]
                        self.words.queue([p.exponent_word(entries, head_group, rng)])
                    item = {"position": position, "layer": layer, "slot": slot, "opens": opens}
                    self.misses.queue([{"data": item, "end": 0}])
                    self.words.queue([p.word(rows, position, head_group, rng)])
                self.misses.queue([{"data": {}, "end": 1}])
                if CONFIG.history_words:
                    self.hits.queue([{"data": n, "end": 0} for n in hits] + [end])

    async def check(self, p: Problem, tokens: list[int]) -> int:
        """Attention of some tokens; returns the cycles it took."""
        await self.load(p, tokens)
        begun = cycles()
        layer = self.rng.randrange(CONFIG.max_layers)
        self.command.queue([{"layer": layer, "select": sum(1 << t for t in tokens)}])
        expected = p.expected(tokens)
        for token in tokens:
            last = p.position + token
            assert await self.walks.take(1) == [{"layer": layer, "last": last}]
            self.answer(p, last)
        pairs = expected.shape[1] // 2
        for row, token in zip(expected, tokens, strict=True):
            for index, o in enumerate(await self.outputs.take(pairs)):
                assert (o["kind"], o["token"], o["index"]) == (PairKind.ATTENTION, token, index)
                scale = np.array(o["scale"], np.uint32).view(np.float32)
                y = fp32.mul(fp32.from_int(o["accumulator"], o["exponent"]), scale)
                assert y.view(np.uint32).tolist() == row[2 * index : 2 * index + 2].tolist()
        await cycle(self.dut, 3)
        assert self.dut.idle.value == 1
        assert self.dut.reading.value == 0
        return self.outputs.times[-1] - begun


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    rng = np.random.default_rng(3)
    await begin(dut)
    bench = TestBench(dut, stall=stall)
    for shape in shapes():
        for n in range(rounds):
            bench.hit_rate = (0.5, 1.0, 0.1)[n % 3]
            p = Problem(rng, shape, position=int(rng.integers(0, 33)))
            count = int(rng.integers(2, 5))
            tokens = sorted(rng.choice(p.count, size=count, replace=False).tolist())
            await bench.check(p, tokens)
    assert bool(bench.hits_seen) == bool(CONFIG.history_words)
    await bench.outputs.expect_silence()
    await bench.walks.expect_silence(0)


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=3)


@cocotb.test()
async def all_sides_stalled(dut):
    await exercise(dut, 0.4, rounds=1)


@cocotb.test()
async def every_token(dut):
    """The first tokens of a sequence, all of the chunk selected."""
    rng = np.random.default_rng(4)
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    for shape in shapes()[:2]:
        p = Problem(rng, shape, position=0)
        await bench.check(p, list(range(p.count)))


@cocotb.test()
async def longest_context(dut):
    """The last position there is; then one position, in the cycles the unit promises."""
    rng = np.random.default_rng(5)
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    bench.longest_runs = True
    shape = shapes()[0]
    spent = {}
    for position in (CONFIG.max_context - 1, 0):
        p = Problem(rng, shape, position=position)
        spent[position + 1] = await bench.check(p, [0])
    longer = CONFIG.max_context - 1
    exponents = CONFIG.max_context // p.layout.tokens_per_exponent_word - 1
    passes_over_values = 1 if CONFIG.lanes > 1 else 2
    assert spent[CONFIG.max_context] - spent[1] == (1 + passes_over_values) * longer + exponents


@cocotb.test(skip=not CONFIG.history_words)
async def beside_the_memory(dut):
    """Hits take no cycles while the memory's words come, if there are lanes for them."""
    rng = np.random.default_rng(6)
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    bench.longest_runs = True
    bench.most_held = 32
    p = Problem(rng, (32, 1, 1), position=99)
    spent = {}
    for rate in (0.0, 1.0):
        bench.hit_rate = rate
        spent[rate] = await bench.check(p, [0, 1])
    # K; K and V; with one lane only the cycles in which an exponent word comes are to be had.
    saved = {1: 101 // 16 + 1, 2: 32 + 2, 4: 2 * 32 + 2}[CONFIG.lanes]
    assert abs(spent[0.0] - spent[1.0] - saved) <= 2
