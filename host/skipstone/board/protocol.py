"""The core's control protocol over any way of reading and writing its registers.

AMD UG1399, "S_AXILITE Control Register Map": the host sets the parameters, enables the interrupt
and writes ap_start; the core raises ap_done and the interrupt, and says in its status registers how
the run went.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..devices import Run, RunResult
from ..spec import registers
from ..spec.config import CoreConfig
from ..spec.errors import BitstreamError, CoreErrorCode, DeviceError, RunAbortedError
from ..spec.registers import (
    BY_NAME,
    COUNTER_GROWTH,
    COUNTERS,
    PORT_BASE,
    SINCE_POWER_UP,
    Control,
    counter_offset,
)

__all__ = ["CoreProtocol"]

_DONE = 1
"""Bit of IP_IER and IP_ISR."""


@dataclass
class CoreProtocol:
    """A core behind two functions.

    Attributes
    ----------
    read : callable
        Value of the 32-bit register at a byte offset.
    write : callable
        Set the register at a byte offset.
    """

    read: Callable[[int], int]
    write: Callable[[int, int], None]

    def get(self, name: str) -> int:
        """Value of the register called `name`."""
        return self.read(BY_NAME[name].offset)

    def set(self, name: str, value: int) -> None:
        """Write the register called `name`."""
        self.write(BY_NAME[name].offset, int(value))

    def _pair(self, low: int) -> int:
        return self.read(low) | self.read(low + 4) << 32

    @property
    def version(self) -> int:
        """Version of the instruction set, register map and numerics."""
        return self.get("VERSION")

    @property
    def config_hash(self) -> int:
        """Hash of the core's configuration."""
        return self._pair(BY_NAME["CONFIG_HASH_LOW"].offset)

    def check_identity(self, config: CoreConfig) -> None:
        """Raise BitstreamError, with both values, unless the core is the one the host expects."""
        version, found = self.version, self.config_hash
        if version != registers.VERSION or found != config.hash64:
            raise BitstreamError(
                f"the loaded bitstream has version {version} and configuration {found:016x}; the "
                f"host expects version {registers.VERSION} and {config.hash64:016x} "
                f"({config.name})"
            )

    # -- runs --------------------------------------------------------------------------------------

    def start(
        self, run: Run, *, memory_words: int, bases: Sequence[int], watchdog_cycles: int
    ) -> None:
        """Set all parameters and the interrupt, then kick the core."""
        if pending := self.get("IP_ISR"):
            self.set("IP_ISR", pending)  # writing ones toggles: whatever is pending falls
        for name, value in run.registers(memory_words, watchdog_cycles).items():
            self.set(name, value)
        self.set("IP_IER", _DONE)
        self.set("GIER", 1)
        for port, base in enumerate(bases):
            self.write(PORT_BASE + 8 * port, base & 0xFFFFFFFF)
            self.write(PORT_BASE + 8 * port + 4, base >> 32)
        self.set("CTRL", Control.START)

    @property
    def control(self) -> Control:
        """CTRL; reading it clears DONE and READY."""
        return Control(self.get("CTRL"))

    @property
    def pending(self) -> bool:
        """Whether the core holds its interrupt up: a run has ended. Clears nothing."""
        return bool(self.get("IP_ISR") & _DONE)

    def acknowledge(self) -> None:
        """Let the interrupt fall."""
        if self.pending:
            self.set("IP_ISR", _DONE)

    def result(self) -> RunResult:
        """What the run that has just ended left behind.

        Raises DeviceError if the core stopped with an error, RunAbortedError if it was reset.
        """
        control = self.control
        if Control.DONE not in control:
            raise RunAbortedError(f"the run was broken off by a reset; CTRL is {int(control):#05x}")
        if code := self.get("ERROR_CODE"):
            raise DeviceError(CoreErrorCode(code), self.get("ERROR_PC"))
        return RunResult(tokens_done=self.get("TOKENS_DONE"), next_token=self.get("NEXT_TOKEN"))

    def request_reset(self) -> None:
        """Break off whatever runs; the core is idle when `control` says so."""
        self.set("CTRL", Control.RESET)

    def counter(self, name: str) -> int:
        """One counter of the last run."""
        return self._pair(counter_offset(name))

    def counters(self) -> dict[str, int]:
        """All counters of the last run, by the names of `registers.COUNTERS`.

        After a run too short for any of its counters to pass 32 bits, upper halves are not read.
        """
        cycles = self.counter("cycles")
        short = 0 < cycles * COUNTER_GROWTH < 1 << 32
        found = {"cycles": cycles}
        for name in COUNTERS[1:]:
            if short and name not in SINCE_POWER_UP:
                found[name] = self.read(counter_offset(name))
            else:
                found[name] = self.counter(name)
        return found
