from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.replay import ReplayList
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_replay.py")


@pytest.mark.cocotb
def test_replay():
    config = CONFIGS["sim-tiny"]
    run_bench(ReplayList(config=config, shape=16), test_module=BENCH, config=config)
