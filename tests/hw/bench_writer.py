"""Bench of the writer: every byte of the memory and of its guard pages, under delays and errors."""

import random
from collections.abc import Iterable

import cocotb
from axi_memory import ChannelCheck, ErrorLog, StripedMemory, pauses
from cocotb.triggers import RisingEdge

from skipstone.spec.errors import CoreErrorCode
from skipstone_hw.layouts import WriteLayout, piece_bytes
from skipstone_hw.memory.writer import Writer
from skipstone_sim.bench_tools import (
    StreamDriver,
    begin,
    bench_config,
    cycle,
    cycles,
    random_stall,
)

CONFIG = bench_config()
WORDS = 300
PIECE_BYTES = piece_bytes(CONFIG)
PIECES = CONFIG.word_bytes // PIECE_BYTES
ALL = (1 << PIECE_BYTES) - 1
PORT = (1 << CONFIG.port_bytes) - 1


def random_strobe(rng: random.Random) -> int:
    return rng.choice(
        (
            ALL,
            0,
            1 << rng.randrange(PIECE_BYTES),
            PORT << CONFIG.port_bytes * rng.randrange(PIECE_BYTES // CONFIG.port_bytes),
            rng.getrandbits(PIECE_BYTES),
        )
    )


def random_writes(rng: random.Random, count: int) -> list[dict]:
    return [
        {
            "address": rng.choice((0, WORDS - 1, rng.randrange(WORDS))),
            "piece": rng.randrange(PIECES),
            "data": rng.getrandbits(8 * PIECE_BYTES),
            "strobe": random_strobe(rng),
        }
        for _ in range(count)
    ]


def whole_words(addresses: Iterable[int], rng: random.Random) -> list[dict]:
    """Writes of all pieces of words."""
    return [
        {"address": a, "piece": n, "data": rng.getrandbits(8 * PIECE_BYTES), "strobe": ALL}
        for a in addresses
        for n in range(PIECES)
    ]


async def set_up(dut) -> tuple[StripedMemory, StripedMemory]:
    """The memory, and a copy of it for the expected contents."""
    await begin(dut)
    memory, copy = (StripedMemory(CONFIG, words=WORDS, seed=1) for _ in range(2))
    memory.connect(dut)
    return memory, copy


def driver_of(dut, stall=None) -> StreamDriver:
    return StreamDriver(dut, "i", shape=WriteLayout(CONFIG), stall=stall)


async def until_idle(dut, limit: int = 5000) -> None:
    for _ in range(limit):
        await RisingEdge(dut.clk)
        if dut.idle.value:
            return
    raise AssertionError(f"not idle within {limit} cycles")


def pause_everything(slaves, seed: int) -> None:
    """Every channel of every port pauses at random, each in its own rhythm."""
    for p, slave in enumerate(slaves):
        for n, channel in enumerate((slave.aw_channel, slave.w_channel, slave.b_channel)):
            channel.set_pause_generator(pauses(random_stall(0.4, seed=seed + 10 * p + n)))


@cocotb.test()
async def stalled_on_all_sides(dut):
    memory, copy = await set_up(dut)
    pause_everything(memory.attach_writes(dut), seed=100)
    addresses = [
        ChannelCheck(dut, p, "aw", ["addr", "len", "size", "burst"]) for p in range(CONFIG.ports)
    ]
    data = [ChannelCheck(dut, p, "w", ["data", "strb", "last"]) for p in range(CONFIG.ports)]
    errors = ErrorLog(dut)
    driver = driver_of(dut, random_stall(0.3, seed=2))
    writes = random_writes(random.Random(3), 200)
    await driver.send(writes)
    await until_idle(dut)
    for write in writes:
        copy.write(**write)
    assert memory.snapshot() == copy.snapshot()
    assert not errors.reports
    for p in range(CONFIG.ports):
        slices = [
            w["strobe"] << PIECE_BYTES * w["piece"] >> CONFIG.port_bytes * p & PORT for w in writes
        ]
        assert [t["strb"] for t in data[p].transfers] == [s for s in slices if s]
        assert len(addresses[p].transfers) == len(data[p].transfers)
        assert all(t["last"] for t in data[p].transfers)
        for t in addresses[p].transfers:
            assert (t["len"], 1 << t["size"], t["burst"]) == (0, CONFIG.port_bytes, 1)


@cocotb.test()
async def full_rate(dut):
    """A memory that takes everything at once and acknowledges the next cycle: a piece every two."""
    await set_up(dut)
    words = 100
    count = words * PIECES
    for p in range(CONFIG.ports):
        getattr(dut, f"m_axi__{p}__awready").value = 1
        getattr(dut, f"m_axi__{p}__wready").value = 1
    checks = [ChannelCheck(dut, p, "aw", ["addr"]) for p in range(CONFIG.ports)]
    driver_of(dut).queue(whole_words(range(words), random.Random(4)))
    accepted = []
    for _ in range(2 * count + 10):
        await RisingEdge(dut.clk)
        if dut.i__valid.value and dut.i__ready.value:
            accepted.append(cycles())
        for p in range(CONFIG.ports):
            written = getattr(dut, f"m_axi__{p}__awvalid").value
            getattr(dut, f"m_axi__{p}__bvalid").value = written
    assert len(accepted) == count
    assert accepted[-1] - accepted[0] == 2 * (count - 1)
    for check in checks:
        assert len(check.times) == words
        assert check.times[-1] - check.times[0] == 2 * PIECES * (words - 1)
    assert checks[0].first_valid - accepted[0] == Writer.PIPELINE_CYCLES
    assert dut.idle.value


@cocotb.test()
async def address_range(dut):
    memory, copy = await set_up(dut)
    memory.attach_writes(dut)
    errors = ErrorLog(dut)
    writes = random_writes(random.Random(5), 30)
    bad = whole_words((WORDS, 2**32 - 1, 2**31, WORDS + 1), random.Random(6))
    mixed = list(writes)
    for n, write in enumerate(bad):
        mixed.insert(7 * n, write)
    await driver_of(dut).send(mixed)
    await until_idle(dut)
    await cycle(dut, 5)
    for write in writes:
        copy.write(**write)
    assert memory.snapshot() == copy.snapshot()
    assert errors.codes == [CoreErrorCode.ADDRESS_RANGE] * len(bad)


@cocotb.test()
async def bad_response_then_abort_then_reuse(dut):
    memory, copy = await set_up(dut)
    pause_everything(memory.attach_writes(dut), seed=200)
    errors = ErrorLog(dut)
    driver = driver_of(dut)
    rng = random.Random(6)
    for victim in range(CONFIG.ports):
        errors.reports.clear()
        memory.stripes[victim].bad = {n * CONFIG.port_bytes for n in range(7, 40)}
        # What fails is written again below.
        writes = whole_words(range(40), rng)
        sent = driver.sent + len(writes)
        driver.queue(writes)
        for _ in range(2000):
            await RisingEdge(dut.clk)
            if errors.reports:
                break
        assert set(errors.codes) == {CoreErrorCode.WRITE_RESPONSE}
        aborted = cycles()
        dut.abort.value = 1
        while driver.sent < sent or not dut.idle.value:
            await RisingEdge(dut.clk)
        await cycle(dut, 2)
        assert set(errors.codes) == {CoreErrorCode.WRITE_RESPONSE}
        assert max(time for time, _ in errors.reports) <= aborted, "abort silences errors"
        dut.abort.value = 0
        memory.stripes[victim].bad = set()
    writes = whole_words(range(60), rng)
    await driver.send(writes)
    await until_idle(dut)
    for write in writes:
        copy.write(**write)
    assert memory.snapshot() == copy.snapshot()


@cocotb.test()
async def abort_at_any_time(dut):
    """After an abort every word was written on all of its ports or on none, in order."""
    memory, copy = await set_up(dut)
    pause_everything(memory.attach_writes(dut), seed=300)
    rng = random.Random(7)
    driver = driver_of(dut)
    for _ in range(20):
        writes = random_writes(rng, 12)
        sent = driver.sent + len(writes)
        driver.queue(writes)
        await cycle(dut, rng.choice((0, 1, 2, 3, 5, 10, 20, 40)))
        dut.abort.value = 1
        await RisingEdge(dut.clk)
        while driver.sent < sent or not dut.idle.value:
            await RisingEdge(dut.clk)
        after = memory.snapshot()
        for write in writes:
            if copy.snapshot() == after:
                break
            copy.write(**write)
        assert copy.snapshot() == after
        dut.abort.value = 0
        await RisingEdge(dut.clk)


@cocotb.test()
async def stuck_channel(dut):
    memory, copy = await set_up(dut)
    slaves = memory.attach_writes(dut)
    driver = driver_of(dut)
    rng = random.Random(8)
    for channel in ("aw_channel", "w_channel", "b_channel"):
        stuck = getattr(slaves[-1], channel)
        stuck.pause = True
        before = driver.sent
        writes = whole_words(range(50), rng)
        driver.queue(writes)
        await cycle(dut, 300)
        assert not dut.idle.value
        assert driver.sent - before <= PIECES * Writer.OUTSTANDING + 2
        stuck.pause = False
        while driver.sent - before < len(writes):
            await RisingEdge(dut.clk)
        await until_idle(dut)
        for write in writes:
            copy.write(**write)
        assert memory.snapshot() == copy.snapshot()


@cocotb.test()
async def outstanding_writes(dut):
    """A memory that acknowledges nothing is sent exactly `OUTSTANDING` writes."""
    await set_up(dut)
    for p in range(CONFIG.ports):
        getattr(dut, f"m_axi__{p}__awready").value = 1
        getattr(dut, f"m_axi__{p}__wready").value = 1
    checks = [ChannelCheck(dut, p, c, []) for p in range(CONFIG.ports) for c in ("aw", "w")]
    driver_of(dut).queue(whole_words(range(100), random.Random(9)))
    await cycle(dut, 200)
    assert [len(check.times) for check in checks] == [Writer.OUTSTANDING] * len(checks)
    assert not dut.idle.value
    # One acknowledgement, one more write.
    dut.m_axi__0__bvalid.value = 1
    await RisingEdge(dut.clk)
    dut.m_axi__0__bvalid.value = 0
    await cycle(dut, 20)
    assert len(checks[0].times) == Writer.OUTSTANDING + (CONFIG.ports == 1)
