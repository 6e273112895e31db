"""Bench of the activation buffer: everything written is read back by every lane."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from skipstone_hw.activations import Activations, Region
from skipstone_hw.layouts import MantissaPairLayout, PairKind
from skipstone_sim.bench_tools import StreamDriver, begin, bench_config, cycle, random_stall, unpack

CONFIG = bench_config()
REGION_OF = {
    PairKind.RESIDUAL: Region.RESIDUAL,
    PairKind.EMBED: Region.RESIDUAL,
    PairKind.SWIGLU: Region.ACTIVATION,
    PairKind.ATTENTION: Region.ACTIVATION,
    PairKind.QUERY: Region.QUERY,
}
SIZE = {
    Region.RESIDUAL: CONFIG.max_hidden,
    Region.ACTIVATION: CONFIG.max_activation,
    Region.QUERY: CONFIG.max_query,
}
Pair = dict[str, Any]


class Model:
    """What the buffer holds."""

    def __init__(self) -> None:
        self.mantissa = {r: np.zeros((CONFIG.max_chunk, n), int) for r, n in SIZE.items()}
        self.exponent = {
            r: np.zeros((CONFIG.max_chunk, n // CONFIG.min_head_dim), int) for r, n in SIZE.items()
        }
        self.largest = {r: np.zeros(CONFIG.max_chunk, int) for r in SIZE}

    def write(
        self, rng: np.random.Generator, kind: PairKind, token: int, size: int, group: int
    ) -> list[list[Pair]]:
        """A random vector for `token`; returns its pairs by group."""
        mantissa = rng.integers(-2047, 2048, size)
        exponent = np.clip(np.rint(rng.normal(-20, 50, size // group)).astype(int), -128, 127)
        if kind in REGION_OF:
            region = REGION_OF[kind]
            self.mantissa[region][token, :size] = mantissa
            self.exponent[region][token, : size // group] = exponent
            self.largest[region][token] = exponent.max()
        pairs = mantissa.reshape(-1, group // 2, 2).tolist()
        return [
            [
                {
                    "mantissa": pair,
                    "exponent": int(exponent[g]),
                    "kind": kind,
                    "token": token,
                    "index": g * group // 2 + n,
                    "last": n == group // 2 - 1,
                }
                for n, pair in enumerate(row)
            ]
            for g, row in enumerate(pairs)
        ]


MODEL = Model()
"""The memories outlive a reset, and so from test to test does this."""


def lane_port(dut: Any, lane: int, name: str) -> Any:
    return getattr(dut, f"lanes__{lane}__{name}")


async def read_back(dut: Any, rng: np.random.Generator, head_dim: int, count: int):
    """Random addresses on all lanes, one a cycle, some with `en` low."""
    layout = Activations(config=CONFIG).lanes[0].mantissas.shape()
    expected: list[Any] = [None] * CONFIG.lanes
    for _ in range(count):
        for lane in range(CONFIG.lanes):
            region = list(Region)[rng.integers(3)]
            token = int(rng.integers(CONFIG.max_chunk))
            group_size = head_dim if region is Region.QUERY else CONFIG.group
            word = int(rng.integers(SIZE[region] // CONFIG.rows))
            group = int(rng.integers(SIZE[region] // group_size))
            enabled = bool(rng.random() < 0.8)
            address = {"en": enabled, "region": region, "token": token, "word": word}
            for name, value in {**address, "group": group}.items():
                lane_port(dut, lane, name).value = int(getattr(value, "value", value))
            if enabled:
                row = MODEL.mantissa[region][token]
                expected[lane] = (
                    row[word * CONFIG.rows : (word + 1) * CONFIG.rows].tolist(),
                    int(MODEL.exponent[region][token, group]),
                    None if region is Region.QUERY else int(MODEL.largest[region][token]),
                )
        await RisingEdge(dut.clk)
        # The edge that takes these addresses has come; the results show before the next one.
        for lane in range(CONFIG.lanes):
            lane_port(dut, lane, "en").value = 0
        await RisingEdge(dut.clk)
        for lane, want in enumerate(expected):
            if want is None:
                continue
            mantissas, exponent, largest = want
            bits = int(lane_port(dut, lane, "mantissas").value)
            assert unpack(layout, bits) == mantissas
            assert lane_port(dut, lane, "exponent").value.to_signed() == exponent
            if largest is not None:
                assert lane_port(dut, lane, "exponent_max").value.to_signed() == largest


async def exercise(dut: Any, stall: float, *, rounds: int) -> None:
    rng = np.random.default_rng(21)
    await begin(dut)
    driver = StreamDriver(
        dut,
        "i",
        shape=MantissaPairLayout(CONFIG),
        stall=random_stall(stall, seed=3) if stall else None,
    )
    kinds = [kind for kind in PairKind if kind is not PairKind.LOGITS]
    for head_dim in (32, 64, 128):
        dut.head_dim_log2.value = head_dim.bit_length() - 1
        for n in range(rounds):
            kind = kinds[n % len(kinds)]
            by_head = kind in (PairKind.QUERY, PairKind.KEY, PairKind.VALUE)
            group = head_dim if by_head else CONFIG.group
            limit = SIZE[REGION_OF.get(kind, Region.QUERY)]
            size = limit if n < len(kinds) else group * int(rng.integers(1, limit // group + 1))
            tokens = rng.choice(CONFIG.max_chunk, size=CONFIG.lanes, replace=False).tolist()
            queues = [MODEL.write(rng, kind, t, size, group) for t in tokens]
            while any(queues):
                queue = queues[rng.choice([i for i, q in enumerate(queues) if q])]
                driver.queue(queue.pop(0))
            await driver.send([])
            await cycle(dut, Activations.WRITE_CYCLES - 1)
            assert dut.idle.value == (kind not in REGION_OF)
            await read_back(dut, rng, head_dim, count=30)
            assert dut.idle.value == 1


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0, rounds=9)


@cocotb.test()
async def with_gaps(dut):
    await exercise(dut, 0.5, rounds=7)
