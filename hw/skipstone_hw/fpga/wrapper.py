"""The core as AMD's tools want a kernel or an IP: ``ap_clk``, ``ap_rst_n``, the rest as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..emit import TOP
from .interface import Port

__all__ = ["RESET_SOURCE", "WRAPPER", "wrapper"]

WRAPPER = "skipstone_kernel"
"""Name of the module."""

RESET_SOURCE = Path(__file__).parents[3] / "rtl" / "skipstone_reset.v"


def wrapper(ports: Sequence[Port]) -> str:
    """Verilog of the module round a core with these ports."""
    passed = [p for p in ports if p.name not in ("clk", "rst")]

    def declare(p: Port) -> str:
        span = f"[{p.width - 1}:0] " if p.width > 1 else ""
        return f"    {p.direction} wire {span}{p.name}"

    declarations = ["    input wire ap_clk", "    input wire ap_rst_n", *map(declare, passed)]
    connections = [f"        .{p.name}({p.name})" for p in passed]
    return "\n".join(
        (
            "`default_nettype none",
            "",
            f"module {WRAPPER} (",
            ",\n".join(declarations),
            ");",
            "    wire rst;",
            "",
            "    skipstone_reset reset (.clk(ap_clk), .rst_n(ap_rst_n), .rst(rst));",
            "",
            f"    {TOP} core (",
            ",\n".join(["        .clk(ap_clk)", "        .rst(rst)", *connections]),
            "    );",
            "endmodule",
            "",
            "`default_nettype wire",
            "",
        )
    )
