from pathlib import Path

import pytest
from whole_words import WholeWords

from skipstone.spec.config import CONFIGS
from skipstone_hw.embed import Embed
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_embed.py")


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small", "sim-large"])
def test_embed(name):
    config = CONFIGS[name]
    unit = WholeWords(Embed(config=config), name="words", config=config)
    run_bench(unit, test_module=BENCH, config=config)
