"""Block memory under Verilator: AXI4 bursts and the bridge's accesses beside each other."""

from pathlib import Path

import pytest

from skipstone_hw.boards.block_memory import BlockMemory
from skipstone_hw.boards.uart import UartReceiver
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_block_memory.py")
WORDS = 96
INIT = bytes(range(200))


@pytest.mark.cocotb
def test_block_memory():
    run_bench(
        BlockMemory(data_bits=64, words=WORDS, init=INIT),
        test_module=BENCH,
        parameters={"words": WORDS, "init": INIT.hex()},
    )


def test_too_much_content_is_refused():
    with pytest.raises(ValueError, match="init must have at most 768 bytes, not 769"):
        BlockMemory(data_bits=64, words=WORDS, init=bytes(769))


def test_bits_shorter_than_four_cycles_are_refused():
    with pytest.raises(ValueError, match="divisor must be at least 4, not 3"):
        UartReceiver(divisor=3)
