"""Verilog models of UltraScale+ cells, for simulating what synthesis made."""

from __future__ import annotations

from .cells import our_models, yosys_models

__all__ = ["block_models", "cell_models"]


def block_models() -> str:
    """Our models of block RAM and DSP block."""
    return our_models("xilinx")


def cell_models() -> str:
    """All cells: Yosys' models, and ours where it has black boxes.

    Raises ToolError if Yosys' models are not installed.
    """
    return (yosys_models("xilinx") / "cells_sim.v").read_text() + "\n" + block_models()
