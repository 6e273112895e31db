"""What units took when they were last accepted, and what has grown since.

A baseline is a JSON file of resources by unit, made by the same synthesis. Rewrite it, with
``--accept``, in the change that means to cost more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skipstone.spec.boards import RESOURCES
from skipstone.spec.errors import RequestError

from .report import Report, UnitRow

__all__ = ["TOLERANCE", "baseline_document", "growth", "load_baseline"]

TOLERANCE = 0.02
"""Growth of a resource of a unit that is not worth a word."""

_SLACK = {"lut": 4, "ff": 4}
"""Nor is growth by so few: names alone move the mapper by as much."""


def baseline_document(tool: str, core: str, rows: Iterable[UnitRow]) -> dict[str, Any]:
    """What to store."""
    return {
        "tool": tool,
        "core": core,
        "units": {
            row.name: {
                **{r: row.uses[r] for r in RESOURCES if row.uses.get(r)},
                "levels": row.levels,
                "entering": row.entering_levels,
            }
            for row in sorted(rows, key=lambda row: row.name)
        },
    }


def load_baseline(path: Path) -> dict[str, Any]:
    """A stored baseline. Raises RequestError if there is none."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} must be a baseline: {error}") from None
    return document


def growth(baseline: Mapping[str, Any], rows: Iterable[UnitRow]) -> list[str]:
    """A line for each resource of a unit that grew by more than `TOLERANCE`, or got deeper.

    Units that the baseline does not know are reported too.
    """
    found = []
    for row in rows:
        known = baseline["units"].get(row.name)
        if known is None:
            found.append(f"{row.name}: not in the baseline")
            continue
        for r in RESOURCES:
            was, now = known.get(r, 0), row.uses.get(r, 0)
            if now > was * (1 + TOLERANCE) + _SLACK.get(r, 0):
                found.append(f"{row.name}: {r} was {was:g}, is {now:g}")
        for name, was, now, path in (
            ("levels", known["levels"], row.levels, row.path),
            ("entering levels", known["entering"], row.entering_levels, row.entering_path),
        ):
            if now > was:
                found.append(f"{row.name}: {name} were {was}, are {now} ({path})")
    return found


def compare(path: Path, report: Report) -> list[str]:
    """`growth` of a report against a file."""
    return growth(load_baseline(path), report.units)
