"""Bench of the replayed lists: every pass against what was written."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from amaranth.lib import data

from skipstone_hw.replay import ItemLayout
from skipstone_sim.bench_tools import (
    StreamMonitor,
    begin,
    bench_config,
    cycle,
    pack,
    random_stall,
)

LONGEST = bench_config().max_context
ITEM: data.Layout = ItemLayout(16)
END = {"data": 0, "end": 1}

Item = dict[str, Any]


async def write(dut: Any, lists: list[list[Item]], *, stall: float) -> None:
    """Write lists, each when there is room for a longest one."""
    gap = random_stall(stall, seed=3)
    for items in lists:
        while True:
            await cycle(dut)
            if dut.room.value:
                break
        for item in [*items, END]:
            while gap():
                await cycle(dut)
            dut.write.value, dut.item.value = 1, pack(ITEM, item)
            await cycle(dut)
            dut.write.value = 0
        await cycle(dut)


async def exercise(dut: Any, *, reading: float, writing: float, passes: int, rounds: int) -> None:
    rng = random.Random(passes)
    await begin(dut)
    stall = random_stall(reading, seed=1) if reading else None
    monitor = StreamMonitor(dut, "o", shape=ITEM, stall=stall)
    dut.passes.value = passes
    assert dut.empty.value == 1
    lists = [
        [{"data": rng.getrandbits(16), "end": 0} for _ in range(rng.choice((0, 1, 2, 5, 40)))]
        for _ in range(rounds)
    ]
    lists.append([{"data": n, "end": 0} for n in range(LONGEST)])
    cocotb.start_soon(write(dut, [*lists, lists[0]], stall=writing))
    for n, items in enumerate([*lists, lists[0]]):
        for _ in range(passes):
            assert await monitor.take(len(items) + 1) == [*items, END]
        if n == rounds and not reading:  # long since written: one item per cycle
            times = monitor.times[-(passes - 1) * (LONGEST + 1) :] if passes > 1 else [0]
            assert times[-1] - times[0] == len(times) - 1
    await monitor.expect_silence()
    assert dut.empty.value == 1
    assert dut.room.value == 1


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, reading=0.0, writing=0.0, passes=4, rounds=30)


@cocotb.test()
async def once(dut):
    await exercise(dut, reading=0.0, writing=0.0, passes=1, rounds=30)


@cocotb.test()
async def slow_reading(dut):
    await exercise(dut, reading=0.5, writing=0.0, passes=2, rounds=30)


@cocotb.test()
async def slow_writing(dut):
    await exercise(dut, reading=0.2, writing=0.6, passes=6, rounds=20)
