"""``skipstone bench``: speed of a model on a device, in the table of llama.cpp's llama-bench.

Each figure says what it is: measured on a board, by the wall clock; RTL-simulated, cycles of the
gateware at its configuration's clock; emulated, this computer's wall clock while software computes
the same bits; or estimated, by the cycle model.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated

import numpy as np
import typer

from ..build import build_image
from ..compiler import plan_image
from ..devices import open_device
from ..estimate import Target, estimate, find_target
from ..model import SHAPES, SHIPPED, ModelConfig, parameter_count
from ..runtime import Engine
from ..runtime.statistics import Phase
from ..spec.config import CoreConfig
from ..spec.errors import RequestError
from .console import Narrator
from .estimate import find_shape

__all__ = ["BenchRow", "Format", "bench_command", "estimated_rows", "measured_rows", "render"]

ESTIMATE = "estimate"
"""Pseudo device: the cycle model."""

KINDS = {"pynq": "measured on board", "rtl": "RTL-simulated", ESTIMATE: "estimated"}
"""How a device's figures came about; all other devices emulate."""


class Format(StrEnum):
    """Of the table."""

    md = "md"
    csv = "csv"
    json = "json"


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One test: ppN, prefill of N tokens, or tgN, generation of N tokens one by one.

    Attributes
    ----------
    size_bytes : int
        Of the image's contents.
    skipped : float
        Share of the attention and MLP executions.
    tokens_per_s, deviation : float
        Mean and standard deviation over the repetitions.
    kind : str
        "measured on board", "RTL-simulated", "emulated" or "estimated".
    """

    model: str
    size_bytes: int
    params: int
    device: str
    core: str
    test: str
    skipped: float
    tokens_per_s: float
    deviation: float
    kind: str


def _speed(phase: Phase, core: CoreConfig, kind: str) -> float:
    if kind == KINDS["rtl"]:
        return phase.tokens * core.clock_mhz * 1e6 / phase.cycles
    return phase.tokens / phase.wall_s


def measured_rows(
    engine: Engine,
    shape: ModelConfig,
    *,
    prompts: Sequence[int],
    generates: Sequence[int],
    repetitions: int,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[BenchRow]:
    """Each test `repetitions` times on the engine's device, each time on other random tokens.

    Generated tokens are random as well, so that no text ends early; each is a run with its logits
    written and read, as when the engine samples.

    Raises RequestError for a test longer than the context.
    """
    device, image = engine.device, engine.image
    rng = np.random.default_rng(seed)
    kind = KINDS.get(device.name, "emulated")

    def run(prefix: int, pieces: Sequence[int]) -> tuple[Phase, float]:
        """Pass so many tokens unmeasured, then these numbers of tokens one after the other."""
        phase, executed = Phase(), 0
        for index, count in enumerate((prefix, *pieces)):
            tokens = rng.integers(0, engine.vocabulary, count).tolist()
            if not tokens:
                engine.length = 0
                continue
            begin = time.perf_counter()
            step = engine.forward(tokens, engine.length if index else 0)
            if index:
                phase.add(count, time.perf_counter() - begin, step.counters)
                executed += int(step.decisions.sum())
        return phase, 1 - executed / (2 * engine.layers * phase.tokens)

    tests = [(f"pp{n}", 0, [n]) for n in prompts] + [(f"tg{n}", 1, [1] * n) for n in generates]
    out = []
    for test, prefix, pieces in tests:
        if progress is not None:
            progress(f"{test} on {device.name}")
        measured = [run(prefix, pieces) for _ in range(repetitions)]
        speeds = [_speed(phase, device.config, kind) for phase, _ in measured]
        out.append(
            BenchRow(
                model=str(image.model["name"]),
                size_bytes=sum(int(s.data.size) for s in image.sections.values()),
                params=parameter_count(shape),
                device=device.name,
                core=device.config.name,
                test=test,
                skipped=statistics.fmean(share for _, share in measured),
                tokens_per_s=statistics.fmean(speeds),
                deviation=statistics.stdev(speeds) if repetitions > 1 else 0.0,
                kind=kind,
            )
        )
    return out


def estimated_rows(
    shape: ModelConfig,
    target: Target,
    *,
    prompts: Sequence[int],
    generates: Sequence[int],
    repetitions: int,
    skip: float,
) -> list[BenchRow]:
    """The same tests by the cycle model; repetitions differ in what is skipped."""
    core = target.core
    sections = plan_image(shape, core).sections
    size = sum(sections[name][1] for name in ("program", "weights", "embedding", "routers", "rope"))
    out = []
    tests = [("pp", n, 1) for n in prompts] + [("tg", 1, n) for n in generates]
    for name, prompt, generate in tests:
        phases = []
        for seed in range(repetitions):
            e = estimate(shape, target, skip=skip, prompt=prompt, generate=generate, seed=seed)
            phases.append(e.prefill if name == "pp" else e.decode)
        speeds = [phase.tokens_per_s for phase in phases]
        out.append(
            BenchRow(
                model=shape.name,
                size_bytes=size * core.word_bytes,
                params=parameter_count(shape),
                device=ESTIMATE,
                core=target.name,
                test=f"{name}{phases[0].tokens}",
                skipped=skip,
                tokens_per_s=statistics.fmean(speeds),
                deviation=statistics.stdev(speeds) if repetitions > 1 else 0.0,
                kind=KINDS[ESTIMATE],
            )
        )
    return out


def _amount(value: float, base: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if value < 1000:
            return f"{value:.2f} {unit}"
        value /= base
    return f"{value:.2f} {units[-1]}"


def _cells(row: BenchRow) -> dict[str, str]:
    return {
        "model": row.model,
        "size": _amount(row.size_bytes / 1024, 1024, ("KiB", "MiB", "GiB")),
        "params": _amount(row.params / 1e3, 1e3, ("K", "M", "B")),
        "device": f"{row.device}, {row.core}",
        "skipped": f"{100 * row.skipped:.1f} %",
        "test": row.test,
        "t/s": f"{row.tokens_per_s:,.2f} ± {row.deviation:,.2f}",
        "figure is": row.kind,
    }


def render(rows: Sequence[BenchRow], form: Format) -> str:
    """The table as text, without a newline at its end."""
    if form is Format.json:
        return json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False)
    if form is Format.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        return text.getvalue().rstrip("\n")
    cells = [_cells(row) for row in rows]
    names = list(cells[0])
    width = {n: max(len(n), *(len(c[n]) for c in cells)) for n in names}
    right = {"size", "params", "skipped", "test", "t/s"}

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(values) + " |"

    def fitted(name: str, text: str) -> str:
        return text.rjust(width[name]) if name in right else text.ljust(width[name])

    rule = ["-" * (width[n] - 1) + (":" if n in right else "-") for n in names]
    body = [line([fitted(n, c[n]) for n in names]) for c in cells]
    return "\n".join([line([fitted(n, n) for n in names]), line(rule), *body])


def bench_command(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help=f"{', '.join(SHIPPED)}, or a directory; to estimate also {', '.join(SHAPES)}.",
        ),
    ] = "stories",
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help=f"May be repeated; {ESTIMATE!r} is the cycle model."),
    ] = None,
    core: Annotated[
        str, typer.Option("--core", help="Core configuration, or board.", metavar="NAME")
    ] = "sim-small",
    prompt: Annotated[
        list[int] | None, typer.Option("--prompt", "-p", min=1, help="Tokens of a prefill test.")
    ] = None,
    generate: Annotated[
        list[int] | None, typer.Option("--generate", "-n", min=1, help="Tokens of a decode test.")
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1)] = 3,
    skip: Annotated[float, typer.Option(help="Share skipped, for estimates.")] = 0.25,
    form: Annotated[Format, typer.Option("--output", "-o", help="Form.")] = Format.md,
) -> None:
    """Measure prefill and decode; the table of llama-bench, each figure labelled."""
    target = find_target(core)
    config = target.core
    shape = find_shape(model)
    names = device or ["golden"]
    tests = {"prompts": prompt or [64], "generates": generate or [16], "repetitions": repetitions}
    rows: list[BenchRow] = []
    if model in SHAPES and any(name != ESTIMATE for name in names):
        raise RequestError(f"{model} is a shape without weights: only --device estimate knows it")
    with Narrator() as narrator:
        for name in names:
            if name == ESTIMATE:
                narrator.line(f"estimating {model}")
                rows += estimated_rows(shape, target, skip=skip, **tests)  # type: ignore[arg-type]
                continue
            image = build_image(model, config, progress=narrator.step)
            opened = open_device(name, config, progress=narrator.line)
            try:
                engine = Engine(opened, image)
                rows += measured_rows(engine, shape, progress=narrator.line, **tests)  # type: ignore[arg-type]
            finally:
                opened.close()
    typer.echo(render(rows, form))
