"""Tcl for Vivado: the core beside the processing system of a Zynq UltraScale+ board.

Never run by us: there is no Vivado here. Tests hold the files against the emitted Verilog and the
register table.

References: AMD UG994 (block designs), UG1085 (Zynq UltraScale+: address map, interrupts), PG201
(processing system), PG247 (SmartConnect).
"""

from __future__ import annotations

from pathlib import PurePosixPath

from skipstone.board.design import port_name
from skipstone.spec.boards import VLNV, Board
from skipstone.spec.errors import ConfigError

from .interface import CONTROL, CONTROL_BYTES
from .package import package_lines

__all__ = [
    "CONTROL_ADDRESS",
    "DESIGN",
    "INSTANCE",
    "INTERRUPT_ADDRESS",
    "MEMORY_PORTS",
    "vivado_files",
]

DESIGN = "skipstone"
INSTANCE = "skipstone_0"
CONTROL_ADDRESS = 0xA000_0000
"""Of the registers, behind M_AXI_HPM0_FPD."""
INTERRUPT_ADDRESS = 0xA001_0000
"""Of the interrupt controller, which PYNQ asks which interrupt came."""
_INTERRUPT_BYTES = 0x1_0000

MEMORY_PORTS = ("S_AXI_HP0_FPD", "S_AXI_HP1_FPD", "S_AXI_HP2_FPD", "S_AXI_HP3_FPD")
"""The processing system's ports to DDR, 128 bits wide each; the core's ports take them in turn."""
_PS_ENABLE = {
    "S_AXI_HP0_FPD": "CONFIG.PSU__USE__S_AXI_GP2",
    "S_AXI_HP1_FPD": "CONFIG.PSU__USE__S_AXI_GP3",
    "S_AXI_HP2_FPD": "CONFIG.PSU__USE__S_AXI_GP4",
    "S_AXI_HP3_FPD": "CONFIG.PSU__USE__S_AXI_GP5",
}
_PS_CLOCK = {name: name.lower().replace("s_axi_hp", "saxihp").replace("_fpd", "_fpd_aclk")
             for name in MEMORY_PORTS}  # fmt: skip


def _sharing(board: Board) -> dict[str, list[int]]:
    """The core's memory ports behind each port of the processing system."""
    ports = range(board.config.ports)
    used = MEMORY_PORTS[: len(ports)]
    return {name: [p for p in ports if p % len(used) == n] for n, name in enumerate(used)}


