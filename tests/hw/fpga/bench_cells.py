"""Bench of a netlist beside its source: `cells.v`'s top compares them by itself."""

import cocotb
from cocotb.triggers import ClockCycles

from skipstone_sim.bench_tools import begin


@cocotb.test()
async def alike(dut):
    await begin(dut)
    await ClockCycles(dut.clk, 20_000)
    assert dut.alive.value == 0x7F
    assert dut.differs.value == 0
