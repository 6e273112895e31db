"""Options that several commands take, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..build import build_image
from ..compiler import ExpectedSkip
from ..model import SHIPPED
from ..spec.config import CONFIGS, named_config
from ..spec.errors import RequestError
from ..spec.image import Image
from .console import Narrator

__all__ = [
    "CoreOption",
    "DeviceOption",
    "ImageArgument",
    "KvExpectedSkipOption",
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
KvExpectedSkipOption = Annotated[
    str,
    typer.Option(
        "--kv-expected-skip",
        help="Share of the tokens that skip attention, or one for each layer, with commas: KV "
        "stores get room for the others and a margin.",
        metavar="SHARES",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", "-d", help="Device to run on; see `skipstone devices`.")
]
ImageArgument = Annotated[
    Path | None,
    typer.Argument(help="Image file; without it, the model is compiled.", show_default=False),
]


def _expected_skip(text: str) -> ExpectedSkip:
    """One number, or several between commas."""
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        raise RequestError(
            f"--kv-expected-skip must be numbers with commas between them, not {text!r}"
        ) from None
    return shares[0] if len(shares) == 1 else shares


def make_image(
    narrator: Narrator,
    path: Path | None,
    model: str,
    core: str,
    routers: str | None,
    kv_rule: KvRuleChoice | None,
    method: MethodChoice,
    kv_expected_skip: str = "0",
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
        kv_expected_skip=_expected_skip(kv_expected_skip),
        progress=narrator.step,
    )
