"""Bench of the KV index: every read command against bitmaps kept in plain Python."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import cocotb

from skipstone.spec.layout import KvLayout
from skipstone_hw.kv_index import KvGeometry, MissLayout, WalkLayout
from skipstone_hw.layouts import ReadCommandLayout, ReadKind
from skipstone_hw.replay import ItemLayout
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
LAYERS = CONFIG.max_layers
CHUNK = CONFIG.max_chunk
MISSES, HITS = ItemLayout(MissLayout(CONFIG)), ItemLayout(range(CONFIG.max_context))

FIRST_RUN_MAX = 4

Item = dict[str, Any]
Run = tuple[int, int, int, bool]
"""Layer, first rank and length of what one read serves; whether it needs an exponent word."""


class Model:
    """Which layers each position stored in, what the history holds, and what a walk must read."""

    def __init__(self, layout: KvLayout, stores: list[int]):
        self.layout, self.starts = layout, stores
        self.stored: list[set[int]] = []
        span = 1 << (layout.head_groups - 1).bit_length()
        self.kept = CONFIG.history_words // span  # positions that the history has room for
        self.held: dict[int, int] = {}

    def rank(self, position: int, layer: int) -> int:
        """How many positions before this one stored in `layer`."""
        return sum(layer in layers for layers in self.stored[:position])

    def places(self, layer: int, last: int) -> list[tuple[int, int]]:
        """(layer, rank) of each position's version, as attention in `layer` sees it."""
        counts = [0] * LAYERS
        found = []
        for stored in self.stored[: last + 1]:
            version = max(n for n in stored if n <= layer)
            found.append((version, counts[version]))
            for n in stored:
                counts[n] += 1
        return found

    def walk(self, layer: int, last: int) -> tuple[list[Run], list[Item], list[Item]]:
        """Runs; misses; hits; and keeps them."""
        runs: list[Run] = []
        misses, hits = [], []
        opened: set[tuple[int, int]] = set()
        per_word = self.layout.tokens_per_exponent_word
        for position, (version, rank) in enumerate(self.places(layer, last)):
            if self.held.get(position) == version:
                hits.append({"data": position, "end": 0})
                continue
            if position < self.kept:
                self.held[position] = version
            opens = (version, rank // per_word) not in opened
            opened.add((version, rank // per_word))
            extends = False
            if runs:
                run_layer, first, length, run_opens = runs[-1]
                extends = version == run_layer and rank == first + length and rank % per_word != 0
            if not extends or (len(runs) == 1 and length == FIRST_RUN_MAX):
                runs.append((version, rank, 1, opens))
            else:
                runs[-1] = (run_layer, first, length + 1, run_opens)
            slot = rank % per_word
            item = {"position": position, "layer": version, "slot": slot, "opens": opens}
            misses.append({"data": item, "end": 0})
        return runs, misses, hits

    def commands(self, runs: list[Run]) -> list[Item]:
        """The reads of all passes."""
        found = []
        for head_group in range(self.layout.head_groups):
            for values in (0, 1):
                for version, rank, length, opens in runs:
                    *rows, exponents = self.layout.places(self.starts[version], rank, head_group)
                    reads = [(rows[values], length)]
                    if opens and not values:
                        reads.insert(0, (exponents, 1))
                    found += [
                        {"address": address, "words": words, "kind": ReadKind.KV}
                        for address, words in reads
                    ]
        return found


class TestBench:
    """The unit, its streams and the model beside it."""

    def __init__(self, dut: Any, *, stall: float):
        def stalls(seed: int) -> Any:
            return random_stall(stall, seed=seed) if stall else None

        self.dut, self.rng = dut, random.Random(5)
        self.walks = StreamDriver(dut, "walk", shape=WalkLayout(CONFIG), stall=stalls(1))
        self.commands = StreamMonitor(dut, "commands", shape=ReadCommandLayout(), stall=stalls(2))
        self.items = [
            StreamMonitor(dut, "misses", shape=MISSES, stall=stalls(3)),
            StreamMonitor(dut, "hits", shape=HITS, stall=stalls(4)),
        ]
        self.counted, self.before = Counter[str](), Counter[str]()
        cocotb.start_soon(self.count())
        self.position = 0
        self.model: Model

    async def count(self) -> None:
        """What the unit says it asked for."""
        while True:
            await cycle(self.dut)
            for name in ("fresh", "gaps"):
                self.counted[name] += int(getattr(self.dut, name).value)

    async def use(self, *, head_dim: int, heads: int) -> None:
        """Another model, which has stored nothing yet; stores anywhere, in any order."""
        layout = KvLayout(head_dim, heads, word_bytes=max(CONFIG.word_bytes, head_dim))
        stores = [self.rng.randrange(1 << 20) for _ in range(LAYERS)]
        self.model = Model(layout, stores)
        for layer, store in enumerate(stores):
            self.dut.store_layer.value, self.dut.store.value = layer, store
            self.dut.store_set.value = 1
            await cycle(self.dut)
        self.dut.store_set.value = 0
        self.dut.geometry.value = pack(
            KvGeometry(),
            {
                "head_dim_log2": head_dim.bit_length() - 1,
                "kv_heads": heads,
                "head_groups": layout.head_groups,
                "group_words": layout.group_words,
                "block_words": layout.block_words,
            },
        )

    async def pulse(self, name: str) -> None:
        signal = getattr(self.dut, name)
        signal.value = 1
        await cycle(self.dut)
        signal.value = 0
        await cycle(self.dut)
        for _ in range(2 * CONFIG.max_context):
            if not self.dut.busy.value:
                return
            await cycle(self.dut)
        raise AssertionError(f"busy for ever after {name}")

    async def begin_chunk(self, position: int, count: int) -> None:
        """A chunk begins; what was stored at and after `position` is forgotten."""
        self.position = position
        self.dut.position.value = position
        self.dut.count.value = count
        self.model.stored[position:] = [set() for _ in range(count)]
        self.model.held.clear()
        await self.pulse("begin")

    async def commit(self, layer: int, tokens: list[int]) -> None:
        self.dut.rank_layer.value = layer
        self.dut.commit_tokens.value = sum(1 << n for n in tokens)
        await cycle(self.dut, 2)
        assert self.dut.rank_first.value == self.model.rank(self.position, layer)
        assert self.dut.rank_store.value == self.model.starts[layer]
        self.dut.commit_layer.value = layer
        self.dut.commit.value = 1
        await cycle(self.dut)
        self.dut.commit.value = 0
        for n in tokens:
            self.model.stored[self.position + n].add(layer)

    async def walk(self, requests: list[tuple[int, int]]) -> None:
        """Walks of (layer, last position), compared item for item."""
        model, end = self.model, {"end": 1}
        commands: list[Item] = []
        items: tuple[list[Item], list[Item]] = [], []
        passes = 2 * model.layout.head_groups
        counted = Counter[str]()
        for layer, last in requests:
            self.walks.queue([{"layer": layer, "last": last}])
            runs, *found = model.walk(layer, last)
            commands += model.commands(runs)
            for version, _, length, _ in runs:
                counted["fresh" if version == layer else "gaps"] += length * passes
            for wanted, more in zip(items, found, strict=True):
                wanted += [*more, end] * passes
        assert await self.commands.take(len(commands)) == commands
        for monitor, wanted in zip(self.items, items, strict=True):
            if not CONFIG.history_words and monitor is self.items[1]:
                continue
            for item, expected in zip(await monitor.take(len(wanted)), wanted, strict=True):
                assert item["end"] == expected["end"]
                assert item["end"] or item == expected
        await cycle(self.dut, passes + 2)
        assert self.dut.idle.value == 1
        assert self.counted - self.before == counted
        self.before = self.counted.copy()

    async def chunk(self, position: int, count: int, style: str) -> None:
        """A whole chunk: each layer stores, then attends; the end writes the bitmaps away."""
        await self.begin_chunk(position, count)
        for layer in range(LAYERS):
            tokens = [n for n in range(count) if layer == 0 or self.stores(style, layer, n)]
            if not tokens:
                continue
            await self.commit(layer, tokens)
            if layer == LAYERS - 1 or self.rng.random() < 0.4:
                chosen = sorted(self.rng.choices(tokens, k=self.rng.randint(1, 3)))
                await self.walk([(layer, position + n) for n in chosen])
        await self.pulse("end")
        if self.rng.random() < 0.5:  # from the memory alone
            await self.walk([(self.rng.randrange(LAYERS), position + count - 1)])

    def stores(self, style: str, layer: int, token: int) -> bool:
        match style:
            case "all":
                return True
            case "none":
                return False
            case "alternating":
                return (layer + token) % 2 == 0
            case "layers":
                return layer % 3 == 1
            case "rare":
                return self.rng.random() < 0.1
        return self.rng.random() < 0.7


STYLES = ("random", "all", "none", "alternating", "layers", "rare")


async def exercise(dut: Any, stall: float, *, chunks: int) -> None:
    await begin(dut)
    bench = TestBench(dut, stall=stall)
    for head_dim, heads in ((32, 3), (64, 1), (128, 5)):
        await bench.use(head_dim=head_dim, heads=heads)
        position = 0
        for n in range(chunks):
            count = 1 if n % 4 == 3 else bench.rng.randint(1, CHUNK)
            await bench.chunk(position, count, STYLES[n % len(STYLES)])
            position += count
            if n % 5 == 2:  # the host goes back
                position = bench.rng.randrange(position)
    await bench.commands.expect_silence()
    for monitor in bench.items:
        await monitor.expect_silence(0)


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, chunks=14)


@cocotb.test()
async def both_sides_stalled(dut):
    await exercise(dut, 0.5, chunks=8)


@cocotb.test()
async def dense(dut):
    """Without skipping, a pass is one read per exponent word, and takes a cycle per position."""
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    await bench.use(head_dim=64, heads=2)
    tokens = CONFIG.max_context
    for position in range(0, tokens, CHUNK):
        await bench.begin_chunk(position, CHUNK)
        for layer in range(LAYERS):
            await bench.commit(layer, list(range(CHUNK)))
        await bench.pulse("end")
    words = tokens // bench.model.layout.tokens_per_exponent_word
    walks = [(layer, tokens - 1) for layer in range(LAYERS)]
    assert len(bench.model.walk(*walks[0])[0]) == words + 1  # the first is cut
    bench.model.held.clear()
    before = cycles()
    await bench.walk(walks)
    passes = LAYERS * 2 * bench.model.layout.head_groups
    assert cycles() - before <= passes * (tokens + 2) + LAYERS * 16


@cocotb.test()
async def any_order_of_layers(dut):
    """What a hit is does not depend on layers rising from walk to walk."""
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    await bench.use(head_dim=32, heads=1)
    await bench.begin_chunk(0, CHUNK)
    for layer in range(LAYERS):
        tokens = [n for n in range(CHUNK) if layer == 0 or bench.rng.random() < 0.4]
        await bench.commit(layer, tokens)
    for _ in range(30):
        await bench.walk([(bench.rng.randrange(LAYERS), bench.rng.randrange(CHUNK))])


@cocotb.test()
async def after_a_failure(dut):
    """A chunk that was given up leaves the positions before it as they were, reset or not."""
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    await bench.use(head_dim=32, heads=1)
    await bench.chunk(0, CHUNK, "random")
    await bench.chunk(CHUNK, 3, "alternating")
    for reset in (False, True):
        await bench.begin_chunk(CHUNK + 3, 2)
        for layer in range(LAYERS):
            await bench.commit(layer, [0, 1])
        if reset:
            dut.rst.value = 1
            await cycle(dut)
            dut.rst.value = 0
        await bench.chunk(CHUNK + 3, 4, "random")
        await bench.walk([(layer, CHUNK + 6) for layer in range(LAYERS)])
