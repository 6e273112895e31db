from pathlib import Path

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_hw.attention import Scores
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_scores.py")


@pytest.mark.cocotb
@pytest.mark.parametrize(("name", "lanes"), [("sim-tiny", 1), ("sim-small", 2)])
def test_scores(name, lanes):
    config = CONFIGS[name]
    run_bench(
        Scores(config=config, lanes=lanes),
        test_module=BENCH,
        config=config,
        parameters={"lanes": lanes},
    )
