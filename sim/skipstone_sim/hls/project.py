"""What Vitis HLS needs to build the core: the kernel's top level, and a project, per configuration.

The kernel's arguments have the register map of the gateware (`skipstone.spec.registers`): scalars at
its offsets, ERROR_CODE and what follows as one array at 0x80, the counters as one at 0x400. Each
memory port is an AXI4 master of its own bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipstone.spec.config import CoreConfig
from skipstone.spec.headers import config_header
from skipstone.spec.registers import BY_NAME, PORT_BASE, counter_offset

__all__ = ["BOARDS", "SCALARS", "TOP", "Board", "kernel_source", "project_files", "write_project"]

TOP = "skipstone_core"

SCALARS = (
    "PROGRAM_ADDRESS",
    "PROGRAM_LENGTH",
    "POSITION",
    "CHUNK_TOKENS",
    "STEPS",
    "EOS_TOKEN",
    "MODE",
    "MEMORY_WORDS",
)
"""The registers that are the kernel's scalar arguments, in order."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """Where a kernel goes.

    Attributes
    ----------
    part
        The FPGA.
    flow
        "vitis" packs a kernel (.xo) for Alveo shells, "vivado" an IP for block designs.
    """

    name: str
    part: str
    flow: str


BOARDS = {
    board.name: board
    for board in (
        Board(name="u280", part="xcu280-fsvh2892-2L-e", flow="vitis"),
        Board(name="u50", part="xcu50-fsvh2104-2-e", flow="vitis"),
        Board(name="u55c", part="xcu55c-fsvh2892-2L-e", flow="vitis"),
        Board(name="kv260", part="xck26-sfvc784-2LV-c", flow="vivado"),
    )
}


def _pragmas(config: CoreConfig) -> list[str]:
    lines = []
    for p in range(config.ports):
        lines += [
            f"mode=m_axi port=port_{p} bundle=m_axi_{p} offset=slave "
            f"max_read_burst_length={config.burst_beats} max_write_burst_length=16 "
            f"num_read_outstanding={config.outstanding} num_write_outstanding=8",
            f"mode=s_axilite port=port_{p} bundle=control offset={PORT_BASE + 8 * p:#x}",
        ]
    for name in SCALARS:
        offset = BY_NAME[name].offset
        lines.append(f"mode=s_axilite port={name.lower()} bundle=control offset={offset:#x}")
    status, counters = BY_NAME["ERROR_CODE"].offset, counter_offset("cycles")
    lines += [
        f"mode=s_axilite port=status bundle=control offset={status:#x}",
        f"mode=s_axilite port=counters bundle=control offset={counters:#x}",
        "mode=s_axilite port=return bundle=control",
    ]
    return [f"#pragma HLS interface {line}" for line in lines]


def kernel_source(config: CoreConfig) -> str:
    """``kernel.cpp``: the top level of `config`."""
    ports = ", ".join(f"Beat* port_{p}" for p in range(config.ports))
    scalars = ", ".join(f"UInt<32> {name.lower()}" for name in SCALARS)
    fields = ", ".join(name.lower() for name in SCALARS)
    return "\n".join(
        [
            f"// Top level of core {config.name}.",
            "// Made by skipstone_sim.hls.project; do not edit.",
            '#include "skipstone/kernel.hpp"',
            "",
            "using namespace skipstone;",
            "",
            f'extern "C" void {TOP}({ports}, {scalars},',
            "    UInt<32> status[STATUS_REGISTERS], UInt<64> counters[COUNTERS]) {",
            *_pragmas(config),
            "    static State state;",
            "    static History history;",
            "    static Status result;",
            f"    const Registers registers = {{{fields}}};",
            "    run(SKIPSTONE_PORTS, registers, state, history, result);",
            "    status[0] = UInt<32>(unsigned(result.error));",
            "    status[1] = result.pc;",
            "    status[2] = result.tokens_done;",
            "    status[3] = result.next_token;",
            "    status[4] = VERSION;",
            "    status[5] = UInt<32>(CONFIG_HASH & 0xFFFFFFFFull);",
            "    status[6] = UInt<32>(CONFIG_HASH >> 32);",
            "    status[7] = 0;",
            "copy_counters:",
            "    for (int n = 0; n < COUNTERS; ++n) {",
            "#pragma HLS pipeline II=1",
            "        counters[n] = result.counters[n];",
            "    }",
            "}",
            "",
        ]
    )


_TEST_BENCH = """\
// C simulation and co-simulation in Vitis: runs the program of vectors.bin, compares memory.
// vectors.bin: u64 words, 8 u32 registers, 7 u32 of status, memory before, memory after.
#include <cstdio>
#include <vector>

