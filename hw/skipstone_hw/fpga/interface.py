"""What surroundings and software see of a core: ports, registers, kernel arguments.

Everything that is handed to AMD's tools is written from here, so it cannot differ from
`skipstone.spec` or from the Verilog.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from skipstone.spec.config import CoreConfig
from skipstone.spec.registers import BY_NAME, PORT_BASE, REGISTERS, VERSION, Register

__all__ = [
    "CONTROL",
    "CONTROL_BYTES",
    "Argument",
    "Port",
    "interface_hash",
    "kernel_arguments",
    "memory_port",
    "module_ports",
    "used_registers",
]

CONTROL = "s_axi_control"
CONTROL_BYTES = 4096

_PROTOCOL = ("CTRL", "GIER", "IP_IER", "IP_ISR")


@dataclass(frozen=True)
class Port:
    """A port of a Verilog module: "input" or "output", bits."""

    name: str
    direction: str
    width: int


@dataclass(frozen=True)
class Argument:
    """What the host sets before a run.

    Attributes
    ----------
    name
    index
        Position among all arguments.
    offset
        Byte offset of its register, or of the first of two.
    port
        The memory port whose base address it is; None for a 32-bit number.
    """

    name: str
    index: int
    offset: int
    port: int | None = None

    @property
    def bytes(self) -> int:
        """Size of the argument."""
        return 4 if self.port is None else 8


def memory_port(port: int) -> str:
    """Name of a memory port's bus interface."""
    return f"m_axi_{port:02d}"


def used_registers(config: CoreConfig) -> tuple[Register, ...]:
    """The registers a core has: base addresses of its own ports only."""
    end = PORT_BASE + 8 * config.ports
    return tuple(r for r in REGISTERS if not (r.name.startswith("PORT_BASE") and r.offset >= end))


def kernel_arguments(config: CoreConfig) -> tuple[Argument, ...]:
    """Numbers in the order of their registers, then the base address of each port."""
    scalars = [
        r.name
        for r in REGISTERS
        if r.access == "rw" and r.name not in _PROTOCOL and r.offset < PORT_BASE
    ]
    return (
        *(Argument(name, i, BY_NAME[name].offset) for i, name in enumerate(scalars)),
        *(
            Argument(f"PORT_BASE_{p}", len(scalars) + p, PORT_BASE + 8 * p, p)
            for p in range(config.ports)
        ),
    )


def module_ports(text: str, module: str) -> tuple[Port, ...]:
    """The ports of a module of a Verilog text. Raises ValueError if it has no such module."""
    found = re.search(rf"^module {module} ?\((.*?)^endmodule", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"module must be one of the text's modules, not {module!r}")
    declared = re.finditer(
        r"^ +(input|output) (?:wire |reg )?(?:\[(\d+):0\] )?(\w+)[,;]?$", found[1], re.MULTILINE
    )
    return tuple(Port(m[3], m[1], int(m[2] or 0) + 1) for m in declared)


def interface_hash(config: CoreConfig) -> str:
    """Hash of all that software depends on: configuration, registers, arguments, version.

    16 hexadecimal digits. Host and bitstream must agree on it.
    """
    document = {
        "version": VERSION,
        "configuration": json.loads(config.to_json()),
        "registers": [[r.name, r.offset, r.access] for r in used_registers(config)],
        "arguments": [[a.name, a.offset, a.bytes] for a in kernel_arguments(config)],
    }
    raw = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(raw.encode()).hexdigest()[:16]
