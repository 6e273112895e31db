"""Bench of the stream reader: every word against the memory, under delays and errors."""

import random

import cocotb
from axi_memory import ChannelCheck, ErrorLog, StripedMemory, latency_reads, pauses
from cocotb.triggers import RisingEdge

from skipstone.spec.errors import CoreErrorCode
from skipstone_hw.layouts import ReadCommandLayout, ReadKind, WordLayout
from skipstone_hw.memory.reader import Reader
from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    cycle,
    cycles,
    random_stall,
    unpack,
)

CONFIG = bench_config()
WORDS = 700
PAGE_WORDS = 4096 // CONFIG.port_bytes


def command(address: int, words: int, kind: ReadKind = ReadKind.WEIGHTS) -> dict:
    return {"address": address, "words": words, "kind": kind}


def random_commands(rng: random.Random, count: int) -> list[dict]:
    lengths = (1, 1, 2, 3, CONFIG.burst_beats - 1, CONFIG.burst_beats, CONFIG.burst_beats + 1, 40)
    commands = []
    for _ in range(count):
        words = rng.choice(lengths)
        commands.append(
            command(rng.randrange(WORDS - words + 1), words, rng.choice(list(ReadKind)))
        )
    return commands


def expected(memory: StripedMemory, commands: list[dict]) -> list[dict]:
    """What must come out, from the memory's bytes."""
    return [
        {"data": memory.word(c["address"] + n), "kind": c["kind"], "last": int(n == c["words"] - 1)}
        for c in commands
        for n in range(c["words"])
    ]


async def set_up(dut, *, seed: int = 1) -> StripedMemory:
    await begin(dut)
    memory = StripedMemory(CONFIG, words=WORDS, seed=seed)
    memory.connect(dut)
    return memory


def driver_of(dut, stall=None) -> StreamDriver:
    return StreamDriver(dut, "commands", shape=ReadCommandLayout(), stall=stall)


def monitor_of(dut, stall=None) -> StreamMonitor:
    return StreamMonitor(dut, "words", shape=WordLayout(CONFIG), stall=stall)


async def until_idle(dut, limit: int = 2000) -> None:
    for _ in range(limit):
        await RisingEdge(dut.clk)
        if dut.idle.value:
            return
    raise AssertionError(f"not idle within {limit} cycles")


def pause_everything(slaves, seed: int, probability: float = 0.4) -> None:
    """Every channel of every port pauses at random, each in its own rhythm."""
    for p, slave in enumerate(slaves):
        for n, channel in enumerate((slave.ar_channel, slave.r_channel)):
            stall = random_stall(probability, seed=seed + 10 * p + n)
            channel.set_pause_generator(pauses(stall))


@cocotb.test()
async def stalled_on_all_sides(dut):
    memory = await set_up(dut)
    pause_everything(memory.attach_reads(dut), seed=100)
    checks = [
        ChannelCheck(dut, p, "ar", ["addr", "len", "size", "burst"]) for p in range(CONFIG.ports)
    ]
    errors = ErrorLog(dut)
    driver = driver_of(dut, random_stall(0.4, seed=3))
    monitor = monitor_of(dut, random_stall(0.4, seed=4))
    commands = random_commands(random.Random(5), 60)
    driver.queue(commands)
    words = expected(memory, commands)
    assert await monitor.take(len(words)) == words
    await monitor.expect_silence()
    assert dut.idle.value
    assert not errors.reports
    for p, check in enumerate(checks):
        for burst in check.transfers:
            offset = burst["addr"] - memory.stripes[p].base
            size = (burst["len"] + 1) * CONFIG.port_bytes
            assert burst["len"] < CONFIG.burst_beats
            assert offset // 4096 == (offset + size - 1) // 4096
            assert (1 << burst["size"], burst["burst"]) == (CONFIG.port_bytes, 1)
        # The same split on all ports, and no more beats than were asked for.
        split = [(b["addr"] - memory.stripes[p].base, b["len"]) for b in check.transfers]
        first = [(b["addr"] - memory.stripes[0].base, b["len"]) for b in checks[0].transfers]
        assert split == first
        assert sum(length + 1 for _, length in split) == len(words)


