"""Slices that stay empty, so that wires find their way through the middle of an LFE5U-85F.

nextpnr's placers draw a design together until its half-perimeter is shortest, and know nothing of
how many wires a tile has. With half of the device's LUTs in use the middle gets what all units
exchange (256-bit words) on top of logic that fills its tiles, and no router finds a solution.
Constant LUTs, bound to sites before placement, take half of the middle's LUTs away: wires get a
sixth longer, and are routed.
"""

from __future__ import annotations

from typing import Any

__all__ = ["add_keepouts", "keepout_sites"]

_EMPTY = (
    (range(34, 89), range(26, 79), "CD"),
    (range(20, 101), range(16, 87), "D"),
)
"""Columns, rows, and which of a tile's four slices; the first that has a tile counts."""
_TILES_WITHOUT_SLICES = 10
"""Row, modulo 12, of block RAMs and multipliers."""


def _slices(x: int, y: int) -> str:
    if y % 12 == _TILES_WITHOUT_SLICES:
        return ""
    return next((slices for xs, ys, slices in _EMPTY if x in xs and y in ys), "")


def keepout_sites() -> list[str]:
    """Names of the LUT sites that stay empty."""
    columns, rows = _EMPTY[-1][:2]
    return [
        f"X{x}/Y{y}/SLICE{slice_}.K{k}"
        for y in rows
        for x in columns
        for slice_ in _slices(x, y)
        for k in (0, 1)
    ]


def add_keepouts(netlist: dict[str, Any], top: str) -> None:
    """Add the constant LUTs to module `top` of a netlist in Yosys' JSON."""
    module = netlist["modules"][top]
    nets = (net["bits"] for net in module["netnames"].values())
    free = 1 + max(bit for bits in nets for bit in bits if isinstance(bit, int))
    for bit, site in enumerate(keepout_sites(), free):
        name = f"keepout.{site}"
        module["netnames"][name] = {"hide_name": 1, "bits": [bit], "attributes": {}}
        module["cells"][name] = {
            "hide_name": 1,
            "type": "LUT4",
            "parameters": {"INIT": "0" * 16},
            "attributes": {"BEL": site, "keep": "1"},
            "port_directions": {**dict.fromkeys("ABCD", "input"), "Z": "output"},
            "connections": {**{port: ["0"] for port in "ABCD"}, "Z": [bit]},
        }
