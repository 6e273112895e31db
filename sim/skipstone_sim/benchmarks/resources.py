"""What each board's core takes of its device, from synthesis by unit, and its logic levels.

For AMD's devices nothing here is a clock frequency: that needs placing and routing, which only the
vendor's tools do. Bitstreams that open tools made, and the runs of synthesized netlists, take long;
their figures are read from where they are kept, in ``bitstreams/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from skipstone.spec.boards import LIMITS, MAX_LEVELS, RESOURCES, Board, named_board
from skipstone_hw.fpga.board import report_board
from skipstone_hw.fpga.report import Report

from .rows import Row

__all__ = ["bitstream_rows", "netlist_rows", "rows", "run"]

Progress = Callable[[str, int, int], None]

BITSTREAMS = Path(__file__).parents[3] / "bitstreams"
NETLISTS = "netlists"
"""Folder in `BITSTREAMS` of what ``bench ulx3s`` and ``bench netlist`` wrote with ``--json``."""


def rows(report: Report, board: Board) -> list[Row]:
    """The figures of one board."""
    subject = f"{report.core} on {report.device}"
    name = board.name.replace("-", "_")
    shares = [
        Row(
            figure=f"{name}_{r}_share", value=100 * report.share[r], unit="%", kind="synthesis",
            subject=subject, aim=f"≤ {100 * LIMITS[r]:g}",
        )
        for r in RESOURCES
        if r in report.share
    ]  # fmt: skip
    units = [
        Row(
            figure=f"{name}_{unit.name}_lut", value=unit.uses.get("lut", 0), unit="LUT",
            kind="synthesis", subject=subject,
        )
        for unit in report.units
    ]  # fmt: skip
    return [
        *shares,
        Row(
            figure=f"{name}_logic_levels", value=report.levels, unit="levels", kind="synthesis",
            subject=report.path, aim=f"≤ {MAX_LEVELS}",
        ),
        Row(
            figure=f"{name}_synthesis_time", value=round(report.seconds), unit="s",
            kind="synthesis", subject=f"{report.tool}, all units, one after another",
        ),
        *units,
    ]  # fmt: skip


def bitstream_rows(folder: Path) -> list[Row]:
    """The figures of a bitstream that is kept in `folder`; none if there is no bitstream."""
    if not (folder / "manifest.json").is_file():
        return []
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    name, clock, bit = manifest["board"], report["clock"], manifest["bitstream"]
    subject = f"{manifest['device']}, {manifest['versions']['nextpnr-ecp5']}"
    figures = [
        ("fmax", clock["achieved_mhz"], "MHz", f"≥ {clock['constraint_mhz']:g}", subject),
        ("bytes", bit["bytes"], "bytes", "", f"sha256 {bit['sha256']}"),
        ("identical_builds", report["identical_builds"], "builds", "≥ 2", subject),
        *(
            (f"{kind}_share", 100 * use["used"] / use["available"], "%", "", subject)
            for kind, use in report["device"].items()
        ),
    ]
    return [
        Row(
            figure=f"{name}_bitstream_{figure}", value=value, unit=unit, kind="synthesis",
            subject=on, aim=aim,
        )
        for figure, value, unit, aim, on in figures
    ]  # fmt: skip


def netlist_rows(folder: Path) -> list[Row]:
    """The rows that benches of netlists have written to `folder`."""
    return [
        Row(**row)
        for path in sorted(folder.glob("*.json"))
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
        if row["kind"] == "synthesis"
    ]


def run(boards: Iterable[str], jobs: int, progress: Progress) -> list[Row]:
    """Rows of several boards, and of what is kept of bitstreams and netlists."""
    measured = []
    for name in boards:
        board = named_board(name)
        report = report_board(board, jobs=jobs, progress=progress)
        measured += rows(report, board)
        measured += bitstream_rows(BITSTREAMS / name)
    return [*measured, *netlist_rows(BITSTREAMS / NETLISTS)]
