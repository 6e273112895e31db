from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.activations import Activations
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_activations.py")


@pytest.mark.cocotb
@pytest.mark.parametrize(
    "name", ["sim-tiny", "sim-small", pytest.param("sim-large", marks=pytest.mark.slow)]
)
def test_activations(name):
    config = CONFIGS[name]
    run_bench(Activations(config=config), test_module=BENCH, config=config)
