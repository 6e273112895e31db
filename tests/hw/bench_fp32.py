"""Plays vectors through a pausable arithmetic pipeline and compares every result."""

from __future__ import annotations

import random
from collections.abc import Callable

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from skipstone_sim.bench_tools import begin, bench_parameters, random_stall


async def play(dut, paused: Callable[[], bool]) -> None:
    """Row n goes in before the n-th enabled edge; its result is there before edge n + latency."""
    parameters = bench_parameters()
    latency = parameters["cycles"]
    with np.load(parameters["vectors"]) as vectors:
        expected = vectors["expected"].tolist()
        inputs = {
            getattr(dut, name.removeprefix("in_")): vectors[name].tolist()
            for name in vectors.files
            if name.startswith("in_")
        }
    output = getattr(dut, parameters["output"])
    mask = (1 << len(output)) - 1
    masks = {port: (1 << len(port)) - 1 for port in inputs}
    count = len(expected)
    rng = random.Random(1)
    edge = RisingEdge(dut.clk)

    await begin(dut)
    row = 0
    while row < count + latency:
        pause = paused()
        dut.en.value = int(not pause)
        # While paused, and once the rows are used up, other rows' values are at the inputs.
        shown = rng.randrange(count) if pause or row >= count else row
        for port, values in inputs.items():
            port.value = values[shown] & masks[port]
        await edge
        if pause:
            continue
        if row >= latency:
            done = row - latency
            got = output.value.to_unsigned()
            assert got == expected[done] & mask, (
                f"row {done}: { ({p._name: v[done] for p, v in inputs.items()}) } gave {got:#x}, "
                f"not {expected[done] & mask:#x}"
            )
        row += 1


@cocotb.test()
async def full_rate(dut):
    await play(dut, lambda: False)


@cocotb.test()
async def frozen_at_random(dut):
    await play(dut, random_stall(0.4, seed=3))
