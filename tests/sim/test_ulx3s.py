"""The ULX3S' whole top level, from a cold start, over its serial line."""

import pytest

from skipstone_sim.benchmarks.ulx3s import golden_tokens, run
from skipstone_sim.ecp5 import cell_models

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

TOKENS = 8


def test_the_board_generates_goldens_tokens():
    rows = {row.figure: row for row in run(TOKENS, with_netlist=False, progress=lambda line: None)}
    assert rows["ulx3s_identical_tokens"].value == TOKENS == len(golden_tokens(TOKENS))


def test_no_cell_model_is_a_black_box():
    models = cell_models()
    assert "blackbox" not in models
    for cell in ("LUT4", "CCU2C", "TRELLIS_FF", "TRELLIS_DPR16X4", "DP16KD", "MULT18X18D"):
        assert models.count(f"module {cell}") == 1, cell
