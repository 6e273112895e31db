"""Golden against every engine on random models, chunks and skip maps, word by word.

What is compared: of each run, all 32-bit words of memory that golden's run wrote, its results and
its counters; and, for engines that record it, every binary32 that leaves the epilogue, which is
every vector that any instruction computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Device, Run
from skipstone.spec.config import CoreConfig, named_config
from skipstone.spec.image import Image
from skipstone.spec.isa import decode_program
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.hls.device import CsimDevice
from skipstone_sim.hls.fast import FastDevice, Products
from skipstone_sim.lockstep import ARCHITECTURAL_COUNTERS
from skipstone_sim.rtl import RtlDevice
from skipstone_sim.trace import Recorder, transfers
from skipstone_sim.verify import Traced
from skipstone_sim.walks import random_chunk, random_image

from .rows import Row

__all__ = ["CORES", "Tally", "run", "soak"]

Progress = Callable[[str], None]

CORES = {
    "sim-tiny": named_config("sim-tiny"),
    "sim-small": named_config("sim-small"),
    "sim-large": named_config("sim-large"),
    "wide": CoreConfig(
        name="wide", rows=128, columns=32, lanes=4, ports=16, port_bits=1024, group=128,
        max_hidden=1024, max_ffn=1024, max_query=1024, max_context=256, max_chunk=64, max_layers=8,
        min_head_dim=64,
    ),
}  # fmt: skip

_SHARES = {"sim-tiny": 0.01, "sim-small": 0.04, "sim-large": 0.2, "wide": 0.75}
"""Of the words: golden takes less time for each on a wider core."""

ENGINES: dict[str, Callable[[CoreConfig], Device]] = {
    "csim": CsimDevice,
    "fast": FastDevice,
    "fast-vectors": lambda config: FastDevice(config, products=Products.VECTORS),
    "rtl": RtlDevice,
}


@dataclass
class Tally:
    """Words compared with golden.

    Attributes
    ----------
    different : int
        Of these; a counter or a result that differs counts as one.
    """

    runs: int = 0
    compared: int = 0
    different: int = 0
    seconds: float = 0.0


class _Golden:
    """The judge: one run, and all that it computed and wrote."""

    def __init__(self, config: CoreConfig):
        self.device = GoldenDevice(config)

    def load(self, image: Image) -> None:
        self.image = image
        self.program = decode_program(np.asarray(image.sections["program"].data).tobytes())
        self.size = image.words * image.config.word_bytes
        self.device.load(image)

    def run(self, run: Run) -> None:
        recorder = Recorder(self.program, run.chunk_tokens)
        self.device.observer = recorder
        before = self.device.read(0, self.size).view(np.uint32)
        self.device.start(run)
        self.result = self.device.wait()
        self.memory = self.device.read(0, self.size).view(np.uint32)
        self.written = int((before != self.memory).sum())
        self.counters = self.device.counters()
        self.transfers = transfers(recorder.tensors)


def _ordered(trace: NDArray[np.void], expected: NDArray[np.void]) -> NDArray[np.void]:
    """The pairs of each vector in order: engines may send a tensor's pairs in any."""
    kinds = expected["kind"].astype(np.int64)
    # Tensors follow each other: number them where the kind or, within one kind, the index restarts.
    token, index = expected["token"].astype(np.int64), expected["index"].astype(np.int64)
    fresh = np.ones(len(expected), np.bool_)
    fresh[1:] = (kinds[1:] != kinds[:-1]) | ((index[1:] == 0) & (token[1:] <= token[:-1]))
    tensor = np.cumsum(fresh)
    order = np.lexsort((trace["index"], trace["token"], tensor))
    return trace[order]


