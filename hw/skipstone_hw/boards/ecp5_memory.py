"""A memory of ECP5 block RAMs, placed by hand so that its content is part of the bitstream.

Yosys would map an inferred memory as well, but takes minutes over one with content, and guards each
read against a simultaneous write of the same word, which nobody here does.

Reference: Lattice FPGA-TN-02204, ECP5 and ECP5-5G Memory User Guide.
"""

from typing import Any

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["Ecp5Memory"]

_DEPTH_LOG2 = 9
_DEPTH = 1 << _DEPTH_LOG2
_BITS = 32
_BYTES = _BITS // 8


def _init_values(content: bytes) -> dict[str, Const]:
    """INITVAL parameters of a block that holds up to 512 words of 32 bits: two rows of two bytes
    each, a byte in nine bits, a row in twenty."""
    content = content.ljust(_DEPTH * _BYTES, b"\0")
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
    gives nothing certain.

    Parameters
    ----------
    data_bits : int
        A multiple of 32.
    words : int
        A multiple of 512.
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
        if data_bits % _BITS or data_bits < _BITS:
            raise ValueError(f"data_bits must be a multiple of {_BITS}, not {data_bits!r}")
        if words % _DEPTH or words < _DEPTH:
            raise ValueError(f"words must be a multiple of {_DEPTH}, not {words!r}")
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
        columns, banks = self._data_bits // _BITS, self._words // _DEPTH
        size = self._data_bits // 8
        bank = Signal(max(1, ceil_log2(banks)))
        with m.If(self.read_en):
            m.d.sync += bank.eq(self.read_addr[_DEPTH_LOG2:])
        for b in range(banks):
            start = b * _DEPTH * size
            content = self._init[start : start + _DEPTH * size]
            words = [content[n : n + size] for n in range(0, len(content), size)]
            out = Signal(self._data_bits, name=f"bank_{b}")
            write = Signal(name=f"write_{b}")
            m.d.comb += write.eq(self.write_en.any() & (self.write_addr[_DEPTH_LOG2:] == b))
            for column in range(columns):
                part = slice(column * _BYTES, (column + 1) * _BYTES)
                m.submodules[f"block_{b}_{column}"] = self.build_block(
                    enable=write,
                    byte_enables=self.write_en[part],
                    value=self.write_data.word_select(column, _BITS),
                    out=out.word_select(column, _BITS),
                    content=b"".join(word[part].ljust(_BYTES, b"\0") for word in words),
                )
            with m.If(bank == b):
                m.d.comb += self.read_data.eq(out)
        return m

    def build_block(self, *, enable, byte_enables, value, out, content: bytes) -> Instance:
        """512 words of 32 bits: port A writes, port B reads, 36 bits wide."""
        ports: dict[str, Any] = {}
        data_in, data_out = [], []
        for n in range(_BYTES):
            data_in += [*value[8 * n : 8 * n + 8], Const(0, 1)]
            data_out += [*out[8 * n : 8 * n + 8], Signal(name=f"spare_{n}")]
        read = [Const(0, 1)] * 5 + list(self.read_addr[:_DEPTH_LOG2])
        write = [*byte_enables, Const(0, 1), *self.write_addr[:_DEPTH_LOG2]]
        for n in range(18):
            ports |= {
                f"i_DIA{n}": data_in[n],
                f"i_DIB{n}": data_in[18 + n],
                f"o_DOA{n}": data_out[n],
                f"o_DOB{n}": data_out[18 + n],
            }
        for n in range(14):
            ports |= {f"i_ADA{n}": write[n], f"i_ADB{n}": read[n]}
        for side, ce, we in (("A", enable, Const(1, 1)), ("B", self.read_en, Const(0, 1))):
            ports |= {
                f"i_CLK{side}": ClockSignal(),
                f"i_CE{side}": ce,
                f"i_OCE{side}": Const(1, 1),
                f"i_WE{side}": we,
                f"i_RST{side}": Const(0, 1),
                **{f"i_CS{side}{n}": Const(0, 1) for n in range(3)},
                f"p_DATA_WIDTH_{side}": 36,
                f"p_REGMODE_{side}": "NOREG",
                f"p_CSDECODE_{side}": "0b000",
                f"p_CLK{side}MUX": f"CLK{side}",
            }
        ports |= {"p_RESETMODE": "SYNC", "p_ASYNC_RESET_RELEASE": "SYNC", "p_GSR": "AUTO"}
        return Instance("DP16KD", **ports, **_init_values(content))
