from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.report import Report
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_report.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small", "sim-large"])
def test_report(name):
    config = CONFIGS[name]
    run_bench(Report(config=config), test_module=BENCH, config=config)
