"""Bench of the report: output records in memory, and nothing beside them."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from skipstone.spec.records import OUTPUT_RECORD, RECORD_BYTES
from skipstone_hw.layouts import WriteLayout, piece_bytes
from skipstone_sim.bench_tools import StreamMonitor, begin, bench_config, cycle, random_stall

CONFIG = bench_config()
PIECE_BYTES = piece_bytes(CONFIG)
FIELDS = ("token_id", "argmax", "attention_map", "mlp_map")
GUARD = 0xC3


class TestBench:
    """The unit, and the tables that its index looks into."""

    def __init__(self, dut: Any, *, stall: float):
        self.dut, self.rng = dut, random.Random(3)
        self.writes = StreamMonitor(
            dut,
            "o",
            shape=WriteLayout(CONFIG),
            stall=random_stall(stall, seed=4) if stall else None,
        )
        self.tables: dict[str, list[int]] = {}
        cocotb.start_soon(self._look_up())

    async def _look_up(self) -> None:
        """Fields follow the index by a cycle."""
        while True:
            await RisingEdge(self.dut.clk)
            index = int(self.dut.index.value)
            for name, table in self.tables.items():
                getattr(self.dut, name).value = table[index]

    async def check(self, position: int, count: int, every_token: bool) -> None:
        dut, rng = self.dut, self.rng
        width = {"token_id": 32, "argmax": 32, "attention_map": 64, "mlp_map": 64}
        self.tables = {
            name: [rng.getrandbits(width[name]) for _ in range(CONFIG.max_chunk)] for name in FIELDS
        }
        base = rng.randrange(1 << 24)
        dut.base.value, dut.position.value, dut.count.value = base, position, count
        dut.every_token.value, dut.start.value = every_token, 1
        await cycle(dut)
        dut.start.value = 0
        memory: dict[int, bytearray] = {}
        for write in await self.writes.take(count):
            word = memory.setdefault(write["address"], bytearray([GUARD] * CONFIG.word_bytes))
            data = write["data"].to_bytes(PIECE_BYTES, "little")
            for n in range(PIECE_BYTES):
                if write["strobe"] >> n & 1:
                    word[write["piece"] * PIECE_BYTES + n] = data[n]
        await cycle(dut, 2)
        assert dut.idle.value == 1

        records = np.zeros(count, OUTPUT_RECORD)
        for n in range(count):
            records[n]["token"] = self.tables["token_id"][n]
            records[n]["attention"] = self.tables["attention_map"][n]
            records[n]["mlp"] = self.tables["mlp_map"][n]
            records[n]["position"] = position + n
            if every_token or n == count - 1:
                records[n]["next_token"] = self.tables["argmax"][n]
        first, skip = divmod(position * RECORD_BYTES, CONFIG.word_bytes)
        expected = bytes([GUARD] * skip) + records.tobytes()
        expected += bytes([GUARD] * (-len(expected) % CONFIG.word_bytes))
        assert sorted(memory) == list(range(base + first, base + first + len(memory)))
        assert b"".join(memory[address] for address in sorted(memory)) == expected


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    await begin(dut)
    bench = TestBench(dut, stall=stall)
    for n in range(rounds):
        count = CONFIG.max_chunk if n < 2 else bench.rng.randint(1, CONFIG.max_chunk)
        last = CONFIG.max_context - count
        position = last if n == 1 else bench.rng.randint(0, last)
        await bench.check(position, count, bench.rng.random() < 0.5)
    await bench.writes.expect_silence()


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=12)


@cocotb.test()
async def stalled(dut):
    await exercise(dut, 0.5, rounds=8)
