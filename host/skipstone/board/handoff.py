"""The hardware handoff (``.hwh``) of the block design for Zynq UltraScale+ boards.

Vivado writes such a file beside every bitstream; PYNQ reads from it what the design holds. This one
describes the same design from the register table: the processing system, its clocks and address
map, the interrupt controller, and the core with every register and field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ..spec.config import CoreConfig
from ..spec.registers import FIELDS, Register
from .design import (
    CORE_ADDRESS,
    CORE_INSTANCE,
    CORE_RANGE,
    INTERRUPT_CONTROLLER,
    INTERRUPT_CONTROLLER_ADDRESS,
    INTERRUPT_PIN,
    PROCESSING_SYSTEM,
    PYNQ_ACCESS,
    VLNV,
    port_name,
    used_registers,
)

__all__ = ["hardware_handoff"]

_AXI = "xilinx.com:interface:aximm:1.0"
_INTERRUPT_CONTROLLER_RANGE = 0x1000
_DDR_LOW_BYTES = 0x8000_0000
_PLL_MHZ = 1500.0
"""IOPLL of the boards' default set-up, from which the PL clocks are divided."""


def _properties(parent: Element, **values: object) -> None:
    for name, value in values.items():
        SubElement(parent, "PROPERTY", NAME=name, VALUE=str(value))


def _register(parent: Element, register: Register) -> None:
    element = SubElement(parent, "REGISTER", NAME=register.name)
    _properties(
        element,
        DESCRIPTION=register.doc,
        ADDRESS_OFFSET=hex(register.offset),
        SIZE=32,
        ACCESS=PYNQ_ACCESS[register.access],
        IS_ENABLED="true",
        RESET_VALUE=0,
    )
    fields = SubElement(element, "FIELDS")
    for field in FIELDS.get(register.name, ()):
        _properties(
            SubElement(fields, "FIELD", NAME=field.name),
            DESCRIPTION=field.doc,
            ACCESS=PYNQ_ACCESS[field.access],
            BIT_OFFSET=field.bit,
            BIT_WIDTH=1,
        )


def _module(parent: Element, instance: str, vlnv: str, *, kind: str = "PERIPHERAL") -> Element:
    name = vlnv.split(":")[2]
    return SubElement(
        parent, "MODULE", FULLNAME=f"/{instance}", INSTANCE=instance, IPTYPE=kind, IS_ENABLE="1",
        MODCLASS=kind, MODTYPE=name, VLNV=vlnv,
    )  # fmt: skip


def _parameters(module: Element, values: Mapping[str, object]) -> None:
    parent = SubElement(module, "PARAMETERS")
    for name, value in values.items():
        SubElement(parent, "PARAMETER", NAME=name, VALUE=str(value))


def _ports(module: Element, ports: Iterable[tuple[str, str, str, tuple[str, str] | None]]) -> None:
    """(name, direction, kind of signal, (instance, port) it is wired to)."""
    parent = SubElement(module, "PORTS")
    for name, direction, kind, other in ports:
        port = SubElement(parent, "PORT", DIR=direction, NAME=name, SIGIS=kind)
        wires = SubElement(port, "CONNECTIONS")
        if other is not None:
            SubElement(wires, "CONNECTION", INSTANCE=other[0], PORT=other[1])


def _buses(module: Element, buses: Iterable[tuple[str, str]]) -> None:
    """(name, MASTER or SLAVE)."""
    parent = SubElement(module, "BUSINTERFACES")
    for name, direction in buses:
        SubElement(parent, "BUSINTERFACE", NAME=name, TYPE=direction, VLNV=_AXI)


def _range(
    parent: Element, block: str, base: int, size: int, instance: str, buses: tuple[str, str],
    kind: str = "REGISTER",
) -> None:  # fmt: skip
    SubElement(
        parent, "MEMRANGE", ADDRESSBLOCK=block, BASENAME="C_BASEADDR", BASEVALUE=f"0x{base:08X}",
        HIGHNAME="C_HIGHADDR", HIGHVALUE=f"0x{base + size - 1:08X}", INSTANCE=instance,
        IS_DATA="TRUE", MASTERBUSINTERFACE=buses[0], MEMTYPE=kind, SLAVEBUSINTERFACE=buses[1],
    )  # fmt: skip