def _design_lines(board: Board) -> list[str]:
    sharing = _sharing(board)
    ps_settings = {
        "CONFIG.PSU__USE__M_AXI_GP0": "1",
        "CONFIG.PSU__USE__M_AXI_GP1": "0",
        "CONFIG.PSU__USE__M_AXI_GP2": "0",
        "CONFIG.PSU__USE__IRQ0": "1",
        "CONFIG.PSU__FPGA_PL0_ENABLE": "1",
        "CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": "100",
        **{_PS_ENABLE[name]: "1" for name in sharing},
    }
    lines = [
        f"create_bd_design {DESIGN}",
        "",
        "# Processing system, with the board's own settings.",
        "set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:zynq_ultra_ps_e zynq_ultra_ps_e_0]",
        "apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e "
        "-config {apply_board_preset 1} $ps",
        "set_property -dict [list \\",
        *(f"    {name} {{{value}}} \\" for name, value in ps_settings.items()),
        "] $ps",
        "",
        "# The core's clock and reset.",
        "set clocking [create_bd_cell -type ip -vlnv xilinx.com:ip:clk_wiz clk_wiz_0]",
        "set_property -dict [list \\",
        f"    CONFIG.CLKOUT1_REQUESTED_OUT_FREQ {{{board.clock_mhz:g}}} \\",
        "    CONFIG.PRIM_SOURCE {Global_buffer} \\",
        "    CONFIG.RESET_TYPE {ACTIVE_LOW} \\",
        "] $clocking",
        "set reset [create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset_0]",
        "connect_bd_net [get_bd_pins zynq_ultra_ps_e_0/pl_clk0] [get_bd_pins clk_wiz_0/clk_in1]",
        "connect_bd_net [get_bd_pins zynq_ultra_ps_e_0/pl_resetn0] "
        "[get_bd_pins clk_wiz_0/resetn] [get_bd_pins reset_0/ext_reset_in]",
        "connect_bd_net [get_bd_pins clk_wiz_0/locked] [get_bd_pins reset_0/dcm_locked]",
        "",
        "# The core.",
        f"set core [create_bd_cell -type ip -vlnv {':'.join(VLNV)} {INSTANCE}]",
        "",
        "# Control: the processing system to the core and to the interrupt controller.",
        "set control [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect control_0]",
        "set_property -dict [list CONFIG.NUM_SI {1} CONFIG.NUM_MI {2}] $control",
        "set interrupts [create_bd_cell -type ip -vlnv xilinx.com:ip:axi_intc axi_intc_0]",
        "set_property CONFIG.C_IRQ_CONNECTION {1} $interrupts",
        "connect_bd_intf_net [get_bd_intf_pins zynq_ultra_ps_e_0/M_AXI_HPM0_FPD] "
        "[get_bd_intf_pins control_0/S00_AXI]",
        f"connect_bd_intf_net [get_bd_intf_pins control_0/M00_AXI] "
        f"[get_bd_intf_pins {INSTANCE}/{CONTROL}]",
        "connect_bd_intf_net [get_bd_intf_pins control_0/M01_AXI] "
        "[get_bd_intf_pins axi_intc_0/s_axi]",
        f"connect_bd_net [get_bd_pins {INSTANCE}/interrupt] [get_bd_pins axi_intc_0/intr]",
        "connect_bd_net [get_bd_pins axi_intc_0/irq] [get_bd_pins zynq_ultra_ps_e_0/pl_ps_irq0]",
        "",
        "# Memory: each port of the processing system takes its share of the core's ports.",
    ]
    connects = []
    for n, (name, ports) in enumerate(sharing.items()):
        connect = f"memory_{n}"
        connects.append(connect)
        lines += [
            f"set memory [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect {connect}]",
            f"set_property -dict [list CONFIG.NUM_SI {{{len(ports)}}} CONFIG.NUM_MI {{1}}] $memory",
            *(
                f"connect_bd_intf_net [get_bd_intf_pins {INSTANCE}/{port_name(p)}] "
                f"[get_bd_intf_pins {connect}/S{i:02d}_AXI]"
                for i, p in enumerate(ports)
            ),
            f"connect_bd_intf_net [get_bd_intf_pins {connect}/M00_AXI] "
            f"[get_bd_intf_pins zynq_ultra_ps_e_0/{name}]",
        ]
    clocked = [
        f"{INSTANCE}/ap_clk", "reset_0/slowest_sync_clk", "control_0/aclk",
        "axi_intc_0/s_axi_aclk", "zynq_ultra_ps_e_0/maxihpm0_fpd_aclk",
        *(f"{c}/aclk" for c in connects),
        *(f"zynq_ultra_ps_e_0/{_PS_CLOCK[name]}" for name in sharing),
    ]  # fmt: skip
    reset = [
        f"{INSTANCE}/ap_rst_n", "control_0/aresetn", "axi_intc_0/s_axi_aresetn",
        *(f"{c}/aresetn" for c in connects),
    ]  # fmt: skip
    lines += [
        "",
        "# One clock for all of it.",
        "connect_bd_net [get_bd_pins clk_wiz_0/clk_out1] \\",
        *(f"    [get_bd_pins {pin}] \\" for pin in clocked[:-1]),
        f"    [get_bd_pins {clocked[-1]}]",
        "connect_bd_net [get_bd_pins reset_0/peripheral_aresetn] \\",
        *(f"    [get_bd_pins {pin}] \\" for pin in reset[:-1]),
        f"    [get_bd_pins {reset[-1]}]",
        "",
        "# Addresses.",
        f"assign_bd_address -offset {CONTROL_ADDRESS:#x} -range {CONTROL_BYTES:#x} "
        "-target_address_space [get_bd_addr_spaces zynq_ultra_ps_e_0/Data] "
        f"[get_bd_addr_segs {INSTANCE}/{CONTROL}/reg0] -force",
        f"assign_bd_address -offset {INTERRUPT_ADDRESS:#x} -range {_INTERRUPT_BYTES:#x} "
        "-target_address_space [get_bd_addr_spaces zynq_ultra_ps_e_0/Data] "
        "[get_bd_addr_segs axi_intc_0/S_AXI/Reg] -force",
        "assign_bd_address",
        "",
        "validate_bd_design",
        "save_bd_design",
    ]
    return lines


