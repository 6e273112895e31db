"""The ULX3S from a cold start: its top level and its netlist, driven by the host's serial device.

The simulated board has just been configured: memory holds what the bitstream holds. The host opens
the pseudo-terminal, finds the image there, and generates greedily; the tokens must be golden's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from skipstone.build import build_image
from skipstone.model import resolve_model
from skipstone.runtime import Engine, encode_prompt, load_tokenizer
from skipstone.serial_device import SerialDevice
from skipstone.spec.errors import SkipstoneError
from skipstone.spec.image import Image
from skipstone_hw.boards.bitstream import TOP, flat_image, netlist, top_verilog
from skipstone_hw.boards.ulx3s import CONFIG, DIVISOR, IMAGE_CONTEXT, IMAGE_MODEL
from skipstone_sim.board import SimulatedBoard, build_board
from skipstone_sim.ecp5 import block_models, cell_models
from skipstone_sim.golden import GoldenDevice

from .rows import Row

__all__ = ["generate", "golden_tokens", "run"]

_PROMPT = "Who"
_FAST_DIVISOR = 4


def _image() -> Image:
    return build_image(IMAGE_MODEL, CONFIG, kv_capacity=IMAGE_CONTEXT)


def _prompt() -> list[int]:
    return encode_prompt(load_tokenizer(resolve_model(IMAGE_MODEL) / "tokenizer.json"), _PROMPT)


def golden_tokens(tokens: int) -> list[int]:
    """What the golden device generates."""
    generation = Engine(GoldenDevice(CONFIG), _image()).generate(
        _prompt(), tokens, steps_per_run=tokens
    )
    list(generation)
    return generation.tokens


def generate(place: str, tokens: int, *, timeout_s: float = 600.0) -> list[int]:
    """What the board at `place` generates."""
    device = SerialDevice(CONFIG, place=place, timeout_s=timeout_s, watchdog_cycles=1_000_000)
    try:
        generation = Engine(device, _image(), timeout_s=timeout_s).generate(
            _prompt(), tokens, steps_per_run=tokens
        )
        list(generation)
    finally:
        device.close()
    return generation.tokens


def run(tokens: int, *, with_netlist: bool, progress: Callable[[str], None]) -> list[Row]:
    """Generate on both and compare. Raises SkipstoneError if a token differs from golden's."""
    content = flat_image(_image())
    expected = golden_tokens(tokens)
    subjects: list[tuple[str, int, Callable[[], Path]]] = [
        (
            "top level",
            _FAST_DIVISOR,
            lambda: build_board(
                [top_verilog(content, divisor=_FAST_DIVISOR), block_models()],
                top=TOP,
                progress=progress,
            ),
        )
    ]
    if with_netlist:
        subjects.append(
            (
                "ECP5 netlist",
                DIVISOR,
                lambda: build_board(
                    [cell_models(), (netlist(top_verilog(content)) / "netlist.v").read_text()],
                    top=TOP,
                    options=["-DNO_INCLUDES", "-Wno-lint", "-Wno-PINMISSING"],
                    progress=progress,
                ),
            )
        )
    rows = []
    for name, divisor, build in subjects:
        begin = time.monotonic()
        library = build()
        built = time.monotonic()
        progress(f"{name}: generating")
        with SimulatedBoard(library, divisor=divisor) as board:
            found = generate(board.place, tokens)
            cycles = board.cycles
        if found != expected:
            raise SkipstoneError(f"{name}: tokens are {found}, golden's {expected}")
        for figure, value, unit in (
            ("identical_tokens", len(found), "tokens"),
            ("cycles", cycles, "cycles"),
            ("build_time", round(built - begin, 1), "s"),
            ("run_time", round(time.monotonic() - built, 1), "s"),
        ):
            rows.append(
                Row(
                    figure=f"ulx3s_{figure}",
                    value=value,
                    unit=unit,
                    kind="rtl" if name == "top level" else "synthesis",
                    subject=f"{IMAGE_MODEL} on the {name}",
                    aim=f"{tokens}" if figure == "identical_tokens" else "",
                )
            )
    return rows
