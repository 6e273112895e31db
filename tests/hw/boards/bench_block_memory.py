"""Bench of the block memory: its content against a bytearray."""

import random

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiMaster, AxiResp

from skipstone_hw.boards.block_memory import AccessLayout
from skipstone_sim.bench_tools import StreamDriver, begin, bench_parameters, random_stall

WORDS = bench_parameters()["words"]
INIT = bytes.fromhex(bench_parameters()["init"])
BYTES = 8 * WORDS


async def set_up(dut, *, stall=0.0, seed=1):
    await begin(dut)
    master = AxiMaster(AxiBus.from_prefix(dut, "s_axi_"), dut.clk, dut.rst)
    if stall:
        write, read = master.write_if, master.read_if
        for n, channel in enumerate(
            (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)
        ):
            pause = random_stall(stall, seed=seed + n)
            channel.set_pause_generator(iter(pause, None))
    await RisingEdge(dut.clk)
    return master


class Bridge:
    """The bridge's side: queued accesses, and the answers to its reads."""

    def __init__(self, dut, seed):
        self.driver = StreamDriver(
            dut, "access", shape=AccessLayout(), stall=random_stall(0.5, seed=seed)
        )
        self.answers = []
        self.wanted = 0
        cocotb.start_soon(self._watch(dut))

    async def _watch(self, dut):
        while True:
            await RisingEdge(dut.clk)
            if dut.answer_valid.value:
                self.answers.append(int(dut.answer.value))

    def read(self, word):
        self.wanted += 1
        self.driver.queue([{"address": word, "write": 0, "value": 0}])

    def write(self, word, value):
        self.driver.queue([{"address": word, "write": 1, "value": value}])

    async def finish(self, dut):
        for _ in range(10_000):
            if len(self.answers) == self.wanted:
                return self.answers
            await RisingEdge(dut.clk)
        raise AssertionError(f"{len(self.answers)} of {self.wanted} answers")


@cocotb.test()
async def content_at_power_up(dut):
    master = await set_up(dut)
    read = await master.read(0, BYTES)
    assert read.data == INIT + bytes(BYTES - len(INIT))


async def traffic(dut, stall, seed):
    """AXI owns the lower half, the bridge the upper; both read both, all is as in a bytearray."""
    master = await set_up(dut, stall=stall, seed=seed)
    bridge = Bridge(dut, seed)
    rng = random.Random(seed)
    first = await master.read(0, BYTES)
    content = bytearray(first.data)
    expected = []
    for _ in range(40):
        for _ in range(rng.randrange(6)):
            word = rng.randrange(BYTES // 8, BYTES // 4)
            if rng.random() < 0.5:
                value = rng.getrandbits(32)
                content[4 * word : 4 * word + 4] = value.to_bytes(4, "little")
                bridge.write(word, value)
            else:
                expected.append(int.from_bytes(content[4 * word : 4 * word + 4], "little"))
                bridge.read(word)
        start = rng.randrange(BYTES // 2 - 1)
        count = rng.randrange(1, BYTES // 2 - start)
        if rng.random() < 0.5:
            data = rng.randbytes(count)
            content[start : start + count] = data
            response = await master.write(start, data)
            assert response.resp == AxiResp.OKAY
        else:
            response = await master.read(start, count)
            assert (response.resp, response.data) == (
                AxiResp.OKAY, bytes(content[start : start + count])
            )  # fmt: skip
    assert await bridge.finish(dut) == expected
    assert (await master.read(0, BYTES)).data == content


@cocotb.test()
async def both_sides_at_full_rate(dut):
    await traffic(dut, 0.0, 1)


@cocotb.test()
async def both_sides_stalled(dut):
    await traffic(dut, 0.5, 2)


@cocotb.test()
async def beyond_memory(dut):
    """Beats beyond memory are refused and change nothing; those before are answered."""
    master = await set_up(dut)
    before = (await master.read(0, BYTES)).data
    assert (await master.read(BYTES, 8)).resp == AxiResp.DECERR
    assert (await master.read(BYTES - 8, 8)).resp == AxiResp.OKAY
    assert (await master.write(BYTES, bytes(8))).resp == AxiResp.DECERR
    assert (await master.write(1 << 40, b"\xff" * 8)).resp == AxiResp.DECERR
    assert (await master.read(0, BYTES)).data == before
