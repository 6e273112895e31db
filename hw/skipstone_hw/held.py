"""Which version of each position's K and V the history buffer holds.

Of a token that skips attention in a layer, attention reads the same K and V again as in the layer
before, and of a chunk's tokens each reads, in every layer, what the one before it read. Unlike in
SkipOPU (arXiv 2603.14785), the layers that attend need not be consecutive for that: what counts is
the version, not which layer asked last.
"""

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig

from .numeric.pipeline import delay

__all__ = ["HeldVersions", "groups_log2"]


def groups_log2(m: Module, head_groups: Value) -> Signal:
    """log2 of the words that a position takes: its head groups, rounded up to a power of two."""
    log2 = Signal(range(len(head_groups) + 1), name="groups_log2")
    highest = Signal(len(head_groups), name="highest_group")
    m.d.comb += highest.eq(head_groups - 1)
    for n in range(len(highest)):
        with m.If(highest[n]):
            m.d.comb += log2.eq(n + 1)
    return log2


class HeldVersions(wiring.Component):
    """Bookkeeping of the history buffer: the version that it holds of each position.

    A version of a position is the layer that stored it. A walk visits positions from 0 on, one per
    cycle, and tells three cycles later which version attention wants; `hit` answers in that cycle
    whether the buffer holds it. If not, it is fetched from memory and kept: from the end of the
    walk on it is what the buffer holds.

    It is exact for any order of layers, because what is compared is which store was kept, and a
    store does not change while it is held: a token stores once in a layer of a chunk, and `clear`
    forgets everything at the beginning of the next. Every position that may hit was visited since:
    walks begin at 0, so these are a prefix, `limit`, and the memory behind needs no clearing.

    Parameters
    ----------
    config : CoreConfig
        With history_words.

    Members
    -------
    head_groups : In(16)
    clear : In(1)
        Forget all versions.
    position : In(range(max_context + 1))
        Visited by the walk.
    visited : In(1)
        The position given `LATENCY` cycles ago was meant, and attention wants its `version`.
    version : In(range(max_layers))
    finish : In(1)
        Pulse, after the last visit of a walk.
    hit : Out(1)
    """

    LATENCY = 3

    head_groups: Signal
    clear: Signal
    position: Signal
    visited: Signal
    version: Signal
    finish: Signal
    hit: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "head_groups": In(16),
                "clear": In(1),
                "position": In(unsigned(bits_for(c.max_context))),
                "visited": In(1),
                "version": In(range(c.max_layers)),
                "finish": In(1),
                "hit": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        m.submodules.versions = versions = memory.Memory(
            shape=unsigned(len(self.version)), depth=min(c.max_context, c.history_words), init=[]
        )
        read, write = versions.read_port(), versions.write_port()
        held = delay(m, read.data, self.LATENCY - 1, name="held")
        position = delay(m, self.position, self.LATENCY, name="position")
        capacity = Signal(unsigned(bits_for(c.history_words)))
        m.d.sync += capacity.eq(c.history_words >> groups_log2(m, self.head_groups))

        fits = Signal()
        limit, walked = Signal.like(self.position), Signal.like(self.position)
        m.d.comb += [
            fits.eq(position < capacity),
            self.hit.eq(fits & (position < limit) & (held == self.version)),
            read.addr.eq(self.position),
            write.addr.eq(position),
            write.data.eq(self.version),
            write.en.eq(self.visited & fits),
        ]
        with m.If(self.visited):
            m.d.sync += walked.eq(position + 1)
        with m.If(self.clear):
            m.d.sync += limit.eq(0)
        with m.Elif(self.finish & (walked > limit)):
            m.d.sync += limit.eq(walked)
        return m
