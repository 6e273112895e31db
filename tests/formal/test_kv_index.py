"""Proof of the rank and gap addresses: a walk reads every version that attention sees, each once.

For every bitmap of a small core, every layer and length of a walk, and every behaviour of memory:
the read commands of a walk, first for K, then for V, are in order the addresses that plain counting
gives to positions 0 .. last. The rank of a version is the number of earlier positions that stored
in its layer; its address counts from where the store of that layer begins, which is arbitrary.
Without a history buffer, every position is a miss. All ranks lie in a store's first block.
"""

import pytest
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Array, Assert, Assume, Cat, Const, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring

from skipstone.spec.config import CoreConfig
from skipstone.spec.layout import KV_BLOCK_TOKENS, KvLayout
from skipstone_hw.kv_index import KvIndex
from skipstone_sim.formal import ProofFailure, prove

LAYERS = 3
CONFIG = CoreConfig(
    name="proof", rows=8, columns=8, lanes=1, ports=1, port_bits=256, max_hidden=32, max_ffn=32,
    max_query=32, max_context=8, max_chunk=4, max_layers=LAYERS,
)  # fmt: skip
HEAD_DIM_LOG2 = 5
LAYOUT = KvLayout(1 << HEAD_DIM_LOG2, 1, CONFIG.word_bytes)
TOKENS_PER_EXPONENT_WORD_LOG2 = HEAD_DIM_LOG2 - 1


def walk_cycles(positions):
    """A walk whose commands are all taken at once has had both passes by then."""
    return 12 + 5 * positions


