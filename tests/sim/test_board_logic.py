"""The two things that can stand in a simulated board's FPGA look the same from outside."""

import numpy as np
import pytest

from skipstone.build import build_image
from skipstone.spec.config import CONFIGS
from skipstone.spec.registers import (
    BY_NAME,
    PORT_BASE,
    REGISTER_SPACE_BYTES,
    REGISTERS,
    Control,
    counter_offset,
)
from skipstone_sim.board_logic import open_logic

pytestmark = pytest.mark.rtl

CONFIG = CONFIGS["sim-tiny"]
BASE = 1 << 20
CTRL, GIER, IER, ISR = (BY_NAME[n].offset for n in ("CTRL", "GIER", "IP_IER", "IP_ISR"))


@pytest.fixture(params=["golden", "rtl"])
def core(request):
    """A logic with the nano model's image in its memory."""
    image = build_image("nano", CONFIG)
    memory = np.zeros(2 << 20, np.uint8)
    for section in image.sections.values():
        at = BASE + section.address * CONFIG.word_bytes
        memory[at : at + section.data.size] = section.data
    logic = open_logic(request.param, CONFIG, memory)
    yield logic
    logic.close()


def put(core, name, value):
    core.write(BY_NAME[name].offset, value)


def get(core, name):
    return core.read(BY_NAME[name].offset)


def prepare(core, **values):
    """The parameters of a run of one token."""
    image = build_image("nano", CONFIG)
    for name, value in {
        "PROGRAM_LENGTH": image.model["program_length"],
        "CHUNK_TOKENS": 1,
        "MEMORY_WORDS": image.words,
        "WATCHDOG_CYCLES": 100_000,
        **values,
    }.items():
        put(core, name, value)
    core.write(PORT_BASE, BASE)


def finish(core):
    for _ in range(1000):
        if not core.busy:
            return
        core.advance()
    raise AssertionError("the run does not end")


def test_registers(core):
    """What is written can be read, where that is so; holes and constants ignore writes."""
    writable = {
        r.offset
        for r in REGISTERS
        if r.access == "rw"
        and r.name not in ("CTRL", "GIER", "IP_IER", "IP_ISR")
        and not (r.offset >= PORT_BASE + 8 * CONFIG.ports and r.name.startswith("PORT_BASE"))
    }
    before = {offset: core.read(offset) for offset in range(4, REGISTER_SPACE_BYTES, 4)}
    for offset in range(0x10, REGISTER_SPACE_BYTES, 4):
        core.write(offset, 0x1234_0000 + offset)
    for offset in range(0x10, REGISTER_SPACE_BYTES, 4):
        expected = 0x1234_0000 + offset if offset in writable else before[offset]
        assert core.read(offset) == expected, hex(offset)
    assert not core.busy


def test_a_run(core):
    prepare(core)
    core.write(IER, 1)
    assert Control(core.read(CTRL)) == Control.IDLE
    core.write(CTRL, Control.START)
    assert core.busy
    finish(core)
    assert not core.interrupt, "GIER is off"
    core.write(GIER, 1)
    assert core.interrupt
    assert core.read(ISR) == 1
    assert Control(core.read(CTRL)) == Control.DONE | Control.IDLE | Control.READY
    assert Control(core.read(CTRL)) == Control.IDLE, "cleared on read"
    core.write(ISR, 1)
    assert not core.interrupt
    core.write(ISR, 1)
    assert core.interrupt, "writing 1 toggles"
    assert (get(core, "ERROR_CODE"), get(core, "TOKENS_DONE")) == (0, 1)
    assert core.read(counter_offset("instructions")) == get(core, "PROGRAM_LENGTH")


def test_an_error(core):
    prepare(core, MEMORY_WORDS=10)
    core.write(IER, 1)
    core.write(GIER, 1)
    core.write(CTRL, Control.START)
    finish(core)
    assert core.interrupt
    assert get(core, "ERROR_CODE") == 2
    assert get(core, "TOKENS_DONE") == 0
    assert core.read(counter_offset("errors")) == 1


def test_a_reset_breaks_a_run_off(core):
    prepare(core, CHUNK_TOKENS=8)
    core.write(IER, 3)
    core.write(GIER, 1)
    core.write(CTRL, Control.START)
    core.write(CTRL, Control.RESET)
    for _ in range(1000):
        if Control.IDLE in Control(core.read(CTRL)):
            break
        core.advance()
    assert Control(core.read(CTRL)) == Control.IDLE
    assert not core.interrupt
    assert not core.busy
    core.write(CTRL, Control.START)
    finish(core)
    assert core.read(ISR) == 3
    assert get(core, "TOKENS_DONE") == 8


def test_unknown_logic():
    with pytest.raises(ValueError, match="must be 'rtl' or 'golden', not 'fpga'"):
        open_logic("fpga", CONFIG, np.zeros(64, np.uint8))
