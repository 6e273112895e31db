"""The PYNQ driver of the core: bound to its VLNV, so ``Overlay(...).skipstone_0`` is a
`SkipstoneIP`.

Importing this module imports pynq and registers the driver; do it before the Overlay is made
(opening a `PynqDevice` does). The interrupt is waited for in the operating system, not in an event
loop, so that waiting works in scripts, threads and notebooks alike; `wait_async` is for those who
have a loop.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from typing import Any

from pynq import DefaultIP

from ..devices import Run, RunResult
from ..spec.config import CoreConfig
from ..spec.errors import (
    DeviceTimeoutError,
    InterruptLostError,
    RunAbortedError,
)
from ..spec.registers import COUNTERS, REGISTERS, Control, counter_offset
from .design import VLNV, register_descriptions
from .protocol import CoreProtocol

__all__ = ["SkipstoneIP"]

_RESET_S, _RESET_CORE_S = 1.0, 0.005
"""How long memory ports may take to fall quiet after a reset: of our time, and of the core's."""
_POLL_S = 2e-4
_ACKNOWLEDGE = 0x0C
"""Register IAR of the AXI interrupt controller (AMD PG099)."""
_SLICE_S = 0.1
"""Between two looks at whether the run was reset from elsewhere."""


class _Event:
    """What PYNQ sets when the interrupt has come."""

    def __init__(self) -> None:
        self.happened = False

    def set(self) -> None:
        self.happened = True