@cocotb.test()
async def long_commands_at_full_rate(dut):
    memory = await set_up(dut)
    latency = min(
        40,
        CONFIG.fifo_words - CONFIG.burst_beats - 4,
        (CONFIG.outstanding - 2) * CONFIG.burst_beats,
    )
    for p, stripe in enumerate(memory.stripes):
        cocotb.start_soon(latency_reads(dut, p, stripe, beats=CONFIG.port_bytes, latency=latency))
    driver, monitor = driver_of(dut), monitor_of(dut)
    rng = random.Random(6)
    lengths = [rng.choice((CONFIG.burst_beats, 2 * CONFIG.burst_beats, 100)) for _ in range(10)]
    commands = [command(CONFIG.burst_beats * rng.randrange(8), n) for n in lengths]
    driver.queue(commands)
    words = expected(memory, commands)
    assert await monitor.take(len(words)) == words
    assert monitor.times[-1] - monitor.times[0] == len(words) - 1
    await monitor.expect_silence()
    # A consumer that is ready every second cycle finds a word every time.
    monitor.stall = iter([True, False] * 1000).__next__
    driver.queue(commands)
    await monitor.take(len(words))
    assert monitor.times[-1] - monitor.times[len(words)] == 2 * (len(words) - 1)


@cocotb.test()
async def single_words_at_full_rate(dut):
    memory = await set_up(dut)
    for p, stripe in enumerate(memory.stripes):
        cocotb.start_soon(latency_reads(dut, p, stripe, beats=CONFIG.port_bytes, latency=1))
    checks = [ChannelCheck(dut, p, "ar", ["addr"]) for p in range(CONFIG.ports)]
    monitor = monitor_of(dut)
    rng = random.Random(7)
    commands = [command(rng.randrange(WORDS), 1, rng.choice(list(ReadKind))) for _ in range(200)]
    driver_of(dut).queue(commands)
    while not (dut.commands__valid.value and dut.commands__ready.value):
        await RisingEdge(dut.clk)
    accepted = cycles()
    words = expected(memory, commands)
    assert await monitor.take(len(words)) == words
    assert monitor.times[-1] - monitor.times[0] == len(words) - 1
    assert checks[0].first_valid - accepted == Reader.PIPELINE_CYCLES
    assert monitor.times[0] - (checks[0].times[0] + 1) == Reader.DELIVERY_CYCLES


@cocotb.test()
async def page_edges_and_address_range(dut):
    memory = await set_up(dut)
    memory.attach_reads(dut)
    errors = ErrorLog(dut)
    driver, monitor = driver_of(dut), monitor_of(dut)
    good = [
        command(PAGE_WORDS - 1, 2),
        command(PAGE_WORDS - 1, 1),
        command(PAGE_WORDS, 1),
        command(PAGE_WORDS - 3, 3 + PAGE_WORDS + 5),
        command(0, WORDS, ReadKind.KV),
        command(WORDS - 1, 1, ReadKind.OTHER),
    ]
    bad = [
        command(WORDS, 1),
        command(WORDS - 1, 2),
        command(0, WORDS + 1),
        command(2**32 - 1, 1),
        command(2**32 - 1, 2**24 - 1),
        command(2**31, 2**24 - 1),
    ]
    empty = command(5, 0)
    commands = [good[0], bad[0], bad[1], good[1], empty, *good[2:4], *bad[2:], empty, *good[4:]]
    driver.queue(commands)
    words = expected(memory, good)
    assert await monitor.take(len(words)) == words
    await monitor.expect_silence()
    assert errors.codes == [CoreErrorCode.ADDRESS_RANGE] * len(bad)
    assert dut.idle.value


