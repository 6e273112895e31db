from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS, SIMULATION_CONFIGS
from skipstone_hw.packer import Packer
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_packer.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", SIMULATION_CONFIGS)
def test_packer(name):
    config = CONFIGS[name]
    run_bench(Packer(config=config), test_module=BENCH, config=config)
