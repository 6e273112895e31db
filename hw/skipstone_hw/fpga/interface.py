"""What surroundings see of a core's Verilog: its ports, and a hash of all that software relies on.

Registers and kernel arguments are those of `skipstone.board.design`, which the host goes by.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from skipstone.board.design import kernel_arguments, used_registers
from skipstone.spec.config import CoreConfig
from skipstone.spec.registers import VERSION

__all__ = [
    "CONTROL",
    "CONTROL_BYTES",
    "Port",
    "interface_hash",
    "module_ports",
]

CONTROL = "s_axi_control"
CONTROL_BYTES = 4096


@dataclass(frozen=True)
class Port:
    """A port of a Verilog module: "input" or "output", bits."""

    name: str
    direction: str
    width: int


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
