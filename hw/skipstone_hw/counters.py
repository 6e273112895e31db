"""Performance counters and the watchdog."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig
from skipstone.spec.registers import COUNTER_GROWTH, COUNTERS, SINCE_POWER_UP

__all__ = ["CounterLayout", "Counters", "IncrementLayout", "Watchdog"]

COUNTER_BITS = 64

_PER_TOKEN = ("attention_executed", "attention_skipped", "mlp_executed", "mlp_skipped")
"""Counters that may gain up to a whole chunk in a cycle."""

_PER_RUN = ("history_gaps", "history_fresh")
"""Counters that may gain the tokens of an exponent word, up to 64."""


class CounterLayout(data.StructLayout):
    """The value of every counter of `registers.COUNTERS`."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COUNTERS, COUNTER_BITS))


class IncrementLayout(data.StructLayout):
    """What every counter gains in this cycle: one bit; 0 to `max_chunk` where it counts tokens; 0
    to 64 where it counts the words of a read."""

    def __init__(self, config: CoreConfig):
        bits = dict.fromkeys(COUNTERS, 1)
        bits |= dict.fromkeys(_PER_TOKEN, bits_for(config.max_chunk))
        bits |= dict.fromkeys(_PER_RUN, bits_for(COUNTER_GROWTH))
        super().__init__(bits)


class Counters(wiring.Component):
    """Bank of 64-bit event counters, one for each name in `registers.COUNTERS`.

    An increment shows in `values` `PIPELINE_CYCLES` cycles later. `clear` zeroes every counter but
    `errors`; increments of the same cycle already count for the new run.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    increments : In(IncrementLayout(config))
    clear : In(1)
    values : Out(CounterLayout())
    """

    PIPELINE_CYCLES = 2

    increments: data.View
    clear: Signal
    values: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "increments": In(IncrementLayout(config)),
                "clear": In(1),
                "values": Out(CounterLayout()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        staged = Signal(IncrementLayout(self._config))
        m.d.sync += staged.eq(self.increments)
        for name in COUNTERS:
            value = self.values[name]
            following = value + staged[name]
            if name in SINCE_POWER_UP:
                m.d.sync += value.eq(following)
            else:
                m.d.sync += value.eq(Mux(self.clear, 0, following))
        return m


class Watchdog(wiring.Component):
    """Detector of a run that makes no progress.

    `expired` is high for one cycle, after `limit` consecutive cycles with `enable` and without
    `progress`; then counting starts anew. A limit of 0 never expires.

    Members
    -------
    enable : In(1)
        A run is in progress.
    progress : In(1)
        Something moved in this cycle.
    limit : In(32)
    expired : Out(1)
    """

    enable: Signal
    progress: Signal
    limit: Signal
    expired: Signal

    def __init__(self) -> None:
        super().__init__({"enable": In(1), "progress": In(1), "limit": In(32), "expired": Out(1)})

    def elaborate(self, platform):
        m = Module()
        waited = Signal(32)
        reached = waited + 1 >= self.limit
        m.d.sync += self.expired.eq(0)
        with m.If(~self.enable | self.progress | (self.limit == 0)):
            m.d.sync += waited.eq(0)
        with m.Elif(reached):
            m.d.sync += [waited.eq(0), self.expired.eq(1)]
        with m.Else():
            m.d.sync += waited.eq(waited + 1)
        return m
