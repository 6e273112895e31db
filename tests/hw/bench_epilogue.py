"""Bench of the epilogue: every kind, alone and mixed, against a plain numpy model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cocotb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipstone.spec import fp32, tables
from skipstone_hw.epilogue import Epilogue
from skipstone_hw.layouts import FloatPairLayout, PairKind, PairLayout
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
PAIRS = CONFIG.max_hidden // 2
HEAD_PAIRS = 64
QUEUE_PAIRS = 32

Pair = dict[str, Any]
Float = NDArray[np.float32]


def bits(x: ArrayLike) -> Any:
    return np.asarray(x, np.float32).view(np.uint32).tolist()


class Golden:
    """The epilogue in numpy: one pair after the other."""

    def __init__(self) -> None:
        self.residual = np.zeros((CONFIG.max_chunk, PAIRS, 2), np.float32)
        self.cos = np.zeros((CONFIG.max_chunk, HEAD_PAIRS), np.float32)
        self.sin = np.zeros((CONFIG.max_chunk, HEAD_PAIRS), np.float32)
        self._first: Float | None = None

    def results(self, pairs: Sequence[Pair], head_dim: int) -> list[Pair]:
        """What comes out for `pairs`."""
        accumulator = np.array([pair["accumulator"] for pair in pairs])
        exponent = np.array([pair["exponent"] for pair in pairs])
        scale = np.array([pair["scale"] for pair in pairs], np.uint32).view(np.float32)
        y = fp32.mul(fp32.from_int(accumulator, exponent[:, None]), scale[:, None])
        done = []
        for pair, value in zip(pairs, y, strict=True):
            result = self._result(pair, value, head_dim)
            if result is not None:
                keys = ("kind", "token", "index")
                done.append({"value": bits(result), **{key: pair[key] for key in keys}})
                if pair["kind"] is PairKind.SWIGLU:
                    done[-1]["index"] //= 2
        return done

    def _result(self, pair: Pair, y: Float, head_dim: int) -> Float | None:
        token, index = pair["token"], pair["index"]
        match pair["kind"]:
            case PairKind.RESIDUAL:
                y = self.residual[token, index] = fp32.add(self.residual[token, index], y)
            case PairKind.EMBED:
                self.residual[token, index] = y
            case PairKind.QUERY | PairKind.KEY:
                i = index % (head_dim // 2)
                cos, sin = self.cos[token, i], self.sin[token, i]
                first = fp32.add(fp32.mul(y[0], cos), -fp32.mul(y[1], sin))
                second = fp32.add(fp32.mul(y[0], sin), fp32.mul(y[1], cos))
                return np.stack([first, second])
            case PairKind.SWIGLU:
                h = fp32.mul(fp32.mul(y[0], y[1]), tables.sigmoid2(y[0]))
                if index % 2 == 0:
                    self._first = h
                    return None
                assert self._first is not None
                return np.stack([self._first, h])
        return y


class Stimulus:
    """Random pairs that keep the rules: SWIGLU in even runs, no element again too soon."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self._recent: list[tuple[int, int]] = []
        # Few enough indices that most elements are visited several times; the ends are among them.
        inner = self.rng.choice(np.arange(1, PAIRS - 1), 10, replace=False)
        self.indices = [0, PAIRS - 1, *inner.tolist()]
        self.elements = [(t, i) for t in range(CONFIG.max_chunk) for i in self.indices]

    def pair(self, kind: PairKind, token: int, index: int) -> Pair:
        """One pair with random numbers."""
        rng = self.rng
        length = rng.integers(0, 48)
        accumulator = rng.integers(-(1 << 47), 1 << 47, 2) >> length
        if rng.random() < 0.1:
            accumulator[rng.integers(0, 2)] = 0
        # Mostly values around one (and arguments of the sigmoid around its bend), some anywhere.
        exponent = -(47 - length) + rng.integers(-6, 8)
        if rng.random() < 0.1:
            exponent = rng.integers(-2048, 2048)
        elif rng.random() < 0.1:
            exponent = rng.integers(-160, 130)
        return {
            "accumulator": accumulator.tolist(),
            "exponent": int(exponent),
            "scale": bits(fp32.flush(rng.normal() * 2.0 ** rng.integers(-2, 2))),
            "kind": kind,
            "token": token,
            "index": index,
        }

    def run(self, kind: PairKind, count: int) -> list[Pair]:
        """`count` pairs of a kind (an even number for SWIGLU)."""
        rng = self.rng
        pairs: list[Pair] = []
        while len(pairs) < count:
            token = int(rng.integers(0, CONFIG.max_chunk))
            if kind is PairKind.SWIGLU:
                start = 2 * int(rng.integers(0, CONFIG.max_ffn // 2 - 1))
                pairs += [self.pair(kind, token, index) for index in (start, start + 1)]
            elif kind in (PairKind.RESIDUAL, PairKind.EMBED):
                element = self.elements[rng.integers(0, len(self.elements))]
                if element not in self._recent:
                    pairs.append(self.pair(kind, *element))
                    self._recent = [*self._recent, element][-Epilogue.HAZARD_CYCLES + 1 :]
            else:
                pairs.append(self.pair(kind, token, int(rng.integers(0, 1 << 20))))
        return pairs

    def fill(self) -> list[Pair]:
        """EMBED pairs for every element that RESIDUAL pairs will use."""
        return [self.pair(PairKind.EMBED, *element) for element in self.elements]

    def mixed(self, runs: int) -> list[Pair]:
        """Short runs of all kinds behind each other."""
        pairs: list[Pair] = []
        for _ in range(runs):
            kind = list(PairKind)[self.rng.integers(0, len(PairKind))]
            pairs += self.run(kind, 2 * int(self.rng.integers(1, 10)))
        return pairs


class Bench:
    """The unit with its drivers and its model."""

    def __init__(self, dut, seed: int, i_stall: float = 0.0, o_stall: float = 0.0):
        self.dut = dut
        self.golden = Golden()
        self.stimulus = Stimulus(seed)
        self.driver = StreamDriver(
            dut,
            "i",
            shape=PairLayout(CONFIG),
            stall=random_stall(i_stall, seed=seed + 1) if i_stall else None,
        )
        self.monitor = StreamMonitor(
            dut,
            "o",
            shape=FloatPairLayout(CONFIG),
            stall=random_stall(o_stall, seed=seed + 2) if o_stall else None,
        )

    async def rotations(self) -> None:
        """Random angles for every token, some of them exactly 0 or a quarter turn."""
        rng, golden, port = self.stimulus.rng, self.golden, self.dut
        angle = rng.uniform(-7, 7, golden.cos.shape)
        golden.cos[:] = fp32.flush(np.cos(angle))
        golden.sin[:] = fp32.flush(np.sin(angle))
        golden.cos[:, 0], golden.sin[:, 0] = 1, 0
        golden.cos[:, 1], golden.sin[:, 1] = 0, -1
        port.rope_write__en.value = 1
        for token in range(CONFIG.max_chunk):
            for index in range(HEAD_PAIRS):
                port.rope_write__token.value = token
                port.rope_write__index.value = index
                port.rope_write__cos.value = bits(golden.cos[token, index])
                port.rope_write__sin.value = bits(golden.sin[token, index])
                await cycle(self.dut)
        port.rope_write__en.value = 0

    async def check(self, pairs: Sequence[Pair], head_dim: int = 64) -> None:
        """Send `pairs`, compare what comes, and see the unit become idle."""
        self.dut.head_dim_log2.value = head_dim.bit_length() - 1
        expected = self.golden.results(pairs, head_dim)
        self.driver.queue(pairs)
        received = await self.monitor.take(len(expected))
        compare(received, expected)
        await cycle(self.dut, 2)
        assert self.dut.idle.value == 1


def compare(received: Iterable[Pair], expected: Iterable[Pair]) -> None:
    for n, (got, want) in enumerate(zip(received, expected, strict=True)):
        assert got == want, f"pair {n}: {got}, not {want}"


async def start(dut, **options) -> Bench:
    await begin(dut)
    bench = Bench(dut, **options)
    assert dut.idle.value == 1
    await bench.rotations()
    await bench.check(bench.stimulus.fill())
    return bench


async def all_kinds(bench: Bench) -> None:
    for head_dim in (32, 64, 128):
        for kind in PairKind:
            await bench.check(bench.stimulus.run(kind, 60), head_dim)
        await bench.check(bench.stimulus.mixed(30), head_dim)
    await bench.monitor.expect_silence()


@cocotb.test()
async def stalled_on_both_sides(dut):
    await all_kinds(await start(dut, seed=10, i_stall=0.4, o_stall=0.4))


@cocotb.test()
async def slow_consumer(dut):
    await all_kinds(await start(dut, seed=20, o_stall=0.7))


@cocotb.test()
async def slow_producer(dut):
    await all_kinds(await start(dut, seed=30, i_stall=0.7))


@cocotb.test()
async def full_rate(dut):
    """Not one cycle is lost, whatever the kind; only behind SWIGLU another kind waits."""
    bench = await start(dut, seed=40)
    count = 400
    for kind in PairKind:
        await bench.check(bench.stimulus.run(kind, count))
        out = count // 2 if kind is PairKind.SWIGLU else count
        times = bench.monitor.times[-out:]
        spread = count - 2 if kind is PairKind.SWIGLU else count - 1
        assert times[-1] - times[0] == spread, kind
    # All kinds in turn without a gap: SWIGLU last, since what follows it waits.
    pairs = []
    for kind in (k for k in PairKind if k is not PairKind.SWIGLU):
        pairs += bench.stimulus.run(kind, 50)
    await bench.check(pairs)
    assert bench.monitor.times[-1] - bench.monitor.times[-len(pairs)] == len(pairs) - 1
    await bench.check(bench.stimulus.mixed(100))
    await bench.monitor.expect_silence()


@cocotb.test()
async def latency(dut):
    """One pair of each kind: the cycle it leaves in, and idle from acceptance until then."""
    bench = await start(dut, seed=50)
    for kind in PairKind:
        pairs = bench.stimulus.run(kind, 2 if kind is PairKind.SWIGLU else 1)
        done = bench.golden.results(pairs, 64)
        bench.driver.queue(pairs)
        waiting = len(pairs)
        while waiting:
            await cycle(dut)
            waiting -= int(dut.i__valid.value) & int(dut.i__ready.value)
        entered = cycles()
        leaves = 0
        while not leaves:
            await cycle(dut)
            assert dut.idle.value == 0
            leaves = int(dut.o__valid.value) & int(dut.o__ready.value)
        swiglu = kind is PairKind.SWIGLU
        delay = Epilogue.SWIGLU_PIPELINE_CYCLES if swiglu else Epilogue.PIPELINE_CYCLES
        assert cycles() - entered == delay, kind
        compare(await bench.monitor.take(len(done)), done)
        await cycle(dut)
        assert dut.idle.value == 1


@cocotb.test()
async def hazard(dut):
    """Elements are read HAZARD_CYCLES after they were written, and cycled through so."""
    bench = await start(dut, seed=60)
    stimulus = bench.stimulus
    chosen = stimulus.elements[: Epilogue.HAZARD_CYCLES]
    kinds = [PairKind.EMBED] + [PairKind.RESIDUAL] * 6
    await bench.check([stimulus.pair(kind, *element) for kind in kinds for element in chosen])


@cocotb.test()
async def blocked(dut):
    """With the output blocked for long, exactly what the queue holds is accepted."""
    bench = await start(dut, seed=70)
    for kind, accepted in ((PairKind.LOGITS, QUEUE_PAIRS), (PairKind.SWIGLU, 2 * QUEUE_PAIRS)):
        bench.monitor.stall = lambda: True
        await cycle(dut, 2)
        pairs = bench.stimulus.run(kind, 100)
        expected = bench.golden.results(pairs, 64)
        sent = bench.driver.sent
        bench.driver.queue(pairs)
        await cycle(dut, 200)
        assert bench.driver.sent - sent == accepted
        assert dut.i__ready.value == 0
        assert dut.idle.value == 0
        bench.monitor.stall = None
        compare(await bench.monitor.take(len(expected)), expected)
        await cycle(dut, 2)
        assert dut.idle.value == 1
    await bench.monitor.expect_silence()
