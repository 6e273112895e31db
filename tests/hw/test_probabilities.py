from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.attention import Probabilities
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_probabilities.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small"])
def test_probabilities(name):
    config = CONFIGS[name]
    run_bench(Probabilities(config=config), test_module=BENCH, config=config)
