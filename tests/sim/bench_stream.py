"""Bench of the runner itself: a stream FIFO must keep order, rate and backpressure."""

import random

import cocotb
from amaranth.hdl import signed
from amaranth.lib import data

from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    bench_parameters,
    random_stall,
)

LAYOUT = data.StructLayout({"value": signed(12), "pair": data.ArrayLayout(7, 2)})


def items(count):
    return [
        {
            "value": random.randrange(-2048, 2048),
            "pair": [random.randrange(128), random.randrange(128)],
        }
        for _ in range(count)
    ]


@cocotb.test()
async def stalled(dut):
    await begin(dut)
    driver = StreamDriver(dut, "w_stream", shape=LAYOUT, stall=random_stall(0.5, seed=1))
    monitor = StreamMonitor(dut, "r_stream", shape=LAYOUT, stall=random_stall(0.5, seed=2))
    sent = items(300)
    driver.queue(sent)
    assert await monitor.take(300) == sent
    await monitor.expect_silence()
    assert driver.sent == 300


@cocotb.test()
async def full_rate(dut):
    await begin(dut)
    driver = StreamDriver(dut, "w_stream", shape=LAYOUT)
    monitor = StreamMonitor(dut, "r_stream", shape=LAYOUT)
    sent = items(100)
    await driver.send(sent)
    assert await monitor.take(100) == sent
    assert monitor.times[-1] - monitor.times[0] == 99


@cocotb.test()
async def parameters_arrive(dut):
    assert bench_config().name == "sim-tiny"
    assert bench_parameters() == {"depth": 4}


@cocotb.test()
async def wrong(dut):
    assert bench_parameters()["depth"] == 5, "the depth is wrong"
