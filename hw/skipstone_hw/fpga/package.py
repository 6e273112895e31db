"""Vivado Tcl that packages the core as an IP: bus interfaces, register map, clock and reset.

References: AMD UG1118 (creating and packaging custom IP), UG835 (Tcl commands), UG1393 (RTL
kernels).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from skipstone.board.design import kernel_arguments, port_name, used_registers
from skipstone.spec.boards import VLNV, Board

from .interface import CONTROL, CONTROL_BYTES
from .wrapper import WRAPPER

__all__ = ["SOURCES", "package_lines"]

SOURCES = ("skipstone_core.v", "skipstone_reset.v", f"{WRAPPER}.v")
"""Verilog of the IP, in the build's folder."""

_ACCESS = {"rw": "read-write", "ro": "read-only"}


def package_lines(board: Board, folder: PurePosixPath, *, kernel: bool) -> Sequence[str]:
    """Tcl that leaves the packaged IP in ``$work/ip``, and its project closed.

    Expects the variables ``here`` (the build's folder) and ``work``.

    Parameters
    ----------
    folder
        Of the Verilog, below ``$here``.
    kernel
        Mark it as an RTL kernel of Vitis.
    """
    c = board.config
    vendor, library, name, version = VLNV
    sources = " ".join(f"[file join $here {folder / s}]" for s in SOURCES)
    lines = [
        f"create_project -force package [file join $work package] -part {board.part}",
        f"add_files -norecurse [list {sources}]",
        f"set_property top {WRAPPER} [current_fileset]",
        "update_compile_order -fileset sources_1",
        f"ipx::package_project -root_dir [file join $work ip] -vendor {vendor} "
        f"-library {library} -taxonomy /UserIP -import_files -set_current true",
        "set core [ipx::current_core]",
        f"set_property name {name} $core",
        f"set_property version {version} $core",
        f"set_property display_name {{Skipstone core {c.name}}} $core",
        "set_property supported_families {} $core",
        "set_property auto_family_support_level level_2 $core",
        "",
        "# Bus interfaces are inferred from the ports' names; all run on ap_clk.",
        "foreach bus [list " + " ".join([CONTROL, *(port_name(p) for p in range(c.ports))]) + "] {",
        "    ipx::associate_bus_interfaces -busif $bus -clock ap_clk $core",
        "}",
        "ipx::infer_bus_interface interrupt xilinx.com:signal:interrupt_rtl:1.0 $core",
        "set reset [ipx::get_bus_interfaces ap_rst_n -of_objects $core]",
        "set polarity [ipx::add_bus_parameter POLARITY $reset]",
        "set_property value ACTIVE_LOW $polarity",
        "",
        "# Memory ports address everything the host gives them.",
        "foreach bus [list " + " ".join(port_name(p) for p in range(c.ports)) + "] {",
        "    set interface [ipx::get_bus_interfaces $bus -of_objects $core]",
        "    set space [ipx::get_address_spaces -quiet $bus -of_objects $core]",
        "    if {$space eq {}} { set space [ipx::add_address_space $bus $core] }",
        "    set_property range 16E $space",
        f"    set_property width {c.port_bits} $space",
        "    set_property master_address_space_ref $bus $interface",
        "}",
        "",
        "# Registers.",
        f"set map [ipx::get_memory_maps -quiet {CONTROL} -of_objects $core]",
        f"if {{$map eq {{}}}} {{ set map [ipx::add_memory_map {CONTROL} $core] }}",
        f"set_property slave_memory_map_ref {CONTROL} "
        f"[ipx::get_bus_interfaces {CONTROL} -of_objects $core]",
        "set block [ipx::get_address_blocks -quiet reg0 -of_objects $map]",
        "if {$block eq {}} { set block [ipx::add_address_block reg0 $map] }",
        f"set_property range {CONTROL_BYTES} $block",
        "set_property width 32 $block",
        "set_property usage register $block",
        "proc register {block name offset access text} {",
        "    set r [ipx::add_register $name $block]",
        "    set_property address_offset $offset $r",
        "    set_property size 32 $r",
        "    set_property access $access $r",
        "    set_property description $text $r",
        "    return $r",
        "}",
    ]
    pointers = {a.offset: a for a in kernel_arguments(c) if a.port is not None}
    for r in used_registers(c):
        if kernel and r.offset - 4 in pointers and r.name.startswith("PORT_BASE"):
            continue  # the high half of an address: one register of 64 bits
        register = f"register $block {r.name} {r.offset:#05x} {_ACCESS[r.access]} {{{r.doc}}}"
        if kernel and r.offset in pointers:
            argument = pointers[r.offset]
            register = register.replace(r.name, argument.name)
            lines += [
                f"set r [{register}]",
                "set_property size 64 $r",
                "set p [ipx::add_register_parameter ASSOCIATED_BUSIF $r]",
                f"set_property value {port_name(argument.port or 0)} $p",
            ]
        else:
            lines.append(register)
    lines.append("")
    if kernel:
        lines += [
            "set_property sdx_kernel true $core",
            "set_property sdx_kernel_type rtl $core",
            "set_property vitis_drc {ctrl_protocol ap_ctrl_hs} $core",
            "set_property ipi_drc {ignore_freq_hz true} $core",
        ]
    lines += [
        "ipx::create_xgui_files $core",
        "ipx::update_checksums $core",
        "ipx::check_integrity -kernel $core" if kernel else "ipx::check_integrity $core",
        "ipx::save_core $core",
        "close_project",
    ]
    return lines
