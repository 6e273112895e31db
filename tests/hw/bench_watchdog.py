"""Bench of the watchdog against a cycle-by-cycle count."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from skipstone_sim.bench_tools import begin


async def compare(dut, limit: int, inputs: list[tuple[int, int]]) -> int:
    """Apply (enable, progress) cycle by cycle; how often it expired, each time as it should."""
    dut.limit.value = limit
    waited = fired = expected = 0
    for enable, progress in inputs:
        dut.enable.value, dut.progress.value = enable, progress
        await RisingEdge(dut.clk)
        assert int(dut.expired.value) == expected
        fired += expected
        waited = 0 if progress or not enable or not limit else waited + 1
        expected = int(bool(limit) and waited == limit)
        waited = 0 if expected else waited
    dut.enable.value = 0
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    return fired + expected


@cocotb.test()
async def silence(dut):
    await begin(dut)
    assert await compare(dut, 0, [(1, 0)] * 300) == 0
    assert await compare(dut, 1, [(1, 0)] * 10) == 10
    assert await compare(dut, 7, [(1, 0)] * 70) == 10
    assert await compare(dut, 100, [(1, 0)] * 99) == 0
    assert await compare(dut, 100, [(1, 0)] * 100) == 1
    assert await compare(dut, 0xFFFFFFFF, [(1, 0)] * 300) == 0


@cocotb.test()
async def progress_and_enable(dut):
    await begin(dut)
    rng = random.Random(1)
    for limit in (1, 2, 3, 5, 9):
        inputs = [(int(rng.random() < 0.95), int(rng.random() < 0.25)) for _ in range(500)]
        assert await compare(dut, limit, inputs) > 0
    assert await compare(dut, 5, [(1, int(n % 5 == 4)) for n in range(200)]) == 0
    assert await compare(dut, 5, [(int(n % 5 != 4), 0) for n in range(200)]) == 0
