from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.embed import Repass
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_repass.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small"])
def test_repass(name):
    config = CONFIGS[name]
    run_bench(Repass(config=config), test_module=BENCH, config=config)