@cocotb.test()
async def bad_response_then_abort_then_reuse(dut):
    memory = await set_up(dut)
    slaves = memory.attach_reads(dut)
    pause_everything(slaves, seed=200, probability=0.2)
    errors = ErrorLog(dut)
    driver = driver_of(dut)
    for victim in range(CONFIG.ports):
        failing = 37 + victim
        memory.stripes[victim].bad = {n * CONFIG.port_bytes for n in range(failing, 100)}
        errors.reports.clear()
        driver.queue([command(0, 300), command(WORDS, 1), command(100, 50)])
        dut.words__ready.value = 1
        taken, at_error = 0, None
        while at_error is None:
            await RisingEdge(dut.clk)
            if errors.reports:
                at_error = taken
            taken += int(dut.words__valid.value)
        assert at_error <= failing, "the word left before its error was reported"
        aborted = cycles()
        dut.abort.value = 1
        await until_idle(dut)
        await cycle(dut, 2)
        assert set(errors.codes) == {CoreErrorCode.READ_RESPONSE}
        assert max(time for time, _ in errors.reports) <= aborted, "abort silences errors"
        dut.abort.value = 0
        memory.stripes[victim].bad = set()
    monitor = monitor_of(dut)
    commands = random_commands(random.Random(8), 10)
    driver.queue(commands)
    words = expected(memory, commands)
    assert await monitor.take(len(words)) == words
    await monitor.expect_silence()


@cocotb.test()
async def abort_at_any_time(dut):
    memory = await set_up(dut)
    pause_everything(memory.attach_reads(dut), seed=300)
    checks = [ChannelCheck(dut, p, "ar", ["addr", "len"]) for p in range(CONFIG.ports)]
    rng = random.Random(9)
    driver = driver_of(dut)
    sent = 0
    layout = WordLayout(CONFIG)
    for _ in range(25):
        commands = random_commands(rng, 4)
        sent += len(commands)
        driver.queue(commands)
        words = expected(memory, commands)
        taken = []
        consumer_stall = random_stall(0.5, seed=rng.randrange(1 << 30))
        for _ in range(rng.choice((0, 1, 2, 3, 5, 20, 60, 150))):
            dut.words__ready.value = int(ready := not consumer_stall())
            await RisingEdge(dut.clk)
            if dut.words__valid.value and ready:
                taken.append(unpack(layout, dut.words__payload.value.to_unsigned()))
        dut.words__ready.value = 0
        dut.abort.value = 1
        await RisingEdge(dut.clk)
        while driver.sent < sent or not dut.idle.value:
            await RisingEdge(dut.clk)
            assert not dut.words__valid.value
        assert taken == words[: len(taken)]
        beats = [sum(b["len"] + 1 for b in check.transfers) for check in checks]
        assert len(set(beats)) == 1, "ports are out of step after an abort"
        dut.abort.value = 0
        await RisingEdge(dut.clk)


@cocotb.test()
async def stuck_channel(dut):
    memory = await set_up(dut)
    slaves = memory.attach_reads(dut)
    monitor = monitor_of(dut)
    driver = driver_of(dut)
    commands = [command(0, 200), command(300, 200)]
    words = expected(memory, commands)
    for channel in ("ar_channel", "r_channel"):
        stuck = getattr(slaves[-1], channel)
        stuck.pause = True
        driver.queue(commands)
        await cycle(dut, 500)
        await monitor.expect_silence()
        assert not dut.idle.value
        if channel == "ar_channel":
            assert getattr(dut, f"m_axi__{CONFIG.ports - 1}__arvalid").value
        for slave in slaves[:-1]:
            assert slave.r_channel.empty(), "the other ports must not be held up"
        stuck.pause = False
        assert await monitor.take(len(words)) == words
        await monitor.expect_silence()
        assert dut.idle.value


@cocotb.test()
async def outstanding_bursts(dut):
    """Without data, as many bursts are issued as the FIFO holds, or as may be outstanding."""
    memory = await set_up(dut)
    for slave in memory.attach_reads(dut):
        slave.r_channel.pause = True
        slave.ar_channel.queue_occupancy_limit = 1000
    checks = [ChannelCheck(dut, p, "ar", ["len"]) for p in range(CONFIG.ports)]
    driver_of(dut).queue([command(0, WORDS)])
    await cycle(dut, 200)
    allowed = min(CONFIG.outstanding, CONFIG.fifo_words // CONFIG.burst_beats)
    assert [len(check.transfers) for check in checks] == [allowed] * CONFIG.ports
    dut.rst.value = 1
    await cycle(dut, 2)
    dut.rst.value = 0
    driver_of(dut).queue([command(n, 1) for n in range(CONFIG.outstanding + 5)])
    await cycle(dut, 200)
    assert [len(c.transfers) for c in checks] == [allowed + CONFIG.outstanding] * CONFIG.ports
