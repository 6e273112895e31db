from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.attention import Probabilities
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_probabilities.py")


@pytest.mark.cocotb
@pytest.mark.parametrize(("name", "lanes"), [("sim-tiny", 1), ("sim-small", 2)])
def test_probabilities(name, lanes):
    config = CONFIGS[name]
    run_bench(
        Probabilities(config=config, lanes=lanes),
        test_module=BENCH,
        config=config,
        parameters={"lanes": lanes},
    )
