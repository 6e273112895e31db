"""Proof of the history buffer's bookkeeping: a hit is what the buffer holds, a miss is not.

For every sequence of walks of any lengths over any versions, and `clear` at any time between walks:
a shadow of one arbitrary position remembers the version last kept there. `HeldVersions` says hit
exactly if that is the version wanted, and the position fits and was kept since the last `clear`.
"""

import pytest
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Module, ResetSignal, Signal
from amaranth.lib import wiring

from skipstone.spec.config import CoreConfig
from skipstone_hw.held import HeldVersions
from skipstone_hw.numeric.pipeline import delay
from skipstone_sim.formal import ProofFailure, prove

CONFIG = CoreConfig(
    name="proof", rows=8, columns=8, lanes=1, ports=1, port_bits=256, max_hidden=32, max_ffn=32,
    max_query=32, max_context=8, max_chunk=4, max_layers=4, history_words=4,
)  # fmt: skip
PAUSE = HeldVersions.LATENCY + 2
"""Cycles between the last position of a walk and the next walk."""


class Walks(wiring.Component):
    """Walks at the solver's will beside the shadow of one position.

    Parameters
    ----------
    forget
        The shadow ignores `clear`: the proof fails.
    """

    def __init__(self, *, forget: bool = True):
        self._forget = forget
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.held = held = HeldVersions(config=CONFIG)
        m.d.comb += Assume(~ResetSignal())

        # A walk visits positions from 0, one per cycle, and ends when the solver likes.
        position, walking, pause = Signal(4), Signal(), Signal(range(PAUSE + 1), init=PAUSE)
        ends, begins, clear = AnySeq(1), AnySeq(1), AnySeq(1)
        last = ends | (position == CONFIG.max_context - 1)
        resting = ~walking & (pause == PAUSE)
        with m.If(walking):
            m.d.sync += [position.eq(position + 1), pause.eq(0)]
            with m.If(last):
                m.d.sync += [walking.eq(0), position.eq(0)]
        with m.Elif(pause != PAUSE):
            m.d.sync += pause.eq(pause + 1)
        with m.Elif(begins & ~clear):
            m.d.sync += walking.eq(1)

        visited = delay(m, walking, HeldVersions.LATENCY, name="visited", reset=True)
        where = delay(m, position, HeldVersions.LATENCY, name="where")
        finish = delay(m, walking & last, HeldVersions.LATENCY + 1, name="finish", reset=True)
        m.d.comb += [
            held.head_groups.eq(1),
            held.clear.eq(clear & resting),
            held.position.eq(position),
            held.visited.eq(visited),
            held.version.eq(AnySeq(2)),
            held.finish.eq(finish),
        ]

        mine = AnyConst(3)
        kept, version = Signal(), Signal(2)
        with m.If(visited & (where == mine)):
            fits = mine < CONFIG.history_words
            m.d.comb += Assert(held.hit == (fits & kept & (version == held.version)))
            m.d.sync += [kept.eq(1), version.eq(held.version)]
        if self._forget:
            with m.If(held.clear):
                m.d.sync += kept.eq(0)
        return m


def test_hits_and_misses(tmp_path):
    prove(Walks(), tmp_path, depth=24)


def test_what_must_be_forgotten(tmp_path):
    with pytest.raises(ProofFailure, match="an assertion fails"):
        prove(Walks(forget=False), tmp_path, depth=24)
