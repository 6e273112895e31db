"""Runs the benches of the epilogue for every core configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.epilogue import Epilogue
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_epilogue.py")


@pytest.mark.cocotb
@pytest.mark.parametrize(
    "name", ["sim-tiny", "sim-small", pytest.param("sim-large", marks=pytest.mark.slow)]
)
def test_epilogue(name):
    config = CONFIGS[name]
    run_bench(Epilogue(config=config), test_module=BENCH, config=config)
