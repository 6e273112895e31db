"""Bench of the packer: groups against `BlockFloat.quantize`, pairs of tokens interleaved."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from numpy.typing import NDArray

from skipstone.spec import fp32
from skipstone.spec.formats import ACTIVATION_BITS, KV_BITS, BlockFloat
from skipstone_hw.layouts import FloatPairLayout, MantissaPairLayout, PairKind
from skipstone_hw.packer import Packer
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

Vector = NDArray[np.float32]
Pair = dict[str, Any]


def group_format(kind: PairKind, head_dim: int) -> BlockFloat:
    if kind in (PairKind.KEY, PairKind.VALUE):
        return BlockFloat(KV_BITS, head_dim)
    return BlockFloat(ACTIVATION_BITS, head_dim if kind is PairKind.QUERY else CONFIG.group)


def near_ties(rng: np.random.Generator, size: int) -> Vector:
    """Few bits set, so that roundings are decided by a single one, whatever their distance."""
    fraction = rng.integers(0, 2**11, size) << 12 & rng.integers(0, 2**23, size)
    fraction |= 1 << rng.integers(0, 23, size)
    fraction |= np.where(rng.random(size) < 0.5, 1 << rng.integers(0, 14, size), 0)
    exponent = rng.integers(100, 105) + rng.integers(0, 14, size)
    raw = rng.integers(0, 2, size) << 31 | exponent << 23 | fraction
    return raw.astype(np.uint32).view(np.float32)


def near_carry(rng: np.random.Generator, size: int) -> Vector:
    """Per 32 elements one decides the exponent, with all fraction bits set but perhaps one."""
    raw = rng.integers(0, 2**31, size) & 0x7FFFFF | 90 << 23
    largest = 0x7FFFFF ^ np.where(rng.random(size // 32) < 0.8, 1 << rng.integers(10, 18), 0)
    raw[rng.integers(0, 32) :: 32] = 100 << 23 | largest
    return raw.astype(np.uint32).view(np.float32)


def random_vector(rng: np.random.Generator, size: int) -> Vector:
    """Values of all sizes: close together, far apart, tiny, huge, zero."""
    raw = rng.normal(size=size)
    style = rng.integers(0, 9)
    if style == 0:
        raw = np.ldexp(raw, rng.integers(-200, 160, size))
    elif style == 1:
        raw = np.ldexp(raw, rng.integers(-24, 2, size))
    elif style == 2:
        raw = np.ldexp(raw, rng.integers(-128, -112, size))
    elif style == 3:
        raw = np.zeros(size)
    elif style == 4:
        return near_carry(rng, size)
    elif style == 5:
        raw = (2.0 - 2.0 ** -rng.integers(1, 24, size)) * rng.choice([-1.0, 1.0, 0.0], size)
    elif style == 6:
        raw[rng.random(size) < 0.9] = 0
    elif style == 7:
        return near_ties(rng, size)
    with np.errstate(over="ignore"):
        return fp32.flush(raw.astype(np.float32))


def pairs_of(x: Vector, kind: PairKind, token: int) -> list[Pair]:
    bits = x.view(np.uint32).reshape(-1, 2)
    return [
        {"value": pair, "kind": kind, "token": token, "index": index}
        for index, pair in enumerate(bits.tolist())
    ]


def groups_of(x: Vector, kind: PairKind, token: int, head_dim: int) -> list[list[Pair]]:
    form = group_format(kind, head_dim)
    mantissa, exponent = form.quantize(x)
    pairs = mantissa.reshape(-1, form.group // 2, 2)
    return [
        [
            {
                "mantissa": pair,
                "exponent": int(exponent[g]),
                "kind": kind,
                "token": token,
                "index": g * len(group) + n,
                "last": int(n == len(group) - 1),
            }
            for n, pair in enumerate(group)
        ]
        for g, group in enumerate(pairs.tolist())
    ]


def lane_group(
    rng: np.random.Generator, kind: PairKind, head_dim: int, tokens: list[int], block: int
) -> tuple[list[Pair], dict[int, list[list[Pair]]]]:
    """Pairs, and the groups expected of each token; `block` pairs of a token at a time (0: any)."""
    size = group_format(kind, head_dim).group * int(rng.integers(1, 4))
    vectors = [random_vector(rng, size) for _ in tokens]
    queues = [pairs_of(x, kind, t) for x, t in zip(vectors, tokens, strict=True)]
    expected = {t: groups_of(x, kind, t, head_dim) for x, t in zip(vectors, tokens, strict=True)}
    sent: list[Pair] = []
    while any(queues):
        if block:
            for queue in queues:
                sent += queue[:block]
                del queue[:block]
        else:
            queue = queues[rng.choice([n for n, q in enumerate(queues) if q])]
            count = int(rng.integers(1, 20))
            sent += queue[:count]
            del queue[:count]
    return sent, expected


def check(pairs: list[Pair], expected: dict[int, list[list[Pair]]]) -> None:
    """Whole groups, each token's in order."""
    at = 0
    while at < len(pairs):
        group = expected[pairs[at]["token"]].pop(0)
        assert pairs[at : at + len(group)] == group
        at += len(group)
    assert not any(expected.values())