#include "skipstone/kernel.hpp"

extern "C" void skipstone_csim(unsigned char*, unsigned long long, const unsigned*, unsigned*, unsigned long long*);

int main(int argc, char** argv) {
    FILE* file = std::fopen(argc > 1 ? argv[1] : "vectors.bin", "rb");
    if (file == nullptr) return std::puts("vectors.bin is missing"), 2;
    unsigned long long words = 0, counters[skipstone::COUNTERS];
    unsigned values[8], expected_status[7], status[skipstone::STATUS_REGISTERS];
    bool whole = std::fread(&words, 8, 1, file) == 1 && std::fread(values, 4, 8, file) == 8;
    whole = whole && std::fread(expected_status, 4, 7, file) == 7;
    const size_t bytes = words * skipstone::WORD_BYTES;
    std::vector<unsigned char> memory(bytes), expected(bytes);
    whole = whole && std::fread(memory.data(), 1, bytes, file) == bytes;
    whole = whole && std::fread(expected.data(), 1, bytes, file) == bytes;
    std::fclose(file);
    if (!whole) return std::puts("vectors.bin is too short"), 2;
    skipstone_csim(memory.data(), words, values, status, counters);
    size_t differing = 0;
    for (size_t n = 0; n < bytes; ++n) differing += memory[n] != expected[n];
    for (int n = 0; n < 7; ++n) differing += status[n] != expected_status[n];
    std::printf("%zu bytes of %zu differ\\n", differing, bytes);
    return differing != 0;
}
"""


def project_files(config: CoreConfig, board: Board, sources: Path) -> dict[str, str]:
    """Files of the project, by name; `sources` is the repository's ``hls`` folder."""
    period_ns = 1000 / config.clock_mhz
    flags = f"-I{sources} -I. -std=c++17 -DSKIPSTONE_AP_INT"
    package = "xo" if board.flow == "vitis" else "ip_catalog"
    cfg = [
        f"part={board.part}",
        "",
        "[hls]",
        f"flow_target={board.flow}",
        f"clock={period_ns:g}ns",
        "clock_uncertainty=12%",
        f"syn.top={TOP}",
        "syn.file=kernel.cpp",
        f"syn.cflags={flags}",
        f"tb.file={sources / 'csim.cpp'}",
        "tb.file=testbench.cpp",
        "tb.file=vectors.bin",
        f"tb.cflags={flags}",
        f"package.output.format={package}",
        f"package.output.file={TOP}.{'xo' if package == 'xo' else 'zip'}",
        "syn.interface.m_axi_addr64=true",
        "",
    ]
    tcl = [
        "# The same project for Vitis HLS before hls_config.cfg: vitis_hls -f run_hls.tcl",
        f"open_project -reset {TOP}_{config.name}",
        f"set_top {TOP}",
        f'add_files kernel.cpp -cflags "{flags}"',
        f'add_files -tb {sources / "csim.cpp"} -cflags "{flags}"',
        f'add_files -tb testbench.cpp -cflags "{flags}"',
        "add_files -tb vectors.bin",
        f"open_solution -reset -flow_target {board.flow} {board.name}",
        f"set_part {board.part}",
        f"create_clock -period {period_ns:g}ns",
        "set_clock_uncertainty 12%",
        "csim_design -argv vectors.bin",
        "csynth_design",
        "cosim_design -argv vectors.bin",
        f"export_design -format {package} -output {TOP}.{'xo' if package == 'xo' else 'zip'}",
        "exit",
        "",
    ]
    return {
        "config.hpp": config_header(config),
        "kernel.cpp": kernel_source(config),
        "testbench.cpp": _TEST_BENCH,
        "hls_config.cfg": "\n".join(cfg),
        "run_hls.tcl": "\n".join(tcl),
    }


def write_project(folder: Path, config: CoreConfig, board: Board, sources: Path) -> None:
    """Write the project's files into `folder`, which is created; test vectors are `vectors`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in project_files(config, board, sources).items():
        (folder / name).write_text(text)
