"""A serial line: eight data bits, least significant first, no parity, one stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter"]


def _check(divisor: int) -> None:
    if divisor < 4:
        raise ValueError(f"divisor must be at least 4, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Receiver of a serial line.

    A byte is offered for one cycle in the middle of its stop bit; nobody can make it wait. A byte
    without a stop bit is dropped.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    rx : In(1)
        The line, asynchronous.
    data : Out(8)
    valid : Out(1)
        `data` is a byte; one cycle.
    """

    rx: Signal
    data: Signal
    valid: Signal

    def __init__(self, *, divisor: int):
        _check(divisor)
        self._divisor = divisor
        super().__init__({"rx": In(1), "data": Out(8), "valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.line = FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(self._divisor))
        bits = Signal(9)  # the data, and the stop bit last
        left = Signal(range(11))  # bits to come, with the start bit
        m.d.comb += self.data.eq(bits[:8])
        m.d.sync += self.valid.eq(0)
        with m.If(left == 0):
            with m.If(~line):
                m.d.sync += [left.eq(10), timer.eq(self._divisor // 2 - 1)]
        with m.Elif(timer == 0):
            m.d.sync += [
                timer.eq(self._divisor - 1),
                bits.eq(Cat(bits[1:], line)),
                left.eq(left - 1),
            ]
            with m.If((left == 10) & line):  # not a start bit after all
                m.d.sync += left.eq(0)
            with m.If(left == 1):
                m.d.sync += self.valid.eq(line)
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        return m


class UartTransmitter(wiring.Component):
    """Transmitter of a serial line.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    i : In(stream.Signature(8))
    tx : Out(1)
    """

    i: stream.Interface
    tx: Signal

    def __init__(self, *, divisor: int):
        _check(divisor)
        self._divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        timer = Signal(range(self._divisor))
        bits = Signal(10, init=0x3FF)
        left = Signal(range(11))
        m.d.comb += [self.tx.eq(bits[0]), self.i.ready.eq(left == 0)]
        with m.If(left == 0):
            with m.If(self.i.valid):
                m.d.sync += [
                    bits.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))),
                    left.eq(10),
                    timer.eq(self._divisor - 1),
                ]
        with m.Elif(timer == 0):
            m.d.sync += [
                timer.eq(self._divisor - 1),
                bits.eq(Cat(bits[1:], Const(1, 1))),
                left.eq(left - 1),
            ]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        return m
