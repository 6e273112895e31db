"""Bench of the second pass of a residual: zeros of the right length, for the right token."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from skipstone_hw.layouts import PairKind, PairLayout
from skipstone_sim.bench_tools import StreamMonitor, begin, bench_config, cycle, random_stall

CONFIG = bench_config()


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    rng = random.Random(1)
    await begin(dut)
    monitor = StreamMonitor(
        dut, "o", shape=PairLayout(CONFIG), stall=random_stall(stall, seed=2) if stall else None
    )
    for _ in range(rounds):
        pairs = rng.randint(1, CONFIG.max_hidden // CONFIG.group) * CONFIG.group // 2
        token = rng.randrange(CONFIG.max_chunk)
        assert dut.idle.value == 1
        dut.hidden_pairs.value, dut.token.value, dut.start.value = pairs, token, 1
        await cycle(dut)
        dut.start.value = 0
        items = await monitor.take(pairs)
        for index, item in enumerate(items):
            assert (item["kind"], item["token"]) == (PairKind.RESIDUAL, token)
            assert item["index"] == index
            assert (item["accumulator"], item["exponent"]) == ([0, 0], 0)
            assert item["scale"] == 0x3F800000
        if not stall:
            assert monitor.times[-1] - monitor.times[-pairs] == pairs - 1
        await monitor.expect_silence(5)


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=4)


@cocotb.test()
async def stalled(dut):
    await exercise(dut, 0.5, rounds=4)
