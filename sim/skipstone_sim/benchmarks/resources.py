"""What each board's core takes of its device, from synthesis by unit, and its logic levels.

Nothing here is a clock frequency: that needs placing and routing, which only the vendor's tools do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from skipstone.spec.boards import LIMITS, MAX_LEVELS, RESOURCES, Board, named_board
from skipstone_hw.fpga.board import report_board
from skipstone_hw.fpga.report import Report

from .rows import Row

__all__ = ["rows", "run"]

Progress = Callable[[str, int, int], None]


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


def run(boards: Iterable[str], jobs: int, progress: Progress) -> list[Row]:
    """Rows of several boards."""
    measured = []
    for name in boards:
        board = named_board(name)
        report = report_board(board, jobs=jobs, progress=progress)
        measured += rows(report, board)
    return measured
