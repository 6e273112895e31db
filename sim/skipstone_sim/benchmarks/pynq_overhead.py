"""What the unmodified pynq package costs: tokens through Overlay, registers, buffers and interrupt
of the simulated board, beside the same gateware driven directly.

Both generate the same text in turns; of each, the quickest round counts. The processor's time is
given beside the time on the wall: on a busy computer, only the former means something.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pynq

from skipstone.board.device import PynqDevice, load_overlay
from skipstone.build import build_image
from skipstone.devices import Device
from skipstone.model import resolve_model
from skipstone.runtime import Engine, Generation, encode_prompt, load_tokenizer
from skipstone.spec import registers
from skipstone.spec.config import named_config
from skipstone.spec.errors import SkipstoneError
from skipstone.spec.image import Image
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.overlay_files import write_overlay
from skipstone_sim.pynq_board import SimulatedBoard, plug_in
from skipstone_sim.rtl import RtlDevice

from .rows import Row

__all__ = ["run"]

_PROMPT = "Once upon a time"


@dataclass(frozen=True)
class _Round:
    """A generated text; per token seconds on the wall and of the processor, and what a board
    counted."""

    generation: Generation
    wall_s: float
    cpu_s: float
    accesses: float = 0
    interrupts: float = 0


def _generate(
    device: Device,
    image: Image,
    prompt: list[int],
    tokens: int,
    board: SimulatedBoard | None = None,
) -> _Round:
    generation = Engine(device, image).generate(prompt, tokens)
    stream = iter(generation)
    next(stream)  # the prefill's token
    seen = (board.accesses, board.kernel.count) if board else (0, 0)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    count = sum(1 for _ in stream)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    counted = (board.accesses, board.kernel.count) if board else (0, 0)
    accesses, interrupts = ((n - before) / count for n, before in zip(counted, seen, strict=True))
    return _Round(generation, wall_s / count, cpu_s / count, accesses, interrupts)


def _check_registers(overlay: pynq.Overlay) -> None:
    """The register map is there by name, and says what core this is."""
    shown = overlay.skipstone_0.register_map
    if int(shown.VERSION) != registers.VERSION or not shown.CTRL.AP_IDLE:
        raise SkipstoneError(f"unexpected registers: {shown!r}")


def run(
    subject: str, tokens: int, rounds: int, progress: Callable[[str], None] | None = None
) -> list[Row]:
    """Measure CORE:MODEL."""
    core_name, _, model = subject.partition(":")
    core = named_config(core_name)
    image = build_image(model or "stories", core)
    tokenizer = load_tokenizer(resolve_model(model or "stories") / "tokenizer.json")
    prompt = encode_prompt(tokenizer, _PROMPT)
    board = plug_in(progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        overlay = load_overlay(write_overlay(Path(folder), core, logic="rtl"))
        _check_registers(overlay)
        through = PynqDevice(core, overlay=overlay)
    direct = RtlDevice(core, progress=progress)
    golden = _generate(GoldenDevice(core), image, prompt, tokens)
    by_pynq, by_rtl = [], []
    for n in range(rounds):
        if progress is not None:
            progress(f"round {n + 1} of {rounds}")
        by_rtl.append(_generate(direct, image, prompt, tokens))
        by_pynq.append(_generate(through, image, prompt, tokens, board))
    through.close()
    direct.close()
    board.unplug()

    text = golden.generation.tokens
    identical = all(r.generation.tokens == text for r in by_pynq + by_rtl)
    wall_rtl, wall_pynq = (min(r.wall_s for r in each) for each in (by_rtl, by_pynq))
    cpu_rtl, cpu_pynq = (min(r.cpu_s for r in each) for each in (by_rtl, by_pynq))
    where = f"{image.model['name']} on {core.name}, {len(text)} tokens"

    def row(figure: str, value: float, unit: str = "", aim: str = "") -> Row:
        return Row(figure=figure, value=value, unit=unit, kind="rtl", subject=where, aim=aim)

    def cycles(one: _Round) -> float:
        decode = one.generation.statistics.decode
        return decode.cycles / decode.tokens

    return [
        row("identical_to_golden", int(identical), aim="1"),
        row("wall_per_token_rtl", 1e3 * wall_rtl, "ms"),
        row("wall_per_token_pynq", 1e3 * wall_pynq, "ms"),
        row("pynq_overhead", 100 * (wall_pynq / wall_rtl - 1), "%", aim="< 5"),
        row("cpu_per_token_rtl", 1e3 * cpu_rtl, "ms"),
        row("cpu_per_token_pynq", 1e3 * cpu_pynq, "ms"),
        row("pynq_overhead_cpu", 100 * (cpu_pynq / cpu_rtl - 1), "%", aim="< 5"),
        row("register_accesses_per_token", by_pynq[0].accesses),
        row("interrupts_per_token", by_pynq[0].interrupts, aim="1"),
        row("cycles_per_token_rtl", cycles(by_rtl[0]), "cycles"),
        row("cycles_per_token_pynq", cycles(by_pynq[0]), "cycles"),
    ]
