"""Options that several commands take, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..build import build_image
from ..model import SHIPPED
from ..spec.config import CONFIGS, named_config
from ..spec.image import Image
from .console import Narrator

__all__ = [
    "CoreOption",
    "DeviceOption",
    "ImageArgument",
    "KvRuleChoice",
    "KvRuleOption",
    "MethodChoice",
    "MethodOption",
    "ModelOption",
    "RoutersOption",
    "make_image",
]


class MethodChoice(StrEnum):
    """How weights are rounded to int4."""

    rtn = "rtn"
    gptq = "gptq"


class KvRuleChoice(StrEnum):
    """What stands for the K and V of a token that skips attention."""

    kv_reuse = "kv_reuse"
    kv_recompute = "kv_recompute"


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help=f"{', '.join(SHIPPED)}, or a Hugging Face directory.", metavar="NAME"
    ),
]
RoutersOption = Annotated[
    str | None,
    typer.Option(
        help="Router file, NAME of routers-NAME.safetensors, or 'none' for a dense model; "
        "by default the model's own."
    ),
]
KvRuleOption = Annotated[
    KvRuleChoice | None, typer.Option(help="By default the rule the routers were trained with.")
]
MethodOption = Annotated[MethodChoice, typer.Option(help="How weights are rounded to int4.")]
CoreOption = Annotated[
    str, typer.Option("--core", help=f"Core configuration: {', '.join(CONFIGS)}.", metavar="NAME")
]
DeviceOption = Annotated[
    str, typer.Option("--device", "-d", help="Device to run on; see `skipstone devices`.")
]
ImageArgument = Annotated[
    Path | None,
    typer.Argument(help="Image file; without it, the model is compiled.", show_default=False),
]


def make_image(
    narrator: Narrator,
    path: Path | None,
    model: str,
    core: str,
    routers: str | None,
    kv_rule: KvRuleChoice | None,
    method: MethodChoice,
) -> Image:
    """The image in file `path`, or that of `model`, compiled or from the cache."""
    if path is not None:
        return Image.load(path)
    return build_image(
        model,
        named_config(core),
        routers=routers,
        kv_rule=None if kv_rule is None else kv_rule.value,
        method=method.value,
        progress=narrator.step,
    )
