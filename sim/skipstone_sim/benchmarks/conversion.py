"""Time and memory of turning a large checkpoint into an image.

A checkpoint of a public shape with random weights is made, converted by a process of its own, whose
peak memory the operating system counts, and deleted. Nothing depends on what the weights are.
"""

from __future__ import annotations

import dataclasses
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from skipstone.compiler import compile_to_file, plan_image
from skipstone.model import (
    SHIPPED,
    load_checkpoint,
    make_checkpoint,
    named_shape,
    parameter_count,
    resolve_model,
)
from skipstone.quant import Quantizer
from skipstone.quant.quantize import Method
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import RequestError
from skipstone.spec.image import Image

from .rows import Row

__all__ = ["CORE", "Conversion", "convert", "run"]

CORE = CoreConfig(
    name="conversion", rows=128, columns=32, lanes=8, ports=32, port_bits=512, group=128,
    max_hidden=8192, max_ffn=28672, max_query=8192, max_context=4096, max_chunk=64, min_head_dim=64,
    max_layers=64, max_program=1024,
)  # fmt: skip
"""A core of the width of an Alveo U280 that all the shapes fit."""


@dataclass(frozen=True)
class Conversion:
    """What one conversion took.

    Attributes
    ----------
    convert_s, load_s : float
        Seconds from checkpoint to image, and to map the image and verify its hashes.
    start_bytes, peak_bytes, load_peak_bytes : int
        Resident memory of the process before it began, and the most until the image was written,
        and until it was loaded.
    image_bytes : int
    """

    convert_s: float
    load_s: float
    start_bytes: int
    peak_bytes: int
    load_peak_bytes: int
    image_bytes: int


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def convert(
    directory: Path, image: Path, core: CoreConfig, method: Method, text: str | None
) -> Conversion:
    """Convert a checkpoint to an image file and load that, in this process."""
    start, begin = _peak_bytes(), time.perf_counter()
    source = Quantizer(load_checkpoint(directory), method, core.group, text)
    compile_to_file(source, core, image)
    converted, peak = time.perf_counter(), _peak_bytes()
    Image.load(image)
    return Conversion(
        convert_s=converted - begin,
        load_s=time.perf_counter() - converted,
        start_bytes=start,
        peak_bytes=peak,
        load_peak_bytes=_peak_bytes(),
        image_bytes=image.stat().st_size,
    )


def _rows(subject: str, parameters: int, made_s: float, c: Conversion) -> list[Row]:
    def row(figure: str, value: float, unit: str, aim: str = "") -> Row:
        return Row(figure=figure, value=value, unit=unit, kind="host", subject=subject, aim=aim)

    return [
        row("parameters", parameters / 1e9, "10⁹"),
        row("checkpoint_bytes", 2 * parameters / 1e9, "GB"),
        row("checkpoint_made_in", made_s, "s"),
        row("conversion_time", c.convert_s, "s"),
        row("conversion_speed", parameters / c.convert_s / 1e6, "10⁶ parameters/s"),
        row("conversion_peak_memory", c.peak_bytes / 1e9, "GB", aim="≤ 16"),
        row("conversion_start_memory", c.start_bytes / 1e9, "GB"),
        row("image_bytes", c.image_bytes / 1e9, "GB"),
        row("image_load_time", c.load_s, "s"),
        row("image_load_peak_memory", c.load_peak_bytes / 1e9, "GB"),
    ]


def run(
    shapes: Sequence[str],
    *,
    layers: int | None = None,
    method: Method = "rtn",
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Convert each of the named shapes; files lie in a temporary folder inside `folder`.

    `layers` makes fewer layers than the shape has. GPTQ calibrates on the text of the shipped
    model, byte by byte. Raises RequestError if the disk has no room.
    """
    text = None
    if method == "gptq":
        text = (resolve_model(SHIPPED[0]) / "calibration.txt").read_text(encoding="utf-8")
    out = []
    for name in shapes:
        shape = named_shape(name)
        if layers is not None:
            shape = dataclasses.replace(shape, layers=layers)
        parameters = parameter_count(shape)
        kept = sum(w for n, (_, w) in plan_image(shape, CORE).sections.items() if n != "kv")
        needed = 2 * parameters + kept * CORE.word_bytes
        with tempfile.TemporaryDirectory(dir=folder, prefix="skipstone-conversion-") as temporary:
            place = Path(temporary)
            free = shutil.disk_usage(place).free
            if needed > free:
                raise RequestError(f"{name} needs {needed:,} bytes of disk, {free:,} are free")
            if progress is not None:
                progress(f"making a checkpoint of {name}")
            begin = time.perf_counter()
            make_checkpoint(shape, place / "checkpoint")
            made_s = time.perf_counter() - begin
            if progress is not None:
                progress(f"converting {name}")
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                task = pool.submit(
                    convert, place / "checkpoint", place / "image", CORE, method, text
                )
                conversion = task.result()
        subject = f"{name}, {method}" if layers is None else f"{name}, {layers} layers, {method}"
        out += _rows(subject, parameters, made_s, conversion)
    return out
