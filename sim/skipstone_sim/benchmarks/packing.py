"""What packed products cost: LUTs, FFs and DSP blocks for each, as Yosys maps a group of columns.

One lane of 16 rows; everything that the array has per product: operand registers, multipliers,
repair, adders. Yosys puts neither registers nor adders into DSP blocks of UltraScale+, so what a
DSP's own cascade would add up is counted in LUTs: vendors' tools take fewer.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from skipstone.cache import cached, content_key
from skipstone.spec.packing import Packing
from skipstone_hw.emit import emit_component
from skipstone_hw.fpga.tools import run_yosys
from skipstone_hw.packing import ColumnGroup

from .rows import Row

__all__ = ["FAMILIES", "SUBJECTS", "run", "synthesize"]

ROWS = 16
FAMILIES = {"27x18": "xcup", "25x18": "xc7", "18x18": "ecp5"}
"""Yosys' name of a device family with this multiplier."""
SUBJECTS = tuple(
    Packing(products, dsp)
    for dsp in FAMILIES
    for products in (1, 2, 3)
    if Packing(products, dsp).holds(ROWS // 2)
)

_SCRIPTS = {
    "xcup": "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top top",
    "xc7": "synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top top",
    "ecp5": "synth_ecp5 -top top",
}
_KINDS = {"lut": r"LUT\d|INV", "ff": r"FD[A-Z]+|TRELLIS_FF", "dsp": r"DSP48E[12]|MULT18X18D"}
_CARRY_LUTS = {"CCU2C": 2}
"""LUTs that are part of a carry cell."""


def synthesize(verilog: str, family: str) -> dict[str, int]:
    """Cells by resource of module ``top`` on a device family. Raises ToolError."""

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "top.v").write_text(verilog)
            script = f"read_verilog top.v; {_SCRIPTS[family]}; tee -o stat.json stat -json"
            run_yosys(script, Path(scratch))
            (folder / "stat.json").write_text((Path(scratch) / "stat.json").read_text())

    path = cached("packing", content_key(verilog, family, _SCRIPTS[family]), build) / "stat.json"
    cells = json.loads(path.read_text())["design"]["num_cells_by_type"]
    found = {
        kind: sum(n for cell, n in cells.items() if re.fullmatch(pattern, cell))
        for kind, pattern in _KINDS.items()
    }
    found["lut"] += sum(luts * cells.get(cell, 0) for cell, luts in _CARRY_LUTS.items())
    return found


def run(
    subjects: Sequence[Packing] = SUBJECTS, progress: Callable[[str], None] | None = None
) -> list[Row]:
    """Rows of each packing on the device family that has its multiplier."""
    out = []
    for packing in subjects:
        family = FAMILIES[packing.dsp]
        name = f"{packing.products} in {packing.dsp} ({family})"
        if progress is not None:
            progress(f"synthesizing {name}")
        group = ColumnGroup(columns=packing.products, rows=ROWS, lanes=1, packing=packing)
        cells = synthesize(emit_component(group), family)
        products = packing.products * ROWS
        out += [
            Row(
                figure=f"packing_{kind}_per_product", value=cells[kind] / products, unit=unit,
                kind="synthesis", subject=name,
            )
            for kind, unit in (("lut", "LUTs"), ("ff", "FFs"), ("dsp", "DSPs"))
        ]  # fmt: skip
    return out