def _clock_parameters(clock_mhz: float) -> dict[str, object]:
    """Four PL clocks, of which the first drives the core."""
    divisor = max(1, round(_PLL_MHZ / clock_mhz))
    values: dict[str, object] = {}
    for n in range(4):
        clock = f"PSU__CRL_APB__PL{n}_REF_CTRL__"
        values[f"PSU__FPGA_PL{n}_ENABLE"] = int(n == 0)
        values[clock + "SRCSEL"] = "IOPLL"
        values[clock + "DIVISOR0"] = divisor
        values[clock + "DIVISOR1"] = 1
        values[clock + "ACT_FREQMHZ"] = _PLL_MHZ / divisor
    return values


def _processing_system(modules: Element, config: CoreConfig) -> None:
    ps = _module(modules, PROCESSING_SYSTEM, "xilinx.com:ip:zynq_ultra_ps_e:3.5")
    _parameters(ps, _clock_parameters(config.clock_mhz))
    _ports(ps, [("pl_ps_irq0", "I", "INTERRUPT", (INTERRUPT_CONTROLLER, "irq"))])
    slaves = [f"S_AXI_HP{p}_FPD" for p in range(config.ports)]
    _buses(ps, [("M_AXI_HPM0_FPD", "MASTER"), *((name, "SLAVE") for name in slaves)])
    memory = SubElement(ps, "MEMORYMAP")
    _range(
        memory, "Reg", CORE_ADDRESS, CORE_RANGE, CORE_INSTANCE,
        ("M_AXI_HPM0_FPD", "s_axi_control"),
    )  # fmt: skip
    _range(
        memory, "Reg", INTERRUPT_CONTROLLER_ADDRESS, _INTERRUPT_CONTROLLER_RANGE,
        INTERRUPT_CONTROLLER, ("M_AXI_HPM0_FPD", "s_axi"),
    )  # fmt: skip


def _interrupt_controller(modules: Element) -> None:
    controller = _module(modules, INTERRUPT_CONTROLLER, "xilinx.com:ip:axi_intc:4.1")
    _parameters(controller, {"C_NUM_INTR_INPUTS": 1, "C_KIND_OF_INTR": "0xFFFFFFFE"})
    _ports(
        controller,
        [
            ("irq", "O", "INTERRUPT", (PROCESSING_SYSTEM, "pl_ps_irq0")),
            ("intr", "I", "INTERRUPT", (CORE_INSTANCE, INTERRUPT_PIN)),
        ],
    )
    _buses(controller, [("s_axi", "SLAVE")])


def _core(modules: Element, config: CoreConfig) -> None:
    core = _module(modules, CORE_INSTANCE, VLNV)
    blocks = SubElement(core, "ADDRESSBLOCKS")
    block = SubElement(
        blocks, "ADDRESSBLOCK", ACCESS="read-write", INTERFACE="s_axi_control", NAME="Reg",
        RANGE=str(CORE_RANGE), USAGE="register",
    )  # fmt: skip
    registers = SubElement(block, "REGISTERS")
    for register in used_registers(config):
        _register(registers, register)
    _parameters(
        core, {"CONFIG": config.name, "CONFIG_HASH": f"{config.hash64:016x}", "PORTS": config.ports}
    )
    _ports(core, [(INTERRUPT_PIN, "O", "INTERRUPT", (INTERRUPT_CONTROLLER, "intr"))])
    ports = [port_name(p) for p in range(config.ports)]
    _buses(core, [("s_axi_control", "SLAVE"), *((name, "MASTER") for name in ports)])
    memory = SubElement(core, "MEMORYMAP")
    for p, name in enumerate(ports):
        _range(
            memory, f"HP{p}_DDR_LOW", 0, _DDR_LOW_BYTES, PROCESSING_SYSTEM,
            (name, f"S_AXI_HP{p}_FPD"), "MEMORY",
        )  # fmt: skip


def hardware_handoff(config: CoreConfig, *, part: str = "xck26-sfvc784-2LV-c") -> str:
    """The ``.hwh`` text of the design with a core of this configuration.

    `part` is the device, as Vivado calls it.
    """
    root = Element("EDKSYSTEM", EDWVERSION="1.2", VIVADOVERSION="2024.1")
    device, _, package = part.partition("-")
    SubElement(root, "SYSTEMINFO", ARCH="zynquplus", DEVICE=device, NAME="skipstone",
               PACKAGE=package.partition("-")[0])  # fmt: skip
    SubElement(root, "EXTERNALPORTS")
    SubElement(root, "EXTERNALINTERFACES")
    modules = SubElement(root, "MODULES")
    _processing_system(modules, config)
    _interrupt_controller(modules)
    _core(modules, config)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n' + tostring(
        root, encoding="unicode"
    )
