"""A list that is written once and read several times."""

from amaranth.hdl import Module, Mux, ShapeCastable, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig

__all__ = ["PASSES_BITS", "ItemLayout", "ReplayList"]

PASSES_BITS = 17


class ItemLayout(data.StructLayout):
    """An item of a list, or its `end`, which carries no data."""

    def __init__(self, shape: ShapeCastable):
        super().__init__({"data": shape, "end": 1})


class ReplayList(wiring.Component):
    """Lists, one behind the other; each is read `passes` times before the next.

    A list is at most max_context items and its end, and is held whole until its last pass is over.
    Reading may begin before the list is complete. An item can be read two cycles after it was
    written, and one item per cycle, across passes and lists.

    Tested with empty and longest lists, one and many passes, reading stalled, ahead of the writing
    and behind it.

    Parameters
    ----------
    config : CoreConfig
    shape
        Shape of an item's data.

    Members
    -------
    write : In(1)
        `item` is the next of the list being written.
    item : In(ItemLayout(shape))
    room : Out(1)
        A longest list can be written now.
    passes : In(PASSES_BITS)
        How often each list is read, at least once.
    o : Out(stream.Signature(ItemLayout(shape)))
        The items of each pass, its end last.
    empty : Out(1)
        Everything written was read for the last time.
    """

    write: Signal
    item: data.View
    room: Signal
    passes: Signal
    o: stream.Interface
    empty: Signal

    def __init__(self, *, config: CoreConfig, shape: ShapeCastable):
        self._config, self._shape = config, shape
        super().__init__(
            {
                "write": In(1),
                "item": In(ItemLayout(shape)),
                "room": Out(1),
                "passes": In(PASSES_BITS),
                "o": Out(stream.Signature(ItemLayout(shape))),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        longest = self._config.max_context
        m.submodules.store = store = memory.Memory(
            shape=ItemLayout(self._shape), depth=2 * longest, init=[]
        )
        write, read = store.write_port(), store.read_port()
        # Places since reset; one bit more than an address tells a full memory from an empty one.
        place = unsigned(exact_log2(2 * longest) + 1)
        written, first, following = Signal(place), Signal(place), Signal(place)
        held = Signal(place)
        m.d.comb += [
            held.eq(written - first),
            self.room.eq(held < longest),
            self.empty.eq(held == 0),
            write.en.eq(self.write),
            write.addr.eq(written),
            write.data.eq(self.item),
        ]
        with m.If(self.write):
            m.d.sync += written.eq(written + 1)

        shown = Signal()  # the read port shows an item
        done = Signal.like(self.passes)
        at = Signal(place)
        take, ends, again, some = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.o.valid.eq(shown),
            self.o.payload.eq(read.data),
            take.eq(~shown | self.o.ready),
            ends.eq(shown & self.o.payload.end),
            again.eq(ends & (done + 1 != self.passes)),
            at.eq(Mux(again, first, following)),
            some.eq(at != written),
            read.addr.eq(at),
            read.en.eq(take),
        ]
        with m.If(take):
            m.d.sync += [shown.eq(some), following.eq(at + some)]
            with m.If(again):
                m.d.sync += done.eq(done + 1)
            with m.Elif(ends):
                m.d.sync += [done.eq(0), first.eq(following)]
        return m
