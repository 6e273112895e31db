"""Tcl that holds each unit of a large card in its super logic region (`skipstone_hw.regions`).

Reference: AMD UG1120, UG949 ("SSI technology").
"""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.spec.boards import Board

from ..regions import REGION_1

__all__ = ["floorplan_lines"]


def floorplan_lines(board: Board) -> Sequence[str]:
    """Tcl to be run before placing: one pblock for each region."""
    lines = [
        "# Units by super logic region. The leading part of a cell's name is the shell's.",
        "create_pblock skipstone_slr0",
        "resize_pblock skipstone_slr0 -add SLR0",
        "create_pblock skipstone_slr1",
        "resize_pblock skipstone_slr1 -add SLR1",
        "set core [get_cells -hierarchical -filter {REF_NAME == skipstone_core}]",
        f"set array [list {' '.join(REGION_1)}]",
        'foreach cell [get_cells -hierarchical -filter "PARENT == $core && IS_PRIMITIVE == 0"] {',
        "    set unit [regsub {\\$\\d+$} [file tail $cell] {}]",
        "    set region [expr {$unit in $array ? {skipstone_slr1} : {skipstone_slr0}}]",
        "    add_cells_to_pblock [get_pblocks $region] $cell",
        "}",
    ]
    return lines
