"""Bench of mixing: accumulators of every lane and byte against exact sums."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np

from skipstone_hw.array import Array
from skipstone_hw.attention import Mix
from skipstone_hw.attention.mix import HALF_BITS
from skipstone_sim.bench_tools import begin, bench_config, cycle, pack, random_stall, unpack

CONFIG = bench_config()
PORTS = Mix(config=CONFIG).signature.members
SHAPE = (CONFIG.lanes, CONFIG.word_bytes)


def bits(lanes: Any) -> int:
    return int(np.packbits(lanes, bitorder="little")[0])


def give(dut: Any, products: Any) -> None:
    for lane, row in enumerate(products.tolist()):
        getattr(dut, f"products__{lane}").value = pack(PORTS["products"].shape, row)


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    rng = np.random.default_rng(3)
    gap = random_stall(stall, seed=5)
    await begin(dut)
    totals = np.zeros(SHAPE, np.int64)
    for n in range(rounds):
        if n % 3 != 2:
            dut.clear.value = 1
            await cycle(dut)
            dut.clear.value = 0
            totals[:] = 0
        limit = (2047 * 127, 50)[n % 2]
        left = int(rng.integers(1, 40))
        arriving: list[Any] = [None] * Array.PRODUCT_CYCLES
        while left or any(a is not None for a in arriving):
            valid = left > 0 and not (stall and gap())
            lanes = (rng.random(CONFIG.lanes) < 0.7) & valid
            upper = rng.random(CONFIG.lanes) < 0.5
            dut.valid.value, dut.upper.value = bits(lanes), bits(upper)
            arriving.append(rng.integers(-limit, limit + 1, SHAPE) if valid else None)
            if valid:
                shifted = arriving[-1] << (HALF_BITS * upper)[:, None]
                totals += np.where(lanes[:, None], shifted, 0)
                left -= 1
            products = arriving.pop(0)
            if products is None:
                products = rng.integers(-limit, limit + 1, SHAPE)
            give(dut, products)
            await cycle(dut)
        dut.valid.value = 0
        await cycle(dut)
        assert dut.busy.value == 0
        for lane in range(CONFIG.lanes):
            lanes = rng.random(CONFIG.lanes) < 0.5
            lanes[lane] = True
            wanted = totals[lanes].sum(0)
            for pair in range(CONFIG.word_bytes // 2):
                dut.lanes.value, dut.pair.value, dut.step.value = bits(lanes), pair, 1
                await cycle(dut)
                dut.lanes.value, dut.pair.value, dut.step.value = 0, 0, 0
                await cycle(dut)  # without a step they stay
                pair_sums = unpack(PORTS["accumulator"].shape, int(dut.accumulator.value))
                assert pair_sums == wanted[2 * pair : 2 * pair + 2].tolist()


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=6)


@cocotb.test()
async def with_gaps(dut):
    await exercise(dut, 0.5, rounds=6)


@cocotb.test()
async def busy(dut):
    """High from `valid` until the products are added, PIPELINE_CYCLES later."""
    await begin(dut)
    dut.clear.value = 1
    await cycle(dut)
    dut.clear.value = 0
    dut.lanes.value, dut.step.value = 1, 1
    give(dut, np.ones(SHAPE, int))
    dut.valid.value = 1
    await cycle(dut)
    dut.valid.value = 0
    for _ in range(Mix.PIPELINE_CYCLES - 1):
        await cycle(dut)
        assert dut.busy.value == 1
        assert unpack(PORTS["accumulator"].shape, int(dut.accumulator.value)) == [0, 0]
    await cycle(dut)
    assert dut.busy.value == 0
    await cycle(dut)
    assert unpack(PORTS["accumulator"].shape, int(dut.accumulator.value)) == [1, 1]
