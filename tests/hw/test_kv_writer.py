from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.kv_writer import KvWriter
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_kv_writer.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small", "sim-large"])
def test_kv_writer(name):
    config = CONFIGS[name]
    run_bench(KvWriter(config=config), test_module=BENCH, config=config)
