"""What the devices share: the registers of a run, the bounds of memory."""

import pytest

from skipstone.devices import Run, first_byte
from skipstone.spec.registers import BY_NAME


def test_the_registers_of_a_run_are_those_of_the_map():
    run = Run(program_address=1, program_length=2, position=3, chunk_tokens=4, steps=5, mode=6)
    registers = run.registers(7, 8)
    first, last = BY_NAME["PROGRAM_ADDRESS"].offset, BY_NAME["WATCHDOG_CYCLES"].offset
    expected = [r.name for r in BY_NAME.values() if first <= r.offset <= last]
    assert list(registers) == expected
    assert list(registers.values()) == [1, 2, 3, 4, 5, 0xFFFFFFFF, 6, 7, 8]


@pytest.mark.parametrize(("address", "count"), [(0, 0), (0, 128), (3, 32), (4, 0)])
def test_bytes_inside_the_memory(address, count):
    assert first_byte(address, count, 32, 128) == 32 * address


@pytest.mark.parametrize(("address", "count"), [(0, 129), (3, 33), (5, 0), (-1, 1), (0, -1)])
def test_bytes_outside_the_memory(address, count):
    end = 32 * address + count
    message = f"bytes {32 * address} to {end} lie beyond the allocated 128"
    with pytest.raises(ValueError, match=message):
        first_byte(address, count, 32, 128)
