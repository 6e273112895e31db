"""Which unit lies in which super logic region of a large card.

HBM and its switch are at the edge of region 0, so what speaks to memory lies there, and the
multipliers with what feeds them in region 1. Reference: AMD UG1120, UG949 ("SSI technology").
"""

from __future__ import annotations

from collections.abc import Sequence

from skipstone.spec.boards import Board

__all__ = ["REGION_1", "floorplan_lines"]

REGION_1 = ("array", "linear", "attend", "activations")
"""Units of region 1; all others are in region 0."""


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
