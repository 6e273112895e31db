"""``python -m skipstone_sim.benchmarks NAME``: run a benchmark; without a name, list them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from skipstone.cli.console import Narrator
from skipstone.model import SHAPES, SHIPPED
from skipstone.quant.quantize import Method
from skipstone.spec.errors import SkipstoneError

from .rows import Row, row_table, write_json

__all__ = ["app"]

app = typer.Typer(
    help=__doc__, no_args_is_help=False, add_completion=False, pretty_exceptions_enable=False
)

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the rows to this file.", metavar="FILE")
]


def _report(
    bench: str, measure: Callable[[Narrator], list[Row]], json: Path | None, **options: Any
) -> None:
    """Run, print the table, write the file; an error of ours becomes one line."""
    try:
        with Narrator() as narrator:
            measured = measure(narrator)
    except SkipstoneError as error:
        Console(stderr=True, highlight=False).print(f"error: {error}")
        raise typer.Exit(1) from None
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(row_table(measured, bench))
    if json is not None:
        write_json(json, measured, bench, options)


@app.callback(invoke_without_command=True)
def _list(context: typer.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    console = Console(highlight=False, soft_wrap=True)
    for command in app.registered_commands:
        callback = command.callback
        assert callback is not None
        first_line = (callback.__doc__ or "").strip().partition("\n")[0]
        console.print(f"{command.name}: {first_line}")


@app.command("accuracy")
def accuracy_command(
    model: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Most tokens for perplexity.")] = 16384,
    questions: Annotated[int, typer.Option(min=1, help="Most questions.")] = 240,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Instead, fill the table of docs/models.md.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Golden against torch: perplexity, decisions, answers."""
    from .accuracy import ROUTINGS, Accuracy, quantized_row, rows
    from .engines import Engines
    from .model_table import DOCUMENT, replace_block, table

    names = model or (list(SHIPPED) if write_docs else ["stories"])

    def measure(narrator: Narrator) -> list[Row]:
        with Engines(jobs) as engines:
            subjects = [
                Accuracy(n, engines, tokens=tokens, questions=questions, progress=narrator.line)
                for n in names
            ]
            if not write_docs:
                return [row for subject in subjects for row in rows(subject)]
            measured = [quantized_row(s, routing) for s in subjects for routing in ROUTINGS]
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(
            replace_block(document, table(measured)), encoding="utf-8", newline="\n"
        )
        return [row for one in measured for row in one.rows()]

    _report("accuracy", measure, json, model=names, tokens=tokens, questions=questions)


@app.command("decode")
def decode_command(
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="CORE:MODEL", help="A model is a name, a directory, or 'random'."),
    ] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode.")] = 32,
    json: JsonOption = None,
) -> None:
    """Cycles per decoded token of the simulated gateware, against the fewest possible."""
    from .decode import SUBJECTS, run

    subjects = on or list(SUBJECTS)
    _report(
        "decode", lambda narrator: run(subjects, prompt, tokens, narrator.line), json,
        on=subjects, prompt=prompt, tokens=tokens,
    )  # fmt: skip


@app.command("skipping")
def skipping_command(
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CORE:MODEL",
            help="A model is a name, a directory, or a synthetic layer stack: 'stack' or 'kv'.",
        ),
    ] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode.")] = 8,
    context: Annotated[int, typer.Option(min=64, help="Longest context of the KV figures.")] = 512,
    json: JsonOption = None,
) -> None:
    """What skipped tokens, layers and modules still cost: cycles, KV words, weights."""
    from .skipping import SUBJECTS, run

    subjects = on or list(SUBJECTS)
    _report(
        "skipping", lambda narrator: run(subjects, prompt, tokens, context, narrator.line), json,
        on=subjects, prompt=prompt, tokens=tokens, context=context,
    )  # fmt: skip


