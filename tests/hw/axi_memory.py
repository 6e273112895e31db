"""Memory behind a unit's AXI4 ports, for benches: guarded stripes, checks, a latency model."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiReadBus, AxiSlaveRead, AxiSlaveWrite, AxiWriteBus

from skipstone.spec.config import CoreConfig
from skipstone_hw.layouts import piece_bytes
from skipstone_sim.bench_tools import cycles

PAGE = 4096


class Stripe:
    """One port's share of the memory between two guard pages; the target of an AXI slave."""

    def __init__(self, *, base: int, size: int, rng: random.Random):
        self.base, self.size = base, size
        self.contents = bytearray(rng.randbytes(size + 2 * PAGE))
        self.bad: set[int] = set()
        """Offsets of beats that answer SLVERR."""

    def _at(self, address: int, length: int) -> int:
        offset = address - self.base
        if offset in self.bad:
            raise OSError(f"beat at offset {offset} is marked bad")
        assert 0 <= offset <= self.size - length, f"access at {offset} of {self.size} bytes"
        return offset + PAGE

    async def read(self, address: int, length: int) -> bytes:
        """What the AXI slave calls for every beat."""
        at = self._at(address, length)
        return bytes(self.contents[at : at + length])

    async def write(self, address: int, data: bytes) -> None:
        """What the AXI slave calls for every run of strobed bytes."""
        self._at(address & -32, 32)
        at = address - self.base + PAGE
        self.contents[at : at + len(data)] = data


class StripedMemory:
    """Words striped over the ports of a configuration, filled with random bytes."""

    def __init__(self, config: CoreConfig, *, words: int, seed: int):
        rng = random.Random(seed)
        self.config, self.words = config, words
        size = -(-words * config.port_bytes // PAGE) * PAGE
        bases = [((3 * p + 1) << 38) + PAGE * rng.randrange(1 << 20) for p in range(config.ports)]
        self.stripes = [Stripe(base=base, size=size, rng=rng) for base in bases]

    def word(self, address: int) -> int:
        """The word at `address`."""
        n = self.config.port_bytes
        at = PAGE + address * n
        return int.from_bytes(b"".join(s.contents[at : at + n] for s in self.stripes), "little")

    def write(self, address: int, piece: int, data: int, strobe: int) -> None:
        """Write the strobed bytes of a piece of a word."""
        size = piece_bytes(self.config)
        for byte in range(size):
            if strobe >> byte & 1:
                port, lane = divmod(piece * size + byte, self.config.port_bytes)
                at = PAGE + address * self.config.port_bytes + lane
                self.stripes[port].contents[at] = data >> 8 * byte & 0xFF

    def snapshot(self) -> list[bytes]:
        """All bytes, guard pages included."""
        return [bytes(stripe.contents) for stripe in self.stripes]

    def connect(self, dut: Any) -> None:
        """Drive the component's `port_base` and `memory_words`."""
        for p, stripe in enumerate(self.stripes):
            getattr(dut, f"port_base__{p}").value = stripe.base
        dut.memory_words.value = self.words

    def attach_reads(self, dut: Any) -> list[AxiSlaveRead]:
        """An AXI slave on the read channels of every port."""
        buses = [AxiReadBus.from_prefix(dut, f"m_axi__{p}_") for p in range(self.config.ports)]
        return [
            AxiSlaveRead(bus, dut.clk, dut.rst, target=stripe)
            for bus, stripe in zip(buses, self.stripes, strict=True)
        ]

    def attach_writes(self, dut: Any) -> list[AxiSlaveWrite]:
        """An AXI slave on the write channels of every port."""
        buses = [AxiWriteBus.from_prefix(dut, f"m_axi__{p}_") for p in range(self.config.ports)]
        return [
            AxiSlaveWrite(bus, dut.clk, dut.rst, target=stripe)
            for bus, stripe in zip(buses, self.stripes, strict=True)
        ]


def pauses(stall: Callable[[], bool]) -> Iterator[bool]:
    """A stall of `skipstone_sim.bench_tools` as a cocotbext-axi pause generator."""
    while True:
        yield stall()


class ChannelCheck:
    """Checks that a channel holds valid and payload until ready, and logs its transfers."""

    def __init__(self, dut: Any, port: int, channel: str, fields: list[str]):
        self.dut = dut
        self.signals = {
            f: getattr(dut, f"m_axi__{port}__{channel}{f}") for f in ("valid", "ready", *fields)
        }
        self.fields = fields
        self.transfers: list[dict[str, int]] = []
        self.times: list[int] = []
        self.first_valid: int | None = None
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        held = None
        edge = RisingEdge(self.dut.clk)
        while True:
            await edge
            valid, ready = self.signals["valid"].value, self.signals["ready"].value
            payload = {f: int(self.signals[f].value) for f in self.fields}
            if held is not None:
                assert valid, f"valid fell before ready: {held}"
                assert payload == held, f"payload changed before ready: {held}, {payload}"
            held = payload if valid and not ready else None
            if valid and self.first_valid is None:
                self.first_valid = cycles()
            if valid and ready:
                self.transfers.append(payload)
                self.times.append(cycles())


class ErrorLog:
    """The error reports of a component: (cycle, code)."""

    def __init__(self, dut: Any):
        self.dut = dut
        self.reports: list[tuple[int, int]] = []
        cocotb.start_soon(self._run())

    @property
    def codes(self) -> list[int]:
        return [code for _, code in self.reports]

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            error = self.dut.error.value.to_unsigned()
            if error & 1:
                self.reports.append((cycles(), error >> 1))


async def latency_reads(dut: Any, port: int, stripe: Stripe, *, beats: int, latency: int) -> None:
    """A memory port that takes an address every cycle and answers `latency` cycles later."""
    signal = {
        name: getattr(dut, f"m_axi__{port}__{name}")
        for name in ("arvalid", "arready", "araddr", "arlen", "rvalid", "rready", "rdata", "rlast")
    }
    waiting: deque[tuple[int, bytes, bool]] = deque()
    signal["arready"].value = 1
    while True:
        await RisingEdge(dut.clk)
        now = cycles()
        if signal["arvalid"].value:
            address, count = signal["araddr"].value.to_unsigned(), int(signal["arlen"].value) + 1
            for n in range(count):
                data = await stripe.read(address + n * beats, beats)
                waiting.append((now + latency, data, n == count - 1))
        assert signal["rready"].value, "data was not accepted at once"
        due = bool(waiting) and waiting[0][0] <= now + 1
        signal["rvalid"].value = int(due)
        if due:
            _, data, last = waiting.popleft()
            signal["rdata"].value = int.from_bytes(data, "little")
            signal["rlast"].value = int(last)
