# amaranth: UnusedElaboratable=no
"""Units as the cells that synthesis maps them to, in the benches that test their gateware."""

from pathlib import Path

import pytest

from skipstone.spec.boards import Family
from skipstone.spec.config import CONFIGS
from skipstone_hw.embed import Embed
from skipstone_hw.emit import emit_component
from skipstone_hw.epilogue import Epilogue
from skipstone_hw.fpga.netlist import core_netlist
from skipstone_hw.kv_index import KvIndex
from skipstone_hw.packer import Packer
from skipstone_sim import ecp5, xilinx
from skipstone_sim.bench import run_bench

CONFIG = CONFIGS["sim-tiny"]
MODELS = {Family.ULTRASCALE_PLUS: xilinx.cell_models, Family.ECP5: ecp5.cell_models}
BENCHES = Path(__file__).parents[1]


@pytest.mark.cocotb
@pytest.mark.parametrize(
    "family",
    [Family.ULTRASCALE_PLUS, pytest.param(Family.ECP5, marks=pytest.mark.slow)],
    ids=lambda family: family.name,
)
@pytest.mark.parametrize(
    ("unit", "bench"),
    [
        (Packer, "bench_packer.py"),
        *(
            pytest.param(unit, bench, marks=pytest.mark.slow)
            for unit, bench in (
                (Embed, "bench_embed.py"),
                (Epilogue, "bench_epilogue.py"),
                (KvIndex, "bench_kv_index.py"),
            )
        ),
    ],
)
def test_a_unit_made_of_cells_passes_its_bench(unit, bench, family):
    source = emit_component(unit(config=CONFIG), port_names=lambda path: "__".join(map(str, path)))
    netlist = (core_netlist(source, top="top", family=family) / "netlist.v").read_text()
    text = f"{MODELS[family]()}\n{netlist}"
    run_bench(text, test_module=BENCHES / bench, config=CONFIG)
