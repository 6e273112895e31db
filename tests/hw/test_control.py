"""The control port under Verilator, for every configuration."""

from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS, SIMULATION_CONFIGS
from skipstone_hw.control import Control
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_control.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", SIMULATION_CONFIGS)
def test_control(name):
    config = CONFIGS[name]
    run_bench(Control(config=config), test_module=BENCH, config=config)
