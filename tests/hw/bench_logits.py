"""Bench of the logits writer: argmax against numpy, written words against a flat memory."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from skipstone.spec import fp32
from skipstone.spec.layout import logits_row_words
from skipstone_hw.layouts import FloatPairLayout, PairKind, WriteLayout, piece_bytes
from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    cycle,
    random_stall,
)

CONFIG = bench_config()
PIECE_BYTES = piece_bytes(CONFIG)
COLUMNS = CONFIG.columns
BASE = 1000
GUARD = 0xA5


def random_logits(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Logits with many equal ones, of both signs, sometimes all negative or all zero."""
    style = int(rng.integers(0, 5))
    y = rng.normal(size=size)
    if style == 1:
        y = rng.integers(-2, 3, size).astype(float)
    elif style == 2:
        y = -np.abs(y) - 1
    elif style == 3:
        y = np.zeros(size)
    elif style == 4:
        y = np.ldexp(y, rng.integers(-140, 128, size))
    with np.errstate(over="ignore"):
        return fp32.flush(y.astype(np.float32))


class Job:
    """The logits of some tokens, in the order in which LINEAR sends them."""

    def __init__(self, rng: np.random.Generator, tokens: list[int], blocks: int):
        self.blocks = blocks
        self.vocabulary = blocks * COLUMNS - int(rng.integers(0, COLUMNS))
        self.logits = {token: random_logits(rng, blocks * COLUMNS) for token in tokens}
        for y in self.logits.values():
            y[self.vocabulary :] = fp32.LARGEST
        bits = {token: y.view(np.uint32).reshape(-1, 2) for token, y in self.logits.items()}
        half = COLUMNS // 2
        self.pairs = [
            {
                "value": bits[token][n].tolist(),
                "kind": PairKind.LOGITS,
                "token": token,
                "index": n,
            }
            for at in range(0, len(tokens), CONFIG.lanes)
            for block in range(blocks)
            for token in tokens[at : at + CONFIG.lanes]
            for n in range(block * half, (block + 1) * half)
        ]

    def memory(self, write: bool, all_rows: bool) -> NDArray[np.uint8]:
        """Rows from BASE on, guard bytes where nothing is written."""
        stride = logits_row_words(CONFIG, self.blocks)
        rows = np.full((CONFIG.max_chunk, stride * CONFIG.word_bytes), GUARD, np.uint8)
        if write:
            for token, y in self.logits.items():
                rows[token if all_rows else 0, : y.nbytes] = y.view(np.uint8)
        return rows


async def run(dut: Any, driver: StreamDriver, monitor: StreamMonitor, job: Job, mode: int) -> None:
    """Send a job; compare memory and the argmax of every token."""
    write, all_rows = bool(mode & 1), bool(mode & 2)
    stride = logits_row_words(CONFIG, job.blocks)
    dut.vocabulary.value = job.vocabulary
    dut.write.value = int(write)
    dut.all_rows.value = int(all_rows)
    dut.base.value = BASE
    dut.row_words.value = stride
    await cycle(dut)
    await driver.send(job.pairs)
    await cycle(dut)
    for _ in range(1000):
        if int(dut.idle.value):
            break
        await cycle(dut)
    assert int(dut.idle.value)
    size = min(4 * COLUMNS, PIECE_BYTES)
    count = len(job.pairs) * 8 // size if write else 0
    pieces = CONFIG.word_bytes // PIECE_BYTES
    found = np.full((CONFIG.max_chunk * stride, pieces, PIECE_BYTES), GUARD, np.uint8)
    for item in await monitor.take(count):
        strobe = [item["strobe"] >> i & 1 == 1 for i in range(PIECE_BYTES)]
        data = np.frombuffer(item["data"].to_bytes(PIECE_BYTES, "little"), np.uint8)
        assert sum(strobe) == size
        found[item["address"] - BASE, item["piece"], strobe] = data[strobe]
    np.testing.assert_array_equal(found.reshape(CONFIG.max_chunk, -1), job.memory(write, all_rows))
    for token, y in job.logits.items():
        dut.token.value = token
        await cycle(dut)
        await RisingEdge(dut.clk)
        assert int(dut.argmax.value) == int(y[: job.vocabulary].argmax()), f"token {token}"


async def exercise(dut: Any, rounds: int, stall_in: float, stall_out: float) -> None:
    rng = np.random.default_rng(1)
    await begin(dut)
    shape = FloatPairLayout(CONFIG)
    driver = StreamDriver(dut, "i", shape=shape, stall=random_stall(stall_in, seed=2))
    shape = WriteLayout(CONFIG)
    monitor = StreamMonitor(dut, "o", shape=shape, stall=random_stall(stall_out, seed=3))
    for n in range(rounds):
        mode = n % 4
        # Without `all_rows` at most one token is written: all would share row 0.
        most = 1 if mode == 1 else CONFIG.max_chunk
        count = int(rng.integers(1, most + 1))
        tokens = np.sort(rng.choice(CONFIG.max_chunk, count, replace=False)).tolist()
        await run(dut, driver, monitor, Job(rng, tokens, int(rng.integers(1, 9))), mode)
    await monitor.expect_silence()


@cocotb.test()
async def both_sides_stall(dut):
    await exercise(dut, 24, 0.4, 0.4)


@cocotb.test()
async def slow_memory(dut):
    await exercise(dut, 12, 0.0, 0.9)


@cocotb.test()
async def full_rate(dut):
    """A pair in every cycle, written or not."""
    rng = np.random.default_rng(4)
    await begin(dut)
    driver = StreamDriver(dut, "i", shape=FloatPairLayout(CONFIG))
    monitor = StreamMonitor(dut, "o", shape=WriteLayout(CONFIG))
    transfers: list[int] = []

    async def watch() -> None:
        while True:
            await RisingEdge(dut.clk)
            transfers.append(int(dut.i__valid.value) & int(dut.i__ready.value))

    cocotb.start_soon(watch())
    for mode in (0, 3):
        job = Job(rng, list(range(CONFIG.lanes)), 6)
        transfers.clear()
        await run(dut, driver, monitor, job, mode)
        first = transfers.index(1)
        assert sum(transfers) == len(job.pairs)
        assert all(transfers[first : first + len(job.pairs)])
    await monitor.expect_silence()
