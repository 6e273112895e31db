from pathlib import Path

import pytest
from whole_words import WholeWords

from skipstone.spec.config import CONFIGS
from skipstone_hw.reductions import Reductions
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_reductions.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small", "sim-large"])
def test_reductions(name):
    config = CONFIGS[name]
    unit = WholeWords(Reductions(config=config), name="load", config=config)
    run_bench(unit, test_module=BENCH, config=config)
