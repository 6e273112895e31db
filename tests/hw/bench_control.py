"""Bench of the control port: register semantics through cocotbext-axi's AXI4-Lite master."""

import random

import cocotb
from axi_memory import pauses
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from skipstone.spec import registers
from skipstone.spec.registers import BY_NAME, REGISTERS
from skipstone.spec.registers import Control as Bits
from skipstone_hw.control import Control, ParameterLayout, StatusLayout
from skipstone_hw.counters import CounterLayout
from skipstone_sim.bench_tools import begin, bench_config, cycle, pack, random_stall, unpack

CONFIG = bench_config()
PROTOCOL = ("CTRL", "GIER", "IP_IER", "IP_ISR")
PORT_REGISTERS = {f"PORT_BASE_{p}_{h}" for p in range(CONFIG.ports) for h in ("LOW", "HIGH")}
PLAIN = {
    r.name: r.offset
    for r in REGISTERS
    if r.access == "rw"
    and r.name not in PROTOCOL
    and (r.name in PORT_REGISTERS or not r.name.startswith("PORT_BASE"))
}
"""Registers that hold what was written."""
PARAMETERS = (
    "program_address", "program_length", "position", "chunk_tokens", "steps", "eos_token",
    "mode", "memory_words", "watchdog_cycles",
)  # fmt: skip
STATUS = ("error_code", "error_pc", "tokens_done", "next_token")


class Host:
    """The host side of the control port."""

    def __init__(self, dut):
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control_"), dut.clk, dut.rst)

    async def read(self, name_or_offset: str | int) -> int:
        offset = (
            BY_NAME[name_or_offset].offset if isinstance(name_or_offset, str) else name_or_offset
        )
        response = await self.master.read(offset, 4)
        assert response.resp == AxiResp.OKAY
        return int.from_bytes(response.data, "little")

    async def write(self, name_or_offset: str | int, value: int, size: int = 4) -> None:
        offset = (
            BY_NAME[name_or_offset].offset if isinstance(name_or_offset, str) else name_or_offset
        )
        response = await self.master.write(offset, value.to_bytes(size, "little"))
        assert response.resp == AxiResp.OKAY


