"""The logits writer under Verilator, for every configuration."""

from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.logits import LogitsWriter
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_logits.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small", "sim-large"])
def test_logits(name):
    config = CONFIGS[name]
    run_bench(LogitsWriter(config=config), test_module=BENCH, config=config)
