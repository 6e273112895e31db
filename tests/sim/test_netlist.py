"""The whole core as UltraScale+ cells, driven as the gateware is."""

import pytest

from skipstone_sim.benchmarks.netlist import run

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

TOKENS = 2


def test_the_netlist_generates_goldens_tokens():
    rows = {row.figure: row for row in run("sim-tiny", TOKENS, progress=lambda line: None)}
    assert rows["netlist_identical_tokens"].value == TOKENS
