"""Streams and signals from one super logic region to the other: from a register to a register.

A wire between regions takes most of a cycle, so there is nothing else in its way: the sender ends
in registers, and what they drive are registers too. A stream's `ready` would have to come back in
the same way and be late, so the receiver has room for what is under way, and the sender counts it
(credits; Dally and Towles, "Principles and Practices of Interconnection Networks", 13.3).
"""

from typing import Any

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig

__all__ = [
    "CROSSING_CYCLES",
    "LinkSignature",
    "Receiver",
    "Sender",
    "crossing_cycles",
    "crossing_register",
]

CROSSING_CYCLES = 2
"""Registers between the regions: the sender's last and the receiver's first."""
_CREDITS = 8
"""Payloads under way. One is offered `Receiver.STREAM_CYCLES` cycles after it was accepted, and the
sender knows three cycles later that it was taken: seven would do for one per cycle."""


def crossing_cycles(config: CoreConfig) -> int:
    """Cycles by which a signal is late in the other region; 0 if there is but one."""
    return CROSSING_CYCLES if config.region_registers else 0


def crossing_register(m: Module, value: Any, *, name: str) -> Any:
    """`value` a cycle later, from a register at a boundary: without reset or enable, which would be
    logic in front of it, and never part of a shift register, which cannot be in two places."""
    register = Signal(value.shape(), name=name, reset_less=True, attrs={"shreg_extract": "no"})
    m.d.sync += register.eq(value)
    return register


class LinkSignature(wiring.Signature):
    """What of a stream lies between the regions, seen from the sender. All members are registers,
    and drive nothing but registers.

    Parameters
    ----------
    shape : ShapeLike
        Payload.

    Members
    -------
    valid : Out(1)
        There is a payload: it must be taken in.
    payload : Out(shape)
    taken : In(1)
        The receiver has passed one on.
    """

    def __init__(self, shape: Any):
        super().__init__({"valid": Out(1), "payload": Out(shape), "taken": In(1)})


class Sender(wiring.Component):
    """Near side of a stream into the other region.

    Takes a payload per cycle as long as the receiver has room for it.

    Parameters
    ----------
    shape : ShapeLike
        Payload.

    Members
    -------
    i : In(stream.Signature(shape))
    link : Out(LinkSignature(shape))
    pending : Out(1)
        Something that was accepted has not been taken from the receiver. Rises in the cycle after
        it was accepted; falls no earlier than what became of it on the other side can be seen here,
        if that shows there in the cycle after it was taken, and comes back as a signal.
    """

    i: stream.Interface
    link: Any
    pending: Signal

    def __init__(self, *, shape: Any):
        self._shape = shape
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "link": Out(LinkSignature(shape)),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        credits = Signal(range(_CREDITS + 1), init=_CREDITS)
        payload = Signal(self._shape, reset_less=True)
        accepted, valid = Signal(), Signal()
        returned = crossing_register(m, self.link.taken, name="returned")
        m.d.comb += [
            self.i.ready.eq(credits != 0),
            self.pending.eq(credits != _CREDITS),
            accepted.eq(self.i.valid & self.i.ready),
            self.link.valid.eq(valid),
            self.link.payload.eq(payload),
        ]
        m.d.sync += [credits.eq(credits + returned - accepted), valid.eq(accepted)]
        with m.If(accepted):
            m.d.sync += payload.eq(self.i.payload)
        return m


class Receiver(wiring.Component):
    """Far side of a stream, opposite its `Sender`.

    Its first registers are empty from the second cycle of the sender's reset on.

    Parameters
    ----------
    shape : ShapeLike
        Payload.

    Members
    -------
    link : In(LinkSignature(shape))
    o : Out(stream.Signature(shape))
        A payload appears `STREAM_CYCLES` after the sender accepted it, if none is before it.
    """

    STREAM_CYCLES = CROSSING_CYCLES + 2

    link: Any
    o: stream.Interface

    def __init__(self, *, shape: Any):
        self._shape = shape
        super().__init__({"link": In(LinkSignature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        # One entry of a buffered FIFO is its output register.
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=Shape.cast(self._shape).width, depth=_CREDITS + 1
        )
        taken = Signal()
        m.d.comb += [
            queue.w_en.eq(crossing_register(m, self.link.valid, name="arrived")),
            queue.w_data.eq(crossing_register(m, self.link.payload, name="arrived_payload")),
            self.o.valid.eq(queue.r_rdy),
            self.o.payload.eq(queue.r_data),
            queue.r_en.eq(self.o.ready),
            self.link.taken.eq(taken),
        ]
        m.d.sync += taken.eq(self.o.valid & self.o.ready)
        return m
