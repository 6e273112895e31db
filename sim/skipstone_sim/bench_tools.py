"""What a cocotb bench needs in the simulator: clock, reset, stream drivers, monitors, payloads.

Every random stall has its own seeded generator, so a failing run repeats. See `skipstone_sim.bench`
for how a bench is started, with examples.
"""

from __future__ import annotations

import enum
import json
import os
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import cocotb
from amaranth.hdl import Shape
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import Event, RisingEdge
from cocotb.utils import get_sim_time

from skipstone.spec.config import CoreConfig

from .bench import PARAMETERS_VARIABLE

__all__ = [
    "StreamDriver",
    "StreamMonitor",
    "begin",
    "bench_config",
    "bench_parameters",
    "cycle",
    "cycles",
    "pack",
    "random_stall",
    "unpack",
]

_PERIOD_NS = 10

Stall = Callable[[], bool]


def bench_parameters() -> dict[str, Any]:
    """The `parameters` given to `run_bench`."""
    return json.loads(os.environ[PARAMETERS_VARIABLE])["parameters"]


def bench_config() -> CoreConfig:
    """The `config` given to `run_bench`."""
    fields = json.loads(os.environ[PARAMETERS_VARIABLE])["config"]
    if fields is None:
        raise ValueError("run_bench was given no config")
    return CoreConfig(**fields)


async def begin(dut: Any, *, reset_cycles: int = 2) -> None:
    """Start the clock, then hold reset for some cycles; all inputs are 0 meanwhile.

    To be called once at the start of each test. A component without registers has no clock: await
    ``Timer`` instead.
    """
    for name in json.loads(os.environ[PARAMETERS_VARIABLE])["inputs"]:
        if name not in ("clk", "rst"):
            getattr(dut, name).value = 0
    Clock(dut.clk, _PERIOD_NS, unit="ns").start()
    dut.rst.value = 1
    for _ in range(reset_cycles):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


def cycles() -> int:
    """Clock cycles since the simulation began."""
    return int(get_sim_time("ns")) // _PERIOD_NS


async def cycle(dut: Any, count: int = 1) -> None:
    """Wait for rising edges; values read afterwards are those just before the edge."""
    for _ in range(count):
        await RisingEdge(dut.clk)


def random_stall(probability: float, *, seed: int) -> Stall:
    """A stall that holds in a cycle with this probability, in runs: bursts, silences."""
    rng = random.Random(seed)
    state = {"left": 0, "stalled": False}

    def stall() -> bool:
        if state["left"] == 0:
            state["stalled"] = rng.random() < probability
            state["left"] = rng.choice((1, 1, 1, 2, 3, 7))
        state["left"] -= 1
        return bool(state["stalled"])

    return stall


def pack(shape: Any, value: Any) -> int:
    """Bits of a value: a dict for a struct, a list for an array, else an int or enum member."""
    if isinstance(shape, data.Layout):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        bits = 0
        for key, item in items:
            field = shape[key]
            bits |= pack(field.shape, item) << field.offset
        if isinstance(shape, data.ArrayLayout) and len(value) != shape.length:
            raise ValueError(f"an array of {shape.length} must be given, not of {len(value)}")
        return bits
    cast = Shape.cast(shape)
    number = int(value.value) if isinstance(value, enum.Enum) else int(value)
    low, high = (
        (-(1 << cast.width - 1), 1 << cast.width - 1) if cast.signed else (0, 1 << cast.width)
    )
    if not low <= number < max(high, 1):
        raise ValueError(f"{number} does not fit {cast!r}")
    return number & ((1 << cast.width) - 1)


def unpack(shape: Any, bits: int) -> Any:
    """The value of bits, as `pack` takes it; enums come as members."""
    if isinstance(shape, data.ArrayLayout):
        return [unpack(shape.elem_shape, bits >> shape[i].offset) for i in range(shape.length)]
    if isinstance(shape, data.Layout):
        return {key: unpack(field.shape, bits >> field.offset) for key, field in shape}
    cast = Shape.cast(shape)
    bits &= (1 << cast.width) - 1
    if cast.signed and cast.width and bits >> cast.width - 1:
        bits -= 1 << cast.width
    return shape(bits) if isinstance(shape, type) and issubclass(shape, enum.Enum) else bits


