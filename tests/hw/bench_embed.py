"""Bench of the chunk loader: embedding rows and rotations against a plain copy of memory."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from skipstone.spec.layout import row_words
from skipstone.spec.records import FORCE, INPUT_RECORD, RECORD_BYTES
from skipstone_hw.embed import InputRecordLayout, TablesLayout
from skipstone_hw.layouts import PairKind, PairLayout, ReadCommandLayout, ReadKind
from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    cycle,
    pack,
    random_stall,
    unpack,
)

CONFIG = bench_config()
VOCABULARY = 50
INPUT, EMBEDDING, ROPE = 3, 100, 20_000
EDGES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x83FF, 0x7BFF, 0xFBFF, 0x3C00]
"""FP16: zeros, the smallest and largest subnormals, the smallest normal, the largest, one."""


class Model:
    """Tables in memory."""

    def __init__(self, rng: np.random.Generator, *, groups: int, head_dim: int):
        self.hidden, self.head_dim = groups * CONFIG.group, head_dim
        raw = rng.integers(0, 1 << 16, (VOCABULARY, self.hidden), np.uint16)
        raw[(raw >> 10 & 0x1F) == 0x1F] ^= 1 << 14  # no infinity, no NaN
        raw[0, : len(EDGES)] = EDGES
        raw[1] &= 0x83FF
        self.rows = raw
        self.angles = rng.integers(0, 1 << 32, (CONFIG.max_context, head_dim), np.uint32)
        self.row_words = row_words(CONFIG, 2 * self.hidden)
        self.angle_words = row_words(CONFIG, 4 * head_dim)
        self.records = np.zeros(CONFIG.max_chunk, INPUT_RECORD)

    def words(self, address: int, count: int) -> list[int]:
        """What the reader returns."""
        if address >= ROPE:
            first, table, per_row = ROPE, self.angles, self.angle_words
        elif address >= EMBEDDING:
            first, table, per_row = EMBEDDING, self.rows, self.row_words
        else:
            assert address == INPUT
            raw = self.records.tobytes().ljust(count * CONFIG.word_bytes, b"\xa5")
            return self._cut(raw, count)
        row, rest = divmod(address - first, per_row)
        assert rest == 0
        assert count == per_row
        return self._cut(table[row].tobytes().ljust(count * CONFIG.word_bytes, b"\x5a"), count)

    @staticmethod
    def _cut(raw: bytes, count: int) -> list[int]:
        size = CONFIG.word_bytes
        return [int.from_bytes(raw[n * size :][:size], "little") for n in range(count)]


class TestBench:
    """The unit; its reads are answered from the model."""

    def __init__(self, dut: Any, *, stall: float):
        stalls = [random_stall(stall, seed=n) if stall else None for n in range(3)]
        self.dut = dut
        self.commands = StreamMonitor(dut, "commands", shape=ReadCommandLayout(), stall=stalls[0])
        self.words = StreamDriver(dut, "words", stall=stalls[1])
        self.pairs = StreamMonitor(dut, "o", shape=PairLayout(CONFIG), stall=stalls[2])
        self.model: Model
        self.rotations: list[tuple[int, int, int, int]] = []
        self.seen: list[tuple[int, dict[str, int]]] = []
        self.bad = 0
        cocotb.start_soon(self._answer())
        cocotb.start_soon(self._watch())

    def use(self, model: Model) -> None:
        self.model = model
        self.dut.tables.value = pack(
            TablesLayout(),
            {
                "embedding": EMBEDDING,
                "embedding_words": model.row_words,
                "rope": ROPE,
                "rope_words": model.angle_words,
                "vocabulary": VOCABULARY,
            },
        )
        self.dut.input_address.value = INPUT
        self.dut.hidden_pairs.value = model.hidden // 2
        self.dut.head_dim_log2.value = model.head_dim.bit_length() - 1

    async def _answer(self) -> None:
        answered = 0
        while True:
            await RisingEdge(self.dut.clk)
            for command in self.commands.received[answered:]:
                self.words.queue(self.model.words(command["address"], command["words"]))
                answered += 1

    async def _watch(self) -> None:
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            self.bad += int(dut.bad_token.value)
            if dut.rope_write__en.value:
                names = ("token", "index", "cos", "sin")
                values = [int(getattr(dut, f"rope_write__{name}").value) for name in names]
                self.rotations.append((values[0], values[1], values[2], values[3]))
            if dut.record_valid.value:
                record = unpack(InputRecordLayout(), int(dut.record.value))
                self.seen.append((int(dut.record_index.value), record))

    async def start(self, position: int, count: int, fed_back: int | None = None) -> None:
        dut = self.dut
        dut.position.value, dut.count.value = position, count
        dut.fed_back.value = fed_back is not None
        dut.token.value = 0xDEAD if fed_back is None else fed_back
        dut.start.value = 1
        await cycle(dut)
        dut.start.value = 0
        self.rotations.clear()
        self.seen.clear()

    async def check_commands(self, position: int, tokens: list[int], records: bool) -> None:
        count = len(tokens)
        expected = [(INPUT, row_words(CONFIG, count * RECORD_BYTES))] if records else []
        for n, token in enumerate(tokens):
            expected += [
                (EMBEDDING + token * self.model.row_words, self.model.row_words),
                (ROPE + (position + n) * self.model.angle_words, self.model.angle_words),
            ]
        commands = await self.commands.take(len(expected))
        assert [(c["address"], c["words"]) for c in commands] == expected
        assert {c["kind"] for c in commands} == {ReadKind.OTHER}

    async def check(self, position: int, tokens: list[int], *, fed_back: bool = False) -> None:
        """A chunk of these tokens from start to idle."""
        dut, model, count = self.dut, self.model, len(tokens)
        await self.start(position, count, tokens[0] if fed_back else None)
        await self.check_commands(position, tokens, not fed_back)
        for n, token in enumerate(tokens):
            row = model.rows[token].view(np.float16).astype(np.float64)
            for index, o in enumerate(await self.pairs.take(model.hidden // 2)):
                assert (o["kind"], o["token"], o["index"]) == (PairKind.EMBED, n, index)
                assert o["scale"] == 0x3F800000
                value = np.ldexp(np.array(o["accumulator"], np.float64), o["exponent"])
                assert value.tolist() == row[2 * index : 2 * index + 2].tolist()
        for _ in range(10_000):
            if dut.idle.value:
                break
            await cycle(dut)
        assert dut.idle.value == 1
        angles = model.angles[position : position + count].reshape(count, -1, 2).tolist()
        assert self.rotations == [
            (n, index, cos, sin)
            for n, pairs in enumerate(angles)
            for index, (cos, sin) in enumerate(pairs)
        ]
        want = np.zeros(1, INPUT_RECORD) if fed_back else model.records[:count]
        want["token"][:count] = tokens
        names = INPUT_RECORD.names
        assert names is not None
        assert self.seen == [
            (n, {name: int(record[name]) for name in names}) for n, record in enumerate(want)
        ]
        for n, token in enumerate(tokens):
            dut.token_index.value = n
            await cycle(dut, 2)
            assert dut.token_id.value == token
        assert self.bad == 0


def random_records(rng: np.random.Generator, model: Model, tokens: list[int]) -> None:
    count = len(tokens)
    model.records[:count]["token"] = tokens
    model.records[:count]["flags"] = rng.integers(0, 2, count) * FORCE
    for name in ("attention", "mlp"):
        model.records[:count][name] = rng.integers(0, 1 << 64, count, np.uint64)


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    rng = np.random.default_rng(6)
    await begin(dut)
    bench = TestBench(dut, stall=stall)
    for head_dim in (32, 64, 128):
        most = CONFIG.max_hidden // CONFIG.group
        model = Model(rng, groups=int(rng.integers(1, most + 1)), head_dim=head_dim)
        bench.use(model)
        for n in range(rounds):
            count = CONFIG.max_chunk if n == 0 else int(rng.integers(1, CONFIG.max_chunk + 1))
            tokens = rng.integers(0, VOCABULARY, count).tolist()
            tokens[0] = (0, 1, VOCABULARY - 1)[n % 3]
            position = int(rng.integers(0, CONFIG.max_context - count + 1))
            random_records(rng, model, tokens)
            await bench.check(position, tokens)
            await bench.check(position, [int(rng.integers(VOCABULARY))], fed_back=True)
    await bench.pairs.expect_silence()
    await bench.commands.expect_silence(0)


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=2)


@cocotb.test()
async def all_sides_stalled(dut):
    await exercise(dut, 0.5, rounds=1)


@cocotb.test()
async def token_out_of_range(dut):
    """Reported once, and its row is not asked for; after a reset the unit works again."""
    rng = np.random.default_rng(7)
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    bench.use(Model(rng, groups=1, head_dim=32))
    for token in (VOCABULARY, 1 << 24, (1 << 31) + 5, 0xFFFFFFFF):
        for before in ([], [4, 2]):
            tokens = [*before, token, 1]
            random_records(rng, bench.model, tokens)
            await bench.start(0, len(tokens))
            await bench.commands.take(1 + 2 * len(before))
            await bench.pairs.take(len(before) * bench.model.hidden // 2)
            await bench.commands.expect_silence()
            await bench.pairs.expect_silence(0)
            assert bench.bad == 1
            assert dut.idle.value == 0
            dut.rst.value = 1
            await cycle(dut)
            dut.rst.value = 0
            bench.bad = 0
            random_records(rng, bench.model, [3])
            await bench.check(9, [3])
