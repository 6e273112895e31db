"""From Verilog to object files: runs Verilator, then the C++ compiler, without make.

The generated files are gathered into a few translation units of bounded size, compiled side by
side. The objects of Verilator's own runtime depend only on tools and flags: all models share them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from skipstone.cache import cached, content_key
from skipstone.spec.errors import ToolError

from .toolchain import find_compiler, find_verilator, run_tool

__all__ = [
    "HARNESS",
    "Flags",
    "Progress",
    "compile_units",
    "gather",
    "link",
    "runtime_objects",
    "tools_key",
    "verilate",
]

Progress = Callable[[str], None]

HARNESS = Path(__file__).with_name("harness")
"""Our own C++ sources."""

_UNIT_BYTES = 600_000
"""Generated source per translation unit: large enough that headers do not dominate."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What must agree between the generated code, the runtime and the harness.

    Parameters
    ----------
    optimize
        Options of the C++ compiler for generated code.
    vpi, trace
        Whether the model has VPI access and FST tracing.
    shared
        Whether it becomes a shared library, several of which may be loaded side by side.
    """

    optimize: tuple[str, ...] = ("-O2",)
    vpi: bool = False
    trace: bool = False
    shared: bool = False

    @property
    def compile(self) -> tuple[str, ...]:
        """Options of every compilation, without include paths and optimization."""
        trace = int(self.trace)
        shared: tuple[str, ...] = ()
        if self.shared:
            shared = ("-fvisibility=hidden", "-DVL_TIME_CONTEXT")
            shared += () if find_compiler().is_clang else ("-fno-gnu-unique",)
        return (
            *shared,
            "-std=c++17",
            "-fPIC",
            "-w",
            "-DVERILATOR=1",
            "-DVM_COVERAGE=0",
            "-DVM_SC=0",
            "-DVM_TIMING=0",
            f"-DVM_TRACE={trace}",
            f"-DVM_TRACE_FST={trace}",
            "-DVM_TRACE_VCD=0",
            "-DVM_TRACE_SAIF=0",
        )

    @property
    def verilator(self) -> tuple[str, ...]:
        """Options of Verilator."""
        return (*(("--vpi",) if self.vpi else ()), *(("--trace-fst",) if self.trace else ()))


_SLOW = "slow"
"""The unit of what runs only once, when a model is created; not optimized."""


def tools_key() -> str:
    """Identity of the tools and of how they are called: part of the key of everything they make."""
    recipe = Path(__file__).read_text()
    return content_key(find_verilator().version, find_compiler().identity, recipe)


def include_options() -> list[str]:
    """Where Verilator's headers are."""
    include = find_verilator().root / "include"
    return ["-I", str(include), "-I", str(include / "vltstd")]


def verilate(source: Path, *, top: str, out: Path, flags: Flags, options: Sequence[str]) -> None:
    """Run Verilator on `source`: C++ of class ``Vtop`` appears in folder `out`."""
    tool = find_verilator()
    run_tool(
        [
            tool.program, "--cc", "--Mdir", out, "--top-module", top, "--prefix", "Vtop",
            "--no-timing", "--timescale", "1ns/1ps", "--x-assign", "fast",
            "-Wno-fatal", "-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC", "-Wno-UNOPTFLAT",
            "-Wno-CASEINCOMPLETE",
            *flags.verilator, *options, source,
        ],
        env={**os.environ, "VERILATOR_ROOT": str(tool.root)},
    )  # fmt: skip


def link(
    objects: Sequence[Path], target: Path, *, flags: Flags, options: Sequence[str] = ()
) -> None:
    """Link objects and Verilator's runtime into a program, or a library if `flags` says so."""
    shared = ("-shared", "-Wl,-Bsymbolic") if flags.shared else ()
    inputs = (*objects, *runtime_objects(flags))
    find_compiler().make_linked(*shared, *inputs, "-o", target, *options, "-lpthread")


def gather(folder: Path, *, unit_bytes: int = _UNIT_BYTES) -> list[Path]:
    """Units that include the generated ``*.cpp`` of `folder`, large files first."""
    units: list[tuple[int, list[Path]]] = []
    paths = []
    slow = sorted(folder.glob("*__Slow.cpp"))
    fast = sorted(set(folder.glob("*.cpp")) - set(slow), key=lambda f: (-f.stat().st_size, f.name))
    for source in fast:
        size = source.stat().st_size
        for i, (total, members) in enumerate(units):
            if total + size <= unit_bytes:
                units[i] = (total + size, [*members, source])
                break
        else:
            units.append((size, [source]))
    named = [(f"unit_{i}", members) for i, (_, members) in enumerate(units)]
    for name, members in [*named, (_SLOW, slow)]:
        path = folder / f"{name}.cc"
        path.write_text("".join(f'#include "{member.name}"\n' for member in members))
        paths.append(path)
    return paths


def compile_units(
    sources: Sequence[Path],
    *,
    out: Path,
    flags: Flags,
    include: Sequence[Path] = (),
    progress: Progress | None = None,
    jobs: int | None = None,
) -> list[Path]:
    """Compile each source to an object in `out`, at most `jobs` (default: the cores) at a time."""
    compiler = find_compiler()
    includes = [word for folder in include for word in ("-I", str(folder))] + include_options()

    def one(source: Path) -> Path:
        target = out / f"{source.stem}.o"
        optimize = ("-O0",) if source.stem == _SLOW else flags.optimize
        compiler.make_object(*flags.compile, *optimize, *includes, "-c", source, "-o", target)
        return target

    pool = ThreadPoolExecutor(jobs or os.cpu_count() or 1)
    try:
        results = [pool.submit(one, source) for source in sources]
        for i, done in enumerate(as_completed(results), 1):
            done.result()
            if progress is not None:
                progress(f"compiling {i}/{len(sources)}")
    finally:
        pool.shutdown(cancel_futures=True)
    return [result.result() for result in results]


def runtime_objects(flags: Flags) -> list[Path]:
    """Objects of Verilator's runtime for `flags`, compiled once per machine."""
    names = ["verilated", "verilated_threads"]
    names += ["verilated_vpi"] if flags.vpi else []
    names += ["verilated_fst_c"] if flags.trace else []
    runtime = dataclasses.replace(flags, optimize=("-O2",))
    include = find_verilator().root / "include"

    def build(folder: Path) -> None:
        compile_units(
            [include / f"{name}.cpp" for name in names],
            out=folder,
            flags=runtime,
            include=[HARNESS / "fst"],
        )

    folder = cached("runtime", content_key(tools_key(), repr(runtime), *names), build)
    objects = [folder / f"{name}.o" for name in names]
    if missing := [str(o) for o in objects if not o.is_file()]:
        raise ToolError(
            f"the build cache is damaged, {missing[0]} is missing: delete {folder} and try again"
        )
    return objects
