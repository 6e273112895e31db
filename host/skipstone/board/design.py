"""The facts of a block design around the core: names, addresses, interrupt, kernel arguments.

Whatever describes the hardware to software (``.hwh``, ``.xclbin``, the driver, the simulated board)
takes them from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..spec import boards
from ..spec.config import CoreConfig
from ..spec.registers import BY_NAME, FIELDS, PORT_BASE, REGISTERS, Register

__all__ = [
    "CORE_ADDRESS",
    "CORE_INSTANCE",
    "CORE_RANGE",
    "INTERRUPT_CONTROLLER",
    "INTERRUPT_CONTROLLER_ADDRESS",
    "INTERRUPT_PIN",
    "PL_INTERRUPT",
    "PROCESSING_SYSTEM",
    "PYNQ_ACCESS",
    "VLNV",
    "Argument",
    "kernel_arguments",
    "port_name",
    "register_descriptions",
    "used_registers",
]

VLNV = ":".join(boards.VLNV)
"""Vendor, library, name and version of the core as an IP; PYNQ finds the driver by it."""

CORE_INSTANCE = "skipstone_0"
CORE_ADDRESS = 0xA000_0000
"""Where the registers lie behind M_AXI_HPM0_FPD of a Zynq UltraScale+."""
CORE_RANGE = 0x1000

INTERRUPT_PIN = "interrupt"
INTERRUPT_CONTROLLER = "axi_intc_0"
INTERRUPT_CONTROLLER_ADDRESS = 0xA001_0000
PROCESSING_SYSTEM = "zynq_ultra_ps_e_0"
PL_INTERRUPT = 121
"""Number of pl_ps_irq0[0] among the interrupts of the processing system (AMD UG1085, table
13-1)."""

PYNQ_ACCESS = {"rw": "read-write", "ro": "read-only", "w1": "read-write"}
"""What metadata call our kinds of access."""

_PROTOCOL = ("CTRL", "GIER", "IP_IER", "IP_ISR")


def port_name(port: int) -> str:
    """Name of a memory port's bus interface."""
    return f"m_axi_{port:02d}"


def used_registers(config: CoreConfig) -> tuple[Register, ...]:
    """The registers that a core of this configuration has: bases only of its own ports."""
    return _registers(config.ports)


def _registers(ports: int) -> tuple[Register, ...]:
    end = PORT_BASE + 8 * ports
    return tuple(r for r in REGISTERS if not (r.name.startswith("PORT_BASE") and r.offset >= end))


def register_descriptions(ports: int) -> dict[str, dict[str, Any]]:
    """All registers as an ``ip_dict`` of PYNQ has them, for handoffs that leave them out."""
    return {
        r.name: {
            "address_offset": r.offset,
            "size": 32,
            "access": PYNQ_ACCESS[r.access],
            "description": r.doc,
            "fields": {
                f.name: {
                    "bit_offset": f.bit,
                    "bit_width": 1,
                    "access": PYNQ_ACCESS[f.access],
                    "description": f.doc,
                }
                for f in FIELDS.get(r.name, ())
            },
        }
        for r in _registers(ports)
    }


@dataclass(frozen=True)
class Argument:
    """An argument of the core as an XRT kernel.

    Attributes
    ----------
    index : int
        Position in the call.
    offset : int
        Byte offset of its (first) register.
    port : int or None
        The memory port whose base it is; None for a scalar.
    """

    name: str
    index: int
    offset: int
    port: int | None = None

    @property
    def bytes(self) -> int:
        """Size: scalars have 32 bits, addresses 64."""
        return 4 if self.port is None else 8


def kernel_arguments(config: CoreConfig) -> tuple[Argument, ...]:
    """Every register the host sets for a run, in order of address; then the ports' bases."""
    scalars = [
        r.name
        for r in REGISTERS
        if r.access == "rw" and r.name not in _PROTOCOL and r.offset < PORT_BASE
    ]
    ports = range(config.ports)
    return (
        *(Argument(n, i, BY_NAME[n].offset) for i, n in enumerate(scalars)),
        *(Argument(f"PORT_BASE_{p}", len(scalars) + p, PORT_BASE + 8 * p, p) for p in ports),
    )
