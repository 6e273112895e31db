"""Bench of the KV writer: the store after the writes against the layout's definition."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge

from skipstone.spec.layout import KvLayout
from skipstone_hw.kv_writer import KvWriter
from skipstone_hw.layouts import MantissaPairLayout, PairKind, WriteLayout, piece_bytes
from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    cycle,
    cycles,
    random_stall,
)

CONFIG = bench_config()
PIECE_BYTES = piece_bytes(CONFIG)
HEAD_DIMS = [1 << log2 for log2 in CONFIG.head_dim_log2]
GUARD = 0xA5
Pair = dict[str, Any]


def head_pairs(rng: np.random.Generator, kv: KvLayout, kind: PairKind, token: int, head: int):
    """Pairs of a random head, its bytes and its exponent."""
    mantissa = rng.integers(-127, 128, kv.head_dim)
    exponent = int(rng.integers(-128, 128))
    half = kv.head_dim // 2
    pairs: list[Pair] = [
        {
            "mantissa": pair,
            "exponent": exponent,
            "kind": kind,
            "token": token,
            "index": head * half + n,
            "last": n == half - 1,
        }
        for n, pair in enumerate(mantissa.reshape(-1, 2).tolist())
    ]
    return pairs, mantissa.astype(np.int8).view(np.uint8), exponent & 0xFF


class Store:
    """Memory words around a KV store, at first a guard pattern, and what they should become."""

    def __init__(self, kv: KvLayout, start: int, room: int):
        self.kv, self.start = kv, start
        words = start + kv.words(room) + 4
        self.actual = np.full((words, kv.word_bytes), GUARD, np.uint8)
        self.expected = self.actual.copy()

    def apply(self, write: dict[str, int]) -> None:
        word = self.actual[write["address"]].reshape(-1, PIECE_BYTES)
        data = np.frombuffer(write["data"].to_bytes(PIECE_BYTES, "little"), np.uint8)
        enabled = [bool(write["strobe"] >> n & 1) for n in range(PIECE_BYTES)]
        word[write["piece"], enabled] = data[enabled]

    def expect(self, rank: int, head: int, is_value: bool, data, exponent: int) -> None:
        kv, per = self.kv, self.kv.heads_per_word
        *rows, exponents = kv.places(self.start, rank, head // per)
        at = head % per * kv.head_dim
        self.expected[rows[is_value], at : at + kv.head_dim] = data
        byte = rank % kv.tokens_per_exponent_word * 2 * per + is_value * per + head % per
        self.expected[exponents, byte] = exponent


async def serve_ranks(dut: Any, ranks: dict[int, int]) -> None:
    """The rank of `rank_token`, as late as it may be."""
    asked = deque([0] * (KvWriter.RANK_CYCLES + 1), maxlen=KvWriter.RANK_CYCLES + 1)
    while True:
        await FallingEdge(dut.clk)
        asked.append(int(dut.rank_token.value))
        dut.rank.value = ranks.get(asked[0], 0)


def configure(dut: Any, store: Store) -> None:
    kv = store.kv
    dut.head_dim_log2.value = kv.head_dim.bit_length() - 1
    dut.store.value = store.start
    dut.group_words.value = kv.group_words
    dut.block_words.value = kv.block_words


async def settle(dut: Any) -> None:
    await cycle(dut, 2)
    for _ in range(1000):
        if dut.idle.value == 1:
            return
        await cycle(dut)
    raise AssertionError("never idle")


async def exercise(dut: Any, stall_in: float, stall_out: float, *, rounds: int) -> None:
    rng = np.random.default_rng(31)
    await begin(dut)
    stalls = [random_stall(p, seed=n) if p else None for n, p in enumerate((stall_in, stall_out))]
    driver = StreamDriver(dut, "i", shape=MantissaPairLayout(CONFIG), stall=stalls[0])
    monitor = StreamMonitor(dut, "o", shape=WriteLayout(CONFIG), stall=stalls[1])
    ranks: dict[int, int] = {}
    cocotb.start_soon(serve_ranks(dut, ranks))
    for n in range(rounds):
        head_dim = HEAD_DIMS[n % len(HEAD_DIMS)]
        most = CONFIG.max_query // head_dim
        kv_heads = most if n < len(HEAD_DIMS) else int(rng.integers(1, most + 1))
        room = int(rng.integers(CONFIG.max_chunk, 300))
        kv = KvLayout(head_dim, kv_heads, CONFIG.word_bytes)
        store = Store(kv, int(rng.integers(0, 1000)), room)
        configure(dut, store)
        tokens = rng.choice(CONFIG.max_chunk, size=CONFIG.lanes, replace=False).tolist()
        first = int(rng.integers(0, room - len(tokens) + 1))
        ranks.clear()
        ranks.update({token: first + k for k, token in enumerate(tokens)})
        writes = 0
        for kind in (PairKind.KEY, PairKind.VALUE):
            queue = [(t, h) for h in range(kv_heads) for t in tokens]
            for token, head in queue:
                if rng.random() < 0.1:  # other kinds pass by
                    pairs, _, _ = head_pairs(rng, kv, PairKind.QUERY, token, head)
                    driver.queue(pairs)
                pairs, data, exponent = head_pairs(rng, kv, kind, token, head)
                driver.queue(pairs)
                store.expect(ranks[token], head, kind is PairKind.VALUE, data, exponent)
                writes += 2
        for write in await monitor.take(writes):
            store.apply(write)
        await driver.send([])
        await settle(dut)
        await monitor.expect_silence()
        np.testing.assert_array_equal(store.actual, store.expected)


@cocotb.test()
async def both_sides_stall(dut):
    await exercise(dut, 0.4, 0.4, rounds=6 * len(HEAD_DIMS))


@cocotb.test()
async def slow_writer(dut):
    await exercise(dut, 0.0, 0.95, rounds=2 * len(HEAD_DIMS))


@cocotb.test()
async def full_rate(dut):
    """Heads back to back are taken without losing a cycle."""
    rng = np.random.default_rng(2)
    await begin(dut)
    driver = StreamDriver(dut, "i", shape=MantissaPairLayout(CONFIG))
    monitor = StreamMonitor(dut, "o", shape=WriteLayout(CONFIG))
    kv = KvLayout(HEAD_DIMS[0], CONFIG.max_query // HEAD_DIMS[0], CONFIG.word_bytes)
    store = Store(kv, 64, 32)
    configure(dut, store)
    dut.rank.value = 5
    sent: list[Pair] = []
    for kind in (PairKind.KEY, PairKind.VALUE):
        for head in range(kv.kv_heads):
            pairs, data, exponent = head_pairs(rng, kv, kind, 0, head)
            store.expect(5, head, kind is PairKind.VALUE, data, exponent)
            sent += pairs
    begun = cycles()
    await driver.send(sent)
    accepted = cycles()
    assert accepted - begun <= len(sent) + 2
    for write in await monitor.take(4 * kv.kv_heads):
        store.apply(write)
    assert monitor.times[-2:] == [accepted + KvWriter.PIPELINE_CYCLES + n for n in range(2)]
    await settle(dut)
    await monitor.expect_silence()
    np.testing.assert_array_equal(store.actual, store.expected)


@cocotb.test()
async def idle_covers_parts(dut):
    """Half a head, or a write nobody took, is not idle."""
    rng = np.random.default_rng(8)
    await begin(dut)
    driver = StreamDriver(dut, "i", shape=MantissaPairLayout(CONFIG))
    kv = KvLayout(HEAD_DIMS[0], 1, CONFIG.word_bytes)
    configure(dut, Store(kv, 0, 16))
    assert dut.idle.value == 1
    pairs, _, _ = head_pairs(rng, kv, PairKind.KEY, 0, 0)
    await driver.send(pairs[:3])
    await cycle(dut, 20)
    assert dut.idle.value == 0
    await driver.send(pairs[3:])
    await cycle(dut, 20)
    assert dut.idle.value == 0
    assert dut.o__valid.value == 1
    dut.o__ready.value = 1
    await cycle(dut, 4)
    assert dut.idle.value == 1
