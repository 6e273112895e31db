"""Runs from start to done, and the way back from an error."""

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode

from .control import StatusLayout
from .counters import Watchdog
from .layouts import ErrorLayout

__all__ = ["Supervisor"]


class Supervisor(wiring.Component):
    """Guard of a run.

    The first error ends it: its code and the instruction are kept, memory traffic is aborted, and
    everything between control and memory ports is reset. `done` follows when nothing is
    outstanding, or after `ABANDON_CYCLES` if memory does not answer. Until it has, further runs end
    at once with WATCHDOG.

    Parameters
    ----------
    config : CoreConfig
    sources : int
        Units that report errors; of several in the same cycle the last one counts.

    Members
    -------
    start, soft_reset : In(1)
        From Control.
    finished : In(1)
        The program reached its end.
    errors : In(ErrorLayout()).array(sources)
    progress : In(1)
        Something moved in this cycle.
    watchdog_cycles : In(32)
    drained : In(1)
        Nothing is outstanding at a memory port.
    pc : In
        The instruction that is executing.
    tokens_done, next_token : In(32)
    begin : Out(1)
        Starts the sequencer.
    done : Out(1)
        To Control, with `status` valid.
    running : Out(1)
    failed : Out(1)
        Pulse: the run met an error.
    abort, reset : Out(1)
        To reader and writer; to everything between the ports.
    status : Out(StatusLayout())
    """

    ABANDON_CYCLES = 4096
    RESET_CYCLES = 4
    """Shortest reset after an error."""

    start: Signal
    soft_reset: Signal
    finished: Signal
    errors: Any
    progress: Signal
    watchdog_cycles: Signal
    drained: Signal
    pc: Signal
    tokens_done: Signal
    next_token: Signal
    begin: Signal
    done: Signal
    running: Signal
    failed: Signal
    abort: Signal
    reset: Signal
    status: data.View

    def __init__(self, *, config: CoreConfig, sources: int):
        super().__init__(
            {
                "start": In(1),
                "soft_reset": In(1),
                "finished": In(1),
                "errors": In(ErrorLayout()).array(sources),
                "progress": In(1),
                "watchdog_cycles": In(32),
                "drained": In(1),
                "pc": In(bits_for(config.max_program)),
                "tokens_done": In(32),
                "next_token": In(32),
                "begin": Out(1),
                "done": Out(1),
                "running": Out(1),
                "failed": Out(1),
                "abort": Out(1),
                "reset": Out(1),
                "status": Out(StatusLayout()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.watchdog = watchdog = Watchdog()
        status = self.status
        code = Signal(range(max(CoreErrorCode) + 1))
        error = Signal()
        m.d.comb += [error.eq(watchdog.expired), code.eq(int(CoreErrorCode.WATCHDOG))]
        for report in self.errors:
            with m.If(report.valid):
                m.d.comb += [error.eq(1), code.eq(report.code)]

        aborting, stuck = Signal(), Signal()
        waited = Signal(range(self.ABANDON_CYCLES + 1))
        m.d.comb += [
            self.failed.eq(error & self.running),
            self.abort.eq(aborting | stuck | self.soft_reset),
            self.reset.eq(aborting | self.soft_reset),
            watchdog.enable.eq(self.running),
            watchdog.limit.eq(self.watchdog_cycles),
            watchdog.progress.eq(self.progress),
        ]
        with m.If(self.drained):
            m.d.sync += stuck.eq(0)
        with m.FSM(name="run"):
            with m.State("IDLE"):
                m.d.sync += waited.eq(0)
                with m.If(self.start):
                    m.d.sync += [status.error_code.eq(0), status.error_pc.eq(0)]
                    m.d.comb += self.begin.eq(~stuck)
                    m.next = "RUN"
                    with m.If(stuck):  # memory still owes the previous run an answer
                        m.d.sync += status.error_code.eq(int(CoreErrorCode.WATCHDOG))
                        m.next = "DONE"
            with m.State("RUN"):
                m.d.comb += self.running.eq(1)
                m.d.sync += [
                    status.tokens_done.eq(self.tokens_done),
                    status.next_token.eq(self.next_token),
                ]
                with m.If(self.failed):
                    m.d.sync += [status.error_code.eq(code), status.error_pc.eq(self.pc)]
                    m.next = "ABORT"
                with m.Elif(self.finished):
                    m.next = "DONE"
                with m.If(self.soft_reset):
                    m.next = "IDLE"
            with m.State("ABORT"):
                m.d.comb += aborting.eq(1)
                m.d.sync += waited.eq(waited + 1)
                clean = self.drained & (waited >= self.RESET_CYCLES)
                with m.If(clean | (waited == self.ABANDON_CYCLES)):
                    m.d.sync += stuck.eq(~self.drained)
                    m.next = "DONE"
                with m.If(self.soft_reset):
                    m.next = "IDLE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
