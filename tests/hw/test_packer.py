from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.packer import Packer
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_packer.py")


@pytest.mark.cocotb
@pytest.mark.parametrize(
    "name", ["sim-tiny", "sim-small", pytest.param("sim-large", marks=pytest.mark.slow)]
)
def test_packer(name):
    config = CONFIGS[name]
    run_bench(Packer(config=config), test_module=BENCH, config=config)
