"""``skipstone estimate``: speed of a model on a board, without weights and without the board."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from ..estimate import Estimate, PhaseEstimate, Target, estimate, find_target
from ..model import SHAPES, SHIPPED, ModelConfig, parameter_count, read_config, resolve_model
from .console import make_table, output

__all__ = ["BoardOption", "estimate_command", "find_shape"]

BoardOption = Annotated[
    str,
    typer.Option("--board", "-b", help="Board, or any core configuration.", metavar="NAME"),
]


def find_shape(name: str) -> ModelConfig:
    """The shape of a public or shipped model, or of a directory with a ``config.json``."""
    return SHAPES[name] if name in SHAPES else read_config(resolve_model(name))


def _phase_rows(table: Table, e: Estimate) -> None:
    def row(label: str, prefill: str, decode: str) -> None:
        table.add_row(label, prefill, decode)

    def both(label: str, show) -> None:
        row(label, show(e.prefill), show(e.decode))

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    def limit(p: PhaseEstimate) -> str:
        return p.limit

    both("tokens", lambda p: f"{p.tokens:,}")
    both("cycles", lambda p: f"{p.cost.cycles:,.0f}")
    both("tokens/s", lambda p: f"{p.tokens_per_s:,.1f}")
    both("bandwidth efficiency, of deliverable", lambda p: percent(p.bandwidth_efficiency))
    both("bandwidth efficiency, of peak", lambda p: percent(p.bandwidth_efficiency_of_peak))
    both("array: cycles with a word", lambda p: percent(p.array_busy))
    both("array: products ÷ (multipliers × cycles)", lambda p: percent(p.array_utilisation))
    for share in e.decode.shares:
        both(f"cycles for {share}", lambda p, share=share: percent(p.shares[share]))
    both("limited by", limit)


def _resources(e: Estimate) -> str:
    if e.resources is None:
        return "not synthesized"
    return ", ".join(f"{name} {value:,g}" for name, value in e.resources.items())


def _place(target: Target) -> str:
    return target.name if target.memory is None else f"{target.name} (core {target.core.name})"


def _table(e: Estimate) -> Table:
    table = make_table("", "prefill", "decode", right=(1, 2))
    table.title = (
        f"{e.model.name} ({parameter_count(e.model) / 1e9:.2f} · 10⁹ parameters, int4) on "
        f"{_place(e.target)} at {e.target.clock_mhz:g} MHz, {100 * e.skip:g} % skipped: estimated"
    )
    _phase_rows(table, e)
    return table


def _lines(e: Estimate) -> list[str]:
    mib = 1 << 20
    if e.target.memory is None:
        memory = "one word per cycle, as the simulator's"
    else:
        m = e.target.memory
        memory = f"{m.kind}, {m.peak_gb_s:g} GB/s peak, {100 * m.share:g} % of it ({m.source})"
    kv = 100 * (1 - e.kv_bytes / e.kv_bytes_dense)
    bytes_read = ", ".join(f"{n} {b / mib:,.2f}" for n, b in e.bytes_per_token.items())
    c = e.calibration
    return [
        f"time to first token  {1e3 * e.time_to_first_token_s:,.1f} ms",
        f"[{e.prompt}, {e.generate}]          {e.tokens_per_s:,.1f} tokens/s, prefill included",
        f"MiB per token        {bytes_read}",
        f"keys and values      {e.kv_bytes / mib:,.1f} MiB, {kv:.1f} % less than dense",
        f"memory of the image  {e.image_bytes / mib:,.1f} MiB",
        f"memory               {memory}",
        f"resources            {_resources(e)}",
        f"error of the model   at most {100 * c.worst_error:.1f} %, {100 * c.mean_error:.1f} % in "
        f"the mean, against {c.cycles:,} simulated cycles on {', '.join(c.on)}",
    ]


def estimate_command(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help=f"{', '.join((*SHAPES, *SHIPPED))}, or a directory with a config.json.",
        ),
    ] = "llama-2-7b",
    board: BoardOption = "u280",
    skip: Annotated[float, typer.Option(help="Share of executions that are skipped.")] = 0.25,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 128,
    generate: Annotated[int, typer.Option(help="Tokens to generate.")] = 1024,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate speed, traffic and what limits them, from the compiler's own program."""
    e = estimate(find_shape(model), find_target(board), skip=skip, prompt=prompt, generate=generate)
    if as_json:
        typer.echo(json.dumps(e.to_dict(), indent=1, ensure_ascii=False))
        return
    console = output()
    console.print(_table(e))
    console.print()
    for line in _lines(e):
        console.print(line, markup=False)
