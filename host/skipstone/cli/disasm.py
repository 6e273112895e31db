"""``skipstone disasm``: an image's program as text."""

from __future__ import annotations

import numpy as np
import typer

from ..spec.errors import ImageError
from ..spec.image import Image
from ..spec.isa import INSTRUCTION_BYTES, decode_program, disassemble
from .console import Narrator
from .options import (
    CoreOption,
    ImageArgument,
    KvRuleOption,
    MethodChoice,
    MethodOption,
    ModelOption,
    RoutersOption,
    make_image,
)

__all__ = ["disasm", "program_text"]


def program_text(image: Image) -> str:
    """The image's program, one line an instruction. Raises ImageError if it is malformed."""
    if "program" not in image.sections:
        raise ImageError("the image has no section program")
    data = np.asarray(image.sections["program"].data).tobytes()
    size = int(image.model["program_length"]) * INSTRUCTION_BYTES
    if size > len(data):
        raise ImageError(f"the program needs {size} bytes, its section has {len(data)}")
    return disassemble(decode_program(data[:size]))


def disasm(
    image_path: ImageArgument = None,
    model: ModelOption = "stories",
    core: CoreOption = "sim-small",
    routers: RoutersOption = None,
    kv_rule: KvRuleOption = None,
    quantizer: MethodOption = MethodChoice.rtn,
) -> None:
    """Disassemble the program of an image."""
    with Narrator() as narrator:
        image = make_image(narrator, image_path, model, core, routers, kv_rule, quantizer)
    typer.echo(program_text(image))
