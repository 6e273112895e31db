"""Speed of the fast device, side by side with torch on the same threads.

Decode and prefill of 128 tokens, of the shipped stories model and of a model of the shape of
Llama-3.2-1B with random weights. Both engines take turns and the best turn of each counts, since
other programs on the machine only ever add time. Torch runs its lean decoder (`torch_decoder`) in
bfloat16 and in float32, and the better one of each figure counts. The machine's memory bandwidth is
what as many threads read in turn with the others. Ratios of processor time say more than those of
wall time where the machine is shared, but only with one thread: several wait for each other busily.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skipstone.build import build_image
from skipstone.model import ModelConfig, load_checkpoint, named_shape, resolve_model
from skipstone.runtime import Engine
from skipstone.runtime.statistics import Phase
from skipstone.spec.config import CoreConfig, named_config
from skipstone.spec.image import Image
from skipstone_sim.hls.build import sources
from skipstone_sim.hls.fast import FastDevice
from skipstone_sim.synthetic_image import synthetic_image

from .rows import Row

__all__ = ["LARGE", "LARGE_CORE", "SUBJECTS", "Speed", "run"]

Progress = Callable[[str], None]

SUBJECTS = ("stories", "1b")
PREFILL = 128
_BANDWIDTH_BYTES = 1 << 29

LARGE = replace(named_shape("llama-3.2-1b"), max_positions=1024)


def LARGE_CORE(group: int) -> CoreConfig:
    """A core that holds it."""
    return CoreConfig(
        name=f"large-g{group}", rows=32, columns=16, lanes=4, ports=4, port_bits=512, group=group,
        max_hidden=2048, max_ffn=8192, max_query=2048, max_context=1024, max_chunk=64,
        max_layers=16,
    )  # fmt: skip


@dataclass
class Speed:
    """The best turns: seconds of PREFILL tokens together, and of one token behind them.

    Attributes
    ----------
    prefill, decode
        Wall time.
    prefill_work, decode_work
        Processor time of all threads.
    """

    prefill: float = float("inf")
    decode: float = float("inf")
    prefill_work: float = float("inf")
    decode_work: float = float("inf")

    def add(self, moments: list[tuple[float, float]], tokens: int) -> None:
        """One more turn: `_now` before prefill, between, and after `tokens` were decoded."""
        (begin, begin_work), (middle, middle_work), (end, end_work) = moments
        self.prefill = min(self.prefill, middle - begin)
        self.decode = min(self.decode, (end - middle) / tokens)
        self.prefill_work = min(self.prefill_work, middle_work - begin_work)
        self.decode_work = min(self.decode_work, (end_work - middle_work) / tokens)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _fast_turn(engine: Engine, ids: list[int], tokens: int, speed: Speed) -> None:
    moments = [_now()]
    engine.forward(ids)
    moments.append(_now())
    # Greedy tokens without the host, as generate() lets the device take them.
    engine._kick(engine.length, ids[:1], Phase(), steps=tokens - 1)
    speed.add([*moments, _now()], tokens)


def _torch_speeds(
    shape: ModelConfig, ids: list[int], tokens: int, threads: int, turns: int,
    between: Callable[[], None], progress: Progress | None,
) -> dict[str, Speed]:  # fmt: skip
    import torch

    from skipstone_sim.torch_decoder import TorchDecoder

    torch.set_num_threads(threads)
    speeds = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        if progress is not None:
            progress(f"{shape.name}: making torch's {name} weights")
        decoder = TorchDecoder(shape, dtype, PREFILL + tokens + 1)
        speed = speeds[name] = Speed()
        for turn in range(turns):
            if progress is not None:
                progress(f"{shape.name}: torch, {name}, then fast: turn {turn + 1} of {turns}")
            moments = [_now()]
            token = decoder.forward(ids, 0)
            moments.append(_now())
            for n in range(tokens):
                token = decoder.forward([token], PREFILL + n)
            speed.add([*moments, _now()], tokens)
            between()
        del decoder
        gc.collect()
    return speeds


def _resident_bytes() -> int:
    """Memory of this process, mapped pages included."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _measure(
    name: str, image: Image, shape: ModelConfig, tokens: int, turns: int, threads: int | None,
    progress: Progress | None,
) -> list[Row]:  # fmt: skip
    before = _resident_bytes()
    device = FastDevice(image.config, progress=progress, threads=threads)
    engine = Engine(device, image)
    ids = np.random.default_rng(1).integers(0, shape.vocab, PREFILL).tolist()
    fast, bandwidth = Speed(), 0.0

    def turn() -> None:
        nonlocal bandwidth
        _fast_turn(engine, ids, tokens, fast)
        if name != "stories":
            bandwidth = max(bandwidth, device.read_bandwidth(_BANDWIDTH_BYTES))

    turn()
    resident = _resident_bytes() - before
    torch = _torch_speeds(shape, ids, tokens, device.threads, turns, turn, progress)

    c = image.config
    weights = image.sections["weights"].words * c.word_bytes
    subject = (
        f"{shape.name}, int4 in groups of {c.group}, {device.threads} threads, "
        f"{device.products.name.lower()}"
    )
    device.close()

    def over_torch(part: str) -> float:
        return min(getattr(s, part) for s in torch.values()) / float(getattr(fast, part))

    def row(figure: str, value: float, unit: str = "", aim: str = "") -> Row:
        full = f"{figure}_{name}"
        return Row(figure=full, value=value, unit=unit, kind="emulated", subject=subject, aim=aim)

    aim = "≥ 3" if name != "stories" else ""
    rows = [
        row("fast_decode", 1 / fast.decode, "tokens/s"),
        row("fast_prefill", PREFILL / fast.prefill, "tokens/s"),
    ]
    for dtype, speed in torch.items():
        rows += [
            row(f"torch_{dtype}_decode", 1 / speed.decode, "tokens/s"),
            row(f"torch_{dtype}_prefill", PREFILL / speed.prefill, "tokens/s"),
        ]
    rows += [
        row("fast_over_torch_decode", over_torch("decode"), aim=aim),
        row("fast_over_torch_prefill", over_torch("prefill"), aim=aim),
        row("fast_over_torch_decode_processor_time", over_torch("decode_work")),
        row("fast_over_torch_prefill_processor_time", over_torch("prefill_work")),
        row("fast_weights", weights / fast.decode / 1e9, "GB/s"),
    ]
    if name != "stories":
        size = image.words * c.word_bytes
        rows += [
            row("memory_bandwidth", bandwidth / 1e9, "GB/s"),
            row("share_of_bandwidth", 100 * weights / fast.decode / bandwidth, "%"),
            row("memory_over_image", resident / size, aim="about 1"),
        ]
    return rows


