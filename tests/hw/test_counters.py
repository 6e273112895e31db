"""Counters and watchdog under Verilator."""

from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS, SIMULATION_CONFIGS
from skipstone_hw.counters import Counters, Watchdog
from skipstone_sim.bench import run_bench

HERE = Path(__file__).parent


@pytest.mark.cocotb
@pytest.mark.parametrize("name", SIMULATION_CONFIGS)
def test_counters(name):
    config = CONFIGS[name]
    run_bench(Counters(config=config), test_module=HERE / "bench_counters.py", config=config)


@pytest.mark.cocotb
def test_watchdog():
    run_bench(Watchdog(), test_module=HERE / "bench_watchdog.py")