@app.command("conversion")
def conversion_command(
    shape: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SHAPES)}; may be repeated.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Fewer layers than the shape has.")
    ] = None,
    gptq: Annotated[bool, typer.Option("--gptq", help="Instead of rounding to nearest.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where the temporary checkpoint and image are put.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Time and peak memory of converting a large checkpoint; needs its size on disk."""
    from .conversion import run

    shapes = shape or ["llama-3.2-1b"]
    method: Method = "gptq" if gptq else "rtn"

    def measure(narrator: Narrator) -> list[Row]:
        return run(shapes, layers=layers, method=method, folder=folder, progress=narrator.line)

    _report("conversion", measure, json, shape=shapes, layers=layers, method=method)


@app.command("estimate")
def estimate_command(
    core: Annotated[
        list[str] | None, typer.Option(help="Only the grid's points on this core; repeatable.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Fit the model's constants anew and store them.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """The cycle model against the simulated gateware; public models beside published machines."""
    from .estimate import run

    _report(
        "estimate",
        lambda narrator: run(cores=core, write=write, progress=narrator.line),
        json, core=core, write=write,
    )  # fmt: skip


@app.command("packing")
def packing_command(json: JsonOption = None) -> None:
    """LUTs, FFs and DSP blocks for each product, by how many share a multiplier."""
    from .packing import run

    _report("packing", lambda narrator: run(progress=narrator.line), json)


@app.command("resources")
def resources_command(
    board: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Units synthesized at the same time.")] = 1,
    json: JsonOption = None,
) -> None:
    """What each board's core takes of its device, by unit; logic levels."""
    from skipstone.spec.boards import BOARDS

    from .resources import run

    boards = board or list(BOARDS)
    _report("resources", lambda narrator: run(boards, jobs, narrator.step), json, board=boards)


@app.command("pynq")
def pynq_command(
    on: Annotated[str, typer.Option(metavar="CORE:MODEL")] = "sim-small:stories",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="The quickest one counts.")] = 5,
    json: JsonOption = None,
) -> None:
    """Tokens through the unmodified pynq package on the simulated board; its cost in time."""
    from .pynq_overhead import run

    _report(
        "pynq", lambda narrator: run(on, tokens, rounds, narrator.line), json,
        on=on, tokens=tokens, rounds=rounds,
    )  # fmt: skip


@app.command("ulx3s")
def ulx3s_command(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 8,
    netlist: Annotated[
        bool, typer.Option(help="Also run the synthesized netlist; takes many minutes.")
    ] = True,
    json: JsonOption = None,
) -> None:
    """The board's top level and its netlist over a simulated serial line, against golden."""
    from .ulx3s import run

    _report(
        "ulx3s", lambda narrator: run(tokens, with_netlist=netlist, progress=narrator.line), json,
        tokens=tokens, netlist=netlist,
    )  # fmt: skip


@app.command("netlist")
def netlist_command(
    core: Annotated[str, typer.Option(help="Core configuration.")] = "sim-tiny",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 8,
    json: JsonOption = None,
) -> None:
    """The core synthesized to UltraScale+ cells, against golden; many minutes the first time."""
    from .netlist import run

    _report(
        "netlist", lambda narrator: run(core, tokens, progress=narrator.line), json,
        core=core, tokens=tokens,
    )  # fmt: skip


@app.command("simulation")
def simulation_command(
    on: Annotated[
        list[str] | None, typer.Option(help="CORE:MODEL, may be repeated; three by default.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode.")] = 16,
    json: JsonOption = None,
) -> None:
    """Cycles simulated per second, before and after the Verilog is shaped for it."""
    from .simulation import SUBJECTS, run

    subjects = on or list(SUBJECTS)
    _report(
        "simulation", lambda narrator: run(subjects, tokens, progress=narrator.line), json,
        on=subjects, tokens=tokens,
    )  # fmt: skip


@app.command("layer")
def layer_command(
    shape: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SHAPES)}; may be repeated.")
    ] = None,
    core: Annotated[str, typer.Option(help="Core configuration.")] = "u280",
    context: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated.")] = None,
    chunk: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode for each figure.")] = 2,
    memory: Annotated[
        str | None, typer.Option(help="ideal, hbm2 or ddr4; by default the board's.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """A full-size decoder layer on a card's core, in RTL: bandwidth and array utilisation; slow."""
    from .layer import run

    shapes, contexts, chunks = shape or ["llama-2-7b"], context or [128], chunk or [64]

    def measure(narrator: Narrator) -> list[Row]:
        return run(
            shapes, core=core, contexts=contexts, chunks=chunks, tokens=tokens, memory=memory,
            progress=narrator.line,
        )  # fmt: skip

    _report(
        "layer", measure, json, shape=shapes, core=core, context=contexts, chunk=chunks,
        tokens=tokens, memory=memory,
    )  # fmt: skip


@app.command("fast")
def fast_command(
    on: Annotated[list[str] | None, typer.Option(metavar="NAME", help="stories or 1b.")] = None,
    group: Annotated[
        list[int] | None,
        typer.Option(help="Weights that share a scale, of the 1B shape; may be repeated."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode in a turn.")] = 16,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each engine.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of both engines; default: one per processor.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Speed of the fast device beside torch."""
    from .fast import SUBJECTS, run

    subjects, groups = on or list(SUBJECTS), group or [128]
    _report(
        "fast", lambda narrator: run(subjects, groups, tokens, turns, threads, narrator.line),
        json, on=subjects, group=groups, tokens=tokens, turns=turns, threads=threads,
    )  # fmt: skip


@app.command("soak")
def soak_command(
    words: Annotated[float, typer.Option(min=1, help="Words to compare on the fast device.")] = 1e8,
    rtl_words: Annotated[
        float, typer.Option(min=0, help="On the gateware; 0 leaves it out.")
    ] = 1e6,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    json: JsonOption = None,
) -> None:
    """Bits of golden, HLS C simulation, fast and rtl on random models."""
    from .soak import run

    _report(
        "soak", lambda narrator: run(words, rtl_words, seed, narrator.line), json,
        words=words, rtl_words=rtl_words, seed=seed,
    )  # fmt: skip


if __name__ == "__main__":
    app(prog_name="bench")