def _build_tcl(board: Board) -> str:
    name = board.name
    lines = [
        f"# vivado -mode batch -source build.tcl: {name}.bit and {name}.hwh appear beside this",
        "# file, when every step has succeeded and timing is met.",
        "set here [file dirname [file normalize [info script]]]",
        "set work [file join $here work]",
        "file delete -force $work "
        + " ".join(f"[file join $here {name}.{ext}]" for ext in ("bit", "hwh")),
        "file mkdir $work",
        *package_lines(board, PurePosixPath(".."), kernel=False),
        "",
        f"create_project -force {DESIGN} [file join $work project] -part {board.part}",
        f"if {{[llength [get_board_parts -quiet {board.platform}]] == 0}} {{",
        f"    error {{board files of {board.platform} are not installed: use the board store}}",
        "}",
        f"set_property board_part {board.platform} [current_project]",
        "set_property ip_repo_paths [list [file join $work ip]] [current_project]",
        "update_ip_catalog",
        "add_files -fileset constrs_1 -norecurse [file join $here constraints.xdc]",
        "",
        *_design_lines(board),
        "",
        f"set design [get_files {DESIGN}.bd]",
        "add_files -norecurse [make_wrapper -files $design -top]",
        f"set_property top {DESIGN}_wrapper [current_fileset]",
        "update_compile_order -fileset sources_1",
        "set_property strategy Performance_Explore [get_runs impl_1]",
        "launch_runs impl_1 -to_step write_bitstream -jobs [expr {max(1, [exec nproc] / 2)}]",
        "wait_on_run impl_1",
        "if {[get_property PROGRESS [get_runs impl_1]] ne {100%}} {",
        "    error {implementation failed: see work/project}",
        "}",
        "set slack [get_property STATS.WNS [get_runs impl_1]]",
        "if {$slack < 0} {",
        f'    error "timing is not met at {board.clock_mhz:g} MHz: worst slack $slack ns"',
        "}",
        "open_run impl_1",
        f"report_utilization -hierarchical -file [file join $work {name}.utilization.txt]",
        f"report_timing_summary -file [file join $work {name}.timing.txt]",
        f"set runs [file join $work project {DESIGN}.runs impl_1]",
        f"set made [file join $work project {DESIGN}.gen sources_1 bd {DESIGN} hw_handoff]",
        f"file copy [file join $made {DESIGN}.hwh] [file join $here {name}.hwh]",
        f"file copy [file join $runs {DESIGN}_wrapper.bit] [file join $here {name}.bit]",
        "",
    ]
    return "\n".join(lines)


def _constraints(board: Board) -> str:
    return "\n".join(
        (
            f"# {board.name}: the core has no pins of its own; clocks come from the block design.",
            "# The reset is asynchronous to the core's clock; its own registers synchronize it.",
            "set_false_path -to [get_pins -hierarchical -filter {NAME =~ */reset/held_reg[*]/PRE}]",
            "set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]",
            "",
        )
    )


_BUILD = """#!/usr/bin/env bash
# Builds {name}.bit and {name}.hwh: needs Vivado with the files of board {platform}.
set -euo pipefail
cd "$(dirname "$0")"
command -v vivado >/dev/null || {{
    echo "build: vivado was not found: source settings64.sh of Vivado first" >&2
    exit 1
}}
exec vivado -mode batch -nojournal -log vivado.log -source build.tcl
"""


def vivado_files(board: Board) -> dict[str, str]:
    """The files by name. Raises ConfigError if the core has more ports than can be connected."""
    limit = 16 * len(MEMORY_PORTS)
    if board.config.ports > limit:
        raise ConfigError(
            f"board {board.name!r} connects at most {limit} memory ports, not {board.config.ports}"
        )
    return {
        "build.tcl": _build_tcl(board),
        "constraints.xdc": _constraints(board),
        "build.sh": _BUILD.format(name=board.name, platform=board.platform),
    }
