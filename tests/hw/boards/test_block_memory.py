# amaranth: UnusedElaboratable=no
"""Block memory under Verilator: AXI4 bursts and the bridge's accesses beside each other."""

from pathlib import Path

import pytest

from skipstone_hw.boards.block_memory import BlockMemory
from skipstone_hw.boards.ecp5_memory import Ecp5Memory
from skipstone_hw.boards.uart import UartReceiver
from skipstone_hw.emit import emit_component
from skipstone_sim.bench import run_bench
from skipstone_sim.ecp5 import block_models

BENCH = Path(__file__).with_name("bench_block_memory.py")
INIT = bytes(range(1, 201)) * 15


@pytest.mark.cocotb
@pytest.mark.parametrize("words", [512, 1000, 8192])
def test_block_memory(words):
    component = BlockMemory(data_bits=64, words=words, init=INIT)
    text = emit_component(component, port_names=lambda path: "__".join(map(str, path)))
    run_bench(
        text + block_models(),
        test_module=BENCH,
        parameters={"words": words, "init": INIT.hex()},
    )


def test_too_much_content_is_refused():
    with pytest.raises(ValueError, match="init must have at most 8192 bytes, not 8193"):
        BlockMemory(data_bits=64, words=1024, init=bytes(8193))


def test_bits_shorter_than_four_cycles_are_refused():
    with pytest.raises(ValueError, match="divisor must be at least 4, not 3"):
        UartReceiver(divisor=3)


def test_what_blocks_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="words must be 1 to 16384, not 16385"):
        Ecp5Memory(data_bits=64, words=16385)
    with pytest.raises(ValueError, match="data_bits must be a multiple of 32, not 48"):
        Ecp5Memory(data_bits=48, words=512)
