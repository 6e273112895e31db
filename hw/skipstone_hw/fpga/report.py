"""What a build takes of its device, by unit: as JSON, as a table, as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from skipstone.cli.console import make_table
from skipstone.spec.boards import LIMITS, RESOURCES, Board
from skipstone.spec.errors import ConfigError

from .hierarchy import Unit
from .synthesis import UnitResult

__all__ = ["Report", "UnitRow", "make_report", "picture", "require_fit", "table", "write_json"]


@dataclass(frozen=True)
class UnitRow:
    """A unit, with everything placed in it.

    Attributes
    ----------
    name
    uses
        By resource; LUTs with the carry chain's own on devices where a chain takes LUTs.
    memories
        Block and LUT memories by kind of primitive.
    levels
        Logic levels of the longest path between two of its registers, 0 if there is none.
    path
        That path.
    entering_levels, entering_path
        The same of paths that begin in another unit.
    """

    name: str
    uses: Mapping[str, float]
    memories: Mapping[str, int]
    levels: int
    path: str
    entering_levels: int
    entering_path: str


@dataclass(frozen=True)
class Report:
    """A build's resources.

    Attributes
    ----------
    board, core, device
    tool
        Which synthesis.
    units
        By falling LUTs.
    total
        By resource.
    share
        Of the board's budget, by resource.
    levels
        The most logic levels between two registers anywhere, with the path.
    seconds
        Time of synthesis, summed over the units, had none been known before.
    """

    board: str
    core: str
    device: str
    tool: str
    units: tuple[UnitRow, ...]
    total: Mapping[str, float]
    share: Mapping[str, float]
    levels: int
    path: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON values only; no times, so equal sources give equal files."""
        document = asdict(self)
        del document["seconds"]
        return document


_MEMORY = ("RAM", "URAM", "SRL", "DP16", "PDPW", "TRELLIS_DPR")


def _total(unit: Unit, results: Mapping[str, UnitResult], what: str) -> dict[str, float]:
    """Resources ("uses") or cells ("cells") of a unit and of what is placed in it."""
    own = getattr(results[unit.name], what)
    total = dict(own)
    for kind, (child, _) in unit.children.items():
        count = results[unit.name].placed.get(kind, 0)
        for name, value in _total(child, results, what).items():
            total[name] = total.get(name, 0) + count * value
    return dict(sorted(total.items()))


def make_report(board: Board, top: Unit, results: Mapping[str, UnitResult], tool: str) -> Report:
    """The report of a synthesis."""
    glue = results[top.name].timing
    rows = []
    for unit in [*(child for child, _ in top.children.values()), top]:
        own = unit is top  # then without the units
        uses = results[unit.name].uses if own else _total(unit, results, "uses")
        cells = results[unit.name].cells if own else _total(unit, results, "cells")
        inner = glue.entering.get("") if own else results[unit.name].timing.inner
        entering = None if own else glue.entering.get(unit.name)
        rows.append(
            UnitRow(
                name=unit.name,
                uses=uses,
                memories={k: int(n) for k, n in cells.items() if k.startswith(_MEMORY)},
                levels=inner.levels if inner else 0,
                path=f"{inner.start} → {inner.end}" if inner else "",
                entering_levels=entering.levels if entering else 0,
                entering_path=f"{entering.start} → {entering.end}" if entering else "",
            )
        )
    rows.sort(key=lambda r: (-r.uses.get("lut", 0), r.name))
    total = {r: sum(row.uses.get(r, 0) for row in rows) for r in (*RESOURCES, "carry", "lutram")}
    share = {r: total[r] / board.budget[r] for r in RESOURCES if board.budget[r]}
    return Report(
        board=board.name,
        core=board.config.name,
        device=board.part,
        tool=tool,
        units=tuple(rows),
        total=total,
        share={r: round(s, 5) for r, s in share.items()},
        levels=glue.inner.levels if glue.inner else 0,
        path=f"{glue.inner.start} → {glue.inner.end}" if glue.inner else "",
        seconds=sum(r.seconds for r in results.values()),
    )


def require_fit(report: Report, board: Board) -> None:
    """Raises ConfigError, with every resource that exceeds `LIMITS`, if the core does not fit."""
    over = [
        f"{r} {report.total[r]:,.6g} of {board.budget[r]:,}, at most {limit * board.budget[r]:,.0f}"
        for r, limit in LIMITS.items()
        if report.total[r] > limit * board.budget[r]
    ]
    if over:
        raise ConfigError(
            f"core {report.core!r} does not fit board {board.name!r}: {'; '.join(over)}"
        )


def table(report: Report, board: Board) -> Table:
    """The report for a terminal."""
    shown = make_table(
        "unit", "LUT", "as memory", "FF", "carry", "DSP", "BRAM", "URAM", "levels", "entering",
        title=f"{board.name} ({board.part})", right=tuple(range(1, 10)),
    )  # fmt: skip
    columns = ("lut", "lutram", "ff", "carry", "dsp", "bram", "uram")

    def numbers(uses: Mapping[str, float]) -> list[str]:
        return [f"{uses.get(c, 0):,g}" if uses.get(c) else "" for c in columns]

    for row in report.units:
        levels = [str(n or "") for n in (row.levels, row.entering_levels)]
        shown.add_row(row.name, *numbers(row.uses), *levels)
    shown.add_section()
    shown.add_row("all", *(f"{report.total[c]:,g}" for c in columns), str(report.levels), "")
    shown.add_row("budget", *(f"{board.budget[c]:,}" if c in board.budget else "" for c in columns))
    shown.add_row(
        "share", *(f"{report.share[c]:.1%}" if c in report.share else "" for c in columns)
    )
    return shown


def picture(report: Report, board: Board, path: Path) -> None:
    """A PNG: share of each resource, stacked by unit, against what a build may take."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    resources = [r for r in RESOURCES if board.budget[r]]
    left = [0.0] * len(resources)
    shown = [
        row
        for row in report.units
        if any(row.uses.get(r, 0) > 0.01 * report.total[r] for r in resources if report.total[r])
    ]
    others = [row for row in report.units if row not in shown]
    colors = _colors(len(shown) + 1)
    for color, (name, rows) in zip(
        colors, [(r.name, [r]) for r in shown] + [("others", others)], strict=True
    ):
        width = [100 * sum(row.uses.get(r, 0) for row in rows) / board.budget[r] for r in resources]
        axes.barh([r.upper() for r in resources], width, left=left, label=name, color=color)
        left = [a + b for a, b in zip(left, width, strict=True)]
    for n, r in enumerate(resources):
        axes.plot([100 * LIMITS[r]] * 2, [n - 0.45, n + 0.45], color="black", linewidth=1.5)
    axes.set_xlim(0, max(100.0, *(1.05 * end for end in left)))
    axes.invert_yaxis()
    axes.set_xlabel("% of the device; a black bar marks what a build may take")
    axes.set_title(f"{board.name} ({board.part}), by {report.tool}", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    tab = colormaps["tab20"]
    return [tab(i % 20) for i in range(count)]


def write_json(report: Report, path: Path) -> None:
    """The report as a file."""
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