class Pulses:
    """Counts the cycles in which a signal is high."""

    def __init__(self, dut, name: str):
        self.dut, self.signal, self.count = dut, getattr(dut, name), 0
        cocotb.start_soon(self._run())

    async def _run(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.count += int(self.signal.value)


async def set_up(dut) -> Host:
    await begin(dut)
    dut.drained.value = 1
    return Host(dut)


async def finish(dut, error: int = 0) -> None:
    """The core ends its run."""
    dut.status.value = pack(StatusLayout(), {"error_code": error, "tokens_done": 7})
    dut.done.value = 1
    await RisingEdge(dut.clk)
    dut.done.value = 0
    await cycle(dut, 2)


@cocotb.test()
async def layouts(dut):
    """The layouts that other units rely on hold exactly these fields."""
    await begin(dut)
    assert tuple(name for name, _ in ParameterLayout()) == PARAMETERS
    assert tuple(name for name, _ in StatusLayout()) == STATUS
    assert tuple(name for name, _ in CounterLayout()) == registers.COUNTERS


@cocotb.test()
async def register_file(dut):
    host = await set_up(dut)
    master = host.master
    for n, channel in enumerate(
        (
            master.write_if.aw_channel,
            master.write_if.w_channel,
            master.write_if.b_channel,
            master.read_if.ar_channel,
            master.read_if.r_channel,
        )
    ):
        channel.set_pause_generator(pauses(random_stall(0.4, seed=n)))
    rng = random.Random(1)
    status = {name: rng.getrandbits(32) for name in STATUS}
    counters = {name: rng.getrandbits(64) for name in registers.COUNTERS}
    dut.status.value = pack(StatusLayout(), status)
    dut.counters.value = pack(CounterLayout(), counters)
    constant = {
        "VERSION": registers.VERSION,
        "CONFIG_HASH_LOW": CONFIG.hash64 & 0xFFFFFFFF,
        "CONFIG_HASH_HIGH": CONFIG.hash64 >> 32,
        "CTRL": int(Bits.IDLE),
    }
    image = bytearray(registers.REGISTER_SPACE_BYTES)

    def put(offset: int, value: int, size: int = 4) -> None:
        image[offset : offset + size] = value.to_bytes(size, "little")

    for name, value in constant.items():
        put(BY_NAME[name].offset, value)
    for name, value in status.items():
        put(BY_NAME[name.upper()].offset, value)
    for name, value in counters.items():
        put(registers.counter_offset(name), value, 8)

    async def compare() -> None:
        response = await master.read(0, len(image))
        assert response.resp == AxiResp.OKAY
        assert response.data == bytes(image)

    await compare()
    writable = set()
    for offset in PLAIN.values():
        writable |= set(range(offset, offset + 4))
    for name, offset in PLAIN.items():
        value = rng.getrandbits(32)
        put(offset, value)
        await host.write(name, value)
    await compare()
    # Random bytes beyond the protocol registers: holes and read-only ones ignore them.
    for _ in range(300):
        start = rng.randrange(16, len(image) - 8)
        if rng.random() < 0.8:
            start = rng.choice(sorted(PLAIN.values())) + rng.randrange(4)
        data = rng.randbytes(rng.randrange(1, 9))
        response = await master.write(start, data)
        assert response.resp == AxiResp.OKAY
        for n, byte in enumerate(data):
            if start + n in writable:
                image[start + n] = byte
    await compare()


@cocotb.test()
async def a_run(dut):
    host = await set_up(dut)
    starts = Pulses(dut, "start")
    rng = random.Random(2)
    values = {name: rng.getrandbits(32) for name in PARAMETERS}
    bases = [rng.getrandbits(64) for _ in range(CONFIG.ports)]
    for name, value in values.items():
        await host.write(name.upper(), value)
    for p, base in enumerate(bases):
        await host.write(f"PORT_BASE_{p}_LOW", base & 0xFFFFFFFF)
        await host.write(f"PORT_BASE_{p}_HIGH", base >> 32)
    assert await host.read("CTRL") == Bits.IDLE
    assert not starts.count

    def current() -> tuple[dict, list[int]]:
        ports = [int(getattr(dut, f"port_base__{p}").value) for p in range(CONFIG.ports)]
        return unpack(ParameterLayout(), dut.parameters.value.to_unsigned()), ports

    write = cocotb.start_soon(host.write("CTRL", Bits.START))
    while not dut.start.value:
        await RisingEdge(dut.clk)
    assert current() == (values, bases), "parameters must be valid with start"
    await write
    assert await host.read("CTRL") == Bits.START
    # What is written now is for the next run.
    changed = {name: value ^ 0xFFFFFFFF for name, value in values.items()}
    for name, value in changed.items():
        await host.write(name.upper(), value)
    await host.write("PORT_BASE_0_LOW", 0x1000)
    await host.write("PORT_BASE_0_HIGH", 0)
    assert await host.read("POSITION") == changed["position"]
    assert current() == (values, bases)
    await cycle(dut, 50)
    assert starts.count == 1
    await finish(dut)
    assert await host.read("TOKENS_DONE") == 7
    assert await host.read("CTRL") == Bits.DONE | Bits.READY | Bits.IDLE
    assert await host.read("CTRL") == Bits.IDLE, "done clears on read"
    await host.write("CTRL", Bits.START)
    await cycle(dut, 5)
    assert current() == (changed, [0x1000, *bases[1:]])
    assert starts.count == 2
    await finish(dut)
    assert not dut.interrupt.value
    # A stray done changes nothing.
    assert await host.read("CTRL") == Bits.DONE | Bits.READY | Bits.IDLE
    await finish(dut)
    assert await host.read("CTRL") == Bits.IDLE


@cocotb.test()
async def interrupt(dut):
    host = await set_up(dut)

    async def run() -> None:
        await host.write("CTRL", Bits.START)
        await cycle(dut, 5)
        await finish(dut)

    for enable in range(4):
        await host.write("IP_IER", enable)
        await host.write("GIER", 0)
        await run()
        assert await host.read("IP_ISR") == enable
        assert not dut.interrupt.value
        await host.write("GIER", 1)
        await cycle(dut, 2)
        assert bool(dut.interrupt.value) == bool(enable)
        await host.write("IP_ISR", 0)
        assert await host.read("IP_ISR") == enable
        await host.write("IP_ISR", enable)
        await cycle(dut, 2)
        assert await host.read("IP_ISR") == 0
        assert not dut.interrupt.value
    # Writing a one where none is pending raises it: the bits toggle.
    await host.write("IP_ISR", 2)
    await cycle(dut, 2)
    assert dut.interrupt.value
    # Only strobed bytes count.
    await host.write(BY_NAME["IP_ISR"].offset + 1, 0xFF, size=1)
    assert await host.read("IP_ISR") == 2
    await host.write("IP_ISR", 2)
    assert await host.read("IP_ISR") == 0


@cocotb.test()
async def auto_restart(dut):
    host = await set_up(dut)
    starts = Pulses(dut, "start")
    await host.write("CTRL", Bits.START | Bits.AUTO_RESTART)
    await cycle(dut, 5)
    for runs in range(1, 4):
        assert starts.count == runs
        assert await host.read("CTRL") & (Bits.START | Bits.AUTO_RESTART | Bits.IDLE) == (
            Bits.START | Bits.AUTO_RESTART
        )
        await finish(dut)
    assert starts.count == 4
    await host.write("CTRL", 0)
    assert await host.read("CTRL") & Bits.START, "writing 0 does not stop a run"
    await finish(dut)
    assert starts.count == 4
    await host.write("CTRL", Bits.START | Bits.AUTO_RESTART)
    await cycle(dut, 5)
    await finish(dut, error=6)
    await cycle(dut, 5)
    assert starts.count == 5, "an error ends the repetition"
    assert await host.read("ERROR_CODE") == 6
    assert not await host.read("CTRL") & Bits.START


@cocotb.test()
async def soft_reset(dut):
    host = await set_up(dut)
    starts, resets = Pulses(dut, "start"), Pulses(dut, "soft_reset")
    await host.write("STEPS", 1234)
    await host.write("IP_IER", 3)
    await host.write("CTRL", Bits.START | Bits.AUTO_RESTART)
    await cycle(dut, 5)
    await host.write(BY_NAME["CTRL"].offset + 1, 1, size=1)
    await cycle(dut, 2 * Control.RESET_CYCLES)
    assert resets.count == Control.RESET_CYCLES
    assert await host.read("CTRL") == Bits.IDLE
    await finish(dut)
    assert await host.read("CTRL") == Bits.IDLE
    assert await host.read("IP_ISR") == 0
    assert await host.read("STEPS") == 1234
    assert starts.count == 1
    # A memory that is still answering holds the reset; a start waits for it.
    dut.drained.value = 0
    await host.write("CTRL", Bits.RESET)
    await cycle(dut, 100)
    assert await host.read("CTRL") == Bits.RESET
    await host.write("CTRL", Bits.START)
    await cycle(dut, 20)
    assert starts.count == 1
    dut.drained.value = 1
    await cycle(dut, 5)
    assert starts.count == 2
    assert await host.read("CTRL") == Bits.START
    await finish(dut)
    assert await host.read("CTRL") == Bits.DONE | Bits.READY | Bits.IDLE


@cocotb.test()
async def done_races_with_host(dut):
    """Whatever the host does in the cycle of done, the run is seen to end exactly once."""
    host = await set_up(dut)
    for delay in range(12):
        await host.write("CTRL", Bits.START)
        await cycle(dut, 4)
        read = cocotb.start_soon(host.read("CTRL"))
        await cycle(dut, delay)
        await finish(dut)
        seen = [await read, await host.read("CTRL"), await host.read("CTRL")]
        assert sum(bool(value & Bits.DONE) for value in seen) == 1, (delay, seen)


@cocotb.test()
async def bytes_without_strobe(dut):
    """Data on unstrobed lanes is garbage, and means nothing."""
    await begin(dut)
    starts, resets = Pulses(dut, "start"), Pulses(dut, "soft_reset")
    dut.drained.value = 1
    dut.s_axi_control__bready.value = 1
    writes = [(offset, lane) for offset in (0x00, 0x04, 0x08, 0x0C, 0x30) for lane in (None, 2, 3)]
    for offset, lane in writes:
        garbage = 0xFFFFFFFF if lane is None else 0xFFFFFFFF & ~(0xFF << 8 * lane)
        dut.s_axi_control__awaddr.value = offset
        dut.s_axi_control__wdata.value = garbage
        dut.s_axi_control__wstrb.value = 0 if lane is None else 1 << lane
        dut.s_axi_control__awvalid.value = dut.s_axi_control__wvalid.value = 1
        await RisingEdge(dut.clk)
        dut.s_axi_control__awvalid.value = dut.s_axi_control__wvalid.value = 0
        await cycle(dut, 5)
    assert (starts.count, resets.count) == (0, 0)
    host = Host(dut)
    assert await host.read("CTRL") == Bits.IDLE
    for name in ("GIER", "IP_IER", "IP_ISR", "STEPS"):
        assert await host.read(name) == 0
