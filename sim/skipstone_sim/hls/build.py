"""Compiles the HLS sources into libraries, once per configuration, sources and compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from skipstone.cache import cached, content_key
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import ToolError
from skipstone.spec.headers import config_header

from ..toolchain import find_compiler
from .kernel import kernel_source

__all__ = ["Kind", "ap_types", "build_library", "sources"]

Progress = Callable[[str], None]


class Kind(Enum):
    """What the sources become."""

    AP_INT = "ap-int"
    """The kernel on AMD's ap_int and hls::stream."""
    NATIVE = "native"
    """The kernel on the machine's integers."""
    FAST = "fast"
    """The fast engine, for this machine's processor."""


_WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
"""Where there are vectors of 512 bits: elementwise loops run 1.5 times as fast."""

_OPTIONS = {
    Kind.AP_INT: ("-O1", "-DSKIPSTONE_AP_INT"),
    Kind.NATIVE: ("-O2",),
    Kind.FAST: (
        "-O3", "-march=native", *_WIDE, "-fno-math-errno", "-fno-trapping-math", "-DSKIPSTONE_FAST",
    ),
}  # fmt: skip


def sources() -> Path:
    """The folder of the HLS sources: of the repository, or of the installed package."""
    here = Path(__file__)
    places = (here.parents[3] / "hls", here.parents[2] / "skipstone_hls")
    for folder in places:
        if (folder / "skipstone" / "core.hpp").is_file():
            return folder
    raise ToolError(f"the HLS sources were not found in {' or '.join(map(str, places))}")


def ap_types() -> Path:
    """AMD's ap_int headers: ``$SKIPSTONE_AP_TYPES``, or those that the hls4ml wheel carries.

    Raises ToolError if there are none.
    """
    if override := os.environ.get("SKIPSTONE_AP_TYPES"):
        folder = Path(override)
    else:
        spec = importlib.util.find_spec("hls4ml")  # found, not imported: it wants its dependencies
        if spec is None or spec.origin is None:
            raise ToolError(
                "AMD's ap_int headers were not found: install them with `pip install --no-deps "
                "hls4ml`, or point SKIPSTONE_AP_TYPES at a folder that holds ap_int.h"
            )
        folder = Path(spec.origin).parent / "templates" / "vivado" / "ap_types"
    if not (folder / "ap_int.h").is_file():
        raise ToolError(f"SKIPSTONE_AP_TYPES must be a folder that holds ap_int.h, not {folder}")
    return folder


def build_library(
    config: CoreConfig, kind: Kind, *, progress: Progress | None = None
) -> ctypes.CDLL:
    """The library of `config`, compiled if it is not in the cache."""
    folder = sources()
    compiler = find_compiler()
    include = [folder, ap_types()] if kind is Kind.AP_INT else [folder]
    options = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-w", "-ffp-contract=off")
    files = sorted(path for path in folder.rglob("*.[ch]pp"))
    texts = [part for path in files for part in (str(path.relative_to(folder)), path.read_text())]
    generated = {"config.hpp": config_header(config), "kernel.cpp": kernel_source(config)}

    def build(out: Path) -> None:
        if progress is not None:
            progress(f"compiling the {kind.value} engine")
        for name, text in generated.items():
            (out / name).write_text(text)
        units = [folder / "fast" / "engine.cpp"]
        if kind is not Kind.FAST:
            units = [folder / "csim.cpp", out / "kernel.cpp"]
        includes = [word for path in (out, *include) for word in ("-I", str(path))]
        objects = [out / f"{unit.stem}.o" for unit in units]
        for unit, target in zip(units, objects, strict=True):
            flags = (*options, *_OPTIONS[kind], *includes)
            compiler.make_object(*flags, "-c", unit, "-o", target)
        target = out / "engine.so"
        compiler.make_linked("-shared", "-Wl,-Bsymbolic", *objects, "-o", target, "-lpthread")
        for target in objects:
            target.unlink()

    parts = [kind.value, *map(str, include), *options, *_OPTIONS[kind], compiler.identity]
    key = content_key(*parts, *texts, *generated.values(), Path(__file__).read_text())
    return ctypes.CDLL(str(cached("hls", key, build) / "engine.so"))
