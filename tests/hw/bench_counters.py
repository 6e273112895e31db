"""Bench of the performance counters against Python integers."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from skipstone.spec.registers import COUNTERS
from skipstone_hw.counters import CounterLayout, Counters, IncrementLayout
from skipstone_sim.bench_tools import begin, bench_config, cycle, pack, unpack

CONFIG = bench_config()
INCREMENTS = IncrementLayout(CONFIG)
NOTHING = dict.fromkeys(COUNTERS, 0)
MOST = dict.fromkeys(COUNTERS, 1)
MOST |= dict.fromkeys(
    ("attention_executed", "attention_skipped", "mlp_executed", "mlp_skipped"), CONFIG.max_chunk
)
MOST |= dict.fromkeys(("history_gaps", "history_fresh"), 64)


def values(dut) -> dict[str, int]:
    return unpack(CounterLayout(), dut.values.value.to_unsigned())


@cocotb.test()
async def random_events(dut):
    await begin(dut)
    rng = random.Random(1)
    expected = dict(NOTHING)
    for run in range(4):
        for n in range(200):
            clear = n == 0 and run > 0
            gains = {
                name: rng.choice((0, 1, most, rng.randint(0, most))) for name, most in MOST.items()
            }
            dut.increments.value = pack(INCREMENTS, gains)
            dut.clear.value = int(clear)
            if clear:
                expected = {**NOTHING, "errors": expected["errors"]}
            for name, gain in gains.items():
                expected[name] += gain
            await RisingEdge(dut.clk)
        dut.increments.value = 0
        dut.clear.value = 0
        await cycle(dut, Counters.PIPELINE_CYCLES)
        assert values(dut) == expected


@cocotb.test()
async def each_alone(dut):
    await begin(dut)
    for name in COUNTERS:
        dut.increments.value = pack(INCREMENTS, {**NOTHING, name: 1})
        await RisingEdge(dut.clk)
        dut.increments.value = 0
        before = values(dut)
        await cycle(dut, Counters.PIPELINE_CYCLES)
        assert values(dut) == {**before, name: before[name] + 1}