class StreamDriver:
    """Sends payloads into the stream port `name` of `dut`; a valid payload waits for ready.

    Parameters
    ----------
    shape
        Shape of the payload, for `pack`; None takes raw bits.
    stall
        Called for each payload's cycles before it is offered; None sends at full rate.

    Attributes
    ----------
    sent : int
        Payloads transferred so far.
    """

    def __init__(self, dut: Any, name: str, *, shape: Any = None, stall: Stall | None = None):
        self._dut = dut
        self._shape = shape
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload", None)
        self._waiting: deque[int] = deque()
        self._wake, self._empty = Event(), Event()
        self._empty.set()
        self.stall = stall
        self.sent = 0
        self._valid.value = 0
        cocotb.start_soon(self._run())

    def queue(self, items: Iterable[Any]) -> None:
        """Send these after all that was queued before; returns at once."""
        for item in items:
            self._waiting.append(int(item) if self._shape is None else pack(self._shape, item))
        if self._waiting:
            self._empty.clear()
            self._wake.set()

    async def send(self, items: Iterable[Any]) -> None:
        """Queue these and wait until all are transferred."""
        self.queue(items)
        await self._empty.wait()

    async def _run(self) -> None:
        edge = RisingEdge(self._dut.clk)
        while True:
            if not self._waiting:
                self._empty.set()
                self._wake.clear()
                await self._wake.wait()
                await edge
            while self.stall is not None and self.stall():
                await edge
            if self._payload is not None:
                self._payload.value = self._waiting[0]
            self._valid.value = 1
            await edge
            while not self._ready.value:
                await edge
            self._waiting.popleft()
            self.sent += 1
            self._valid.value = 0


class StreamMonitor:
    """Takes payloads from the stream port `name` of `dut`; checks that a valid payload waits.

    Parameters
    ----------
    shape
        Shape of the payload, for `unpack`; None gives raw bits.
    stall
        Called once per cycle: whether ready is low in the next; None is always ready.

    Attributes
    ----------
    received : list
        All payloads so far.
    times : list of int
        The cycle in which each was transferred, as `cycles()` counts.
    """

    def __init__(self, dut: Any, name: str, *, shape: Any = None, stall: Stall | None = None):
        self._dut, self._name = dut, name
        self._shape = shape
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload", None)
        self._taken = 0
        self.stall = stall
        self.received: list[Any] = []
        self.times: list[int] = []
        cocotb.start_soon(self._run())

    async def take(self, count: int, *, silence: int = 10_000) -> list[Any]:
        """The next `count` payloads; AssertionError after `silence` cycles without one."""
        edge = RisingEdge(self._dut.clk)
        quiet, seen = 0, len(self.received)
        while len(self.received) < self._taken + count:
            await edge
            quiet = quiet + 1 if len(self.received) == seen else 0
            seen = len(self.received)
            assert quiet < silence, (
                f"stream {self._name!r}: {seen - self._taken} of {count} payloads, then "
                f"{silence} cycles without one"
            )
        items = self.received[self._taken : self._taken + count]
        self._taken += count
        return items

    async def expect_silence(self, count: int = 100) -> None:
        """AssertionError if a payload beyond those taken comes within `count` cycles."""
        await cycle(self._dut, count)
        extra = len(self.received) - self._taken
        assert not extra, f"stream {self._name!r}: {extra} payloads too many"

    async def _run(self) -> None:
        edge = RisingEdge(self._dut.clk)
        pending: int | None = None
        while True:
            ready = self.stall is None or not self.stall()
            self._ready.value = int(ready)
            await edge
            valid = bool(self._valid.value)
            bits = 0
            if valid and self._payload is not None:
                bits = self._payload.value.to_unsigned()
            if pending is not None:
                assert valid, f"stream {self._name!r}: valid fell before ready"
                assert bits == pending, f"stream {self._name!r}: payload changed before ready"
            pending = bits if valid and not ready else None
            if valid and ready:
                self.received.append(bits if self._shape is None else unpack(self._shape, bits))
                self.times.append(cycles())
