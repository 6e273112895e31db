"""Bench of LINEAR with array and activation buffer, against the golden `linear`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from skipstone.spec.formats import fp16_parts
from skipstone.spec.layout import matrix_words, pack_matrix
from skipstone_hw.layouts import MantissaPairLayout, PairKind, PairLayout
from skipstone_hw.linear import Linear, LinearCommand
from skipstone_hw.numeric.fp32 import ONE
from skipstone_sim.arithmetic import Tiles, Vectors, linear
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
LANES, COLUMNS, CHUNK = CONFIG.lanes, CONFIG.columns, CONFIG.max_chunk
GROUPS = min(CONFIG.max_hidden // CONFIG.group, 2 * CONFIG.groups_per_scale_word + 3)
"""Length of the vectors in the buffer; runs of scales end inside it."""
SOURCE_KIND = (PairKind.RESIDUAL, PairKind.SWIGLU)
KINDS = (
    PairKind.RESIDUAL,
    PairKind.QUERY,
    PairKind.KEY,
    PairKind.VALUE,
    PairKind.SWIGLU,
    PairKind.LOGITS,
)


class Model:
    """The vectors of both regions, and each token's 1 / rms."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        shape = (2, CHUNK, GROUPS)
        mantissa = rng.integers(-2047, 2048, (*shape, CONFIG.group))
        # Tokens differ in how far their groups' exponents lie apart: not at all to all the way.
        spread = rng.choice([0.0, 2.0, 8.0, 60.0], (2, CHUNK, 1))
        exponent = np.clip(np.rint(rng.normal(-20, 1, shape) * spread), -128, 127).astype(int)
        mantissa[:, 0] = rng.choice([-2047, 2047], mantissa[:, 0].shape)
        self.vectors = [
            Vectors(mantissa[s].reshape(CHUNK, -1), exponent[s].astype(np.int64)) for s in (0, 1)
        ]
        self.norm = rng.integers(1, 0x7F000000, CHUNK).tolist()

    def pairs(self) -> list[dict[str, Any]]:
        """What the packer would send to fill the activation buffer."""
        half = CONFIG.group // 2
        return [
            {
                "mantissa": self.vectors[source].mantissa[token, 2 * n : 2 * n + 2].tolist(),
                "exponent": int(self.vectors[source].exponent[token, n // half]),
                "kind": SOURCE_KIND[source],
                "token": token,
                "index": n,
                "last": int(n % half == half - 1),
            }
            for source in (0, 1)
            for token in range(CHUNK)
            for n in range(GROUPS * half)
        ]


@dataclass
class Job:
    """A command with its words and the pairs that must come out."""

    command: dict[str, Any]
    words: list[int]
    pairs: list[dict[str, Any]]
    cycles: int
    """Words that the array takes, replayed ones included."""

    @classmethod
    def random(
        cls,
        model: Model,
        *,
        groups: int | None = None,
        blocks: int | None = None,
        select: int | None = None,
    ) -> Job:
        rng = model.rng
        groups = groups or int(rng.choice([1, 2, GROUPS - 1, GROUPS, rng.integers(1, GROUPS + 1)]))
        tile = CONFIG.tile_blocks
        blocks = blocks or int(rng.choice([1, 1, 2, 3, tile + 1]))
        select = select or int(rng.integers(1, 1 << CHUNK, dtype=np.uint64))
        tokens = np.flatnonzero([select >> i & 1 for i in range(CHUNK)])
        source, norm = int(rng.integers(0, 2)), int(rng.integers(0, 2))
        kind = KINDS[int(rng.integers(0, len(KINDS)))]

        outputs = blocks * COLUMNS - int(rng.integers(0, COLUMNS))
        weights = rng.integers(-8, 8, (outputs, groups * CONFIG.group))
        weights[0] = -8
        scales = rng.uniform(0, 2.0 ** rng.integers(-16, 16), (outputs, groups)).astype(np.float16)
        extreme = rng.choice([0, 1, 0x3FF, 0x400, 0x7BFF], scales.shape).astype(np.uint16)
        scales = np.where(rng.random(scales.shape) < 0.1, extreme.view(np.float16), scales)
        packed = pack_matrix(weights, scales, CONFIG)
        assert len(packed) == matrix_words(CONFIG, groups, blocks)

        padding = ((0, blocks * COLUMNS - outputs), (0, 0))
        mantissa, exponent = fp16_parts(np.pad(scales, padding))
        by_group = np.pad(weights, padding).T.reshape(groups, CONFIG.group, -1)
        tiles = Tiles(by_group.astype(np.float64), mantissa.T, exponent.T)
        # The references are the maxima of whole vectors and matrices.
        matrix_exponent = int(exponent.max()) + int(rng.choice([0, 0, 1, 40]))
        whole = model.vectors[source][tokens]
        reach = groups * CONFIG.group
        # A vector that is shorter than the buffered one: the rest is multiplied with zeros.
        rest = GROUPS - groups
        padded = Tiles(
            np.pad(tiles.weights, ((0, rest), (0, 0), (0, 0))),
            np.pad(tiles.scale, ((0, rest), (0, 0))),
            np.pad(tiles.exponent, ((0, rest), (0, 0)), constant_values=-24),
        )
        assert reach + rest * CONFIG.group == whole.mantissa.shape[1]
        accumulators, exponents = linear(whole, padded, matrix_exponent)

        passes = [tokens[i : i + LANES] for i in range(0, len(tokens), LANES)]
        tile = blocks if len(passes) == 1 else CONFIG.tile_blocks
        raw = [int.from_bytes(word.tobytes(), "little") for word in packed]
        at = {int(token): n for n, token in enumerate(tokens)}
        pairs = [
            {
                "accumulator": accumulators[at[token], 2 * index : 2 * index + 2].tolist(),
                "exponent": int(exponents[at[token]]),
                "scale": model.norm[token] if norm else ONE,
                "kind": kind,
                "token": token,
                "index": index,
            }
            for first in range(0, blocks, tile)
            for lane_tokens in passes
            for block in range(first, min(first + tile, blocks))
            for token in map(int, lane_tokens)
            for index in range(block * COLUMNS // 2, (block + 1) * COLUMNS // 2)
        ]
        command = {
            "groups": groups,
            "blocks": blocks,
            "exponent": matrix_exponent,
            "source": source,
            "kind": kind,
            "norm": norm,
            "select": select,
        }
        return cls(
            command,
            raw,
            pairs,
            len(raw) + (len(passes) - 1) * len(by_group) * CONFIG.steps_per_group * blocks,
        )


class Bench:
    """Drivers, the norm memory, and counts of what the unit says of each cycle."""

    def __init__(self, dut: Any, model: Model, words_stall=None, output_stall=None):
        self.dut = dut
        self.model = model
        self.commands = StreamDriver(dut, "command", shape=LinearCommand(CONFIG))
        self.words = StreamDriver(dut, "words", stall=words_stall)
        self.load = StreamDriver(dut, "load", shape=MantissaPairLayout(CONFIG))
        self.output = StreamMonitor(dut, "o", shape=PairLayout(CONFIG), stall=output_stall)
        self.counts = {"busy": 0, "stall_words": 0, "stall_drain": 0}
        self.taken: list[int] = []
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            token = self.dut.norm_token.value.to_unsigned()
            self.dut.norm.value = self.model.norm[token]
            for name in self.counts:
                self.counts[name] += int(getattr(self.dut, name).value)
            if int(self.dut.busy.value):
                self.taken.append(cycles())

    async def run(self, jobs: list[Job]) -> None:
        """Run the jobs one behind the other and compare what comes."""
        self.commands.queue(job.command for job in jobs)
        self.words.queue(itertools.chain.from_iterable(job.words for job in jobs))
        for number, job in enumerate(jobs):
            found = await self.output.take(len(job.pairs))
            for n, (one, other) in enumerate(zip(found, job.pairs, strict=True)):
                assert one == other, f"job {number} {job.command}, pair {n}: {one} is not {other}"
        await cycle(self.dut, 3)
        assert int(self.dut.idle.value)
        await self.output.expect_silence(20)


async def start(dut: Any, seed: int, **stalls: Any) -> Bench:
    model = Model(np.random.default_rng(seed))
    await begin(dut)
    bench = Bench(dut, model, **stalls)
    await bench.load.send(model.pairs())
    await cycle(dut, 5)
    assert int(dut.idle.value)
    return bench


@cocotb.test()
async def both_sides_stall(dut):
    bench = await start(
        dut,
        1,
        words_stall=random_stall(0.4, seed=2),
        output_stall=random_stall(0.4, seed=3),
    )
    await bench.run([Job.random(bench.model) for _ in range(12)])
    assert bench.counts["stall_words"]


@cocotb.test()
async def slow_consumer(dut):
    bench = await start(dut, 4, output_stall=random_stall(0.8, seed=5))
    await bench.run([Job.random(bench.model) for _ in range(6)])
    assert bench.counts["stall_drain"]


@cocotb.test()
async def slow_producer(dut):
    bench = await start(dut, 6, words_stall=random_stall(0.8, seed=7))
    await bench.run([Job.random(bench.model, blocks=2) for _ in range(4)])


@cocotb.test()
async def every_number_of_tokens(dut):
    """From one token to the whole chunk."""
    bench = await start(dut, 8)
    jobs = [
        Job.random(bench.model, groups=2, blocks=2, select=(1 << n) - 1)
        for n in range(1, CHUNK + 1)
    ]
    await bench.run(jobs)


@cocotb.test()
async def full_rate(dut):
    """A word in every cycle, across blocks, passes and commands, while pairs can keep up."""
    bench = await start(dut, 9)
    # Blocks of as many words as a block has pairs, or more: the tokens are chosen for that.
    words = matrix_words(CONFIG, GROUPS, 1)
    tokens = min(LANES, GROUPS * CONFIG.steps_per_group // (COLUMNS // 2))
    for count in {1, tokens}:
        selects = [(1 << count) - 1, ((1 << count) - 1) << count]
        if count == LANES:
            selects.append((1 << 2 * LANES) - 1)  # two passes
        jobs = [
            Job.random(bench.model, groups=GROUPS, blocks=4, select=select) for select in selects
        ]
        total = sum(job.cycles for job in jobs)
        bench.taken.clear()
        bench.output.times.clear()
        await bench.run(jobs)
        assert len(bench.taken) == total
        assert bench.taken[-1] - bench.taken[0] == total - 1
        pairs = count * COLUMNS // 2
        first_block = words - 1
        latency = bench.output.times[0] - bench.taken[first_block]
        assert latency == Linear(config=CONFIG).PIPELINE_CYCLES
        tail = bench.output.times[-1] - bench.taken[-1]
        assert tail == latency + pairs - 1


@cocotb.test()
async def drain_limits(dut):
    """Where a block has more pairs than words, there is a pair in every cycle."""
    bench = await start(dut, 10)
    job = Job.random(bench.model, groups=1, blocks=12, select=(1 << LANES) - 1)
    await bench.run([job])
    times = bench.output.times
    if LANES * COLUMNS // 2 >= Linear(config=CONFIG).PIPELINE_CYCLES:
        assert times[-1] - times[0] == len(job.pairs) - 1
    assert bench.counts["stall_drain"]


@cocotb.test()
async def blocked_output(dut):
    """While nothing leaves, two blocks enter and all but the last word of the third."""
    blocked = True
    bench = await start(dut, 11, output_stall=lambda: blocked)
    job = Job.random(bench.model, groups=2, blocks=4, select=1)
    bench.commands.queue([job.command])
    bench.words.queue(job.words)
    await cycle(dut, 200)
    assert bench.counts["busy"] == 3 * len(job.words) // 4 - 1
    assert int(dut.stall_drain.value)
    assert not int(dut.stall_words.value)
    assert not int(dut.idle.value)
    blocked = False
    assert await bench.output.take(len(job.pairs)) == job.pairs
    assert bench.counts["busy"] == len(job.words)


@cocotb.test()
async def waits_for_words(dut):
    bench = await start(dut, 12)
    job = Job.random(bench.model, groups=1, blocks=1, select=1)
    bench.commands.queue([job.command])
    await cycle(dut, 20)
    assert int(dut.stall_words.value)
    assert not int(dut.idle.value)
    assert not bench.counts["busy"]
    bench.words.queue(job.words)
    assert await bench.output.take(len(job.pairs)) == job.pairs
