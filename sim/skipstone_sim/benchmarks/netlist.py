"""The core as UltraScale+ cells: what synthesis made of it, driven by the RTL device's own driver.

A cold start: the netlist is reset, the image written to the memory behind its ports, and the model
generates greedily; the tokens must be golden's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from skipstone.build import build_image
from skipstone.model import resolve_model
from skipstone.runtime import Engine, encode_prompt, load_tokenizer
from skipstone.spec.boards import Family
from skipstone.spec.config import named_config
from skipstone.spec.errors import SkipstoneError
from skipstone_hw.emit import TOP, emit_verilog
from skipstone_hw.fpga.netlist import core_netlist
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.rtl import RtlDevice
from skipstone_sim.xilinx import cell_models

from .rows import Row

__all__ = ["run"]

_MODEL, _PROMPT, _CONTEXT = "nano", "Who", 128


def run(core: str, tokens: int, *, progress: Callable[[str], None]) -> list[Row]:
    """Generate on the netlist of `core` and compare. Raises SkipstoneError if a token differs."""
    config = named_config(core)
    image = build_image(_MODEL, config, kv_capacity=_CONTEXT)
    prompt = encode_prompt(load_tokenizer(resolve_model(_MODEL) / "tokenizer.json"), _PROMPT)
    progress("golden")
    golden = Engine(GoldenDevice(config), image).generate(prompt, tokens, steps_per_run=tokens)
    list(golden)
    begin = time.monotonic()
    progress("elaborating")
    verilog = emit_verilog(config)
    progress("synthesizing")
    netlist = core_netlist(verilog, top=TOP, family=Family.ULTRASCALE_PLUS) / "netlist.v"
    synthesized = time.monotonic()
    gateware = f"{cell_models()}\n{netlist.read_text()}"
    device = RtlDevice(config, gateware=gateware, progress=progress)
    built = time.monotonic()
    progress("generating")
    generation = Engine(device, image, timeout_s=3600).generate(
        prompt, tokens, steps_per_run=tokens
    )
    list(generation)
    finished = time.monotonic()
    if generation.tokens != golden.tokens:
        raise SkipstoneError(
            f"UltraScale+ netlist of {core}: tokens are {generation.tokens}, golden's "
            f"{golden.tokens}"
        )
    subject = f"{_MODEL} on the UltraScale+ netlist of {core}"
    figures = (
        ("identical_tokens", len(generation.tokens), "tokens", f"{tokens}"),
        ("cycles", device.cycles, "cycles", ""),
        ("synthesis_time", round(synthesized - begin, 1), "s", ""),
        ("build_time", round(built - synthesized, 1), "s", ""),
        ("run_time", round(finished - built, 1), "s", ""),
    )
    return [
        Row(
            figure=f"netlist_{figure}", value=value, unit=unit, kind="synthesis",
            subject=subject, aim=aim,
        )
        for figure, value, unit, aim in figures
    ]  # fmt: skip
