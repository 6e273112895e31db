"""Bench of the whole core at its AXI boundary: a random model of one layer, checked by golden."""

from dataclasses import dataclass

import cocotb
import numpy as np
from axi_memory import StripedMemory, pauses
from cocotb.triggers import RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave

from skipstone.compiler import compile_model
from skipstone.devices import Run
from skipstone.spec.errors import CoreErrorCode
from skipstone.spec.image import Image
from skipstone.spec.registers import BY_NAME, PORT_BASE, Control
from skipstone_sim.bench_tools import begin, bench_config, cycle, random_stall
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.lockstep import input_records
from skipstone_sim.random_model import random_model, random_shape

CONFIG = bench_config()
IDS = [3, 1]
WATCHDOG_CYCLES = 2_000
LIMIT_MS = 2
"""Of a run, in simulated time: 10 ns a cycle."""


@dataclass
class System:
    """The core with what it is connected to."""

    dut: object
    memory: StripedMemory
    slaves: list[AxiSlave]
    master: AxiLiteMaster
    image: Image

    async def read(self, name: str) -> int:
        response = await self.master.read(BY_NAME[name].offset, 4)
        assert response.resp == AxiResp.OKAY
        return int.from_bytes(response.data, "little")

    async def write(self, name: str, value: int) -> None:
        response = await self.master.write(BY_NAME[name].offset, value.to_bytes(4, "little"))
        assert response.resp == AxiResp.OKAY

    def load(self, words: np.ndarray) -> None:
        """Fill the stripes: (words, bytes per word)."""
        for p, stripe in enumerate(self.memory.stripes):
            part = words[:, p * CONFIG.port_bytes :][:, : CONFIG.port_bytes].tobytes()
            at = len(stripe.contents) - stripe.size >> 1
            stripe.contents[at : at + len(part)] = part

    def stored(self, words: int) -> np.ndarray:
        """The first words of all stripes."""
        parts = []
        for stripe in self.memory.stripes:
            at = len(stripe.contents) - stripe.size >> 1
            raw = bytes(stripe.contents[at : at + words * CONFIG.port_bytes])
            parts.append(np.frombuffer(raw, np.uint8).reshape(words, -1))
        return np.concatenate(parts, axis=1)

    async def start(self, run: Run) -> None:
        values = run.registers(self.image.words, WATCHDOG_CYCLES)
        for name, value in (values | {"IP_IER": 1, "GIER": 1}).items():
            await self.write(name, value)
        for p, stripe in enumerate(self.memory.stripes):
            await self.master.write(PORT_BASE + 8 * p, stripe.base.to_bytes(8, "little"))
        await self.write("CTRL", Control.START)

    async def finish(self) -> CoreErrorCode:
        """Wait for the interrupt, acknowledge it, and return the error code."""
        if not self.dut.interrupt.value:
            await with_timeout(RisingEdge(self.dut.interrupt), LIMIT_MS, "ms")
        assert Control.DONE in Control(await self.read("CTRL"))
        assert Control.DONE not in Control(await self.read("CTRL")), "DONE clears when read"
        assert self.dut.interrupt.value
        await self.write("IP_ISR", 1)
        await cycle(self.dut, 2)
        assert not self.dut.interrupt.value
        return CoreErrorCode(await self.read("ERROR_CODE"))


async def set_up(dut) -> System:
    await begin(dut)
    shape = random_shape(layers=1, hidden=32, ffn=32, heads=1, vocab=8)
    image = compile_model(random_model(shape, group=CONFIG.group), CONFIG, kv_capacity=64)
    memory = StripedMemory(CONFIG, words=image.words, seed=1)
    slaves = [
        AxiSlave(AxiBus.from_prefix(dut, f"m_axi__{p}_"), dut.clk, dut.rst, target=stripe)
        for p, stripe in enumerate(memory.stripes)
    ]
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control_"), dut.clk, dut.rst)
    return System(dut, memory, slaves, master, image)


def channels(slave: AxiSlave) -> list:
    read, write = slave.read_if, slave.write_if
    return [
        read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel
    ]  # fmt: skip


def prepared(system: System) -> tuple[GoldenDevice, Run]:
    """Both memories hold the image and a chunk; the run that takes it and one step more."""
    golden = GoldenDevice(CONFIG)
    golden.load(system.image)
    sections = system.image.sections
    golden.write(sections["input"].address, input_records(IDS).view(np.uint8))
    count = system.image.words * CONFIG.word_bytes
    system.load(golden.read(0, count).reshape(-1, CONFIG.word_bytes))
    return golden, Run(
        program_address=sections["program"].address,
        program_length=system.image.model["program_length"],
        position=0,
        chunk_tokens=len(IDS),
        steps=1,
        mode=1,
    )


async def check_run(system: System) -> None:
    """A run on a fresh memory: every byte and both results equal golden's."""
    golden, run = prepared(system)
    guards = [bytes(s.contents[:4096]) + bytes(s.contents[-4096:]) for s in system.memory.stripes]
    golden.start(run)
    expected = golden.wait()
    await system.start(run)
    assert await system.finish() is CoreErrorCode.NONE
    assert await system.read("TOKENS_DONE") == expected.tokens_done == len(IDS) + 1
    assert await system.read("NEXT_TOKEN") == expected.next_token
    words = system.image.words
    wanted = golden.read(0, words * CONFIG.word_bytes).reshape(words, -1)
    assert (system.stored(words) == wanted).all()
    after = [bytes(s.contents[:4096]) + bytes(s.contents[-4096:]) for s in system.memory.stripes]
    assert after == guards


@cocotb.test()
async def memory_after_a_run(dut):
    """At full rate, then with every channel of every port paused at random."""
    system = await set_up(dut)
    assert Control.IDLE in Control(await system.read("CTRL"))
    await check_run(system)
    for n, slave in enumerate(system.slaves):
        for k, channel in enumerate(channels(slave)):
            channel.set_pause_generator(pauses(random_stall(0.4, seed=10 * n + k)))
    await check_run(system)


@cocotb.test()
async def an_error_response(dut):
    """SLVERR on a beat of the weights, then on a written one; both runs end, the next works."""
    system = await set_up(dut)
    for section, code in (
        ("weights", CoreErrorCode.READ_RESPONSE),
        ("records", CoreErrorCode.WRITE_RESPONSE),
    ):
        _, run = prepared(system)
        stripe = system.memory.stripes[-1]
        stripe.bad.add(system.image.sections[section].address * CONFIG.port_bytes)
        await system.start(run)
        assert await system.finish() is code
        stripe.bad.clear()
    await check_run(system)


@cocotb.test()
async def a_stuck_channel(dut):
    """The watchdog ends the run; once the memory answers, the next one works."""
    system = await set_up(dut)
    for k in (1, 3):
        _, run = prepared(system)
        channel = channels(system.slaves[0])[k]
        channel.pause = True
        await system.start(run)
        assert await system.finish() is CoreErrorCode.WATCHDOG
        channel.pause = False
        await system.write("CTRL", Control.RESET)
        while not Control.IDLE & await system.read("CTRL"):
            pass
    await check_run(system)