class SkipstoneIP(DefaultIP):
    """The core.

    Every register is an attribute of `register_map`, with its fields; every counter of the last run
    is a property of this object in lower case (``cycles``, ``words_weights``, …).

    Attributes
    ----------
    interrupt : pynq.Interrupt or None
        None where the design wires none: the end of a run is then polled for.
    protocol : CoreProtocol
    time_dilation : float
        Seconds of ours for each second of the core's: 1, or more on a simulated board.
    """

    bindto = [VLNV]  # noqa: RUF012, pynq wants a list on the class

    interrupt: Any = None

    def __init__(self, description: dict[str, Any]):
        # Neither Vivado's handoff of an RTL module nor a kernel's arguments describe all registers.
        described = description.get("registers") or {}
        ports = int(description.get("parameters", {}).get("PORTS", 1))
        registers = register_descriptions(ports) | described
        super().__init__(description=description | {"registers": registers})
        self.protocol = CoreProtocol(self.read, self.write)
        self.time_dilation = float(getattr(self.device, "time_dilation", 1.0))
        self._running = False
        self._aborted = False

    # -- what it is --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "running" if self._running else "idle" if self.idle else "busy"
        return (
            f"SkipstoneIP({self._fullpath} at {self.mmio.base_addr:#x}, version {self.version}, "
            f"configuration {self.config_hash:016x}, {state})"
        )

    @property
    def version(self) -> int:
        """Version of the instruction set, register map and numerics."""
        return self.protocol.version

    @property
    def config_hash(self) -> int:
        """Hash of the core's configuration."""
        return self.protocol.config_hash

    def check_identity(self, config: CoreConfig) -> None:
        """Raise BitstreamError unless this is a core of configuration `config`."""
        self.protocol.check_identity(config)

    # -- runs --------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """A run was started and not yet waited for."""
        return self._running

    @property
    def idle(self) -> bool:
        """The core executes nothing."""
        return Control.IDLE in self.protocol.control

    def start(
        self, run: Run, *, memory_words: int, bases: list[int], watchdog_cycles: int = 0
    ) -> None:
        """Kick the core; returns at once.

        Parameters
        ----------
        memory_words
            Words of memory that the core may address.
        bases
            Physical address of word 0 of each memory port.
        watchdog_cycles
            Cycles without progress after which the core stops with WATCHDOG; 0: never.

        Raises RuntimeError while a run is going on.
        """
        if self._running:
            raise RuntimeError("start() while the core runs: wait() or reset() first")
        self.protocol.start(
            run, memory_words=memory_words, bases=bases, watchdog_cycles=watchdog_cycles
        )
        self._aborted, self._running = False, True

    def wait(self, timeout_s: float) -> RunResult:
        """Finish the run.

        Raises DeviceError with the core's error, DeviceTimeoutError if it does not end in time,
        InterruptLostError if it ended in time but no interrupt came, RunAbortedError if it was
        reset meanwhile. After DeviceTimeoutError the core still runs: `reset` it.
        """
        if not self._running:
            raise RuntimeError("wait() without start()")
        arrived = self._wait(timeout_s)
        return self._finish(arrived, timeout_s)

    async def wait_async(self, timeout_s: float) -> RunResult:
        """`wait`, for an event loop: the one that was current when the Overlay was made."""
        if not self._running:
            raise RuntimeError("wait_async() without start()")
        if self.interrupt is None:
            arrived = await asyncio.to_thread(self._poll, time.monotonic() + timeout_s)
        else:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._interrupted()
                arrived = True
            except TimeoutError:
                arrived = False
        return self._finish(arrived, timeout_s)

    async def _interrupted(self) -> None:
        await self.interrupt.wait()
        while not (self._aborted or self.protocol.pending):  # see `_wait`
            await self.interrupt.wait()

    def _finish(self, arrived: bool, timeout_s: float) -> RunResult:
        if self._aborted:
            raise RunAbortedError("the run was broken off by a reset")
        if not arrived and not self.protocol.pending:
            raise DeviceTimeoutError(
                f"the run did not end within {timeout_s:.3g} s; {self._whereabouts()}"
            )
        self._running = False
        self.protocol.acknowledge()
        self._clear_controllers()
        result = self.protocol.result()
        if not arrived:
            raise InterruptLostError(
                f"the run ended, with {result.tokens_done} tokens done, but no interrupt came "
                f"within {timeout_s:.3g} s: is {VLNV} wired to the interrupt controller, and is "
                "/dev/uio* there?"
            )
        return result

    def _whereabouts(self) -> str:
        """Where the core stands, for whoever must find out why."""
        at = {name: self.protocol.get(name) for name in ("TOKENS_DONE", "ERROR_CODE", "ERROR_PC")}
        shown = ", ".join(f"{name} {value}" for name, value in at.items())
        return f"CTRL {int(self.protocol.control):#05x}, {shown}"

    def _wait(self, seconds: float) -> bool:
        """Whether the end of the run was reported before the deadline."""
        deadline = time.monotonic() + seconds
        if self.interrupt is None:
            return self._poll(deadline)
        # What counts is the core's own register: controllers may report an interrupt once more.
        while self._sleep(deadline):
            if self._aborted or self.protocol.pending:
                return True
        return False

    def _poll(self, deadline: float) -> bool:
        """Without an interrupt: look, at growing intervals, until the deadline."""
        pause = _POLL_S
        while not self._aborted:
            if self.protocol.pending:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, 0.05)
        return False

    def _sleep(self, deadline: float) -> bool:
        """Sleep until the UIO device of the interrupt controller reports, or the deadline.

        This does what `pynq.interrupt` does in its event loop: register an event, let the
        controller ask the kernel for the interrupt, and pass on what the kernel reports.
        """
        controller = self.interrupt.parent()
        if controller is None:
            raise RunAbortedError("the overlay was replaced while the core ran")
        event = _Event()
        controller.add_event(event, self.interrupt.number)
        source = controller
        while not hasattr(source, "uio"):  # controllers may be chained
            source = source.parent
        os.set_blocking(source.uio.fileno(), False)
        while not event.happened and not self._aborted:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            ready, _, _ = select.select([source.uio], [], [], min(left, _SLICE_S))
            if ready and source.uio.read(4):
                waiting, source.wait_events = source.wait_events, []
                for each in waiting:
                    each.set()
        if not event.happened:
            handles = controller.wait_handles[self.interrupt.number]
            if event in handles:
                handles.remove(event)
                controller.event_number -= 1
            if not controller.event_number and controller in source.wait_events:
                source.wait_events.remove(controller)
        return event.happened

    def _clear_controllers(self) -> None:
        """Let the interrupt controllers forget the run's interrupt.

        PYNQ acknowledges them before the core's line has fallen, so they have seen it once more.
        """
        if self.interrupt is None:
            return
        controller, number = self.interrupt.parent(), self.interrupt.number
        while hasattr(controller, "mmio"):  # the last parent is a UIO device
            controller.mmio.write(_ACKNOWLEDGE, 1 << number)
            controller, number = controller.parent, controller.number

    def stop(self) -> None:
        """Break off the run, if there is one, and wait until the memory ports are quiet.

        Raises DeviceTimeoutError if they do not fall quiet: only a new download helps.
        """
        self._aborted, self._running = True, False
        self.protocol.request_reset()
        seconds = _RESET_S + _RESET_CORE_S * self.time_dilation
        deadline = time.monotonic() + seconds
        while Control.IDLE not in self.protocol.control:
            if time.monotonic() > deadline:
                raise DeviceTimeoutError(
                    f"the core is not idle {seconds:.3g} s after its reset: a memory port does "
                    "not answer; download the bitstream again"
                )
            time.sleep(_POLL_S)

    def reset(self) -> None:
        """Bring the core back to idle, with no interrupt pending; memory and parameters are kept.

        Raises DeviceTimeoutError as `stop` does.
        """
        self.stop()
        self.protocol.acknowledge()

    # -- counters ----------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """All counters of the last run, by the names of `registers.COUNTERS`."""
        return self.protocol.counters()


def _counter(name: str, doc: str) -> property:
    return property(lambda self: self.protocol.counter(name), doc=doc)


_DOCS = {r.offset: r.doc for r in REGISTERS}
for _name in COUNTERS:
    setattr(SkipstoneIP, _name, _counter(_name, _DOCS[counter_offset(_name)].capitalize() + "."))
