"""``skipstone inspect``: what is in an image."""

from __future__ import annotations

from rich.table import Table

from ..spec.image import Image
from .console import Narrator, make_table, output
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

__all__ = ["inspect", "section_table"]


def section_table(image: Image) -> Table:
    """One row a section: place and size."""
    table = make_table("section", "address", "words", "bytes in file", "bytes in memory",
                       right=(1, 2, 3, 4))  # fmt: skip
    for s in image.sections.values():
        table.add_row(
            s.name,
            f"{s.address:#x}",
            f"{s.words:,}",
            f"{s.data.size:,}",
            f"{s.words * image.config.word_bytes:,}",
        )
    stored = sum(int(s.data.size) for s in image.sections.values())
    table.add_row(
        "all", "", f"{image.words:,}", f"{stored:,}", f"{image.words * image.config.word_bytes:,}"
    )
    return table


def inspect(
    image_path: ImageArgument = None,
    model: ModelOption = "stories",
    core: CoreOption = "sim-small",
    routers: RoutersOption = None,
    kv_rule: KvRuleOption = None,
    quantizer: MethodOption = MethodChoice.rtn,
) -> None:
    """Show an image's header and sections; every checksum is verified."""
    with Narrator() as narrator:
        image = make_image(narrator, image_path, model, core, routers, kv_rule, quantizer)
    c = image.config
    console = output()
    console.print(f"core {c.name} ({c.hash64:016x})")
    console.print(
        f"  array {c.rows} × {c.columns}, {c.lanes} lanes, {c.ports} ports of {c.port_bits} bits, "
        f"words of {c.word_bytes} bytes, group {c.group}, {c.clock_mhz:g} MHz"
    )
    console.print(f"model {image.model.get('name')}")
    for name, value in sorted(image.model.items()):
        if name != "name":
            console.print(f"  {name} {value}", markup=False)
    console.print(section_table(image))
