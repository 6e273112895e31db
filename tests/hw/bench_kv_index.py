"""Bench of the KV index: every read command against bitmaps kept in plain Python."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from skipstone.spec.layout import KvLayout
from skipstone_hw.kv_index import KvGeometry, RunLayout, WalkLayout
from skipstone_hw.layouts import ReadCommandLayout, ReadKind
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

Command = dict[str, Any]
Run = dict[str, int]


class Model:
    """Which layers each position stored in, and what a walk must read."""

    def __init__(self, layout: KvLayout):
        self.layout = layout
        self.stored: list[set[int]] = []

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

    def runs(self, layer: int, last: int) -> list[tuple[int, int, int]]:
        """(layer, first rank, length) of neighbours that one read serves."""
        merged: list[tuple[int, int, int]] = []
        for version, rank in self.places(layer, last):
            if merged:
                run_layer, first, length = merged[-1]
                same_word = rank % self.layout.tokens_per_exponent_word != 0
                if version == run_layer and rank == first + length and same_word:
                    merged[-1] = (run_layer, first, length + 1)
                    continue
            merged.append((version, rank, 1))
        return merged

    def expected(
        self, layer: int, last: int, head_group: int, values: bool
    ) -> tuple[list[Command], list[Run]]:
        """Commands and run descriptions of a walk."""
        commands, described = [], []
        per_word, capacity = self.layout.tokens_per_exponent_word, self.layout.capacity
        for version, rank, length in self.runs(layer, last):
            bank = self.layout.bank(version, head_group)
            reads = [(bank + capacity * values + rank, length)]
            if not values:
                reads.insert(0, (bank + 2 * capacity + rank // per_word, 1))
                described.append({"slot": rank % per_word, "length": length})
            commands += [
                {"address": address, "words": words, "kind": ReadKind.KV}
                for address, words in reads
            ]
        return commands, described


class TestBench:
    """The unit, its three streams and the model beside it."""

    def __init__(self, dut: Any, *, stall: float):
        def stalls(seed: int) -> Any:
            return random_stall(stall, seed=seed) if stall else None

        self.dut, self.rng = dut, random.Random(5)
        self.walks = StreamDriver(dut, "walk", shape=WalkLayout(CONFIG), stall=stalls(1))
        self.commands = StreamMonitor(dut, "commands", shape=ReadCommandLayout(), stall=stalls(2))
        self.runs = StreamMonitor(dut, "runs", shape=RunLayout(), stall=stalls(3))
        self.position = 0
        self.model: Model

    def use(self, *, head_dim: int, heads: int) -> None:
        """Another model, which has stored nothing yet."""
        layout = KvLayout(
            base=self.rng.randrange(1 << 20),
            capacity=CONFIG.max_context,
            head_dim=head_dim,
            kv_heads=heads,
            word_bytes=max(CONFIG.word_bytes, head_dim),
        )
        self.model = Model(layout)
        self.dut.geometry.value = pack(
            KvGeometry(),
            {
                "base": layout.base,
                "capacity": layout.capacity,
                "head_dim_log2": head_dim.bit_length() - 1,
                "kv_heads": heads,
                "head_groups": layout.head_groups,
                "bank_words": layout.bank_words,
                "layer_words": layout.bank_words * layout.head_groups,
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
        await self.pulse("begin")

    async def commit(self, layer: int, tokens: list[int]) -> None:
        self.dut.rank_layer.value = layer
        await cycle(self.dut, 2)
        assert self.dut.rank_first.value == self.model.rank(self.position, layer)
        self.dut.commit_layer.value = layer
        self.dut.commit_tokens.value = sum(1 << n for n in tokens)
        self.dut.commit.value = 1
        await cycle(self.dut)
        self.dut.commit.value = 0
        for n in tokens:
            self.model.stored[self.position + n].add(layer)

    async def walk(self, requests: list[tuple[int, int]], *, values: bool | None = None) -> None:
        """Walks of (layer, last position), compared read for read."""
        layout = self.model.layout
        commands: list[Command] = []
        described: list[Run] = []
        for layer, last in requests:
            group = self.rng.randrange(layout.head_groups)
            wants_values = self.rng.random() < 0.5 if values is None else values
            self.walks.queue(
                [
                    {
                        "layer": layer,
                        "last": last,
                        "bank_offset": group * layout.bank_words,
                        "values": wants_values,
                    }
                ]
            )
            more = self.model.expected(layer, last, group, wants_values)
            commands += more[0]
            described += more[1]
        begun = len(self.commands.times), len(self.runs.times)
        assert await self.commands.take(len(commands)) == commands
        assert await self.runs.take(len(described)) == described
        # No exponent word is asked for before its run is described.
        asked = [
            time
            for time, command in zip(self.commands.times[begun[0] :], commands, strict=True)
            if self.is_exponent(command)
        ]
        told = self.runs.times[begun[1] :]
        assert all(a >= b for a, b in zip(asked, told, strict=True))
        await cycle(self.dut, 2)
        assert self.dut.idle.value == 1

    def is_exponent(self, command: Command) -> bool:
        layout = self.model.layout
        return (command["address"] - layout.base) % layout.bank_words >= 2 * layout.capacity

    async def chunk(self, position: int, count: int, style: str) -> None:
        """A whole chunk: each layer stores, then attends; the end writes the bitmaps away."""
        await self.begin_chunk(position, count)
        for layer in range(LAYERS):
            tokens = [n for n in range(count) if layer == 0 or self.stores(style, layer, n)]
            if not tokens:
                continue
            await self.commit(layer, tokens)
            if layer == LAYERS - 1 or self.rng.random() < 0.4:
                chosen = self.rng.choices(tokens, k=self.rng.randint(1, 3))
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
        bench.use(head_dim=head_dim, heads=heads)
        position = 0
        for n in range(chunks):
            count = 1 if n % 4 == 3 else bench.rng.randint(1, CHUNK)
            await bench.chunk(position, count, STYLES[n % len(STYLES)])
            position += count
            if n % 5 == 2:  # the host goes back
                position = bench.rng.randrange(position)
    await bench.commands.expect_silence()
    await bench.runs.expect_silence(0)


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, chunks=14)


@cocotb.test()
async def both_sides_stalled(dut):
    await exercise(dut, 0.5, chunks=8)


@cocotb.test()
async def dense(dut):
    """Without skipping, a walk is one read per exponent word, and takes a cycle per position."""
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    bench.use(head_dim=64, heads=2)
    tokens = CONFIG.max_context
    for position in range(0, tokens, CHUNK):
        await bench.begin_chunk(position, CHUNK)
        for layer in range(LAYERS):
            await bench.commit(layer, list(range(CHUNK)))
        await bench.pulse("end")
    words = tokens // bench.model.layout.tokens_per_exponent_word
    assert len(bench.model.runs(LAYERS - 1, tokens - 1)) == words
    for values in (False, True):
        before = cycles()
        await bench.walk([(LAYERS - 1, tokens - 1)] * 4, values=values)
        assert cycles() - before <= 4 * (tokens + 8) + 10


@cocotb.test()
async def after_a_failure(dut):
    """A chunk that was given up leaves the positions before it as they were, reset or not."""
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    bench.use(head_dim=32, heads=1)
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
