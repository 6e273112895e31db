"""The whole core as a netlist of its device's cells, to be simulated after synthesis.

Mapped as the units are for the reports (`synthesis`), but in one design that keeps its hierarchy.
"""

from __future__ import annotations

from pathlib import Path

from skipstone.cache import cached, content_key
from skipstone.spec.boards import Family

from .synthesis import mapping_script
from .tools import YOSYS, run_yosys

__all__ = ["core_netlist"]

_NETLIST = "netlist.v"
_KEPT = ("cells.json", _NETLIST)


def core_netlist(verilog: str, *, top: str, family: Family) -> Path:
    """Folder with ``netlist.v`` and ``cells.json`` of module `top`, from the cache or made.

    Raises ToolError if Yosys is missing or fails.
    """
    script = "\n".join(
        (
            "read_verilog -sv core.v",
            mapping_script(family, top, flatten=False),
            "check -assert -noinit",
            "blackbox =A:whitebox",
            f"tee -q -o cells.json stat -json -top {top}",
            "rename -enumerate -pattern n%",  # Verilator reads names such as _0228_ as escaped
            f"write_verilog -noattr {_NETLIST}",
            "",
        )
    )

    def build(folder: Path) -> None:
        (folder / "core.v").write_text(verilog, encoding="utf-8")
        run_yosys(script, folder)
        for path in folder.iterdir():
            if path.name not in _KEPT:
                path.unlink()

    return cached("core-netlist", content_key(verilog, script, YOSYS.version()), build)
