"""``skipstone compile``: a model into an image file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..spec.config import named_config
from .console import Narrator, output
from .inspect import section_table
from .options import (
    CoreOption,
    KvExpectedSkipOption,
    KvRuleOption,
    MethodChoice,
    MethodOption,
    ModelOption,
    RoutersOption,
    make_image,
)

__all__ = ["compile_command"]


def compile_command(
    model: ModelOption = "stories",
    core: CoreOption = "sim-small",
    output_path: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; MODEL-CORE.skipstone by default."),
    ] = None,
    routers: RoutersOption = None,
    kv_rule: KvRuleOption = None,
    quantizer: MethodOption = MethodChoice.rtn,
    kv_expected_skip: KvExpectedSkipOption = "0",
) -> None:
    """Compile a model into an image file."""
    named_config(core)
    with Narrator() as narrator:
        image = make_image(
            narrator, None, model, core, routers, kv_rule, quantizer, kv_expected_skip
        )
    path = output_path or Path(f"{image.model['name']}-{core}.skipstone")
    image.save(path)
    console = output()
    console.print(section_table(image))
    console.print(f"{path}: {path.stat().st_size:,} bytes")
