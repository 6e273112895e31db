"""The kernel's top level in C++, generated: ports and their pragmas depend on the configuration.

The arguments have the register map of the gateware (`skipstone.spec.registers`): scalars at its
offsets, ERROR_CODE and what follows as one array at 0x80, the counters as one at 0x400. Each memory
port is an AXI4 master of its own bundle.
"""

from __future__ import annotations

from skipstone.spec.config import CoreConfig
from skipstone.spec.registers import BY_NAME, PORT_BASE, counter_offset

__all__ = ["SCALARS", "TOP", "kernel_source"]

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

_PARTITIONS = (
    "x.mantissa type=cyclic factor=ROWS dim=2",
    "activation.mantissa type=cyclic factor=ROWS dim=2",
    "router.mantissa type=cyclic factor=8 dim=2",
    "stored type=complete",
)
"""What loops read several elements of in a cycle."""


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
            "// Made by skipstone_sim.hls.kernel; do not edit.",
            '#include "skipstone/kernel.hpp"',
            "",
            "using namespace skipstone;",
            "",
            f'extern "C" void {TOP}({ports}, {scalars},',
            "    UInt<32> status[STATUS_REGISTERS], UInt<64> counters[COUNTERS]) {",
            *_pragmas(config),
            "    static State state;",
            *(f"#pragma HLS array_partition variable=state.{line}" for line in _PARTITIONS),
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
