"""``skipstone checkpoint``: a model of a public shape with random weights and routers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..model import SHAPES, make_checkpoint, named_shape, parameter_count
from .console import Narrator, output

__all__ = ["checkpoint_command"]


def checkpoint_command(
    shape: Annotated[str, typer.Argument(help=f"One of {', '.join(SHAPES)}.", metavar="SHAPE")],
    directory: Annotated[Path, typer.Argument(help="Folder to make; must not exist.")],
    layers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Make so many layers only.")
    ] = None,
    skip: Annotated[
        float, typer.Option(help="Share of executions the routers skip; 0: no routers.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Of all numbers.")] = 0,
    shard_mb: Annotated[int, typer.Option(min=1, help="Largest file, in MB of weights.")] = 2000,
) -> None:
    """Make a Hugging Face directory of a public model's shape, filled at random."""
    found = named_shape(shape)
    if layers is not None:
        found = dataclasses.replace(found, layers=layers)
    with Narrator() as narrator:
        make_checkpoint(
            found,
            directory,
            skip=skip or None,
            seed=seed,
            shard_bytes=shard_mb * 1_000_000,
            progress=narrator.step,
        )
    size = sum(path.stat().st_size for path in directory.iterdir())
    output().print(f"{directory}: {parameter_count(found):,} parameters, {size:,} bytes")
