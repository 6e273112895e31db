from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.core import Core
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_core.py")


@pytest.mark.cocotb
def test_core():
    config = CONFIGS["sim-tiny"]
    run_bench(Core(config=config), test_module=BENCH, config=config)
