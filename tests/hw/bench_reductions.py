"""Bench of the reductions: norms and skip decisions against the golden model's."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from skipstone.spec.layout import RouterRecord, pack_router
from skipstone_hw.layouts import MantissaPairLayout, PairKind
from skipstone_hw.reductions import Reductions
from skipstone_sim.arithmetic import Vectors, reduce_residual
from skipstone_sim.bench_tools import (
    StreamDriver,
    begin,
    bench_config,
    cycle,
    random_stall,
)

CONFIG = bench_config()
EPSILON = np.float32(1e-5)
MAX_GROUPS = CONFIG.max_hidden // CONFIG.group
Pair = dict[str, Any]


def random_record(rng: np.random.Generator, groups: int) -> RouterRecord:
    mantissa = rng.integers(-32767, 32768, (2, groups * CONFIG.group))
    spread = int(rng.choice([1, 4, 40]))
    exponent = np.clip(rng.integers(-20 - spread, -20 + spread, (2, groups)), -128, 127)
    if rng.random() < 0.2:
        mantissa[1], exponent[1] = 0, -128
    bias = (rng.normal(size=2) * 2.0 ** rng.integers(-20, 20)).astype(np.float32)
    if rng.random() < 0.3:
        bias[:] = 0
    return RouterRecord(mantissa, exponent, bias)


def random_vectors(rng: np.random.Generator, count: int, groups: int) -> Vectors:
    mantissa = rng.integers(-2047, 2048, (count, groups * CONFIG.group))
    exponent = np.zeros((count, groups), np.int64)
    for token in range(count):
        style = rng.integers(0, 5)
        spread = (1, 6, 60, 400, 3)[style]
        exponent[token] = rng.integers(-10 - spread, -9 + spread, groups)
        if style == 4:  # a vector of zeros, or the largest mantissas everywhere
            extreme = rng.random() < 0.5
            mantissa[token] = -2047 if extreme else 0
            exponent[token] = 3 if extreme else -128
    return Vectors(mantissa, np.clip(exponent, -128, 127))


def group_pairs(
    v: Vectors, row: int, group: int, token: int, kind: PairKind = PairKind.RESIDUAL
) -> list[Pair]:
    half = CONFIG.group // 2
    pairs = v.mantissa[row].reshape(-1, half, 2)[group].tolist()
    return [
        {
            "mantissa": pair,
            "exponent": int(v.exponent[row, group]),
            "kind": kind,
            "token": token,
            "index": group * half + n,
            "last": n == half - 1,
        }
        for n, pair in enumerate(pairs)
    ]


class Bench:
    """The unit with its two streams."""

    def __init__(self, dut: Any, stall: float):
        self.dut = dut
        stalls = [random_stall(stall, seed=n) if stall else None for n in range(2)]
        self.pairs = StreamDriver(dut, "i", shape=MantissaPairLayout(CONFIG), stall=stalls[0])
        self.words = StreamDriver(dut, "load", stall=stalls[1])
        self.inv_hidden = np.float32(0)

    async def load(self, record: RouterRecord) -> None:
        hidden = record.mantissa.shape[1]
        self.inv_hidden = np.float32(1 / hidden)
        self.dut.hidden_groups.value = hidden // CONFIG.group
        await RisingEdge(self.dut.clk)
        self.dut.inv_hidden.value = int(self.inv_hidden.view(np.uint32))
        self.dut.epsilon.value = int(EPSILON.view(np.uint32))
        words = [int.from_bytes(w.tobytes(), "little") for w in pack_router(record, CONFIG)]
        await self.words.send(words)
        await self.idle()
        assert self.dut.written.value == 0

    async def idle(self) -> None:
        await cycle(self.dut, 2)
        for _ in range(10_000):
            if self.dut.idle.value == 1:
                return
            await cycle(self.dut)
        raise AssertionError("never idle")

    async def norms(self, tokens: list[int]) -> NDArray[np.uint32]:
        values = []
        for token in tokens:
            self.dut.norm_token.value = token
            await RisingEdge(self.dut.clk)
            await RisingEdge(self.dut.clk)
            values.append(int(self.dut.norm.value))
        return np.array(values, np.uint32)

    def bits(self, name: str, tokens: list[int]) -> list[bool]:
        value = int(getattr(self.dut, name).value)
        return [bool(value >> token & 1) for token in tokens]

    async def check(self, v: Vectors, record: RouterRecord, tokens: list[int]) -> None:
        norm, skip = reduce_residual(v, record, self.inv_hidden, EPSILON)
        assert (await self.norms(tokens)).tolist() == norm.view(np.uint32).tolist()
        assert self.bits("skip_attention", tokens) == skip[:, 0].tolist()
        assert self.bits("skip_mlp", tokens) == skip[:, 1].tolist()
        assert all(self.bits("written", tokens))


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    """Layers of random width: load the routers, write the residuals of some tokens, compare."""
    rng = np.random.default_rng(17)
    await begin(dut)
    bench = Bench(dut, stall)
    decisions = set()
    for n in range(rounds):
        groups = MAX_GROUPS if n == 0 else int(rng.integers(1, MAX_GROUPS + 1))
        record = random_record(rng, groups)
        if n == 1:  # logits of exactly zero execute
            record.bias[:] = 0
        await bench.load(record)
        count = CONFIG.max_chunk if n == 0 else int(rng.integers(1, CONFIG.max_chunk + 1))
        tokens = rng.choice(CONFIG.max_chunk, size=count, replace=False).tolist()
        v = random_vectors(rng, count, groups)
        if n == 1:
            v.mantissa[0] = 0
        remaining = dict.fromkeys(range(count), 0)
        kind = PairKind.EMBED if n % 3 == 0 else PairKind.RESIDUAL
        while remaining:
            row = int(rng.choice(list(remaining)))
            bench.pairs.queue(group_pairs(v, row, remaining[row], tokens[row], kind))
            if rng.random() < 0.2:  # pairs of another kind in between
                other = random_vectors(rng, 1, groups)
                bench.pairs.queue(group_pairs(other, 0, groups - 1, 0, PairKind.SWIGLU))
            remaining[row] += 1
            if remaining[row] == groups:
                del remaining[row]
        await bench.pairs.send([])
        await bench.idle()
        await bench.check(v, record, tokens)
        assert int(dut.written.value) == sum(1 << t for t in tokens)
        decisions |= set(bench.bits("skip_attention", tokens))
    assert decisions == {False, True}


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=14)


@cocotb.test()
async def with_gaps(dut):
    await exercise(dut, 0.5, rounds=6)


@cocotb.test()
async def written_again(dut):
    """A residual that is written twice counts as it is last; `clear_written` forgets both."""
    rng = np.random.default_rng(4)
    await begin(dut)
    bench = Bench(dut, 0.0)
    record = random_record(rng, MAX_GROUPS)
    await bench.load(record)
    for _ in range(2):
        v = random_vectors(rng, 1, MAX_GROUPS)
        for group in range(MAX_GROUPS):
            bench.pairs.queue(group_pairs(v, 0, group, 1))
        await bench.pairs.send([])
        await bench.idle()
        await bench.check(v, record, [1])
    dut.clear_written.value = 1
    await cycle(dut, 1)
    dut.clear_written.value = 0
    await cycle(dut, 2)
    assert dut.written.value == 0
    await bench.norms([1])
    assert dut.idle.value == 1


@cocotb.test()
async def latency(dut):
    """hidden_groups + FINALISE_CYCLES from a token's last pair to its norm."""
    rng = np.random.default_rng(9)
    await begin(dut)
    bench = Bench(dut, 0.0)
    for groups in (1, MAX_GROUPS):
        record = random_record(rng, groups)
        await bench.load(record)
        v = random_vectors(rng, 1, groups)
        for group in range(groups):
            bench.pairs.queue(group_pairs(v, 0, group, 0))
        await bench.pairs.send([])
        await cycle(dut, groups + Reductions.FINALISE_CYCLES - 1)
        assert dut.written.value == 0
        await cycle(dut, 1)
        assert dut.written.value == 1
        assert dut.idle.value == 1
        await bench.check(v, record, [0])
