"""The control protocol, on registers that only remember."""

import pytest

from skipstone.board.protocol import CoreProtocol
from skipstone.spec.registers import (
    BY_NAME,
    COUNTER_GROWTH,
    COUNTERS,
    SINCE_POWER_UP,
    counter_offset,
)

SHORT = (1 << 32) // COUNTER_GROWTH - 1
"""Cycles after which no counter can have passed 32 bits."""


class Registers:
    """Values by offset; `accesses` in order."""

    def __init__(self, **counters):
        self.values, self.accesses = {}, []
        for name, value in counters.items():
            at = counter_offset(name)
            self.values |= {at: value & 0xFFFFFFFF, at + 4: value >> 32}
        self.protocol = CoreProtocol(self.read, self.write)

    def read(self, offset):
        self.accesses.append(("read", offset))
        return self.values.get(offset, 0)

    def write(self, offset, value):
        self.accesses.append(("write", offset))
        self.values[offset] = value


@pytest.mark.parametrize("cycles", [0, 1, SHORT, SHORT + 1, (1 << 40) + 5])
def test_counters_of_any_length(cycles):
    """Right values; and after a short run, half of the reads."""
    most = {name: min(COUNTER_GROWTH * cycles, (1 << 64) - 1) for name in COUNTERS[1:]}
    expected = {"cycles": cycles} | most | dict.fromkeys(SINCE_POWER_UP, (7 << 32) + 9)
    found = Registers(**expected)
    assert found.protocol.counters() == expected
    halves = 1 if 0 < cycles <= SHORT else 2
    in_full = 1 + len(SINCE_POWER_UP)
    assert len(found.accesses) == halves * (len(COUNTERS) - in_full) + 2 * in_full


@pytest.mark.parametrize("pending", [0, 1, 3])
def test_acknowledging_touches_only_what_is_pending(pending):
    """Writing ones toggles."""
    status = BY_NAME["IP_ISR"].offset
    found = Registers()
    found.values[status] = pending
    found.protocol.acknowledge()
    assert [a for a in found.accesses if a[0] == "write"] == [("write", status)] * (pending & 1)
