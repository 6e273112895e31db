"""Bench of the array: random words in every mode, with gaps and idle lanes."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from skipstone_hw.array import PRODUCT_BITS, Array, ArrayMode, column_sum_shape, upper_lane
from skipstone_sim.bench_tools import begin, bench_config

CONFIG = bench_config()
LANES = CONFIG.lanes
HEADS = CONFIG.heads_per_word
OPERAND_MIN, OPERAND_MAX = -2048, 2047
Int = NDArray[np.int64]


def pack_lanes(values: Int, bits: int) -> int:
    """Bits of an array of two's-complement numbers, the first one lowest."""
    total = 0
    for value in reversed(values.reshape(-1).tolist()):
        total = total << bits | value & ((1 << bits) - 1)
    return total


def unpack_lanes(raw: int, bits: int, count: int) -> Int:
    """The inverse of `pack_lanes`, lane by lane."""
    mask, sign = (1 << bits) - 1, 1 << (bits - 1)
    flat = [((raw >> i * bits & mask) ^ sign) - sign for i in range(LANES * count)]
    return np.array(flat, np.int64).reshape(LANES, count)


def products_of(dut: Any) -> Int:
    """(lanes, bytes): the array's products."""
    bits = PRODUCT_BITS * CONFIG.word_bytes
    raw = [getattr(dut, f"products__{lane}").value.to_unsigned() for lane in range(LANES)]
    flat = sum(value << bits * lane for lane, value in enumerate(raw))
    return unpack_lanes(flat, PRODUCT_BITS, CONFIG.word_bytes)


class Inputs:
    """Operands of one cycle; `edge` picks the extremes only."""

    def __init__(self, rng: np.random.Generator, mode: ArrayMode, edge: bool):
        def operands(count: int) -> Int:
            if edge:
                return rng.choice([OPERAND_MIN, OPERAND_MAX, -1, 0], (LANES, count)).astype(int)
            return rng.integers(OPERAND_MIN, OPERAND_MAX + 1, (LANES, count))

        self.mode = mode
        self.head_dim_log2 = int(rng.choice(CONFIG.head_dim_log2))
        self.words = rng.integers(0, 256, (2, CONFIG.word_bytes))
        if edge:
            self.words = rng.choice([0x80, 0x88, 0x7F, 0xFF], (2, CONFIG.word_bytes))
        self.rows = operands(CONFIG.rows)
        self.bytes = operands(CONFIG.word_bytes)
        self.heads = operands(HEADS)
        self.lanes = int(rng.integers(0, 1 << LANES)) if rng.random() < 0.5 else (1 << LANES) - 1

    def apply(self, dut: Any) -> None:
        dut.mode.value = self.mode.value
        dut.head_dim_log2.value = self.head_dim_log2
        dut.word.value = pack_lanes(self.words[0], 8)
        dut.upper_word.value = pack_lanes(self.words[1], 8)
        dut.rows.value = pack_lanes(self.rows, 12)
        dut.heads.value = pack_lanes(self.heads, 12)
        dut.lane_enable.value = self.lanes

    @property
    def word(self) -> Int:
        """(lanes, bytes): what each lane meets."""
        return self.words[(np.arange(LANES) >= upper_lane(CONFIG)).astype(int)]

    def products(self) -> Int | None:
        """(lanes, bytes), if the mode has them."""
        signed = (self.word ^ 0x80) - 0x80
        match self.mode:
            case ArrayMode.SCORE:
                return self.bytes * signed
            case ArrayMode.MIX:
                return self.heads[:, np.arange(CONFIG.word_bytes) >> self.head_dim_log2] * signed
        return None

    def sums(self) -> Int | None:
        """(lanes, columns), if the mode has them."""
        if self.mode is ArrayMode.LINEAR:
            nibbles = np.stack([self.word & 0xF, self.word >> 4], axis=-1)
            weights = ((nibbles ^ 8) - 8).reshape(LANES, CONFIG.columns, CONFIG.rows)
            return np.einsum("lr,lcr->lc", self.rows, weights)
        products = self.products()
        if self.mode is ArrayMode.SCORE and products is not None:
            return products.reshape(LANES, CONFIG.columns, -1).sum(axis=2)
        return None


def check(what: str, found: Int, wanted: Int | None, lanes: int) -> None:
    for lane in range(LANES):
        if wanted is not None and lanes >> lane & 1:
            np.testing.assert_array_equal(found[lane], wanted[lane], err_msg=f"{what} {lane}")


async def exercise(dut: Any, cycles: int, share: float, edge: bool) -> None:
    """Drive a share of the cycles; compare outputs when they are due."""
    rng = np.random.default_rng(3)
    gaps = random.Random(4)
    await begin(dut)
    sum_bits = column_sum_shape(CONFIG).width
    history: list[Inputs | None] = [None]
    modes = list(ArrayMode)
    for n in range(cycles + Array.PIPELINE_CYCLES):
        wanted = None
        if n < cycles and gaps.random() < share:
            wanted = Inputs(rng, modes[int(rng.integers(0, 3))], edge)
            wanted.apply(dut)
        if history[-1] is not None:
            dut.bytes.value = pack_lanes(history[-1].bytes, 12)
        dut.valid.value = int(wanted is not None)
        history.append(wanted)
        await RisingEdge(dut.clk)
        # Values are those of the cycle that `wanted` was applied in.
        if n >= Array.PRODUCT_CYCLES and (due := history[n + 1 - Array.PRODUCT_CYCLES]) is not None:
            check("products of lane", products_of(dut), due.products(), due.lanes)
        if (
            n >= Array.PIPELINE_CYCLES
            and (due := history[n + 1 - Array.PIPELINE_CYCLES]) is not None
        ):
            found = unpack_lanes(dut.sums.value.to_unsigned(), sum_bits, CONFIG.columns)
            check("sums of lane", found, due.sums(), due.lanes)


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, cycles=300, share=1.0, edge=False)


@cocotb.test()
async def with_gaps(dut):
    await exercise(dut, cycles=200, share=0.5, edge=False)


@cocotb.test()
async def extremes(dut):
    await exercise(dut, cycles=200, share=1.0, edge=True)


@cocotb.test()
async def idle_lanes_hold(dut):
    """Outputs of a lane that is not enabled, and of all lanes without `valid`, stay as they are."""
    rng = np.random.default_rng(5)
    await begin(dut)
    first = Inputs(rng, ArrayMode.SCORE, False)
    first.lanes = (1 << LANES) - 1
    first.apply(dut)
    dut.valid.value = 1
    await RisingEdge(dut.clk)
    dut.bytes.value = pack_lanes(first.bytes, 12)
    second = Inputs(rng, ArrayMode.SCORE, False)
    second.lanes = 1
    second.apply(dut)
    await RisingEdge(dut.clk)
    dut.bytes.value = pack_lanes(second.bytes, 12)
    third = Inputs(rng, ArrayMode.SCORE, False)
    third.lanes = (1 << LANES) - 1
    third.apply(dut)
    dut.valid.value = 0
    for _ in range(Array.PIPELINE_CYCLES + 2):
        await RisingEdge(dut.clk)
    found = products_of(dut)
    check("products of lane", found, second.products(), 1)
    check("products of lane", found, first.products(), (1 << LANES) - 2)
    bits = column_sum_shape(CONFIG).width
    found = unpack_lanes(dut.sums.value.to_unsigned(), bits, CONFIG.columns)
    check("sums of lane", found, second.sums(), 1)
    check("sums of lane", found, first.sums(), (1 << LANES) - 2)
