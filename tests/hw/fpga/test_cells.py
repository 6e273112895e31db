"""Netlists simulated with cell models do what their sources do."""

from pathlib import Path

import pytest

from skipstone.spec.boards import Family
from skipstone_hw.fpga.netlist import core_netlist
from skipstone_sim import ecp5, xilinx
from skipstone_sim.bench import run_bench

SOURCE = Path(__file__).with_name("cells.v")
BENCH = Path(__file__).with_name("bench_cells.py")
CELLS = {
    Family.ULTRASCALE_PLUS: {"CARRY4", "DSP48E2", "FDRE", "RAM32M16", "RAMB18E2", "RAMB36E2"},
    Family.ECP5: {"CCU2C", "DP16KD", "LUT4", "MULT18X18D", "TRELLIS_DPR16X4", "TRELLIS_FF"},
}


@pytest.mark.cocotb
@pytest.mark.parametrize("family", CELLS, ids=lambda family: family.name)
def test_a_netlist_does_what_its_source_does(family):
    source = SOURCE.read_text()
    netlist = (core_netlist(source, top="cells", family=family) / "netlist.v").read_text()
    assert not [cell for cell in CELLS[family] if f"\n  {cell} " not in netlist]
    models = ecp5.cell_models() if family is Family.ECP5 else xilinx.cell_models()
    netlist = netlist.replace("module cells(", "module cells_netlist(")
    run_bench("\n".join((models, netlist, source)), test_module=BENCH)


def test_no_model_of_a_cell_is_a_black_box():
    for family, models in ((Family.ECP5, ecp5), (Family.ULTRASCALE_PLUS, xilinx)):
        text = models.cell_models()
        for cell in CELLS[family]:
            start = text.index(f"module {cell}")
            assert text.count(f"module {cell} ") + text.count(f"module {cell}(") == 1, cell
            assert "blackbox" not in text[start - 30 : start], cell
