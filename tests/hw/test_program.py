from pathlib import Path

import pytest
from whole_words import WholeWords

from skipstone.spec.config import CONFIGS
from skipstone_hw.program import Program
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_program.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small", "sim-large"])
def test_program(name):
    config = CONFIGS[name]
    unit = WholeWords(Program(config=config), name="words", config=config)
    run_bench(unit, test_module=BENCH, config=config)
