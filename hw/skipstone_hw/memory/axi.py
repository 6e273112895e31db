"""AXI4 and AXI4-Lite signatures with the standard's own signal names, and the wiring between them.

Members are flat (`araddr`, `wstrb`), so that an exported port `m_axi_00` carries the names that
Vivado's interface inference and cocotbext-axi's `from_prefix` look for. Every signature is written
from the master's side: a slave takes `In(...)` of it.

Reference: Arm IHI 0022H, AMBA AXI and ACE protocol specification, chapters A2 and B1.
"""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "ADDRESS_BITS",
    "LITE_ADDRESS_BITS",
    "LITE_DATA_BITS",
    "AxiLiteSignature",
    "AxiReadSignature",
    "AxiSignature",
    "AxiWriteSignature",
    "Burst",
    "Cache",
    "Response",
    "forward",
]

ADDRESS_BITS = 64
"""Bits of a byte address on a memory port."""
LITE_ADDRESS_BITS = 12
"""Bits of a byte address on the control port."""
LITE_DATA_BITS = 32
"""Bits of a register."""


class Burst(enum.IntEnum):
    """Values of `arburst` and `awburst`; only these bursts are issued."""

    INCR = 1


class Cache(enum.IntEnum):
    """Values of `arcache` and `awcache`; the one that Vitis asks of kernels."""

    MODIFIABLE_BUFFERABLE = 0b0011


class Response(enum.IntEnum):
    """Values of `rresp` and `bresp`; bit 1 tells an error."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def _read_members(data_bits: int) -> dict[str, Any]:
    return {
        "arid": Out(1),
        "araddr": Out(ADDRESS_BITS),
        "arlen": Out(8),
        "arsize": Out(3),
        "arburst": Out(2),
        "arlock": Out(1),
        "arcache": Out(4),
        "arprot": Out(3),
        "arqos": Out(4),
        "arvalid": Out(1),
        "arready": In(1),
        "rid": In(1),
        "rdata": In(data_bits),
        "rresp": In(2),
        "rlast": In(1),
        "rvalid": In(1),
        "rready": Out(1),
    }


def _write_members(data_bits: int) -> dict[str, Any]:
    return {
        "awid": Out(1),
        "awaddr": Out(ADDRESS_BITS),
        "awlen": Out(8),
        "awsize": Out(3),
        "awburst": Out(2),
        "awlock": Out(1),
        "awcache": Out(4),
        "awprot": Out(3),
        "awqos": Out(4),
        "awvalid": Out(1),
        "awready": In(1),
        "wdata": Out(data_bits),
        "wstrb": Out(data_bits // 8),
        "wlast": Out(1),
        "wvalid": Out(1),
        "wready": In(1),
        "bid": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
    }


class _DataSignature(wiring.Signature):
    """A signature that is told apart by the width of its data channels."""

    def __init__(self, members: dict[str, Any], data_bits: int):
        if data_bits not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"data_bits must be a power of two from 8 to 1024, not {data_bits!r}")
        self._data_bits = data_bits
        super().__init__(members)

    @property
    def data_bits(self) -> int:
        """Bits of a beat."""
        return self._data_bits

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._data_bits == getattr(other, "_data_bits", None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data_bits={self._data_bits})"


class AxiReadSignature(_DataSignature):
    """The AR and R channels of an AXI4 master; one-bit IDs, always 0."""

    def __init__(self, *, data_bits: int):
        super().__init__(_read_members(data_bits), data_bits)


class AxiWriteSignature(_DataSignature):
    """The AW, W and B channels of an AXI4 master; one-bit IDs, always 0."""

    def __init__(self, *, data_bits: int):
        super().__init__(_write_members(data_bits), data_bits)


class AxiSignature(_DataSignature):
    """All five channels of an AXI4 master."""

    def __init__(self, *, data_bits: int):
        super().__init__({**_read_members(data_bits), **_write_members(data_bits)}, data_bits)


class AxiLiteSignature(wiring.Signature):
    """An AXI4-Lite master: 12-bit addresses, 32-bit data."""

    def __init__(self) -> None:
        super().__init__(
            {
                "awaddr": Out(LITE_ADDRESS_BITS),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(LITE_DATA_BITS),
                "wstrb": Out(LITE_DATA_BITS // 8),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(LITE_ADDRESS_BITS),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(LITE_DATA_BITS),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __repr__(self) -> str:
        return "AxiLiteSignature()"


def forward(m: Module, *, inner: Any, outer: Any) -> None:
    """Wire a submodule's master port to the same-named members of the enclosing component's port.

    `inner` may have fewer channels than `outer`: a reader and a writer share one AXI4 port by
    forwarding both.
    """
    for name, member in inner.signature.members.items():
        if member.flow == Out:
            m.d.comb += getattr(outer, name).eq(getattr(inner, name))
        else:
            m.d.comb += getattr(inner, name).eq(getattr(outer, name))