def random_tokens(rng: np.random.Generator) -> list[int]:
    count = int(rng.integers(1, CONFIG.lanes + 1))
    return rng.choice(CONFIG.max_chunk, size=count, replace=False).tolist()


KINDS = [kind for kind in PairKind if kind is not PairKind.LOGITS]


async def start(
    dut: Any, stall_in: float = 0.0, stall_out: float = 0.0
) -> tuple[StreamDriver, StreamMonitor]:
    await begin(dut)
    dut.head_dim_log2.value = 5
    stalls = [random_stall(p, seed=n) if p else None for n, p in enumerate((stall_in, stall_out))]
    driver = StreamDriver(dut, "i", shape=FloatPairLayout(CONFIG), stall=stalls[0])
    return driver, StreamMonitor(dut, "o", shape=MantissaPairLayout(CONFIG), stall=stalls[1])


async def exercise(dut: Any, stall_in: float, stall_out: float, *, rounds: int) -> None:
    """Lane groups of all kinds and head sizes, one behind the other, then silence."""
    rng = np.random.default_rng(7)
    driver, monitor = await start(dut, stall_in, stall_out)
    for head_dim in (32, 64, 128):
        dut.head_dim_log2.value = head_dim.bit_length() - 1
        checks = []
        for n in range(rounds):
            kind = KINDS[n % len(KINDS)]
            block = int(rng.choice([0, CONFIG.columns // 2, CONFIG.columns // 4]))
            sent, expected = lane_group(rng, kind, head_dim, random_tokens(rng), block)
            driver.queue(sent)
            checks.append((len(sent), expected))
        for count, expected in checks:
            check(await monitor.take(count), expected)
        await monitor.expect_silence()
        assert dut.idle.value == 1


@cocotb.test()
async def both_sides_stall(dut):
    await exercise(dut, 0.3, 0.3, rounds=84)


@cocotb.test()
async def slow_consumer(dut):
    await exercise(dut, 0.0, 0.6, rounds=14)


@cocotb.test()
async def slow_producer(dut):
    await exercise(dut, 0.7, 0.0, rounds=14)


@cocotb.test()
async def full_rate(dut):
    """As many tokens as lanes, block by block: not one cycle is lost on either side."""
    rng = np.random.default_rng(3)
    driver, monitor = await start(dut)
    for count in range(1, CONFIG.lanes + 1):
        vectors = [random_vector(rng, CONFIG.group * 12) for _ in range(count)]
        queues = [pairs_of(x, PairKind.RESIDUAL, t) for t, x in enumerate(vectors)]
        expected = {t: groups_of(x, PairKind.RESIDUAL, t, 32) for t, x in enumerate(vectors)}
        sent: list[Pair] = []
        while any(queues):
            for queue in queues:
                sent += queue[: CONFIG.columns // 2]
                del queue[: CONFIG.columns // 2]
        begun = cycles()
        await driver.send(sent)
        assert cycles() - begun <= len(sent) + 2
        check(await monitor.take(len(sent)), expected)
        times = monitor.times[-len(sent) :]
        assert times[-1] - times[0] == len(sent) - 1
        await monitor.expect_silence()
        assert dut.idle.value == 1


@cocotb.test()
async def latency_and_silence(dut):
    """One group: its first pair leaves PIPELINE_CYCLES after its last one came, then nothing."""
    rng = np.random.default_rng(5)
    driver, monitor = await start(dut)
    assert dut.idle.value == 1
    x = random_vector(rng, CONFIG.group)
    driver.queue(pairs_of(x, PairKind.EMBED, 0))
    await cycle(dut, 4)
    assert dut.idle.value == 0
    await driver.send([])
    accepted = cycles()
    check(await monitor.take(CONFIG.group // 2), {0: groups_of(x, PairKind.EMBED, 0, 32)})
    assert monitor.times[0] - accepted == Packer.PIPELINE_CYCLES
    await monitor.expect_silence()
    assert dut.idle.value == 1
    assert dut.o__valid.value == 0
