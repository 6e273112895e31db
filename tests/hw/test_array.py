"""The array under Verilator: every way to pack products, and every configuration."""

import dataclasses
from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.array import Array
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_array.py")
PACKINGS = [(1, "27x18"), (2, "27x18"), (3, "27x18"), (2, "18x18")]


@pytest.mark.cocotb
@pytest.mark.parametrize(("products", "dsp"), PACKINGS)
def test_packings(products, dsp):
    config = dataclasses.replace(CONFIGS["sim-tiny"], products_per_dsp=products, dsp=dsp)
    run_bench(Array(config=config), test_module=BENCH, config=config)


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-small", pytest.param("sim-large", marks=pytest.mark.slow)])
def test_array(name):
    config = CONFIGS[name]
    run_bench(Array(config=config), test_module=BENCH, config=config)
