"""Streams over a boundary, and the grant of weights: order, rate, resets that come apart."""

import random

import pytest
from amaranth.hdl import Module, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.sim import Simulator

from skipstone.estimate.cycles import SIGNAL_CROSSING, STREAM_CROSSING
from skipstone_hw.crossing import CROSSING_CYCLES, Receiver, Sender, crossing_register
from skipstone_hw.grant import WeightGrant
from skipstone_hw.regions import Boundary

COUNT = 300


class Pair(wiring.Component):
    """Both sides of a stream; the one that `resets_late` hears of `reset` as the other region."""

    def __init__(self, *, resets_late="receiver"):
        self._resets_late = resets_late
        super().__init__(
            {
                "i": In(stream.Signature(16)),
                "o": Out(stream.Signature(16)),
                "pending": Out(1),
                "reset": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        late = self.reset
        for n in range(CROSSING_CYCLES):
            late = crossing_register(m, late, name=f"reset_{n}")
        resets = {"sender": self.reset, "receiver": self.reset, self._resets_late: late}
        sender, receiver = Sender(shape=16), Receiver(shape=16)
        m.submodules.sender = ResetInserter(resets["sender"])(sender)
        m.submodules.receiver = ResetInserter(resets["receiver"])(receiver)
        connect(m, flipped(self.i), sender.i)
        connect(m, sender.link, receiver.link)
        connect(m, receiver.o, flipped(self.o))
        m.d.comb += self.pending.eq(sender.pending)
        return m


def simulate(component, process):
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(process)
    simulator.run()


async def exchange(ctx, pair, *, sending, taking, count=COUNT, first=0):
    """Send and take `count` payloads; returns the cycles in which each was accepted and taken."""
    accepted, taken, cycle = [], [], 0
    while len(taken) < count:
        wants = sending() and len(accepted) < count
        ctx.set(pair.i.valid, wants)
        ctx.set(pair.i.payload, first + len(accepted))
        ctx.set(pair.o.ready, taking())
        if wants and ctx.get(pair.i.ready):
            accepted.append(cycle)
        under_way = len(accepted) - (len(taken) + (ctx.get(pair.o.valid) and ctx.get(pair.o.ready)))
        if ctx.get(pair.o.valid & pair.o.ready):
            assert ctx.get(pair.o.payload) == first + len(taken)
            taken.append(cycle)
        await ctx.tick()
        if under_way:
            assert ctx.get(pair.pending)
        cycle += 1
        assert cycle < 20 * count
    ctx.set(pair.i.valid, 0)
    return accepted, taken


def test_full_rate_then_silence():
    pair = Pair()

    async def process(ctx):
        accepted, taken = await exchange(ctx, pair, sending=lambda: True, taking=lambda: True)
        assert accepted == list(range(COUNT))
        assert taken == [at + Receiver.STREAM_CYCLES for at in accepted]
        ctx.set(pair.o.ready, 1)
        for _ in range(3):
            await ctx.tick()
        for _ in range(10):
            assert not ctx.get(pair.pending)
            assert not ctx.get(pair.o.valid)
            await ctx.tick()

    simulate(pair, process)


@pytest.mark.parametrize(("sends", "takes"), [(0.3, 1.0), (1.0, 0.3), (0.6, 0.6)])
def test_stalled_on_both_sides(sends, takes):
    pair, rng = Pair(), random.Random(3)

    async def process(ctx):
        await exchange(
            ctx, pair, sending=lambda: rng.random() < sends, taking=lambda: rng.random() < takes
        )

    simulate(pair, process)


@pytest.mark.parametrize("late", ["sender", "receiver"])
@pytest.mark.parametrize("ready", [0, 1])
def test_nothing_survives_a_reset(late, ready):
    pair = Pair(resets_late=late)

    async def process(ctx):
        for before in range(1, 12):
            ctx.set(pair.i.valid, 1)
            ctx.set(pair.o.ready, ready)
            await ctx.tick().repeat(before)
            ctx.set(pair.reset, 1)
            # What feeds the sender is reset with it.
            fed = CROSSING_CYCLES if late == "sender" else 1
            await ctx.tick().repeat(fed)
            ctx.set(pair.i.valid, 0)
            ctx.set(pair.o.ready, 0)
            await ctx.tick().repeat(Boundary.RESET_CYCLES - fed)
            ctx.set(pair.reset, 0)
            await ctx.tick().repeat(8)
            assert not ctx.get(pair.o.valid)
            assert not ctx.get(pair.pending)
            rate = await exchange(
                ctx, pair, sending=lambda: True, taking=lambda: True, count=20, first=1000
            )
            assert rate[0] == list(range(20))
            await ctx.tick().repeat(4)

    simulate(pair, process)


def test_weights_pass_when_their_matrix_was_issued():
    """Random requests, guesses that are dropped, and words that come at any time after them."""
    grant, rng = WeightGrant(), random.Random(5)

    async def process(ctx):
        coming = []  # of each requested word whether its matrix was issued
        for _ in range(2000):
            request = rng.choice((0, 0, 0, 1, 7))
            issue = not request and rng.random() < 0.1
            # A guess may turn out wrong, before anything else is requested.
            ready = bool(coming) and (coming[0] or rng.random() < 0.05)
            gone = ready and rng.random() < 0.7
            assert ctx.get(grant.open) == (bool(coming) and coming[0])
            ctx.set(grant.requested, request)
            ctx.set(grant.issued, issue)
            ctx.set(grant.gone, gone)
            await ctx.tick()
            if gone:
                coming.pop(0)
            coming += [False] * request
            if issue:
                coming = [True] * len(coming)

    simulate(grant, process)


def test_the_estimate_knows_the_cycles():
    assert STREAM_CROSSING == Receiver.STREAM_CYCLES
    assert SIGNAL_CROSSING == CROSSING_CYCLES