def _compare(golden: _Golden, device: Device, run: Run, tally: Tally) -> None:
    begin = time.perf_counter()
    traced = isinstance(device, Traced)
    if traced:
        device.trace(True)  # type: ignore[attr-defined]
    device.start(run)
    result = device.wait(600)
    tally.seconds += time.perf_counter() - begin
    tally.runs += 1
    tally.different += result != golden.result
    counters = device.counters()
    tally.different += sum(counters[n] != golden.counters[n] for n in ARCHITECTURAL_COUNTERS)
    memory = device.read(0, golden.size).view(np.uint32)
    tally.compared += golden.written
    tally.different += int((memory != golden.memory).sum())
    if not traced:
        return
    trace = device.take_trace()  # type: ignore[attr-defined]
    tally.compared += 2 * len(golden.transfers)
    if len(trace) != len(golden.transfers):
        tally.different += 2 * abs(len(trace) - len(golden.transfers))
        return
    trace = _ordered(trace, golden.transfers)
    for name in ("kind", "token", "index", "value0", "value1"):
        tally.different += int((trace[name] != golden.transfers[name]).sum())


def soak(
    config: CoreConfig,
    engines: dict[str, Tally],
    rng: np.random.Generator,
    *,
    words: int,
    chunks: int = 6,
    progress: Progress | None = None,
) -> None:
    """Random models on `config` until each engine's tally has grown by `words`."""
    golden = _Golden(config)
    devices = {name: ENGINES[name](config) for name in engines}
    aims = {name: tally.compared + words for name, tally in engines.items()}
    largest = max(2, min(config.max_hidden // config.group, 16))
    try:
        while any(engines[n].compared < aims[n] for n in devices):
            image = random_image(config, rng, largest=largest)
            golden.load(image)
            busy = [n for n in devices if engines[n].compared < aims[n]]
            for name in busy:
                devices[name].load(image)
            position = 0
            for _ in range(chunks):
                count = int(rng.integers(1, config.max_chunk + 1))
                count = min(count, int(image.model["kv_capacity"]) - position)
                if count < 1:
                    break
                raw = random_chunk(image, rng, count).view(np.uint8).reshape(-1)
                run = Run(
                    program_address=image.sections["program"].address,
                    program_length=int(image.model["program_length"]),
                    position=position,
                    chunk_tokens=count,
                    mode=int(rng.integers(0, 4)),
                )
                for device in (golden.device, *(devices[name] for name in busy)):
                    device.write(image.sections["input"].address, raw)
                golden.run(run)
                for name in busy:
                    _compare(golden, devices[name], run, engines[name])
                position += count
            if progress is not None:
                done = ", ".join(f"{n} {engines[n].compared / 1e6:.1f} M" for n in devices)
                progress(f"{config.name}: {done}")
    finally:
        for device in devices.values():
            device.close()


def run(words: float, rtl_words: float, seed: int, progress: Progress | None = None) -> list[Row]:
    """Rows of all engines: `words` on the fast one, a thousandth of it in C simulation."""
    tallies = {name: Tally() for name in ENGINES}
    for number, (name, config) in enumerate(CORES.items()):
        rng = np.random.default_rng((seed, number))
        part = {"fast": tallies["fast"], "fast-vectors": tallies["fast-vectors"]}
        soak(config, part, rng, words=int(words * _SHARES[name]), progress=progress)
        if name != "sim-tiny":
            continue
        soak(config, {"csim": tallies["csim"]}, rng, words=int(words / 1000), progress=progress)
        if rtl_words:
            soak(config, {"rtl": tallies["rtl"]}, rng, words=int(rtl_words), progress=progress)
    rows = []

    def row(figure: str, value: float, subject: str, unit: str = "words", aim: str = "") -> None:
        rows.append(
            Row(figure=figure, value=value, unit=unit, kind="emulated", subject=subject, aim=aim)
        )

    total = Tally()
    for name, tally in tallies.items():
        if not tally.runs:
            continue
        total.compared += tally.compared
        total.different += tally.different
        row("words_compared", tally.compared, f"golden = {name}")
        row("words_differing", tally.different, f"golden = {name}", aim="0")
        row("runs", tally.runs, f"golden = {name}", unit="runs")
    row("words_compared", total.compared, "all", aim="≥ 10⁸")
    row("words_differing", total.different, "all", aim="0")
    return rows
