"""What a simulated board has in place of an FPGA: the gateware's simulation, or the golden model.

Both show the registers and the interrupt of the core, work on the board's memory at physical
addresses, and do their work in `advance`, which the board calls from a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.board.design import used_registers
from skipstone.devices import Run, RunResult
from skipstone.spec import registers
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode, DeviceError
from skipstone.spec.registers import BY_NAME, COUNTERS, PORT_BASE, Control, counter_offset

from .golden import GoldenDevice
from .rtl import core_library
from .verilated import MemoryModel, Simulation

__all__ = ["GoldenLogic", "Logic", "RtlLogic", "open_logic"]

_CTRL, _ISR = BY_NAME["CTRL"].offset, BY_NAME["IP_ISR"].offset
_BATCH_CYCLES = 20_000
"""A host that wants a register waits at most for a batch: some 20 ms."""


class Logic(Protocol):
    """A core with its registers, on memory that begins at physical address 0."""

    config: CoreConfig

    @property
    def busy(self) -> bool:
        """There is work to `advance`."""
        ...

    @property
    def interrupt(self) -> bool:
        """The interrupt line."""
        ...

    def read(self, offset: int) -> int:
        """Read a register."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        ...

    def advance(self) -> None:
        """Let some time pass; returns when the interrupt rises, or after a while."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class RtlLogic:
    """The gateware, cycle by cycle. Its clock runs from a start or reset until the run's end shows
    in IP_ISR or the host sees the core idle.

    Attributes
    ----------
    simulation : Simulation
        Where faults are injected, when nothing runs.
    """

    def __init__(
        self,
        config: CoreConfig,
        memory: NDArray[np.uint8],
        *,
        model: MemoryModel | None = None,
        progress: Callable[[str], None] | None = None,
    ):
        self.config = config
        self.simulation = Simulation(
            core_library(config, progress=progress),
            memory=model or MemoryModel(outstanding=config.outstanding),
        )
        self.simulation.attach_shared(memory)
        self._lock = threading.Lock()
        self._busy = False
        self._interrupt = False

    @property
    def busy(self) -> bool:
        return self._busy

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def read(self, offset: int) -> int:
        with self._lock:
            value = self.simulation.read(offset)
            if offset == _CTRL and Control.IDLE in Control(value):
                self._busy = False
            self._interrupt = self.simulation.interrupt
        return value

    def write(self, offset: int, value: int) -> None:
        with self._lock:
            self.simulation.write(offset, value)
            if offset == _CTRL and Control(value) & (Control.START | Control.RESET):
                self._busy = True
            self._interrupt = self.simulation.interrupt

    def advance(self) -> None:
        with self._lock:
            self.simulation.run(_BATCH_CYCLES)
            self._interrupt = self.simulation.interrupt
            # Whoever polls has the interrupt off, but its status shows the end all the same.
            if self._interrupt or self.simulation.read(_ISR):
                self._busy = False

    def close(self) -> None:
        with self._lock:
            self.simulation.close()


class GoldenLogic:
    """The golden model behind the core's registers. A run takes no cycles and cannot be cut short:
    a reset meanwhile throws its result away.

    Only what changed in the board's memory is copied into golden's, so that it keeps the matrices
    it has unpacked.
    """

    def __init__(self, config: CoreConfig, memory: NDArray[np.uint8]):
        self.config = config
        self._memory = memory
        self._golden = GoldenDevice(config)
        self._seen = np.zeros((0, config.word_bytes), np.uint8)
        self._lock = threading.Lock()
        self._values = {r.offset: 0 for r in registers.REGISTERS}
        self._writable = {r.offset for r in used_registers(config) if r.access == "rw"}
        self._values[BY_NAME["VERSION"].offset] = registers.VERSION
        self._put_pair(BY_NAME["CONFIG_HASH_LOW"].offset, config.hash64)
        self._control = Control.IDLE
        self._run_number = 0

    def _get(self, name: str) -> int:
        return self._values[BY_NAME[name].offset]

    def _put(self, name: str, value: int) -> None:
        self._values[BY_NAME[name].offset] = value

    def _put_pair(self, low: int, value: int) -> None:
        self._values[low], self._values[low + 4] = value & 0xFFFFFFFF, value >> 32

    @property
    def busy(self) -> bool:
        return Control.START in self._control

    @property
    def interrupt(self) -> bool:
        return bool(self._get("GIER") & 1 and self._get("IP_ISR"))

    def read(self, offset: int) -> int:
        with self._lock:
            if offset != _CTRL:
                return self._values.get(offset, 0)
            value = int(self._control)
            self._control &= ~(Control.DONE | Control.READY)
            return value

    def write(self, offset: int, value: int) -> None:
        with self._lock:
            if offset == _CTRL:
                self._write_control(Control(value))
            elif offset == _ISR:
                self._values[offset] ^= value & 3
            elif offset in self._writable:
                self._values[offset] = value & 0xFFFFFFFF

    def _write_control(self, value: Control) -> None:
        if Control.RESET in value:
            self._control = Control.IDLE
            self._run_number += 1
        if Control.START in value and Control.START not in self._control:
            self._control = Control.START
            self._run_number += 1

    def advance(self) -> None:
        with self._lock:
            number = self._run_number
            run = Run(**{f.name: self._get(f.name.upper()) for f in fields(Run)})
        outcome = self._execute(run)
        with self._lock:
            if number == self._run_number:  # no reset meanwhile
                self._finish(outcome)

    def _execute(self, run: Run) -> RunResult | DeviceError:
        stripes = self._stripes()
        if stripes is None:
            return DeviceError(CoreErrorCode.READ_RESPONSE, 0)
        words = np.stack(stripes, axis=1).reshape(-1, self.config.word_bytes)
        if len(words) != len(self._seen):
            self._golden.allocate(len(words))
            self._seen = np.zeros_like(words)
        changed = np.flatnonzero((words != self._seen).any(axis=1))
        for part in np.split(changed, np.flatnonzero(np.diff(changed) > 1) + 1):
            if part.size:
                self._golden.write(int(part[0]), words[part[0] : part[-1] + 1].reshape(-1))
        outcome: RunResult | DeviceError
        try:
            self._golden.start(run)
            outcome = self._golden.wait()
        except DeviceError as error:
            outcome = error
        self._seen = self._golden.read(0, words.size).reshape(words.shape)
        for port, stripe in enumerate(stripes):
            stripe[:] = self._seen.reshape(len(words), len(stripes), -1)[:, port]
        return outcome

    def _stripes(self) -> list[NDArray[np.uint8]] | None:
        """Each port's memory, (words, bytes per beat); None if a base lies outside."""
        size = self._get("MEMORY_WORDS") * self.config.port_bytes
        out = []
        for port in range(self.config.ports):
            low = PORT_BASE + 8 * port
            base = self._values[low] | self._values[low + 4] << 32
            if base + size > self._memory.size:
                return None
            out.append(self._memory[base : base + size].reshape(-1, self.config.port_bytes))
        return out

    def _finish(self, outcome: RunResult | DeviceError) -> None:
        if isinstance(outcome, DeviceError):
            values = (int(outcome.code), outcome.pc, 0, 0)
        else:
            values = (0, 0, outcome.tokens_done, outcome.next_token)
        names = ("ERROR_CODE", "ERROR_PC", "TOKENS_DONE", "NEXT_TOKEN")
        for name, value in zip(names, values, strict=True):
            self._put(name, value)
        for name, value in self._golden.counters().items():
            if name in COUNTERS:
                self._put_pair(counter_offset(name), value)
        self._control = Control.DONE | Control.IDLE | Control.READY
        self._put("IP_ISR", self._get("IP_ISR") | self._get("IP_IER"))

    def close(self) -> None:
        self._golden.close()


def open_logic(
    kind: str,
    config: CoreConfig,
    memory: NDArray[np.uint8],
    progress: Callable[[str], None] | None = None,
) -> Logic:
    """ "rtl" or "golden"."""
    if kind == "rtl":
        return RtlLogic(config, memory, progress=progress)
    if kind == "golden":
        return GoldenLogic(config, memory)
    raise ValueError(f"logic must be 'rtl' or 'golden', not {kind!r}")
