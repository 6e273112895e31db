"""Bench of reader and writer on shared AXI4 ports, with a watchdog on the words they move."""

import random

import cocotb
from axi_memory import ErrorLog, StripedMemory, pauses
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiSlave

from skipstone_hw.layouts import ReadCommandLayout, ReadKind, WordLayout, WriteLayout
from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    bench_parameters,
    cycle,
    cycles,
    random_stall,
)

CONFIG = bench_config()
LIMIT = bench_parameters()["watchdog_cycles"]
WORDS = 400


async def set_up(dut) -> tuple[StripedMemory, list[AxiSlave]]:
    await begin(dut)
    memory = StripedMemory(CONFIG, words=WORDS, seed=1)
    memory.connect(dut)
    slaves = [
        AxiSlave(AxiBus.from_prefix(dut, f"m_axi__{p}_"), dut.clk, dut.rst, target=stripe)
        for p, stripe in enumerate(memory.stripes)
    ]
    return memory, slaves


def streams(dut, seed: int | None) -> tuple[StreamDriver, StreamDriver, StreamMonitor]:
    """Commands, writes, words; without a seed at full rate."""
    stalls = [None if seed is None else random_stall(0.3, seed=seed + n) for n in range(3)]
    return (
        StreamDriver(dut, "commands", shape=ReadCommandLayout(), stall=stalls[0]),
        StreamDriver(dut, "writes", shape=WriteLayout(CONFIG), stall=stalls[1]),
        StreamMonitor(dut, "words", shape=WordLayout(CONFIG), stall=stalls[2]),
    )


@cocotb.test()
async def both_at_once(dut):
    """Reads of the lower half while the upper half is written, then the upper half is read back."""
    memory, slaves = await set_up(dut)
    for n, slave in enumerate(slaves):
        for m, channel in enumerate(
            (
                slave.write_if.aw_channel,
                slave.write_if.w_channel,
                slave.write_if.b_channel,
                slave.read_if.ar_channel,
                slave.read_if.r_channel,
            )
        ):
            channel.set_pause_generator(pauses(random_stall(0.3, seed=10 * n + m)))
    errors = ErrorLog(dut)
    commands, writes, words = streams(dut, seed=50)
    rng = random.Random(2)
    half = WORDS // 2
    strobe = (1 << CONFIG.word_bytes) - 1
    written = [rng.getrandbits(CONFIG.word_bits) for _ in range(half)]
    writes.queue(
        [{"address": half + n, "data": d, "strobe": strobe} for n, d in enumerate(written)]
    )
    commands.queue([{"address": 0, "words": half, "kind": ReadKind.WEIGHTS}])
    got = await words.take(half)
    assert [w["data"] for w in got] == [memory.word(n) for n in range(half)]
    while writes.sent < half or not dut.idle.value:
        await RisingEdge(dut.clk)
    assert [memory.word(half + n) for n in range(half)] == written
    commands.queue([{"address": half, "words": half, "kind": ReadKind.KV}])
    got = await words.take(half)
    assert [w["data"] for w in got] == written
    assert not errors.reports


@cocotb.test()
async def a_memory_that_stops_answering(dut):
    """The watchdog fires, abort stops everything; when memory answers late, all is as new."""
    memory, slaves = await set_up(dut)
    commands, _, words = streams(dut, seed=None)
    dut.watchdog_enable.value = 1
    request = [{"address": 0, "words": WORDS, "kind": ReadKind.OTHER}]
    commands.queue(request)
    await words.take(50)
    slaves[-1].read_if.r_channel.pause = True
    while not dut.expired.value:
        await RisingEdge(dut.clk)
    assert cycles() - words.times[-1] == LIMIT + 1
    dut.watchdog_enable.value = 0
    dut.abort.value = 1
    await cycle(dut, 200)
    assert not dut.idle.value, "bursts of the silent port are still outstanding"
    slaves[-1].read_if.r_channel.pause = False
    while not dut.idle.value:
        await RisingEdge(dut.clk)
    dut.abort.value = 0
    taken = len(words.received)
    await cycle(dut, 20)
    assert len(words.received) == taken
    fresh = StreamMonitor(dut, "words", shape=WordLayout(CONFIG))
    commands.queue(request)
    got = await fresh.take(WORDS)
    assert [w["data"] for w in got] == [memory.word(n) for n in range(WORDS)]
