"""Rows of the resource bench."""

import pytest

from skipstone.spec.boards import BOARDS, LIMITS, RESOURCES
from skipstone_hw.fpga.report import Report, UnitRow
from skipstone_sim.benchmarks.resources import rows


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda b: b.name)
def test_rows(board):
    unit = UnitRow("array", {"lut": 60.0}, {}, 4, "a → b", 7, "c → a")
    total = dict.fromkeys(RESOURCES, 10.0)
    share = {r: 0.25 for r in RESOURCES if board.budget[r]}
    report = Report(board.name, board.name, board.part, "yosys", (unit,), total, share, 7, "c", 99)
    found = {row.figure: row for row in rows(report, board)}
    name = board.name.replace("-", "_")
    assert found[f"{name}_lut_share"].value == 25
    assert found[f"{name}_lut_share"].aim == f"≤ {100 * LIMITS['lut']:g}"
    assert (f"{name}_uram_share" in found) == bool(board.budget["uram"])
    assert found[f"{name}_logic_levels"].value == 7
    assert found[f"{name}_array_lut"].value == 60
    assert {row.kind for row in found.values()} == {"synthesis"}
