"""Which weights may leave region 0: those of matrices whose LINEAR was issued.

The first words of a matrix are requested before it is known whether any token needs it, and dropped
if not. Words that have crossed to the array's region are past that.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["WeightGrant"]

_COUNT_BITS = 28
"""Words of as many commands as can wait at a boundary, each of at most 2^24."""


class WeightGrant(wiring.Component):
    """Count of the weight words that may pass.

    Words come in the order of the requests. All that were requested before a LINEAR is issued are
    its own, those of LINEARs before it, or dropped before they come.

    Members
    -------
    requested : In(24)
        Words of a read that was requested, 0 if none was: before its LINEAR is issued and before
        its first word.
    issued : In(1)
        A LINEAR is issued. Not with a request.
    gone : In(1)
        A word passes, or is dropped.
    open : Out(1)
        The next word may pass.
    """

    requested: Signal
    issued: Signal
    gone: Signal
    open: Signal

    def __init__(self) -> None:
        super().__init__({"requested": In(24), "issued": In(1), "gone": In(1), "open": Out(1)})

    def elaborate(self, platform):
        m = Module()
        granted, waiting = Signal(_COUNT_BITS), Signal(_COUNT_BITS)
        of_granted = Signal()
        left, more = Signal.like(granted), Signal.like(waiting)
        m.d.comb += [
            self.open.eq(of_granted),
            of_granted.eq(granted != 0),
            left.eq(granted - (self.gone & of_granted)),
            more.eq(waiting + self.requested - (self.gone & ~of_granted)),
        ]
        m.d.sync += [
            granted.eq(left + Mux(self.issued, more, 0)),
            waiting.eq(Mux(self.issued, 0, more)),
        ]
        return m
