"""A two-entry register buffer that cuts every combinational path through a stream."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Skid"]


class Skid(wiring.Component):
    """Stream buffer of two entries, all of whose outputs are registers.

    A payload appears on `o` in the cycle after it was accepted. One payload per cycle is sustained;
    after `o` stalls, one more is accepted.

    Parameters
    ----------
    shape : ShapeLike
        Payload.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: Any):
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        spare = Signal(self._shape)
        spare_valid = Signal()
        head = Signal(self._shape)
        head_valid = Signal()

        m.d.comb += [
            self.i.ready.eq(~spare_valid),
            self.o.payload.eq(head),
            self.o.valid.eq(head_valid),
        ]
        with m.If(~head_valid | self.o.ready):
            with m.If(spare_valid):
                m.d.sync += [head.eq(spare), head_valid.eq(1), spare_valid.eq(0)]
            with m.Else():
                m.d.sync += [head.eq(self.i.payload), head_valid.eq(self.i.valid)]
        with m.Elif(self.i.valid & ~spare_valid):
            m.d.sync += [spare.eq(self.i.payload), spare_valid.eq(1)]
        return m
