"""Bench of the probabilities: each token's, and their sums, against the golden rule."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from skipstone.spec.formats import PROBABILITY_FRACTION_BITS, SCORE_MAX
from skipstone.spec.tables import EXP2, INPUT_BITS, OUTPUT_BITS
from skipstone_hw.attention import Probabilities
from skipstone_hw.attention.scores import ScoreEntryLayout
from skipstone_sim.bench_tools import (
    StreamMonitor,
    begin,
    bench_config,
    bench_parameters,
    cycle,
    cycles,
    pack,
    random_stall,
    unpack,
)

CONFIG = bench_config()
HEADS = range(CONFIG.heads_per_word)
LANES = range(bench_parameters()["lanes"])
PORTS = Probabilities(config=CONFIG, lanes=len(LANES)).signature.members
SPREADS = (0, 1 << 16, 1 << 18, 1 << 21, 1 << 22, SCORE_MAX)
"""How far scores lie apart: equal, a factor of two, of 16, of 2^32 and beyond."""

Entry = dict[str, Any]


def probability(score: int, maximum: int) -> int:
    below = score - maximum
    one_plus = int(EXP2(below & ((1 << INPUT_BITS) - 1))) + (1 << OUTPUT_BITS)
    return (one_plus << PROBABILITY_FRACTION_BITS - OUTPUT_BITS) >> -(below >> INPUT_BITS)


class TestBench:
    """The unit and a score memory."""

    def __init__(self, dut: Any, *, stall: float):
        self.dut, self.rng = dut, random.Random(6)
        self.full_rate = not stall
        self.outputs = StreamMonitor(
            dut,
            "o",
            shape=PORTS["o"].signature.members["payload"].shape,
            stall=random_stall(stall, seed=1) if stall else None,
        )
        self.entries: dict[int, Entry] = {}
        self.sources: list[int] = []
        cocotb.start_soon(self._memory())

    async def _memory(self) -> None:
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            at = int(dut.address.value)
            if dut.o__valid.value and dut.o__ready.value:
                self.sources.append(int(dut.source.value))
            if dut.read_enable.value and at in self.entries:
                dut.entry.value = pack(ScoreEntryLayout(CONFIG, len(LANES)), self.entries[at])

    def random_entries(self, count: int) -> list[Entry]:
        rng = self.rng
        spread, top = rng.choice(SPREADS), rng.randint(-SCORE_MAX - 1, SCORE_MAX)
        exponent, far = rng.randint(-128, 127), rng.choice((0, 3, 40, 255))
        return [
            {
                "score": [
                    [max(-SCORE_MAX - 1, top - rng.randint(0, spread)) for _ in HEADS]
                    for _ in LANES
                ],
                "value_exponent": [
                    max(-128, min(127, exponent + rng.randint(-far, far))) for _ in HEADS
                ],
            }
            for _ in range(count)
        ]

    async def check(self, count: int, kept: int = 0) -> None:
        """All tokens of a head group, of which `kept` are the history's."""
        dut = self.dut
        entries = self.random_entries(count)
        addresses = [CONFIG.max_context - 1 - n for n in range(kept)] + list(range(count - kept))
        self.entries = dict(zip(addresses, entries, strict=True))
        self.sources.clear()
        maximum = [
            [max((e["score"][n][h] for e in entries), default=0) for h in HEADS] for n in LANES
        ]
        reference = [max((e["value_exponent"][h] for e in entries), default=0) for h in HEADS]
        dut.maximum.value = pack(PORTS["maximum"].shape, maximum)
        dut.reference.value = pack(PORTS["reference"].shape, reference)
        dut.count.value = pack(PORTS["count"].shape, [count - kept, kept])
        dut.start.value = 1
        await cycle(dut)
        started = cycles()
        dut.start.value = 0
        total = [[0 for _ in HEADS] for _ in LANES]
        for entry, o in zip(entries, await self.outputs.take(count), strict=True):
            for lane in LANES:
                for h in HEADS:
                    p = probability(entry["score"][lane][h], maximum[lane][h])
                    assert o[lane][h] == p >> reference[h] - entry["value_exponent"][h]
                    total[lane][h] += p
        await cycle(dut)  # without tokens, the one that clears
        assert unpack(PORTS["total"].shape, int(dut.total.value)) == total
        if self.full_rate and count:
            first = started + Probabilities.PIPELINE_CYCLES + 1
            assert self.outputs.times[-count:] == list(range(first, first + count))
        await self.outputs.expect_silence(3)
        assert self.sources == [1] * kept + [0] * (count - kept)


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    await begin(dut)
    bench = TestBench(dut, stall=stall)
    for n in range(rounds):
        count = (1, 2, 30, 5)[n % 4]
        await bench.check(count, (0, count, bench.rng.randint(0, count))[n % 3])
    await bench.check(0)
    await bench.outputs.expect_silence()


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=32)


@cocotb.test()
async def stalled(dut):
    await exercise(dut, 0.5, rounds=16)


@cocotb.test()
async def longest_context(dut):
    """The largest sum there is."""
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    await bench.check(CONFIG.max_context)
