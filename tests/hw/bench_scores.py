"""Bench of the scores: every score, the maxima and the memory against exact integers."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from skipstone.spec.formats import SCORE_FRACTION_BITS, SCORE_MAX
from skipstone_hw.array import Array
from skipstone_hw.attention import Scores
from skipstone_sim.bench_tools import (
    begin,
    bench_config,
    bench_parameters,
    cycle,
    pack,
    random_stall,
    unpack,
)

CONFIG = bench_config()
HEADS = CONFIG.heads_per_word
LANES = range(bench_parameters()["lanes"])
PORTS = Scores(config=CONFIG, lanes=len(LANES)).signature.members
SUM_LIMIT = 2047 * 127 * CONFIG.rows // 2

Grid = list[list[int]]


def put(dut: Any, name: str, value: Any) -> None:
    getattr(dut, name).value = pack(PORTS[name].shape, value)


def get(dut: Any, name: str) -> Any:
    return unpack(PORTS[name].shape, int(getattr(dut, name).value))


def exact_score(dot: int, up: int) -> int:
    score = dot << up if up >= 0 else dot >> -up
    return max(-SCORE_MAX - 1, min(SCORE_MAX, score))


def random_sums(rng: random.Random) -> Grid:
    limit = rng.choice((3, 1000, SUM_LIMIT))
    return [[rng.randint(-limit, limit) for _ in range(CONFIG.columns)] for _ in LANES]


async def round_of_tokens(dut: Any, rng: random.Random, head_dim_log2: int, stall: float) -> None:
    """Clear, some tokens of either stream, then everything that was remembered."""
    heads = CONFIG.word_bytes >> head_dim_log2
    per_head = CONFIG.columns // heads
    centre, spread = rng.choice(((-15, 3), (-15, 8), (0, 128), (-60, 30), (20, 30)))

    def exponent() -> int:
        return max(-128, min(127, centre // 2 + rng.randint(-spread, spread)))

    query = [[exponent() for _ in range(HEADS)] for _ in LANES]
    put(dut, "query_exponent", query)
    dut.head_dim_log2.value, dut.clear.value = head_dim_log2, 1
    await cycle(dut)
    dut.clear.value = 0

    tokens = rng.choice((1, 2, 40))
    gap = random_stall(stall, seed=rng.getrandbits(30))
    arriving: list[Any] = [None] * Array.PIPELINE_CYCLES
    scores: list[Grid] = []
    value_exponents: list[list[int]] = []
    sent: list[bool] = []
    addresses: list[int] = []
    counts = [0, 0]
    kept = rng.choice((0.0, 0.5, 1.0))
    while len(scores) < tokens or any(sent[-Scores.PIPELINE_CYCLES :]):
        valid = len(scores) < tokens and not (stall and gap())
        source = int(rng.random() < kept)
        dut.valid.value, dut.source.value = valid, source
        sent.append(valid)
        key, value = ([exponent() for _ in range(HEADS)] for _ in range(2))
        put(dut, "key_exponent", key)
        put(dut, "value_exponent", value)
        sums = random_sums(rng)
        if valid:
            dots = [
                [sum(row[h * per_head : (h + 1) * per_head]) for h in range(heads)] for row in sums
            ]
            scores.append(
                [
                    [
                        exact_score(dot, query[lane][h] + key[h] + SCORE_FRACTION_BITS)
                        for h, dot in enumerate(dots[lane])
                    ]
                    for lane in LANES
                ]
            )
            value_exponents.append(value[:heads])
            addresses.append((counts[0], CONFIG.max_context - 1 - counts[1])[source])
            counts[source] += 1
        arriving.append(sums if valid else random_sums(rng))
        put(dut, "sums", arriving.pop(0) or random_sums(rng))
        await cycle(dut)
        under_way = sum(sent[-Scores.PIPELINE_CYCLES :])
        assert sum(get(dut, "count")) == sum(sent) - under_way
        assert dut.busy.value == (under_way > 0)
    await cycle(dut)
    assert get(dut, "count") == counts

    maximum, reference = get(dut, "maximum"), get(dut, "reference")
    for h in range(heads):
        assert reference[h] == max(value[h] for value in value_exponents)
        for lane in LANES:
            assert maximum[lane][h] == max(score[lane][h] for score in scores)
    for at in rng.sample(range(tokens), tokens):
        dut.address.value, dut.read_enable.value = addresses[at], 1
        await cycle(dut)
        dut.read_enable.value = 0
        dut.address.value = rng.randrange(CONFIG.max_context)
        await cycle(dut, rng.randint(1, 3))
        entry = get(dut, "entry")
        assert [row[:heads] for row in entry["score"]] == scores[at]
        assert entry["value_exponent"][:heads] == value_exponents[at]


async def exercise(dut: Any, stall: float) -> None:
    rng = random.Random(2)
    await begin(dut)
    for head_dim_log2 in CONFIG.head_dim_log2:
        for _ in range(14):
            await round_of_tokens(dut, rng, head_dim_log2, stall)


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0)


@cocotb.test()
async def with_gaps(dut):
    await exercise(dut, 0.5)
