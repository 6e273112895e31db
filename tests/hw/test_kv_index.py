import dataclasses
from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import ConfigError
from skipstone_hw.kv_index import KvIndex
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_kv_index.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small"])
def test_kv_index(name):
    config = CONFIGS[name]
    run_bench(KvIndex(config=config), test_module=BENCH, config=config)


@pytest.mark.cocotb
def test_without_history():
    config = dataclasses.replace(CONFIGS["sim-tiny"], history_words=0)
    run_bench(KvIndex(config=config), test_module=BENCH, config=config)


def test_history_is_a_power_of_two():
    with pytest.raises(ConfigError, match="history_words must be 0 or a power of two, not 24"):
        dataclasses.replace(CONFIGS["sim-tiny"], history_words=24)
