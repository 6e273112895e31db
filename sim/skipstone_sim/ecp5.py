"""Verilog models of ECP5 cells, for simulating what is placed by hand and what synthesis made."""

from __future__ import annotations

from .cells import our_models, yosys_models

__all__ = ["block_models", "cell_models"]


def block_models() -> str:
    """Our models of block RAM and multiplier."""
    return our_models("ecp5")


def cell_models() -> str:
    """All cells: Yosys' models, and ours where it has black boxes.

    Raises ToolError if Yosys' models are not installed.
    """
    folder = yosys_models("lattice")
    text = (folder / "cells_sim_ecp5.v").read_text()
    for name in ("common_sim.vh", "ccu2c_sim.vh", "cells_ff.vh", "cells_io.vh"):
        text = text.replace(f'`include "{name}"', (folder / name).read_text())
    start = text.index("(* blackbox *)\nmodule DP16KD")
    end = text.index("endmodule", start) + len("endmodule")
    return text[:start] + text[end:] + "\n" + block_models()
