"""The device binary (``.xclbin``) of the core as an XRT kernel, as far as software reads it.

Vitis writes such a file; this one describes the same kernel from the register table: arguments with
their register offsets, memory banks and which argument is wired to which, clocks. Layout: XRT's
``xclbin.h`` (struct axlf and the sections' structs), UG1393 "kernel.xml".
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from xml.etree.ElementTree import Element, SubElement, tostring

from ..spec.config import CoreConfig
from .design import CORE_INSTANCE, CORE_RANGE, VLNV, kernel_arguments, port_name

__all__ = ["KERNEL", "Bank", "device_binary", "kernel_description"]

KERNEL = "skipstone_core"
_BASE_ADDRESS = 0x0180_0000
"""Of the first compute unit behind an Alveo shell."""
_HEADER_BYTES = 456
_SECTION_BYTES = 40
_MEM_HBM = 6
_IP_KERNEL = 1
_CLOCK_DATA = 1


class Section(IntEnum):
    """Kinds of sections."""

    BITSTREAM = 0
    EMBEDDED_METADATA = 2
    MEM_TOPOLOGY = 6
    CONNECTIVITY = 7
    IP_LAYOUT = 8
    CLOCK_FREQ_TOPOLOGY = 11


@dataclass(frozen=True)
class Bank:
    """A memory bank: its tag, first address and size in bytes."""

    tag: str
    base: int
    size: int


def kernel_description(config: CoreConfig) -> Element:
    """The ``kernel`` element: ports and arguments."""
    kernel = Element(
        "kernel", name=KERNEL, language="ip_c", vlnv=VLNV, hwControlProtocol="ap_ctrl_hs",
        interrupt="true",
    )  # fmt: skip
    for p in range(config.ports):
        SubElement(
            kernel, "port", name=port_name(p), mode="master", range="0xFFFFFFFFFFFFFFFF",
            dataWidth=str(config.port_bits), portType="addressable", base="0x0",
        )  # fmt: skip
    SubElement(
        kernel, "port", name="s_axi_control", mode="slave", range=hex(CORE_RANGE), dataWidth="32",
        portType="addressable", base="0x0",
    )  # fmt: skip
    for a in kernel_arguments(config):
        pointer = a.port is not None
        SubElement(
            kernel, "arg", name=a.name, addressQualifier="1" if pointer else "0", id=str(a.index),
            port=port_name(a.port) if a.port is not None else "s_axi_control", size=hex(a.bytes),
            offset=hex(a.offset), hostOffset="0x0", hostSize=hex(a.bytes),
            type="void*" if pointer else "uint",
        )  # fmt: skip
    instance = SubElement(kernel, "instance", name=CORE_INSTANCE)
    SubElement(instance, "addrRemap", base=hex(_BASE_ADDRESS), port="s_axi_control")
    return kernel


def _metadata(config: CoreConfig) -> bytes:
    project = Element("project", name="skipstone")
    platform = SubElement(project, "platform", vendor="xilinx", name="skipstone")
    device = SubElement(platform, "device", name="fpga0")
    core = SubElement(device, "core", name="OCL_REGION_0", target="bitstream", type="clc_region")
    core.append(kernel_description(config))
    return tostring(project)


def _memory_topology(banks: Sequence[Bank]) -> bytes:
    rows = (
        struct.pack("<BB6xqq16s", _MEM_HBM, 1, b.size // 1024, b.base, b.tag.encode())
        for b in banks
    )
    return struct.pack("<i4x", len(banks)) + b"".join(rows)


def _connectivity(config: CoreConfig, banks: Sequence[Bank]) -> bytes:
    """Port p to bank p."""
    wires = [
        (a.index, 0, a.port % len(banks)) for a in kernel_arguments(config) if a.port is not None
    ]
    return struct.pack("<i", len(wires)) + b"".join(struct.pack("<iii", *w) for w in wires)


def _ip_layout() -> bytes:
    name = f"{KERNEL}:{CORE_INSTANCE}".encode()
    return struct.pack("<i4x", 1) + struct.pack("<IIQ64s", _IP_KERNEL, 1, _BASE_ADDRESS, name)


def _clocks(config: CoreConfig) -> bytes:
    clock = struct.pack("<hb5x128s", round(config.clock_mhz), _CLOCK_DATA, b"DATA_CLK")
    return struct.pack("<h", 1) + clock


def device_binary(config: CoreConfig, banks: Sequence[Bank], *, bitstream: bytes = b"") -> bytes:
    """The ``.xclbin`` of one compute unit whose port p is wired to bank p."""
    sections = {
        Section.BITSTREAM: bitstream,
        Section.EMBEDDED_METADATA: _metadata(config),
        Section.MEM_TOPOLOGY: _memory_topology(banks),
        Section.CONNECTIVITY: _connectivity(config, banks),
        Section.IP_LAYOUT: _ip_layout(),
        Section.CLOCK_FREQ_TOPOLOGY: _clocks(config),
    }
    offset = _HEADER_BYTES + _SECTION_BYTES * len(sections)
    table, body = b"", b""
    for kind, data in sections.items():
        padded = data + bytes(-len(data) % 8)
        table += struct.pack(
            "<I16s4xQQ", kind, kind.name.encode()[:15], offset + len(body), len(data)
        )
        body += padded
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{VLNV}#{config.hash64:016x}").bytes
    head = struct.pack(
        "<8s32s256sQ" "QQQHBBI16s64s16s16sI4x",
        b"xclbin2", b"\xff" * 32, b"\xff" * 256, 0,
        offset + len(body), 0, 0, 0, 2, 0, 0, bytes(16), b"skipstone", identity, bytes(16),
        len(sections),
    )  # fmt: skip
    assert len(head) == _HEADER_BYTES, len(head)
    return head + table + body