def _lines() -> list[Row]:
    """Lines of each operation's header, blank ones and comments aside."""
    rows = []
    for path in sorted((sources() / "skipstone").glob("*.hpp")):
        if path.name == "spec.hpp":
            continue
        lines = [line.strip() for line in path.read_text().splitlines()]
        count = sum(1 for line in lines if line and not line.startswith("//"))
        rows.append(
            Row(figure="hls_lines", value=count, unit="lines", kind="emulated", subject=path.name)
        )
    return rows


def run(
    subjects: list[str], groups: list[int], tokens: int, turns: int, threads: int | None,
    progress: Progress | None,
) -> list[Row]:  # fmt: skip
    """The rows of these subjects; the large one with each of `groups`."""
    rows = []
    if "stories" in subjects:
        shape = load_checkpoint(resolve_model("stories")).config
        image = build_image("stories", named_config("sim-small"))
        rows += _measure("stories", image, shape, 8 * tokens, turns, threads, progress)
    if "1b" in subjects:
        for group in groups:
            with tempfile.TemporaryDirectory() as folder:
                if progress is not None:
                    progress(f"filling an image, groups of {group}")
                path = Path(folder) / "large.bin"
                image = synthetic_image(LARGE, LARGE_CORE(group), path, kv_capacity=1024)
                name = "1b" if group == groups[0] else f"1b_g{group}"
                rows += _measure(name, image, LARGE, tokens, turns, threads, progress)
    load = Row(
        figure="load_average", value=os.getloadavg()[0], unit="processes", kind="emulated",
        subject=f"this machine, {os.cpu_count()} processors", aim="below 1 beside the bench",
    )  # fmt: skip
    return [*rows, load, *_lines()]
