"""``skipstone generate``: a prompt goes in, text comes out."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..devices import Device, open_device
from ..model import SHIPPED, resolve_model
from ..runtime import (
    Engine,
    First,
    Generation,
    KvSpace,
    Sampler,
    Schedule,
    SkipDecode,
    encode_prompt,
    load_tokenizer,
)
from ..runtime.statistics import Phase, Statistics
from ..spec.errors import RequestError
from ..spec.image import Image
from .console import Narrator, make_table, stderr_console
from .options import (
    CoreOption,
    DeviceOption,
    KvRuleOption,
    MethodChoice,
    MethodOption,
    RoutersOption,
    make_image,
)

__all__ = ["generate", "statistics_table"]

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class DecisionChoice(StrEnum):
    """Who decides what a token skips."""

    routers = "routers"
    all = "all"
    none = "none"
    skipdecode = "skipdecode"
    first = "first"


def _decisions(
    choice: DecisionChoice, layers: int, prompt_tokens: int, max_tokens: int
) -> Schedule | bool | None:
    """What `Engine.generate` takes."""
    match choice:
        case DecisionChoice.routers:
            return None
        case DecisionChoice.skipdecode:
            last = prompt_tokens + max(max_tokens, 1) - 1
            return SkipDecode(layers, begin=prompt_tokens - 1, end=last, least=-(-layers // 2))
        case DecisionChoice.first:
            return First(prompt_tokens)
    return choice is DecisionChoice.all


def _cells(phase: Phase, clock_mhz: float) -> list[str]:
    """Tokens, then simulated cycles, time and speed, then wall time and speed."""
    simulated_s = phase.cycles / (clock_mhz * 1e6)

    def speed(seconds: float) -> str:
        return f"{phase.tokens / seconds:,.1f}" if seconds and phase.tokens else "–"

    return [
        f"{phase.tokens:,}",
        f"{phase.cycles:,}" if phase.cycles else "–",
        f"{simulated_s * 1e3:,.3f} ms" if phase.cycles else "–",
        speed(simulated_s),
        f"{phase.wall_s:,.2f} s",
        speed(phase.wall_s),
    ]


def statistics_table(s: Statistics, device: Device, space: KvSpace) -> Table:
    """What a generation cost: the simulated machine's time and this computer's, side by side."""
    core = device.config
    table = make_table("", "prefill", "decode", right=(1, 2))
    table.title = f"{device.name}, core {core.name} at {core.clock_mhz:g} MHz"
    labels = (
        "tokens", "simulated cycles", "simulated time", "tokens/s, simulated",
        "wall time of this computer", "tokens/s, wall",
    )  # fmt: skip
    columns = [_cells(phase, core.clock_mhz) for phase in (s.prefill, s.decode)]
    for label, *cells in zip(labels, *columns, strict=True):
        table.add_row(label, *cells)
    table.add_row("attention executions skipped", "", f"{100 * s.attention_skipped:.1f} %")
    table.add_row("MLP executions skipped", "", f"{100 * s.mlp_skipped:.1f} %")
    kib = core.word_bytes / 1024
    table.add_row("KV stored", "", f"{space.stored * kib:,.1f} KiB")
    table.add_row("KV stored without skipping", "", f"{space.dense * kib:,.1f} KiB")
    table.add_row("KV reserved", "", f"{space.reserved * kib:,.1f} KiB")
    return table


def _tokenizer(model: str | None, image: Image) -> Any:
    """The model's tokenizer; an image knows its model only by name."""
    name = model or str(image.model.get("name", ""))
    if model is None and name not in SHIPPED:
        raise RequestError(f"the image's model is {name!r}: give its directory with --model")
    return load_tokenizer(resolve_model(name) / "tokenizer.json")


def _device_options(device: str, wave: Path | None) -> dict[str, Any]:
    if wave is None:
        return {}
    if device != "rtl":
        raise RequestError(f"--wave records the rtl device; {device!r} has no waves")
    return {"wave": wave}


def _stream(generation: Generation, prompt: str) -> bool:
    """Write the text as it comes; false if it was interrupted."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    try:
        for piece in generation:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        generation.close()
        return False
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return True


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            show_default="stories, or the image's",
            help=f"{', '.join(SHIPPED)}, or a Hugging Face directory.",
        ),
    ] = None,
    device: DeviceOption = "golden",
    core: CoreOption = "sim-small",
    image_path: Annotated[
        Path | None, typer.Option("--image", help="Run this image instead of compiling the model.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k most likely tokens; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the most likely tokens of total probability p.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of the draws.")] = None,
    steps_per_run: Annotated[
        int, typer.Option(help="Greedy tokens the device takes between two looks of the host.")
    ] = 1,
    decisions: Annotated[
        DecisionChoice,
        typer.Option(
            help="What is executed: as the routers say; all; none; fewer layers the later the "
            "token, down to half (SkipDecode); what most of the prompt's tokens used (FiRST)."
        ),
    ] = DecisionChoice.routers,
    wave: Annotated[
        Path | None, typer.Option(help="Record the rtl device's signals in this FST file.")
    ] = None,
    routers: RoutersOption = None,
    kv_rule: KvRuleOption = None,
    quantizer: MethodOption = MethodChoice.rtn,
) -> None:
    """Continue a prompt, streaming the text; Ctrl-C stops and keeps it."""
    sampler = Sampler(temperature, top_k, top_p, seed)
    options = _device_options(device, wave)
    with Narrator() as narrator:
        image = make_image(
            narrator, image_path, model or "stories", core, routers, kv_rule, quantizer
        )
        tokenizer = _tokenizer(model if image_path else model or "stories", image)
        ids = encode_prompt(tokenizer, prompt)
        opened = open_device(device, image.config, progress=narrator.line, **options)
    try:
        engine = Engine(opened, image, tokenizer)
        generation = engine.generate(
            ids,
            max_tokens,
            sampler,
            steps_per_run=steps_per_run,
            decisions=_decisions(decisions, engine.layers, len(ids), max_tokens),
        )
        completed = _stream(generation, prompt)
        stderr_console().print(statistics_table(generation.statistics, opened, engine.kv_space()))
    finally:
        opened.close()
    if not completed:
        raise typer.Exit(_INTERRUPTED)
