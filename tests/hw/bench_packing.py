"""Bench of `PackingCheck`: wait for the verdict."""

from __future__ import annotations

import cocotb
from cocotb.triggers import RisingEdge

from skipstone_sim.bench_tools import begin, bench_parameters


@cocotb.test()
async def every_product(dut):
    await begin(dut)
    await RisingEdge(dut.done)
    assert not dut.wrong.value
    # Two parities, 511 of 512 activations of lane 0 and 15 of 16 weights are not zero.
    others = 16 ** (bench_parameters()["products"] - 1)
    assert dut.nonzero.value.to_unsigned() == 2 * 511 * 15 * others
