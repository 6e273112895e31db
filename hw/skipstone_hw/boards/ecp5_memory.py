"""A memory of ECP5 block RAMs, placed by hand so that its content is part of the bitstream.

Yosys would map an inferred memory as well, but takes minutes over one with content, and guards each
read against a simultaneous write of the same word, which nobody here does.

Reference: Lattice FPGA-TN-02204, ECP5 and ECP5-5G Memory User Guide.
"""

from typing import Any

import numpy as np
from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

__all__ = ["Ecp5Memory"]

_WIDTHS = {512: 32, 1024: 16, 2048: 8, 4096: 4, 8192: 2, 16384: 1}
"""Bits of a block's words, by how many it has, without parity."""
_MODES = {32: 36, 16: 18, 8: 9, 4: 4, 2: 2, 1: 1}
"""What the device calls these widths."""
_PINS = 18
_ADDRESS_BITS = 14


def _init_values(bits: NDArray[np.uint8]) -> dict[str, Const]:
    """INITVAL parameters of a block with these bits, from word 0: rows of two bytes, a byte in nine
    bits, a row in twenty."""
    content = np.packbits(bits, bitorder="little").tobytes().ljust(2048, b"\0")
    rows = [content[n] | content[n + 1] << 9 for n in range(0, len(content), 2)]
    return {
        f"p_INITVAL_{n:02X}": Const(
            sum(row << 20 * i for i, row in enumerate(rows[16 * n : 16 * n + 16])), 320
        )
        for n in range(64)
    }


class Ecp5Memory(wiring.Component):
    """Block RAM with a port to read and one to write.

    What is read appears in the cycle after `read_en` and stays. Reading a word while it is written
    gives nothing certain. Each block holds a few bits of all words: nothing is selected behind the
    blocks, and no more wires leave them than the memory has.

    Parameters
    ----------
    data_bits : int
        A multiple of 32.
    words : int
        From 1 to 16,384; blocks have a power of two of them, from 512.
    init : bytes
        Content after configuration, from word 0; zeros follow.

    Members
    -------
    read_en : In(1)
    read_addr : In(range(words))
    read_data : Out(data_bits)
    write_en : In(data_bits // 8)
        A bit for each byte.
    write_addr : In(range(words))
    write_data : In(data_bits)
    """

    read_en: Signal
    read_addr: Signal
    read_data: Signal
    write_en: Signal
    write_addr: Signal
    write_data: Signal

    def __init__(self, *, data_bits: int, words: int, init: bytes = b""):
        if data_bits % 32 or data_bits < 32:
            raise ValueError(f"data_bits must be a multiple of 32, not {data_bits!r}")
        if not 1 <= words <= max(_WIDTHS):
            raise ValueError(f"words must be 1 to {max(_WIDTHS)}, not {words!r}")
        self._data_bits, self._words, self._init = data_bits, words, init
        super().__init__(
            {
                "read_en": In(1),
                "read_addr": In(range(words)),
                "read_data": Out(data_bits),
                "write_en": In(data_bits // 8),
                "write_addr": In(range(words)),
                "write_data": In(data_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = min(d for d in _WIDTHS if d >= self._words)
        width = _WIDTHS[depth]
        raw = np.zeros((depth, self._data_bits // 8), np.uint8)
        raw.reshape(-1)[: len(self._init)] = np.frombuffer(self._init, np.uint8)
        content = np.unpackbits(raw, axis=1, bitorder="little")
        for block in range(self._data_bits // width):
            m.submodules[f"block_{block}"] = self.build_block(
                width=width,
                enables=self.write_en[block * width // 8 : -(-(block + 1) * width // 8)],
                value=self.write_data.word_select(block, width),
                out=self.read_data.word_select(block, width),
                content=content[:, block * width : (block + 1) * width].reshape(-1),
            )
        return m

    def build_block(self, *, width: int, enables, value, out, content) -> Instance:
        """Words of `width` bits: port A writes, port B reads. The lowest pins of the address of a
        narrow port say nothing; those of a port that writes several bytes enable them."""
        nine = width >= 8
        data_in = [Const(0, 1)] * (2 * _PINS)
        data_out = [Signal(name=f"spare_{n}") for n in range(2 * _PINS)]
        for n in range(width):
            pin = n // 8 * 9 + n % 8 if nine else n
            data_in[pin], data_out[pin] = value[n], out[n]
        if width < 32:  # both halves of the pins belong to port B, which gets what it reads
            data_out = data_out[_PINS:] + data_out[:_PINS]
        low = width.bit_length() - 1  # the address counts bits
        read = [Const(0, 1)] * low + list(self.read_addr)
        write = [Const(0, 1)] * low + list(self.write_addr)
        if width > 8:
            write[: width // 8] = list(enables)
        ports: dict[str, Any] = {}
        for n in range(_PINS):
            ports |= {
                f"i_DIA{n}": data_in[n],
                f"i_DIB{n}": data_in[_PINS + n],
                f"o_DOA{n}": data_out[n],
                f"o_DOB{n}": data_out[_PINS + n],
            }
        for n in range(_ADDRESS_BITS):
            ports |= {
                f"i_ADA{n}": write[n] if n < len(write) else Const(0, 1),
                f"i_ADB{n}": read[n] if n < len(read) else Const(0, 1),
            }
        for side, ce, we in (
            ("A", enables.any(), Const(1, 1)),
            ("B", self.read_en, Const(0, 1)),
        ):
            ports |= {
                f"i_CLK{side}": ClockSignal(),
                f"i_CE{side}": ce,
                f"i_OCE{side}": Const(1, 1),
                f"i_WE{side}": we,
                f"i_RST{side}": Const(0, 1),
                **{f"i_CS{side}{n}": Const(0, 1) for n in range(3)},
                f"p_DATA_WIDTH_{side}": _MODES[width],
                f"p_REGMODE_{side}": "NOREG",
                f"p_CSDECODE_{side}": "0b000",
                f"p_CLK{side}MUX": f"CLK{side}",
            }
        ports |= {"p_RESETMODE": "SYNC", "p_ASYNC_RESET_RELEASE": "SYNC", "p_GSR": "AUTO"}
        return Instance("DP16KD", **ports, **_init_values(content))
