"""Files for Vitis: the core as an RTL kernel of an Alveo card.

Never run by us: there is no Vitis here. Tests hold the files against the emitted Verilog and the
register table.

References: AMD UG1393 (Vitis application acceleration: RTL kernels, ``kernel.xml``, ``v++``
configuration), UG1120 (Alveo platforms).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from skipstone.board.design import kernel_arguments, port_name
from skipstone.spec.boards import VLNV, Board

from .floorplan import floorplan_lines
from .interface import CONTROL, CONTROL_BYTES
from .package import package_lines

__all__ = ["INSTANCE", "KERNEL", "vitis_files"]

KERNEL = VLNV[2]
INSTANCE = "skipstone_0"
"""The compute unit."""


def kernel_xml(board: Board) -> str:
    """``kernel.xml``: ports and arguments."""
    c = board.config
    root = Element("root", versionMajor="1", versionMinor="6")
    kernel = SubElement(
        root, "kernel", name=KERNEL, language="ip_c", vlnv=":".join(VLNV), attributes="",
        preferredWorkGroupSizeMultiple="0", workGroupSize="1", interrupt="true",
        hwControlProtocol="ap_ctrl_hs",
    )  # fmt: skip
    ports = SubElement(kernel, "ports")
    for p in range(c.ports):
        SubElement(
            ports, "port", name=port_name(p), mode="master", range="0xFFFFFFFFFFFFFFFF",
            dataWidth=str(c.port_bits), portType="addressable", base="0x0",
        )  # fmt: skip
    SubElement(
        ports, "port", name=CONTROL, mode="slave", range=hex(CONTROL_BYTES), dataWidth="32",
        portType="addressable", base="0x0",
    )  # fmt: skip
    arguments = SubElement(kernel, "args")
    for a in kernel_arguments(c):
        pointer = a.port is not None
        SubElement(
            arguments, "arg", name=a.name, addressQualifier="1" if pointer else "0",
            id=str(a.index), port=CONTROL if a.port is None else port_name(a.port),
            size=hex(a.bytes), offset=hex(a.offset), type="void*" if pointer else "uint",
            hostOffset="0x0", hostSize=hex(a.bytes),
        )  # fmt: skip
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def hbm_banks(board: Board, port: int) -> str:
    """Pseudo channels of a port: neighbours, shared evenly among the ports."""
    each = board.hbm_channels // board.config.ports
    first = port * each
    return f"HBM[{first}]" if each == 1 else f"HBM[{first}:{first + each - 1}]"


def link_configuration(board: Board) -> str:
    """Configuration of ``v++ --link``."""
    lines = [
        f"platform={board.platform}",
        "save-temps=1",
        "",
        "[connectivity]",
        f"nk={KERNEL}:1:{INSTANCE}",
        *(f"sp={INSTANCE}.{port_name(p)}:{hbm_banks(board, p)}" for p in range(board.config.ports)),
        "",
        "[clock]",
        f"freqHz={round(board.clock_mhz * 1e6)}:{INSTANCE}.ap_clk",
        "",
        "[vivado]",
        "prop=run.impl_1.strategy=Performance_Explore",
        "prop=run.impl_1.STEPS.PLACE_DESIGN.TCL.PRE=floorplan.tcl",
        "prop=run.impl_1.STEPS.PHYS_OPT_DESIGN.IS_ENABLED=1",
    ]
    return "\n".join(lines) + "\n"


def _package_tcl(board: Board) -> str:
    lines = [
        "# vivado -mode batch -source package.tcl: leaves skipstone_core.xo in work/.",
        "set here [file dirname [file normalize [info script]]]",
        "set work [file join $here work]",
        "file mkdir $work",
        *package_lines(board, PurePosixPath(".."), kernel=True),
        "",
        f"package_xo -force -xo_path [file join $work {KERNEL}.xo] -kernel_name {KERNEL} "
        "-ip_directory [file join $work ip] -kernel_xml [file join $here kernel.xml] "
        "-ctrl_protocol ap_ctrl_hs",
        "",
    ]
    return "\n".join(lines)


_BUILD = """#!/usr/bin/env bash
# Packages the core and links it for {platform}: needs Vitis with that platform, and hours.
# The finished files appear beside this script, all at once, when every step has succeeded.
set -euo pipefail
cd "$(dirname "$0")"
for tool in vivado v++ xclbinutil; do
    command -v "$tool" >/dev/null || {{
        echo "build: $tool was not found: source settings64.sh of Vitis first" >&2
        exit 1
    }}
done
rm -rf work {name}.xclbin
mkdir work
vivado -mode batch -nojournal -log work/package.log -source package.tcl
cp floorplan.tcl work/
(cd work && v++ --link --target hw --config ../link.cfg --output partial.xclbin {kernel}.xo)
xclbinutil --info --input work/partial.xclbin >work/{name}.info
mv work/partial.xclbin {name}.xclbin
"""


def vitis_files(board: Board) -> dict[str, str]:
    """The files by name."""
    return {
        "kernel.xml": kernel_xml(board),
        "package.tcl": _package_tcl(board),
        "link.cfg": link_configuration(board),
        "floorplan.tcl": "\n".join(floorplan_lines(board)) + "\n",
        "build.sh": _BUILD.format(platform=board.platform, name=board.name, kernel=KERNEL),
    }
