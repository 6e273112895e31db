"""exp2, reciprocal and reciprocal square root: the gateware of `skipstone.spec.tables`.

The ROMs are filled from the same `InterpolatedTable` objects that define the results. All units are
free-running pipelines in the sense of `fp32`: operands in every cycle, no handshake, no reset.
"""

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from skipstone.spec import tables
from skipstone.spec.tables import EXP2_LIMIT, INPUT_BITS, OFFSET_BITS, OUTPUT_BITS

from .pipeline import delay

__all__ = ["Exp2", "Reciprocal", "Rsqrt", "TableLookup"]

_BIAS = 127
_LARGEST = 0x7F7FFFFF


class TableLookup(wiring.Component):
    """Piecewise linear function of a fraction.

    One result per cycle, `PIPELINE_CYCLES` later: table, product, sum, each into a register. Tested
    on every fraction of every table.

    Parameters
    ----------
    table
        The function: computes in Python, fills the ROM here.

    Members
    -------
    fraction : In(INPUT_BITS)
    piece : In(range(table.pieces))
        Unit interval of the function's argument; no bits if there is only one.
    y : Out(OUTPUT_BITS + 1)
        ``table(fraction, piece)``, 0 to 2^OUTPUT_BITS.
    """

    PIPELINE_CYCLES = 3

    fraction: Signal
    piece: Signal
    y: Signal

    def __init__(self, *, table: tables.InterpolatedTable):
        self._table = table
        super().__init__(
            {
                "fraction": In(INPUT_BITS),
                "piece": In(range(table.pieces)),
                "y": Out(OUTPUT_BITS + 1),
            }
        )

    @property
    def table(self) -> tables.InterpolatedTable:
        """The function."""
        return self._table

    def elaborate(self, platform):
        m = Module()
        bases = [int(base) for base in self._table.bases]
        slopes = [int(slope) for slope in self._table.slopes]
        slope_bits = 1 + max(bits_for(slope if slope >= 0 else -slope - 1) for slope in slopes)
        row = data.StructLayout({"base": OUTPUT_BITS + 1, "slope": signed(slope_bits)})

        m.submodules.rom = rom = Memory(
            shape=row,
            depth=1 << ceil_log2(len(bases)),
            init=[
                {"base": base, "slope": slope} for base, slope in zip(bases, slopes, strict=True)
            ],
        )
        read = rom.read_port()
        m.d.comb += read.addr.eq(Cat(self.fraction[OFFSET_BITS:], self.piece))
        offset = delay(m, self.fraction[:OFFSET_BITS], 1, name="offset")

        product = Signal(signed(slope_bits + OFFSET_BITS), reset_less=True)
        m.d.sync += product.eq(read.data.slope * offset)
        base = delay(m, read.data.base, 1, name="base")

        y = Signal(OUTPUT_BITS + 1, reset_less=True)
        m.d.sync += y.eq(base + (product >> OFFSET_BITS))
        m.d.comb += self.y.eq(y)
        return m


def _assemble(m: Module, y: Value, exponent: Value, *, largest: Value) -> Signal:
    """(1 + y · 2^-OUTPUT_BITS) · 2^(exponent - bias) as binary32, in a register.

    Zero if that is too small; if `largest`, the largest finite number instead.
    """
    biased = Signal(signed(len(exponent) + 1))
    m.d.comb += biased.eq(exponent + y[OUTPUT_BITS])  # y = 2^OUTPUT_BITS stands for 2.0
    fraction = Cat(Const(0, 23 - OUTPUT_BITS), y[:OUTPUT_BITS])
    result = Signal(32, reset_less=True)
    with m.If(largest):
        m.d.sync += result.eq(_LARGEST)
    with m.Elif(biased > 0):
        m.d.sync += result.eq(Cat(fraction, biased[:8]))
    with m.Else():
        m.d.sync += result.eq(0)
    return result


class Exp2(wiring.Component):
    """Power of two of a fixed-point number, as binary32.

    One result per cycle, `PIPELINE_CYCLES` later. For the bare fraction's power, use `TableLookup`
    of `tables.EXP2`. Tested on random arguments and at both limits.

    Members
    -------
    x : In(signed(bits_for(EXP2_LIMIT) + 1))
        Argument in units of 2^-16, magnitude at most EXP2_LIMIT.
    o : Out(32)
        ``tables.exp2_fixed(x)``.
    """

    PIPELINE_CYCLES = TableLookup.PIPELINE_CYCLES + 1

    x: Signal
    o: Signal

    def __init__(self):
        super().__init__({"x": In(signed(bits_for(EXP2_LIMIT) + 1)), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.lookup = lookup = TableLookup(table=tables.EXP2)
        m.d.comb += lookup.fraction.eq(self.x[:INPUT_BITS])
        exponent = Signal(signed(9))
        m.d.comb += exponent.eq(self.x[INPUT_BITS:].as_signed() + _BIAS)
        aligned = delay(m, exponent, TableLookup.PIPELINE_CYCLES, name="exponent")
        m.d.comb += self.o.eq(_assemble(m, lookup.y, aligned, largest=Const(0, 1)))
        return m


class Reciprocal(wiring.Component):
    """Reciprocal of a positive binary32 number.

    One result per cycle, `PIPELINE_CYCLES` later. Zero gives the largest finite number; the sign is
    not looked at. Tested on random numbers of every exponent.

    Members
    -------
    x : In(32)
    o : Out(32)
        ``tables.reciprocal(x)``.
    """

    PIPELINE_CYCLES = TableLookup.PIPELINE_CYCLES + 1

    x: Signal
    o: Signal

    def __init__(self):
        super().__init__({"x": In(32), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.lookup = lookup = TableLookup(table=tables.RECIPROCAL)
        m.d.comb += lookup.fraction.eq(self.x[23 - INPUT_BITS : 23])
        exponent = Signal(signed(9))
        m.d.comb += exponent.eq(2 * _BIAS - 1 - self.x[23:31])
        aligned = delay(m, exponent, TableLookup.PIPELINE_CYCLES, name="exponent")
        zero = delay(m, ~self.x[23:31].any(), TableLookup.PIPELINE_CYCLES, name="zero")
        m.d.comb += self.o.eq(_assemble(m, lookup.y, aligned, largest=zero))
        return m


class Rsqrt(wiring.Component):
    """Reciprocal square root of a positive binary32 number.

    One result per cycle, `PIPELINE_CYCLES` later. Zero gives the largest finite number; the sign is
    not looked at. Tested on random numbers of every exponent.

    Members
    -------
    x : In(32)
    o : Out(32)
        ``tables.rsqrt(x)``.
    """

    PIPELINE_CYCLES = TableLookup.PIPELINE_CYCLES + 1

    x: Signal
    o: Signal

    def __init__(self):
        super().__init__({"x": In(32), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.lookup = lookup = TableLookup(table=tables.RSQRT)
        unbiased = Signal(signed(9))
        exponent = Signal(signed(9))
        m.d.comb += [
            unbiased.eq(self.x[23:31] - _BIAS),
            lookup.fraction.eq(self.x[23 - INPUT_BITS : 23]),
            lookup.piece.eq(unbiased[0]),
            exponent.eq(_BIAS - 1 - (unbiased >> 1)),
        ]
        aligned = delay(m, exponent, TableLookup.PIPELINE_CYCLES, name="exponent")
        zero = delay(m, ~self.x[23:31].any(), TableLookup.PIPELINE_CYCLES, name="zero")
        m.d.comb += self.o.eq(_assemble(m, lookup.y, aligned, largest=zero))
        return m
