"""The writer under Verilator, for every configuration."""

from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS, SIMULATION_CONFIGS
from skipstone_hw.memory.writer import Writer
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_writer.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", SIMULATION_CONFIGS)
def test_writer(name):
    config = CONFIGS[name]
    run_bench(Writer(config=config), test_module=BENCH, config=config)