class Walk(wiring.Component):
    """One walk over a chunk with arbitrary bitmaps, and its commands held against counting.

    Parameters
    ----------
    positions
        Of the chunk; the walk ends at any of them.
    stalls
        Commands and misses are taken whenever the solver likes; else always, and the walk must end.
    shift
        Added to what is expected: not 0 makes the proof fail.
    """

    def __init__(self, *, positions: int, stalls: bool, shift: int = 0):
        self._positions, self._stalls, self._shift = positions, stalls, shift
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.index = index = KvIndex(config=CONFIG)
        m.d.comb += Assume(~ResetSignal())

        stored = [AnyConst(self._positions) for _ in range(LAYERS)]
        layer = AnyConst(2)
        last = AnyConst(3)
        seen = [Signal(LAYERS, name=f"seen_{s}") for s in range(self._positions)]
        m.d.comb += [Assume(layer < LAYERS), Assume(last < self._positions)]
        for s in range(self._positions):
            for n in range(LAYERS):
                m.d.comb += seen[s][n].eq(stored[n][s] & (n <= layer))
            m.d.comb += Assume(seen[s].any())

        # Stores begin anywhere.
        starts = [AnyConst(12) for _ in range(LAYERS)]

        # What counting says of each position: version, rank, addresses.
        addresses, exponents, slots, opens, words = [], [], [], [], []
        for s in range(self._positions):
            version, rank = Signal(range(LAYERS), name=f"version_{s}"), Signal(3, name=f"rank_{s}")
            for n in range(LAYERS):
                with m.If(seen[s][n]):
                    m.d.comb += [
                        version.eq(n),
                        rank.eq(sum((stored[n][t] for t in range(s)), Const(0))),
                    ]
            store = Array(starts)[version]
            addresses.append(store + rank + self._shift)
            exponents.append(store + 2 * KV_BLOCK_TOKENS + (rank >> TOKENS_PER_EXPONENT_WORD_LOG2))
            word = Cat(version, rank >> TOKENS_PER_EXPONENT_WORD_LOG2)
            opens.append(~Cat(word == earlier for earlier in words).any())
            words.append(word)
            slots.append(rank[:TOKENS_PER_EXPONENT_WORD_LOG2])

        # The chunk holds all positions; its layers commit one after the other; then the walk.
        step = Signal(range(LAYERS + 3))
        m.d.comb += [
            index.geometry.head_dim_log2.eq(HEAD_DIM_LOG2),
            index.geometry.group_words.eq(LAYOUT.group_words),
            index.geometry.block_words.eq(LAYOUT.block_words),
            index.geometry.head_groups.eq(1),
            index.geometry.kv_heads.eq(1),
            index.count.eq(self._positions),
            index.begin.eq(step == 0),
            index.walk.payload.layer.eq(layer),
            index.walk.payload.last.eq(last),
            index.walk.valid.eq(step == LAYERS + 1),
        ]
        for n in range(LAYERS):
            with m.If(step == n + 1):
                m.d.comb += [
                    index.store_set.eq(1),
                    index.store_layer.eq(n),
                    index.store.eq(starts[n]),
                    index.commit.eq(1),
                    index.commit_layer.eq(n),
                    index.commit_tokens.eq(stored[n]),
                ]
        with m.If((step <= LAYERS) | (index.walk.valid & index.walk.ready)):
            m.d.sync += step.eq(step + 1)
        taken = AnySeq(2) if self._stalls else Const(3, 2)
        m.d.comb += Cat(index.commands.ready, index.misses.ready).eq(taken)

        self.check(
            m, index, last, Array(addresses), Array(exponents), Array(slots), Array(opens), step
        )
        return m

    def check(self, m, index, last, addresses, exponents, slots, opens, step):
        """Commands in order of positions, exponent words once, before their first K words; each
        miss.
        """
        at, values = Signal(range(self._positions + 1)), Signal()
        exponents_read = Signal()
        command = index.commands
        moves = command.valid & command.ready
        words = command.payload.words
        opening = ~values & ~exponents_read & opens[at]
        with m.If(moves & opening):
            m.d.comb += [Assert(words == 1), Assert(command.payload.address == exponents[at])]
            m.d.sync += exponents_read.eq(1)
        with m.If(moves & ~opening):
            m.d.comb += [Assert(words != 0), Assert(at + words <= last + 1)]
            for k in range(self._positions):
                with m.If((k < words) & (at + k <= last)):
                    expected = addresses[at + k] + Mux(values, KV_BLOCK_TOKENS, 0)
                    m.d.comb += Assert(command.payload.address + k == expected)
                    if k:
                        m.d.comb += Assert(~opens[at + k])
            m.d.sync += [at.eq(at + words), exponents_read.eq(0)]
            with m.If((at + words == last + 1) & ~values):
                m.d.sync += [at.eq(0), values.eq(1)]

        miss = index.misses
        missed, ends = Signal(range(self._positions + 1)), Signal(2)
        with m.If(miss.valid & miss.ready):
            m.d.sync += missed.eq(missed + 1)
            with m.If(miss.payload.end):
                m.d.comb += Assert(missed == last + 1)
                m.d.sync += [missed.eq(0), ends.eq(ends + 1)]
            with m.Else():
                m.d.comb += [
                    Assert(missed <= last),
                    Assert(miss.payload.data.position == missed),
                    Assert(miss.payload.data.slot == slots[missed]),
                    Assert(miss.payload.data.opens == opens[missed]),
                ]

        walked = step == LAYERS + 2
        with m.If(walked & index.idle):
            m.d.comb += [Assert(values), Assert(at == last + 1)]
        cycles = Signal(range(walk_cycles(self._positions) + 2))
        with m.If(walked & (cycles <= walk_cycles(self._positions))):
            m.d.sync += cycles.eq(cycles + 1)
        if not self._stalls:
            done = index.idle & (ends == 2)
            m.d.comb += Assert(Mux(cycles > walk_cycles(self._positions), done, 1))


@pytest.mark.parametrize(
    ("positions", "stalls", "depth"),
    [(3, False, LAYERS + walk_cycles(3) + 4), (2, True, 20)],
    ids=["at once", "stalled"],
)
def test_walks(tmp_path, positions, stalls, depth):
    prove(Walk(positions=positions, stalls=stalls), tmp_path, depth=depth)


def test_a_wrong_address_is_found(tmp_path):
    with pytest.raises(ProofFailure, match="an assertion fails"):
        prove(Walk(positions=4, stalls=False, shift=1), tmp_path, depth=30)
