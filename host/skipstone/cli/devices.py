"""``skipstone devices``: what an image can run on."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec

from ..spec.config import CONFIGS
from .console import make_table, output

__all__ = ["devices"]


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def devices() -> None:
    """List the installed devices and the known core configurations."""
    console = output()
    table = make_table("device", "provided by", "")
    for entry in sorted(entry_points(group="skipstone.devices")):
        table.add_row(entry.name, entry.value, "" if _found(entry.module) else "missing")
    console.print(table)
    console.print()
    cores = make_table("core", "array", "lanes", "ports", "context", "clock", "hash",
                       right=(2, 3, 4, 5))  # fmt: skip
    for c in CONFIGS.values():
        cores.add_row(
            c.name,
            f"{c.rows} × {c.columns}",
            str(c.lanes),
            f"{c.ports} × {c.port_bits} b",
            str(c.max_context),
            f"{c.clock_mhz:g} MHz",
            f"{c.hash64:016x}",
        )
    console.print(cores)
