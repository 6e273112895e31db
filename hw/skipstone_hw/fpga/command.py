"""``skipstone build``: a board's core as Verilog, its resources, and the vendor's flow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from skipstone.cli.console import Narrator, output, stderr_console
from skipstone.spec.boards import BOARDS, MAX_LEVELS, named_board
from skipstone.spec.errors import ConfigError

from .baseline import baseline_document, compare
from .board import build_board
from .report import table
from .tools import YOSYS

__all__ = ["build_command"]

BASELINES = Path(__file__).parents[3] / "bitstreams"


def build_command(
    board: Annotated[
        str, typer.Option("--board", "-b", help=f"{', '.join(BOARDS)}.", metavar="NAME")
    ],
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; build/NAME by default.")
    ] = None,
    emit_only: Annotated[
        bool, typer.Option("--emit-only", help="No synthesis: Verilog, manifest, vendor's files.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Fail if a unit has grown since the stored baseline.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Store this build's resources as the baseline.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Units synthesized at the same time.")] = min(
        4, os.cpu_count() or 1
    ),
) -> None:
    """Build a board's core: Verilog, resources by unit, files for the vendor's tools."""
    chosen = named_board(board)
    if emit_only and (check or accept):
        raise typer.BadParameter("--check and --accept need synthesis")
    if not emit_only:
        YOSYS.command()
    folder = output_path or Path("build") / chosen.name
    with Narrator() as narrator:
        report = build_board(
            chosen, folder, synthesis=not emit_only, jobs=jobs, progress=narrator.step
        )
    console = output()
    if report is not None:
        console.print(table(report, chosen))
        aim = "" if report.levels <= MAX_LEVELS else f" (should be at most {MAX_LEVELS})"
        console.print(f"longest path: {report.levels} levels{aim}, {report.path}")
        baseline = BASELINES / chosen.name / "baseline.json"
        if accept:
            baseline.parent.mkdir(parents=True, exist_ok=True)
            document = baseline_document(report.tool, report.core, report.units)
            baseline.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        if check and (grown := compare(baseline, report)):
            for line in grown:
                stderr_console().print(line)
            raise ConfigError(f"{len(grown)} figures are above {baseline}")
    console.print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
