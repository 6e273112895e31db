"""Hand-written Verilog, and the top level for AMD's tools round the core, pass Verilator's lint."""

import os
import subprocess
from pathlib import Path

import pytest

from skipstone_hw.emit import TOP
from skipstone_hw.fpga.interface import module_ports
from skipstone_hw.fpga.wrapper import RESET_SOURCE, WRAPPER, wrapper
from skipstone_sim.toolchain import find_verilator

SOURCES = sorted(RESET_SOURCE.parent.glob("*.v"))
CORE = f"""
module {TOP} (
    input wire clk,
    input wire rst,
    input wire [11:0] s_axi_control_awaddr,
    output wire interrupt
);
    assign interrupt = clk & rst & (^s_axi_control_awaddr);
endmodule
"""


def lint(top: str, *sources: Path) -> subprocess.CompletedProcess[str]:
    tool = find_verilator()
    command = [
        tool.program,
        "--lint-only",
        "-Wall",
        "-Wno-DECLFILENAME",
        "-Wno-SYMRSVDWORD",
        "--top-module",
        top,
    ]
    return subprocess.run(
        [*command, *sources], capture_output=True, text=True, check=False,
        env={**os.environ, "VERILATOR_ROOT": str(tool.root)},
    )  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_lint(source):
    done = lint(source.stem, source)
    assert done.returncode == 0, done.stderr


def test_lint_finds_something(tmp_path):
    bad = tmp_path / "bad.v"
    bad.write_text("module bad (input wire a, output wire [1:0] y);\n assign y = a;\nendmodule\n")
    assert lint("bad", bad).returncode != 0


def test_the_wrapper_passes(tmp_path):
    core, outer = tmp_path / f"{TOP}.v", tmp_path / f"{WRAPPER}.v"
    core.write_text(CORE)
    outer.write_text(wrapper(module_ports(CORE, TOP)))
    done = lint(WRAPPER, outer, core, RESET_SOURCE)
    assert done.returncode == 0, done.stderr
